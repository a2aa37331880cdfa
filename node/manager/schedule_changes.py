"""Makes the stored row of a schedule from its definition: the next time, and a record of the times in between."""

from __future__ import annotations

from msgspec import structs

from peerjob.model.definition import Definition, decode_definition, encode_definition
from peerjob.model.errors import DecodeError, ScheduleError
from peerjob.model.firing import FireOutcome, FireRecord, SchedulePut, ScheduleRow
from peerjob.model.recurrence import recurrence_of

CHANGED = "the schedule was changed"


def decoded(row: ScheduleRow) -> Definition | None:
    """Return the definition in a row; None if this version of peerjob cannot read the definition."""
    try:
        return decode_definition(row.definition)
    except DecodeError:
        return None


def put_of(name: str, definition: Definition, row: ScheduleRow | None, *, now_us: int, node: str) -> SchedulePut:
    """Make a schedule, or change the schedule in `row`; a pause stays. Raises ScheduleError.

    If the recurrence is the same, the next time and the start of an interval stay. Otherwise, times count from now,
    and times that are due and not fired are recorded as missed.
    """
    old = None if row is None else decoded(row)
    same = old is not None and _recurs_by(old) == _recurs_by(definition)
    if definition.every_us is not None:
        definition = structs.replace(definition, anchor_us=old.anchor_us if same and old is not None else now_us)
    recurrence, encoded = recurrence_of(definition), encode_definition(definition)
    if row is None:
        return SchedulePut(name=name, kind=definition.kind, definition=encoded, next_us=recurrence.next_after(now_us))
    put = structs.replace(unchanged(row), kind=definition.kind, definition=encoded)
    if same:
        return put
    skipped = paused_for(row, now_us, node) if row.paused else _skipped(row, now_us, FireOutcome.MISSED, CHANGED, node)
    return structs.replace(put, next_us=recurrence.next_after(max(now_us, row.last_us)), account=skipped)


def unchanged(row: ScheduleRow) -> SchedulePut:
    """The write that leaves a schedule as it is in the row."""
    return SchedulePut(
        name=row.name,
        kind=row.kind,
        definition=row.definition,
        next_us=row.next_us,
        paused=row.paused,
        note=row.note,
        expected=row.revision,
        expected_next_us=row.next_us,
    )


def _recurs_by(definition: Definition) -> tuple[object, ...]:
    return definition.cron, definition.every_us, definition.timezone


def paused_for(row: ScheduleRow, now_us: int, node: str) -> FireRecord | None:
    """A record of the nominal times that have passed during a pause; None for no such times."""
    return _skipped(row, now_us, FireOutcome.PAUSED, row.note, node)


def _skipped(row: ScheduleRow, now_us: int, outcome: FireOutcome, reason: str, node: str) -> FireRecord | None:
    first_us = row.next_us
    if first_us is None or first_us > now_us:
        return None
    definition = decoded(row)
    count, last_us = 1, None
    if definition is not None:
        try:
            recurrence = recurrence_of(definition)
        except ScheduleError:
            # This machine cannot compute the recurrence, for example because it lacks the time zone. So the record
            # counts only the next time that the store has.
            pass
        else:
            count, last_us = max(1, recurrence.count(first_us - 1, now_us)), recurrence.latest_at(now_us)
    return FireRecord(
        nominal_us=first_us,
        outcome=outcome,
        until_us=last_us if count > 1 and last_us is not None else 0,
        count=count,
        reason=reason,
        node=node,
    )
