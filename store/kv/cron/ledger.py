"""The ledger of a schedule: the outcome of each nominal time, within limits.

A transaction that writes a record also writes the schedule's `NextFire`. So `NextFire` has the number of records and a
lower bound of their times. Its revision shows whether the ledger has changed since it was read.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

from msgspec.structs import replace

from peerjob.model.firing import FireOutcome, FireRecord
from peerjob.store.kv.format.base import Delete, Entry, Op, Put
from peerjob.store.kv.format.keys import time_text
from peerjob.store.kv.format.rows import encode
from peerjob.store.kv.format.schedule_rows import NextFire, decode_fire
from peerjob.store.kv.index.scan import Head
from peerjob.store.kv.write.context import KVContext

INSTANCE, GAP, TRIGGER = "f", "g", "t"
MAX_TRIMMED = 8
"""Most old records that one fire removes from the ledger; later fires remove the rest."""

FirstRecords = Sequence[tuple[str, FireRecord]]
"""The first records of a ledger in order, each with the position of the record."""


class FireLedger:
    """Plans the records of a transaction, and the removal of surplus records."""

    def __init__(self, context: KVContext) -> None:
        self._context = context

    def add(
        self, next_fire: NextFire, position: str, record: FireRecord, ops: list[Op], *, is_new: bool = True
    ) -> NextFire:
        """Plan the write of a record in `ops`; the answer is `NextFire` afterwards."""
        key = self._context.keys.ledger(next_fire.epoch) + position
        # several fires of a transaction can extend the same record, but a transaction must write a key only once: the
        # last write replaces the others
        ops[:] = [op for op in ops if op.key != key]
        ops.append(Put(key, encode(record)))
        if not is_new:
            return next_fire
        first = next_fire.records == 0 or record.nominal_us < next_fire.first_us
        return replace(
            next_fire,
            records=next_fire.records + 1,
            first_us=record.nominal_us if first else next_fire.first_us,
            oldest_us=record.at_us if first else next_fire.oldest_us,
        )

    def add_gap(self, next_fire: NextFire, record: FireRecord, ops: list[Op]) -> NextFire:
        """Plan the record of times without an instance. Alike records that follow each other become one record."""
        until_us = record.until_us or record.nominal_us
        last, joined = next_fire.stretch, record
        joins = last is not None and (last.outcome, last.reason) == (record.outcome, record.reason)
        if last is not None and joins:
            count = last.count + record.count
            joined = replace(record, nominal_us=last.nominal_us, until_us=until_us, count=count)
        position = f"{time_text(joined.nominal_us)}{GAP}"
        after = self.add(next_fire, position, joined, ops, is_new=not joins)
        return replace(after, stretch=joined, last_us=max(next_fire.last_us, until_us))

    async def first_records(self, states: Sequence[tuple[NextFire, int]], now_us: int) -> dict[int, FirstRecords]:
        """The first records of the ledgers that may have surplus records, by epoch.

        `states` has each ledger with the number of records that the call can add.
        """
        context, limits = self._context, self._context.limits
        scans = {
            next_fire.epoch: context.queues.scan(
                Head(context.keys.ledger(next_fire.epoch), time_text(next_fire.first_us), 0), now_us=now_us
            )
            for next_fire, added in states
            if next_fire.records + added > limits.max_fires
            or (next_fire.records and next_fire.oldest_us + limits.fires_kept_us < now_us)
        }
        while unfinished := [scan for scan in scans.values() if not scan.done and len(scan.positions) <= MAX_TRIMMED]:
            await context.queues.read(unfinished, MAX_TRIMMED + 1)
        return {
            epoch: [
                (position, self._read(epoch, position, entry))
                for position, entry in zip(scan.positions, scan.entries, strict=True)
            ]
            for epoch, scan in scans.items()
        }

    def _read(self, epoch: int, position: str, entry: Entry) -> FireRecord:
        """Decode a record. An unreadable record counts as the oldest possible one, so that it is removed first."""
        record = self._context.decoded(entry, self._context.keys.ledger(epoch) + position, decode_fire)
        return record or FireRecord(nominal_us=int(position[:18]), outcome=FireOutcome.MISSED)

    def trim(
        self,
        next_fire: NextFire,
        first_records: FirstRecords,
        ops: list[Op],
        now_us: int,
        fresh_us: int,
        written: Container[str] = (),
    ) -> NextFire:
        """Plan the removal of the first records: surplus ones, and those that are too old.

        `fresh_us` is the earliest nominal time that `ops` adds. The records of `ops`, and those with the keys
        `written`, stay: they are the answers if the same call comes again.
        """
        context, limits = self._context, self._context.limits
        ledger = context.keys.ledger(next_fire.epoch)
        added = {op.key for op in ops}
        surplus = next_fire.records - limits.max_fires
        removed, trimmed_us, stretch = 0, next_fire.trimmed_us, next_fire.stretch
        left: FireRecord | None = None
        for position, record in first_records[: MAX_TRIMMED + 1]:
            too_old = record.at_us + limits.fires_kept_us < now_us
            key = ledger + position
            stays = key in added or key in written
            if (removed < surplus or too_old) and removed < MAX_TRIMMED and not stays:
                ops.append(Delete(key))
                removed += 1
                if record.instance and position[18] == INSTANCE:
                    trimmed_us = max(trimmed_us, record.nominal_us)
                if stretch is not None and position == f"{time_text(stretch.nominal_us)}{GAP}":
                    stretch = None
            elif left is None:
                left = record
        if left is None and not removed:
            return next_fire
        return replace(
            next_fire,
            records=next_fire.records - removed,
            trimmed_us=trimmed_us,
            stretch=stretch,
            first_us=fresh_us if left is None else min(left.nominal_us, fresh_us),
            oldest_us=now_us if left is None else left.at_us,
        )
