"""Unsent reports: the outcomes, and the reports of running bodies, that wait for the next commit.

The runner, the pool and the processors add them. The claim loop takes and sends them. It sleeps while it has nothing to
send, and `Waker` wakes it.
"""

from __future__ import annotations

import asyncio
from collections import deque

from peerjob.model.record import MAX_BATCH, MAX_BATCH_BYTES, Ack, Outcome

from .durable_state import DurableState, Write
from .outcomes import Entry, kept, report
from .run import HeldClaims, Run

MAX_PENDING = 1_000
MAX_PENDING_BYTES = 8 << 20
REPORT_EVERY = 0.1
"""Seconds between reports of starts, progress and log lines of running bodies."""


class Waker:
    """Wakes the claim loop, with a hint that the store may have work or without one."""

    def __init__(self) -> None:
        self.woken = asyncio.Event()
        """Set when an outcome can be sent or a claim can be made; the claim loop clears the event."""
        self.hinted = True
        """Whether the store may have instances to run; the claim loop clears the flag when a claim is sent."""

    def wake(self) -> None:
        """Wake the claim loop: an outcome waits, a worker is free, or trust in the lease changed."""
        self.woken.set()

    def hint(self) -> None:
        """Wake the claim loop, and let it claim: the store may have work."""
        self.hinted = True
        self.woken.set()


class UnsentReports:
    """A bounded buffer of outcomes and reports. It drops no outcome; at the bound the node starts no body.

    It wakes the claim loop when an outcome or a report can be sent.
    """

    def __init__(self, held_claims: HeldClaims, waker: Waker) -> None:
        self._held_claims = held_claims
        self._waker = waker
        self._entries: deque[Entry] = deque()
        self._bytes = 0
        self._incarnation = ""
        """The incarnation of the last entry."""
        self._is_mixed = False
        """Whether the entries can be of several incarnations."""
        self._starts: list[Run] = []
        """Runs whose bodies wait until the store has recorded the start."""
        self._writers: list[tuple[Run, DurableState]] = []
        """Runs whose bodies wait until the store has their steps."""
        self._report_due = False
        self._report_timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def full(self) -> bool:
        return len(self._entries) >= MAX_PENDING or self._bytes >= MAX_PENDING_BYTES

    @property
    def awaited(self) -> bool:
        """Whether an outcome, or a report that a run waits for, was not sent yet."""
        return bool(self._entries or self._starts or self._writers)

    @property
    def has_reports(self) -> bool:
        return self._report_due or bool(self._starts or self._writers)

    # -- for the node ------------------------------------------------------------------------------------------------

    def add(self, run: Run, outcome: Outcome) -> None:
        if run.incarnation != self._incarnation:
            self._is_mixed = bool(self._entries)
            self._incarnation = run.incarnation
        self._entries.append((run, outcome))
        self._bytes += size_of(outcome)
        self._waker.wake()

    def give_back(self, run: Run, outcome: Outcome) -> None:
        """Add the outcome of a claim that did not run."""
        run.ended = True
        self.add(run, outcome)

    async def commit_start(self, run: Run) -> bool:
        """Store the start of this run before its body begins; False if the claim is lost."""
        run.acked = asyncio.get_running_loop().create_future()
        self._starts.append(run)
        self._waker.wake()
        return await run.acked is Ack.DONE

    def write(self, run: Run, state: DurableState, write: Write) -> None:
        """Store steps or needs of a body with the next request; the write gets the answer."""
        state.add(write)
        if not state.is_queued:
            state.is_queued = True
            self._writers.append((run, state))
        self._waker.wake()

    def watch_reports(self) -> None:
        """Report starts, progress and log lines after REPORT_EVERY. A body that ends earlier needs no report."""
        if self._report_timer is None:
            self._report_timer = asyncio.get_running_loop().call_later(REPORT_EVERY, self._report)

    def close(self) -> None:
        """Stop the reports of running bodies."""
        if self._report_timer is not None:
            self._report_timer.cancel()
            self._report_timer = None

    def _report(self) -> None:
        self._report_timer = None
        runs = self._running()
        if any(run.has_report for run in runs):
            self._report_due = True
            self._waker.wake()
        if runs:
            self.watch_reports()

    def _running(self) -> list[Run]:
        return [run for run in self._held_claims.runs() if run.task is not None and not run.ended]

    # -- for the claim loop ------------------------------------------------------------------------------------------

    def take(self) -> list[Entry]:
        """The next batch: at most MAX_BATCH outcomes and about MAX_BATCH_BYTES, and at least one outcome if any waits.

        All outcomes of a batch are of one incarnation, as `Store.turn` requires.
        """
        entries, batch, size = self._entries, list[Entry](), 0
        if len(entries) <= MAX_BATCH and self._bytes <= MAX_BATCH_BYTES and not self._is_mixed:
            batch += entries
            entries.clear()
            self._bytes = 0
            return batch
        while entries and len(batch) < MAX_BATCH:
            run, outcome = entries[0]
            weight = size_of(outcome)
            if batch and (size + weight > MAX_BATCH_BYTES or run.incarnation != batch[0][0].incarnation):
                break
            size += weight
            batch.append(entries.popleft())
        self._bytes -= size
        self._is_mixed = self._is_mixed and bool(entries)
        return batch

    def take_reports(self, batch: list[Entry], now: float) -> list[Entry]:
        """Reports of running bodies that fit into a batch, and do not end in it."""
        ending = {run.claim.id for run, _ in batch}
        remaining = MAX_BATCH - len(batch)
        reports: list[Entry] = []
        size = self._take_writes(ending, remaining, reports) if self._writers else 0
        if not (self._report_due or self._starts):
            return reports
        starts, self._starts = self._starts, []
        self._report_due = False
        ending.update(run.claim.id for run, _ in reports)
        runs = [run for run in self._running() if run.has_report and run not in starts]
        for run in (*starts, *runs):
            awaited = run.acked is not None and not run.acked.done()
            if run.claim.id in ending or run.ended or run.lost:
                if run.acked is not None and awaited:
                    run.acked.set_result(Ack.LOST)
            elif len(reports) < remaining and size < MAX_BATCH_BYTES:
                if awaited:
                    run.started_at = now
                started = report(run)
                size += size_of(started)
                reports.append((run, started))
            elif awaited:
                self._starts.append(run)
            else:
                self._report_due = True
        return reports

    def _take_writes(self, ending: set[str], remaining: int, reports: list[Entry]) -> int:
        """Add the reports of bodies that wait for their steps, and return their size."""
        size = 0
        writers, self._writers = self._writers, []
        for run, state in writers:
            state.is_queued = False
            if run.lost or run.incarnation != self._held_claims.incarnation:
                state.drop()
            elif state.may_send and run.claim.id not in ending and len(reports) < remaining and size < MAX_BATCH_BYTES:
                steps, needs, alone = state.take()
                outcome = kept(run, steps, needs, alone=alone)
                size += size_of(outcome)
                reports.append((run, outcome))
            if state.waits:
                state.is_queued = True
                self._writers.append((run, state))
        return size


def size_of(outcome: Outcome) -> int:
    """The size of an outcome in bytes, roughly."""
    size = 100
    if outcome.result is not None:
        size += len(outcome.result)
    if outcome.error is not None:
        size += len(outcome.error)
    for line in outcome.logs:
        size += len(line.message) + 40
    for step in outcome.steps:
        size += len(step.name) + len(step.value)
    return size
