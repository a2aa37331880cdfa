"""Schedules on real servers: what was promised on virtual time."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Any

import pytest

from peerjob import FireEntry, FireOutcome, Job, Node, Query
from support.fires import late
from support.server_stalls import ServerStalls
from support.stalls import Stalls
from support.waiting import PATIENCE, until

StartNode = Callable[..., Any]


async def nothing() -> None:
    pass


TICK = Job("tick", nothing, cron="* * * * * *", overlap="allow")


@pytest.fixture(params=["redis", "etcd"])
def site(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Where nodes keep their work, and elect their leader."""
    return {"store": request.getfixturevalue(f"{request.param}_url")}


@pytest.fixture
async def start_node(site: dict[str, Any], namespace: str) -> AsyncIterator[StartNode]:
    """To be called with jobs and options of a node; the nodes stop with the test."""
    async with AsyncExitStack() as nodes:

        async def start(*jobs: Any, **options: Any) -> Node:
            return await nodes.enter_async_context(Node(jobs=jobs, namespace=namespace, **site, **options))

        yield start


async def account(node: Node) -> list[FireEntry]:
    """The ledger, oldest first; every nominal second from the first to the last must be in it, once."""
    fires = [entry for entry in await node.fires("tick", limit=1000) if not entry.ongoing][::-1]
    seconds = [
        entry.nominal + timedelta(seconds=number)
        for entry in fires
        for number in range(entry.count)  # a stretch of every second has no holes
    ]
    assert seconds == [seconds[0] + timedelta(seconds=number) for number in range(len(seconds))]
    return fires


async def test_every_second_fires_once_on_several_nodes_and_over_rolling_restarts(
    start_node: StartNode, site: dict[str, Any], namespace: str
) -> None:
    with ServerStalls(site["store"]) as watched, Stalls(others=watched.spans) as stalls:
        stay = await start_node(TICK, name="stay")
        rolling = [Node(jobs=[TICK], name=f"rolling-{number}", namespace=namespace, **site) for number in range(2)]
        for node in rolling:
            await node.start()
        await until(lambda: _at_least(stay, 2))
        for node in (stay, *rolling):
            await node.stop(grace=1)
            await asyncio.sleep(1.2)
            await node.start()
        await asyncio.sleep(1.2)
        for node in rolling:
            await node.stop()
        await stay.pause_schedule("tick")  # none fires between the two looks
        fires = await account(stay)
    assert max(late(entry, stalls) for entry in fires) < 1
    assert {entry.outcome for entry in fires} <= {FireOutcome.FIRED, FireOutcome.COALESCED}
    instances = await stay.lookup_instances(Query(kind="tick", limit=1000))
    assert {one.id for one in instances} == {entry.instance_id for entry in fires} - {None}
    assert set(Counter(one.nominal_at for one in instances).values()) == {1}


async def test_the_verbs_of_a_schedule_work_from_any_node(start_node: StartNode) -> None:
    job = Job("greet", lambda who: f"hello, {who}")
    one, other = await start_node(job, name="one"), await start_node(job, name="other", workers=0)
    schedule = await one.add_schedule(job.with_options(every="100ms", overlap="allow", name="often"), "world")
    await until(lambda: _at_least(other, 3, "often"))
    paused = await other.pause_schedule("often", "enough")
    await asyncio.sleep(0.55)
    going, last, *_ = await schedule.fires(limit=1000)
    assert (going.ongoing, going.nominal) == (True, paused.next_at)
    assert last.outcome in (FireOutcome.FIRED, FireOutcome.COALESCED), "several times are one fire of a late leader"
    assert (await schedule.refresh()).note == "enough"
    by_hand = await schedule.trigger()
    assert by_hand is not None
    assert await by_hand.result(timeout=PATIENCE) == "hello, world"
    missed = await other.backfill("often", paused.updated_at, paused.updated_at + timedelta(seconds=0.4))
    assert (missed.times, missed.made) == (4, 4)
    await paused.resume()
    over, *_ = [entry for entry in await other.fires("often", limit=1000) if entry.outcome is FireOutcome.PAUSED]
    assert (over.nominal, over.reason) == (going.nominal, "enough")
    await until(lambda: _fired_after(one, over.until or over.nominal))
    leader = await other.leader()
    assert leader is not None
    assert leader.name in ("one", "other")
    assert await one.leader() == leader
    assert await schedule.remove()
    assert await other.schedules() == []


async def _at_least(node: Node, number: int, name: str = "tick") -> bool:
    return len(await node.fires(name, limit=1000)) >= number


async def _fired_after(node: Node, moment: datetime) -> bool:
    return any(entry.outcome is FireOutcome.FIRED for entry in await node.fires("often", after=moment))
