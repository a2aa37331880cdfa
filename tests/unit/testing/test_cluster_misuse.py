"""What a test cluster and virtual time answer to a test that uses them wrongly, and what they leave behind."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from peerjob import Job, NodeStateError, State
from peerjob.model.errors import OptionError
from peerjob.testing import TestCluster, VirtualClock, running_node


async def work() -> None: ...


JOB = Job("work", work)
HOURLY = Job("hourly", work, every="1h")


@pytest.mark.parametrize(
    "options",
    [
        {"lease_ttl": "soon"},
        {"lease_ttl": "0s"},
        {"timezone": "Nowhere"},
        {"nodes": 1.5},
        {"nodes": None},
        {"nodes": [""]},
        {"nodes": [1, 2]},
        {"start": 5},
        {"start": None},
        {"unknown": 1},
    ],
)
async def test_a_cluster_that_cannot_start_leaves_the_loop_on_real_time(options: dict[str, Any]) -> None:
    before = asyncio.get_running_loop().time
    with pytest.raises((ValueError, TypeError), match=next(iter(options))):
        async with TestCluster(**options):
            pass
    assert asyncio.get_running_loop().time == before
    with VirtualClock():
        pass


USES: dict[str, Callable[[TestCluster], Awaitable[object]]] = {
    "advance": lambda cluster: cluster.advance("1s"),
    "run_until_idle": lambda cluster: cluster.run_until_idle(),
    "elected": lambda cluster: cluster.elected(),
    "schedule": lambda cluster: cluster.schedule(JOB),
    "kill": lambda cluster: cluster.kill("node-1"),
    "restart": lambda cluster: cluster.restart("node-1"),
    "partition": lambda cluster: cluster.partition("node-1"),
    "skew": lambda cluster: cluster.skew("node-1", "1s"),
    "heal": lambda cluster: cluster.heal(),
    "store_fails": lambda cluster: cluster.store_fails("turn"),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
async def test_a_cluster_is_used_within_its_block_and_tells_what_happened_after_it(
    use: Callable[[TestCluster], Awaitable[object]],
) -> None:
    before = asyncio.get_running_loop().time
    cluster = TestCluster(nodes=1, jobs=[JOB])
    with pytest.raises(NodeStateError, match="async with"):
        await use(cluster)
    async with cluster:
        instance = await cluster.schedule(JOB)
        await instance.result()
    with pytest.raises(NodeStateError):
        await use(cluster)
    with pytest.raises(NodeStateError, match="entered once"):
        await cluster.__aenter__()
    cluster.assert_completed(instance)
    assert len(cluster.runs(JOB)) == 1
    assert cluster.trace
    assert cluster.clock.elapsed() == cluster.clock.elapsed()
    assert asyncio.get_running_loop().time == before


async def test_a_cluster_that_is_entered_again_goes_on() -> None:
    async with TestCluster(nodes=1, jobs=[JOB]) as cluster:
        with pytest.raises(NodeStateError, match="entered once"):
            await cluster.__aenter__()
        await (await cluster.schedule(JOB)).result()


async def test_a_cluster_is_refused_on_another_loop_and_goes_on_in_its_own() -> None:
    async with TestCluster(nodes=1, jobs=[JOB]) as cluster:

        def elsewhere() -> None:
            with pytest.raises(NodeStateError, match="another event loop"):
                asyncio.run(cluster.advance("1s"))

        await asyncio.to_thread(elsewhere)
        await (await cluster.schedule(JOB)).result()


async def test_a_look_at_a_clock_that_a_test_is_done_with_does_not_take_the_loop() -> None:
    before = asyncio.get_running_loop().time
    async with running_node(JOB) as node:
        await (await node.schedule(JOB)).result()
    assert node.clock.elapsed() == node.clock.elapsed()
    assert asyncio.get_running_loop().time == before


async def test_work_that_cannot_be_run_is_not_left_unawaited() -> None:
    with VirtualClock() as clock, pytest.raises(OptionError, match="limit"):
        await clock.run(work(), limit="soon")  # the coroutine would warn, which is an error here


async def test_a_node_is_restarted_once() -> None:
    async with TestCluster(nodes=2, jobs=[JOB]) as cluster:
        await cluster.kill("node-1")
        first, second = await asyncio.gather(
            cluster.restart("node-1"), cluster.restart("node-1"), return_exceptions=True
        )
        assert first is cluster.node("node-1")
        assert isinstance(second, NodeStateError)
        await cluster.kill("node-1")  # the next one is not in the way of a start that was cut off
        starting = asyncio.ensure_future(cluster.restart("node-1"))
        await asyncio.sleep(0)
        with pytest.raises(NodeStateError, match="still starts"):
            await cluster.kill("node-1")
        await starting
        await cluster.advance("1m")  # until the lease of the killed ones has run out
        assert sum(view.name == "node-1" for view in await cluster.clock.run(cluster.nodes[1].nodes())) == 1


async def test_a_claim_about_nothing_does_not_hold() -> None:
    async with TestCluster(nodes=1, jobs=[JOB, HOURLY]) as cluster:
        cluster.assert_fired(HOURLY, times=0)
        for never in ("hourlly", JOB):
            with pytest.raises(AssertionError, match=r"no schedule is called .*'hourly'.*\n.*seed 0"):
                cluster.assert_fired(never, times=0)
        with pytest.raises(AssertionError, match=r"no body of .*work.* ran; .* no kind"):
            cluster.assert_never_concurrent(JOB)
        await (await cluster.schedule(JOB)).result()
        cluster.assert_never_concurrent(JOB)
        with pytest.raises(AssertionError, match=r"no body of 'wrok' ran; there were bodies of work"):
            cluster.assert_never_concurrent("wrok")


WRONG: list[tuple[str, Callable[[Any], Any]]] = [
    ("node", lambda cluster: cluster.kill(None)),
    ("node", lambda cluster: cluster.partition(5)),
    ("times", lambda cluster: cluster.store_fails("turn", "3")),
    ("times", lambda cluster: cluster.store_fails("turn", True)),
    ("times", lambda cluster: cluster.store_fails("turn", 1.5)),
    ("state", lambda cluster: cluster.assert_state("x", "Completed")),
    ("instance", lambda cluster: cluster.assert_completed(None)),
    ("instance", lambda cluster: cluster.runs(5)),
    ("schedule", lambda cluster: cluster.assert_fired(work)),
    ("schedule", lambda cluster: cluster.fires(None)),
]


async def test_a_wrong_argument_is_named() -> None:
    async with TestCluster(nodes=1, jobs=[JOB]) as cluster:
        for option, use in WRONG:
            with pytest.raises(OptionError, match=f"{option}: expected .*, got "):
                await use(cluster)
        cluster.assert_state(await (await cluster.schedule(JOB)).wait(), State.COMPLETED)
