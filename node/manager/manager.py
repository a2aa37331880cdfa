"""The manager's verbs as a running node serves them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from msgspec import structs

from peerjob.handles.instance import HistoryEntry, Instance, LogEntry
from peerjob.handles.manager import Event, Manager, Stats
from peerjob.handles.schedule import Backfill, FireEntry, Schedule, ScheduleView
from peerjob.model.clock import Clock
from peerjob.model.durations import Duration, to_seconds
from peerjob.model.errors import NodeStateError, UnknownKindError
from peerjob.model.firing import Leader
from peerjob.model.injected import current_run
from peerjob.model.job import Call, Job, JobGroup, collect_jobs
from peerjob.model.query import Filter, Query, ResultPage
from peerjob.model.record import LogLine, LogPage, NodeView, Record
from peerjob.node.observe.listeners import call_listener
from peerjob.node.registry import Registry
from peerjob.node.runtime import NodeRuntime

from .loop_pauses import map_with_pauses
from .scheduling import Scheduling, fresh_record

if TYPE_CHECKING:
    from peerjob.node.observe.spans import Tracing

R = TypeVar("R")

logger = logging.getLogger("peerjob.node")

FOLLOW_INTERVAL = 0.5
"""Seconds before what follows a log looks for new lines."""

JobSource = Job[..., Any, Any] | JobGroup | str | Iterable[Any] | object


class NodeManager(Manager):
    """Checks what a caller gives, and hands it to the runtime; raises NodeStateError while there is none."""

    name: str
    clock: Clock
    _registry: Registry
    _scheduling: Scheduling
    _allow_unknown: bool
    _runtime: NodeRuntime | None
    _tracing: Tracing | None

    # -- jobs --------------------------------------------------------------------------------------------------------

    def register(self, source: JobSource) -> None:
        found = collect_jobs(source)
        defined = self._scheduling.defined(found)  # refuses before anything is added
        self._registry.add(found)
        if self._runtime is not None:
            self._runtime.definitions.add(defined)
            self._runtime.kinds_changed()

    def unregister(self, kind: str) -> Job[..., Any, Any]:
        job = self._registry.remove(kind)
        if self._runtime is not None:
            self._runtime.definitions.forget(job.kind)
            self._runtime.kinds_changed()
        return job

    def jobs(self) -> list[Job[..., Any, Any]]:
        return self._registry.jobs()

    def job(self, kind: str) -> Job[..., Any, Any]:
        return self._registry.job(kind)

    def find_job(self, kind: str) -> Job[..., Any, Any] | None:
        """The job of a kind or alias, if one is registered here."""
        return self._registry.find(kind)

    # -- scheduling --------------------------------------------------------------------------------------------------

    async def _schedule(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Instance[Any]:
        if isinstance(target, str):
            return await self._schedule_call(await self._resolved(target, args, kwargs))
        self._need_runtime()
        return await self._schedule_call(self._scheduling.resolve(target, args, kwargs))

    async def _resolved(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call[Any]:
        """The call that is meant, of a job that some node knows or that is served here from now on."""
        self._need_runtime()
        if isinstance(target, str) and not kwargs.pop("allow_unknown", self._allow_unknown):
            await self.check_known([target])
        return self._scheduling.resolve(target, args, kwargs)

    async def check_known(self, kinds: Iterable[str]) -> None:
        """Raise UnknownKindError for a kind that is not registered here and that no node has published."""
        runtime = self._need_runtime()
        for kind in dict.fromkeys(kinds):
            if self._registry.find(kind) is None and not await runtime.catalogue.knows(kind):
                known = {job.kind for job in self._registry.jobs()} | await runtime.catalogue.served()
                raise UnknownKindError(kind, sorted(known))

    def _adopt(self, jobs: Iterable[Job[..., Any, Any]]) -> None:
        """Serve jobs that are scheduled here and not registered, if this node has workers.

        Raises JobConflictError, with nothing registered, when another function is registered under a kind.
        """
        runtime = self._need_runtime()
        if not runtime.pool.size:
            return
        for job in self._registry.adopt(jobs):
            runtime.kinds_changed()
            logger.warning(
                "job %r was scheduled without being registered: node %r runs it from now on, and no other node does "
                "until it registers the job",
                job.kind,
                self.name,
            )

    async def _admit(self, kinds: Iterable[str]) -> None:
        """Raise StoreFullError for kinds that are not registered here and would be too many."""
        for kind in kinds:
            if self._registry.find(kind) is None:
                await self._need_runtime().catalogue.admit(kind)

    def _is_settled(self, runtime: NodeRuntime, job: Job[..., Any, Any]) -> bool:
        """Whether a job runs here, or its kind was looked up just now."""
        if runtime.pool.size:
            return self._registry.runs(job)
        return runtime.catalogue.needs_no_look(job.kind)

    async def is_served(self, kind: str) -> bool:
        """Whether this node or another live one runs a kind, as of the last few seconds."""
        runtime = self._need_runtime()
        served_here = runtime.pool.size > 0 and self._registry.binding(kind) is not None
        return served_here or await runtime.catalogue.check_served(kind)

    async def schedule_as(self, id: str, call: Call[R]) -> Instance[R]:
        """Like `schedule(call)`, under a UUIDv7 that the caller made: sent again, it is the same instance."""
        self._need_runtime()
        return await self._schedule_call(call, id)

    async def _schedule_call(self, call: Call[R], id: str = "") -> Instance[R]:
        if self._tracing is None:
            return await self._added(call, id)
        with self._tracing.scheduling([call.job.kind]):
            return await self._added(call, id)

    async def _added(self, call: Call[R], id: str) -> Instance[R]:
        runtime = self._need_runtime()
        new = self._scheduling.new(call)
        settled = self._is_settled(runtime, call.job)
        if not settled:
            self._adopt([call.job])
            await self._admit([new.kind])
        if id:
            new = structs.replace(new, id=id)
        answer = await runtime.enqueuer.add(new)
        if not settled:
            await self.is_served(new.kind)
        if not answer.is_new:
            return Instance(self, await runtime.instances.record(answer.id), job=call.job, is_new=False)
        return runtime.processor_calls.scheduled(call.job, fresh_record(new, self.clock.time_us()))

    async def schedule_many(self, calls: Iterable[Call[R]], *, ids: Sequence[str] = ()) -> list[Instance[R]]:
        """Store many runs, in batches; every call is checked before the first is stored. `ids` as in `schedule_as`."""
        self._need_runtime()
        given: Iterable[Any] = calls  # a kind as text is taken, too
        resolve = self._scheduling.resolve
        taken: list[Call[R]] = [
            await self._resolved(one, (), {}) if isinstance(one, str) else resolve(one, (), {}) for one in given
        ]
        if self._tracing is None:
            return await self._added_many(taken, ids)
        with self._tracing.scheduling([call.job.kind for call in taken]):
            return await self._added_many(taken, ids)

    async def _added_many(self, taken: Sequence[Call[R]], ids: Sequence[str]) -> list[Instance[R]]:
        runtime = self._need_runtime()
        new = await map_with_pauses(taken, self._scheduling.new)
        self._adopt({id(call.job): call.job for call in taken}.values())
        await self._admit({one.kind for one in new})
        if ids:
            new = [structs.replace(one, id=id) for one, id in zip(new, ids, strict=True)]
        answers = await runtime.enqueuer.add_many(new)
        for kind in {one.kind for one in new}:
            await self.is_served(kind)
        now = self.clock.time_us()
        instances: list[Instance[R]] = []
        for call, one, answer in zip(taken, new, answers, strict=True):
            if answer.is_new:
                instances.append(runtime.processor_calls.scheduled(call.job, fresh_record(one, now)))
            else:
                instances.append(Instance(self, await runtime.instances.record(answer.id), job=call.job, is_new=False))
        return instances

    # -- reading -----------------------------------------------------------------------------------------------------

    async def _lookup_instance(self, uuid: str | UUID, job: Job[..., Any, Any] | None) -> Instance[Any]:
        return await self._need_runtime().instances.instance(uuid, job)

    def read_result(self, record: Record, job: Job[..., Any, Any] | None = None) -> Any:
        return self._scheduling.read_result(record, job)

    async def lookup_instances(self, query: Query | None = None) -> ResultPage[Instance[Any]]:
        return await self._need_runtime().instances.instances(query)

    async def lookup_history(self, query: Query | None = None) -> ResultPage[HistoryEntry]:
        return await self._need_runtime().instances.history(query)

    async def lookup_logs(self, query: Query | None = None) -> ResultPage[LogEntry]:
        return await self._need_runtime().instances.log_lines(query)

    async def iter_logs(self, uuid: str | UUID, *, follow: bool = False) -> AsyncIterator[LogLine]:
        async for page in self.log_pages(uuid, follow=follow):
            for line in page.lines:
                yield line

    async def log_pages(
        self, uuid: str | UUID, *, cursor: str | None = None, follow: bool = False
    ) -> AsyncIterator[LogPage]:
        """Like `iter_logs`, in pages, from the cursor of another page on."""
        runtime = self._need_runtime()
        ended = not follow
        while True:
            async for page in runtime.instances.log_pages(uuid, cursor):
                yield page
                cursor = page.cursor
            if ended:
                return
            with contextlib.suppress(TimeoutError):
                await self.wait_final(uuid, FOLLOW_INTERVAL)
                ended = True  # what it logged is stored no later than its end, and is read now

    def keep_line(self, id: str, level: int, message: str, fields: Mapping[str, object] | None = None) -> None:
        if self._runtime is not None:
            self._runtime.log_lines.keep(id, level, message, fields=fields)

    async def count(self, query: Query | None = None) -> int:
        return await self._need_runtime().instances.count(query)

    async def due(self, kinds: Sequence[str] = ()) -> dict[str, int]:
        """How many instances of these kinds (none given: of all) could be claimed now; without kinds of none.

        Costs a count of each kind's queue, which on etcd grows with it; for what is asked now and then.
        """
        return await self._need_runtime().instances.due(kinds)

    async def stats(self) -> Stats:
        return await self._need_runtime().instances.stats()

    # -- cluster -----------------------------------------------------------------------------------------------------

    async def nodes(self) -> list[NodeView]:
        return await self._need_runtime().instances.nodes()

    async def leader(self) -> Leader | None:
        return self._need_runtime().election.leader

    # -- schedules ---------------------------------------------------------------------------------------------------

    async def _add_schedule(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Schedule:
        runtime = self._need_runtime()
        call = await self._resolved(target, args, kwargs)
        name, definition = self._scheduling.definition(call)
        self._adopt([call.job])
        await self._admit([definition.kind])
        added = await runtime.schedules.add(name, definition)
        await self.is_served(definition.kind)
        return added

    async def schedules(self) -> list[Schedule]:
        return await self._need_runtime().schedules.all()

    async def lookup_schedule(self, name: str) -> Schedule:
        return await self._need_runtime().schedules.lookup(name)

    async def pause_schedule(self, schedule: ScheduleView | str, note: str = "") -> Schedule:
        return await self._need_runtime().schedules.pause(schedule, note)

    async def resume_schedule(self, schedule: ScheduleView | str) -> Schedule:
        return await self._need_runtime().schedules.resume(schedule)

    async def trigger_schedule(self, schedule: ScheduleView | str) -> Instance[Any] | None:
        runtime = self._need_runtime()
        new = await runtime.schedules.trigger(schedule)
        if new is None:
            return None
        call_listener(f"instance {new.id}", runtime.processor_calls.made, new)
        return Instance(self, fresh_record(new, self.clock.time_us()))

    async def remove_schedule(self, schedule: ScheduleView | str) -> bool:
        return await self._need_runtime().schedules.remove(schedule)

    async def backfill(self, schedule: ScheduleView | str, start: datetime, end: datetime) -> Backfill:
        return await self._need_runtime().schedules.backfill(schedule, start, end)

    async def fires(
        self,
        schedule: ScheduleView | str,
        *,
        after: datetime | None = None,
        before: datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> ResultPage[FireEntry]:
        return await self._need_runtime().schedules.fires(
            schedule, after=after, before=before, limit=limit, cursor=cursor
        )

    async def next_fires(self, schedule: ScheduleView | str, n: int = 5) -> list[datetime]:
        return await self._need_runtime().schedules.next_fires(schedule, n)

    # -- acting ------------------------------------------------------------------------------------------------------

    async def cancel_instances(self, query: Query) -> list[Instance[Any]]:
        runtime = self._need_runtime()
        cancelled = await runtime.instances.cancel(query)
        for instance in cancelled:
            runtime.cancelled(instance)
        return cancelled

    async def cancel_instance(self, uuid: str | UUID) -> bool:
        runtime = self._need_runtime()
        done = await runtime.instances.cancel_one(uuid)
        if done:
            runtime.cancelled(await runtime.instances.instance(uuid))
        return done

    async def retry_instances(self, query: Query) -> list[Instance[Any]]:
        runtime = self._need_runtime()
        old = [instance async for instance in self.iter_instances(query) if instance.state.is_final]
        new = [self._scheduling.again(instance.record) for instance in old]
        await runtime.enqueuer.add_many(new)
        now = self.clock.time_us()
        return [runtime.processor_calls.scheduled(self._registry.find(one.kind), fresh_record(one, now)) for one in new]

    async def retry_instance(self, uuid: str | UUID) -> Instance[Any]:
        runtime = self._need_runtime()
        old = await runtime.instances.record(uuid)
        if not old.state.is_final:
            raise NodeStateError(f"instance {old.id} is {old.state!s}; only a final one can be repeated")
        new = self._scheduling.again(old)
        await runtime.enqueuer.add(new)
        return runtime.processor_calls.scheduled(self._registry.find(new.kind), fresh_record(new, self.clock.time_us()))

    async def clear_instances(self, filter: Filter | None = None) -> int:
        return await self._need_runtime().instances.clear_instances(filter)

    async def clear_history(self, filter: Filter | None = None) -> int:
        return await self._need_runtime().instances.clear_history(filter)

    async def clear_logs(self, filter: Filter | None = None) -> int:
        return await self._need_runtime().instances.clear_logs(filter)

    async def clear(self) -> None:
        await self._need_runtime().clear()

    # -- waiting -----------------------------------------------------------------------------------------------------

    async def wait_final(self, uuid: str | UUID, timeout: Duration | None = None) -> Record:
        runtime = self._need_runtime()
        seconds = None if timeout is None else to_seconds(timeout)
        async with self._passing(seconds):
            return await runtime.waiters.wait_final(uuid, seconds)

    async def wait(self, query: Query | None = None, timeout: Duration | None = None) -> None:
        runtime = self._need_runtime()
        seconds = None if timeout is None else to_seconds(timeout)
        async with self._passing(seconds):
            await runtime.waiters.wait_quiet(runtime.instances, query or Query(), seconds)

    def watch(
        self, query: Query | None = None, *, on_begin: Callable[[], Awaitable[object]] | None = None
    ) -> AsyncIterator[Event]:
        return self._need_runtime().watchers.events(query or Query(), on_begin)

    def _passing(self, timeout: float | None) -> contextlib.AbstractAsyncContextManager[None]:
        """Virtual time passes while a test waits. A wait in a job leaves that to the test, which may be in no hurry."""
        return self.clock.passing(timeout) if current_run.get() is None else contextlib.nullcontext()

    def _need_runtime(self) -> NodeRuntime:
        if self._runtime is None:
            raise NodeStateError(f"node {self.name!r} is not running; start it, or use `async with`")
        return self._runtime
