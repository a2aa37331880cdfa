"""ScheduleReads as they were put: each put and removal is a step that gives the namespace its next revision."""

from __future__ import annotations

from collections.abc import Sequence

from peerjob.model.firing import MAX_SCHEDULES, SchedulePage, SchedulePut, ScheduleRow
from peerjob.store.fire_rules import check_count

from .context import KVContext
from .ledger import FireLedger
from .schedule_rows import to_schedule_row
from .schedule_writes import Putting, Removing, ScheduleCommands, pair, revision_scan, revisions_of, slot_of
from .writer import ROUNDS

_READ_AT_ONCE = 100
_LOADING = 1 << 31
"""A revision below 0 says that the first load goes on: it holds where it began, times this, and how far it came."""


class ScheduleReads:
    """The verbs that write and read schedules."""

    def __init__(self, context: KVContext, ledger: FireLedger) -> None:
        self._context = context
        self._ledger = ledger
        self._writes = ScheduleCommands(context)

    # -- writing --------------------------------------------------------------------------------------------------

    async def put(self, put: SchedulePut) -> ScheduleRow | None:
        edit = Putting(self._context, self._ledger, put)
        await self._writes.write(edit)
        return edit.row

    async def remove(self, name: str, *, expected: int | None, request: str) -> bool:
        lease = await self._context.writer.short_lease(self._context.clock.time_us())
        edit = Removing(self._context, name, expected, request, lease)
        await self._writes.write(edit)
        return edit.removed

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
                    [key for name in part for key in (keys.schedule(name), keys.next_fire(name), keys.slot(name))]
                )
                for place, name in enumerate(part):
                    schedule_entry, next_entry, slot = entries[3 * place : 3 * place + 3]
                    schedule, next_fire = pair(self._context, name, schedule_entry, next_entry)
                    if schedule is not None and next_fire is not None:
                        found[name] = to_schedule_row(name, schedule, next_fire, slot_of(self._context, name, slot))
                    elif schedule_entry is not None or next_entry is not None:
                        torn.append(name)
            pending = torn
        return [found.get(name) for name in names]

    async def changed(self, revision: int, *, limit: int = MAX_SCHEDULES) -> SchedulePage:
        context, keys = self._context, self._context.keys
        limit = min(limit, MAX_SCHEDULES)
        (counter,) = await context.kv.get([keys.revisions])
        revisions = revisions_of(counter)
        begun, after = divmod(-revision, _LOADING) if revision < 0 else (revision, revision)
        reset = 0 < begun < revisions.floor or begun > revisions.latest
        if reset or revision == 0:
            begun, after = revisions.latest, 0
        if after == revisions.latest:
            return SchedulePage(revision=revisions.latest, reset=reset)
        loading = reset or revision <= 0
        scans = [revision_scan(context, keys.changed, after, revisions.latest)]
        if revision != 0 and not reset:
            # while the first load goes on, only what was removed since it began is of interest
            scans.append(revision_scan(context, keys.removed, max(after, begun), revisions.latest))
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


def _removed(name: str, revision: int) -> ScheduleRow:
    return ScheduleRow(name=name, kind="", definition=b"", revision=revision, next_us=None, removed=True)
