"""Random walks: a cluster on virtual time, under random work and random faults, and what must hold at the end.

One seed gives one course of events, so a failing seed can be run again.
"""

import asyncio
import contextlib
from collections import defaultdict
from itertools import pairwise
from typing import Any

import pytest

from peerjob import INJECTED, Context, Instance, Job, Node, Query, State, StoreError
from peerjob.model.state import ARROWS
from peerjob.testing import VirtualClock, drain, running_node
from support.factories import flaky_store, shared_url
from support.flaky import FlakyStore
from support.searches import seeds

VERBS = ["turn", "enqueue", "next_hints", "renew", "reap", "get", "lookup", "watch_final", "cancel", "join", "leave"]


class Walk:
    """The cluster, its jobs, and what their bodies saw of each other."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.chance = clock.random
        self.url = shared_url()
        self.nodes: dict[str, tuple[Node, FlakyStore]] = {}
        self.scheduled: dict[str, Instance[Any]] = {}
        self.cancelled: set[str] = set()
        self.running: dict[str, int] = {}
        self.wrong: list[str] = []
        self.fences: dict[str, list[int]] = defaultdict(list)
        self.healing: list[asyncio.Task[None]] = []
        self.jobs = [
            Job("quick", self.body, max_retries=2),
            Job("slow", self.body, max_retries=1, backoff=2, timeout=20),
            Job("often", self.body, max_retries=None, backoff=0.5),
        ]

    async def body(self, seconds: float, fails: int, ctx: Context = INJECTED) -> int:
        # noted, not asserted: what a body raises is a failure of its instance
        if ctx.id in self.running:
            self.wrong.append(f"{ctx.id} has two bodies at a time")
        if self.fences[ctx.id] and ctx.fence <= self.fences[ctx.id][-1]:
            self.wrong.append(f"{ctx.id} runs under fence {ctx.fence} after {self.fences[ctx.id]}")
        self.fences[ctx.id].append(ctx.fence)
        self.running[ctx.id] = ctx.fence
        try:
            await asyncio.sleep(seconds)
            ctx.progress(0.5)
            if ctx.attempt <= fails:
                raise ValueError(f"attempt {ctx.attempt}")
            if self.chance.random() < 0.05:
                ctx.snooze(1)
            return ctx.fence
        finally:
            if self.running.get(ctx.id) == ctx.fence:
                del self.running[ctx.id]

    async def start(self, name: str) -> None:
        flaky = flaky_store(self.clock, self.url)
        node = Node(flaky.store, jobs=self.jobs, clock=self.clock, name=name, workers=self.chance.randint(1, 6))
        await self.clock.run(node.start())
        self.nodes[name] = node, flaky

    async def stop(self, name: str, *, crash: bool = False) -> None:
        node, flaky = self.nodes.pop(name)
        if crash:
            flaky.fail()
        await self.clock.run(node.stop(grace=0 if crash else self.chance.choice([0, 1, 5])))

    async def schedule(self, node: Node) -> None:
        job = self.chance.choice(self.jobs)
        seconds = self.chance.choice([0, 0.01, 0.3, 2.0, 6.0, 18.0])
        variant = job.with_options(priority=self.chance.randint(-2, 2), after=self.chance.choice([0, 0, 0, 3]))
        calls = [variant.call(seconds, self.chance.choice([0, 0, 0, 1, 5])) for _ in range(self.chance.randint(1, 8))]
        for instance in await node.schedule_many(calls):
            self.scheduled[instance.id] = instance

    async def cancel(self, node: Node) -> None:
        if self.scheduled:
            id = self.chance.choice(list(self.scheduled))
            if await node.cancel_instance(id):
                self.cancelled.add(id)

    def harm(self, flaky: FlakyStore) -> None:
        verbs = self.chance.sample(VERBS, self.chance.randint(1, 4))
        match self.chance.randrange(6):
            case 0:
                flaky.fail(*verbs)
            case 1:
                flaky.lose_answers(*verbs, times=self.chance.randint(1, 3))
            case 2:
                flaky.repeat(*verbs)
            case 3:
                flaky.stall(*verbs)
            case 4:
                flaky.stall_answers(*verbs)
            case _:
                flaky.fail()  # cut off

        async def heal_later() -> None:
            await asyncio.sleep(self.chance.choice([0.05, 0.5, 2, 8, 12]))
            flaky.heal()

        self.healing.append(asyncio.ensure_future(heal_later()))

    async def step(self) -> None:
        name = self.chance.choice(list(self.nodes))
        node, flaky = self.nodes[name]
        what = self.chance.choices(
            ["schedule", "cancel", "harm", "resize", "crash", "stop", "start"], [8, 2, 4, 1, 0.5, 0.5, 1]
        )[0]
        acting: Any = None
        match what:
            case "schedule":
                acting = self.schedule(node)
            case "cancel":
                acting = self.cancel(node)
            case "harm":
                self.harm(flaky)
            case "resize":
                acting = node.resize_workers(self.chance.randint(1, 8))
            case "crash" | "stop" if len(self.nodes) > 1:
                await self.stop(name, crash=what == "crash")
            case "start" if len(self.nodes) < 4:
                await self.start(f"node {len(self.fences)}.{self.chance.randrange(1000)}")
            case _:
                pass
        if acting is not None:
            with contextlib.suppress(StoreError, TimeoutError):  # not accepted, so nothing is owed
                await self.clock.run(acting, limit=30)
        await self.clock.advance(self.chance.choice([0, 0.02, 0.2, 1, 3]))

    async def settle(self) -> None:
        for _, flaky in self.nodes.values():
            flaky.heal()
        await self.clock.advance(12)


def check(walk: Walk, ended: dict[str, Instance[Any]]) -> None:
    assert walk.scheduled.keys() <= ended.keys()
    assert walk.wrong == []
    assert not walk.running
    for id, instance in ended.items():
        record = instance.record
        states = [entry.state for entry in record.history]
        assert record.state.is_final
        for before, after in pairwise(record.history):
            assert before.count > 1 or after.state & ARROWS[before.state], states
            assert after.at_us >= before.at_us
        assert sum(state.is_final for state in states) == 1
        if record.state is State.COMPLETED:
            # the accepted outcome is that of the latest claim, whose body ran to its end
            assert instance.outcome() == record.fence == walk.fences[id][-1]
        if id in walk.cancelled:
            assert record.state is State.CANCELLED
        if record.kind != "often":
            assert record.attempts <= {"quick": 3, "slow": 2}[record.kind]


@pytest.mark.long("a walk has three nodes, 120 steps and hours of virtual time")
@pytest.mark.parametrize(
    "seed", [*seeds(range(12)), *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(12, 400))]
)
async def test_nothing_is_lost_doubled_or_undone(seed: int) -> None:
    with VirtualClock(seed=seed) as clock:
        walk = Walk(clock)
        for number in range(3):
            await walk.start(f"node {number}")
        for _ in range(120):
            await walk.step()
        await walk.settle()
        async with running_node(walk.jobs, clock=clock, store=walk.url, name="last", workers=20) as last:
            await drain(last, limit="2h")
            ended = {one.id: one async for one in last.iter_instances(Query(limit=1000))}
            check(walk, ended)
            await clock.advance(5)
            for node in (last, *(node for node, _ in walk.nodes.values())):
                runtime = node._runtime  # pyright: ignore[reportPrivateUsage]
                # what a node believes to hold, it asks the store about with each renewal
                assert runtime is not None
                assert len(runtime.held_claims) == 0  # pyright: ignore[reportPrivateUsage]
            for name in list(walk.nodes):
                await walk.stop(name)
        for task in walk.healing:
            task.cancel()
