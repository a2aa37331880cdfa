"""Schedules as a store keeps them, and the ledger of what became of each nominal time. Values only.

A *nominal time* is an instant at which a schedule is due by its definition, without jitter. A *fire* accounts for one,
or for a stretch of them that had the same fate. To a store a definition is opaque bytes (see `definition`).
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec

from .clock import to_datetime
from .record import NewInstance

MAX_SCHEDULES = 500
"""Most schedules, and most fires, in one store call."""


class Overlap(StrEnum):
    """What a fire does while an instance of an earlier one is not over (its body included)."""

    ALLOW = "allow"
    SKIP = "skip"
    """Records `skipped`, and nothing runs."""
    QUEUE = "queue"
    """Parks the instance until the one before is over; `skipped` where `queue_limit` are parked already."""
    REPLACE = "replace"
    """Cancels the one before, and what is parked behind it, and runs once its body has ended."""


class FireOutcome(StrEnum):
    """What became of a nominal time."""

    FIRED = "fired"
    """An instance was made, at the time or within what misfire allows."""
    BACKFILLED = "backfilled"
    """An instance was made later, because somebody asked for it."""
    TRIGGERED = "triggered"
    """An instance was made by hand; the time is when, and no nominal one."""
    SKIPPED = "skipped"
    """Nothing was made: the one before still ran, its key was taken, or no node can run the kind. `reason` says."""
    MISSED = "missed"
    """Nobody was there in time, and the policy makes up for it no more."""
    COALESCED = "coalesced"
    """Nobody was there in time; one later fire stands for it."""
    PAUSED = "paused"
    """The schedule was paused."""

    @property
    def advances(self) -> bool:
        """Whether it is about the schedule's next nominal time, which is accounted for by it."""
        return self not in (FireOutcome.BACKFILLED, FireOutcome.TRIGGERED)


class Term(msgspec.Struct, frozen=True):
    """One leadership. Terms of one coordinator only grow; of two coordinators they cannot be compared."""

    coordinator: str
    """What counted it: "etcd:<cluster id>:<token>", "memory:<token>", or "store" for the lease of Redis or Valkey.

    The token is random. A coordinator that was wiped or restored gets another one, since it counts anew.
    """
    number: int


class Leader(msgspec.Struct, frozen=True, kw_only=True):
    """Who leads, as the coordinator tells."""

    incarnation: str
    name: str
    """Name of the node."""
    term: Term
    since_us: int = 0
    """By the leader's clock; 0 where that is not known."""

    @property
    def since(self) -> datetime | None:
        """When the term began, or None where that is not known."""
        return to_datetime(self.since_us) if self.since_us else None


class ScheduleRow(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule, as read."""

    name: str
    kind: str
    definition: bytes
    """Opaque to the store."""
    revision: int
    """Grows with every `put_schedule` and removal in the namespace, but not with a fire."""
    next_us: int | None
    """The first nominal time that no record accounts for; None: there is none any more."""
    paused: bool = False
    note: str = ""
    """Why it is paused, or the like."""
    created_us: int = 0
    updated_us: int = 0
    last_us: int = 0
    """The latest nominal time that a record accounts for; 0: none yet."""
    trimmed_us: int = 0
    """The latest nominal time of an instance whose record was removed from the ledger; 0: none."""
    holder: str = ""
    """The instance that has the schedule's slot (see `Overlap`); "" when it is free."""
    parked: tuple[str, ...] = ()
    """Instances that wait for the slot, in order."""
    removed: bool = False
    """Only in `changed_schedules`: it was removed; nothing else is told but name and revision."""


class SchedulePage(msgspec.Struct, frozen=True, kw_only=True):
    """Schedules in the order of their revisions, and how to go on."""

    rows: tuple[ScheduleRow, ...] = ()
    revision: int = 0
    """Ask with this the next time: everything up to it has been told. It may be below 0 while a first load goes on."""
    more: bool = False
    reset: bool = False
    """Too much happened since the revision that was asked for: forget all, and these are the first of all there are."""


class SchedulePut(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule to write: made, changed, paused or resumed."""

    name: str
    kind: str
    definition: bytes
    next_us: int | None
    paused: bool = False
    note: str = ""
    expected: int = 0
    """The revision that is there now; 0: none is. With any other the put is refused."""
    expected_next_us: int | None = None
    """The `next_us` that is there now; compared when `expected` is not 0."""
    account: FireRecord | None = None
    """A record for nominal times that this put steps over, such as those of a pause."""


class FireRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One record of the ledger."""

    nominal_us: int
    """The nominal time, or the first of a stretch of them."""
    outcome: FireOutcome
    at_us: int = 0
    """When it was recorded, by the store's clock."""
    until_us: int = 0
    """The last nominal time of the stretch; 0 when it is one time only."""
    count: int = 1
    """Nominal times that it accounts for."""
    instance: str = ""
    """The instance that was made; "" for none."""
    parked: bool = False
    """Whether the instance had to wait for an earlier one."""
    cancelled: str = ""
    """The instance that had to make room, with `Overlap.REPLACE`."""
    reason: str = ""
    node: str = ""
    term: int = 0
    coordinator: str = ""
    request: str = ""

    @property
    def late_us(self) -> int:
        """How long after its (last) nominal time it was recorded; times are of two clocks."""
        return max(0, self.at_us - max(self.nominal_us, self.until_us))


class Fire(msgspec.Struct, frozen=True, kw_only=True):
    """What a leader (or a caller, for a trigger or a backfill) wants done about a nominal time, in one step."""

    schedule: str
    revision: int
    """The revision that it was decided by."""
    nominal_us: int
    outcome: FireOutcome
    request: str
    """Chosen by the caller, unique to this fire; the instance's id where there is one."""
    next_us: int | None = None
    """The nominal time after this one (or after `until_us`); only for outcomes that advance."""
    until_us: int = 0
    count: int = 1
    instance: NewInstance | None = None
    """What to enqueue; needed by FIRED, BACKFILLED and TRIGGERED alone."""
    overlap: Overlap = Overlap.ALLOW
    queue_limit: int = 1
    reason: str = ""


class FireStatus(StrEnum):
    """Answer to a fire."""

    DONE = "done"
    """Recorded, now or when the same request came before."""
    STALE = "stale"
    """The schedule is not as it was believed (changed, paused, removed, or fired by somebody else): read it again."""
    KNOWN = "known"
    """This nominal time (of a backfill) has an instance already."""
    TRIMMED = "trimmed"
    """This nominal time (of a backfill) is so old that nobody can tell whether it had an instance."""
    DEPOSED = "deposed"
    """The store has seen a later term of the same coordinator: step down."""


class FireAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one fire."""

    status: FireStatus
    record: FireRecord | None = None
    """What was recorded, when DONE: its outcome is SKIPPED where an earlier instance was in the way."""


class FirePage(msgspec.Struct, frozen=True):
    """A page of the ledger, latest nominal time first; `cursor` None means that this was the last."""

    records: tuple[FireRecord, ...]
    cursor: str | None


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """Who stands for leader."""

    incarnation: str
    name: str
