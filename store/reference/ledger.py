"""The ledger of a schedule: one record for each nominal time with an instance, and one for each stretch without."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from peerjob.model.firing import Fire, FireOutcome, FirePage, FireRecord

from .state import LedgerEntry, ScheduleData
from .transaction import ReferenceTransaction

Position = tuple[int, int, str]
_STRETCH, _INSTANCE, _TRIGGER = 0, 1, 2


def position_of(fire: Fire) -> Position:
    """The position of the instance of a fire. A nominal time has one; triggers are told apart by their requests."""
    if fire.outcome is FireOutcome.TRIGGERED:
        return (fire.nominal_us, _TRIGGER, fire.request)
    return (fire.nominal_us, _INSTANCE, "")


def add_record(schedule: ScheduleData, position: Position, record: FireRecord) -> None:
    """Write the record of an instance, or of the attempt to make one."""
    schedule.ledger[position] = LedgerEntry(record=record, requests=[record.request])
    if position[1] == _INSTANCE:
        schedule.last_us = max(schedule.last_us, record.nominal_us, record.until_us)


def add_stretch(transaction: ReferenceTransaction, schedule: ScheduleData, record: FireRecord) -> FireRecord:
    """Write the record of times without an instance, joined with the stretch directly before if both are alike."""
    until_us = record.until_us or record.nominal_us
    schedule.last_us = max(schedule.last_us, until_us)
    before = None if schedule.stretch is None else schedule.ledger.get(schedule.stretch)
    requests = [record.request]
    if before is not None and (before.record.outcome, before.record.reason) == (record.outcome, record.reason):
        if before.record.at_us == transaction.now_us:
            requests = [*before.requests, record.request]
        count = before.record.count + record.count
        record = replace(record, nominal_us=before.record.nominal_us, until_us=until_us, count=count)
    schedule.stretch = (record.nominal_us, _STRETCH, "")
    schedule.ledger[schedule.stretch] = LedgerEntry(record=record, requests=requests)
    return record


def recorded(schedule: ScheduleData, fire: Fire) -> FireRecord | None:
    """The record that an earlier call with the same request wrote."""
    before = [position for position in schedule.ledger if position[0] <= fire.nominal_us and position[1] == _STRETCH]
    positions = [position_of(fire), max(before, default=None)]
    entries = [
        schedule.ledger[position] for position in positions if position is not None and position in schedule.ledger
    ]
    return next((entry.record for entry in entries if fire.request in entry.requests), None)


def made(schedule: ScheduleData, fire: Fire) -> bool:
    """Whether the ledger has an instance of this nominal time."""
    entry = schedule.ledger.get(position_of(fire))
    return entry is not None and bool(entry.record.instance)


def trim(transaction: ReferenceTransaction, schedule: ScheduleData, written: Sequence[FireRecord]) -> None:
    """Remove the records that are too old, and the earliest ones above the limit, except those of this call.

    Those are the answers if the same call comes again.
    """
    limits, ledger = transaction.limits, schedule.ledger
    surplus = len(ledger) - limits.max_fires
    for position in sorted(ledger):
        record = ledger[position].record
        old = record.at_us + limits.fires_kept_us < transaction.now_us
        if all(record is not kept for kept in written) and (surplus > 0 or old):
            surplus -= 1
            del ledger[position]
            if position[1] == _INSTANCE and record.instance:
                schedule.trimmed_us = max(schedule.trimmed_us, record.nominal_us)


def fires(
    transaction: ReferenceTransaction,
    name: str,
    *,
    after_us: int | None = None,
    before_us: int | None = None,
    limit: int = 100,
    cursor: str | None = None,
) -> FirePage:
    """A page of a ledger, the latest nominal time first."""
    schedule = transaction.state.schedules.get(name)
    if schedule is None:
        return FirePage((), None)
    below = None if cursor is None else _position_in(cursor)
    positions = [
        position
        for position in sorted(schedule.ledger, reverse=True)
        if (after_us is None or position[0] >= after_us)
        and (before_us is None or position[0] < before_us)
        and (below is None or position < below)
    ]
    page = positions[:limit]
    records = tuple(schedule.ledger[position].record for position in page)
    return FirePage(records, "{}:{}:{}".format(*page[-1]) if len(positions) > limit else None)


def _position_in(cursor: str) -> Position:
    nominal_us, rank, request = cursor.split(":", 2)
    return int(nominal_us), int(rank), request
