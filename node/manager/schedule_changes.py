"""From a definition to what is put in the store: when it is due next, and what became of the times stepped over."""

from __future__ import annotations

from msgspec import structs

from peerjob.model.definition import Definition, decode_definition, encode_definition
from peerjob.model.errors import DecodeError, ScheduleError
from peerjob.model.firing import FireOutcome, FireRecord, SchedulePut, ScheduleRow
from peerjob.model.recurrence import recurrence_of

CHANGED = "the schedule was changed"


def decoded(row: ScheduleRow) -> Definition | None:
    """The definition in a row, or None when this release cannot read it."""
    try:
        return decode_definition(row.definition)
    except DecodeError:
        return None


def put_of(name: str, definition: Definition, row: ScheduleRow | None, *, now_us: int, node: str) -> SchedulePut:
    """Make a schedule, or change the one in `row`; a pause stays. Raises ScheduleError.

    As long as it recurs as before, its next time stays what it is, and an interval counts from where it did. Otherwise
    times count from now on, and those that nobody has fired yet are stepped over.
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
    stepped = paused_for(row, now_us, node) if row.paused else _behind(row, now_us, FireOutcome.MISSED, CHANGED, node)
    return structs.replace(put, next_us=recurrence.next_after(max(now_us, row.last_us)), account=stepped)


def unchanged(row: ScheduleRow) -> SchedulePut:
    """What leaves a schedule as it is in the row."""
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
    """The nominal times that a pause has let pass so far; None when it was none."""
    return _behind(row, now_us, FireOutcome.PAUSED, row.note, node)


def _behind(row: ScheduleRow, now_us: int, outcome: FireOutcome, reason: str, node: str) -> FireRecord | None:
    first_us = row.next_us
    if first_us is None or first_us > now_us:
        return None
    definition = decoded(row)
    count, last_us = 1, None
    if definition is not None:
        try:
            recurrence = recurrence_of(definition)
        except ScheduleError:
            pass  # a zone that is not known here, say; the one time that the store names is all that is sure
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
