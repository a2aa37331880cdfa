"""What a store keeps about an instance, and what crosses the store's seam. Values only.

Times are microseconds since the epoch (`…_us`), ids are UUIDv7 text, payloads are opaque bytes to a store.
Values that come by the thousand hold plain values alone, so none is in a cycle: `gc=False` spares the collector.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import msgspec

from .clock import to_datetime
from .state import State

PRIORITY_MIN = -(2**31)
PRIORITY_MAX = 2**31 - 1
MAX_BATCH = 500
"""Most instances in one store call."""
MAX_BATCH_BYTES = 1 << 20
"""Most payload bytes in one store call of several instances (one instance may always go alone)."""
HISTORY_LIMIT = 50
"""Most history entries kept one by one; older ones are folded into one counted entry."""
MAX_CRASHES = 3
"""Default for how many crashes an instance survives before it is parked as a poison job."""


Moment = Annotated[int, msgspec.Meta(ge=-62_135_596_800_000_000, le=253_402_300_799_999_999)]
"""Microseconds since the epoch, in the years 1 to 9999: others cannot be shown, and only damaged records have them."""
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
REPEAT_US = 120_000_000
"""How long after it was made an instance may be enqueued again, by a caller that got no answer.

A client asks for 30 s, and the node that it asks asks its store for 30 s more.
"""


class NewInstance(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An instance to enqueue."""

    id: str
    kind: str
    spec: bytes
    """Arguments and options; immutable and opaque to the store."""
    priority: int = 5
    due_us: int | None = None
    """When it falls due; None with delay_us None means now. A past time keeps its place in the order."""
    delay_us: int | None = None
    """Falls due so long after now, by the store's clock."""
    key: str | None = None
    """Idempotency key, unique per kind while the instance that has it is not final."""
    tags: tuple[str, ...] = ()
    retention_us: int | None = None
    """How long the final instance is kept; None: the store's default."""
    max_crashes: int = MAX_CRASHES


class Enqueued(msgspec.Struct, frozen=True, gc=False):
    """Answer for one enqueued instance."""

    id: str
    """The new instance, or the one that already has its key."""
    is_new: bool


class Transition(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One entry of an instance's history."""

    state: State
    at_us: Moment
    node: str = ""
    """Name of the node that caused it, or ""."""
    note: str = ""
    """Why, in a few words: "retry 2 in 5s", "node lost", "handed back", "cancelled by user"."""
    count: Count = 1
    """Over 1 only in the first entry, when it stands for older entries that were folded."""


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The stored state of one instance, as read."""

    id: str
    kind: str
    state: State
    spec: bytes
    priority: int
    due_us: int
    attempts: int
    """Runs that count, the current one included; hand-backs, snoozes and node losses are not counted."""
    crashes: int
    losses: int
    fence: int
    """Number of the latest claim; 0 before the first. Only grows."""
    owner: str
    """Incarnation that holds the claim; once final, the one whose outcome made it so; else ""."""
    history: tuple[Transition, ...]
    result: bytes | None = None
    error: bytes | None = None
    progress: bytes | None = None
    key: str | None = None
    tags: tuple[str, ...] = ()
    slot: str = ""
    """The schedule whose slot it takes, or waits for, until it is over; see `firing.Overlap`."""


class Claim(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One instance that this incarnation now owns. Ownership is the pair (fence, incarnation)."""

    id: str
    kind: str
    fence: int
    spec: bytes
    priority: int
    due_us: int
    attempts: int
    """Counts this run."""
    crashes: int
    losses: int
    at_us: int
    """When it was claimed, by the clock that decides due-ness."""
    key: str | None = None
    tags: tuple[str, ...] = ()

    @property
    def suspect(self) -> bool:
        """Whether it may be what killed nodes before; see `is_suspect`."""
        return is_suspect(self.crashes, self.losses)


SUSPECT_AFTER = 2


def is_suspect(crashes: int, losses: int) -> bool:
    """Whether an instance that went down with nodes this often is to be claimed alone.

    One loss proves nothing: everything that a node held goes down with it. See docs/decisions/0001.
    """
    return crashes + losses >= SUSPECT_AFTER


class Caps(Mapping[str, int]):
    """Kind → most instances of it to take: `default`, unless `others` names the kind.

    A claim for thousands of kinds then costs no more than one for few, as long as `kinds` is the same object each time.
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
    """What a node asks for in a claim."""

    kinds: Mapping[str, int]
    """Kind → most instances of it to take now (kinds with 0 are registered, but not claimed now)."""
    limit: int
    """Most instances in all, ≤ MAX_BATCH."""
    suspects: bool = True
    """Whether a suspect may be taken. One is taken alone, and only when it is first in order."""
    idle: bool = True
    """Register as idle, in the same step, when nothing was found and `limit` > 0."""


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to a claim."""

    claims: tuple[Claim, ...] = ()
    """In the order in which they are to be started."""
    now_us: int = 0
    next_due_us: int | None = None
    """When nothing was found: when the earliest delayed instance falls due."""
    dead: bool = False
    """This incarnation was marked dead (or never joined): nothing was claimed; join anew."""


class Action(StrEnum):
    """What an outcome asks for. The first four are final states."""

    COMPLETE = "complete"
    TERMINATE = "terminate"
    TIME_OUT = "time_out"
    CANCEL = "cancel"
    """The job ended itself as cancelled (Processing → Cancelled by its holder)."""
    RETRY = "retry"
    """→ Scheduled after `delay_us`; the attempt stays counted."""
    SNOOZE = "snooze"
    """→ Scheduled after `delay_us`; the attempt is not counted."""
    HAND_BACK = "hand_back"
    """→ Scheduled with its old due time, so it keeps its place; the attempt is not counted."""
    RELEASE = "release"
    """The body of an instance that was cancelled while it ran has ended: drop the owner entry, free its key."""
    REPORT = "report"
    """No change of state: the body started, made progress or logged."""


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
    """What a holder says about one running instance; written only if (fence, incarnation) still own it."""

    id: str
    fence: int
    action: Action
    result: bytes | None = None
    error: bytes | None = None
    progress: bytes | None = None
    started: bool = False
    """The body has begun to run (with REPORT; implied by every action that ends a body)."""
    delay_us: int = 0
    note: str = ""
    logs: tuple[LogLine, ...] = ()
    """Appended before the transition, in the same step."""


class Ack(StrEnum):
    """Answer to one outcome."""

    DONE = "done"
    """Accepted, now or when the same request came before."""
    LOST = "lost"
    """Not the owner any more (reaped, claimed elsewhere, removed): nothing was changed."""
    CANCELLED = "cancelled"
    """A user cancelled it first: it is Cancelled for good; the owner entry was dropped if the body has ended."""


class NodeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A node, as it shows itself to its peers."""

    name: str
    incarnation: str
    """A fresh id for each start of a node; two nodes of one name never share it."""
    kinds: tuple[str, ...] = ()
    """What it can run; nothing when it has no workers."""
    signatures: dict[str, str] = {}
    """Kind → hash of the signature it has here, so that a peer can tell whether arguments may fit elsewhere."""
    workers: int = 0
    host: str = ""
    pid: int = 0
    version: str = ""
    started_us: int = 0


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """A node, as the store sees it."""

    info: NodeInfo
    running: int = 0
    """Claims that it holds."""
    renewed_us: int = 0
    expires_us: int = 0
    age_us: int = 0
    """How long ago it was heard of, by the store's clock; known in views that a manager gives."""

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def load(self) -> float:
        """The share of its workers that is busy, 0 to 1 (more while it shrinks); 0 when it has none."""
        return self.running / self.info.workers if self.info.workers else 0.0

    @property
    def heartbeat_age(self) -> float:
        """Seconds since it was last heard of."""
        return self.age_us / 1_000_000

    @property
    def started_at(self) -> datetime:
        """When it started, by its own clock."""
        return to_datetime(self.info.started_us)


class Held(msgspec.Struct, frozen=True):
    """One claim, by id and fence."""

    id: str
    fence: int


class Renewed(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to a renewal."""

    dead: bool = False
    """Marked dead (or unknown): every claim is void; join under a new incarnation."""
    now_us: int = 0
    held: tuple[Held, ...] | None = None
    """All claims the store holds for this incarnation; given when count or digest did not match."""
    cancelled: tuple[str, ...] = ()
    """Instances that were cancelled while this incarnation ran them and are not released yet."""
    ahead_us: int = 0
    """How far this node's clock is ahead of the store's, or of the median of its peers where those are the clock;
    negative: behind; 0: not known."""
    clock_known: bool = True
    """False while a node that has just joined waits for the clocks of its peers, where those are the clock."""


DIGEST_SIZE = 2_147_483_647


def digest(fences: list[int]) -> int:
    """A number that two sides compare to see whether they hold the same claims."""
    return sum(map(digest_share, fences)) % DIGEST_SIZE


def digest_share(fence: int) -> int:
    """The share of one claim in the sum that `digest` is made of."""
    return fence % 1_000_003


class Reaped(msgspec.Struct, frozen=True, kw_only=True):
    """An instance that was taken back from a dead incarnation."""

    id: str
    kind: str
    state: State
    """SCHEDULED, TERMINATED (poison), or CANCELLED (was cancelled while it ran; the entry is dropped now)."""
    node: str
    """Name of the node that died."""


class Hint(msgspec.Struct, frozen=True):
    """A wake-up for one incarnation. It may be lost or repeated; what it says must be read again."""

    what: str
    """"work" (claim now), "cancel" (renew now to see which), "final" (id became final), "change" (id changed),
    "schedule" (the schedule named by id was written or removed), "leader" (the leadership may be free)."""
    id: str = ""


class Page(msgspec.Struct, frozen=True):
    """A page of records, and where to go on; `cursor` None means that this was the last."""

    records: tuple[Record, ...]
    cursor: str | None


class LogPage(msgspec.Struct, frozen=True):
    """Log lines of one instance, in the order stored, and where to go on reading (always given, for following)."""

    lines: tuple[LogLine, ...]
    cursor: str
    dropped: int = 0
    """Lines that were dropped at the cap, oldest first."""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers that need no scan."""

    counts: dict[str, dict[State, int]] = {}
    """Kind → state → instances."""
    delayed: int = 0
    nodes: int = 0
    undecodable: int = 0
    """Records set aside because they could not be read."""


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a store promises."""

    engine: str
    """"memory", "redis", "valkey", "etcd"."""
    durability: str
    """"fsync", "everysec", "replicated", "none": what NO-LOSS means after the store itself crashed."""
    confirmed_by: str = ""
    """"aof" or "replicas:<n>": what each step waits for before it is answered; "": for nothing but the server."""
    order: str = "strict"
    """"strict" or "windowed"."""
    clock: str = "server"
    """"server" or "nodes": whose clock decides due-ness."""
    shared: bool = True
    """Whether other processes can see it."""
    max_payload: int = 512 << 20
    warnings: tuple[str, ...] = ()
    """What can be lost with the server's present settings, one sentence each."""


class StoreLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds that a store keeps by itself."""

    retention_us: int = 86_400_000_000
    """How long final instances are kept by default: 1 day."""
    max_final_per_kind: int = 100_000
    """Most final instances kept per kind, the oldest removed first."""
    max_log_lines: int = 1_000
    """Most log lines kept per instance, the oldest dropped first."""
    max_log_bytes: int = 1 << 20
    """Most bytes of log messages kept per instance."""
    max_fires: int = 1_000
    """Most ledger records kept per schedule, the earliest nominal times removed first."""
    fires_kept_us: int = 7 * 86_400_000_000
    """How long a ledger record is kept: 7 days."""
    max_kinds: int = 20_000
    """Most kinds that have instances; a kind that no node has published is refused above it."""
    kinds_kept_us: int = 30 * 86_400_000_000
    """How long a kind that no node publishes any more is known: 30 days."""
