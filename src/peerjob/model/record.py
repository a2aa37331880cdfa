"""The stored form of an instance, and the values of the store contract.

Times are microseconds since the epoch (`…_us`), ids are UUIDv7 text, and payloads are opaque bytes to a store. Classes
with many objects hold only plain values, so no object is part of a cycle: `gc=False` saves work of the collector.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import msgspec

from .clock import to_datetime
from .state import State

MIN_PRIORITY = -(2**31)
MAX_PRIORITY = 2**31 - 1
MAX_BATCH = 500
"""Most instances in one store call."""
MAX_BATCH_BYTES = 1 << 20
"""Most payload bytes in one store call of several instances (a single instance may exceed it)."""
MAX_HISTORY = 50
"""Most single history entries; older ones are folded into one entry with a count."""
MAX_CRASHES = 3
"""Default number of crashes that an instance survives before it is poison."""


Moment = Annotated[int, msgspec.Meta(ge=-62_135_596_800_000_000, le=253_402_300_799_999_999)]
"""Microseconds since the epoch, in the years 1 to 9999. Only damaged records have other times."""
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
REPEAT_US = 120_000_000
"""Time after its creation in which a caller without an answer may enqueue an instance again.

A client retries for 30 s, and the node behind it retries its store for 30 s more.
"""


class NewInstance(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An instance to enqueue."""

    id: str
    kind: str
    spec: bytes
    """Arguments and options; immutable and opaque to the store."""
    priority: int = 5
    due_us: int | None = None
    """Due time; None without `delay_us` means now. A past time counts in the order of the queue."""
    delay_us: int | None = None
    """Delay until the due time, by the store's clock."""
    key: str | None = None
    """Idempotency key, unique per kind among instances that are not final."""
    tags: tuple[str, ...] = ()
    retention_us: int | None = None
    """Time for which the final instance is kept; None: the store's default."""
    max_crashes: int = MAX_CRASHES


class Enqueued(msgspec.Struct, frozen=True, gc=False):
    """Answer for one enqueued instance."""

    id: str
    """The new instance, or the existing one with the same key."""
    is_new: bool


class Transition(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One entry of an instance's history."""

    state: State
    at_us: Moment
    node: str = ""
    """Name of the node that caused the transition, or ""."""
    note: str = ""
    """The reason in a few words: "retry 2 in 5s", "node lost", "handed back", "cancelled by user"."""
    count: Count = 1
    """Over 1 only in the first entry, if it stands for older entries that were folded."""


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The stored state of one instance, as read."""

    id: str
    kind: str
    state: State
    spec: bytes
    priority: int
    due_us: int
    attempts: int
    """Counted runs, the present one included; hand-backs, snoozes and losses do not count."""
    crashes: int
    losses: int
    fence: int
    """Number of the latest claim; 0 before the first. It only grows."""
    owner: str
    """Incarnation that holds the claim. Of a final instance, the incarnation that ended it. Otherwise ""."""
    history: tuple[Transition, ...]
    result: bytes | None = None
    error: bytes | None = None
    progress: bytes | None = None
    key: str | None = None
    tags: tuple[str, ...] = ()
    slot: str = ""
    """The schedule whose slot the instance holds or waits for; see `firing.Overlap`."""


class Claim(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One instance that this incarnation now owns. Ownership is the pair (fence, incarnation)."""

    id: str
    kind: str
    fence: int
    spec: bytes
    priority: int
    due_us: int
    attempts: int
    """Counted runs, this one included."""
    crashes: int
    losses: int
    at_us: int
    """Time of the claim, by the clock that decides about due times."""
    key: str | None = None
    tags: tuple[str, ...] = ()

    @property
    def suspect(self) -> bool:
        """Whether the instance may have killed nodes; see `is_suspect`."""
        return is_suspect(self.crashes, self.losses)


SUSPECT_AFTER = 2


def is_suspect(crashes: int, losses: int) -> bool:
    """Whether an instance with so many crashes and losses must be claimed alone.

    One loss proves nothing, since all claims of a node are lost with it. See docs/decisions/0001.
    """
    return crashes + losses >= SUSPECT_AFTER


class Caps(Mapping[str, int]):
    """Most instances to claim, by kind: `default`, unless `others` has the kind.

    With the same `kinds` object each time, a claim for thousands of kinds costs no more than a claim for few.
    """

    __slots__ = ("_known", "default", "kinds", "others")

    def __init__(self, kinds: tuple[str, ...], default: int, others: Mapping[str, int] | None = None) -> None:
        self.kinds = kinds
        self.default = default
        self.others = others or {}
        self._known: frozenset[str] | None = None

    def __getitem__(self, kind: str) -> int:
        if self._known is None:
            self._known = frozenset(self.kinds)
        if kind not in self._known:
            raise KeyError(kind)
        return self.others.get(kind, self.default)

    def __iter__(self) -> Iterator[str]:
        return iter(self.kinds)

    def __len__(self) -> int:
        return len(self.kinds)


class Want(msgspec.Struct, frozen=True, kw_only=True):
    """The request of a claim."""

    kinds: Mapping[str, int]
    """Most instances to claim now, by kind. Kinds with 0 are registered, but not claimed now."""
    limit: int
    """Most instances in total, ≤ MAX_BATCH."""
    suspects: bool = True
    """Whether a suspect may be claimed. A suspect is claimed alone, and only if it is first in order."""
    idle: bool = True
    """Register the node as idle in the same step if nothing was found and `limit` > 0."""


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to a claim."""

    claims: tuple[Claim, ...] = ()
    """In the order in which they start."""
    now_us: int = 0
    next_due_us: int | None = None
    """If nothing was found: the earliest due time of a delayed instance."""
    dead: bool = False
    """This incarnation is marked dead, or never joined: nothing was claimed. Join as a new incarnation."""


class Action(StrEnum):
    """The requested transition. The first four lead to final states."""

    COMPLETE = "complete"
    TERMINATE = "terminate"
    TIME_OUT = "time_out"
    CANCEL = "cancel"
    """The job ended itself as cancelled: the owner changes Processing to Cancelled."""
    RETRY = "retry"
    """→ Scheduled after `delay_us`; the attempt counts."""
    SNOOZE = "snooze"
    """→ Scheduled after `delay_us`; the attempt does not count."""
    HAND_BACK = "hand_back"
    """→ Scheduled with the same due time, so the place in the queue stays; the attempt does not count."""
    RELEASE = "release"
    """The body of a cancelled instance has ended: remove the owner entry, and free the key."""
    REPORT = "report"
    """No transition: a start of the body, progress or log lines."""


FINAL_STATE: dict[Action, State] = {
    Action.COMPLETE: State.COMPLETED,
    Action.TERMINATE: State.TERMINATED,
    Action.TIME_OUT: State.TIMED_OUT,
    Action.CANCEL: State.CANCELLED,
}


class LogLine(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One log line of an instance."""

    at_us: Moment
    level: Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)]
    """A `Level` number."""
    message: str
    attempt: Count = 0
    node: str = ""
    fields: dict[str, Any] | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The owner's report about a running instance. The store writes it only if (fence, incarnation) still own it."""

    id: str
    fence: int
    action: Action
    result: bytes | None = None
    error: bytes | None = None
    progress: bytes | None = None
    started: bool = False
    """The body has started. Only REPORT needs it; actions that end a body imply it."""
    delay_us: int = 0
    note: str = ""
    logs: tuple[LogLine, ...] = ()
    """Log lines, appended before the transition in the same step."""


class Ack(StrEnum):
    """Answer to one outcome."""

    DONE = "done"
    """The outcome is written, now or by an earlier send of the same request."""
    LOST = "lost"
    """The sender is no longer the owner (reaped, claimed elsewhere, removed): nothing was written."""
    CANCELLED = "cancelled"
    """A user cancelled the instance first, so it stays Cancelled. If the body has ended, the owner entry is removed."""


class NodeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A node's description for its peers."""

    name: str
    incarnation: str
    """A new id for each start of a node, even with the same name."""
    kinds: tuple[str, ...] = ()
    """Kinds that the node can run; empty without workers."""
    signatures: dict[str, str] = {}
    """Hash of the signature by kind, so that a peer can check whether arguments fit here."""
    workers: int = 0
    host: str = ""
    pid: int = 0
    version: str = ""
    started_us: int = 0


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """A node, as the store knows it."""

    info: NodeInfo
    running: int = 0
    """Number of claims that the node holds."""
    renewed_us: int = 0
    expires_us: int = 0
    age_us: int = 0
    """Time since the last renewal, by the store's clock; set in the views of a manager."""

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def load(self) -> float:
        """Share of busy workers, 0 to 1; over 1 while the node removes workers; 0 without workers."""
        return self.running / self.info.workers if self.info.workers else 0.0

    @property
    def heartbeat_age(self) -> float:
        """Seconds since the last renewal."""
        return self.age_us / 1_000_000

    @property
    def started_at(self) -> datetime:
        """Start of the node, by its own clock."""
        return to_datetime(self.info.started_us)


class Held(msgspec.Struct, frozen=True):
    """One claim, by id and fence."""

    id: str
    fence: int


class Renewed(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to a renewal."""

    dead: bool = False
    """The incarnation is marked dead, or unknown: all its claims are void. Join as a new incarnation."""
    now_us: int = 0
    held: tuple[Held, ...] | None = None
    """All claims of this incarnation in the store, if count or digest did not match."""
    cancelled: tuple[str, ...] = ()
    """Instances that were cancelled while this incarnation ran them, and that are not released yet."""
    ahead_us: int = 0
    """Lead of this node's clock over the store's, or over the median of the peers if the nodes' clocks count.

    Negative: it is behind. 0: unknown.
    """
    clock_known: bool = True
    """False while a new node still waits for the clocks of its peers, if the nodes' clocks count."""


DIGEST_SIZE = 2_147_483_647


def digest(fences: list[int]) -> int:
    """Return a number that node and store compare, to check whether they know the same claims."""
    return sum(map(digest_share, fences)) % DIGEST_SIZE


def digest_share(fence: int) -> int:
    """Return the summand of one claim in `digest`."""
    return fence % 1_000_003


class Reaped(msgspec.Struct, frozen=True, kw_only=True):
    """An instance whose claim was taken back from a dead incarnation."""

    id: str
    kind: str
    state: State
    """SCHEDULED, TERMINATED (poison), or CANCELLED (a user cancelled it; its owner entry is removed now)."""
    node: str
    """Name of the node that died."""


class Hint(msgspec.Struct, frozen=True):
    """A wake-up for one incarnation. It may be lost or repeated, so the receiver reads the store again."""

    what: str
    """The reason of the wake-up.

    "work": claim now. "cancel": renew now, to get the cancelled instances. "final": the instance `id` is final.
    "change": the instance `id` has changed. "schedule": the schedule `id` was written or removed. "leader": the
    leadership may be free.
    """
    id: str = ""


class Page(msgspec.Struct, frozen=True):
    """A page of records, and the cursor of the next page; None on the last page."""

    records: tuple[Record, ...]
    cursor: str | None


class LogPage(msgspec.Struct, frozen=True):
    """Log lines of one instance in stored order, and the cursor of the next lines, also on the last page."""

    lines: tuple[LogLine, ...]
    cursor: str
    dropped: int = 0
    """Number of lines that were dropped at the limit, oldest first."""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Counts that need no scan."""

    counts: dict[str, dict[State, int]] = {}
    """Instances by kind and state."""
    delayed: int = 0
    nodes: int = 0
    undecodable: int = 0
    """Records that were set aside because they cannot be read."""


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """Guarantees and limits of a store."""

    engine: str
    """"memory", "redis", "valkey", "etcd"."""
    durability: str
    """"fsync", "everysec", "replicated" or "none": the protection of stored data against a crash of the store."""
    confirmed_by: str = ""
    """"aof" or "replicas:<n>": the confirmation that each step waits for; "": only that of the server."""
    order: str = "strict"
    """"strict" or "windowed"."""
    clock: str = "server"
    """"server" or "nodes": the clock that decides about due times."""
    shared: bool = True
    """Whether other processes can use the store."""
    max_payload: int = 512 << 20
    warnings: tuple[str, ...] = ()
    """Data that can be lost with the server's present settings, one sentence each."""


class StoreLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits that a store enforces."""

    retention_us: int = 86_400_000_000
    """Time for which final instances are kept by default: 1 day."""
    max_final_per_kind: int = 100_000
    """Most final instances per kind; the oldest are removed first."""
    max_log_lines: int = 1_000
    """Most log lines per instance; the oldest are dropped first."""
    max_log_bytes: int = 1 << 20
    """Most bytes of log messages per instance."""
    max_fires: int = 1_000
    """Most ledger records per schedule; the earliest nominal times are removed first."""
    fires_kept_us: int = 7 * 86_400_000_000
    """Time for which a ledger record is kept: 7 days."""
    max_kinds: int = 20_000
    """Most kinds with instances; above it, a kind that no node has published is refused."""
    kinds_kept_us: int = 30 * 86_400_000_000
    """Time for which a kind stays known after the last node with it has left: 30 days."""
