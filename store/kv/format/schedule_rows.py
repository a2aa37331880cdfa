"""The records that the engine stores about schedules, and how they are decoded.

A schedule has two records, so that a fire writes little: the definition, and the part that fires change. Both have the
revision of the schedule, so a reader can tell whether two records belong together.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from peerjob.model.firing import FireRecord, ScheduleRow
from peerjob.model.record import Count, Moment
from peerjob.model.spec import reader

from .limit_rows import limit_key_of
from .rows import NOTHING_EXTRA, Id, Kind, Lease, LimitKey, Priority, Row, encode, or_default

Revision = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
"""The number of a put or a removal. A page of schedules carries two of them in one number."""


class Revisions(msgspec.Struct, frozen=True, array_like=True):
    """The latest revision of all schedules, and the stored removals."""

    latest: Revision = 0
    removals: Count = 0
    """Number of stored removals."""
    floor: Revision = 0
    """The latest revision of a removal that is no longer stored; a reader that is further
    behind must load all schedules again."""


class ScheduleState(msgspec.Struct, frozen=True, array_like=True):
    """The definition of a schedule."""

    revision: Revision
    epoch: Revision
    """The revision of the first put of the schedule; a part of the keys of the schedule's ledger."""
    before: Revision
    """The revision before the last put, so that a repeated put is recognized."""
    kind: Kind
    definition: bytes
    paused: bool
    note: str
    created_us: Moment
    updated_us: Moment
    extra: msgspec.Raw = NOTHING_EXTRA


class NextFire(msgspec.Struct, frozen=True, array_like=True):
    """The part of a schedule that fires change."""

    revision: Revision
    epoch: Revision
    next_us: Moment | None
    paused: bool
    last_us: Moment = 0
    trimmed_us: Moment = 0
    stretch: FireRecord | None = None
    """The latest ledger record if the record is of a gap, so that a similar gap extends the
    same record; otherwise None."""
    records: Count = 0
    """The number of records in the ledger of the schedule."""
    first_us: Moment = 0
    """A lower bound of the nominal times of the records in the ledger."""
    oldest_us: Moment = 0
    """The time at which the record with the earliest nominal time was written, if known."""
    extra: msgspec.Raw = NOTHING_EXTRA


SUSPECT_EXTRA = msgspec.Raw(encode({"suspect": True}))
"""The last field of a parked suspect. Only an instance from another store is a suspect before its first run."""


class _ParkedExtra(msgspec.Struct, frozen=True):
    """The last field of a parked instance."""

    suspect: bool = False
    limit_key: LimitKey | None = None


_later_of = or_default(reader(_ParkedExtra, "later fields of a parked instance"), _ParkedExtra())


class Parked(msgspec.Struct, frozen=True, array_like=True):
    """An instance that waits for a slot, with what is needed to add it to its queue without its record."""

    id: Id
    kind: Kind
    priority: Priority
    due_us: Moment
    extra: msgspec.Raw = NOTHING_EXTRA

    @classmethod
    def of(cls, id: str, row: Row) -> Parked:
        """The entry of an instance that starts to wait."""
        limit_key = limit_key_of(row)
        extra = SUSPECT_EXTRA if row.suspect else NOTHING_EXTRA
        if limit_key is not None:
            extra = msgspec.Raw(encode({"suspect": row.suspect, "limit_key": limit_key}))
        return cls(id, row.kind, row.priority, row.due_us, extra)

    @property
    def suspect(self) -> bool:
        """Whether the instance waits in the queue of suspects after it has the slot."""
        return self.extra == SUSPECT_EXTRA or (self.extra != NOTHING_EXTRA and bool(_later_of(self.extra).suspect))

    @property
    def limit_key(self) -> LimitKey | None:
        """The limit key of the instance, and the concurrency that came with it."""
        return None if self.extra in (NOTHING_EXTRA, SUSPECT_EXTRA) else _later_of(self.extra).limit_key

    @property
    def gate(self) -> tuple[str, str] | None:
        """Kind and limit key of the instance."""
        return None if self.limit_key is None else (self.kind, self.limit_key[0])


class SlotRow(msgspec.Struct, frozen=True, array_like=True):
    """The instance that holds a schedule's slot, and those that wait for the slot, in order."""

    holder: str = ""
    parked: tuple[Parked, ...] = ()
    extra: msgspec.Raw = NOTHING_EXTRA


class LeaderRow(msgspec.Struct, frozen=True, array_like=True):
    """The leader of the namespace."""

    incarnation: Annotated[str, msgspec.Meta(min_length=1)]
    name: str
    lease: Lease
    since_us: Moment


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
        parked=tuple(parked.id for parked in slot.parked),
    )
