"""Schedules are written, removed and read. Each write and each removal gets the next revision of the namespace."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import convert
from msgspec.structs import replace

from peerjob.model.firing import MAX_SCHEDULES, SchedulePage, SchedulePut, ScheduleRow
from peerjob.store.rules import MAX_REMOVALS, check_count

from .ledger import add_stretch, trim
from .state import ScheduleData
from .transaction import ReferenceTransaction

_LOADING = 1 << 32
"""A negative revision continues a first load: the revision at its start times this, plus the one that it reached."""


def put_schedule(transaction: ReferenceTransaction, put: SchedulePut) -> ScheduleRow | None:
    """Write a schedule if it is as expected. A repeated put finds another revision, so it changes nothing."""
    schedules = transaction.state.schedules
    old = schedules.get(put.name)
    expected = (put.expected, put.expected_next_us) if put.expected else None
    if expected != (None if old is None else (old.revision, old.next_us)):
        return None
    schedule = old or ScheduleData(
        name=put.name,
        kind=put.kind,
        definition=put.definition,
        revision=0,
        next_us=None,
        paused=False,
        note="",
        created_us=transaction.now_us,
        updated_us=0,
        last_us=put.trimmed_us,
        trimmed_us=put.trimmed_us,
    )
    schedule.kind, schedule.definition, schedule.next_us = put.kind, put.definition, put.next_us
    schedule.paused, schedule.note, schedule.updated_us = put.paused, put.note, transaction.now_us
    schedule.revision = next_revision(transaction)
    schedule.stretch = None
    schedules[put.name] = schedule
    transaction.state.removals.pop(put.name, None)
    if put.account is not None:
        trim(
            transaction, schedule, [add_stretch(transaction, schedule, replace(put.account, at_us=transaction.now_us))]
        )
    transaction.hint_all("schedule", put.name)
    return to_row(transaction, schedule)


def remove_schedule(transaction: ReferenceTransaction, name: str, *, expected: int | None = None, request: str) -> bool:
    """Remove a schedule and its ledger. Its slot stays until its instances are over."""
    if transaction.answered(request, "remove_schedule", request) is not None:
        return True
    schedule = transaction.state.schedules.get(name)
    if schedule is None or expected not in (None, schedule.revision):
        return False
    del transaction.state.schedules[name]
    removals = transaction.state.removals
    removals[name] = next_revision(transaction)
    if len(removals) > MAX_REMOVALS:
        transaction.state.floor = removals.pop(min(removals, key=lambda removed: removals[removed]))
    transaction.hint_all("schedule", name)
    transaction.remember(request, "remove_schedule", request, True)
    return True


def get_schedules(transaction: ReferenceTransaction, names: Sequence[str]) -> list[ScheduleRow | None]:
    """Schedules by name."""
    check_count(names, "schedules")
    rows = [transaction.state.schedules.get(name) for name in names]
    return [None if schedule is None else to_row(transaction, schedule) for schedule in rows]


def changed_schedules(transaction: ReferenceTransaction, revision: int, *, limit: int = MAX_SCHEDULES) -> SchedulePage:
    """What was written or removed after a revision. A first load does not tell of removals before its start."""
    state = transaction.state
    begun, after = divmod(-revision, _LOADING) if revision < 0 else (revision, revision)
    reset = 0 < begun < state.floor or begun > state.revision
    if reset or revision == 0:
        begun, after = state.revision, 0
    rows = [to_row(transaction, schedule) for schedule in state.schedules.values() if schedule.revision > after]
    rows += [removed_row(name, at) for name, at in state.removals.items() if at > max(begun, after)]
    rows.sort(key=lambda row: row.revision)
    more = len(rows) > limit
    rows = rows[:limit]
    upto = rows[-1].revision if more else state.revision
    loading = revision <= 0 or reset
    position = -(begun * _LOADING + upto) if loading and upto < begun else upto
    return SchedulePage(rows=tuple(rows), revision=position, more=more, reset=reset)


def next_revision(transaction: ReferenceTransaction) -> int:
    """Take the next revision."""
    transaction.state.revision += 1
    return transaction.state.revision


def to_row(transaction: ReferenceTransaction, schedule: ScheduleData) -> ScheduleRow:
    """A schedule as readers see it."""
    holder, *parked = transaction.state.slots.get(schedule.name, [""])
    row = convert(schedule, ScheduleRow, from_attributes=True)
    return replace(row, holder=holder, parked=tuple(parked))


def removed_row(name: str, revision: int) -> ScheduleRow:
    """What `changed_schedules` tells about a removed schedule."""
    return ScheduleRow(name=name, kind="", definition=b"", revision=revision, next_us=None, removed=True)
