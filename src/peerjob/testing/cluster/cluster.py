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

from .journal import words_of
from .member import Member
from .operations import ClusterOperations

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class TestCluster(ClusterOperations):
    """Real nodes with a real election on one store in memory, in one process, on one virtual clock.

    Use it as an async context manager: inside, `nodes` nodes run ("node-1", "node-2", …; or give their names), one of
    them leads, and the wall clock shows `start`: an aware datetime, or ISO 8601 text with an offset. Time moves only
    in `advance`, `run_until_idle` and the other coroutines of the cluster, and jumps over stretches in which nothing
    happens (`jumps=False`: never). With a `latency`, each request and answer of the store is under way for so long on
    average, at random: the steps of nodes then come between one another, and a fault may meet a node between any two of
    its requests. The same `seed` gives the same course of events. `jobs`, `workers` and the other
    options are those of each node. An error that leaves the `async with` block tells the seed and the last events.
    """

    __test__: ClassVar[bool] = False  # no class of tests, whatever pytest makes of its name

    @cached_property
    def _anyone(self) -> _Anyone:
        return _Anyone(lambda: self._reachable().node, self._ask, self._until_final)

    @overload
    async def schedule(self, job: Job[P, R, Any], /, *args: P.args, **kwargs: P.kwargs) -> Instance[R]: ...
    @overload
    async def schedule(self, job: Call[R], /) -> Instance[R]: ...
    @overload
    async def schedule(self, job: str, /, *args: Any, **kwargs: Any) -> Instance[Any]: ...
    async def schedule(self, job: Any, /, *args: Any, **kwargs: Any) -> Instance[Any]:
        """Schedule one run through a node that can be reached; see `Manager.schedule`.

        The instance outlives that node: its verbs go to whichever node can be reached, and waiting for it moves time
        on, for an hour at most where no timeout is given.
        """
        made: Instance[Any] = await self._ask(lambda node: node.schedule(job, *args, **kwargs))
        return Instance(cast(Manager, self._anyone), made.record, job=_job_of(job), is_new=made.is_new)

    async def advance(self, duration: Duration) -> None:
        """Let so much time pass: schedules fire, leases run out, backoffs and timeouts end."""
        await self.clock.advance(duration)

    async def run_until_idle(self, limit: Duration = "1h") -> None:
        """Let time pass until nothing is queued, delayed or running; raises AssertionError after `limit` of it."""
        if not await self.clock.until(lambda: not self._journal.is_active(), limit):
            rows = self._journal.rows()
            left = [words_of(id, rows[id]) for id in self._journal.active()[:10]]
            self._fail(f"not idle after {limit} of virtual time: {'; '.join(left)}")
        await self.clock.settle()

    async def _ask(self, verb: Callable[[Node], Coroutine[Any, Any, T]]) -> T:
        """Have a node that can be reached do something, and move time on for as long as it takes."""
        member = self._reachable()
        return await self._run(self._in_lane(member, verb(member.node)))

    async def _until_final(self, id: str, limit: Duration) -> bool:
        return await self.clock.until(lambda: not self._journal.is_active(id), limit)

    def _reachable(self) -> Member:
        self.clock.check()
        for _, member in sorted(self._members.items()):
            if member.answers:
                return member
        raise NodeStateError("no node can be reached: each is dead, stopped, paused or cut off")


class _Anyone:
    """The manager of a cluster's instances: asks whichever node can be reached, and moves time on meanwhile."""

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
        """As `Manager.wait_final`, for an hour at most where no timeout is given."""
        within = "1h" if timeout is None else timeout
        await self._until_final(str(uuid), within)
        found: Instance[Any] = await self._ask(lambda node: node.lookup_instance(uuid))
        if not found.state.is_final:
            raise TimeoutError(f"instance {uuid} is not final after {within} of virtual time")
        return found.record

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
