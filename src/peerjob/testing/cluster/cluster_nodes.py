"""The nodes of a test cluster: start, lookup and stop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from typing_extensions import Unpack

from peerjob.model.arguments import typed, whole_number
from peerjob.model.durations import Duration, format_seconds, to_seconds
from peerjob.model.errors import NodeStateError, NodeStoppedError, OptionError
from peerjob.model.limits import MAX_SEED
from peerjob.model.record import StoreLimits
from peerjob.node.manager.jobs import JobSource
from peerjob.node.node import Lifespan, Node
from peerjob.store.kv.format.keys import Keys
from peerjob.testing.helpers import ClusterOptions

from .assertions import Assertions
from .clocks import ClusterClock
from .cluster_node import ClusterNode
from .connections import SharedData
from .faults import Faults
from .journal import EventJournal
from .node_tasks import TaskSorter
from .time_jumps import TimeJumps

T = TypeVar("T")

START = "2026-01-01T00:00:00+00:00"
NAMESPACE = "default"
MAX_BOOT = 60.0
"""Virtual seconds in which the first nodes must start and elect a leader."""

MAX_NODES = 1_000
"""Most nodes that a test cluster starts by their number."""


class ClusterMembers(Assertions):
    """The part of a test cluster that starts, finds and stops nodes. `TestCluster` describes the options."""

    @typed
    def __init__(
        self,
        *,
        nodes: int | Sequence[str] = 3,
        jobs: JobSource = (),
        seed: int = 0,
        start: datetime | str = START,
        workers: int = 10,
        store_limits: StoreLimits | None = None,
        latency: Duration = 0,
        jumps: bool = True,
        **options: Unpack[ClusterOptions],
    ) -> None:
        self.seed = whole_number("seed", seed, -MAX_SEED, MAX_SEED)
        self._names = _names(nodes)
        self._jobs = jobs
        self._workers = workers
        self._store_limits = store_limits or StoreLimits()
        self._options = options
        self._latency = to_seconds(latency, "latency")
        self._jumps_allowed = jumps
        self._data = SharedData()
        self._members: dict[str, ClusterNode] = {}
        self._starts = 0
        self._entered = False
        self._task_sorter: TaskSorter
        self.clock = ClusterClock(moment_of(start), seed)
        """The cluster's clock, which has no error. The clocks of the nodes follow the cluster's clock."""
        self._journal = EventJournal(self._data, NAMESPACE, self.clock)
        self._faults = Faults(self._journal.log)
        self._time_jumps = TimeJumps(
            clock=self.clock,
            data=self._data,
            journal=self._journal,
            members=self._members.values,
            is_disturbed=self._is_disturbed,
            keys=Keys(NAMESPACE),
            ttl_us=round(to_seconds(options.get("lease_ttl", 5.0), "lease_ttl") * 1_000_000),
        )

    # -- start and stop -----------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._entered:
            raise NodeStateError("a TestCluster is entered once: make a new one")
        self.clock.open()
        self._entered = True
        self._task_sorter = TaskSorter()
        self._task_sorter.install()
        try:
            with self.clock.standing():
                await self._boot()
        except BaseException:
            await self._close()
            raise
        for member in self._members.values():
            # the wall clock moves again after the start of all nodes: let each node check which schedules are due
            member.poll(claim=False)
        self._time_jumps.remember_disturbance()
        if self._jumps_allowed:
            self.clock.before_rest = self._time_jumps.jump_if_idle
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and self._trace_mark not in str(error):
            error.add_note(self._trace_text())
        await self._close()

    async def _boot(self) -> None:
        for name in self._names:
            await self._run(self._start(self._new_member(name)))
        if not await self.clock.until(self._is_led, MAX_BOOT):
            self._fail(f"no node leads {format_seconds(MAX_BOOT)} after the start")
        self._journal.log(f"{len(self._names)} node(s) run, {self.leader.name} leads")

    def _new_member(self, name: str) -> ClusterNode:
        self._starts += 1
        before = self._members.get(name)
        member = self._members[name] = ClusterNode(
            name,
            task_sorter=self._task_sorter,
            driver=self.clock,
            data=self._data,
            namespace=NAMESPACE,
            limits=self._store_limits,
            seed=f"{self.seed}/{name}/{self._starts}",
            faults=self._faults,
            journal=self._journal,
            latency=self._latency,
            make=self._make,
        )
        if before is not None:
            member.inherit_faults(before)
        return member

    async def _start(self, member: ClusterNode) -> None:
        try:
            await self._run_on(member, member.node.start())
        finally:
            member.starting = False

    def _make(self, member: ClusterNode) -> Node:
        options = self._options.copy()
        options["lifespan"] = self._lifespan(member)
        return Node(
            member.store,
            jobs=self._jobs,
            workers=self._workers,
            name=member.name,
            namespace=NAMESPACE,
            clock=member.clock,
            coordinator=member.elections,
            store_limits=self._store_limits,
            **options,
        )

    def _lifespan(self, member: ClusterNode) -> Lifespan:
        @contextlib.asynccontextmanager
        async def lifespan(node: Node) -> AsyncGenerator[None]:
            member.watch_bodies()
            given = self._options.get("lifespan")
            async with contextlib.nullcontext() if given is None else given(node):
                yield

        return lifespan

    async def _close(self) -> None:
        self.clock.before_rest = lambda: False
        try:
            self._faults.clear()
            members = [member for member in self._members.values() if not member.tasks.dropped]
            for member in members:
                self._heal(member)
                if member.tasks.paused:
                    member.resume()
            stops = [self._run_on(member, member.node.stop()) for member in members if member.node.running]
            if stops:
                await self.clock.run(asyncio.gather(*stops, return_exceptions=True))
        finally:
            self._task_sorter.uninstall()
            self.clock.close()
            self._journal.close()

    # -- nodes --------------------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> list[Node]:
        """Nodes whose process exists, paused ones included, by name."""
        return [member.node for _, member in sorted(self._members.items()) if member.lives]

    def node(self, name: str) -> Node:
        """Return the latest start of the node with this name; raises NodeStateError for an unknown name."""
        return self._member(name).node

    @property
    def leader(self) -> Node:
        """The node that may fire schedules now; raises NodeStateError while no node may, as after a leader's death."""
        for member in self._members.values():
            if member.is_leader:
                return member.node
        raise NodeStateError("no node leads at this moment; `await cluster.elected()` moves time on until one does")

    async def elected(self, limit: Duration = "1m") -> Node:
        """Move time on until a node leads, and return it; raises TimeoutError after `limit` of virtual time."""
        if not await self.clock.until(self._is_led, limit):
            raise TimeoutError(f"no node leads after {limit} of virtual time")
        return self.leader

    def _is_led(self) -> bool:
        return any(member.is_leader for member in self._members.values())

    def _is_disturbed(self) -> bool:
        return self._faults.planned or any(member.is_disturbed for member in self._members.values() if member.lives)

    def _log_operation(self, text: str) -> None:
        """Record a fault. Time jumps stay off until the cluster has had time to recover."""
        self.clock.check()
        self._journal.log(text)
        self._time_jumps.remember_disturbance()

    @property
    def faults(self) -> Faults:
        """Planned faults of store calls, and counts of those that happened."""
        return self._faults

    # -- helpers ------------------------------------------------------------------------------------------------------

    async def _run(self, work: Coroutine[Any, Any, T], limit: Duration = "1h") -> T:
        return await self.clock.run(work, limit)

    async def _run_on(self, member: ClusterNode, work: Coroutine[Any, Any, T]) -> T:
        """Await work as a task of a node; raises NodeStoppedError if the node is killed before the work ends."""
        task = self._task_sorter.start(member.tasks, work)
        try:
            await asyncio.wait(
                [cast("asyncio.Future[Any]", task), member.tasks.end], return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            if not (task.done() or member.tasks.dropped):
                task.cancel()
        if member.tasks.dropped and not task.done():
            raise NodeStoppedError(f"node {member.name!r} was killed before it answered; it may have done the work")
        return await task

    def _member(self, node: Node | str) -> ClusterNode:
        name = node.name if isinstance(node, Node) else cast(Any, node)
        if not isinstance(name, str):
            raise OptionError("node", node, "a Node, or the name of one")
        member = self._members.get(name)
        if member is None:
            there = ", ".join(sorted(self._members)) or "none outside `async with`"
            raise NodeStateError(f"no node is called {name!r}; there are {there}")
        return member

    def _need(self, node: Node | str) -> ClusterNode:
        member = self._member(node)
        if not member.lives:
            raise NodeStateError(f"node {member.name!r} {'still starts' if member.starts else 'does not run'}")
        return member

    def _heal(self, member: ClusterNode) -> None:
        for link in (member.store_link, member.coordinator_link):
            if link.cut:
                link.heal()


def _names(nodes: int | Sequence[str]) -> list[str]:
    if isinstance(nodes, int) and not isinstance(nodes, bool) and 1 <= nodes <= MAX_NODES:
        return [f"node-{number}" for number in range(1, nodes + 1)]
    names: list[Any] = list(nodes) if isinstance(nodes, Sequence) and not isinstance(nodes, str) else []
    if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
        raise OptionError("nodes", nodes, f"a whole number from 1 to {MAX_NODES:,}, or names that differ")
    return names


def moment_of(start: datetime | str) -> datetime:
    """Parse a `start`; raises OptionError."""
    expected = 'an aware datetime, or ISO 8601 text with an offset such as "2026-10-24T22:00+02:00"'
    try:
        moment = datetime.fromisoformat(start) if isinstance(start, str) else start
    except ValueError:
        raise OptionError("start", start, expected) from None
    if not isinstance(cast(Any, moment), datetime) or moment.tzinfo is None:
        raise OptionError("start", start, expected)
    return moment
