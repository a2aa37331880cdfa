"""A cluster of real nodes in one process, on one virtual clock."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from functools import cached_property
from typing import Any, ClassVar, ParamSpec, TypeVar, cast, overload
from uuid import UUID

from peerjob.handles.instance import Instance
from peerjob.handles.manager import Manager
from peerjob.model.durations import Duration
from peerjob.model.errors import NodeStateError
from peerjob.model.job import Call, Job
from peerjob.model.record import Record
from peerjob.node.node import Node

from .cluster_node import ClusterNode
from .journal import describe
from .operations import ClusterOperations

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class TestCluster(ClusterOperations):
    """Real nodes with a real election on one store in memory, in one process, on one virtual clock.

    Use it as an async context manager. Inside, `nodes` nodes run (a number, or their names; a number makes "node-1",
    "node-2", …), and one of them leads. Time moves only in `advance`, `run_until_idle` and the other coroutines of the
    cluster. `jobs`, `workers` and the other options apply to each node. An error that leaves the `async with` block
    shows the seed and the last events.

    - `start`: the first wall-clock time, an aware datetime or ISO 8601 text with an offset.
    - `seed`: the same seed gives the same course of events.
    - `latency`: the average time that a request or an answer of the store takes, at random. The requests of nodes then
      interleave, and a fault can hit a node between any two of its requests.
    - `jumps=False`: do not skip stretches of time in which the nodes only poll.
    """

    # the name begins with "Test", but pytest must not collect this class
    __test__: ClassVar[bool] = False

    @cached_property
    def _manager(self) -> _ReachableManager:
        return _ReachableManager(lambda: self._reachable().node, self._ask, self._until_final)

    @overload
    async def schedule(self, job: Job[P, R, Any], /, *args: P.args, **kwargs: P.kwargs) -> Instance[R]: ...
    @overload
    async def schedule(self, job: Call[R], /) -> Instance[R]: ...
    @overload
    async def schedule(self, job: str, /, *args: Any, **kwargs: Any) -> Instance[Any]: ...
    async def schedule(self, job: Any, /, *args: Any, **kwargs: Any) -> Instance[Any]:
        """Schedule one run through any node that is reachable; see `Manager.schedule`.

        The instance outlives that node: its verbs go to any reachable node. Waiting for it moves time on, by default
        for at most an hour.
        """
        made: Instance[Any] = await self._ask(lambda node: node.schedule(job, *args, **kwargs))
        return Instance(cast(Manager, self._manager), made.record, job=_job_of(job), is_new=made.is_new)

    async def advance(self, duration: Duration) -> None:
        """Let time pass: schedules fire, leases expire, backoffs and timeouts end."""
        await self.clock.advance(duration)

    async def run_until_idle(self, limit: Duration = "1h") -> None:
        """Let time pass until no instance is queued, delayed or running; raises AssertionError after `limit`."""
        if not await self.clock.until(lambda: not self._journal.is_active(), limit):
            rows = self._journal.rows()
            left = [describe(id, rows[id]) for id in self._journal.active()[:10]]
            self._fail(f"not idle after {limit} of virtual time: {'; '.join(left)}")
        await self.clock.settle()

    async def _ask(self, verb: Callable[[Node], Coroutine[Any, Any, T]]) -> T:
        """Call a method of a reachable node, and move time on until the node answers."""
        member = self._reachable()
        return await self._run(self._run_on(member, verb(member.node)))

    async def _until_final(self, id: str, limit: Duration) -> bool:
        return await self.clock.until(lambda: not self._journal.is_active(id), limit)

    def _reachable(self) -> ClusterNode:
        self.clock.check()
        for _, member in sorted(self._members.items()):
            if member.answers:
                return member
        raise NodeStateError("no node can be reached: each is dead, stopped, paused or cut off")


class _ReachableManager:
    """The manager of a cluster's instances: calls any reachable node, and moves time on meanwhile."""

    def __init__(
        self,
        reachable: Callable[[], Node],
        ask: Callable[[Callable[[Node], Coroutine[Any, Any, Any]]], Coroutine[Any, Any, Any]],
        until_final: Callable[[str, Duration], Coroutine[Any, Any, object]],
    ) -> None:
        self._reachable = reachable
        self._ask = ask
        self._until_final = until_final

    async def wait_final(self, uuid: str | UUID, timeout: Duration | None = None) -> Record:
        """Like `Manager.wait_final`, with a default timeout of an hour."""
        within = "1h" if timeout is None else timeout
        await self._until_final(str(uuid), within)
        instance: Instance[Any] = await self._ask(lambda node: node.lookup_instance(uuid))
        if not instance.state.is_final:
            raise TimeoutError(f"instance {uuid} is not final after {within} of virtual time")
        return instance.record

    def __getattr__(self, name: str) -> Any:
        if not inspect.iscoroutinefunction(getattr(Node, name)):
            return getattr(self._reachable(), name)

        async def verb(*args: Any, **kwargs: Any) -> Any:
            return await self._ask(lambda node: getattr(node, name)(*args, **kwargs))

        return verb


def _job_of(target: Any) -> Job[..., Any, Any] | None:
    if isinstance(target, Call):
        target = cast("Any", target).job
    return cast("Job[..., Any, Any]", target) if isinstance(target, Job) else None
