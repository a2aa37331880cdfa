"""The manager's verbs about schedules, over a store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from msgspec import structs

from peerjob.cluster.backfill import backfill
from peerjob.cluster.fires import new_instance
from peerjob.handles.manager import Manager
from peerjob.handles.schedule import Backfill, FireEntry, Schedule, ScheduleView
from peerjob.model.clock import Clock, aware_us, to_datetime
from peerjob.model.definition import Definition, decode_definition, digest
from peerjob.model.errors import OptionError, StoreUnavailableError, UnknownScheduleError
from peerjob.model.firing import Fire, FireOutcome, FireStatus, SchedulePut, ScheduleRow
from peerjob.model.ids import IdSource
from peerjob.model.limits import MAX_NOTE, checked_text
from peerjob.model.query import MAX_LIMIT, ResultPage
from peerjob.model.record import NewInstance
from peerjob.model.recurrence import recurrence_of
from peerjob.store.base import Store
from peerjob.store.paging import all_schedules

from .job_schedules import COLLISION_WAIT, JobSchedules
from .schedule_changes import paused_for, put_of, readable, unchanged

ATTEMPTS = 50
"""How often a change is tried against others that change the same schedule."""
MAX_PREVIEW = 1_000


class ScheduleManager:
    """Reads and changes schedules on behalf of one manager.

    `now_us` is the store's time. `on_replaced` hears of each instance that had to make room for a trigger.
    """

    def __init__(
        self,
        *,
        store: Store,
        manager: Manager,
        clock: Clock,
        name: str,
        now_us: Callable[[], int],
        definitions: JobSchedules,
        on_replaced: Callable[[str], None],
    ) -> None:
        self._store = store
        self._manager = manager
        self._clock = clock
        self._name = name
        self._now_us = now_us
        self._definitions = definitions
        self._on_replaced = on_replaced
        self._ids = IdSource(clock)

    # -- reading -----------------------------------------------------------------------------------------------------

    async def all(self) -> list[Schedule]:
        await self._definitions.settle()
        return [Schedule(self._manager, row) for row in await all_schedules(self._store)]

    async def lookup(self, schedule: ScheduleView | str) -> Schedule:
        return Schedule(self._manager, await self._row(schedule))

    async def fires(
        self,
        schedule: ScheduleView | str,
        *,
        after: datetime | None,
        before: datetime | None,
        limit: int,
        cursor: str | None,
    ) -> ResultPage[FireEntry]:
        after_us = None if after is None else aware_us("after", after)
        before_us = None if before is None else aware_us("before", before)
        if not 1 <= limit <= MAX_LIMIT:
            raise OptionError("limit", limit, f"a number from 1 to {MAX_LIMIT:,}")
        row = await self._row(schedule)
        page = await self._store.fires(row.name, after_us=after_us, before_us=before_us, limit=limit, cursor=cursor)
        entries = [FireEntry(row.name, record) for record in page.records]
        if cursor is None and row.paused:
            pause = paused_for(row, self._now_us(), self._name)
            if (
                pause is not None
                and (after_us is None or max(pause.nominal_us, pause.until_us) >= after_us)
                and (before_us is None or pause.nominal_us < before_us)
            ):
                entries.append(FireEntry(row.name, pause, ongoing=True))
                entries.sort(key=lambda one: one.record.nominal_us, reverse=True)
        return ResultPage(entries, page.cursor)

    async def next_fires(self, schedule: ScheduleView | str, n: int) -> list[datetime]:
        if not 1 <= n <= MAX_PREVIEW:
            raise OptionError("n", n, f"a whole number from 1 to {MAX_PREVIEW:,}")
        row = await self._row(schedule)
        recurrence = recurrence_of(decode_definition(row.definition))
        moment = recurrence.next_after(max(self._now_us(), row.last_us)) if row.paused else row.next_us
        times: list[datetime] = []
        while moment is not None and len(times) < n:
            times.append(to_datetime(moment))
            moment = recurrence.next_after(moment)
        return times

    # -- changing ----------------------------------------------------------------------------------------------------

    async def add(self, name: str, definition: Definition) -> Schedule:
        """Make it, or change what is there; the same again changes nothing."""

        def change(row: ScheduleRow | None) -> SchedulePut | ScheduleRow:
            old = None if row is None else readable(row)
            wanted = definition
            if row is not None and old is not None:
                # what code wrote last, and in which version, decides what code may write next
                version = max(old.version, definition.version)
                wanted = structs.replace(definition, written=old.written, version=version)
                if digest(wanted) == digest(old):
                    return row
            return put_of(name, wanted, row, now_us=self._now_us(), node=self._name)

        return await self._change(name, change)

    async def pause(self, schedule: ScheduleView | str, note: str) -> Schedule:
        checked_text("note", note, MAX_NOTE, least=0)

        def change(found: ScheduleRow | None) -> SchedulePut | ScheduleRow:
            row = _there(schedule, found)
            if row.paused and row.note == note:
                return row
            return structs.replace(unchanged(row), paused=True, note=note)

        return await self._change(_name_of(schedule), change)

    async def resume(self, schedule: ScheduleView | str) -> Schedule:
        def change(found: ScheduleRow | None) -> SchedulePut | ScheduleRow:
            row = _there(schedule, found)
            if not row.paused:
                return row
            now_us = self._now_us()
            next_us = recurrence_of(decode_definition(row.definition)).next_after(max(now_us, row.last_us))
            account = paused_for(row, now_us, self._name)
            return structs.replace(unchanged(row), paused=False, note="", next_us=next_us, account=account)

        return await self._change(_name_of(schedule), change)

    async def remove(self, schedule: ScheduleView | str) -> bool:
        await self._definitions.settle()
        return await self._store.remove_schedule(_name_of(schedule), request=self._ids.one())

    async def trigger(self, schedule: ScheduleView | str) -> NewInstance | None:
        """What was enqueued; None when the overlap policy, or a key that is taken, was in the way."""
        id = self._ids.one()
        for _ in range(ATTEMPTS):
            row = await self._row(schedule)
            definition = decode_definition(row.definition)
            now_us = self._now_us()
            new = new_instance(
                definition, schedule=row.name, id=id, created_us=self._clock.time_us(), nominal_us=now_us
            )
            fire = Fire(
                schedule=row.name,
                revision=row.revision,
                nominal_us=now_us,
                outcome=FireOutcome.TRIGGERED,
                request=id,
                instance=new,
                overlap=definition.overlap,
                queue_limit=definition.queue_limit,
            )
            (answer,) = await self._store.fire([fire], term=None, node=self._name)
            if answer.status is FireStatus.DONE:
                record = answer.record
                if record is not None and record.cancelled:
                    self._on_replaced(record.cancelled)
                return new if record is not None and record.instance == id else None
            await self._collided()
        raise self._contended(_name_of(schedule))

    async def backfill(self, schedule: ScheduleView | str, start: datetime, end: datetime) -> Backfill:
        start_us, end_us = aware_us("start", start), aware_us("end", end)
        return await backfill(
            clock=self._clock,
            store=self._store,
            row=await self._row(schedule),
            start_us=start_us,
            end_us=end_us,
            ids=self._ids,
            now_us=self._now_us(),
            node=self._name,
        )

    async def _change(self, name: str, change: Callable[[ScheduleRow | None], SchedulePut | ScheduleRow]) -> Schedule:
        """Put what `change` makes of the row that is there; a row as the answer means that it stays so."""
        await self._definitions.settle()
        for _ in range(ATTEMPTS):
            (row,) = await self._store.get_schedules([name])
            wanted = change(row)
            if isinstance(wanted, ScheduleRow):
                return Schedule(self._manager, wanted)
            written = await self._store.put_schedule(wanted)
            if written is not None:
                return Schedule(self._manager, written)
            await self._collided()
        raise self._contended(name)

    async def _row(self, schedule: ScheduleView | str) -> ScheduleRow:
        await self._definitions.settle()
        (row,) = await self._store.get_schedules([_name_of(schedule)])
        return _there(schedule, row)

    async def _collided(self) -> None:
        await asyncio.sleep(self._clock.random.uniform(0, COLLISION_WAIT))

    def _contended(self, name: str) -> StoreUnavailableError:
        return StoreUnavailableError(self._store.url, f"schedule {name!r} changes all the time")


def _name_of(schedule: ScheduleView | str) -> str:
    if isinstance(schedule, str):
        return schedule
    if not isinstance(schedule, ScheduleView):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a checker
        raise TypeError(f"expected a Schedule or its name, not {type(schedule).__name__}")
    return schedule.name


def _there(schedule: ScheduleView | str, row: ScheduleRow | None) -> ScheduleRow:
    if row is None:
        raise UnknownScheduleError(_name_of(schedule))
    return row
