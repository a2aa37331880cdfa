"""The paths through a node: one job from its schedule to its result, and a minute in which nothing happens."""

from __future__ import annotations

import asyncio
import functools
import gc
import operator
import select
import socket
import sys
from collections.abc import Sequence
from inspect import CO_COROUTINE
from itertools import pairwise
from pathlib import Path
from types import FrameType
from uuid import uuid4

import peerjob
from peerjob import BlockingManager, Job, Node, job
from peerjob.model.record import Ack, Claim, StoreLimits
from peerjob.node.observe.observer import Observer
from peerjob.node.work.outcomes import Entry
from peerjob.store.base import Store
from peerjob.store.drivers import open_store
from peerjob.testing.clock import VirtualClock
from peerjob.testing.cluster.faults import Faults
from support.waiting import until

from .meters import Counts, Meter

TIMES = 7
"""How often one job is measured; the least counts are taken."""
MANY = 300
"""Jobs over which memory is measured: a cache that fills up slowly must not count."""
RUNS = 5
"""How often those jobs run."""
MINUTES = 20
"""Minutes over which the calls of an idle node are counted."""
PACKAGE = Path(peerjob.__file__).parent
TESTS = f"{Path(__file__).parents[2]}/"


@job(kind="add")
async def add(a: int, b: int) -> int:
    return a + b


class _Rounds(Observer):
    """Tells when the node has committed an outcome and has found no further instance."""

    def __init__(self) -> None:
        self.idle = asyncio.Event()

    def round_ended(
        self, seconds: float | None, entries: Sequence[Entry], acks: Sequence[Ack], claims: Sequence[Claim]
    ) -> None:
        if entries and not claims:
            self.idle.set()


async def one_job(url: str, meter: Meter) -> Counts:
    """What a server does for one job of an idle node, from `schedule` until the node is idle again.

    The least counts of several jobs have none of the calls that the time of day adds: renewals, polls and the like.
    """
    found: list[Counts] = []
    rounds = _Rounds()
    node = Node(url, jobs=[add], workers=2, namespace=f"guard-{uuid4().hex[:12]}")
    node.observe(rounds)
    async with node:
        for _ in range(TIMES + 1):
            rounds.idle.clear()
            before = meter.read()
            await node.schedule(add, 1, 2)
            await rounds.idle.wait()
            await until(lambda: _waits_with_claim(node))
            found.append(meter.read() - before)
    return functools.reduce(operator.and_, found[1:])


def _waits_with_claim(node: Node) -> bool:
    runtime = node._runtime  # pyright: ignore[reportPrivateUsage]
    return runtime is not None and runtime.in_flight.hinted_claim is not None


async def calls_of_schedule(url: str) -> Counts:
    """The functions that Python calls from `schedule` to its return, and the most coroutines that await one another.

    The only worker is busy, so the store wakes no part of the node. The least counts of several calls have none of the
    calls that timers add.
    """
    leave = asyncio.Event()
    counts = Counts()

    def called(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and not frame.f_code.co_filename.startswith(TESTS):
            counts["calls"] += 1
            counts["coroutines"] = max(counts["coroutines"], _nested_coroutines(frame))

    async def schedule(node: Node) -> Counts:
        counts.clear()
        sys.setprofile(called)
        try:
            await node.schedule(add, 1, 2)
        finally:
            sys.setprofile(None)
        return Counts(counts)

    stay = Job("stay", leave.wait)
    async with Node(url, jobs=[add, stay], workers=1, namespace=f"guard-{uuid4().hex[:12]}") as node:
        await node.schedule(stay)
        await until(lambda: bool(node.workers()[0].instance))
        found = [await schedule(node) for _ in range(TIMES + 1)]
        leave.set()
    return functools.reduce(operator.and_, found[1:])


def calls_of_a_thread(url: str) -> Counts:
    """The functions of sockets that a thread without an event loop calls from `schedule` to its return.

    In each of them, the thread gives other threads the interpreter lock, and then waits for it again.
    """
    counts = Counts()

    def called(frame: FrameType, event: str, function: object) -> None:
        if event == "c_call":
            owner = type(getattr(function, "__self__", None))
            if owner in (socket.socket, type(select.poll())):
                counts[getattr(function, "__name__", "?")] += 1

    def schedule(manager: BlockingManager) -> Counts:
        counts.clear()
        sys.setprofile(called)
        try:
            manager.schedule(add, 1, 2)
        finally:
            sys.setprofile(None)
        return Counts(counts)

    with Node(url, jobs=[add], workers=0, namespace=f"guard-{uuid4().hex[:12]}").blocking() as manager:
        manager.schedule(add, 1, 2)
        found = [schedule(manager) for _ in range(TIMES + 1)]
    return functools.reduce(operator.and_, found[1:])


def _nested_coroutines(frame: FrameType | None) -> int:
    """How many coroutines of the package are on the stack."""
    count = 0
    while frame is not None:
        code, frame = frame.f_code, frame.f_back
        count += bool(code.co_flags & CO_COROUTINE) and code.co_filename.startswith(f"{PACKAGE}/")
    return count


async def files_of_one_job() -> Counts:
    """The files of the package that one job passes, on a store in memory."""
    passed: list[str] = []

    def called(frame: FrameType, event: str, _: object) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(f"{PACKAGE}/") and not file.startswith(f"{PACKAGE}/testing/"):
            passed.append(file)

    with VirtualClock() as clock:
        async with Node(jobs=[add], workers=2, clock=clock) as node:
            await clock.run((await node.schedule(add, 1, 2)).result())
            await clock.settle()
            sys.setprofile(called)
            try:
                instance = await node.schedule(add, 1, 2)
                scheduled = len(passed)
                await clock.run(instance.result())
            finally:
                sys.setprofile(None)
    return Counts({"all": len(set(passed)), "schedule()": len(set(passed[:scheduled]))})


async def left_by_jobs() -> int:
    """Blocks of memory that an ended job leaves in a node and its store in memory, which keeps ten final ones."""
    with VirtualClock() as clock:
        async with Node(jobs=[add], workers=2, clock=clock, store_limits=StoreLimits(max_final_per_kind=10)) as node:

            async def work() -> None:
                for number in range(MANY):
                    await (await node.schedule(add, number, 2)).result()

            async def run() -> int:
                await clock.run(work())
                await clock.advance("5m")  # a store remembers ids for two minutes
                gc.collect()
                return sys.getallocatedblocks()

            # the least growth of several runs: caches and free lists of the interpreter still fill in the first ones
            blocks = [await run() for _ in range(RUNS)]
            return round(min(after - before for before, after in pairwise(blocks)) / MANY)


async def calls_of_one_job() -> Counts:
    """The calls of an idle node for one job; time stands still but for the wait, so no timer adds a call."""
    faults = Faults()
    with VirtualClock() as clock:
        async with Node(_counted(faults, clock), jobs=[add], workers=2, clock=clock) as node:
            await clock.run((await node.schedule(add, 1, 2)).result())
            await clock.settle()
            faults.calls.clear()
            await clock.run((await node.schedule(add, 1, 2)).result())
            await clock.settle()
            return Counts(faults.calls)


async def idle_minute() -> Counts:
    """The calls of a node alone, which leads and has nothing to do, in a minute: the mean of many.

    The timers have random parts. So one minute can have a call more or less, after any change that draws a random
    number earlier.
    """
    faults = Faults()
    with VirtualClock() as clock:
        async with Node(_counted(faults, clock), jobs=[add], workers=2, clock=clock) as node:
            await clock.advance("1m")
            assert await node.leader() is not None
            faults.calls.clear()
            await clock.advance(f"{MINUTES}m")
            return Counts({verb: round(count / MINUTES) for verb, count in faults.calls.items()})


def _counted(faults: Faults, clock: VirtualClock) -> Store:
    return faults.over(open_store("memory://", namespace="default", clock=clock, limits=StoreLimits()))
