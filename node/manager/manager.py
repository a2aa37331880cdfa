"""All verbs of a node: those for instances, jobs and schedules, and those that store new instances."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from msgspec import structs

from peerjob.handles.instance import Instance
from peerjob.model.errors import NodeStateError
from peerjob.model.firing import Leader
from peerjob.model.job import Call, Job
from peerjob.model.query import Query
from peerjob.model.record import NodeView, Record

from .call_encoder import fresh_record
from .instances import NodeInstanceManager
from .loop_pauses import map_with_pauses
from .schedules import NodeScheduleManager

if TYPE_CHECKING:
    from peerjob.node.observe.spans import Tracing

R = TypeVar("R")


class NodeManager(NodeInstanceManager, NodeScheduleManager):
    """The manager that a node is: checks each call, and raises NodeStateError while the node is not running."""

    _tracing: Tracing | None

    # -- scheduling --------------------------------------------------------------------------------------------------

    async def _schedule(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Instance[Any]:
        if isinstance(target, str):
            return await self._schedule_call(await self._resolve(target, args, kwargs))
        self._need_runtime()
        return await self._schedule_call(self._call_encoder.resolve(target, args, kwargs))

    async def schedule_as(self, id: str, call: Call[R]) -> Instance[R]:
        """Like `schedule(call)`, under a UUIDv7 of the caller, so that a repeated call stores no second instance."""
        self._need_runtime()
        return await self._schedule_call(call, id)

    async def _schedule_call(self, call: Call[R], id: str = "") -> Instance[R]:
        if self._tracing is None:
            return await self._add(call, id)
        with self._tracing.scheduling([call.job.kind]):
            return await self._add(call, id)

    async def _add(self, call: Call[R], id: str) -> Instance[R]:
        runtime = self._need_runtime()
        new = self._call_encoder.new(call)
        checked = self._needs_no_check(runtime, call.job)
        if not checked:
            self._adopt([call.job])
            await self._admit([new.kind])
        if id:
            new = structs.replace(new, id=id)
        answer = await runtime.enqueuer.add(new)
        if not checked:
            await self.is_served(new.kind)
        if not answer.is_new:
            return Instance(self, await runtime.records.record(answer.id), job=call.job, is_new=False)
        return runtime.changes.scheduled(call.job, fresh_record(new, self.clock.time_us()))

    async def schedule_many(self, calls: Iterable[Call[R]], *, ids: Sequence[str] = ()) -> list[Instance[R]]:
        """Store many runs, in batches; check every call before storing the first. `ids` as in `schedule_as`."""
        self._need_runtime()
        given: Iterable[Any] = calls  # an item can also be a kind as text, although the signature does not say so
        resolve = self._call_encoder.resolve
        taken: list[Call[R]] = [
            await self._resolve(one, (), {}) if isinstance(one, str) else resolve(one, (), {}) for one in given
        ]
        if self._tracing is None:
            return await self._add_many(taken, ids)
        with self._tracing.scheduling([call.job.kind for call in taken]):
            return await self._add_many(taken, ids)

    async def _add_many(self, calls: Sequence[Call[R]], ids: Sequence[str]) -> list[Instance[R]]:
        runtime = self._need_runtime()
        new = await map_with_pauses(calls, self._call_encoder.new)
        self._adopt({id(call.job): call.job for call in calls}.values())
        await self._admit({one.kind for one in new})
        if ids:
            new = [structs.replace(one, id=id) for one, id in zip(new, ids, strict=True)]
        answers = await runtime.enqueuer.add_many(new)
        for kind in {one.kind for one in new}:
            await self.is_served(kind)
        now = self.clock.time_us()
        instances: list[Instance[R]] = []
        for call, one, answer in zip(calls, new, answers, strict=True):
            if answer.is_new:
                instances.append(runtime.changes.scheduled(call.job, fresh_record(one, now)))
            else:
                instances.append(Instance(self, await runtime.records.record(answer.id), job=call.job, is_new=False))
        return instances

    async def retry_instances(self, query: Query) -> list[Instance[Any]]:
        runtime = self._need_runtime()
        old = [instance async for instance in self.iter_instances(query) if instance.state.is_final]
        new = [self._call_encoder.again(instance.record) for instance in old]
        await runtime.enqueuer.add_many(new)
        now = self.clock.time_us()
        return [runtime.changes.scheduled(self.find_job(one.kind), fresh_record(one, now)) for one in new]

    async def retry_instance(self, uuid: str | UUID) -> Instance[Any]:
        runtime = self._need_runtime()
        old = await runtime.records.record(uuid)
        if not old.state.is_final:
            raise NodeStateError(f"instance {old.id} is {old.state!s}; only a final one can be repeated")
        new = self._call_encoder.again(old)
        await runtime.enqueuer.add(new)
        return runtime.changes.scheduled(self.find_job(new.kind), fresh_record(new, self.clock.time_us()))

    def read_result(self, record: Record, job: Job[..., Any, Any] | None = None) -> Any:
        return self._call_encoder.read_result(record, job)

    # -- cluster -----------------------------------------------------------------------------------------------------

    async def nodes(self) -> list[NodeView]:
        views, now_us = await self._open_store().nodes(), self._store_time_us()
        return [structs.replace(view, age_us=max(0, now_us - view.renewed_us)) for view in views]

    async def leader(self) -> Leader | None:
        return self._need_runtime().election.leader
