"""A test cluster: how it starts, what time it is in it, and what happens when a node dies in it."""

import asyncio
import gc

import pytest

from peerjob import INJECTED, Context, Fail, Job, NodeStoppedError, State
from peerjob.testing import TestCluster


async def test_the_example() -> None:
    calls: list[int] = []
    ran: list[str] = []

    async def pay(order: int, context: Context = INJECTED) -> str:
        calls.append(context.attempt)
        await asyncio.sleep(1)
        if context.attempt == 1:
            raise ConnectionError("the bank is away")
        return f"paid {order}"

    async def tell(context: Context = INJECTED) -> None:
        ran.append(str(context.nominal_at))

    charge = Job("charge", pay, max_retries=2, backoff="5s")
    report = Job("report", tell, cron="30 2 * * *", timezone="Europe/Berlin")
    async with TestCluster(nodes=3, jobs=[charge, report], seed=5, start="2026-10-24T22:00+02:00") as cluster:
        instance = await cluster.schedule(charge, 42)
        await cluster.kill(cluster.leader)  # no goodbye: the lease runs out
        await cluster.advance("6h")  # over the night when clocks change
        cluster.assert_fired(report, times=1)
        cluster.assert_completed(instance, attempts=2)
        assert await instance.result() == "paid 42"
    assert len(ran) == 1


async def test_a_cluster_starts_at_its_start_with_a_leader_and_no_time_passes_unasked() -> None:
    async with TestCluster(nodes=3, start="2026-05-01T12:00:00+00:00") as cluster:
        assert [node.name for node in cluster.nodes] == ["node-1", "node-2", "node-3"]
        assert cluster.leader in cluster.nodes
        assert cluster.clock.time_us() == 1_777_636_800_000_000
        await cluster.advance("90s")
        assert cluster.clock.time_us() == 1_777_636_890_000_000


async def test_a_killed_node_enters_no_finally_and_its_work_runs_again_elsewhere() -> None:
    began: list[str] = []
    ended: list[str] = []

    async def stubborn(context: Context = INJECTED) -> None:
        assert context.instance is not None
        node = str(context.instance.node)
        began.append(node)
        while len(began) == 1:
            try:
                await asyncio.sleep(3600)
            except BaseException:  # noqa: BLE001  # the very thing that a kill must not depend on
                ended.append(node)
        ended.append(node)

    job = Job("stubborn", stubborn)
    async with TestCluster(nodes=2, jobs=[job], seed=1) as cluster:
        instance = await cluster.schedule(job)
        await cluster.advance(1)
        (first,) = began
        await cluster.kill(first)
        await cluster.advance(5.9)
        assert (len(began), ended) == (2, [began[1]])
        assert began[1] != first
        cluster.assert_completed(instance, attempts=1)
        assert [node.name for node in cluster.nodes] == [began[1]]
        again = await cluster.restart(first)
        await cluster.advance(1)
        assert (await again.lookup_instance(instance.id)).crashes == 1
        assert {view.info.name for view in await again.nodes()} == {"node-1", "node-2"}


async def test_a_node_that_stops_hands_back_at_once() -> None:
    async def slow() -> None:
        await asyncio.sleep(60)

    job = Job("slow", slow)
    async with TestCluster(nodes=2, jobs=[job]) as cluster:
        instance = await cluster.schedule(job)
        await cluster.advance(1)
        holder = (await cluster.nodes[0].lookup_instance(instance.id)).node
        assert holder is not None
        await cluster.stop(holder, grace=1)
        await cluster.run_until_idle()
        cluster.assert_completed(instance)
        row = await cluster.nodes[0].lookup_instance(instance.id)
        assert (row.crashes, row.record.losses) == (0, 0)


async def test_a_failed_assertion_tells_the_seed_and_what_happened() -> None:
    async def broken() -> None:
        raise Fail("no")

    job = Job("broken", broken)
    async with TestCluster(nodes=1, jobs=[job], seed=77) as cluster:
        instance = await cluster.schedule(job)
        await cluster.run_until_idle()
        cluster.assert_state(instance, State.TERMINATED)
        with pytest.raises(AssertionError, match=r"(?s)expected Completed, got broken .* Terminated.*seed 77, "):
            cluster.assert_completed(instance)
        with pytest.raises(AssertionError, match=r"no schedule is called 'broken'; there are none"):
            cluster.assert_fired("broken", times=1)


async def test_a_node_killed_in_the_midst_of_its_stop_or_start_leaves_nothing_that_runs() -> None:
    ended: list[str] = []

    async def tidy() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("finally")
            await asyncio.sleep(0)
            ended.append("after an await")

    job = Job("tidy", tidy)
    async with TestCluster(nodes=3, jobs=[job], latency="5ms") as cluster:
        for _ in range(20):
            await cluster.schedule(job)
        await cluster.advance(1)
        one, other, _ = cluster.nodes
        await cluster.kill(one)
        stopping = asyncio.ensure_future(cluster.stop(other, grace=3600))
        starting = asyncio.ensure_future(cluster.restart(one))
        await cluster.advance(0.012)
        await cluster.kill(other)
        await cluster.kill(one)
        for work in (stopping, starting):
            with pytest.raises(NodeStoppedError, match="was killed before it answered"):
                await work
        assert ended == []
        await cluster.kill("node-3")
        begun = len(cluster.runs(job))
        assert begun == 20
    assert ended == ["finally"] * begun
    gc.collect()
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1
