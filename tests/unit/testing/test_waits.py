"""On virtual time, a test that waits moves time on."""

import asyncio
import threading

import pytest

from peerjob import (
    INJECTED,
    BlockingManager,
    Client,
    Context,
    Fail,
    Instance,
    Job,
    JobFailed,
    Node,
    NodeStateError,
    Query,
    Server,
    State,
    SystemClock,
    job,
)
from peerjob.testing import TestCluster, VirtualClock, advance, drain, running_node


@job(kind="third", max_retries=5, backoff="20s")
async def third(context: Context = INJECTED) -> int:
    if context.attempt < 3:
        raise ValueError("not yet")
    return context.attempt


@job(kind="tick", cron="0 * * * *")
async def tick() -> None: ...


@job(kind="outer")
async def outer(node: Node = INJECTED) -> int:
    return await (await node.schedule(third)).result()


@job(kind="outer.sync")
def outer_sync(manager: BlockingManager = INJECTED) -> int:
    return manager.schedule(third).result()


async def test_a_result_comes_after_the_backoffs_without_an_advance() -> None:
    async with running_node(third) as node:
        instance = await node.schedule(third)
        began = node.clock.elapsed()
        assert await instance.result(timeout="1h") == 3
        assert 40 <= node.clock.elapsed() - began < 42


async def at_rest() -> None:
    """Let the loop come to rest many times, for a thread of which it does not know."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def trips() -> None:
        for _ in range(100):
            came = threading.Event()
            loop.call_soon_threadsafe(came.set)
            assert came.wait(60)
        loop.call_soon_threadsafe(ended.set)

    thread = threading.Thread(target=trips)
    thread.start()
    await ended.wait()
    thread.join()


async def test_time_stands_still_again_after_a_wait() -> None:
    async with running_node(third, tick) as node:
        instance = await node.schedule(third)
        with pytest.raises(TimeoutError):
            await instance.result(timeout=1)
        ended = node.clock.elapsed()
        await at_rest()
        assert node.clock.elapsed() == ended
        await instance.result()
        ended = node.clock.elapsed()
        await at_rest()
        assert node.clock.elapsed() == ended


async def test_a_timeout_ends_a_wait_at_its_time() -> None:
    async with running_node(third) as node:
        instance = await node.schedule(third.with_options(after="1h"))
        began = node.clock.elapsed()
        with pytest.raises(TimeoutError, match="not final after 9 s"):
            await instance.result(timeout="9s")
        assert node.clock.elapsed() - began == pytest.approx(9)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(instance.wait(), 3)
        assert node.clock.elapsed() - began == pytest.approx(12)


async def test_a_wait_without_a_timeout_that_never_ends_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peerjob.testing.clock.WAIT_LIMIT", 60.0)
    async with running_node(third) as node:
        instance = await node.schedule(third.with_options(after="2m"))
        with pytest.raises(TimeoutError, match="not done within 1m of virtual time; pass timeout="):
            await instance.result()
        assert await instance.result(timeout="1h") == 3


async def test_run_has_a_limit_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peerjob.testing.clock.WAIT_LIMIT", 60.0)
    async with running_node(third) as node:
        assert isinstance(node.clock, VirtualClock)
        instance = await node.schedule(third.with_options(after="2m"))
        assert await node.clock.run(instance.result(), limit="10m") == 3


async def test_waits_at_the_same_time_each_end_at_their_own() -> None:
    async with running_node(third) as node:
        instances = [await node.schedule(third.with_options(after=10 * (number + 1))) for number in range(3)]
        began = node.clock.elapsed()

        async def ended(instance: Instance[int]) -> float:
            await instance.result()
            return node.clock.elapsed() - began

        times = await asyncio.gather(*map(ended, instances))
        assert times == [pytest.approx(40 + 10 * (number + 1), abs=3) for number in range(3)]


async def test_a_wait_beside_an_advance_does_not_hold_it_up() -> None:
    async with running_node(third) as node:
        instance = await node.schedule(third)
        waiting = asyncio.create_task(instance.result())
        began = node.clock.elapsed()
        await advance(node, "30s")
        assert node.clock.elapsed() - began == pytest.approx(30)
        assert not waiting.done()
        assert await waiting == 3


@pytest.mark.parametrize("parent", [outer, outer_sync])
async def test_a_job_may_wait_for_another(parent: Job[[], int]) -> None:
    async with running_node(outer, outer_sync, third) as node:
        assert await (await node.schedule(parent)).result() == 3


@pytest.mark.parametrize("parent", [outer, outer_sync])
async def test_a_wait_in_a_job_leaves_time_to_the_test(parent: Job[[], int]) -> None:
    async with running_node(outer, outer_sync, third) as node:
        await node.schedule(parent)
        await advance(node, "5s")
        began = node.clock.elapsed()
        await at_rest()
        assert node.clock.elapsed() == began
        assert await node.count(Query(kind="third", state=State.SCHEDULED)) == 1


async def test_a_wait_outside_any_node_is_the_event_loops_own() -> None:
    with VirtualClock() as clock:
        waiting = asyncio.create_task(asyncio.sleep(5))
        await at_rest()
        assert not waiting.done()
        await clock.run(waiting)


async def test_waiting_for_quiet_following_a_log_and_draining_move_time() -> None:
    async with running_node(third, workers=2) as node:
        instance = await node.schedule(third.with_options(after="1m"))
        assert [line async for line in instance.iter_logs(follow=True)] == []
        await node.schedule(third.with_options(after="1m"))
        await node.wait(timeout="1h")
        await node.schedule(third.with_options(after="1m"))
        await drain(node)
        assert await node.count(Query(state=State.COMPLETED)) == 3
        await node.schedule(third.with_options(after="2h"))
        with pytest.raises(TimeoutError, match="1 matching"):
            await drain(node, "1m")


async def test_a_node_that_drains_moves_time() -> None:
    async with running_node(Job("nap", asyncio.sleep)) as node:
        instance = await node.schedule("nap", 60)
        await advance(node, 1)
        await node.drain()
        assert (await instance.refresh()).state is State.COMPLETED


async def test_a_client_of_a_node_on_virtual_time_waits_as_the_node_does() -> None:
    async with (
        running_node(third, Job("hopeless", _hopeless)) as node,
        Server(node, "127.0.0.1:0") as server,
        Client(server.target, clock=node.clock) as client,
    ):
        assert await (await client.schedule(third)).result(timeout="2h") == 3
        with pytest.raises(JobFailed):
            await (await client.schedule("hopeless")).result()


async def test_a_real_clock_is_left_alone() -> None:
    async with running_node(third, clock=SystemClock()) as node:
        assert await (await node.schedule(third.with_options(backoff=0))).result(timeout=30) == 3
        with pytest.raises(RuntimeError, match="VirtualClock"):
            await advance(node, 1)


async def test_a_node_that_stops_ends_the_waits() -> None:
    async with running_node(third) as node:
        instance = await node.schedule(third.with_options(after="1h"))
        waiting = asyncio.create_task(instance.result(timeout="2d"))
        await advance(node, 1)
        await node.stop()
        with pytest.raises(NodeStateError):
            await waiting


async def _hopeless() -> None:
    raise Fail("never")


@job(kind="one")
async def one() -> None: ...


@pytest.mark.parametrize("seed", range(4))
async def test_a_node_of_a_cluster_hears_of_an_end_before_time_jumps_on(seed: int) -> None:
    """Also of an instance that ran on a peer, while its answer is on the way."""
    async with TestCluster(jobs=[one], seed=seed) as cluster:
        for node in cluster.nodes * 3:
            instance = await cluster.leader.schedule(one.with_options(after="20m"))
            await (await node.lookup_instance(instance.id)).wait(timeout="3d")
