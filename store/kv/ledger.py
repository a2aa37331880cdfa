"""The ledger of a schedule: what became of each nominal time, within bounds.

Every record is written in a step that also writes the schedule's `Next`, which therefore knows how many there are and
where they begin, and whose revision tells whether the ledger is as it was read.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from peerjob.model.firing import FireOutcome, FirePage, FireRecord

from .base import Delete, Entry, Op, Put, Range
from .context import KVContext
from .keys import prefix_end, time_text
from .queues import Head
from .rows import encode
from .schedule_rows import NextFire, decode_fire, decode_next_fire

INSTANCE, GAP, TRIGGER = "f", "g", "t"
MAX_TRIMMED = 8
"""Records that one fire removes at most."""
_PAGE = 500

FirstRecords = Sequence[tuple[str, FireRecord]]
"""The first records of a ledger, by place."""


class FireLedger:
    """Adds records, reads them and removes what is too much."""

    def __init__(self, context: KVContext) -> None:
        self._context = context

    # -- adding ---------------------------------------------------------------------------------------------------

    def add(
        self, next_fire: NextFire, place: str, record: FireRecord, ops: list[Op], *, is_new: bool = True
    ) -> NextFire:
        """The state of the schedule after a record was written; `ops` gets the write."""
        key = self._context.keys.ledger(next_fire.epoch) + place
        # a step writes a key once, and several stretches may be joined in one
        ops[:] = [op for op in ops if op.key != key]
        ops.append(Put(key, encode(record)))
        if not is_new:
            return next_fire
        first = next_fire.records == 0 or record.nominal_us < next_fire.first_us
        return msgspec.structs.replace(
            next_fire,
            records=next_fire.records + 1,
            first_us=record.nominal_us if first else next_fire.first_us,
            oldest_us=record.at_us if first else next_fire.oldest_us,
        )

    def add_gap(self, next_fire: NextFire, record: FireRecord, ops: list[Op]) -> NextFire:
        """The same for times that made no instance: one stretch with what came directly before, if that is alike."""
        until_us = record.until_us or record.nominal_us
        last, joined = next_fire.stretch, record
        joins = last is not None and (last.outcome, last.reason) == (record.outcome, record.reason)
        if last is not None and joins:
            count = last.count + record.count
            joined = msgspec.structs.replace(record, nominal_us=last.nominal_us, until_us=until_us, count=count)
        place = f"{time_text(joined.nominal_us)}{GAP}"
        after = self.add(next_fire, place, joined, ops, is_new=not joins)
        return msgspec.structs.replace(after, stretch=joined, last_us=max(next_fire.last_us, until_us))

    # -- removing -------------------------------------------------------------------------------------------------

    async def first_records(self, states: Sequence[NextFire], now_us: int) -> dict[int, FirstRecords]:
        """The first records of those ledgers that may hold too much, by epoch."""
        context, limits = self._context, self._context.limits
        scans = {
            next_fire.epoch: context.queues.scan(
                Head(context.keys.ledger(next_fire.epoch), time_text(next_fire.first_us), 0), now_us=now_us
            )
            for next_fire in states
            if next_fire.records >= limits.max_fires
            or (next_fire.records and next_fire.oldest_us + limits.fires_kept_us < now_us)
        }
        while going := [scan for scan in scans.values() if not scan.done and len(scan.places) <= MAX_TRIMMED]:
            await context.queues.read(going, MAX_TRIMMED + 1)
        return {
            epoch: [
                (place, self._read(epoch, place, entry)) for place, entry in zip(scan.places, scan.entries, strict=True)
            ]
            for epoch, scan in scans.items()
        }

    def _read(self, epoch: int, place: str, entry: Entry) -> FireRecord:
        """A record, or what stands for one that cannot be read: so old that it goes as soon as it may."""
        record = self._context.value(entry, self._context.keys.ledger(epoch) + place, decode_fire)
        return record or FireRecord(nominal_us=int(place[:18]), outcome=FireOutcome.MISSED)

    def trim(
        self, next_fire: NextFire, first_records: FirstRecords, ops: list[Op], now_us: int, fresh_us: int
    ) -> NextFire:
        """Remove the first records while there are too many, and those that are too old.

        `fresh_us` is the earliest nominal time that `ops` add.
        """
        context, limits = self._context, self._context.limits
        ledger = context.keys.ledger(next_fire.epoch)
        written = {op.key for op in ops}
        surplus = next_fire.records - limits.max_fires
        removed, trimmed_us, stretch = 0, next_fire.trimmed_us, next_fire.stretch
        left: FireRecord | None = None
        for place, record in first_records[: MAX_TRIMMED + 1]:
            too_old = record.at_us + limits.fires_kept_us < now_us
            if (removed < surplus or too_old) and removed < MAX_TRIMMED and ledger + place not in written:
                ops.append(Delete(ledger + place))
                removed += 1
                if record.instance and place[18] == INSTANCE:
                    trimmed_us = max(trimmed_us, record.nominal_us)
                if stretch is not None and place == f"{time_text(stretch.nominal_us)}{GAP}":
                    stretch = None
            elif left is None:
                left = record
        if left is None and not removed:
            return next_fire
        return msgspec.structs.replace(
            next_fire,
            records=next_fire.records - removed,
            trimmed_us=trimmed_us,
            stretch=stretch,
            first_us=fresh_us if left is None else min(left.nominal_us, fresh_us),
            oldest_us=now_us if left is None else left.at_us,
        )

    # -- reading --------------------------------------------------------------------------------------------------

    async def page(
        self, name: str, *, after_us: int | None, before_us: int | None, limit: int, cursor: str | None
    ) -> FirePage:
        """Records by their (first) nominal time, the latest first."""
        context = self._context
        (entry,) = await context.kv.get([context.keys.next_fire(name)])
        next_fire = context.value(entry, context.keys.next_fire(name), decode_next_fire)
        if next_fire is None:
            return FirePage((), None)
        ledger = context.keys.ledger(next_fire.epoch)
        start = ledger + time_text(max(next_fire.first_us, after_us or 0))
        end = prefix_end(ledger) if before_us is None else ledger + time_text(before_us)
        if cursor is not None:
            end = min(end, ledger + cursor)
        wanted = Range(start, max(start, end), max(1, min(limit, _PAGE)), reverse=True)
        (found,) = await context.kv.read([wanted])
        readable = (context.value(entry, key, decode_fire) for key, entry in found.items)
        records = tuple(record for record in readable if record is not None)
        more = found.count > len(found.items)
        return FirePage(records, found.items[-1][0][len(ledger) :] if more and found.items else None)
