"""Runs a random program on a test cluster, to its rest, and gathers the evidence."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from peerjob import Node, PeerjobError
from peerjob.model.errors import NodeStateError
from peerjob.model.record import StoreLimits
from peerjob.testing import TestCluster
from support.etcd_model import hold_to_etcd

from .bodies import Bodies
from .calls import Calls
from .checker import check
from .durable import KINDS, DurableBodies
from .evidence import Evidence, Violation
from .faults import Faults
from .gathering import (
    Definitions,
    gather,
    happened,
    heal,
    store_data,
    watch_threads,
    within,
    without_signal,
)
from .program import Op, Program
from .threads import Threads

REST = "10m"
"""Virtual time within which a program comes to rest after its last operation, with every fault healed."""
ANSWERED = "5m"
ROUND, ROUNDS = "10s", 48
"""Virtual time after which what waits for a signal gets one, and how often: each body waits for a few."""


@dataclass(kw_only=True)
class Verdict:
    """What came of one program."""

    program: Program
    violations: list[Violation]
    trace: list[str]
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    """(verb, fault) → calls that were made while the fault was at work."""
    happened: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    """(verb of the store, fault) → calls that met the fault."""
    evidence: Evidence

    @property
    def digest(self) -> str:
        """A short text that two runs share exactly when they have the same trace."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()[:16]


class Runner:
    """One run of one program."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._trace: list[str] = []
        self._pairs: Counter[tuple[str, str]] = Counter()
        self.unexpected: list[Violation] = []
        """What no caller may expect, and what the event loop complains of."""
        self._tasks: list[asyncio.Task[None]] = []
        self._drained: set[str] = set()
        self._cluster: TestCluster
        self._bodies: Bodies
        self._durable: DurableBodies
        self._threads: Threads | None = None
        self._calls: Calls
        self._faults: Faults

    async def run(self) -> Verdict:
        """Run the program, and judge it."""
        program = self._program
        bodies = self._bodies = Bodies(self._now_us, program)
        jobs = {number: bodies.job(number) for number in range(program.kinds)}
        durable = self._durable = DurableBodies(bodies, self._now_us)
        durable_jobs = [durable.job(f"d{number}") for number in range(KINDS if program.durable else 0)]
        asyncio.get_running_loop().set_exception_handler(self._hear)
        async with TestCluster(
            nodes=program.nodes,
            jobs=[*jobs.values(), *durable_jobs],
            seed=program.seed,
            workers=program.workers,
            lease_ttl=program.ttl,
            latency=program.latency,
            store_limits=StoreLimits(),
        ) as cluster:
            self._cluster = cluster
            hold_to_etcd(store_data(cluster))
            if program.durable:
                self._threads = watch_threads(cluster, durable.evidence)
            self._calls = Calls(self._bodies, durable, jobs, cluster.clock.time_us)
            self._faults = Faults(cluster)
            definitions = Definitions(cluster)
            for number, op in enumerate(program.ops):
                if op.gap:
                    await cluster.advance(op.gap)
                    self._look(number)
                self._begin(number, op)
            await cluster.advance(0.1)  # the last operations have begun before everything is healed
            await self._rest()
            evidence = await gather(
                cluster, self._bodies, durable.evidence, self._calls, self._faults, definitions, program
            )
            events = [str(event) for event in cluster.trace]
        return Verdict(
            program=program,
            violations=check(evidence),
            trace=[*self._trace, *events],
            pairs=self._pairs,
            happened=happened(cluster),
            evidence=evidence,
        )

    def _begin(self, number: int, op: Op) -> None:
        if op.verb == "nothing":
            return
        work = self._fault(number, op) if op.is_fault else self._call(number, op)
        self._tasks.append(asyncio.get_running_loop().create_task(work))

    async def _fault(self, number: int, op: Op) -> None:
        if op.verb in ("kill", "stop", "restart"):  # before it is done: a node can be drained while it starts
            self._drained.discard(f"node-{op.given['node'] + 1}")
        try:
            outcome = await self._faults.do(op)
        except PeerjobError as error:
            outcome = f"{type(error).__name__}: {error}"
        self._say(number, op, outcome)

    async def _call(self, number: int, op: Op) -> None:
        node = self._node(op.given["node"])
        if node is None:
            self._say(number, op, "no node runs")
            return
        for fault in self._faults.at_work():
            self._pairs[op.verb, fault] += 1
        if op.verb == "drain":
            self._drained.add(node.name)
        try:
            outcome = await within(self._cluster, node, self._calls.make(number, op, node))
        except (PeerjobError, TimeoutError) as error:
            outcome = type(error).__name__
        except Exception as error:
            logging.getLogger("simulation").exception("operation %d failed", number)
            outcome = f"{type(error).__name__}: {error}"
            self.unexpected.append(Violation("UNEXPECTED", f"operation {number} {op.verb}", outcome))
        self._say(number, op, outcome)

    def _node(self, wanted: int) -> Node | None:
        """The node of a number if its process is there, else the next one that is."""
        alive = {node.name: node for node in self._cluster.nodes}
        count = self._program.nodes
        for number in range(wanted, wanted + count):
            node = alive.get(f"node-{number % count + 1}")
            if node is not None:
                return node
        return None

    async def _rest(self) -> None:
        """Heal everything, have every node run every kind, and wait until nothing is queued or runs."""
        cluster = self._cluster
        names = [f"node-{number + 1}" for number in range(self._program.nodes)]
        await heal(cluster, names)
        self._faults.close()
        await cluster.advance(2)
        answered = asyncio.gather(*self._tasks)
        await cluster.clock.run(answered, ANSWERED)
        for name in names:
            alive = {node.name for node in cluster.nodes}
            if name in self._drained and name in alive:
                await cluster.stop(name)
                alive.discard(name)
            if name not in alive:
                await cluster.restart(name)
        for node in cluster.nodes:
            for job in [self._bodies.job(number) for number in range(self._program.kinds)]:
                if job.kind not in {known.kind for known in node.jobs()}:
                    node.register(job)
        await self._paused()
        await self._finished()
        if self._threads is not None:
            await cluster.advance(2 * self._program.ttl + 3)  # ends that a killed node left are followed up
            self._look(self._program.size)
            self._durable.evidence.unsettled += self._threads.unsettled()

    async def _paused(self) -> None:
        """Pause all schedules."""
        cluster = self._cluster
        first = cluster.nodes[0]
        for schedule in await cluster.clock.run(within(cluster, first, first.schedules())):
            await cluster.clock.run(within(cluster, first, first.pause_schedule(schedule)))

    async def _finished(self) -> None:
        """Wait until nothing is queued, waits or runs; give a value to what waits for a signal without a time."""
        cluster, first = self._cluster, self._cluster.nodes[0]
        for _ in range(ROUNDS if self._program.durable else 0):
            with contextlib.suppress(AssertionError):
                await cluster.run_until_idle(ROUND)
                break
            for id, signal in await without_signal(cluster):
                with contextlib.suppress(PeerjobError):  # it has ended since
                    await cluster.clock.run(within(cluster, first, first.signal(id, signal, "at rest")))
        try:
            await cluster.run_until_idle(REST)
        except AssertionError as error:
            self._trace.append(str(error).splitlines()[0])

    def _look(self, number: int) -> None:
        if self._threads is not None:
            self._threads.look(f"before operation {number}")

    def _now_us(self) -> int:
        return self._cluster.clock.time_us()

    def _say(self, number: int, op: Op, outcome: str) -> None:
        self._trace.append(f"{self._cluster.clock.elapsed():.6f} {number} {op.verb}: {outcome}")

    def _hear(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        message, error = context.get("message", ""), context.get("exception")
        if isinstance(error, NodeStateError) and "never retrieved" in message:
            return  # the code that waited for it was killed with its node
        text = f"{message}: {error!r}"
        self.unexpected.append(Violation("UNEXPECTED", "event loop", text))


class _Complaints(logging.Handler):
    """Keeps the errors that nodes log with a traceback, but for those of the bodies of jobs."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[Violation] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.name != "peerjob.job":
            self.found.append(Violation("UNEXPECTED", record.name, f"{record.getMessage()}: {record.exc_info[1]!r}"))


def run(program: Program) -> Verdict:
    """Run a program on an event loop of its own."""
    logger, complaints = logging.getLogger("peerjob"), _Complaints()
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.ERROR)
    logger.addHandler(complaints)
    logger.propagate = False  # failures of bodies are no news
    try:
        runner = Runner(program)
        verdict = asyncio.run(runner.run())
        gc.collect()  # a task that is lost is heard of when it is collected
        gc.freeze()  # what is left stays for as long as the process, and the next run need not look at it
    finally:
        logger.removeHandler(complaints)
        logger.setLevel(level)
        logger.propagate = propagate
    verdict.violations[:0] = [*complaints.found, *runner.unexpected]
    return verdict
