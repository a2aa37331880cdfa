"""The compose files on a real engine: faults of containers and of their network, down and up again, more nodes."""

import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from peerjob import Client, Instance, Query, State
from support.fault_jobs import noted
from support.fires import fired_until, outcomes, settled
from support.journal import Run, check_one_owner, read_journal
from support.peers import check_histories, everything
from support.stack import Container, MakeStack, Stack
from support.waiting import until

pytestmark = pytest.mark.compose

RUNS = "/journal/runs"
"""Where the bodies write down their runs, in their containers."""
JOBS = 2000
LONG = 60.0
"""Seconds that anything may take on a machine that does much else; no invariant is about it."""


@pytest.mark.timeout(1200)
async def test_faults_of_containers_lose_and_double_nothing(stack: MakeStack) -> None:
    """The leader is killed, a node paused, the next leader cut off, without etcd's first leader; then down and up."""
    up, chance, ended_us = stack("docker-compose.yml"), random.Random(7), dict[str, int]()
    async with up.client() as client:
        seconds = chance.choices([0.05, 0.5, 1.0, 3.0], k=JOBS)
        scheduled = await client.schedule_many(noted.call(RUNS, each) for each in seconds)
        killed = await leader(up, client)
        await busy(client, killed)
        up.docker("kill", killed.id)
        ended_us[killed.host] = time.time_ns() // 1000
        await missed(client, killed)
        await fires_on(client)
        up.docker("rm", killed.id)
    up.up()

    async with up.client() as client:
        up.compose("stop", up.etcd_leader())
        paused = await follower(up, client)
    async with up.client(without=paused) as client:
        await busy(client, paused)
        up.docker("pause", paused.id)
        ended_us[paused.host] = time.time_ns() // 1000
        await missed(client, paused)
        up.docker("unpause", paused.id)
        await back(client, paused)
        await fires_on(client)
        cut_off = await leader(up, client)

    async with up.client(without=cut_off) as client:
        # they outlast the lease, and go first when they are taken back
        urgent = noted.with_options(priority=0)
        long = await client.schedule_many(urgent.call(RUNS, LONG / 2) for _ in range(9))
        scheduled += long
        held: set[str] = set()
        await until(lambda: holds(client, cut_off, long, held), LONG)
        up.cut_off(cut_off)
        await missed(client, cut_off)
        await until(lambda: begun_elsewhere(up, cut_off, held), LONG)
        await fires_on(client)
        assert await client.count(Query(state=State.ACTIVE)) > 100
        up.reconnect(cut_off)
        await back(client, cut_off)
        await busy(client, cut_off)
    up.up()

    async with up.client() as client:
        ledgers = await settled(client, timeout=5 * LONG)
        ended = [one for one in await everything(client) if one.kind == noted.kind]
        runs = read_journal(up.journal)
        await check_ended(ended, scheduled, runs)
        # what was cut off is not excused: it ends its bodies before its peers may take over
        check_one_owner(runs, lambda run: ended_us.get(run.host))
        again = [before.host for each in runs.values() for before in each[:-1]]
        print(f"\n{len(ended)} instances, run again: {Counter(again)}")
        assert cut_off.host not in ended_us
        assert {killed.host, paused.host, cut_off.host} <= set(again)
        print(f"fires: {dict(outcomes(ledgers['tick']))}")

        later = await client.schedule_many(noted.call(RUNS, 1.0) for _ in range(300))
        await client.resume_schedule("tick")
        await busy(client, up.containers()[0])
    up.compose("down")
    assert up.containers() == []
    up.up()

    async with up.client() as client:
        ledgers = await settled(client, timeout=5 * LONG)
        ended = [one for one in await everything(client) if one.kind == noted.kind]
        await check_ended(ended, [*scheduled, *later], read_journal(up.journal))
        print(f"fires after down and up: {dict(outcomes(ledgers['tick']))}")


@pytest.mark.timeout(600)
async def test_more_nodes_join_and_prometheus_finds_them(stack: MakeStack) -> None:
    up = stack("docker-compose.yml")
    up.up("--scale", "node=5")
    hosts = {one.host for one in up.containers()}
    assert len(hosts) == 5
    async with up.client() as client:
        assert {view.info.name for view in await client.nodes()} == hosts
        await client.schedule_many(noted.call(RUNS, 0.2) for _ in range(200))
        await settled(client)
        assert {run.host for each in read_journal(up.journal).values() for run in each} == hosts

    async def found() -> bool:
        query = 'sum(up{job="peerjob"})'
        command = ("promtool", "query", "instant", "--format", "json", "http://127.0.0.1:9090", query)
        said = json.loads(up.compose("exec", "--no-TTY", "prometheus", *command))
        return [value for one in said for value in one["value"][1:]] == ["5"]

    await until(found, LONG)
    assert up.compose("run", "--rm", "ctl", "list", "nodes").count("\n") == 6


@pytest.mark.timeout(600)
@pytest.mark.parametrize("file", ["docker-compose.etcd.yml", "docker-compose.redis.yml"])
async def test_one_store_alone_will_do(stack: MakeStack, file: str) -> None:
    up = stack(file)
    async with up.client() as client:
        scheduled = await client.schedule_many(noted.call(RUNS, 0.5) for _ in range(200))
        killed = await leader(up, client)
        await busy(client, killed)
        up.docker("kill", killed.id)
        killed_us = time.time_ns() // 1000
        await settled(client, timeout=LONG)
        ended = [one for one in await everything(client) if one.kind == noted.kind]
        runs = read_journal(up.journal)
        await check_ended(ended, scheduled, runs)
        check_one_owner(runs, lambda run: killed_us if run.host == killed.host else None)

        later = await client.schedule_many(noted.call(RUNS, 0.5) for _ in range(100))
    up.compose("down")
    up.up()
    async with up.client() as client:
        await client.wait(timeout=LONG)
        ended = [one for one in await everything(client) if one.kind == noted.kind]
        await check_ended(ended, [*scheduled, *later], read_journal(up.journal))


async def check_ended(
    ended: Sequence[Instance[Any]], scheduled: Sequence[Instance[Any]], runs: dict[str, list[Run]]
) -> None:
    """NO-LOSS, and ONE-OWNER: the accepted outcome is that of the latest claim, and its body ran to its end."""
    assert {one.id for one in ended} == {one.id for one in scheduled}
    assert {one.state for one in ended} == {State.COMPLETED}
    check_histories(ended)
    for one in ended:
        latest = runs[one.id][-1]
        assert await one.result() == one.fence == latest.fence
        assert latest.end_us is not None
        assert one.attempts == 1


async def missed(client: Client, node: Container) -> None:
    """Wait until the peers have taken a node for dead, and its work back: till then its lease may be renewed."""

    async def look() -> bool:
        gone = node.host not in [view.info.name for view in await client.nodes()]
        return gone and not await running_on(client, node)

    await until(look, LONG)


async def back(client: Client, node: Container) -> None:
    """Wait until a node is one of the peers again."""

    async def look() -> bool:
        return node.host in [view.info.name for view in await client.nodes()]

    await until(look, LONG)


async def leader(up: Stack, client: Client) -> Container:
    """Wait for a leader that runs, and return its container."""
    running = up.containers()
    found: list[Container] = []

    async def look() -> bool:
        nonlocal found
        leads = await client.leader()
        found = [one for one in running if leads is not None and leads.name == one.host]
        return bool(found)

    await until(look, LONG)
    return found[0]


async def follower(up: Stack, client: Client) -> Container:
    """The container of a node that does not lead."""
    first = await leader(up, client)
    return next(one for one in up.containers() if one != first)


async def holds(client: Client, node: Container, instances: Sequence[Instance[Any]], held: set[str]) -> bool:
    """Whether a node runs any of these; `held` takes which."""
    running = {one.id for one in await running_on(client, node)}
    held |= running & {one.id for one in instances}
    return bool(held)


async def begun_elsewhere(up: Stack, node: Container, held: set[str]) -> bool:
    """Whether an instance that the node held began on another node, according to the journal."""
    runs = read_journal(up.journal)
    return any(run.host != node.host for id in held for run in runs[id])


async def fires_on(client: Client) -> None:
    """Wait until the schedule fires again, which takes a leader that is alive."""
    await fired_until(client, "tick", client.clock.time_us(), timeout=LONG)


async def busy(client: Client, node: Container, count: int = 5) -> None:
    """Wait until a node runs so many instances."""

    async def look() -> bool:
        return len(await running_on(client, node)) >= count

    await until(look, LONG)


async def running_on(client: Client, node: Container) -> list[Instance[Any]]:
    query = Query(state=State.PROCESSING, limit=1000)
    return [one async for one in client.iter_instances(query) if one.node == node.host]
