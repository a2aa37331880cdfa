"""Outcomes: how the end of a body becomes one, and the outbox in which it waits for the next commit.

The runner, the pool and the processors put outcomes and reports of running bodies into the outbox. The claim loop takes
them out, and sleeps until `wake` or `hint`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any

import msgspec

from peerjob.handles.instance import Instance
from peerjob.handles.job_log import make_line
from peerjob.model.clock import Clock
from peerjob.model.durations import format_seconds
from peerjob.model.errors import Fail, JobTimedOut, PayloadTooLargeError, PeerjobError, Retry, Snooze
from peerjob.model.policy import Policy
from peerjob.model.record import MAX_BATCH, MAX_BATCH_BYTES, Ack, Action, Outcome, Want
from peerjob.model.spec import encode
from peerjob.node.body.errors import BodyError, describe_error, signal_in
from peerjob.node.body.typed_places import Encoded

from .backoff import FALLBACK, BackoffFailed, backoff_seconds, isolated
from .failure_log import FailureLog, error_note
from .run import HeldClaims, Run

logger = logging.getLogger("peerjob.node")

MAX_PENDING = 1_000
MAX_PENDING_BYTES = 8 << 20
REPORT_EVERY = 0.1
"""Seconds between reports of starts, progress and log lines of running bodies."""

Entry = tuple[Run, Outcome]
Signal = Fail | Retry | Snooze


class OutcomeBuilder:
    """Makes outcomes. A failed attempt also has its entry in the log of failures."""

    def __init__(self, clock: Clock, max_payload: int, *, node: str, failures: FailureLog) -> None:
        self._clock = clock
        self._node = node
        self._failures = failures
        self.max_payload = max_payload
        """Most bytes of a result. The node lowers the limit if the store accepts fewer bytes."""

    def completed(self, run: Run, result: Any) -> Outcome:
        """The body returned. If the result cannot be stored, the run fails without a retry."""
        assert run.binding is not None  # a body has run, so the run has a binding
        try:
            encoded = result.data if type(result) is Encoded else run.binding.result.encode(result)
            if encoded is not None and len(encoded) > self.max_payload:
                raise PayloadTooLargeError(f"result of {run.claim.kind!r}", len(encoded), self.max_payload)
        except (PeerjobError, TypeError, ValueError, RecursionError) as error:
            return self.terminated(run, error)
        return outcome_of(run, Action.COMPLETE, result=encoded)

    def failed(self, run: Run, policy: Policy, error: BaseException, instance: Instance[Any]) -> Outcome:
        """The body raised an error: retry if the policy allows it."""
        error = error.cause if isinstance(error, BodyError) else error
        signal = signal_in(error)
        if isinstance(signal, Fail) or not self._may_retry(run, policy, error, signal):
            return self.terminated(run, error)
        return self._retry(run, policy, error, instance, signal if isinstance(signal, Retry) else None)

    def timed_out(self, run: Run, policy: Policy, error: BaseException, instance: Instance[Any]) -> Outcome:
        """The attempt took too long: retry as after an error. The last attempt ends as TimedOut."""
        if self._may_retry(run, policy, error):
            return self._retry(run, policy, error, instance, None)
        info = describe_error(error)
        self._failures.failed(run, error, info, "it ends as TimedOut", level=logging.ERROR)
        return outcome_of(run, Action.TIME_OUT, error=encode(info), note=str(error))

    def terminated(self, run: Run, error: BaseException) -> Outcome:
        """A failure without a retry."""
        info = describe_error(error)
        self._failures.failed(run, error, info, "it ends as Terminated", level=logging.ERROR)
        return outcome_of(run, Action.TERMINATE, error=encode(info), note=error_note(info))

    def snoozed(self, run: Run, signal: Snooze) -> Outcome:
        """The body delayed its own instance."""
        note = f"snoozed for {format_seconds(signal.seconds)}"
        self._failures.snoozed(run, note)
        return put_off(run, signal.seconds, note)

    def _may_retry(self, run: Run, policy: Policy, error: BaseException, signal: Signal | None = None) -> bool:
        if policy.max_retries is not None and run.claim.attempts > policy.max_retries:
            return False
        if isinstance(signal, Retry):
            return True
        try:
            return bool(isolated(run, policy.retryable, error))
        except Exception:  # noqa: BLE001  # the user's `retryable` can raise any error
            return False

    def _retry(
        self, run: Run, policy: Policy, error: BaseException, instance: Instance[Any], asked: Retry | None
    ) -> Outcome:
        info = describe_error(error)
        attempts = run.claim.attempts
        try:
            wait = backoff_seconds(run, policy, error, instance, asked)
        except BackoffFailed as failed:
            wait = FALLBACK.seconds(attempts, run.claim.id)
            text = f"the backoff of {run.claim.kind!r} failed ({failed}), so the default backoff is used"
            run.logs.append(make_line(self._clock.time_us(), logging.WARNING, text, attempt=attempts, node=self._node))
            logger.warning("instance %s: %s", run.claim.id, text)
        then = f"retry {attempts} in {format_seconds(wait)}" if wait else f"retry {attempts}"
        self._failures.failed(run, error, info, then, level=logging.WARNING if asked is None else logging.INFO)
        return outcome_of(
            run,
            Action.RETRY,
            error=encode(info),
            delay_us=round(wait * 1_000_000),
            note=f"timed out; {then}" if isinstance(error, JobTimedOut) else f"{then}: {error_note(info)}",
        )


def outcome_of(
    run: Run,
    action: Action,
    *,
    result: bytes | None = None,
    error: bytes | None = None,
    delay_us: int = 0,
    note: str = "",
) -> Outcome:
    """An outcome of a run, with the log lines and the progress that no commit has taken yet."""
    return Outcome(
        id=run.claim.id,
        fence=run.claim.fence,
        action=action,
        result=result,
        error=error,
        delay_us=delay_us,
        note=note,
        progress=run.take_progress() if run.progress is not None else None,
        logs=run.take_logs() if run.logs else (),
    )


def handed_back(run: Run, note: str) -> Outcome:
    """Give the claim back, so that any node can run the instance at once."""
    return outcome_of(run, Action.HAND_BACK, note=note)


def put_off(run: Run, seconds: float, note: str) -> Outcome:
    """Give the claim back for later, without a counted attempt."""
    return outcome_of(run, Action.SNOOZE, delay_us=round(seconds * 1_000_000), note=note)


def report(run: Run) -> Outcome:
    """Start, progress and log lines of a body that still runs."""
    run.reported = run.started_at is not None
    return Outcome(
        id=run.claim.id,
        fence=run.claim.fence,
        action=Action.REPORT,
        # after the end of a run, the store accepts its log lines only: a report that also says `started` is refused
        started=run.reported and not run.ended,
        progress=run.take_progress(),
        logs=run.take_logs(),
    )


class StoreRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request to the store: outcomes to commit, a claim, or both."""

    incarnation: str
    entries: list[Entry]
    want: Want | None
    request: str
    reduced: int = 0
    """How often the claim loop made the only outcome of this request smaller, because the store refused the outcome."""
    apart: bool = False
    """Whether this is a part of a refused request. The store can have committed some outcomes before the refusal."""

    @property
    def alone(self) -> bool:
        """Whether the request is a single outcome without a claim."""
        return len(self.entries) == 1 and self.want is None


class Outbox:
    """A bounded buffer of outcomes and reports. It drops no outcome; at the bound the node starts no body."""

    def __init__(self, held_claims: HeldClaims) -> None:
        self._held_claims = held_claims
        self._entries: deque[Entry] = deque()
        self._bytes = 0
        self._starts: list[Run] = []
        """Runs whose bodies wait until the store has recorded the start."""
        self._report_due = False
        self._report_timer: asyncio.TimerHandle | None = None
        self.woken = asyncio.Event()
        """Set when an outcome can be sent or a claim can be made; the claim loop clears the event."""
        self.hinted = True
        """Whether the store may have instances to run; the claim loop clears the flag when a claim is sent."""

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def full(self) -> bool:
        return len(self._entries) >= MAX_PENDING or self._bytes >= MAX_PENDING_BYTES

    @property
    def unsent(self) -> bool:
        """Whether an outcome, or a start that a run waits for, was not sent yet."""
        return bool(self._entries or self._starts)

    @property
    def has_reports(self) -> bool:
        return self._report_due or bool(self._starts)

    # -- for the node ------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Wake the claim loop: a worker is free, or trust in the lease changed."""
        self.woken.set()

    def hint(self) -> None:
        """Wake the claim loop, and let it claim: the store may have work."""
        self.hinted = True
        self.woken.set()

    def add(self, run: Run, outcome: Outcome) -> None:
        self._entries.append((run, outcome))
        self._bytes += size_of(outcome)
        self.woken.set()

    def give_back(self, run: Run, outcome: Outcome) -> None:
        """Add the outcome of a claim that did not run."""
        run.ended = True
        self.add(run, outcome)

    async def commit_start(self, run: Run) -> bool:
        """Store the start of this run before its body begins; False if the claim is lost."""
        run.acked = asyncio.get_running_loop().create_future()
        self._starts.append(run)
        self.woken.set()
        return await run.acked is Ack.DONE

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
            self.woken.set()
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
        while entries and len(batch) < MAX_BATCH:
            run, outcome = entries[0]
            weight = size_of(outcome)
            if batch and (size + weight > MAX_BATCH_BYTES or run.incarnation != batch[0][0].incarnation):
                break
            size += weight
            batch.append(entries.popleft())
        self._bytes -= size
        return batch

    def take_reports(self, batch: list[Entry], now: float) -> list[Entry]:
        """Reports of running bodies that fit into a batch, and do not end in it."""
        ending = {run.claim.id for run, _ in batch}
        room = MAX_BATCH - len(batch)
        starts, self._starts = self._starts, []
        self._report_due = False
        runs = [run for run in self._running() if run.has_report and run not in starts]
        reports: list[Entry] = []
        size = 0
        for run in (*starts, *runs):
            awaited = run.acked is not None and not run.acked.done()
            if run.claim.id in ending or run.ended or run.lost:
                if run.acked is not None and awaited:
                    run.acked.set_result(Ack.LOST)
            elif len(reports) < room and size < MAX_BATCH_BYTES:
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


def size_of(outcome: Outcome) -> int:
    """The size of an outcome in bytes, roughly."""
    size = 100
    if outcome.result is not None:
        size += len(outcome.result)
    if outcome.error is not None:
        size += len(outcome.error)
    for line in outcome.logs:
        size += len(line.message) + 40
    return size
