"""Outcomes: how the end of a body becomes one, and the reports of running bodies."""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from peerjob.handles.instance import Instance
from peerjob.handles.job_log import make_line
from peerjob.model.clock import Clock
from peerjob.model.codec import encode_value
from peerjob.model.durable import Need, Step
from peerjob.model.durable_errors import Suspended
from peerjob.model.durations import format_seconds
from peerjob.model.errors import Fail, JobTimedOut, NodeStateError, PayloadTooLargeError, PeerjobError, Retry, Snooze
from peerjob.model.policy import Policy
from peerjob.model.record import Action, Outcome
from peerjob.model.spec import encode
from peerjob.node.body.errors import BodyError, control_exception_in, describe_error, location_of
from peerjob.node.body.typed_positions import Encoded
from peerjob.store.rules import SUSPENDED

from .backoff import FALLBACK, BackoffFailed, backoff_seconds, isolated
from .durable_state import Suspension
from .failure_log import FailureLog, error_note
from .run import Run

logger = logging.getLogger("peerjob.node")

Entry = tuple[Run, Outcome]
SWALLOWED_WAIT = 10.0
"""Seconds before an instance whose body caught Suspended is due again: an immediate run would most likely do the same.
"""
SWALLOWED = "caught Suspended/"
"""The beginning of the names of the steps that count the runs which the node handed back for that reason."""
MAX_SWALLOWED = 5
"""Most of these runs of an instance. Each later one is a failed attempt."""
ControlException = Fail | Retry | Snooze
# each run needs these members, and Python finds a name of a module in a small part of the time
_COMPLETE, _HAND_BACK = Action.COMPLETE, Action.HAND_BACK


class OutcomeBuilder:
    """Makes outcomes. A failed attempt also has its entry in the log of failures."""

    def __init__(self, clock: Clock, max_payload: int, node: str, failures: FailureLog) -> None:
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
        return outcome_of(run, _COMPLETE, result=encoded)

    def failed(self, run: Run, policy: Policy, error: BaseException, instance: Instance[Any]) -> Outcome:
        """The body raised an error: retry if the policy allows it."""
        error = error.cause if isinstance(error, BodyError) else error
        raised = control_exception_in(error)
        if isinstance(raised, Fail) or not self._may_retry(run, policy, error, raised):
            return self.terminated(run, error)
        return self._retry(run, policy, error, instance, raised if isinstance(raised, Retry) else None)

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

    def snoozed(self, run: Run, raised: Snooze) -> Outcome:
        """The body delayed its own instance."""
        note = f"snoozed for {format_seconds(raised.seconds)}"
        self._failures.snoozed(run, note)
        return put_off(run, raised.seconds, note)

    def swallowed(self, run: Run, raised: Suspended, times: int) -> Outcome | NodeStateError:
        """The body returned although a wait told it to end. Give the instance back: it waits for nothing.

        The error is for a failed attempt, after the node has given it back often.
        """
        assert run.binding is not None  # a body has run, so the run has a binding
        location = location_of(raised, run.binding.executor)
        text = (
            f"the body of {run.claim.kind!r} caught Suspended and went on, at {location}: it must let the "
            f"error pass, so that the instance {raised}"
        )
        if times >= MAX_SWALLOWED:
            return NodeStateError(text)
        text += f". The node hands it back, to run again in {SWALLOWED_WAIT:g} s ({times + 1} of {MAX_SWALLOWED} times)"
        run.logs.append(
            make_line(self._clock.time_us(), logging.ERROR, text, attempt=run.claim.attempts, node=self._node)
        )
        logger.error("instance %s: %s", run.claim.id, text)
        counted = (Step(f"{SWALLOWED}{times + 1}", encode_value(None)),)
        return msgspec.structs.replace(put_off(run, SWALLOWED_WAIT, "the body caught Suspended"), steps=counted)

    def _may_retry(
        self, run: Run, policy: Policy, error: BaseException, raised: ControlException | None = None
    ) -> bool:
        if policy.max_retries is not None and run.claim.attempts > policy.max_retries:
            return False
        if isinstance(raised, Retry):
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
        linked=run.linked,
    )


def handed_back(run: Run, note: str) -> Outcome:
    """Give the claim back, so that any node can run the instance immediately."""
    return outcome_of(run, _HAND_BACK, note=note)


def put_off(run: Run, seconds: float, note: str) -> Outcome:
    """Give the claim back for later, without a counted attempt."""
    return outcome_of(run, Action.SNOOZE, delay_us=round(seconds * 1_000_000), note=note)


def suspended(run: Run, suspension: Suspension) -> Outcome:
    """Give the claim back until a wait is over, without a counted attempt."""
    return msgspec.structs.replace(
        outcome_of(run, Action.SUSPEND, note=SUSPENDED),
        steps=suspension.steps,
        needs=suspension.needs,
        wait=suspension.wait,
    )


def kept(run: Run, steps: tuple[Step, ...], needs: tuple[Need, ...], *, alone: bool) -> Outcome:
    """Steps and needs of a body that runs; with its other news, unless the outcome must have nothing else."""
    news = Outcome(id=run.claim.id, fence=run.claim.fence, action=Action.REPORT, linked=True) if alone else report(run)
    return msgspec.structs.replace(news, steps=steps, needs=needs)


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
        linked=run.linked,
    )
