"""The base of a node's verbs, and the verbs for jobs: register a job, schedule runs of it, and wait for a result."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import UUID

from peerjob.cluster.loop_thread import running_loop
from peerjob.handles.instance import Instance
from peerjob.handles.manager import Manager
from peerjob.model.call_list import CallList
from peerjob.model.durable import FLOW_KIND
from peerjob.model.durations import Duration, to_seconds
from peerjob.model.errors import (
    ArgumentError,
    NodeStateError,
    OptionError,
    StoreError,
    StoreUnavailableError,
    UnknownInstanceError,
    UnknownKindError,
)
from peerjob.model.ids import checked_id, checked_new_id
from peerjob.model.injected import current_run
from peerjob.model.job import Call, Job, JobGroup, collect_jobs
from peerjob.model.record import MAX_BATCH, Enqueued, NewInstance, Record
from peerjob.node.body.registry import Registry
from peerjob.node.runtime import NodeRuntime
from peerjob.store.base import Store

from .batches import MAX_READ
from .call_encoder import CallEncoder, fresh_history, fresh_record
from .loop_pauses import list_with_pauses

if TYPE_CHECKING:
    from peerjob.node.observe.spans import Tracing

R = TypeVar("R")
T = TypeVar("T")

logger = logging.getLogger("peerjob.node")

IDS_TOGETHER = 100
"""Most ids that a bulk call makes at a time. All of 100,000 calls would block the event loop for 30 ms."""
BULK_PAGE = 3 * MAX_READ
"""Instances that a verb for many reads and changes at a time. Each can have megabytes of arguments and results."""

JobSource = Job[..., Any, Any] | JobGroup | str | Iterable[Any] | object


class NodeJobManager(Manager):
    """The verbs of a node for jobs. A node has a runtime from its start to its stop; its verbs work in between."""

    name: str
    _store: Store
    _registry: Registry
    _call_encoder: CallEncoder
    _allow_unknown: bool
    _tracing: Tracing | None
    _runtime: NodeRuntime | None
    _registered_us: dict[str, int]
    """Kind → the time of its registration here."""
    _process = 0
    """The id of the process that started the node."""

    @property
    def _is_forked(self) -> bool:
        """Whether this process is a child that was forked after the start of the node."""
        return self._runtime is not None and self._process != os.getpid()

    @property
    def running(self) -> bool:
        """Whether the node is started and not stopped."""
        return self._runtime is not None

    def _need_runtime(self) -> NodeRuntime:
        """Return the runtime; raises NodeStateError if it is not running, in another event loop, and after a fork."""
        runtime = self._runtime
        if runtime is None:
            raise NodeStateError(f"node {self.name!r} is not running; start it, or use `async with`")
        if self._process != os.getpid():
            raise NodeStateError(forked_text(self.name))
        loop = running_loop()
        if loop is runtime.loop:
            return runtime
        if runtime.loop.is_closed():
            raise NodeStateError(closed_loop_text(self.name))
        if loop is not None:
            raise NodeStateError(
                f"node {self.name!r} was started in another event loop: call it there, for example with "
                "asyncio.run_coroutine_threadsafe(), or in a job with a parameter of type BlockingManager"
            )
        return runtime

    def _open_store(self) -> Store:
        """Return the store; raises NodeStateError while the node is not running."""
        self._need_runtime()
        return self._store

    def _store_time_us(self) -> int:
        return self._need_runtime().lease.time.time_us()

    def _passing(self, timeout: float | None) -> contextlib.AbstractAsyncContextManager[None]:
        """Let virtual time pass while the caller waits. A wait inside a job moves no time: only the test does."""
        return self.clock.passing(timeout) if current_run.get() is None else contextlib.nullcontext()

    # -- jobs --------------------------------------------------------------------------------------------------------

    def register(self, source: JobSource) -> None:
        jobs = collect_jobs(source)
        # make the definitions first, so that an invalid definition raises before any job is added
        defined = self._call_encoder.defined(jobs)
        self._registry.add(jobs)
        self._remember_registered()
        if self._runtime is not None:
            self._runtime.job_schedules.add(defined)
            self._runtime.kinds_changed()

    def _remember_registered(self) -> None:
        now_us = self.clock.time_us()
        self._registered_us = {job.kind: self._registered_us.get(job.kind, now_us) for job in self._registry.jobs()}

    def unregister(self, kind: str) -> Job[..., Any, Any]:
        job = self._registry.remove(kind)
        if self._runtime is not None:
            self._runtime.job_schedules.forget(job.kind)
            self._runtime.kinds_changed()
        return job

    def jobs(self) -> list[Job[..., Any, Any]]:
        return self._registry.jobs()

    def job(self, kind: str) -> Job[..., Any, Any]:
        return self._registry.job(kind)

    def find_job(self, kind: str) -> Job[..., Any, Any] | None:
        """The job of a kind or alias, if it is registered here."""
        return self._registry.find(kind)

    async def check_known(self, kinds: Iterable[str]) -> None:
        """Raise UnknownKindError for a kind that is neither registered here nor published by a node."""
        catalogue = self._need_runtime().catalogue
        for kind in dict.fromkeys(kinds):
            if self._registry.find(kind) is None and not await catalogue.knows(kind):
                known = {job.kind for job in self._registry.jobs()} | await catalogue.served()
                raise UnknownKindError(kind, sorted(known - {FLOW_KIND}))

    async def kinds_behind(self, kinds: Iterable[str]) -> dict[str, set[str]]:
        """For each kind or alias, the kinds that nodes run for it: this node, and others by what they publish."""
        catalogue = self._need_runtime().catalogue
        own = {kind: job.kind if (job := self._registry.find(kind)) is not None else kind for kind in kinds}
        if not all(map(catalogue.is_prepared, own.values())):
            await catalogue.prepare(own.values())
        behind: dict[str, set[str]] = {}
        for kind, stored in own.items():
            rule = catalogue.rule_of(stored)
            behind[kind] = {stored, *(description.runs for description in (rule.described if rule is not None else ()))}
        return behind

    async def is_served(self, kind: str) -> bool:
        """Whether this node or another live node runs a kind, as of the last few seconds."""
        runtime = self._need_runtime()
        served_here = runtime.pool.size > 0 and self._registry.binding(kind) is not None
        return served_here or await runtime.catalogue.check_served(kind)

    async def _resolve(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call[Any]:
        """Make the call of `schedule(target, ...)`; raises UnknownKindError for a kind that no node knows."""
        self._need_runtime()
        if isinstance(target, str) and not kwargs.pop("allow_unknown", self._allow_unknown):
            await self.check_known([target])
        return self._call_encoder.resolve(target, args, kwargs)

    def _adopt(self, jobs: Iterable[Job[..., Any, Any]]) -> None:
        """Serve jobs that are scheduled here and not registered, if this node has workers.

        Raises JobConflictError, with nothing registered, if another function is registered under a kind.
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
        """Raise StoreFullError if one of these kinds is new, and the namespace has reached its limit of kinds."""
        for kind in kinds:
            if self._registry.find(kind) is None:
                await self._need_runtime().catalogue.admit(kind)

    def _needs_no_check(self, runtime: NodeRuntime, job: Job[..., Any, Any]) -> bool:
        """Whether this node runs the job or, without workers, has looked up the kind in the last few seconds."""
        if runtime.pool.size:
            return self._registry.runs(job)
        return runtime.catalogue.needs_no_look(job.kind, registered=self._registry.find(job.kind) is not None)

    # -- kinds whose code is elsewhere -------------------------------------------------------------------------------

    def _is_elsewhere(self, job: Job[..., Any, Any]) -> bool:
        """Whether neither the job nor this node has the code of the kind, so that other nodes say how to call it."""
        return job.executor is None and self._registry.binding(job.kind) is None

    async def _prepare(self, kinds: Iterable[str], *, again: bool = False) -> None:
        """Read how to call the kinds whose code is elsewhere; with `again`, read it anew."""
        elsewhere = [kind for kind in kinds if self._registry.binding(kind) is None]
        if elsewhere:
            await self._need_runtime().catalogue.prepare(elsewhere, again=again)

    async def _made(self, jobs: Iterable[Job[..., Any, Any]], make: Callable[..., T], *given: Iterable[Any]) -> list[T]:
        """Make something of each call of these jobs, as `map(make, *given)` does.

        Before a call is refused, its kind is read anew: a new build may accept it.
        """
        kinds = {job.kind for job in jobs if self._is_elsewhere(job)}
        if kinds:
            await self._prepare(kinds)
            with contextlib.suppress(ArgumentError, OptionError):
                return await list_with_pauses(map(make, *given))
            await self._prepare(kinds, again=True)
        return await list_with_pauses(map(make, *given))

    # -- scheduling --------------------------------------------------------------------------------------------------

    # Each coroutine on the way to the store costs time at each resumption. So methods that only pass a call on return
    # the coroutine of the next method.

    def _schedule(
        self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Coroutine[Any, Any, Instance[Any]]:
        if isinstance(target, str):
            return self._schedule_kind(target, args, kwargs)
        runtime = self._need_runtime()
        return self._schedule_call(runtime, self._call_encoder.resolve(target, args, kwargs))

    async def _schedule_kind(self, kind: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Instance[Any]:
        call = await self._resolve(kind, args, kwargs)
        return await self._schedule_call(self._need_runtime(), call)

    async def schedule_as(self, id: str, call: Call[R]) -> Instance[R]:
        runtime = self._need_runtime()
        return await self._schedule_call(runtime, call, checked_new_id(id, self.clock.time_us()))

    def _schedule_call(self, runtime: NodeRuntime, call: Call[R], id: str = "") -> Coroutine[Any, Any, Instance[R]]:
        if self._tracing is None:
            return self._add(runtime, call, id)
        return self._add_traced(self._tracing, runtime, call, id)

    async def _add_traced(self, tracing: Tracing, runtime: NodeRuntime, call: Call[R], id: str) -> Instance[R]:
        with tracing.scheduling([call.job.kind]):
            return await self._add(runtime, call, id)

    async def _add(self, runtime: NodeRuntime, call: Call[R], id: str) -> Instance[R]:
        new: NewInstance | None = None
        if not self._is_elsewhere(call.job):
            new = self._call_encoder.new(call, id)
        elif runtime.catalogue.is_prepared(call.job.kind):
            with contextlib.suppress(ArgumentError, OptionError):  # `_made` reads the kind anew, then raises
                new = self._call_encoder.new(call, id)
        if new is None:
            (new,) = await self._made([call.job], self._call_encoder.new, [call], [id])
        checked = self._needs_no_check(runtime, call.job)
        if not checked:
            self._adopt([call.job])
            await self._admit([new.kind])
        answer = await runtime.enqueuer.add(new)
        if not checked:
            await self.is_served(new.kind)
        if answer.is_new and not (id and answer.repeated):
            return runtime.changes.scheduled(call.job, fresh_record(new, self.clock.time_us()))
        return await self._added_before(runtime, call.job, new, answer, id)

    async def _added_before(
        self, runtime: NodeRuntime, job: Job[..., Any, Any], new: NewInstance, answer: Enqueued, id: str
    ) -> Instance[Any]:
        """The instance that the store had already: with the key of `new`, or with the id that the caller chose."""
        if not answer.is_new:
            return Instance(self, await runtime.records.record(answer.id), job=job, is_new=False)
        return self._stored_before(new, await runtime.records.find(id), job)

    def schedule_directly(
        self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], id: str | None = None
    ) -> Instance[Any] | Coroutine[Any, Any, Instance[Any]]:
        runtime = self._need_runtime()
        if id is not None and not isinstance(target, Call):
            return self.schedule_as(id, target)  # it refuses what is no call
        if isinstance(target, str):
            return self._schedule_kind(target, args, kwargs)
        call = self._call_encoder.resolve(cast("object", target), args, kwargs)
        stored = self._store_directly(runtime, call, "" if id is None else checked_new_id(id, self.clock.time_us()))
        if isinstance(stored, NewInstance):
            return Instance(self, fresh_record(stored, self.clock.time_us()), job=call.job)
        return stored

    def store_directly(self, call: Call[Any]) -> str | Coroutine[Any, Any, Instance[Any]]:
        stored = self._store_directly(self._need_runtime(), call, "")
        return stored.id if isinstance(stored, NewInstance) else stored

    def _store_directly(
        self, runtime: NodeRuntime, call: Call[Any], id: str
    ) -> NewInstance | Coroutine[Any, Any, Instance[Any]]:
        """Store one run, and return what is stored now, or a coroutine that finds or stores the instance."""
        job, direct = call.job, runtime.direct_calls
        is_plain = self._tracing is None and job.policy.on_state_change is None and not self._is_elsewhere(job)
        if direct is None or not is_plain or not self._needs_no_check(runtime, job):
            return self._schedule_call(runtime, call, id)
        new = self._call_encoder.new(call, id)
        began = self.clock.elapsed()
        try:
            (answer,) = direct.enqueue([new], node=self.name)
        except StoreUnavailableError:
            if self.clock.elapsed() - began > direct.retry_for:
                raise
            return self._add_again(runtime, job, new, id)
        if answer.is_new and not (id and answer.repeated):
            return new
        return self._added_before(runtime, job, new, answer, id)

    async def _add_again(
        self, runtime: NodeRuntime, job: Job[..., Any, Any], new: NewInstance, id: str
    ) -> Instance[Any]:
        """Store an instance that the store has perhaps stored already; it has the same id, so nothing comes twice."""
        answer = await runtime.enqueuer.add(new)
        if answer.is_new and not (id and answer.repeated):
            return runtime.changes.scheduled(job, fresh_record(new, self.clock.time_us()))
        return await self._added_before(runtime, job, new, answer, id)

    async def schedule_many(self, calls: Iterable[Call[R]], *, ids: Sequence[str] = ()) -> list[Instance[R]]:
        """Store many runs, in batches; check every call before storing the first. `ids` as in `schedule_as`."""
        self._need_runtime()
        now_us = self.clock.time_us()
        ids = [checked_new_id(id, now_us) for id in ids]
        given: Iterable[Any] = calls  # an item can also be a kind as text, although the signature does not say so
        taken: list[Call[R]] = [
            target if target.__class__ is Call else await self._resolve(target, (), {}) for target in given
        ]
        if ids and len(ids) != len(taken):
            raise ValueError(f"{len(ids)} ids for {len(taken)} calls")
        if self._tracing is None:
            return await self._add_many(taken, ids)
        with self._tracing.scheduling([call.job.kind for call in taken]):
            return await self._add_many(taken, ids)

    async def _add_many(self, calls: Sequence[Call[R]], ids: Sequence[str]) -> list[Instance[R]]:
        runtime = self._need_runtime()
        jobs = {id(call.job): call.job for call in calls}.values()
        parts = map(self._call_encoder.ids.take, itertools.repeat(min(len(calls), IDS_TOGETHER)))
        new_ids = ids or itertools.chain.from_iterable(parts)
        new: Iterable[NewInstance] | None = None
        if len(calls) > MAX_BATCH and len(jobs) == 1:
            new = await self._call_encoder.plain(calls, new_ids)
        if new is None:
            new = await self._new_instances(calls, new_ids)
        else:
            await self._take_in(jobs, {job.kind for job in jobs})
        instances: list[Instance[R] | None] = [None] * len(calls)
        earlier: dict[int, tuple[NewInstance, Enqueued]] = {}

        def added(first: int, batch: Sequence[NewInstance], answers: Sequence[Enqueued]) -> None:
            now, scheduled = self.clock.time_us(), runtime.changes.scheduled
            history = fresh_history(now)
            for at, (instance, answer) in enumerate(zip(batch, answers, strict=True), first):
                if answer.is_new and not (answer.repeated and ids):
                    instances[at] = scheduled(calls[at].job, fresh_record(instance, now, history))
                else:
                    earlier[at] = instance, answer

        await runtime.enqueuer.add_many(new, added)
        for kind in {job.kind for job in jobs}:
            await self.is_served(kind)
        # a repeated call finds all its instances stored, so they are read together
        try:
            stored = await runtime.records.find_many([answer.id for _, answer in earlier.values()]) if earlier else {}
        except StoreError as error:
            error.is_unsure = True  # the batches are stored
            raise
        for at, (instance, answer) in earlier.items():
            job = calls[at].job
            if ids and answer.repeated:
                instances[at] = self._stored_before(instance, stored.get(instance.id), job)
            elif answer.id in stored:
                instances[at] = Instance(self, stored[answer.id], job=job, is_new=False)
            else:
                raise UnknownInstanceError(answer.id)
        return cast("list[Instance[R]]", instances)

    async def _new_instances(
        self, calls: Sequence[Call[Any]] | CallList[Any], ids: Iterable[str] = ()
    ) -> list[NewInstance]:
        """Check calls, and make the instances to store, with these ids; without ids for the children of a body."""
        of_each = calls.jobs if isinstance(calls, CallList) else (call.job for call in calls)
        jobs = {id(job): job for job in of_each}.values()
        new = await self._made(jobs, self._call_encoder.new, calls, ids or itertools.repeat(""))
        await self._take_in(jobs, {instance.kind for instance in new})
        return new

    async def _take_in(self, jobs: Iterable[Job[..., Any, Any]], kinds: Iterable[str]) -> None:
        self._adopt(jobs)
        await self._admit(kinds)

    def _children_made(self, instances: Sequence[NewInstance]) -> None:
        """Call the processors of children that this node has stored."""
        changes = self._need_runtime().changes
        for instance in instances:
            changes.made(instance)

    def _stored_before(self, new: NewInstance, record: Record | None, job: Job[..., Any, Any] | None) -> Instance[Any]:
        """The instance that the store had under the id of `new`; `record` is what the store has now.

        Raises OptionError for an instance of another kind: it is not what the caller asked for.
        """
        if record is None:  # it was removed
            return Instance(self, fresh_record(new, self.clock.time_us()), job=job, is_new=False)
        if record.kind != new.kind and (job is None or record.kind not in job.aliases):
            # without its kind, which the caller is perhaps not allowed to see
            raise OptionError("uuid", new.id, "an id that no instance of another kind has")
        if record.spec == new.spec:  # the store did not answer at first, and got the same request again
            return self._need_runtime().changes.scheduled(job, record)
        return Instance(self, record, job=job, is_new=False)

    # -- results -----------------------------------------------------------------------------------------------------

    async def wait_final(self, uuid: str | UUID, timeout: Duration | None = None) -> Record:
        runtime = self._need_runtime()
        seconds = None if timeout is None else to_seconds(timeout)
        id = checked_id(uuid)
        async with self._passing(seconds):
            try:
                return await runtime.waiters.final(id, seconds)
            except TimeoutError:
                raise TimeoutError(f"instance {id} is not final after {seconds:g} s") from None

    def read_result(self, record: Record, job: Job[..., Any, Any] | None = None) -> Any:
        return self._call_encoder.read_result(record, job)


def closed_loop_text(node: str) -> str:
    """What became of a node whose event loop was closed, and what to do."""
    return (
        f"the event loop of node {node!r} was closed without a stop: await its stop() in the present event loop, which "
        "releases it, and start it again"
    )


def forked_text(node: str) -> str:
    """What became of a node in a forked child, and what to do."""
    return (
        f"node {node!r} was started before a fork, and runs in the parent: make another node in this process, or one "
        "with Node(...).blocking() before the fork"
    )
