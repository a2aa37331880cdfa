"""The stored form of schedules, and the ledger with the outcome of each nominal time.

A *nominal time* is an instant at which a schedule is due by its definition, without jitter. A *fire* decides about one
nominal time, or about a stretch with the same outcome. To a store, a definition is opaque bytes (see `definition`).
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
    """What a fire does while an earlier instance of the schedule, or its body, has not ended."""

    ALLOW = "allow"
    SKIP = "skip"
    """Record `skipped`, and make no instance."""
    QUEUE = "queue"
    """Park the instance until the earlier one ends; record `skipped` if `queue_limit` instances are parked already."""
    REPLACE = "replace"
    """Cancel the earlier instance and the parked ones, and run after the end of the earlier body."""


class FireOutcome(StrEnum):
    """The outcome of a nominal time."""

    FIRED = "fired"
    """An instance was made, in time or by the misfire policy."""
    BACKFILLED = "backfilled"
    """An instance was made later, by a backfill."""
    TRIGGERED = "triggered"
    """An instance was made by a trigger; the time is that of the trigger."""
    SKIPPED = "skipped"
    """No instance was made: an earlier one had not ended, the key was taken, or no node can run the kind.

    `reason` has the details.
    """
    MISSED = "missed"
    """No leader handled the time, and the misfire policy does not run it later."""
    COALESCED = "coalesced"
    """No leader handled the time; one later fire covers it."""
    PAUSED = "paused"
    """The schedule was paused."""

    @property
    def advances(self) -> bool:
        """Whether the fire decides about the schedule's next nominal time."""
        return self not in (FireOutcome.BACKFILLED, FireOutcome.TRIGGERED)


class Term(msgspec.Struct, frozen=True):
    """One leadership. Terms of one coordinator ascend; terms of different coordinators cannot be compared."""

    coordinator: str
    """"etcd:<cluster id>:<token>", "memory:<token>", or "store" for the lease of Redis or Valkey.

    The token is random. A coordinator that was wiped or restored gets a new token, since its terms start again.
    """
    number: int


class Leader(msgspec.Struct, frozen=True, kw_only=True):
    """The leader, as known to the coordinator."""

    incarnation: str
    name: str
    """Name of the node."""
    term: Term
    since_us: int = 0
    """Start of the term, by the leader's clock; 0: unknown."""

    @property
    def since(self) -> datetime | None:
        """Start of the term, or None if unknown."""
        return to_datetime(self.since_us) if self.since_us else None


class ScheduleRow(msgspec.Struct, frozen=True, kw_only=True):
    """A stored schedule."""

    name: str
    kind: str
    definition: bytes
    """Opaque to the store."""
    revision: int
    """A number that grows with each `put_schedule` and removal in the namespace, but not with a fire."""
    next_us: int | None
    """The first nominal time without a record; None: no further time."""
    paused: bool = False
    note: str = ""
    """The note of the last pause."""
    created_us: int = 0
    updated_us: int = 0
    last_us: int = 0
    """The latest nominal time with a record; 0: none yet."""
    trimmed_us: int = 0
    """The latest nominal time of an instance whose record was removed from the ledger; 0: none."""
    holder: str = ""
    """The instance that holds the schedule's slot (see `Overlap`); "" if the slot is free."""
    parked: tuple[str, ...] = ()
    """Instances that wait for the slot, in order."""
    removed: bool = False
    """Only in `changed_schedules`: the schedule was removed. Only name and revision are set."""


class SchedulePage(msgspec.Struct, frozen=True, kw_only=True):
    """Schedules by revision, and the position of the next page."""

    rows: tuple[ScheduleRow, ...] = ()
    revision: int = 0
    """Pass it to the next call, which returns later changes. It can be negative during the first load."""
    more: bool = False
    reset: bool = False
    """Too many changes since the given revision: drop all known schedules. These are the first of all schedules."""


class SchedulePut(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule to write: created, changed, paused or resumed."""

    name: str
    kind: str
    definition: bytes
    next_us: int | None
    paused: bool = False
    note: str = ""
    expected: int = 0
    """The expected present revision; 0: no schedule. With another revision, the put is refused."""
    expected_next_us: int | None = None
    """The expected present `next_us`; compared if `expected` is not 0."""
    account: FireRecord | None = None
    """A record for the nominal times that this put passes over, such as those of a pause."""


class FireRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A record of the ledger."""

    nominal_us: int
    """The nominal time, or the first of a stretch."""
    outcome: FireOutcome
    at_us: int = 0
    """Time of the record, by the store's clock."""
    until_us: int = 0
    """The last nominal time of the stretch; 0 for a single time."""
    count: int = 1
    """Number of nominal times."""
    instance: str = ""
    """The instance that was made; "" for none."""
    parked: bool = False
    """Whether the instance had to wait for an earlier one."""
    cancelled: str = ""
    """The instance that was cancelled for this one, with `Overlap.REPLACE`."""
    reason: str = ""
    node: str = ""
    term: int = 0
    coordinator: str = ""
    request: str = ""

    @property
    def late_us(self) -> int:
        """Time from the (last) nominal time to the record; the two times are from different clocks."""
        return max(0, self.at_us - max(self.nominal_us, self.until_us))


class Fire(msgspec.Struct, frozen=True, kw_only=True):
    """A decision about a nominal time, by a leader, a trigger or a backfill. The store executes it in one step."""

    schedule: str
    revision: int
    """The revision of the schedule that the decision is based on."""
    nominal_us: int
    outcome: FireOutcome
    request: str
    """An id that the caller chooses, unique to this fire; the id of the instance if it has one."""
    next_us: int | None = None
    """The nominal time after this one (or after `until_us`); only for outcomes that advance."""
    until_us: int = 0
    count: int = 1
    instance: NewInstance | None = None
    """The instance to enqueue; only for FIRED, BACKFILLED and TRIGGERED."""
    overlap: Overlap = Overlap.ALLOW
    queue_limit: int = 1
    reason: str = ""


class FireStatus(StrEnum):
    """The answer to a fire."""

    DONE = "done"
    """The fire is recorded, now or by an earlier send of the same request."""
    STALE = "stale"
    """The schedule was changed, paused, removed or fired meanwhile: read it again."""
    KNOWN = "known"
    """The nominal time of a backfill already has an instance."""
    TRIMMED = "trimmed"
    """The nominal time of a backfill is older than the ledger, so it may have had an instance."""
    DEPOSED = "deposed"
    """The store has seen a later term of the same coordinator: step down."""


class FireAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one fire."""

    status: FireStatus
    record: FireRecord | None = None
    """The record, if DONE. Its outcome is SKIPPED if an earlier instance or the key did not allow a new one."""


class FirePage(msgspec.Struct, frozen=True):
    """A page of the ledger, latest nominal time first; `cursor` is None on the last page."""

    records: tuple[FireRecord, ...]
    cursor: str | None


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate for the leadership."""

    incarnation: str
    name: str
