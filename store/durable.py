"""The part of the store contract about durable bodies: steps, signals, waits and children.

`peerjob.model.durable` has the words and the numbers. The rules for all commands:

* An instance that SUSPEND ended *waits*: it is Scheduled, and is not in its queue. It enters the queue when its wait is
  over: an awaited signal is there, or its needs are over, or its time has come. If the wait is over at once, it enters
  at once. Until a wait with a time is over, the instance is among the delayed ones, and its `due_us` is that time.
  `due_us` is the former due time again when a signal or the needs end the wait. So work in progress comes before later
  work of the same priority. To enter the queue is the same as for any instance: a key limit can hold it there.
* A wait whose time has come is over without a write. A later signal or end of a need does not move the instance, and
  `Record.wait` can show the wait until the claim.
* SUSPEND sets crashes and losses to 0, and so does each outcome with a step that is new. SUSPEND keeps the unique key
  and the slot of a schedule, and leaves the place of a key limit. Its note is SUSPENDED unless the outcome has one.
  Error and progress of the outcome are kept as by SNOOZE; delay and result are ignored.
* A wait and its needs belong to a fence. A claim ends the wait, and what it needed before counts no more.
* A step is written by an outcome, before its transition. Another value for a name changes nothing (Ack.TAKEN), and so
  does a step of a cancelled instance (Ack.CANCELLED). Steps and signals stay until their instance is removed. `commit`
  refuses what `durable_checks.check_outcomes` refuses, and does not count the steps of an instance.
* A *child* has a parent. It is *held* until its parent is final: it does not expire, `clear_instances` leaves it, and
  it does not count for `max_final_per_kind`. The end of the parent lets it go: if the child is over, its retention
  begins at that moment. If it is not final, it is cancelled, with the note PARENT_ENDED. So is one that is open.
* A child that is open, or that needs children, waits (`Wait(needs=True)`) and enters its queue, at its own due time,
  when it is not open and none of its needs is left. If a child that it needs as "completed" ends otherwise, it is
  cancelled, with a note that names that child; see `need_failed`.
* A need names a child of the same parent that exists already. A need of any other instance, and one of an instance that
  is gone, counts as ended and not completed.
* The needs of an outcome can count although the outcome is refused (Ack.LOST, Ack.TAKEN), if it has the fence of the
  running instance.
* *Over* is final without a body: a cancelled instance is over when its holder has released it. Needs and holds look at
  that, so a next step never starts beside a body that still runs.
* Who ends an instance also *settles* it: the same command follows up to MAX_SETTLED edges and children, after all its
  other effects. If more is left, it hints "settle" to the calling incarnation, or else to a live one, and
  `Renewed.settling` tells all. Each transaction of `settle` can come again, from any node. The history entries of its
  cancels name no node. An instance that enters its queue gets no entry.
* An instance that is set aside counts as gone for what needs it, and as an ended parent. A store may leave it to
  `settle`: then `Renewed.settling` tells of it.
* `clear` removes steps, edges and what is to be settled as well.

`spawn`, `restore`, `signal`, and outcomes with steps, needs or SUSPEND need the layout FLOWS_LAYOUT: `require_layout`
of the same store first. Otherwise they raise ValueError. A namespace without them stays as it is, and its commands cost
what they cost before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from peerjob.model.durable import SignalAnswer, StepPage
from peerjob.model.record import Enqueued, Held, NewChild
from peerjob.model.restored import Restored


class Durable(Protocol):
    """The commands about steps, signals and children."""

    async def require_layout(self, layout: int, what: str) -> None:
        """Raise the layout of the namespace, in one step, if it is lower; `what` names the reason in the error.

        Raises LayoutError, with the names, if a live incarnation does not read that layout. Sends nothing to the server
        if this store has seen that layout.
        """
        ...

    async def spawn(self, incarnation: str, parent: Held, children: Sequence[NewChild]) -> list[Enqueued] | None:
        """Add children of a running instance; one transaction each. None: the caller does not hold the claim of it.

        Then nothing more is added; the claim is compared in each transaction. Children that were added before are
        cancelled, since the parent has ended, or known to its next run. Idempotent by the ids: a child that is
        known gives `repeated`. If it is open, it gets the needs of the call, and a call without `more` closes it. If it
        is closed, final or removed, nothing changes. Wakes idle nodes as `enqueue`. Raises StoreFullError, and
        ValueError for what `durable_checks.check_children` refuses. Raises ValueError, too, for a known instance of
        another parent; earlier children of the call can then be added.
        """
        ...

    async def restore(self, instances: Sequence[Restored], *, node: str = "") -> list[Enqueued]:
        """Add instances of another store, with their steps, waits and ends; one transaction each, one answer each.

        Idempotent by the ids, as `enqueue`. An open instance waits (`Wait(needs=True)`). If the call knows it, it gets
        the steps that it does not have, and a call without `open` closes it: it enters its queue, or waits for the
        needs that its parent told meanwhile. Nothing else changes for a known instance. A child is held by its parent.
        If the parent is not open any more, the child is not added, and the answer is `repeated`: an earlier import had
        brought the parent whole, or the parent was cancelled. If the parent is unknown, nothing is added, and the
        answer has its id, as for a unique key that is taken. A wait is over at once if its signal is among the steps.
        Wakes idle nodes as `enqueue`. Raises StoreFullError, and ValueError for what `durable_checks.check_restored`
        refuses.
        """
        ...

    async def signal(self, id: str, name: str, value: bytes) -> SignalAnswer:
        """Keep the value of a signal, in one transaction; the first value wins. Wakes an instance that waits for it.

        Idempotent: the same value again is SAME. The answer for a final instance whose signal has a value is SAME or
        OTHER. "change" is hinted. Raises ValueError for what `durable_checks.check_signal` refuses.
        """
        ...

    async def steps(self, id: str, *, cursor: str | None = None) -> StepPage:
        """The steps and signals of an instance, in any order, in pages of about MAX_BATCH_BYTES.

        Empty for an instance that is unknown or has none. A value that comes meanwhile can be on a page or not.
        """
        ...

    async def open_needs(self, ids: Sequence[str]) -> list[int]:
        """How many needs of each instance that waits are not over; 0 for any other. At most MAX_BATCH; for views."""
        ...

    async def settle(self, limit: int = 100) -> bool:
        """Follow up ends of instances, at most `limit` edges and children; whether more is left."""
        ...

    async def check_needs(self, cursor: str | None = None) -> tuple[int, str | None]:
        """Check a page of instances that wait for needs; returns how many it mended, and the cursor of the next page.

        Only damage makes a mend necessary. An end that others need, and that nothing is to settle, is settled. A need
        that no end can find any more counts as over. Then a parent goes on, and its body looks at its children again. A
        child goes on if the need can only be of a sibling that completed, and is cancelled if it may be of another one
        that is over. On Redis, children of one parent that have lost needs go on together, even if one needed another.
        Logs an ERROR for each. Does nothing in a namespace without durable bodies.
        """
        ...
