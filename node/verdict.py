"""From how a body ended to what is committed: completed, retried, terminated, timed out, handed back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from peerjob.clock import Clock
from peerjob.durations import MAX_SECONDS, format_seconds, to_seconds
from peerjob.errors import Fail, PayloadTooLargeError, PeerjobError, Retry, Snooze
from peerjob.instance import Instance
from peerjob.policy import Backoff, Policy
from peerjob.record import Action, Outcome
from peerjob.spec import encode

from .failures import BodyError, describe_error, signal_in
from .results import Encoded
from .run import Run

Signal = Fail | Retry | Snooze


class Verdicts:
    """Decides outcomes; holds what that takes: the clock for backoff jitter, and the size limit of results."""

    def __init__(self, clock: Clock, max_payload: int) -> None:
        self._clock = clock
        self.max_payload = max_payload
        """Most bytes of a result; a store may take less than its node."""

    def completed(self, run: Run, result: Any) -> Outcome:
        """A body that returned. A result that cannot be stored makes the run a failure that is not retried."""
        assert run.binding is not None  # it has run
        try:
            encoded = result.data if type(result) is Encoded else run.binding.result.encode(result)
            if encoded is not None and len(encoded) > self.max_payload:
                raise PayloadTooLargeError(f"result of {run.claim.kind!r}", len(encoded), self.max_payload)
        except (PeerjobError, TypeError, ValueError, RecursionError) as error:
            return self.terminated(run, error)
        return self._outcome(run, Action.COMPLETE, result=encoded)

    def failed(self, run: Run, policy: Policy, error: BaseException, instance: Instance[Any]) -> Outcome:
        """A body that raised: retried while the policy allows it."""
        error = error.cause if isinstance(error, BodyError) else error
        signal = signal_in(error)
        if isinstance(signal, Fail) or not self._may_retry(run, policy, error, signal):
            return self.terminated(run, error)
        try:
            wait = self._backoff(run, policy, error, instance, signal)
        except Exception as bad:  # noqa: BLE001  # a user's backoff that raises must not lose the instance
            bad.__cause__ = error
            return self.terminated(run, bad)
        return self._retry(run, wait, encode(describe_error(error)))

    def timed_out(self, run: Run, policy: Policy, error: BaseException, instance: Instance[Any]) -> Outcome:
        """An attempt that ran out of time: retried like an error; the last one ends in TimedOut."""
        described = encode(describe_error(error))
        if self._may_retry(run, policy, error):
            try:
                return self._retry(run, self._backoff(run, policy, error, instance), described, what="timed out")
            except Exception as bad:  # noqa: BLE001  # as in failed()
                return self.terminated(run, bad)
        return self._outcome(run, Action.TIME_OUT, error=described, note=str(error))

    def terminated(self, run: Run, error: BaseException) -> Outcome:
        return self._outcome(run, Action.TERMINATE, error=encode(describe_error(error)))

    def snoozed(self, run: Run, signal: Snooze, note: str = "") -> Outcome:
        return self._outcome(
            run,
            Action.SNOOZE,
            delay_us=round(signal.seconds * 1_000_000),
            note=note or f"snoozed for {format_seconds(signal.seconds)}",
        )

    def handed_back(self, run: Run, note: str) -> Outcome:
        return self._outcome(run, Action.HAND_BACK, note=note)

    def released(self, run: Run) -> Outcome:
        """The body of a cancelled instance has ended."""
        return self._outcome(run, Action.RELEASE)

    def report(self, run: Run) -> Outcome:
        """Start, progress and log lines of a body that goes on."""
        run.reported = run.started_at is not None
        return Outcome(
            id=run.claim.id,
            fence=run.claim.fence,
            action=Action.REPORT,
            # lines that come after the end must come alone: see `Store.commit`
            started=run.reported and not run.ended,
            progress=run.take_progress(),
            logs=run.take_logs(),
        )

    def _outcome(
        self,
        run: Run,
        action: Action,
        *,
        result: bytes | None = None,
        error: bytes | None = None,
        delay_us: int = 0,
        note: str = "",
    ) -> Outcome:
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

    def _may_retry(self, run: Run, policy: Policy, error: BaseException, signal: Signal | None = None) -> bool:
        if policy.max_retries is not None and run.claim.attempts > policy.max_retries:
            return False
        if isinstance(signal, Retry):
            return True
        try:
            return bool(_isolated(run, policy.retryable, error))
        except Exception:  # noqa: BLE001  # a user's test that raises decides nothing
            return False

    def _retry(self, run: Run, wait: float, error: bytes, what: str = "retry") -> Outcome:
        note = f"retry {run.claim.attempts} in {format_seconds(wait)}" if wait else f"retry {run.claim.attempts}"
        if what != "retry":
            note = f"{what}; {note}"
        return self._outcome(run, Action.RETRY, error=error, delay_us=round(wait * 1_000_000), note=note)

    def _backoff(
        self,
        run: Run,
        policy: Policy,
        error: BaseException,
        instance: Instance[Any],
        signal: Signal | None = None,
    ) -> float:
        if isinstance(signal, Retry) and signal.after is not None:
            return to_seconds(signal.after, "Retry(after=)")
        backoff: Any = policy.backoff
        if isinstance(backoff, int | float):
            return float(backoff)
        retry = run.claim.attempts
        if isinstance(backoff, Backoff):
            return backoff.seconds(retry, self._clock)
        if type(backoff).__module__.startswith("tenacity."):
            return to_seconds(_isolated(run, _tenacity_wait, backoff, retry, error), "backoff")
        return to_seconds(_isolated(run, backoff, instance, error), "backoff")


def _isolated(run: Run, call: Callable[..., Any], *args: object) -> Any:
    """Call code of the user's with the context variables that its job began with."""
    return call(*args) if run.surroundings is None else run.surroundings.copy().run(call, *args)


def _tenacity_wait(strategy: Any, attempt: int, error: BaseException) -> float:
    """What a tenacity wait strategy says about this attempt."""
    from tenacity import Future, RetryCallState

    state = RetryCallState(cast(Any, None), None, (), {})
    state.attempt_number = attempt
    state.outcome = Future.construct(attempt, error, True)
    return min(float(strategy(state)), MAX_SECONDS)
