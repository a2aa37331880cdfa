"""Durable bodies on a cluster under virtual time: waits of days take no time, and killed nodes lose no step."""

import asyncio
import time
from collections import Counter

import pytest

from peerjob import INJECTED, Context, Job, Signal, SignalTimeout, State
from peerjob.testing import TestCluster

APPROVAL = Signal("approval", bool)
CALLS = Counter[str]()


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    CALLS.clear()


async def charge(name: str) -> str:
    CALLS[name] += 1
    await asyncio.sleep(1)
    return name


async def approve(context: Context = INJECTED) -> str:
    CALLS["approve"] += 1
    await context.step("charge", charge, "charge")
    try:
        return f"approved: {await context.wait_for(APPROVAL, timeout='7d')}"
    except SignalTimeout:
        await context.suspend("cool-down", "30d")
        return "late"


async def pack(item: int) -> int:
    CALLS["pack"] += 1
    await asyncio.sleep(60)
    return item


PACK = Job("pack", pack)


async def order(context: Context = INJECTED) -> list[int]:
    await context.step("charge", charge, "charge")
    return await context.map("packs", [PACK.call(item) for item in range(6)])


async def test_a_wait_of_weeks_takes_a_moment() -> None:
    job = Job("approve", approve)
    async with TestCluster(nodes=2, jobs=[job]) as cluster:
        late, soon = await cluster.schedule(job), await cluster.schedule(job)
        await cluster.advance("1m")
        began = time.perf_counter()
        await cluster.advance("5d")
        assert await cluster.nodes[0].signal(soon, APPROVAL, True)
        assert await soon.result("1m") == "approved: True"
        assert await late.result("40d") == "late"
        print(f"37 days took {time.perf_counter() - began:.2f} s")
        assert CALLS == {"approve": 5, "charge": 2}
        cluster.assert_completed(late, attempts=1)


async def test_a_crash_in_a_wait_does_not_extend_it() -> None:
    job = Job("approve", approve)
    async with TestCluster(nodes=2, jobs=[job]) as cluster:
        instance = await cluster.schedule(job)
        await cluster.advance("6d")
        begin = cluster.clock.elapsed()
        for node in cluster.nodes:
            await cluster.kill(node)
            await cluster.restart(node.name)
        assert await instance.result("40d") == "late"
        assert cluster.clock.elapsed() - begin < (1 + 30) * 86_400 + 60


@pytest.mark.parametrize("seed", range(3))
async def test_children_and_steps_survive_crashes_of_their_nodes(seed: int) -> None:
    job = Job("order", order)
    async with TestCluster(nodes=3, jobs=[job, PACK], seed=seed, workers=2) as cluster:
        instance = await cluster.schedule(job)
        await cluster.advance(30)
        await cluster.kill(cluster.nodes[seed])
        await cluster.advance(60)
        assert await instance.result("10m") == [0, 1, 2, 3, 4, 5]
        assert (await instance.refresh()).state is State.COMPLETED
        assert CALLS["charge"] == 1
        assert CALLS["pack"] <= 10, "only those of the killed node run again"
