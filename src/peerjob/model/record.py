"""The stored form of an instance, and the values of the store contract.

Times are microseconds since the epoch (`…_us`), ids are UUIDv7 text, and payloads are opaque bytes to a store. Classes
with many objects hold only plain values, so no object is part of a cycle: `gc=False` saves work of the collector.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import msgspec

from .arguments import Numbers
from .clock import to_datetime
from .durable import Need, Step, Wait
from .state import State

MIN_PRIORITY = -(2**31)
MAX_PRIORITY = 2**31 - 1
MAX_BATCH = 500
"""Most instances in one store call."""
MAX_BATCH_BYTES = 1 << 20
"""Most payload bytes in one store call of several instances. A call with a single instance may have more."""
MAX_HISTORY = 50
"""Most single entries in a history. Older entries are folded into one entry with a count."""
MAX_CRASHES = 3
"""Default number of crashes after which an instance still runs again. One more crash makes the instance poison."""
DIGEST_SIZE = 2_147_483_647
LAST_MOMENT_US = 253_402_300_799_999_999
"""The end of the year 9999."""
Moment = Annotated[int, msgspec.Meta(ge=-62_135_596_800_000_000, le=LAST_MOMENT_US)]
"""Microseconds since the epoch, in the years 1 to 9999. Only damaged records have other times."""
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class NewInstance(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An instance to enqueue."""

    id: str
    kind: str
    spec: bytes
    """Arguments and options of the instance. The store neither reads nor changes the bytes."""
    priority: int = 5
    due_us: int | None = None
    """Due time; None without `delay_us` means now. A past due time still counts in the order of the queue.

    A store may replace a time after the year 2255 by an earlier one, and must replace one after `LAST_MOMENT_US`.
    """
    delay_us: int | None = None
    """Delay from the store's present time to the due time."""
    key: str | None = None
    """Idempotency key. Of the instances of one kind that are not final, only one can have the key."""
    tags: tuple[str, ...] = ()
    retention_us: int | None = None
    """Time for which the store keeps the final instance; None: the store's default."""
    max_crashes: int = MAX_CRASHES
    attempts: int = 0
    """Counted runs in another store, from which the instance comes; so also `crashes` and `losses`."""
    crashes: int = 0
    losses: int = 0
    limit_key: str = ""
    """The key of the kind's key limit; "": the instance passes no gate, and no limit of a key counts it."""
    key_concurrency: int = 0
    """The concurrency of the key by the code of the caller; see `limit.KeyLimit`. Only with `limit_key`."""


class NewChild(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A child to add. Its instance has no `key` and no slot of a schedule."""

    instance: NewInstance
    needs: tuple[Need, ...] = ()
    more: bool = False
    """Whether a later call brings more needs. Until the call without `more`, the child is *open* and does not run."""


class Enqueued(msgspec.Struct, frozen=True, gc=False):
    """Answer for one enqueued instance; `repeated` if an earlier call, or an earlier try of this one, added it."""

    id: str
    """Id of the new instance, or of the existing instance with the same key."""
    is_new: bool
    repeated: bool = False


class Transition(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One entry of an instance's history."""

    state: State
    at_us: Moment
    node: str = ""
    """Name of the node that caused the transition; "" if no node did."""
    note: str = ""
    """The reason in a few words: "retry 2 in 5s", "node lost", "handed back", "cancelled by user"."""
    count: Count = 1
    """Number of transitions that the entry stands for; above 1 only in the first entry, if others were folded."""


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The stored state of one instance, as read."""

    id: str
    kind: str
    state: State
    spec: bytes
    priority: int
    due_us: int
    attempts: int
    """Number of counted runs, including the present one. Hand-backs, snoozes and losses do not count."""
    crashes: int
    losses: int
    fence: int
    """Number of the latest claim; 0 before the first claim. The fence never decreases."""
    owner: str
    """Incarnation that holds the claim, or that ended the final instance. "" if neither exists."""
    history: tuple[Transition, ...]
    result: bytes | None = None
    error: bytes | None = None
    progress: bytes | None = None
    key: str | None = None
    tags: tuple[str, ...] = ()
    slot: str = ""
    """Name of the schedule whose slot the instance holds or waits for; see `firing.Overlap`."""
    retention_us: int | None = None
    """Time for which the store keeps the final instance; None: the store's default. Unknown to a `Client`, too."""
    max_crashes: int = MAX_CRASHES
    """Unknown to a `Client`, which shows the default."""
    parent: str = ""
    """The id of the instance that made this one as its child."""
    wait: Wait | None = None
    """What the instance waits for: since it was suspended, or as a child. None if it does not wait.

    A wait whose time has come can be here until the claim.
    """
    open: bool = False
    """Whether the instance is a child that cannot run yet, because its parent has not told all of its needs."""
    has_steps: bool = False
    """Whether the instance has steps or signals. Unknown to a `Client`."""
    has_children: bool = False
    """Whether the instance made children, or at least called `spawn` for some. Unknown to a `Client`."""


class Claim(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One instance that this incarnation now owns. Ownership is the pair (fence, incarnation)."""

    id: str
    kind: str
    fence: int
    spec: bytes
    priority: int
    due_us: int
    attempts: int
    """Number of counted runs, including this one."""
    crashes: int
    losses: int
    at_us: int
    """Time of the claim, by the clock that decides about due times."""
    key: str | None = None
    tags: tuple[str, ...] = ()
    parent: str = ""
    linked: bool = False
    """True if the instance has steps, children or a parent. Each `Outcome` of the claim repeats it."""
    has_steps: bool = False
    """Whether the instance has steps or signals."""

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


class Want(msgspec.Struct, frozen=True, kw_only=True):
    """The request of a claim."""

    kinds: Mapping[str, int]
    """Most instances to claim in this call, by kind.

    The node is registered for a kind with 0, but claims none of it.
    """
    limit: int
    """Most instances to claim in total, at most MAX_BATCH."""
    suspects: bool = True
    """Whether a suspect may be claimed. A suspect is claimed alone, and only if it is first in the queue's order."""
    idle: bool = True
    """Whether a claim with `limit` > 0 that finds nothing registers the node, in its transaction, as idle for its kinds
    above 0."""


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to a claim."""

    claims: tuple[Claim, ...] = ()
    """The claimed instances, in the order in which they start."""
    now_us: int = 0
    next_due_us: int | None = None
    """When this incarnation must claim again without a hint. Set only if no instance was found.

    The earliest due time of a delayed instance, or the earlier moment at which a shared limit opens. Of the nodes that
    wait for a limit, only one gets the moment.
    """
    dead: bool = False
    """Whether this incarnation is marked dead or never joined. Nothing was claimed: join as a new incarnation."""
    limits_missing: bool = False
    """Whether limits of the wanted kinds cannot be read or are lost, and let all pass: the node publishes its kinds."""


class Action(StrEnum):
    """The requested transition. The first four lead to final states."""

    COMPLETE = "complete"
    TERMINATE = "terminate"
    TIME_OUT = "time_out"
    CANCEL = "cancel"
    """The job ended itself as cancelled, so the owner changes Processing to Cancelled."""
    RETRY = "retry"
    """Return to Scheduled with a due time after `delay_us`. The attempt counts."""
    SNOOZE = "snooze"
    """Return to Scheduled with a due time after `delay_us`. The attempt does not count."""
    HAND_BACK = "hand_back"
    """Return to Scheduled with the same due time, which keeps the position in the queue. The attempt does not count."""
    RELEASE = "release"
    """The body of a cancelled instance has ended, so the store removes the owner entry and frees the key."""
    REPORT = "report"
    """Store a start of the body, progress, steps, needs or log lines, without a transition."""
    SUSPEND = "suspend"
    """Return to Scheduled, and wait in no queue until `Outcome.wait` is over. The attempt does not count."""


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
    """The number of a `Level`."""
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
    """Whether the body has started. Only REPORT needs this field, since actions that end a body imply the start."""
    delay_us: int = 0
    note: str = ""
    """The reason, for the history. A store may cut it after 200 characters."""
    logs: tuple[LogLine, ...] = ()
    """Log lines, which the store appends before the transition in the same transaction."""
    steps: tuple[Step, ...] = ()
    """Values to keep, each under a name that has none or this one; at most MAX_STEPS_CALL and MAX_STEP_BYTES."""
    needs: tuple[Need, ...] = ()
    """Children of the instance that its wait needs as "ended", at most MAX_NEEDS_CALL; only with REPORT and SUSPEND."""
    wait: Wait | None = None
    """Only with SUSPEND, which must have it."""
    linked: bool = False
    """`Claim.linked`, which tells some stores where to write. A wrong value costs a round trip."""

    @property
    def is_durable(self) -> bool:
        """Whether the outcome has steps, needs or a wait, so that it needs FLOWS_LAYOUT."""
        return any_durable((self,))


# a plain commit asks this of each outcome, and Python finds a name of a module in a small part of the time
_SUSPEND = Action.SUSPEND


def any_durable(outcomes: Iterable[Outcome]) -> bool:
    """Whether one of the outcomes is durable (`Outcome.is_durable`)."""
    for outcome in outcomes:
        if outcome.steps or outcome.needs or outcome.wait is not None or outcome.action is _SUSPEND:
            return True
    return False


class Ack(StrEnum):
    """Answer to one outcome."""

    DONE = "done"
    """The outcome is written, by this call or by an earlier call with the same request."""
    LOST = "lost"
    """Nothing was written: the sender does not own the instance any more (reaped, claimed elsewhere or removed)."""
    CANCELLED = "cancelled"
    """A user cancelled the instance first, so it stays Cancelled. If the body has ended, the owner entry is removed."""
    TAKEN = "taken"
    """A step has another value already. Nothing of the outcome was written, and the sender still owns the instance."""


class NodeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A node's description for its peers."""

    name: str
    incarnation: str
    """Id of one start of a node. Each start has a new id, even with the same name."""
    kinds: tuple[str, ...] = ()
    """Kinds that the node can run; empty for a node without workers."""
    signatures: dict[str, str] = {}
    """Hash of each kind's signature, so that a peer can check whether arguments fit the jobs of this node."""
    descriptors: bytes = b""
    """The digest of each kind's descriptor, in the order of `kinds`: zeros for none; empty in older releases."""
    workers: Count = 0
    host: str = ""
    pid: Count = 0
    version: str = ""
    started_us: Moment = 0
    intake: str = ""
    """Whether the node takes work: "active", "draining" or "drained"; "" for an older release, which does not tell."""
    ahead_us: Moment = 0
    """See `Renewed.ahead_us`; as of its last change by more than 0.25 s. 0 in older releases."""
    reads_layout: Count = 2
    """The highest layout of a namespace that the node can work with. Releases before this field read layout 2."""

    @property
    def open_kinds(self) -> tuple[str, ...]:
        """The kinds that the node claims now: none during and after a drain."""
        return self.kinds if self.intake in ("", "active") else ()


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """A node, as the store knows it."""

    info: NodeInfo
    running: int = 0
    """Number of claims that the node holds."""
    renewed_us: int = 0
    expires_us: int = 0
    age_us: int = 0
    """Time since the last renewal, by the store's clock. Only the views of a manager set the age."""

    @property
    def name(self) -> str:
        """The name of the node."""
        return self.info.name

    @property
    def intake(self) -> str:
        """See `NodeInfo.intake`."""
        return self.info.intake

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


class Instruction(msgspec.Struct, frozen=True, array_like=True):
    """What a peer or a client tells a node: to drain, work again or change its workers. It follows the latest, once."""

    request: str
    """The id of the call that gave the instruction."""
    drain: bool
    """Whether the node drains; False: it takes work again. Not read if there is a number of workers."""
    workers: Count = 0
    """The new number of workers; 0: no change. Releases before this field read only `drain`."""


class Renewed(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to a renewal."""

    dead: bool = False
    """Whether the incarnation is marked dead or unknown. All its claims are void: join as a new incarnation."""
    now_us: int = 0
    held: tuple[Held, ...] | None = None
    """All claims of this incarnation in the store. Set only if the sent count or digest did not match the store's."""
    cancelled: tuple[str, ...] = ()
    """Ids of instances that were cancelled while this incarnation ran them, and that it has not released yet."""
    ahead_us: int = 0
    """Lead of this node's clock over the store's, or over the median of the peers if the nodes' clocks decide about due
    times; negative: the clock is behind; 0: unknown."""
    clock_known: bool = True
    """False while a new node waits for the clocks of its peers. Always True if the store's clock decides."""
    instruction: Instruction | None = None
    """The latest instruction to this incarnation; None if there was none."""
    work_due: bool | None = None
    """Whether this incarnation must claim now, even without a hint. False: it is registered as idle, and no instance is
    due that it can claim. None: the store does not know."""
    settling: bool = False
    """Whether the store has ends of instances that `settle` must follow up. The hint "settle" may come earlier."""
    reap_in_us: int | None = None
    """Microseconds until `reap` can find something, because a lease of a peer ends; the hint "dead" may come earlier.
    None: the store does not know."""


def digest_share(fence: int) -> int:
    """Return the summand of one claim in `store.rules.digest`."""
    return fence % 1_000_003


class Reaped(msgspec.Struct, frozen=True, kw_only=True):
    """An instance whose claim was taken back from a dead incarnation."""

    id: str
    kind: str
    state: State
    """SCHEDULED, TERMINATED (poison), or CANCELLED (by a user; the reap removes the owner entry)."""
    node: str
    """Name of the node whose lease expired."""


class Hint(msgspec.Struct, frozen=True):
    """A wake-up for one incarnation. It may be lost or repeated, so the receiver reads the store again."""

    what: str
    """The reason of the wake-up.

    "work": claim now. "cancel": renew now, to get the cancelled instances and the instruction. "final": the instance
    `id` is final. "change": the instance `id` has changed. "schedule": the schedule `id` was written or removed.
    "leader": the leadership may be free. "dead": the lease of a peer may have ended. "settle": call `settle` until it
    says that nothing is left.
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
    """Number of lines that the store dropped at the limit. The store drops the oldest lines first."""


class StoreLimits(Numbers, frozen=True, kw_only=True):
    """Limits that a store enforces."""

    retention_us: int = 86_400_000_000
    """Time for which the store keeps final instances by default: 1 day."""
    max_final_per_kind: int = 100_000
    """Most final instances of one kind. The store removes the oldest first."""
    max_log_lines: int = 1_000
    """Most log lines of one instance. The store drops the oldest first."""
    max_log_bytes: int = 1 << 20
    """Most bytes of the log messages of one instance."""
    max_fires: int = 1_000
    """Most ledger records of one schedule. The store removes the earliest nominal times first."""
    fires_kept_us: int = 7 * 86_400_000_000
    """Time for which the store keeps a ledger record: 7 days."""
    max_kinds: int = 20_000
    """Most kinds that have instances. At the limit, the store refuses a kind that no node has published."""
    kinds_kept_us: int = 30 * 86_400_000_000
    """Time for which the store remembers a kind after the last node with that kind has left: 30 days."""


def check_batch(size: int) -> None:
    """Raise ValueError if one store call has too many instances."""
    if size > MAX_BATCH:
        raise ValueError(f"a call holds at most {MAX_BATCH} instances, got {size:,}")
