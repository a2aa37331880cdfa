"""A manager within the kinds of a reader, as the gRPC service limits the calls of such a token."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from itertools import count
from typing import Any, NoReturn, TypeVar, cast
from uuid import UUID

from msgspec import structs

from peerjob.handles.entries import HistoryEntry, LogEntry
from peerjob.handles.instance import Event, Instance
from peerjob.handles.manager import Manager, Stats
from peerjob.handles.registered_job import RegisteredJob
from peerjob.handles.schedule import Backfill, FireEntry, Schedule, ScheduleView
from peerjob.model.activity import Activity, KindActivity
from peerjob.model.audit import AuditRecord
from peerjob.model.durations import Duration
from peerjob.model.errors import AuthError, UnknownInstanceError, UnknownKindError, UnknownScheduleError
from peerjob.model.firing import Leader
from peerjob.model.job import Call, Job
from peerjob.model.own_cursors import own_cursor
from peerjob.model.query import Filter, Query, ResultPage
from peerjob.model.record import LogLine, NodeInfo, NodeView, Record
from peerjob.model.rights import Rights

R = TypeVar("R")
T = TypeVar("T")

MAX_LOOKUPS = 20
"""The most pages of all kinds that one lookup reads for a page of its own kinds."""


class ScopedManager(Manager):
    """The verbs of a manager, for the kinds of some rights only.

    Other kinds do not exist here. Verbs that concern all kinds raise AuthError.
    """

    def __init__(self, manager: Manager, rights: Rights) -> None:
        self._manager = manager
        self._rights = rights
        self.clock = manager.clock
        self.keep_audit = manager.keep_audit  # type: ignore[method-assign]

    def _check(self, kind: str) -> None:
        if not self._rights.include(kind):
            raise AuthError(f"kind {kind!r} is not one of {', '.join(self._rights.kinds)}, to which you are limited")

    def _whole(self, what: str) -> NoReturn:
        raise AuthError(f"{what} concerns all kinds, and you are limited to {', '.join(self._rights.kinds)}")

    async def _check_query(self, query: Query) -> None:
        if query.kind is not None:
            self._check(query.kind)
        elif query.id is not None:
            await self._lookup_instance(query.id, None)
        else:
            self._whole("an action without a kind")

    # -- jobs --------------------------------------------------------------------------------------------------------

    def register(self, source: object) -> None:
        self._whole("a registration")

    def unregister(self, kind: str) -> Job[..., Any, Any]:
        self._whole("a registration")

    def jobs(self) -> list[Job[..., Any, Any]]:
        return [one for one in self._manager.jobs() if self._rights.include(one.kind)]

    def job(self, kind: str) -> Job[..., Any, Any]:
        self._check(kind)
        return self._manager.job(kind)

    async def registered_jobs(self, kind: str | None = None, *, schemas: bool = False) -> list[RegisteredJob]:
        found = await self._manager.registered_jobs(kind, schemas=schemas)
        return [one for one in found if self._rights.include(one.kind)]

    async def kinds_behind(self, kinds: Iterable[str]) -> dict[str, set[str]]:
        """For each kind or alias, the kinds that nodes run for it, also those that do not exist here."""
        given = list(kinds)
        behind = getattr(self._manager, "kinds_behind", None)
        return {kind: {kind} for kind in given} if behind is None else await behind(given)

    # -- scheduling --------------------------------------------------------------------------------------------------

    async def _schedule(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Instance[Any]:
        self._check(_kind_of(target))
        schedule: Any = self._manager.schedule
        return cast("Instance[Any]", await self._known(schedule(target, *args, **kwargs)))

    async def schedule_as(self, id: str, call: Call[R]) -> Instance[R]:
        self._check(call.job.kind)
        return await self._known(self._manager.schedule_as(id, call))

    async def schedule_many(self, calls: Iterable[Call[R]]) -> list[Instance[R]]:
        taken = list(calls)
        for one in taken:
            self._check(one.job.kind)
        return await self._known(self._manager.schedule_many(taken))

    async def _known(self, made: Awaitable[T]) -> T:
        try:
            return await made
        except UnknownKindError as error:
            # the error lists the kinds that are known
            raise UnknownKindError(error.kind, [one for one in error.known if self._rights.include(one)]) from None

    # -- reading -----------------------------------------------------------------------------------------------------

    async def _lookup_instance(self, uuid: str | UUID, job: Job[..., Any, Any] | None) -> Instance[Any]:
        found = await self._manager.lookup_instance(uuid)
        if not self._rights.include(found.kind):
            raise UnknownInstanceError(found.id)
        return found

    async def lookup_instances(self, query: Query | None = None) -> ResultPage[Instance[Any]]:
        """Look up a page; it can be short, and have a cursor, if the next instances are of other kinds."""
        query = query or Query()
        if query.kind is not None:
            self._check(query.kind)
        found, cursor = list[Instance[Any]](), query.cursor
        for number in count(1):
            page = await self._manager.lookup_instances(replace(query, cursor=cursor, limit=query.limit - len(found)))
            found += [one for one in page if self._rights.include(one.kind)]
            cursor = page.cursor
            if cursor is None:
                break
            if len(found) >= query.limit or number >= MAX_LOOKUPS:
                own = own_cursor(cursor, found[-1].id if found else None, query.cursor, query.order)
                if own is not None:
                    return ResultPage(found, own)
        return ResultPage(found, None)

    async def lookup_history(self, query: Query | None = None) -> ResultPage[HistoryEntry]:
        page = await self._manager.lookup_history(query)
        return ResultPage([one for one in page if self._rights.include(one.kind)], page.cursor)

    async def lookup_logs(self, query: Query | None = None) -> ResultPage[LogEntry]:
        page = await self._manager.lookup_logs(query)
        return ResultPage([one for one in page if self._rights.include(one.kind)], page.cursor)

    async def iter_logs(self, uuid: str | UUID, *, follow: bool = False) -> AsyncIterator[LogLine]:
        await self._lookup_instance(uuid, None)
        async for line in self._manager.iter_logs(uuid, follow=follow):
            yield line

    async def count(self, query: Query | None = None) -> int:
        query = query or Query()
        if query.kind is not None or query.id is not None:
            await self._check_query(query)
            return await self._manager.count(query)
        kinds = (await self.stats()).counts
        return sum([await self._manager.count(replace(query, kind=kind)) for kind in kinds])

    async def stats(self) -> Stats:
        stats = await self._manager.stats()
        return replace(stats, counts=self._own(stats.counts), unserved=self._own(stats.unserved))

    async def activity(self, minutes: int = 60) -> Activity:
        activity = await self._manager.activity(minutes)
        zeros = (0,) * len(activity.others.started)
        others = KindActivity(started=zeros, completed=zeros, failed=zeros, retried=zeros, cancelled=zeros)
        return replace(activity, kinds=self._own(dict(activity.kinds)), others=others)

    def _own(self, by_kind: dict[str, T]) -> dict[str, T]:
        return {kind: value for kind, value in by_kind.items() if self._rights.include(kind)}

    # -- acting ------------------------------------------------------------------------------------------------------

    async def cancel_instances(self, query: Query) -> list[Instance[Any]]:
        await self._check_query(query)
        return await self._manager.cancel_instances(query)

    async def cancel_instance(self, uuid: str | UUID) -> bool:
        await self._lookup_instance(uuid, None)
        return await self._manager.cancel_instance(uuid)

    async def run_now(self, uuid: str | UUID, *, id: str | UUID | None = None) -> bool:
        await self._lookup_instance(uuid, None)
        return await self._manager.run_now(uuid, id=id)

    async def retry_instances(self, query: Query, *, id: str | UUID | None = None) -> list[Instance[Any]]:
        await self._check_query(query)
        return await self._manager.retry_instances(query, id=id)

    async def retry_instance(self, uuid: str | UUID, *, id: str | UUID | None = None) -> Instance[Any]:
        await self._lookup_instance(uuid, None)
        return await self._manager.retry_instance(uuid, id=id)

    async def clear_instances(self, filter: Filter | None = None) -> int:
        self._whole("a removal")

    async def clear_history(self, filter: Filter | None = None) -> int:
        self._whole("a removal")

    async def clear_logs(self, filter: Filter | None = None) -> int:
        self._whole("a removal")

    async def clear(self) -> None:
        self._whole("a removal")

    # -- schedules ---------------------------------------------------------------------------------------------------

    async def _add_schedule(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Schedule:
        self._check(_kind_of(target))
        return await self._known(self._manager.add_schedule(target, *args, **kwargs))

    async def schedules(self) -> list[Schedule]:
        return [one for one in await self._manager.schedules() if self._rights.include(one.kind)]

    async def lookup_schedule(self, name: str) -> Schedule:
        found = await self._manager.lookup_schedule(name)
        if not self._rights.include(found.kind):
            raise UnknownScheduleError(name)
        return found

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
        found = await self._named(schedule)
        return await self._manager.fires(found, after=after, before=before, limit=limit, cursor=cursor)

    async def next_fires(self, schedule: ScheduleView | str, n: int = 5) -> list[datetime]:
        return await self._manager.next_fires(await self._named(schedule), n)

    # -- cluster -----------------------------------------------------------------------------------------------------

    async def nodes(self) -> list[NodeView]:
        return [structs.replace(one, info=self._within(one.info)) for one in await self._manager.nodes()]

    def _within(self, info: NodeInfo) -> NodeInfo:
        # the descriptors stand in the order of the kinds
        kinds = tuple(filter(self._rights.include, info.kinds))
        return structs.replace(info, kinds=kinds, descriptors=b"", signatures=self._own(info.signatures))

    async def leader(self) -> Leader | None:
        return await self._manager.leader()

    async def audit(self, limit: int = 100) -> list[AuditRecord]:
        self._whole("the audit log")

    async def drain(self, timeout: Duration | None = None, *, node: str | None = None) -> str:
        self._whole("a drain")

    async def undrain(self, *, node: str | None = None) -> str:
        self._whole("a drain")

    async def resize_workers(self, n: int, *, node: str | None = None) -> str:
        self._whole("a resize")

    # -- waiting -----------------------------------------------------------------------------------------------------

    async def wait_final(self, uuid: str | UUID, timeout: Duration | None = None) -> Record:
        await self._lookup_instance(uuid, None)
        return await self._manager.wait_final(uuid, timeout)

    async def wait(self, query: Query | None = None, timeout: Duration | None = None) -> None:
        await self._check_query(query or Query())
        await self._manager.wait(query, timeout)

    async def watch(
        self, query: Query | None = None, *, on_begin: Callable[[], Awaitable[object]] | None = None
    ) -> AsyncIterator[Event]:
        async with aclosing(cast("Any", self._manager.watch(query, on_begin=on_begin))) as events:
            async for event in events:
                if self._rights.include(event.instance.kind):
                    yield event

    async def watch_instance(self, uuid: str | UUID) -> AsyncIterator[Event]:
        await self._lookup_instance(uuid, None)
        async with aclosing(cast("Any", self._manager.watch_instance(uuid))) as events:
            async for event in events:
                yield event


def _kind_of(target: Any) -> str:
    """The kind of what can be scheduled: a kind, a job or a call."""
    return str(target if isinstance(target, str) else getattr(target, "job", target).kind)
