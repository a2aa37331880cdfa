"""The store contract: commands, each of them one transaction per instance.

`peerjob.store.reference` is the same contract as a program, in plain Python. To know what a command means, read it
there.

Each implementation keeps these rules for each command:

* State, history, indexes, ownership, unique key and retention of one instance change together or not at all.
  A batch is atomic per instance, not as a whole, and answers per instance.
* A transition follows `peerjob.model.state.ARROWS`, and appends to the history, whose times never go back.
* Ownership is the pair (fence, incarnation). A write about a running instance compares both.
* A command that writes takes a `request` id. The caller has at most one unanswered request per command and incarnation.
  It may send the same request again after an error or a timeout. The answer is then the first answer, and nothing
  happens twice. The repeat of a claim leaves out the claims that have ended since, and may look again if the first
  call found nothing. A REPORT that wrote nothing may be answered anew. (`enqueue` is idempotent by the ids of the
  instances.)
* The caller can cancel a call under way. The call is then done, partly done or not done, until the caller repeats the
  request. Counts in `health` and `due` can be wrong until the next `health`, which corrects them.
* Hints only wake. If all hints are lost, latency grows: a renewal tells that work is due (`Renewed.work_due`), and a
  node whose store cannot tell claims each second. Correctness does not depend on hints.
* Normal outcomes (nothing to claim, lost, dead) are return values. Errors are `StoreUnavailableError`,
  `StoreFullError` (only from `enqueue`: started work can always end), `StoreRefusedError` for a request that the server
  would refuse again, and `ArgumentError` for a mistake of the caller.
  A driver retries for `retry_for` seconds while the server is away, then raises.
* A record that cannot be decoded is set aside (moved out of every queue and index), counted in `health`, and
  reported once through the logger `peerjob.store`; the command continues with the other instances. A read leaves the
  entry in a queue to the next claim, and `due` counts the entry until then. That claim goes on with the next
  instances: the order within a kind stays, and another kind can come first. The logs can stay for an operator.
  `clear` removes what was set aside, and the count begins again.
* Every key starts with the namespace.
* Cost: enqueue, claim and commit are O(log n) per instance, for any number of kinds of the node and the namespace.
  They do not depend on the number of final instances, and read no open range. The first claim for a set of many kinds
  registers the set, which is O(kinds).
* Commands that read all kinds do so in pages, and show one moment only if one page is enough. A kind leaves nothing
  behind after its last instance was removed and its last node has left.
* A call holds at most MAX_BATCH instances; more raises ValueError.
* `peerjob.store.limits` has the rules of shared limits and key limits, `peerjob.store.durable` those of durable bodies.

Implementations differ in whose clock decides that an instance is due, and in how strict the order is: see
`capabilities`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from peerjob.model.activity_sample import ActivitySample
from peerjob.model.audit import MAX_AUDIT, AuditRecord
from peerjob.model.capabilities import Capabilities, Health
from peerjob.model.firing import (
    Fire,
    FireAnswer,
    FirePage,
    SchedulePage,
    SchedulePut,
    ScheduleRow,
    Term,
)
from peerjob.model.published import KindDescriptor
from peerjob.model.query import Filter, Query
from peerjob.model.record import (
    Ack,
    Claimed,
    Enqueued,
    Hint,
    Instruction,
    LogLine,
    LogPage,
    NewInstance,
    NodeInfo,
    NodeView,
    Outcome,
    Page,
    Reaped,
    Record,
    Want,
)
from peerjob.model.run_now import RunNowAnswer
from peerjob.model.state import State

from .coordination import Elections, Liveness
from .durable import Durable
from .limits import Limits

__all__ = ["Elections", "Liveness", "Store"]


class Store(Limits, Durable, Protocol):
    """A shared store, bound to one namespace, used from one event loop."""

    @property
    def url(self) -> str:
        """The URL without its password."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """Durability, order and other properties of the store; known after `open`."""
        ...

    @property
    def local_objects(self) -> dict[str, Any] | None:
        """Callables that cannot be imported by name, if the store lives in this process; otherwise None."""
        ...

    async def open(self) -> None:
        """Connect, and check the server and the layout of the namespace.

        Raises StoreUnavailableError within 5 s if the server cannot be reached, LayoutError for the layout of another
        release.
        """
        ...

    async def close(self) -> None:
        """Release every connection; idempotent."""
        ...

    def liveness(self) -> Liveness:
        """A new client for the lease, not opened yet."""
        ...

    def elections(self) -> Elections:
        """A new client for the leadership that the store holds, not opened yet."""
        ...

    # -- queue ----------------------------------------------------------------------------------------------------

    async def enqueue(self, instances: Sequence[NewInstance], *, node: str = "") -> list[Enqueued]:
        """Add instances as Created → Scheduled (two history entries at one time), in one answer each.

        An instance from another store brings its counts of attempts, crashes and losses. Idempotent by instance id: the
        same call again gives the first answer, and says `repeated` for what it did not add. Only the id counts: the
        store keeps the first instance with it, also if the other one has another kind, arguments or options. If an
        instance that is not final has the kind and key, nothing is added and the answer is the id of that instance
        (within a batch, the first instance gets the key). Wakes min(instances due, idle nodes) idle nodes that can run
        them; a new earliest delayed instance wakes one node. Raises StoreFullError with nothing half written.
        """
        ...

    async def claim(self, incarnation: str, want: Want, *, request: str) -> Claimed:
        """Scheduled → Processing for the best due instances: lowest priority number, then due time, then id.

        Moves due delayed instances first (at most 500, earliest first). Counts the attempt, gives each a new fence.
        A suspect (`record.is_suspect`) that comes first is taken alone if `want.suspects`, and passed over otherwise;
        a suspect never delays the instances behind it. A claim that leaves due work wakes one more idle node. It ends
        before its limit if payloads are large (MAX_BATCH_BYTES) or of more than 200 kinds. A claim that finds nothing
        registers the incarnation as idle in the same transaction. An incarnation that is dead or unknown gets
        `dead=True`.
        """
        ...

    async def commit(self, incarnation: str, outcomes: Sequence[Outcome], *, request: str) -> list[Ack]:
        """Apply outcomes, each conditional on (fence, incarnation), one answer each, in order.

        Logs of an outcome are appended first, then state, result, error and progress change. A final outcome frees the
        unique key and removes up to twice as many expired final instances as the call adds. RETRY and SNOOZE make the
        instance Scheduled, due at now + delay; HAND_BACK keeps its old due time. A commit works until the claim is
        taken back, even if the lease has expired. A REPORT with only logs is also accepted from the
        (fence, incarnation) whose outcome made the instance final: it keeps later logs of processors. `Record.owner`
        still names that incarnation. SUSPEND makes the instance wait; see `peerjob.store.durable`. For an instance that
        was cancelled while it ran, the answer is CANCELLED, and each action except REPORT also releases the instance.
        """
        ...

    async def turn(
        self, incarnation: str, outcomes: Sequence[Outcome], want: Want | None, *, request: str
    ) -> tuple[list[Ack], Claimed]:
        """`commit`, then `claim` (if `want` is given), in one round trip if the server can.

        A store can claim first if an instance is linked and its outcome does not say so: a signal came during its run.
        """
        ...

    async def cancel(self, ids: Sequence[str], *, node: str = "", request: str) -> list[State | None]:
        """Scheduled or Processing → Cancelled, in one transaction each; returns the earlier state per id.

        None: the id is unknown. A final state: the instance was final and is unchanged (an instance that the same
        request cancelled before answers as before, or None if it was removed since). A running instance loses its
        fence at once: no commit of its holder changes it any more. Its owner entry stays as "releasing" until the
        holder releases it or is reaped; then its unique key is free, and retention can remove it. The holder is hinted
        "cancel" and sees the instance in every renewal.
        """
        ...

    async def run_now(self, ids: Sequence[str], *, request: str) -> list[RunNowAnswer]:
        """Make delayed instances due at the store's time, in one transaction each; returns what became of each id.

        None: the id is unknown. A state other than Scheduled: the instance runs or is final, and is unchanged. DUE_NOW:
        the instance was Scheduled with a later due time, also after a retry or a snooze. Only its due time changes: the
        history has no entry, because the state stays. An idle node is woken as by `enqueue`, and "change" is hinted.
        WAS_DUE, PARKED and SUSPENDED: unchanged.

        The store remembers the answer of a request for each id, for at least five minutes. A repeat from any caller has
        that answer and changes nothing.
        """
        ...

    async def add_lines(self, id: str, lines: Sequence[LogLine]) -> bool:
        """Append log lines to an instance in any state, in one transaction; False if there is no such instance.

        The caller does not run the instance: it is, for example, a processor on the node that scheduled the instance.
        So no fence guards the lines, and only the logs change. The driver does not retry, so that no line comes
        twice; raises StoreUnavailableError.
        """
        ...

    # -- hints and waiters ----------------------------------------------------------------------------------------

    async def next_hints(self, incarnation: str, timeout: float) -> list[Hint]:
        """Wait up to `timeout` seconds for hints to this incarnation; [] if none came.

        The hint "dead" says that the lease of a peer may have ended; only stores that learn it from their server send
        it.

        Only one caller per incarnation at a time. Cancelling the call loses no hint that matters (see HINTS).
        """
        ...

    async def claim_on_hint(
        self, incarnation: str, want: Want, *, request: str, timeout: float
    ) -> tuple[list[Hint], Claimed | None]:
        """`next_hints`, then `claim` if a hint tells of work, in one round trip if the server can.

        A store can also claim without such a hint; None if it did not claim. With a timeout of 0 it always claims, so
        the caller repeats a call with a timeout of 0. A repeat with a limit of 0 gives the claims of the first call,
        and adds none. A cancelled call loses hints, and can claim until the repeat. Each request of an incarnation is
        greater than the one before: a call that still waits on a lost connection then claims nothing.
        """
        ...

    async def watch_final(self, incarnation: str, ids: Sequence[str]) -> list[Record | State | None]:
        """Register for a "final" hint on each of these instances and read it, in one transaction each.

        The answer is the state if the instance is not final, and None if it is unknown. A final instance answers with
        its record, until the reply is long enough, then with its state: `get` reads the rest.
        """
        ...

    async def get_ended(self, ids: Sequence[str]) -> list[Record | None]:
        """`get` after "final" hints, for callers that waited for these instances when `watch_final` read them.

        The record can be that of the moment of the end, also if the instance was removed since.
        """
        ...

    async def watch_changes(self, incarnation: str, ttl: float) -> None:
        """Hint every transition, progress and log line as "change" to this incarnation for `ttl` seconds."""
        ...

    # -- liveness -------------------------------------------------------------------------------------------------

    async def join(self, node: NodeInfo, *, ttl_us: int, previous: str | None = None) -> int:
        """Add a live incarnation, or update its NodeInfo; returns the store's time.

        `NodeView.running` stays while the lease lasts. After the lease has expired, it is 0 until the next renewal.

        `previous` is the earlier incarnation of this process, marked dead while the process could not reach the store.
        Crashes that its reaping charged become losses, except those of final instances. From then on, its reaping
        charges losses only.
        """
        ...

    async def leave(self, incarnation: str) -> int:
        """End a lease in order: hand back the remaining claims without counting them; returns how many.

        Hints that the incarnation has not read are lost: the next renewal of an idle peer tells that work is due.
        """
        ...

    async def reap(self, limit: int, *, reaper: str) -> list[Reaped]:
        """Take back up to `limit` claims of incarnations whose lease has expired; [] if there is none.

        Marks the incarnation dead first, in one transaction; any peer can continue where another stopped. A claim whose
        start was reported counts as a crash, any other as a loss. But if a suspect was running there, also one that was
        cancelled before, only suspects are charged. Over max_crashes the instance becomes Terminated ("poison"),
        otherwise Scheduled with its old due time. Neither counts as an attempt. Instances that were cancelled while
        running are released. The caller decides whether it may reap (only after a full TTL of answered renewals), so
        the driver does not retry. The store marks no incarnation dead if the lease of `reaper`, an incarnation, has
        expired: the call then comes late, after an outage.
        """
        ...

    async def nodes(self) -> list[NodeView]:
        """Live incarnations, by name."""
        ...

    async def instruct(self, incarnation: str, instruction: Instruction) -> bool:
        """Replace the instruction of a live incarnation, and hint "cancel" to it; False if it is not alive.

        The incarnation gets the instruction with each renewal, until another one replaces it.
        """
        ...

    async def publish_kinds(self, kinds: Sequence[str]) -> None:
        """Add kinds that a node can run to the catalogue of the namespace; at most MAX_BATCH.

        A kind leaves the catalogue only `StoreLimits.kinds_kept_us` after it was last published: a kind stays known
        after all its nodes are gone.
        """
        ...

    async def published_kinds(self, kinds: Sequence[str]) -> list[bool]:
        """Whether the catalogue has each of these kinds; at most MAX_BATCH."""
        ...

    async def add_audit(self, records: Sequence[AuditRecord]) -> None:
        """Append records to the audit log, which keeps the last MAX_AUDIT of them; at most MAX_BATCH.

        If an answer is lost, the driver may append the same records twice. `clear` keeps the log.
        """
        ...

    async def audit(self, limit: int = MAX_AUDIT) -> list[AuditRecord]:
        """The latest records of the audit log, the latest first. Records that cannot be decoded are left out."""
        ...

    async def add_activity(self, sample: ActivitySample) -> None:
        """Add the counts of a node to those of its slot, in one transaction. Only the last MAX_SLOTS slots are kept.

        A slot has rows for MAX_SAMPLED_KINDS kinds, the busiest, with names of MAX_SAMPLED_NAMES bytes. The driver does
        not retry; raises StoreUnavailableError. A store that is nearly full drops the sample.
        """
        ...

    async def activity(self, first: int, last: int) -> list[ActivitySample]:
        """The stored slots with these numbers, at most MAX_SLOTS, in their order. `clear` keeps them.

        A slot in which nothing ran, or that cannot be decoded, is left out.
        """
        ...

    async def publish_descriptors(self, descriptors: Sequence[KindDescriptor]) -> list[bool]:
        """Publish kinds with their descriptors, each kind once; at most MAX_BATCH.

        The answer: for each, whether its schema is missing. A descriptor without a schema leaves the stored schema.
        The MAX_DESCRIPTORS of a kind that were published last stay for as long as the kind is known.
        """
        ...

    async def descriptors(self, kinds: Sequence[str]) -> list[tuple[KindDescriptor, ...]]:
        """The descriptors of each kind, the latest published first; at most MAX_BATCH kinds."""
        ...

    # -- schedules ------------------------------------------------------------------------------------------------

    async def put_schedule(self, put: SchedulePut) -> ScheduleRow | None:
        """Write a schedule if it is as expected; otherwise None (read it again).

        The row gets a new revision. `account` goes into the ledger in the same transaction. Every live incarnation is
        hinted "schedule", once for writes that come together. The same put again answers None or the row, and changes
        nothing twice.
        """
        ...

    async def remove_schedule(self, name: str, *, expected: int | None = None, request: str) -> bool:
        """Remove a schedule and its ledger (if its revision is `expected`); False if there was none.

        Instances stay; parked instances are still released one after the other. A request that removed a schedule is
        remembered for at least five minutes, and answers True again: nothing is removed twice.
        """
        ...

    async def get_schedules(self, names: Sequence[str]) -> list[ScheduleRow | None]:
        """Schedules by name, at most MAX_SCHEDULES."""
        ...

    async def changed_schedules(self, revision: int, *, limit: int = 500) -> SchedulePage:
        """Schedules that were written or removed after a revision (0: all schedules), in the order of revisions.

        `next_us` of a row is the current value. Costs O(1) if nothing changed. The store remembers the last 1,000
        removals; if more are needed, the page says `reset` and starts from the beginning. A removal can come although
        the same schedule was put or removed again since; the later change comes after it.
        """
        ...

    async def fire(self, fires: Sequence[Fire], *, term: Term | None, node: str = "") -> list[FireAnswer]:
        """Account for nominal times, each in one transaction: ledger, next time, slot and instance, or nothing.

        At most MAX_SCHEDULES, with different pairs of schedule and nominal time; atomic per fire, answered in order.
        A fire is done if the schedule has this revision and is not paused, and

        * an outcome that advances: `next_us` of the schedule is `nominal_us`, and becomes the new `next_us`. A paused
          schedule takes only PAUSED. FIRED of a time that was backfilled before is KNOWN: no instance is made, and the
          schedule advances. The repeat of such a fire is STALE;
        * BACKFILLED: the ledger has no record of an instance with this nominal time (otherwise KNOWN), and the time is
          later than `trimmed_us` (otherwise TRIMMED); also while paused;
        * TRIGGERED: always; also while paused.

        `term` must not be lower than the highest term that the store has seen from its coordinator (otherwise
        DEPOSED); the store remembers it. An instance is enqueued as by `enqueue`. With an overlap other than ALLOW it
        takes the slot of the schedule if the slot is free: its holder is gone, or is over together with its body.
        If the slot is not free, SKIP and a full queue make the record SKIPPED with a reason, and so does a unique key
        that is taken. QUEUE parks the instance: Scheduled, in no queue. REPLACE cancels the holder and the parked
        instances, and takes the slot or is parked. The transaction that ends the holder (commit, cancel, reap, release,
        removal) also gives the slot to the first parked instance and queues it. A skipped backfill made no instance,
        and may come again. Its record gives way to that of the instance.

        Records of instances and records of stretches are kept apart, so a backfilled time within a missed stretch
        has both. A stretch is joined with the stretch directly before it if outcome and reason are the same. Each fire
        trims the ledger to its limits (`StoreLimits.max_fires`, `fires_kept_us`), but keeps the records of its call:
        they are the answers to a repeat. Raises StoreFullError, with nothing written, if the store cannot take an
        instance.
        """
        ...

    async def fires(
        self,
        name: str,
        *,
        after_us: int | None = None,
        before_us: int | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> FirePage:
        """The ledger of one schedule, latest nominal time first, from `after_us` on and before `before_us`.

        A stretch has the position of its first nominal time.
        """
        ...

    # -- reading --------------------------------------------------------------------------------------------------

    async def get(self, ids: Sequence[str]) -> list[Record | None]:
        """Records by id, in replies of a bounded size."""
        ...

    async def lookup(self, query: Query) -> Page:
        """A page in order of creation (the order of ids), by an index on kind and state; tags have an index too.

        Reads a bounded number of records, so a page may be short, even empty, and still have a cursor. The store
        ignores `query.level`.
        """
        ...

    async def logs(self, id: str, *, cursor: str | None = None, limit: int = 1000) -> LogPage:
        """Log lines of one instance from a cursor on, in stored order."""
        ...

    async def due(self, kinds: Sequence[str] = ()) -> dict[str, int]:
        """How many instances of these kinds (by default all) are due and not claimed; kinds with none are absent.

        An instance that is parked behind a slot, or that waits for its key, is not due. One that a shared limit holds
        back is due: `limits` tells how much room there is. Of the delayed instances that fell due since the last
        claim, at most 1,000 are counted. Reads one counter per kind, in pages, so it is not for hot paths. The number
        of kinds has no limit.
        """
        ...

    async def health(self) -> Health:
        """Counts per kind and state, and other numbers that need no scan."""
        ...

    # -- retention ------------------------------------------------------------------------------------------------

    async def expire(self, limit: int) -> int:
        """Remove up to `limit` expired final instances, with their logs and index entries; returns how many.

        An instance is expired if its retention is over, or if it is among the oldest of a kind with more than
        `StoreLimits.max_final_per_kind` final instances. A store may leave the latter ones to commits of the kind. The
        store chooses the order of the oldest: the earliest created first, or the earliest end of the retention first.
        A commit removes them before or after it adds the instances that end, so the number can be lower by as many.
        """
        ...

    async def clear_instances(self, filter: Filter, *, limit: int = 500) -> int:
        """Remove final instances that match, in one bounded transaction; returns how many (0: none is left)."""
        ...

    async def clear_history(self, filter: Filter, *, cursor: str | None = None) -> tuple[int, str | None]:
        """Reduce the history of matching final instances to its last entry, in one bounded transaction."""
        ...

    async def clear_logs(self, filter: Filter, *, cursor: str | None = None) -> tuple[int, str | None]:
        """Remove the logs of matching final instances, in one bounded transaction."""
        ...

    async def clear(self) -> None:
        """Remove every instance in the namespace, in any state, in bounded transactions; nodes stay joined.

        Instances that are added meanwhile may stay.
        """
        ...
