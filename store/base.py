"""The store contract: domain verbs, each of them one atomic step per instance.

What every implementation keeps, whatever the verb:

* State, history, indexes, ownership, unique key and retention of one instance change together or not at all.
  A batch is atomic per instance, not as a whole, and answers per instance.
* A transition follows `peerjob.model.state.ARROWS`, and appends to the history, whose times never go back.
* Ownership is the pair (fence, incarnation). A write about a running instance compares both.
* A mutating verb takes a `request` id. The caller has at most one unanswered request per verb and incarnation, and
  may send it again, word for word, after an error or a timeout; the answer is then the first one, and nothing
  happens twice. (`enqueue` is idempotent by the instances' own ids.)
* Hints only wake. Losing every hint costs latency (nodes poll each second), never correctness.
* Normal outcomes (nothing to claim, lost, dead) are return values. Errors are `StoreUnavailableError`,
  `StoreFullError` (only `enqueue` raises it: work that is under way can always be finished), `StoreRefusedError` for a
  request that the server would refuse again word for word, and `ArgumentError` for a caller's mistake.
  A driver retries by itself while the server is away, for `retry_for` seconds, then raises.
* A record that cannot be decoded is set aside (moved out of every queue and index), counted in `health`, and
  reported once through the logger `peerjob.store`; whatever the verb was doing goes on with the others.
* Every key lies under the namespace.
* Cost: enqueue, claim and commit are O(log n) per instance, however many kinds the node asks for and the namespace
  has; nothing on these paths depends on the number of finished instances or reads an open range. The first claim for a
  set of many kinds registers it, which is O(kinds).
* Verbs that look at all kinds do so in pages, and are as of one moment only where one page holds them. A kind leaves
  nothing behind once its last instance was removed and its last node has left.
* A call holds at most MAX_BATCH instances; more raises ValueError.

Implementations differ in whose clock decides due-ness and in how strict the order is; `capabilities` says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from peerjob.model.firing import (
    Candidate,
    Fire,
    FireAnswer,
    FirePage,
    Leader,
    SchedulePage,
    SchedulePut,
    ScheduleRow,
    Term,
)
from peerjob.model.query import Filter, Query
from peerjob.model.record import (
    Ack,
    Capabilities,
    Claimed,
    Enqueued,
    Health,
    Hint,
    LogLine,
    LogPage,
    NewInstance,
    NodeInfo,
    NodeView,
    Outcome,
    Page,
    Reaped,
    Record,
    Renewed,
    Want,
)
from peerjob.model.state import State


class Liveness(Protocol):
    """A separate, minimal client for the renewal of one lease; lives on the event loop that opened it.

    It shares nothing with the store it came from but the server, so that it works from another thread and loop.
    """

    async def open(self) -> None:
        """Connect."""
        ...

    async def renew(self, incarnation: str, *, ttl_us: int, running: int, count: int, fences_digest: int) -> Renewed:
        """Extend the lease to now + ttl, also after it expired, as long as it was not marked dead.

        `running` is the load to show. `count` and `fences_digest` (see `record.digest`) describe the claims that
        the caller knows; when they do not match the store's, the answer lists the store's in `held`.
        Never retried by the driver; fails with StoreUnavailableError within ttl/5.
        """
        ...

    async def close(self) -> None: ...


class Elections(Protocol):
    """A separate, minimal client for the leadership of one namespace; lives on the event loop that opened it.

    One leadership is a *term*. Whoever campaigns again within the ttl keeps it; when nobody does, it is free.
    No call is retried by the driver; each fails with StoreUnavailableError within ttl/5 (2 s before the first ttl).
    """

    async def open(self) -> None:
        """Connect; raises StoreUnavailableError within 5 s."""
        ...

    async def campaign(self, candidate: Candidate, *, ttl_us: int) -> Leader:
        """Take the leadership if it is free, keep it if it is the candidate's own; answers who leads now.

        A leadership that is taken anew gets a higher term. Keeping one writes as little as the server allows.
        """
        ...

    async def resign(self, incarnation: str, *, refused: Term | None = None) -> None:
        """Give the leadership up if it is this incarnation's, so that a peer can take it at once.

        `refused` is a term that the store answered DEPOSED to. If the incarnation still leads in that very term, the
        coordinator went back, as after a restore: later terms then have another `Term.coordinator`.
        """
        ...

    async def leader(self) -> Leader | None:
        """Who leads now."""
        ...

    async def changed(self, timeout: float) -> bool:
        """Wait until the leadership may have changed hands or become free; False after `timeout` seconds."""
        ...

    async def close(self) -> None: ...


class Store(Protocol):
    """A shared store, bound to one namespace, used from one event loop."""

    @property
    def url(self) -> str:
        """Where it is, with credentials redacted."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What it promises; known after `open`."""
        ...

    @property
    def local_objects(self) -> dict[str, Any] | None:
        """Callables that cannot be imported by name, for a store that lives in this process; None on any other."""
        ...

    async def open(self) -> None:
        """Connect, check the server and the namespace's layout.

        Raises StoreUnavailableError within 5 s when the server cannot be reached, LayoutError for the layout of another
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
        """A new client for the leadership that the store itself holds, not opened yet."""
        ...

    # -- queue ----------------------------------------------------------------------------------------------------

    async def enqueue(self, instances: Sequence[NewInstance], *, node: str = "") -> list[Enqueued]:
        """Add instances as Created → Scheduled (two history entries at one time), in one answer each.

        Idempotent by instance id: the same call again gives the first answer. Where a kind and key are taken by an
        instance that is not final, nothing is added and that instance's id is the answer (within a batch, the first
        one wins). Wakes min(instances due, idle nodes) idle nodes that can run them; an instance that is now the
        earliest delayed one wakes one. Raises StoreFullError with nothing half written.
        """
        ...

    async def claim(self, incarnation: str, want: Want, *, request: str) -> Claimed:
        """Scheduled → Processing for the best due instances: lowest priority number, then due time, then id.

        Moves due delayed instances first (at most 500, earliest first). Counts the attempt, gives each a new fence.
        A suspect (`record.is_suspect`) that comes first is taken alone if `want.suspects`, and passed over otherwise;
        suspects never hide others behind them. A claim that leaves due work wakes one more idle node; it ends before
        its limit where payloads are large (MAX_BATCH_BYTES) or of more than 200 kinds. A claim that finds nothing
        registers the incarnation as idle in the same step. An incarnation that is dead or unknown gets `dead=True`.
        """
        ...

    async def commit(self, incarnation: str, outcomes: Sequence[Outcome], *, request: str) -> list[Ack]:
        """Apply outcomes, each conditional on (fence, incarnation), one answer each, in order.

        Logs of an outcome are appended first, then state, result, error and progress change. A final outcome frees the
        unique key and removes up to twice as many expired final instances as the call adds. RETRY and SNOOZE make it
        Scheduled, due at now + delay; HAND_BACK gives it back its old due time. A commit works as long as the claim
        has not been taken back, even when the lease has expired. A REPORT that carries nothing but logs is also
        accepted from the (fence, incarnation) that made the instance final by its own outcome, so that what its
        processors log afterwards is kept; `Record.owner` keeps naming that incarnation. On an instance that was
        cancelled while it ran, every
        action but REPORT also releases it, and the answer is CANCELLED (also for REPORT).
        """
        ...

    async def turn(
        self, incarnation: str, outcomes: Sequence[Outcome], want: Want | None, *, request: str
    ) -> tuple[list[Ack], Claimed]:
        """`commit`, then `claim` (when `want` is given), in one round trip where the server can."""
        ...

    async def cancel(self, ids: Sequence[str], *, node: str = "", request: str) -> list[State | None]:
        """Scheduled or Processing → Cancelled, in one step each; the answer is the state it was in, per id.

        None: unknown. A final state: it was final already and is unchanged (an instance that this very request
        cancelled before answers as it did then). A running one loses its fence at once: nothing its holder commits
        changes it any more; its owner entry stays as "releasing" until the holder releases it or is reaped, and its
        unique key is freed with that. The holder is hinted "cancel" and sees it in every renewal.
        """
        ...

    async def add_lines(self, id: str, lines: Sequence[LogLine]) -> bool:
        """Append log lines to an instance in any state, in one step; False for one that is not there.

        The lines are those of a caller that does not run the instance, such as a processor on the node that scheduled
        it: no fence guards them, and nothing else of the instance changes. The driver does not try the call again, so
        that no line comes twice; raises StoreUnavailableError.
        """
        ...

    # -- hints and waiters ----------------------------------------------------------------------------------------

    async def next_hints(self, incarnation: str, timeout: float) -> list[Hint]:
        """Wait up to `timeout` seconds for hints to this incarnation; [] when none came.

        Only one caller per incarnation at a time. Cancelling the call loses no hint that matters (see HINTS).
        """
        ...

    async def watch_final(self, incarnation: str, ids: Sequence[str]) -> list[Record | State | None]:
        """Register for a "final" hint on each of these and look at them, in one step each.

        The answer is the state of one that is not final, and None for an unknown one. Of those that are final it is the
        record, until the reply is long enough, then the state alone: `get` reads those.
        """
        ...

    async def watch_changes(self, incarnation: str, ttl: float) -> None:
        """Have every transition, progress and log append hinted as "change" to this incarnation for `ttl` seconds."""
        ...

    # -- liveness -------------------------------------------------------------------------------------------------

    async def join(self, node: NodeInfo, *, ttl_us: int, previous: str | None = None) -> int:
        """Add a live incarnation (or update what it shows); returns the store's time.

        `previous` is this process's incarnation that was marked dead while it was out of reach: crashes that its
        reaping charged are turned into losses, except of what is final.
        """
        ...

    async def leave(self, incarnation: str) -> int:
        """End a lease in an orderly way: claims left behind are handed back without a count; returns how many."""
        ...

    async def reap(self, limit: int, *, reaper: str) -> list[Reaped]:
        """Take back up to `limit` claims of incarnations whose lease has expired; [] when there is none.

        Marks the incarnation dead first, in one step; any peer can go on where another stopped. A claim whose start
        was reported counts as a crash, any other as a loss; but when a suspect was running there, only suspects are
        charged. Over max_crashes the instance becomes Terminated ("poison"), otherwise Scheduled with its old due time.
        Neither counts as an attempt. Instances that were cancelled while running are released. The caller decides
        whether it may reap (only after a full TTL of answered renewals), so this is not tried again while the server is
        away; and of `reaper`, an incarnation, the store holds that its own lease has not expired: a call that comes
        late, out of an outage, marks nobody.
        """
        ...

    async def nodes(self) -> list[NodeView]:
        """Live incarnations, by name."""
        ...

    async def publish_kinds(self, kinds: Sequence[str]) -> None:
        """Put kinds that a node can run into the namespace's catalogue; at most MAX_BATCH.

        A kind leaves the catalogue `StoreLimits.kinds_kept_us` after it was published last, and with nothing else:
        a kind whose nodes are all gone is still known.
        """
        ...

    async def published_kinds(self, kinds: Sequence[str]) -> list[bool]:
        """Whether the catalogue has each of these kinds; at most MAX_BATCH."""
        ...

    # -- schedules ------------------------------------------------------------------------------------------------

    async def put_schedule(self, put: SchedulePut) -> ScheduleRow | None:
        """Write a schedule if it is as expected; None when it is not (read it again).

        The row gets a new revision. `account` goes into the ledger in the same step. Every live incarnation is hinted
        "schedule", once for writes that come together. The same put again, word for word, answers None or the row, and
        changes nothing twice.
        """
        ...

    async def remove_schedule(self, name: str, *, expected: int | None = None, request: str) -> bool:
        """Remove a schedule and its ledger (if its revision is `expected`); False when there was none.

        Instances stay; those that are parked are still released one after the other. A request that removed it is
        remembered for at least five minutes, and answered True again: nothing is removed twice.
        """
        ...

    async def get_schedules(self, names: Sequence[str]) -> list[ScheduleRow | None]:
        """Schedules by name, at most MAX_SCHEDULES."""
        ...

    async def changed_schedules(self, revision: int, *, limit: int = 500) -> SchedulePage:
        """Schedules that were written or removed after a revision (0: all there are), in the order of revisions.

        A row's `next_us` is that of now. Costs O(1) when nothing changed. Removals are remembered for the last 1,000;
        when more are needed, the page says `reset` and starts anew.
        """
        ...

    async def fire(self, fires: Sequence[Fire], *, term: Term | None, node: str = "") -> list[FireAnswer]:
        """Account for nominal times, each in one step: ledger, next time, slot and instance together or not at all.

        At most MAX_SCHEDULES, none of them about the same schedule and nominal time; atomic per fire, answered in
        order. A fire is done if the schedule has this revision and is not paused, and

        * an outcome that advances: the schedule's `next_us` is `nominal_us`, and becomes `next_us`. A paused schedule
          takes only PAUSED. FIRED of a time that was backfilled before it came is KNOWN: nothing is made, and the
          schedule moves on;
        * BACKFILLED: no record of an instance with this nominal time is there (else KNOWN), and it is later than
          `trimmed_us` (else TRIMMED); also while paused;
        * TRIGGERED: always; also while paused.

        With `term`, it must be no lower than the highest the store has seen from its coordinator (else DEPOSED, and
        the store remembers it). An instance is enqueued as by `enqueue`; with an overlap other than ALLOW it takes the
        schedule's slot if that is free (what holds it exists and is not over, its body included). Otherwise SKIP, a
        full queue, or an unique key that is taken make the record SKIPPED with a reason; QUEUE parks the instance:
        Scheduled, in no queue. REPLACE cancels the holder and everything parked, and takes the slot or is parked.
        Whatever ends the holder (commit, cancel, reap, release, removal) gives the slot to the first that is parked and
        lets it into its queue, in the same step. A backfill that was skipped made no instance, and may come again.

        Records of instances and records of stretches are kept apart, so a backfilled time within a missed stretch
        has both. A stretch that follows one with the same outcome and reason directly is joined with it. Each fire
        removes what the ledger has too much (`StoreLimits.max_fires`, `fires_kept_us`). Raises StoreFullError, with
        nothing written, if an instance cannot be taken.
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

        A stretch stands at its first nominal time.
        """
        ...

    # -- reading --------------------------------------------------------------------------------------------------

    async def get(self, ids: Sequence[str]) -> list[Record | None]:
        """Records by id, in replies of a bounded size."""
        ...

    async def lookup(self, query: Query) -> Page:
        """A page in order of creation (the id's order), by an index on kind and state; tags have an index too.

        Reads a bounded number of records, so a page may be short, even empty, and still have a cursor. `query.level` is
        not judged here.
        """
        ...

    async def logs(self, id: str, *, cursor: str | None = None, limit: int = 1000) -> LogPage:
        """Log lines of one instance from a cursor on, in the order stored."""
        ...

    async def due(self, kinds: Sequence[str] = ()) -> dict[str, int]:
        """How many instances of these kinds (none given: of all) are due and wait to be claimed; without kinds of none.

        What is parked behind a schedule's slot is not due. Of those that fell due and were not moved among the ready
        ones yet, as nobody claimed since, 1,000 are counted. Costs a look at one counter of each kind, in pages, so it
        is not for hot paths. Any number of kinds may be given.
        """
        ...

    async def health(self) -> Health:
        """Counts per kind and state, and other numbers that need no scan."""
        ...

    # -- retention ------------------------------------------------------------------------------------------------

    async def expire(self, limit: int) -> int:
        """Remove up to `limit` final instances whose time is over, with all that belongs to them; how many."""
        ...

    async def clear_instances(self, filter: Filter, *, limit: int = 500) -> int:
        """Remove final instances that match, in one bounded step; returns how many (0: done)."""
        ...

    async def clear_history(self, filter: Filter, *, cursor: str | None = None) -> tuple[int, str | None]:
        """Fold the history of final instances that match down to its last entry, in one bounded step."""
        ...

    async def clear_logs(self, filter: Filter, *, cursor: str | None = None) -> tuple[int, str | None]:
        """Remove the logs of final instances that match, in one bounded step."""
        ...

    async def clear(self) -> None:
        """Remove every instance in the namespace, whatever its state, in bounded steps; nodes stay joined.

        Those that come in meanwhile may stay.
        """
        ...
