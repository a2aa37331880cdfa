"""Schedules as they were put: each put and removal is a step that gives the namespace its next revision."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from peerjob.errors import StoreUnavailableError
from peerjob.firing import MAX_SCHEDULES, SchedulePage, SchedulePut, ScheduleRow
from peerjob.store.fires import MOST_REMOVALS, check_count

from .base import Compare, Delete, Entry, Op, Put, Step
from .context import Context
from .keys import prefix_end, time_text
from .ledger import Ledger
from .queues import Head, Scan
from .rows import NOTHING_EXTRA, encode
from .schedule_rows import (
    Next,
    Revisions,
    Schedule,
    Slot,
    decode_next,
    decode_revisions,
    decode_schedule,
    decode_slot,
    to_schedule_row,
)
from .writer import ROUNDS

_ATTEMPTS = 64
_READ_AT_ONCE = 100
_LOADING = 1 << 31
"""A revision below 0 says that the first load goes on: it holds where it began, times this, and how far it came."""


class Schedules:
    """The verbs that write and read schedules."""

    def __init__(self, context: Context, ledger: Ledger) -> None:
        self._context = context
        self._ledger = ledger
        # every put takes the next revision, so those of one store need not compete
        self._turn = asyncio.Lock()

    # -- writing --------------------------------------------------------------------------------------------------

    async def put(self, put: SchedulePut) -> ScheduleRow | None:
        context, keys = self._context, self._context.keys
        async with self._turn:
            for _ in range(_ATTEMPTS):
                counter, was, then, slot = await context.kv.get(
                    [keys.schedules, keys.schedule(put.name), keys.next(put.name), keys.slot(put.name)]
                )
                old, next = self._pair(put.name, was, then)
                if not _is_expected(put, old, next):
                    if old is None or next is None or not _is_same(put, old):
                        return None
                    return to_schedule_row(put.name, old, next, self._slot(put.name, slot))
                revisions = _revisions(counter)
                revision, now_us = revisions.latest + 1, context.clock.time_us()
                schedule = Schedule(
                    revision,
                    revision if old is None else old.epoch,
                    put.expected,
                    put.kind,
                    put.definition,
                    put.paused,
                    put.note,
                    now_us if old is None else old.created_us,
                    now_us,
                    NOTHING_EXTRA if old is None else old.extra,
                )
                ops: list[Op] = [
                    Put(keys.schedules, encode(msgspec.structs.replace(revisions, latest=revision))),
                    Put(keys.schedule(put.name), encode(schedule)),
                    Put(self._place(keys.changed, revision, put.name), b""),
                ]
                after = next or Next(revision, schedule.epoch, None, paused=False)
                after = msgspec.structs.replace(
                    after, revision=revision, next_us=put.next_us, paused=put.paused, stretch=None
                )
                if put.account is not None:
                    record = msgspec.structs.replace(put.account, at_us=now_us)
                    after = self._ledger.add_gap(after, record, ops)
                if old is not None:
                    ops.append(Delete(self._place(keys.changed, old.revision, put.name)))
                ops.append(Put(keys.next(put.name), encode(after)))
                if await self._write(put.name, counter, was, then, ops):
                    return to_schedule_row(put.name, schedule, after, self._slot(put.name, slot))
        raise StoreUnavailableError(context.url, "too many writers at once")

    async def remove(self, name: str, *, expected: int | None = None) -> bool:
        context, keys = self._context, self._context.keys
        async with self._turn:
            for _ in range(_ATTEMPTS):
                counter, was, then = await context.kv.get([keys.schedules, keys.schedule(name), keys.next(name)])
                old, _next = self._pair(name, was, then)
                if old is None or expected not in (None, old.revision):
                    return False
                revisions = _revisions(counter)
                revision = revisions.latest + 1
                forgotten = await self._forgotten(revisions)
                ledger = keys.ledger(old.epoch)
                revisions = Revisions(
                    revision, revisions.removals + 1 - len(forgotten), max([revisions.floor, *forgotten.values()])
                )
                ops: list[Op] = [
                    Put(keys.schedules, encode(revisions)),
                    Delete(keys.schedule(name)),
                    Delete(keys.next(name)),
                    Delete(self._place(keys.changed, old.revision, name)),
                    Put(self._place(keys.removed, revision, name), b""),
                    Delete(ledger, prefix_end(ledger)),
                    *(Delete(key) for key in forgotten),
                ]
                if await self._write(name, counter, was, then, ops):
                    return True
        raise StoreUnavailableError(context.url, "too many writers at once")

    async def _write(
        self, name: str, counter: Entry | None, was: Entry | None, then: Entry | None, ops: Sequence[Op]
    ) -> bool:
        """Do this if all is still as it was read, and hint everybody."""
        context, keys = self._context, self._context.keys
        compares = [
            Compare(keys.schedules, mod=_mod(counter)),
            Compare(keys.schedule(name), mod=_mod(was)),
            Compare(keys.next(name), mod=_mod(then)),
        ]
        applied = await context.kv.txn([Step(compares, ops)])
        if applied.steps[0] is None:
            return False
        await context.hints.tell_all("schedule", name)
        return True

    async def _forgotten(self, revisions: Revisions) -> dict[str, int]:
        """The removals that one more leaves no room for, by key, with their revisions."""
        surplus = revisions.removals + 1 - MOST_REMOVALS
        if surplus <= 0:
            return {}
        queue = self._context.keys.removed
        scan = self._scan(queue, revisions.floor, revisions.latest)
        await self._context.queues.first(scan, surplus)
        return {queue + place: int(place[:18]) for place in scan.places[:surplus]}

    # -- reading --------------------------------------------------------------------------------------------------

    async def get(self, names: Sequence[str]) -> list[ScheduleRow | None]:
        check_count(names, "schedules")
        keys = self._context.keys
        found: dict[str, ScheduleRow] = {}
        pending = list(dict.fromkeys(names))
        for _ in range(ROUNDS):
            torn: list[str] = []
            for at in range(0, len(pending), _READ_AT_ONCE):
                part = pending[at : at + _READ_AT_ONCE]
                entries = await self._context.kv.get(
                    [key for name in part for key in (keys.schedule(name), keys.next(name), keys.slot(name))]
                )
                for place, name in enumerate(part):
                    was, then, slot = entries[3 * place : 3 * place + 3]
                    schedule, next = self._pair(name, was, then)
                    if schedule is not None and next is not None:
                        found[name] = to_schedule_row(name, schedule, next, self._slot(name, slot))
                    elif was is not None or then is not None:
                        torn.append(name)
            pending = torn
        return [found.get(name) for name in names]

    async def changed(self, revision: int, *, limit: int = MAX_SCHEDULES) -> SchedulePage:
        context, keys = self._context, self._context.keys
        limit = min(limit, MAX_SCHEDULES)
        (counter,) = await context.kv.get([keys.schedules])
        revisions = _revisions(counter)
        begun, after = divmod(-revision, _LOADING) if revision < 0 else (revision, revision)
        reset = 0 < begun < revisions.floor or begun > revisions.latest
        if reset or revision == 0:
            begun, after = revisions.latest, 0
        if after == revisions.latest:
            return SchedulePage(revision=revisions.latest, reset=reset)
        loading = reset or revision <= 0
        scans = [self._scan(keys.changed, after, revisions.latest)]
        if revision != 0 and not reset:
            # while the first load goes on, only what was removed since it began is of interest
            scans.append(self._scan(keys.removed, max(after, begun), revisions.latest))
        while going := [scan for scan in scans if not scan.done and len(scan.places) <= limit]:
            await context.queues.read(going, limit + 1)
        told = sorted((place, scan is not scans[0]) for scan in scans for place in scan.places)
        more = len(told) > limit
        told = told[:limit]
        upto = int(told[-1][0][:18]) if more else revisions.latest
        names = [keys.unescaped(place[19:]) for place, _ in told]
        rows = await self.get([name for name, (_, removed) in zip(names, told, strict=True) if not removed])
        current = {row.name: row for row in rows if row is not None}
        page: list[ScheduleRow] = []
        for name, (place, removed) in zip(names, told, strict=True):
            at = int(place[:18])
            row = _removed(name, at) if removed else current.get(name)
            # what was written again since then is told under its later revision
            if row is not None and row.revision == at:
                page.append(row)
        return SchedulePage(
            rows=tuple(page),
            revision=-(begun * _LOADING + upto) if loading and upto < begun else upto,
            more=more,
            reset=reset,
        )

    def _slot(self, name: str, entry: Entry | None) -> Slot:
        return self._context.value(entry, self._context.keys.slot(name), decode_slot) or Slot()

    def _pair(self, name: str, was: Entry | None, then: Entry | None) -> tuple[Schedule | None, Next | None]:
        """Both records of a schedule, if they can be read and belong together."""
        context, keys = self._context, self._context.keys
        schedule = context.value(was, keys.schedule(name), decode_schedule)
        next = context.value(then, keys.next(name), decode_next)
        if schedule is None or next is None or schedule.revision != next.revision:
            return None, None
        return schedule, next

    def _scan(self, queue: str, after: int, latest: int) -> Scan:
        """A read of what lies behind one revision, up to another."""
        return self._context.queues.scan(
            Head(queue, time_text(after + 1), 0), now_us=latest + 1, until=time_text(latest + 1)
        )

    def _place(self, queue: str, revision: int, name: str) -> str:
        return f"{queue}{time_text(revision)}/{self._context.keys.kind(name)}"


def _mod(entry: Entry | None) -> int:
    return 0 if entry is None else entry.mod


def _revisions(entry: Entry | None) -> Revisions:
    return Revisions() if entry is None else decode_revisions(entry.value)


def _is_expected(put: SchedulePut, old: Schedule | None, next: Next | None) -> bool:
    if put.expected == 0 or old is None or next is None:
        return put.expected == 0 and old is None
    return old.revision == put.expected and next.next_us == put.expected_next_us


def _is_same(put: SchedulePut, old: Schedule) -> bool:
    """Whether what is stored was written by such a put."""
    return (old.before, old.kind, old.definition, old.paused, old.note) == (
        put.expected,
        put.kind,
        put.definition,
        put.paused,
        put.note,
    )


def _removed(name: str, revision: int) -> ScheduleRow:
    return ScheduleRow(name=name, kind="", definition=b"", revision=revision, next_us=None, removed=True)
