"""The stored form of schedules, and the ledger with the outcome of each nominal time.

A *nominal time* is an instant at which a schedule is due by its definition, without jitter. A *fire* decides about one
nominal time, or about a stretch with the same outcome. To a store, a definition is opaque bytes (see `definition`).
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

import msgspec

from .clock import to_datetime
from .record import Count, Moment, NewInstance

MAX_SCHEDULES = 500
"""Most schedules in one store call, and most fires in one store call."""


TermNumber = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Overlap(StrEnum):
    """What a fire does while an earlier instance of the schedule, or its body, has not ended."""

    ALLOW = "allow"
    SKIP = "skip"
    """Record the fire as `skipped`, and make no instance."""
    QUEUE = "queue"
    """Park the instance until the earlier one ends. If `queue_limit` instances are parked already, record `skipped`."""
    REPLACE = "replace"
    """Cancel the earlier instance and all parked ones. The new instance runs after the earlier body has ended."""


class FireOutcome(StrEnum):
    """The outcome of a nominal time."""

    FIRED = "fired"
    """The fire made an instance, either in time or later by the misfire policy."""
    BACKFILLED = "backfilled"
    """A backfill made an instance for a past nominal time."""
    TRIGGERED = "triggered"
    """A trigger made an instance. The time of the record is the time of the trigger."""
    SKIPPED = "skipped"
    """The fire made no instance.

    An earlier instance had not ended, the key was taken, or no node can run the kind: `reason` has the details.
    """
    MISSED = "missed"
    """No leader handled the nominal time, and the misfire policy does not run the job later."""
    COALESCED = "coalesced"
    """No leader handled the nominal time, and one later fire stands for several missed times."""
    PAUSED = "paused"
    """The schedule was paused at the nominal time."""

    @property
    def advances(self) -> bool:
        """Whether the fire decides about the schedule's next nominal time."""
        return self not in (FireOutcome.BACKFILLED, FireOutcome.TRIGGERED)


class Term(msgspec.Struct, frozen=True):
    """One leadership. Terms of one coordinator ascend; terms of different coordinators cannot be compared."""

    coordinator: str
    """"etcd:<cluster id>:<token>", "memory:<token>", or "store" for the lease of Redis or Valkey.

    The token is random. A coordinator that was wiped or restored gets a new token, since its term numbers start again.
    """
    number: int


class Leader(msgspec.Struct, frozen=True, kw_only=True):
    """The leader, as known to the coordinator."""

    incarnation: str
    name: str
    """Name of the leader's node."""
    term: Term
    since_us: int = 0
    """Start of the term in microseconds, by the leader's clock; 0: unknown."""

    @property
    def since(self) -> datetime | None:
        """Start of the term, or None if unknown."""
        return to_datetime(self.since_us) if self.since_us else None


class ScheduleRow(msgspec.Struct, frozen=True, kw_only=True):
    """A stored schedule."""

    name: str
    kind: str
    definition: bytes
    """The encoded definition, which the store does not read."""
    revision: int
    """A number that grows with each `put_schedule` and each removal in the namespace.

    A fire does not change the number.
    """
    next_us: int | None
    """The first nominal time without a ledger record; None: no further time."""
    paused: bool = False
    note: str = ""
    """The note that was given with the last pause."""
    created_us: int = 0
    updated_us: int = 0
    last_us: int = 0
    """The latest nominal time that has a ledger record; 0: none yet."""
    trimmed_us: int = 0
    """The latest nominal time that had an instance and whose ledger record was removed; 0: none."""
    holder: str = ""
    """Id of the instance that holds the schedule's slot (see `Overlap`); "" if the slot is free."""
    parked: tuple[str, ...] = ()
    """Ids of the instances that wait for the slot, in order."""
    removed: bool = False
    """Whether the schedule was removed. A removed schedule has only name and revision.

    Only `changed_schedules` returns such rows.
    """


class SchedulePage(msgspec.Struct, frozen=True, kw_only=True):
    """Schedules by revision, and the position of the next page."""

    rows: tuple[ScheduleRow, ...] = ()
    revision: int
    """The revision to pass to the next call, which returns later changes. Negative during the first load."""
    more: bool = False
    reset: bool = False
    """Whether too many changes followed the given revision.

    The caller must drop all known schedules: the rows are the first of all present schedules.
    """


class SchedulePut(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule to write: created, changed, paused or resumed."""

    name: str
    kind: str
    definition: bytes
    next_us: int | None
    paused: bool = False
    note: str = ""
    expected: int = 0
    """The revision that the schedule must have now; 0: no schedule may exist. Otherwise the put is refused."""
    expected_next_us: int | None = None
    """The `next_us` that the schedule must have now. The store compares `next_us` only if `expected` is not 0."""
    trimmed_us: int = 0
    """For a new schedule, the latest nominal time that had an instance elsewhere: no backfill makes one again."""
    account: FireRecord | None = None
    """A ledger record for the nominal times that this put passes over, such as those of a pause."""


class FireRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A record of the ledger."""

    nominal_us: Moment
    """The nominal time, or the first nominal time of a stretch."""
    outcome: FireOutcome
    at_us: Moment = 0
    """Time at which the record was written, by the store's clock."""
    until_us: Moment = 0
    """The last nominal time of the stretch; 0 for a single time."""
    count: Count = 1
    """Number of nominal times that the record covers."""
    instance: str = ""
    """Id of the instance that the fire made; "" for none."""
    parked: bool = False
    """Whether the instance had to wait for an earlier one."""
    cancelled: str = ""
    """Id of the instance that the fire cancelled, with `Overlap.REPLACE`; "" for none."""
    reason: str = ""
    node: str = ""
    term: TermNumber = 0
    coordinator: str = ""
    request: str = ""

    @property
    def late_us(self) -> int:
        """Time from the (last) nominal time to the record; the two times are from different clocks. 0 for a trigger."""
        if self.outcome is FireOutcome.TRIGGERED:
            return 0  # its time is that of its id, by the clock of the caller
        return max(0, self.at_us - max(self.nominal_us, self.until_us))


class Fire(msgspec.Struct, frozen=True, kw_only=True):
    """A decision about a nominal time, by a leader, a trigger or a backfill. The store makes it one transaction."""

    schedule: str
    revision: int
    """The revision of the schedule on which the caller based the fire.

    With another revision, the store answers STALE.
    """
    nominal_us: int
    outcome: FireOutcome
    request: str
    """An id that the caller chooses, unique to this fire. A fire with an instance uses the id of the instance."""
    next_us: int | None = None
    """The nominal time after this fire (or after `until_us`). Only outcomes that advance the schedule need a time."""
    until_us: int = 0
    count: int = 1
    instance: NewInstance | None = None
    """The instance to enqueue. Only FIRED, BACKFILLED and TRIGGERED have an instance."""
    overlap: Overlap = Overlap.ALLOW
    queue_limit: int = 1
    reason: str = ""

    def record(self, *, node: str, term: Term | None, at_us: int = 0) -> FireRecord:
        """The record of the ledger for this fire, without an instance; at_us is 0 where a server sets the time."""
        return FireRecord(
            nominal_us=self.nominal_us,
            outcome=self.outcome,
            at_us=at_us,
            until_us=self.until_us,
            count=self.count,
            reason=self.reason,
            node=node,
            term=0 if term is None else term.number,
            coordinator="" if term is None else term.coordinator,
            request=self.request,
        )


class FireStatus(StrEnum):
    """The answer to a fire."""

    DONE = "done"
    """The fire is recorded, by this call or by an earlier call with the same request."""
    STALE = "stale"
    """The schedule was changed, paused, removed or fired after the caller's read. The caller must read again."""
    KNOWN = "known"
    """The nominal time of a backfill already has an instance, so no other is made."""
    TRIMMED = "trimmed"
    """The nominal time of a backfill is older than the ledger. No instance is made: the time may have had one."""
    DEPOSED = "deposed"
    """The store has seen a later term of the same coordinator, so the caller must step down as leader."""


class FireAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one fire."""

    status: FireStatus
    record: FireRecord | None = None
    """The ledger record, if DONE.

    Its outcome is SKIPPED if an earlier instance or the key did not allow a new instance.
    """


class FirePage(msgspec.Struct, frozen=True):
    """A page of the ledger, latest nominal time first; `cursor` is None on the last page."""

    records: tuple[FireRecord, ...]
    cursor: str | None


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate for the leadership."""

    incarnation: str
    name: str
