"""What the engine stores about schedules, and how it reads it back.

A schedule is two records, since a fire must be small: what was put, and what a fire changes. Both tell the revision,
so that whoever reads them one after the other sees whether they belong together.
"""

from __future__ import annotations

import msgspec

from peerjob.model.decoding import reader
from peerjob.model.firing import FireRecord, ScheduleRow

from .rows import NOTHING_EXTRA


class Revisions(msgspec.Struct, frozen=True, array_like=True):
    """Where the revisions of all schedules stand."""

    latest: int = 0
    removals: int = 0
    """How many are remembered."""
    floor: int = 0
    """The latest revision of a removal that is not remembered any more."""


class ScheduleState(msgspec.Struct, frozen=True, array_like=True):
    """What was put."""

    revision: int
    epoch: int
    """Revision of the first put of this schedule, which its ledger is found by."""
    before: int
    """The revision that was there before the last put, so that one sent twice is known."""
    kind: str
    definition: bytes
    paused: bool
    note: str
    created_us: int
    updated_us: int
    extra: msgspec.Raw = NOTHING_EXTRA


class NextFire(msgspec.Struct, frozen=True, array_like=True):
    """What a fire changes."""

    revision: int
    epoch: int
    next_us: int | None
    paused: bool
    last_us: int = 0
    trimmed_us: int = 0
    stretch: FireRecord | None = None
    """The latest record, if it is of a gap that the next one may be joined with."""
    records: int = 0
    """Records in the ledger."""
    first_us: int = 0
    """No record has an earlier nominal time."""
    oldest_us: int = 0
    """When the record with the earliest nominal time was written, as far as that is known."""
    extra: msgspec.Raw = NOTHING_EXTRA


class Parked(msgspec.Struct, frozen=True, array_like=True):
    """An instance that waits for a slot: enough to let it into its queue without its record."""

    id: str
    kind: str
    priority: int
    due_us: int
    extra: msgspec.Raw = NOTHING_EXTRA


class SlotRow(msgspec.Struct, frozen=True, array_like=True):
    """Who has a schedule's slot, and who waits for it, in order."""

    holder: str = ""
    parked: tuple[Parked, ...] = ()
    extra: msgspec.Raw = NOTHING_EXTRA


class LeaderRow(msgspec.Struct, frozen=True, array_like=True):
    """The leadership, in the hands of one incarnation."""

    incarnation: str
    name: str
    lease: int
    since_us: int


decode_revisions = reader(Revisions, "list of schedules")
decode_schedule = reader(ScheduleState, "schedule")
decode_next_fire = reader(NextFire, "next time of a schedule")
decode_slot = reader(SlotRow, "slot")
decode_leader = reader(LeaderRow, "leadership")
decode_fire = reader(FireRecord, "fire")


def to_schedule_row(name: str, schedule: ScheduleState, next_fire: NextFire, slot: SlotRow) -> ScheduleRow:
    """A schedule as readers see it."""
    return ScheduleRow(
        name=name,
        kind=schedule.kind,
        definition=schedule.definition,
        revision=schedule.revision,
        next_us=next_fire.next_us,
        paused=schedule.paused,
        note=schedule.note,
        created_us=schedule.created_us,
        updated_us=schedule.updated_us,
        last_us=next_fire.last_us,
        trimmed_us=next_fire.trimmed_us,
        holder=slot.holder,
        parked=tuple(one.id for one in slot.parked),
    )
