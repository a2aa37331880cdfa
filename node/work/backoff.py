"""How long a failed attempt waits before it runs again."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, cast

from peerjob.handles.instance import Instance
from peerjob.model.durations import MAX_SECONDS, to_seconds
from peerjob.model.errors import Retry
from peerjob.model.policy import Backoff, Policy

from .run import Run

FALLBACK = Backoff()
"""Replaces a backoff that raises an error or returns no duration: from 1 s up to 5 minutes."""


class BackoffFailed(Exception):
    """The backoff of a job raised an error, or returned no duration; `cause` is the error."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause
        super().__init__(f"{type(cause).__name__}: {cause}")


def backoff_seconds(
    run: Run, policy: Policy, error: BaseException, instance: Instance[Any], retry: Retry | None
) -> float:
    """The seconds to wait, by the policy or by the `Retry` that the job raised; raises BackoffFailed."""
    try:
        if retry is not None and retry.after is not None:
            return to_seconds(retry.after, "Retry(after=)")
        backoff: Any = policy.backoff
        if isinstance(backoff, int | float):
            return float(backoff)
        attempt = run.claim.attempts
        if isinstance(backoff, Backoff):
            return backoff.seconds(attempt, run.claim.id)
        if type(backoff).__module__.startswith("tenacity."):
            return to_seconds(isolated(run, _tenacity_wait, backoff, attempt, error), "backoff")
        arguments = (instance, error) if _takes_two(backoff) else (instance,)
        return to_seconds(isolated(run, backoff, *arguments), "backoff")
    except Exception as bad:
        raise BackoffFailed(bad) from bad


def isolated(run: Run, call: Callable[..., Any], *args: object) -> Any:
    """Call a function of the user with the context variables with which the body began."""
    return call(*args) if run.variables is None else run.variables.copy().run(call, *args)


def _takes_two(backoff: Callable[..., Any]) -> bool:
    """Whether a backoff function takes the instance and the error. A function in the form of go-job takes no error."""
    try:
        signature = inspect.signature(backoff)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(None, None)
    except TypeError:
        return False
    return True


def _tenacity_wait(strategy: Any, attempt: int, error: BaseException) -> float:
    """The seconds that a tenacity strategy waits after this failed attempt."""
    from tenacity import Future, RetryCallState

    state = RetryCallState(cast(Any, None), None, (), {})
    state.attempt_number = attempt
    state.outcome = Future.construct(attempt, error, True)
    return min(float(strategy(state)), MAX_SECONDS)
