"""A store that goes away and comes back: the same nodes continue, and no node is declared dead."""

import asyncio
from pathlib import Path

import pytest

from peerjob import Query, State
from support.division import in_matrix
from support.fault_jobs import work
from support.peers import TTL, check_histories, everything, peers
from support.servers import ServerKind, ServerProcess, StartServer
from support.waiting import PATIENCE, until


@pytest.mark.parametrize("durable_server", ["redis", "valkey", in_matrix("etcd")], indirect=True)
async def test_the_backlog_is_drained_after_the_server_was_killed_and_restarted(
    durable_server: ServerProcess, namespace: str, tmp_path: Path
) -> None:
    server = durable_server
    async with peers(server.url, namespace, tmp_path) as group:
        nodes = [group.start(name=f"node-{number}", workers=5) for number in range(2)]
        scheduled = await group.client.schedule_many(work.call(number, 0.05) for number in range(600))
        await group.running(2)
        server.kill()
        server.start()
        late = await group.client.schedule_many(work.call(number, 0.0) for number in range(600, 650))

        await group.client.wait(timeout=PATIENCE)
        ended = await everything(group.client)

        assert {one.id for one in ended} == {one.id for one in (*scheduled, *late)}
        assert all(one.state == State.COMPLETED for one in ended)
        check_histories(ended)
        assert all(node.running for node in nodes)


@pytest.mark.matrix("a long fault; shorter ones have the same promises")
@pytest.mark.parametrize("durable_server", ["redis", "valkey", "etcd"], indirect=True)
async def test_an_outage_longer_than_the_lease_reaps_no_node(
    durable_server: ServerProcess, namespace: str, tmp_path: Path
) -> None:
    server = durable_server
    async with peers(server.url, namespace, tmp_path) as group:
        for number in range(2):
            group.start(name=f"node-{number}", workers=10)
        await group.client.schedule_many(work.call(number, 1.0) for number in range(60))
        await group.running(20)
        server.kill()
        await asyncio.sleep(TTL + 2)  # the outage itself; nothing is waited for
        server.start()

        await group.client.wait(timeout=PATIENCE)
        ended = await everything(group.client)

        assert [one.state for one in ended] == [State.COMPLETED] * 60
        assert [(one.crashes, one.losses, one.attempts) for one in ended] == [(0, 0, 1)] * 60
        check_histories(ended)


@pytest.mark.parametrize("kind", ["redis", "valkey"])
async def test_a_server_that_loses_its_last_second_leaves_a_legal_past(
    kind: ServerKind, start_server: StartServer, namespace: str, tmp_path: Path
) -> None:
    """AOF everysec: what was acknowledged may be gone, but what is left is a whole and legal prefix, and is drained."""
    server = start_server(kind, appendonly=True, config=("--appendfsync", "everysec"))
    async with peers(server.url, namespace, tmp_path) as group:
        nodes = [group.start(name=f"node-{number}", workers=5) for number in range(2)]
        scheduled = await group.client.schedule_many(work.call(number, 0.02) for number in range(800))

        async def in_the_middle() -> bool:
            return await group.client.count(Query(state=State.FINAL)) >= 200

        await until(in_the_middle)
        server.kill()
        # cut the file as a lost second would: the server itself reads only whole commands from it
        aof = max(server.files("appendonlydir/*.incr.aof"), key=lambda file: file.stat().st_size)
        with aof.open("r+b") as file:
            file.truncate(int(aof.stat().st_size * 0.97))
        server.start()

        await group.client.wait(timeout=PATIENCE)
        ended = await everything(group.client)
        assert {one.id for one in ended} <= {one.id for one in scheduled}
        assert len(ended) > 400
        assert {one.state for one in ended} == {State.COMPLETED}
        check_histories(ended)
        assert all(one.attempts == 1 for one in ended)
        assert all(node.running for node in nodes)
        for one in ended:
            assert (await one.result())[1] == one.fence


@pytest.mark.parametrize("durable_server", ["redis", "valkey", in_matrix("etcd")], indirect=True)
async def test_a_server_that_hangs_and_goes_on_loses_nothing(
    durable_server: ServerProcess, namespace: str, tmp_path: Path
) -> None:
    server = durable_server
    async with peers(server.url, namespace, tmp_path) as group:
        nodes = [group.start(name=f"node-{number}", workers=5) for number in range(2)]
        scheduled = await group.client.schedule_many(work.call(number, 0.01) for number in range(1000))
        await group.running(2)
        server.pause()
        await asyncio.sleep(TTL + 2)  # longer than the lease; nothing is waited for
        server.resume()

        await group.client.wait(timeout=PATIENCE)
        ended = await everything(group.client)
        assert {one.id for one in ended} == {one.id for one in scheduled}
        assert {one.state for one in ended} == {State.COMPLETED}
        assert {(one.attempts, one.crashes) for one in ended} == {(1, 0)}
        check_histories(ended)
        assert all(node.running for node in nodes)
