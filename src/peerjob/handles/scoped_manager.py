"""A manager within the kinds of a caller: each verb, limited by the rules of `KindScope`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import replace
from datetime import datetime
from operator import attrgetter
from typing import Any, TypeVar, cast
from uuid import UUID

from msgspec import structs

from peerjob.model.activity import Activity
from peerjob.model.audit import AuditRecord
from peerjob.model.child_tasks import AsyncClosing
from peerjob.model.durable import FLOW_KIND, SignalAnswer, StepPage
from peerjob.model.durations import Duration
from peerjob.model.errors import UnknownKindError
from peerjob.model.firing import Leader
from peerjob.model.flow import Flow
from peerjob.model.job import Call, Job
from peerjob.model.query import Filter, Query, ResultPage
from peerjob.model.record import LogLine, NodeView, Record
from peerjob.model.rights import Rights
from peerjob.model.signal import Signal
from peerjob.model.stored_limit import InstanceLimits, KeyLimitPage, LimitPage

from .entries import HistoryEntry, LogEntry
from .flow_instance import FlowInstance
from .instance import Event, Instance
from .kind_scope import KindScope
from .manager import Manager
from .registered_job import RegisteredJob
from .schedule import Backfill, FireEntry, Schedule, ScheduleView
from .stats import Stats

R = TypeVar("R")
T = TypeVar("T")

MAX_LOOKUPS = 20
"""The most pages of all kinds that one lookup reads for a page of its own kinds."""


class ScopedManager(Manager):
    """The verbs of a manager, for the kinds of rights that are limited to kinds.

    Other kinds do not exist here. Verbs that concern all kinds raise AuthError. A lookup reads at most `lookups` pages
    of all kinds for a page of its own kinds.
    """

    def __init__(self, manager: Manager, rights: Rights, *, lookups: int = MAX_LOOKUPS) -> None:
        self._manager = manager
        self._scope = KindScope(rights)
        self._lookups = lookups
        self.clock = manager.clock
        self.keep_audit = manager.keep_audit  # type: ignore[method-assign]

    # -- jobs --------------------------------------------------------------------------------------------------------

    def register(self, source: object) -> None:
        self._scope.refuse_whole("a registration")

    def unregister(self, kind: str) -> Job[..., Any, Any]:
        self._scope.refuse_whole("a registration")

    def jobs(self) -> list[Job[..., Any, Any]]:
        return self._scope.own_items(self._manager.jobs())

    def job(self, kind: str) -> Job[..., Any, Any]:
        self._scope.check_included(kind)
        return self._manager.job(kind)

    async def registered_jobs(self, kind: str | None = None, *, schemas: bool = False) -> list[RegisteredJob]:
        return self._scope.own_items(await self._manager.registered_jobs(kind, schemas=schemas))

    async def kinds_behind(self, kinds: Iterable[str]) -> dict[str, set[str]]:
        """For each kind or alias, the kinds that nodes run for it, also those that do not exist here."""
        given = list(kinds)
        behind = getattr(self._manager, "kinds_behind", None)
        return {kind: {kind} for kind in given} if behind is None else await behind(given)

    # -- scheduling --------------------------------------------------------------------------------------------------

    async def _schedule(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Instance[Any]:
        self._scope.check_included(_kind_of(target))
        schedule: Any = self._manager.schedule
        return cast("Instance[Any]", await self._known(schedule(target, *args, **kwargs)))

    async def schedule_as(self, id: str, call: Call[R]) -> Instance[R]:
        self._scope.check_included(call.job.kind)
        return await self._known(self._manager.schedule_as(id, call))

    async def schedule_many(self, calls: Iterable[Call[R]]) -> list[Instance[R]]:
        taken = list(calls)
        for call in taken:
            self._scope.check_included(call.job.kind)
        return await self._known(self._manager.schedule_many(taken))

    async def schedule_flow(
        self, flow: Flow, *, tags: Iterable[str] = (), id: str | UUID | None = None
    ) -> FlowInstance:
        for member in flow:
            self._scope.check_included(member.call.job.kind)
        return await self._known(self._manager.schedule_flow(flow, tags=tags, id=id))

    async def _known(self, made: Awaitable[T]) -> T:
        try:
            return await made
        except UnknownKindError as error:
            raise self._scope.masked(error) from None

    # -- reading -----------------------------------------------------------------------------------------------------

    async def _lookup_instance(self, uuid: str | UUID, job: Job[..., Any, Any] | None) -> Instance[Any]:
        return await self._scope.instance(self._manager, uuid)

    async def lookup_instances(self, query: Query | None = None) -> ResultPage[Instance[Any]]:
        return await self._page(self._manager.lookup_instances, query, "id")

    async def lookup_history(self, query: Query | None = None) -> ResultPage[HistoryEntry]:
        return await self._page(self._manager.lookup_history, query, "instance_id")

    async def lookup_logs(self, query: Query | None = None) -> ResultPage[LogEntry]:
        return await self._page(self._manager.lookup_logs, query, "instance_id")

    async def _page(
        self, look_up: Callable[[Query], Awaitable[ResultPage[Any]]], query: Query | None, id_field: str
    ) -> ResultPage[Any]:
        query = query or Query()
        if query.kind is not None and query.kind != FLOW_KIND:
            self._scope.check_included(query.kind)
        return await self._scope.page(look_up, query, attrgetter(id_field), most=self._lookups)

    async def _step_page(self, id: str, cursor: str | None = None) -> StepPage:
        await self._lookup_instance(id, None)
        return await self._manager._step_page(id, cursor)

    async def iter_logs(self, uuid: str | UUID, *, follow: bool = False) -> AsyncIterator[LogLine]:
        await self._lookup_instance(uuid, None)
        async for line in self._manager.iter_logs(uuid, follow=follow):
            yield line

    async def count(self, query: Query | None = None) -> int:
        query = query or Query()
        if query.kind is not None or query.id is not None:
            await self._scope.check_query(self._manager, query)
            return await self._manager.count(query)
        kinds = (await self.stats()).counts
        return sum([await self._manager.count(replace(query, kind=kind)) for kind in kinds])

    async def stats(self) -> Stats:
        return self._scope.stats(await self._manager.stats())

    async def activity(self, minutes: int = 60) -> Activity:
        return self._scope.activity(await self._manager.activity(minutes))

    # -- acting ------------------------------------------------------------------------------------------------------

    async def cancel_instances(self, query: Query) -> list[Instance[Any]]:
        await self._scope.check_query(self._manager, query, acting="a cancel")
        return await self._manager.cancel_instances(query)

    async def cancel_instance(self, uuid: str | UUID) -> bool:
        await self._lookup_instance(uuid, None)
        return await self._manager.cancel_instance(uuid)

    async def run_now(self, uuid: str | UUID, *, id: str | UUID | None = None) -> bool:
        await self._lookup_instance(uuid, None)
        return await self._manager.run_now(uuid, id=id)

    async def _signal(self, id: str, signal: Signal[Any], value: Any) -> SignalAnswer:
        await self._lookup_instance(id, None)
        return await self._manager._signal(id, signal, value)

    async def retry_instances(self, query: Query, *, id: str | UUID | None = None) -> list[Instance[Any]]:
        await self._scope.check_query(self._manager, query, acting="a retry")
        return await self._manager.retry_instances(query, id=id)

    async def retry_instance(self, uuid: str | UUID, *, id: str | UUID | None = None) -> Instance[Any]:
        await self._lookup_instance(uuid, None)
        return await self._manager.retry_instance(uuid, id=id)

    async def clear_instances(self, filter: Filter | None = None) -> int:
        self._scope.refuse_whole("a removal")

    async def clear_history(self, filter: Filter | None = None) -> int:
        self._scope.refuse_whole("a removal")

    async def clear_logs(self, filter: Filter | None = None) -> int:
        self._scope.refuse_whole("a removal")

    async def clear(self) -> None:
        self._scope.refuse_whole("a removal")

    # -- schedules ---------------------------------------------------------------------------------------------------

    async def _add_schedule(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Schedule:
        self._scope.check_included(_kind_of(target))
        return await self._known(self._manager.add_schedule(target, *args, **kwargs))

    async def schedules(self) -> list[Schedule]:
        return self._scope.own_items(await self._manager.schedules())

    async def lookup_schedule(self, name: str) -> Schedule:
        return await self._scope.schedule(self._manager, name)

    async def _named(self, schedule: ScheduleView | str) -> Schedule:
        return await self.lookup_schedule(schedule if isinstance(schedule, str) else schedule.name)

    async def pause_schedule(self, schedule: ScheduleView | str, note: str = "") -> Schedule:
        return await self._manager.pause_schedule(await self._named(schedule), note)

    async def resume_schedule(self, schedule: ScheduleView | str) -> Schedule:
        return await self._manager.resume_schedule(await self._named(schedule))

    async def trigger_schedule(
        self, schedule: ScheduleView | str, *, id: str | UUID | None = None
    ) -> Instance[Any] | None:
        return await self._manager.trigger_schedule(await self._named(schedule), id=id)

    async def remove_schedule(self, schedule: ScheduleView | str) -> bool:
        return await self._manager.remove_schedule(await self._named(schedule))

    async def backfill(self, schedule: ScheduleView | str, start: datetime, end: datetime) -> Backfill:
        return await self._manager.backfill(await self._named(schedule), start, end)

    async def fires(
        self,
        schedule: ScheduleView | str,
        *,
        after: datetime | None = None,
        before: datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> ResultPage[FireEntry]:
        own = await self._named(schedule)
        return await self._manager.fires(own, after=after, before=before, limit=limit, cursor=cursor)

    async def next_fires(self, schedule: ScheduleView | str, n: int = 5) -> list[datetime]:
        return await self._manager.next_fires(await self._named(schedule), n)

    # -- cluster -----------------------------------------------------------------------------------------------------

    async def nodes(self) -> list[NodeView]:
        return [self._scope.node(view) for view in await self._manager.nodes()]

    async def leader(self) -> Leader | None:
        return await self._manager.leader()

    async def audit(self, limit: int = 100) -> list[AuditRecord]:
        self._scope.refuse_whole("the audit log")

    async def drain(self, timeout: Duration | None = None, *, node: str | None = None) -> str:
        self._scope.refuse_whole("a drain")

    async def undrain(self, *, node: str | None = None) -> str:
        self._scope.refuse_whole("a drain")

    async def resize_workers(self, n: int, *, node: str | None = None) -> str:
        self._scope.refuse_whole("a resize")

    # -- limits ------------------------------------------------------------------------------------------------------

    async def set_limit(
        self,
        name: str,
        *,
        concurrency: int | None = None,
        rate: str | None = None,
        burst: int | None = None,
        note: str = "",
    ) -> None:
        self._scope.refuse_whole("a setting of a limit")

    async def set_key_limit(self, kind: str, *, concurrency: int | None = None, note: str = "") -> None:
        self._scope.refuse_whole("a setting of a limit")

    async def pause_kind(self, kind: str, note: str = "") -> None:
        self._scope.refuse_whole("a pause of a kind")

    async def resume_kind(self, kind: str) -> None:
        self._scope.refuse_whole("a pause of a kind")

    async def _limit_page(self, cursor: str | None = None) -> LimitPage:
        page = await self._manager._limit_page(cursor)
        return LimitPage(self._scope.limits(page.views), page.cursor)

    async def _key_limit_page(
        self, kind: str, prefix: str, waiting_only: bool, cursor: str | None = None
    ) -> KeyLimitPage:
        self._scope.check_included(kind)
        return await self._manager._key_limit_page(kind, prefix, waiting_only, cursor)

    async def _limits_of(self, uuid: str | UUID) -> InstanceLimits:
        await self._lookup_instance(uuid, None)
        limits = await self._manager._limits_of(uuid)
        return structs.replace(limits, limits=self._scope.limits(limits.limits))

    # -- waiting -----------------------------------------------------------------------------------------------------

    async def wait_final(self, uuid: str | UUID, timeout: Duration | None = None) -> Record:
        await self._lookup_instance(uuid, None)
        return await self._manager.wait_final(uuid, timeout)

    async def wait(self, query: Query | None = None, timeout: Duration | None = None) -> None:
        await self._scope.check_query(self._manager, query or Query(), acting="a wait")
        await self._manager.wait(query, timeout)

    async def watch(
        self, query: Query | None = None, *, on_begin: Callable[[], Awaitable[object]] | None = None
    ) -> AsyncIterator[Event]:
        async with AsyncClosing(cast("Any", self._manager.watch(query, on_begin=on_begin))) as events:
            async for event in events:
                if self._scope.includes_instance(event.instance):
                    yield event

    async def watch_instance(self, uuid: str | UUID) -> AsyncIterator[Event]:
        await self._lookup_instance(uuid, None)
        async with AsyncClosing(cast("Any", self._manager.watch_instance(uuid))) as events:
            async for event in events:
                yield event


def _kind_of(target: Any) -> str:
    """The kind of what can be scheduled: a kind, a job or a call."""
    return str(target if isinstance(target, str) else getattr(target, "job", target).kind)
