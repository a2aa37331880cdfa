"""A request that is on its way while the node is declared dead and joins under a new incarnation."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from peerjob import (
    INJECTED,
    Context,
    Filter,
    Flow,
    Instance,
    Job,
    Node,
    OwnershipLost,
    Query,
    State,
    StoreRefusedError,
)
from peerjob.model.record import Instruction, Outcome, Renewed, Want
from peerjob.testing import TestCluster, VirtualClock, drain, running_node
from support.factories import flaky_store


class Work:
    """A body of a second; notes how each run ended."""

    def __init__(self) -> None:
        self.began: Counter[str] = Counter()
        self.ended: Counter[str | None] = Counter()
        self.told: Counter[str] = Counter()

    async def __call__(self, name: str, ctx: Context = INJECTED) -> str:
        self.began[name] += 1
        ctx.progress(0.5, name)
        try:
            await asyncio.sleep(1)
        finally:
            self.ended[ctx.reason] += 1
        return name

    def on_complete(self, instance: Instance[Any], result: str) -> None:
        self.told[result] += 1


def held(node: Node) -> int:
    assert node._runtime is not None  # pyright: ignore[reportPrivateUsage]
    return len(node._runtime.held_claims)  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("begins", ["before", "under way", "during", "after"])
@pytest.mark.parametrize("fault", ["stall", "stall_answers", "lose_answers"])
@pytest.mark.parametrize("verb", ["turn", "claim_on_hint", "next_hints", "renew", "join"])
async def test_nothing_is_lost_doubled_or_kept(clock: VirtualClock, verb: str, fault: str, begins: str) -> None:
    """Work comes before the node joins anew, with the request that is late, meanwhile or afterwards."""
    work, flaky = Work(), flaky_store(clock)
    job = Job("work", work, on_complete=work.on_complete)
    async with running_node(job, clock=clock, store=flaky.store, workers=3) as node:
        await clock.advance(6)
        names = [f"work {number}" for number in range(6)]
        made: list[Instance[Any]] = []

        async def schedule() -> None:
            made.extend([await node.schedule(job, name) for name in names[len(made) : len(made) + 6]])

        old = node.incarnation
        if begins == "before":
            await schedule()
            await clock.advance(0.5)
        met = getattr(flaky, fault)(verb, times=1)
        if begins == "under way":
            await schedule()
        await clock.advance(0.3)
        await flaky.inner.leave(old)
        if begins == "during":
            await schedule()
        await clock.advance(7)
        met.release()
        if begins == "after":
            await schedule()
        await clock.advance(1)
        assert node.incarnation != old
        await drain(node)

        assert [await clock.run(one.result()) for one in made] == names
        assert {(one.attempts, one.crashes, one.losses) for one in made} == {(1, 0, 0)}
        assert work.told == Counter(names)
        assert work.ended[None] == sum(work.began.values()) - work.ended["lost"]
        assert work.ended.keys() <= {None, "lost"}
        assert held(node) == 0
        assert [view.info.incarnation for view in await node.nodes()] == [node.incarnation]
        await clock.advance(2)
        assert [view.running for view in await node.nodes()] == [0]
        assert await node.count(Query(state=State.ACTIVE)) == 0


AT_LEISURE = {"open", "put_schedule", "changed_schedules", "next_hints"}
"""What a node does only once, or not before its next turn."""


async def test_a_node_that_joins_anew_asks_and_tells_the_store_what_it_did_at_its_start(clock: VirtualClock) -> None:
    """The store can have lost all of it."""
    flaky = flaky_store(clock)

    def forget_calls(renewed: Renewed) -> Renewed:
        flaky.calls.clear()
        return renewed

    async with running_node(Job("tick", str, every="1h"), clock=clock, store=flaky.store, workers=3) as node:
        await clock.advance(0.05)
        at_start = set(flaky.calls) - AT_LEISURE
        await clock.advance(10)
        before = node.incarnation
        await flaky.inner.leave(before)
        flaky.change_answers(forget_calls, "renew")
        while node.incarnation == before:
            await clock.advance(0.01)
        await clock.advance(0.05)
        assert node.is_leader
        assert at_start - set(flaky.calls) == set()


async def test_claims_of_the_incarnation_before_that_come_late_do_not_run(clock: VirtualClock) -> None:
    """The store has taken them back, so a peer may run them."""
    work, flaky = Work(), flaky_store(clock)
    job = Job("work", work)
    async with running_node(job, clock=clock, store=flaky.store, workers=3) as node:
        await clock.advance(6)
        answer = flaky.stall_answers("turn", times=1)
        for number in range(3):
            await node.schedule(job, f"work {number}")
        await clock.advance(0.3)
        assert answer.met.is_set()
        await flaky.inner.leave(node.incarnation)
        await clock.advance(7)
        answer.release()
        await clock.run(node.wait(Query.all()))
        # the claim of the first one came with a hint, and its body ran until the lease had ended
        assert [work.began[f"work {number}"] for number in range(3)] == [2, 1, 1]


async def test_a_commit_whose_claim_is_refused_keeps_its_request(clock: VirtualClock) -> None:
    """The store has committed it. So the repeat has the first answer, also if the instances are removed meanwhile."""
    work, flaky = Work(), flaky_store(clock)
    job = Job("work", work, on_complete=work.on_complete)
    async with running_node(job, clock=clock, store=flaky.store, workers=3) as node:
        inner: Any = flaky.inner
        refused = 0

        async def done_first(incarnation: str, outcomes: Sequence[Outcome], want: Want | None, *, request: str) -> Any:
            nonlocal refused
            answer = await inner.turn(incarnation, outcomes, None if outcomes else want, request=request)
            if outcomes and want is not None:
                refused += 1
                await inner.clear_instances(Filter())
                raise StoreRefusedError("the claim is refused")
            return answer

        flaky.turn = done_first  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
        names = [f"work {number}" for number in range(12)]
        await node.schedule_many(job.call(name) for name in names)
        await clock.advance(10)
        assert refused > 0
        assert work.told == Counter(names)
        assert held(node) == 0


async def test_the_new_incarnation_watches_what_is_watched(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(Job("work", Work()), clock=clock, store=flaky.store) as node:
        begun = asyncio.Event()

        async def begin() -> None:
            begun.set()

        async def watch() -> None:
            async for _ in node.watch(on_begin=begin):
                pass

        watching = asyncio.create_task(watch())
        await clock.run(begun.wait())
        old, before = node.incarnation, flaky.calls["watch_changes"]
        await flaky.inner.leave(old)
        await clock.advance(1.2)
        assert node.incarnation != old
        await clock.advance(1.2)
        assert flaky.calls["watch_changes"] == before + 1
        watching.cancel()


async def test_a_body_whose_claim_is_gone_when_it_starts_a_child_ends_at_once(clock: VirtualClock) -> None:
    flaky, work = flaky_store(clock), Job("work", Work())
    ended: list[tuple[str | None, float]] = []

    async def starts(context: Context = INJECTED) -> None:
        if ended:
            return
        await asyncio.sleep(0.1)  # the store has the report of the start
        await flaky.inner.leave(node.incarnation)
        began = clock.elapsed()
        try:
            with contextlib.suppress(OwnershipLost):
                await context.start("child", work.call("child"))
            await asyncio.sleep(60)
        finally:
            ended.append((context.reason, clock.elapsed() - began))

    async with running_node(Job("starts", starts), work, clock=clock, store=flaky.store) as node:
        await clock.run((await node.schedule("starts")).result())
    assert ended == [("lost", 0)]


async def test_an_answer_to_the_incarnation_before_that_comes_late_changes_nothing(clock: VirtualClock) -> None:
    """The thread of the lease passes it on, and the event loop of the node lags."""
    work, flaky = Work(), flaky_store(clock)
    async with running_node(Job("work", work), clock=clock, store=flaky.store, workers=3) as node:
        await clock.advance(1)
        old = node.incarnation
        await flaky.inner.leave(old)
        await clock.advance(3)
        now = node.incarnation
        assert now != old
        instance = await node.schedule("work", "one")
        await clock.advance(0.2)
        runtime = node._runtime  # pyright: ignore[reportPrivateUsage]
        assert runtime is not None
        late = Renewed(held=(), cancelled=(instance.id,), instruction=Instruction("request", drain=True))
        for _ in range(5):
            runtime.lease_renewed(old, late)
            runtime.lease_dead(old)
            await clock.settle()
        assert await clock.run(instance.result()) == "one"
        assert (node.incarnation, runtime.intake.state, work.ended) == (now, "active", Counter({None: 1}))


@pytest.mark.parametrize("late", [1, 30])
async def test_no_body_begins_if_the_claim_was_lost_while_its_arguments_were_read(late: float) -> None:
    """The process is stopped meanwhile. It gets the answer before it renews its lease, or after it has joined again."""
    began: list[str] = []

    async def add(numbers: list[int], ctx: Context = INJECTED) -> int:
        assert ctx.worker is not None
        began.append(ctx.worker.node)
        return sum(numbers)

    job, flow = Job("add", add), Flow("sum")
    first = flow.add(job.call([1, 2]))
    second = flow.add(job.call([first.output, 4]))
    async with TestCluster(nodes=2, jobs=[job]) as cluster:
        await cluster.stop("node-2")
        await cluster.slow("get", late, node="node-1")
        run = await cluster.clock.run(cluster.node("node-1").schedule_flow(flow))
        claimed = f"{run[second].id[-4:]} Processing on node-1"
        assert await cluster.clock.until(lambda: any(claimed in event.text for event in cluster.trace), "1m")
        assert began == ["node-1"]
        await cluster.pause("node-1")
        await cluster.restart("node-2")
        await cluster.advance("10s")
        await cluster.resume("node-1")
        await cluster.run_until_idle()
        await cluster.advance(2 * late)
        assert began == ["node-1", "node-2"]
