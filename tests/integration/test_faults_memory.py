"""A server that runs out of memory: no new work is taken, and the work under way is finished all the same."""

from pathlib import Path

import pytest

from peerjob import Instance, Query, State, StoreFullError
from support.fault_jobs import held, work
from support.peers import check_histories, everything, peers
from support.servers import ServerKind, StartServer
from support.waiting import PATIENCE


@pytest.mark.parametrize("kind", ["redis", "valkey"])
async def test_a_full_server_refuses_new_work_and_finishes_the_old(
    kind: ServerKind, start_server: StartServer, namespace: str, tmp_path: Path
) -> None:
    server = start_server(kind, maxmemory="16mb", policy="noeviction")
    async with peers(server.url, namespace, tmp_path) as group:
        node = group.start(workers=10)
        running = await group.client.schedule_many(held.call(str(tmp_path / "go")) for _ in range(5))
        await group.running(5)
        backlog: list[Instance[list[object]]] = []

        async def fill() -> None:
            while True:
                backlog.append(await group.client.schedule(work.with_options(after=0.5), 1, 0.0))
                await group.client.schedule("filler", "x" * 100_000, allow_unknown=True)

        # the server counts its buffers as well, so more can fit after the first refusal
        for _ in range(2):
            with pytest.raises(StoreFullError):
                await fill()
        fillers = await group.client.count(Query(kind="filler"))
        assert len(backlog) - fillers in (0, 1, 2)  # what was refused has left nothing behind

        (tmp_path / "go").touch()
        for one in running:
            assert await one.result(timeout=PATIENCE) == node.pid
        await group.client.wait(Query(kind="work"), timeout=PATIENCE)
        assert {(await one.refresh()).state for one in backlog} == {State.COMPLETED}
        check_histories(await everything(group.client))
        assert node.running

        # and once there is room, new work is taken again
        assert len(await group.client.cancel_instances(Query(kind="filler"))) == fillers
        await group.client.clear_instances()
        assert (await (await group.client.schedule(work, 7, 0.0)).result(timeout=PATIENCE))[0] == 7
