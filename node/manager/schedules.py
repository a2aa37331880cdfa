"""The verbs for schedules."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec import structs

from peerjob.cluster.fires import new_instance
from peerjob.handles.instance import Instance
from peerjob.handles.schedule import Backfill, FireEntry, Schedule, ScheduleView, name_of
from peerjob.model.arguments import whole_number
from peerjob.model.clock import aware_us, to_datetime
from peerjob.model.definition import decode_definition, digest
from peerjob.model.errors import OptionError, StoreUnavailableError, UnknownScheduleError
from peerjob.model.firing import Fire, FireOutcome, FireStatus, SchedulePut, ScheduleRow
from peerjob.model.ids import checked_new_id, id_time_us
from peerjob.model.limits import MAX_NOTE, checked_text
from peerjob.model.query import MAX_LIMIT, ResultPage
from peerjob.model.record import Record
from peerjob.model.recurrence import recurrence_of
from peerjob.model.spec import decode_spec
from peerjob.store.paging import all_schedules

from .backfill import backfill
from .call_encoder import fresh_record
from .job_schedules import MAX_CONFLICT_WAIT
from .jobs import NodeJobManager
from .schedule_changes import decoded, paused_for, put_of, unchanged

MAX_ATTEMPTS = 50
"""How often a change is tried while other callers change the same schedule."""
MAX_PREVIEW = 1_000


class NodeScheduleManager(NodeJobManager):
    """The verbs of a node for schedules."""

    # -- reading -----------------------------------------------------------------------------------------------------

    async def schedules(self) -> list[Schedule]:
        await self._need_runtime().job_schedules.flush()
        return [Schedule(self, row) for row in await all_schedules(self._store)]

    async def lookup_schedule(self, name: str) -> Schedule:
        return Schedule(self, await self._row(name))

    async def fires(
        self,
        schedule: ScheduleView | str,
        *,
        after: datetime | None = None,
        before: datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> ResultPage[FireEntry]:
        self._need_runtime()
        after_us = None if after is None else aware_us("after", after)
        before_us = None if before is None else aware_us("before", before)
        whole_number("limit", limit, 1, MAX_LIMIT)
        row = await self._row(schedule)
        page = await self._store.fires(row.name, after_us=after_us, before_us=before_us, limit=limit, cursor=cursor)
        entries = [FireEntry(row.name, record) for record in page.records]
        if cursor is None and row.paused:
            pause = paused_for(row, self._store_time_us(), self.name)
            if (
                pause is not None
                and (after_us is None or max(pause.nominal_us, pause.until_us) >= after_us)
                and (before_us is None or pause.nominal_us < before_us)
            ):
                entries.append(FireEntry(row.name, pause, ongoing=True))
                entries.sort(key=lambda entry: entry.record.nominal_us, reverse=True)
        return ResultPage(entries, page.cursor)

    async def next_fires(self, schedule: ScheduleView | str, n: int = 5) -> list[datetime]:
        self._need_runtime()
        whole_number("n", n, 1, MAX_PREVIEW)
        row = await self._row(schedule)
        recurrence = recurrence_of(decode_definition(row.definition))
        moment = recurrence.next_after(max(self._store_time_us(), row.last_us)) if row.paused else row.next_us
        times: list[datetime] = []
        while moment is not None and len(times) < n:
            times.append(to_datetime(moment))
            moment = recurrence.next_after(moment)
        return times

    # -- changing ----------------------------------------------------------------------------------------------------

    async def _add_schedule(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Schedule:
        call = await self._resolve(target, args, kwargs)
        ((name, definition),) = await self._made([call.job], self._call_encoder.definition, [call])
        self._adopt([call.job])
        await self._admit([definition.kind])

        def change(row: ScheduleRow | None) -> SchedulePut | ScheduleRow:
            old = None if row is None else decoded(row)
            wanted = definition
            if row is not None and old is not None:
                # keep the digest and the highest version that code wrote: nodes compare them before they write again
                version = max(old.version, definition.version)
                wanted = structs.replace(definition, written=old.written, version=version)
                if digest(wanted) == digest(old):
                    return row
            return put_of(name, wanted, row, now_us=self._store_time_us(), node=self.name)

        added = await self._change(name, change)
        await self.is_served(definition.kind)
        return added

    async def pause_schedule(self, schedule: ScheduleView | str, note: str = "") -> Schedule:
        self._need_runtime()
        checked_text("note", note, MAX_NOTE, least=0)

        def change(stored: ScheduleRow | None) -> SchedulePut | ScheduleRow:
            row = _found(schedule, stored)
            if row.paused and row.note == note:
                return row
            return structs.replace(unchanged(row), paused=True, note=note)

        return await self._change(name_of(schedule), change)

    async def resume_schedule(self, schedule: ScheduleView | str) -> Schedule:
        def change(stored: ScheduleRow | None) -> SchedulePut | ScheduleRow:
            row = _found(schedule, stored)
            if not row.paused:
                return row
            now_us = self._store_time_us()
            next_us = recurrence_of(decode_definition(row.definition)).next_after(max(now_us, row.last_us))
            account = paused_for(row, now_us, self.name)
            return structs.replace(unchanged(row), paused=False, note="", next_us=next_us, account=account)

        return await self._change(name_of(schedule), change)

    async def remove_schedule(self, schedule: ScheduleView | str) -> bool:
        runtime = self._need_runtime()
        await runtime.job_schedules.flush()
        return await self._store.remove_schedule(name_of(schedule), request=runtime.ids.one())

    async def trigger_schedule(
        self, schedule: ScheduleView | str, *, id: str | UUID | None = None
    ) -> Instance[Any] | None:
        runtime = self._need_runtime()
        given = None if id is None else checked_new_id(id, self.clock.time_us(), "id")
        made_id = given or runtime.ids.one()
        earlier = None if given is None else await runtime.records.find(given)
        for _ in range(MAX_ATTEMPTS):
            row = await self._row(schedule)
            definition = decode_definition(row.definition)
            if earlier is not None:
                return Instance(self, _triggered(row, earlier), is_new=False)
            # the ledger finds a fire by its time, so a repeat must have the time of the first
            at_us = self._store_time_us() if given is None else id_time_us(given)
            created_us = self.clock.time_us()
            new = new_instance(definition, schedule=row.name, id=made_id, created_us=created_us, nominal_us=at_us)
            fire = Fire(
                schedule=row.name,
                revision=row.revision,
                nominal_us=at_us,
                outcome=FireOutcome.TRIGGERED,
                request=made_id,
                instance=new,
                overlap=definition.overlap,
                queue_limit=definition.queue_limit,
            )
            (answer,) = await self._store.fire([fire], term=None, node=self.name)
            if answer.status is FireStatus.DONE:
                record = answer.record
                if record is None or record.instance != made_id:
                    return None
                stored = None if given is None else await runtime.records.find(made_id)
                if stored is not None and stored.spec != new.spec:
                    return Instance(self, _triggered(row, stored), is_new=False)
                if record.cancelled:
                    runtime.changes.replaced(record.cancelled)
                runtime.changes.made(new)
                return Instance(self, stored or fresh_record(new, self.clock.time_us()))
            await self._wait_after_conflict()
        raise self._contended(name_of(schedule))

    async def backfill(self, schedule: ScheduleView | str, start: datetime, end: datetime) -> Backfill:
        runtime = self._need_runtime()
        start_us, end_us = aware_us("start", start), aware_us("end", end)
        return await backfill(
            clock=self.clock,
            store=self._store,
            row=await self._row(schedule),
            start_us=start_us,
            end_us=end_us,
            ids=runtime.ids,
            now_us=self._store_time_us(),
            node=self.name,
        )

    async def _change(self, name: str, change: Callable[[ScheduleRow | None], SchedulePut | ScheduleRow]) -> Schedule:
        """Write the result of `change`, a row for no change; call `change` again if another change came first."""
        await self._need_runtime().job_schedules.flush()
        for _ in range(MAX_ATTEMPTS):
            (row,) = await self._store.get_schedules([name])
            wanted = change(row)
            if isinstance(wanted, ScheduleRow):
                return Schedule(self, wanted)
            written = await self._store.put_schedule(wanted)
            if written is not None:
                return Schedule(self, written)
            await self._wait_after_conflict()
        raise self._contended(name)

    async def _row(self, schedule: ScheduleView | str) -> ScheduleRow:
        await self._need_runtime().job_schedules.flush()
        (row,) = await self._store.get_schedules([name_of(schedule)])
        return _found(schedule, row)

    async def _wait_after_conflict(self) -> None:
        await asyncio.sleep(self.clock.random.uniform(0, MAX_CONFLICT_WAIT))

    def _contended(self, name: str) -> StoreUnavailableError:
        return StoreUnavailableError(self._store.url, f"schedule {name!r} changes all the time")


def _triggered(row: ScheduleRow, stored: Record) -> Record:
    """The record of an instance that a schedule made; raises OptionError for any other one."""
    if decode_spec(stored.spec).schedule != row.name or stored.kind != row.kind:
        raise OptionError("id", stored.id, f"an id that only an instance of schedule {row.name!r} has")
    return stored


def _found(schedule: ScheduleView | str, row: ScheduleRow | None) -> ScheduleRow:
    if row is None:
        raise UnknownScheduleError(name_of(schedule))
    return row
