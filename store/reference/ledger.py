"""The ledger of a schedule: one record for each nominal time with an instance, and one for each stretch without."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from peerjob.model.firing import Fire, FireOutcome, FirePage, FireRecord

from .state import LedgerEntry, ScheduleData
from .transaction import ReferenceTransaction

Place = tuple[int, int, str]
_STRETCH, _INSTANCE, _TRIGGER = 0, 1, 2


def place_of(fire: Fire) -> Place:
    """The place of the instance of a fire. A nominal time has one; triggers are told apart by their requests."""
    if fire.outcome is FireOutcome.TRIGGERED:
        return (fire.nominal_us, _TRIGGER, fire.request)
    return (fire.nominal_us, _INSTANCE, "")


def add_record(schedule: ScheduleData, place: Place, record: FireRecord) -> None:
    """Write the record of an instance, or of the attempt to make one."""
    schedule.ledger[place] = LedgerEntry(record=record, requests=[record.request])
    if place[1] == _INSTANCE:
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
    before = [place for place in schedule.ledger if place[0] <= fire.nominal_us and place[1] == _STRETCH]
    places = [place_of(fire), max(before, default=None)]
    entries = [schedule.ledger[place] for place in places if place is not None and place in schedule.ledger]
    return next((entry.record for entry in entries if fire.request in entry.requests), None)


def made(schedule: ScheduleData, fire: Fire) -> bool:
    """Whether the ledger has an instance of this nominal time."""
    entry = schedule.ledger.get(place_of(fire))
    return entry is not None and bool(entry.record.instance)


def trim(transaction: ReferenceTransaction, schedule: ScheduleData, written: Sequence[FireRecord]) -> None:
    """Remove the records that are too old, and the earliest ones above the limit, except those of this call.

    Those are the answers if the same call comes again.
    """
    limits, ledger = transaction.limits, schedule.ledger
    surplus = len(ledger) - limits.max_fires
    for place in sorted(ledger):
        record = ledger[place].record
        old = record.at_us + limits.fires_kept_us < transaction.now_us
        if all(record is not one for one in written) and (surplus > 0 or old):
            surplus -= 1
            del ledger[place]
            if place[1] == _INSTANCE and record.instance:
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
    below = None if cursor is None else _place_in(cursor)
    places = [
        place
        for place in sorted(schedule.ledger, reverse=True)
        if (after_us is None or place[0] >= after_us)
        and (before_us is None or place[0] < before_us)
        and (below is None or place < below)
    ]
    page = places[:limit]
    records = tuple(schedule.ledger[place].record for place in page)
    return FirePage(records, "{}:{}:{}".format(*page[-1]) if len(places) > limit else None)


def _place_in(cursor: str) -> Place:
    nominal_us, rank, request = cursor.split(":", 2)
    return int(nominal_us), int(rank), request
