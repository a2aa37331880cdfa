"""Options of jobs: priority, retries, backoff, timeout, processors and others.

A job has the options of its definition. `with_options` can override them, and the overrides are stored with the
instance. So an override must be a value that can be stored, or something importable by name.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, cast

from .arguments import finite_number, several
from .durations import MAX_SECONDS, Duration, to_micros, to_seconds
from .errors import OptionError
from .hashed import hashed_share
from .injected import current_run
from .limit import KeyLimit, Limit
from .limits import (
    MAX_ALIASES,
    MAX_COUNT,
    MAX_ERROR_TESTS,
    MAX_KEY,
    MAX_KIND,
    MAX_NOTE,
    MAX_NUMBER,
    MAX_TAG,
    MAX_TAGS,
    checked_text,
)
from .record import MAX_CRASHES, MAX_PRIORITY, MIN_PRIORITY
from .references import Trusted, from_stored, to_stored
from .stored_limit import MAX_SHARED_LIMITS
from .timing import Jitter, Timing

if TYPE_CHECKING:
    from tenacity.wait import wait_base

    from peerjob.handles.instance import Instance

    from .state import State

R = TypeVar("R")


class Priority(IntEnum):
    """Named priorities. Any 32-bit int is valid; the lowest number runs first."""

    HIGH = 0
    MEDIUM = 5
    LOW = 10


_SECONDS = "a duration in seconds, of zero or more and at most 1,000 years"


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """The wait before a retry in seconds: initial × factor^(retry − 1), at most `max`, ± a share of `jitter`."""

    initial: float = 1.0
    factor: float = 2.0
    max: float = 300.0
    jitter: float = 0.2

    def __post_init__(self) -> None:
        for name in ("initial", "max"):
            finite_number(f"backoff {name}", getattr(self, name), _SECONDS, 0, MAX_SECONDS)
        finite_number("backoff factor", self.factor, "a number of 1 or more", 1, MAX_SECONDS)
        finite_number("backoff jitter", self.jitter, "a share from 0 to 1", 0, 1)

    @classmethod
    def exponential(cls, initial: Duration = 1, factor: float = 2, max: Duration = 300, jitter: float = 0.2) -> Backoff:
        """Make waits that grow by `factor`, up to `max`."""
        return cls(
            initial=to_seconds(initial, "backoff initial"),
            factor=factor,
            max=to_seconds(max, "backoff max"),
            jitter=jitter,
        )

    @classmethod
    def fixed(cls, wait: Duration, jitter: float = 0.0) -> Backoff:
        """Make equal waits."""
        seconds = to_seconds(wait, "backoff")
        return cls(initial=seconds, factor=1, max=seconds, jitter=jitter)

    def seconds(self, retry: int, id: str) -> float:
        """Return the seconds before a retry of an instance; 1 is the first. The same retry always has the same jitter.

        `id` is that of the instance: a UUIDv7 as text.
        """
        # limit the exponent: Python raises OverflowError for a power such as 2.0 ** 2000
        wait = self.max
        if self.initial > 0 and self.factor > 1:
            growth = min(retry - 1, 1024)
            try:
                wait = min(self.max, self.initial * self.factor**growth)
            except OverflowError:
                wait = self.max
        else:
            wait = min(self.max, self.initial)
        if not self.jitter:
            return wait
        # without the time in the id, so that one seed gives the same jitter in each run of a test
        return wait * (1 + self.jitter * (2 * hashed_share(f"{id[14:]}/{retry}") - 1))


@dataclass(frozen=True)
class Recovered:
    """A return value of `on_terminate`: the instance becomes Completed, with this result."""

    result: Any = None


@dataclass(frozen=True)
class FinishedResult:
    """The value that `Finished` returns. Internal: type checkers and callers see the type of the result."""

    result: Any


def Finished(result: R) -> R:  # noqa: N802  # jobs return it like the class Recovered
    """Mark the result of a job as complete, even if the run was cancelled meanwhile.

    The instance becomes Completed. Without `Finished`, a body that was told to end, because its node stops or has lost
    its lease, is handed back and runs again. Outside of a job, `Finished` returns the result itself.
    """
    return cast(R, FinishedResult(result)) if current_run.get() is not None else result


if TYPE_CHECKING:
    ErrorTest = type[BaseException] | Callable[[BaseException], bool]
    BackoffOption = (
        Duration
        | Backoff
        | wait_base
        | Callable[[Instance[Any], BaseException], Duration]
        | Callable[[Instance[Any]], Duration]
    )


class Options(TypedDict, total=False):
    """All options of a job, for its definition and for `with_options`."""

    description: str
    name: str | None
    aliases: Iterable[str]
    version: int
    priority: int
    max_retries: int | None
    retry_on: ErrorTest | Iterable[ErrorTest]
    no_retry_on: ErrorTest | Iterable[ErrorTest]
    backoff: BackoffOption
    timeout: Duration | None
    run_in: Literal["auto", "async", "thread", "process"]
    on_store_loss: Literal["cancel", "continue"]
    max_crashes: int
    at: datetime | str
    after: Duration
    cron: str
    every: Duration
    timezone: str
    jitter: Duration | Jitter | Callable[[], Duration]
    overlap: Literal["allow", "skip", "queue", "replace"]
    queue_limit: int
    misfire: Literal["skip", "run_once", "run_all"]
    misfire_limit: int
    start_deadline: Duration | None
    key: str | Callable[..., str] | None
    limits: Iterable[Limit | KeyLimit]
    on_complete: Callable[[Instance[Any], Any], object] | None
    on_terminate: Callable[[Instance[Any], BaseException], object] | None
    on_state_change: Callable[[Instance[Any], State], object] | None
    tags: Iterable[str]
    retention: Duration | None


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Checked options of a job, or of an instance (those of the definition with the overrides)."""

    priority: int = int(Priority.MEDIUM)
    max_retries: int | None = 0
    retry_on: tuple[Any, ...] = (Exception,)
    no_retry_on: tuple[Any, ...] = ()
    backoff: Any = 0
    timeout: float | None = None
    run_in: Literal["auto", "async", "thread", "process"] = "auto"
    on_store_loss: Literal["cancel", "continue"] = "cancel"
    max_crashes: int = MAX_CRASHES
    key: Any = None
    limits: tuple[Limit | KeyLimit, ...] = ()
    key_limit: KeyLimit | None = None
    """The limit of `limits` that counts each key by itself."""
    on_complete: Callable[..., object] | None = None
    on_terminate: Callable[..., object] | None = None
    on_state_change: Callable[..., object] | None = None
    tags: tuple[str, ...] = ()
    retention_us: int | None = None

    def retryable(self, error: BaseException) -> bool:
        """Whether the options allow a retry after this error, regardless of the number of attempts.

        For a group, each of its errors must allow a retry, unless a class names the group itself. Functions are called
        with each error in the group.
        """
        leaves = errors_in(error)
        if leaves[0] is error:
            return _any_matches(self.retry_on, error) and not _any_matches(self.no_retry_on, error)
        if _is_one_of(self.no_retry_on, error) or any(_any_matches(self.no_retry_on, leave) for leave in leaves):
            return False
        return _is_one_of(self.retry_on, error) or all(_any_matches(self.retry_on, leave) for leave in leaves)


def errors_in(error: BaseException) -> list[BaseException]:
    """Return the errors in a group and its inner groups, in order; for another error, the error itself."""
    leaves: list[BaseException] = []
    left = [error]
    while left:
        first = left.pop()
        if isinstance(first, BaseExceptionGroup):
            left.extend(reversed(cast("BaseExceptionGroup[BaseException]", first).exceptions))
        else:
            leaves.append(first)
    return leaves


def _is_one_of(tests: tuple[Any, ...], error: BaseException) -> bool:
    # a body that raises CancelledError without a cancellation has failed: a test for Exception matches this error,
    # although CancelledError is not a subclass of Exception
    stray = isinstance(error, asyncio.CancelledError)
    return any(isinstance(test, type) and (isinstance(error, test) or (stray and test is Exception)) for test in tests)


def _any_matches(tests: tuple[Any, ...], error: BaseException) -> bool:
    return _is_one_of(tests, error) or any(not isinstance(test, type) and test(error) for test in tests)


DEFINITION_ONLY = frozenset({"aliases", "version", "description"})
"""Options that describe the job itself. `with_options` takes these options, but instances do not store them.

`limits` describes the kind, so `with_options` refuses it.
"""


def checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Convert options to the form of Policy; raises OptionError or ScheduleError at the first bad option."""
    known = Options.__annotations__
    result: dict[str, Any] = {}
    for option, value in options.items():
        if option not in known:
            raise OptionError(option, value, f"one of the options {', '.join(sorted(known))}")
        check = _CHECKS.get(option)
        result[option] = value if check is None else check(option, value)
    # Timing.of is called for the errors that it raises: a bad time, or two times that exclude each other
    Timing.of(result)
    return result


POLICY_FIELDS = frozenset(field.name for field in fields(Policy)) - {"retention_us", "key_limit"}


def make_policy(options: Mapping[str, Any]) -> Policy:
    """Make the policy of checked options."""
    kept = {name: value for name, value in options.items() if name in POLICY_FIELDS}
    if "retention" in options:
        kept["retention_us"] = options["retention"]
    if "limits" in options:
        kept["key_limit"] = next((limit for limit in options["limits"] if isinstance(limit, KeyLimit)), None)
    return Policy(**kept)


_ERROR_TESTS = frozenset({"retry_on", "no_retry_on"})
_STORED_BY_REFERENCE = _ERROR_TESTS | {"on_complete", "on_terminate", "on_state_change"}
_NOT_STORED = frozenset({"at", "after", "key", "limits", "tags", "priority", "name"})
"""Options that have their own fields in the record, so the stored overrides leave them out."""


def store_overrides(overrides: Mapping[str, Any], local: dict[str, Any] | None, trusted: Trusted) -> dict[str, Any]:
    """Convert the overrides that are stored with the instance to plain values.

    `local` holds callables that cannot be imported, for a store in this process; None refuses them.
    """
    stored: dict[str, Any] = {}
    for option, value in overrides.items():
        if option in _NOT_STORED or option in DEFINITION_ONLY or option not in POLICY_FIELDS | {"retention"}:
            continue
        if option in _ERROR_TESTS:
            stored[option] = [to_stored(test, option, local, trusted) for test in value]
        elif option in _STORED_BY_REFERENCE:
            stored[option] = None if value is None else to_stored(value, option, local, trusted)
        elif option == "backoff":
            stored[option] = _stored_backoff(value, local, trusted)
        else:
            stored[option] = value
    return stored


def load_overrides(stored: Mapping[str, Any], local: Mapping[str, Any] | None, trusted: Trusted) -> dict[str, Any]:
    """The inverse of `store_overrides`; raises DecodeError for a reference that cannot be resolved here.

    It is a StoredReferenceError if another node may resolve the reference.
    """
    loaded: dict[str, Any] = {}
    for option, value in stored.items():
        if option in _ERROR_TESTS:
            loaded[option] = tuple(from_stored(test, option, local, trusted) for test in value)
        elif option in _STORED_BY_REFERENCE:
            loaded[option] = None if value is None else from_stored(value, option, local, trusted)
        elif option == "backoff":
            loaded[option] = _loaded_backoff(value, local, trusted)
        else:
            loaded[option] = value
    return loaded


def _stored_backoff(value: Any, local: dict[str, Any] | None, trusted: Trusted) -> Any:
    if isinstance(value, Backoff):
        return {"initial": value.initial, "factor": value.factor, "max": value.max, "jitter": value.jitter}
    if isinstance(value, float | int):
        return value
    return to_stored(value, "backoff", local, trusted)


def _loaded_backoff(value: Any, local: Mapping[str, Any] | None, trusted: Trusted) -> Any:
    if isinstance(value, dict):
        return Backoff(**cast(dict[str, float], value))
    if isinstance(value, str):
        return from_stored(value, "backoff", local, trusted)
    return value


# -- checks, one per option -----------------------------------------------------------------------------------------


def _optional(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda option, value: None if value is None else check(option, value)


def _text(most: int, *, least: int = 1) -> Callable[[str, Any], str]:
    return lambda option, value: checked_text(option, value, most, least=least)


def _whole(expected: str, low: int = 0, high: float = math.inf) -> Callable[[str, Any], int]:
    def check(option: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise OptionError(option, value, expected)
        return int(value)

    return check


def _timeout(option: str, value: Any) -> float:
    seconds = to_seconds(value, option)
    if seconds == 0:
        raise OptionError(option, value, "a duration over zero, or None for no timeout")
    return seconds


def _retention(option: str, value: Any) -> int:
    return to_micros(value, option)


def _backoff(option: str, value: Any) -> Any:
    if isinstance(value, Backoff) or callable(value):
        return value
    return to_seconds(value, option)


def _error_tests(option: str, value: Any) -> tuple[Any, ...]:
    if not hasattr(value, "__iter__") and not callable(value):
        raise OptionError(option, value, "error classes or functions of an error")
    given: tuple[Any, ...] = (
        (value,) if isinstance(value, type) or callable(value) else tuple(cast(Iterable[Any], value))
    )
    if len(given) > MAX_ERROR_TESTS:
        raise OptionError(option, f"{len(given):,} classes and functions", f"at most {MAX_ERROR_TESTS:,}")
    for test in given:
        wrong_class = isinstance(test, type) and not issubclass(cast(type[Any], test), BaseException)
        if wrong_class or not callable(test):
            raise OptionError(option, cast(object, test), "error classes or functions of an error")
    return given


def _choice(*allowed: str) -> Callable[[str, Any], Any]:
    def check(option: str, value: Any) -> Any:
        if value not in allowed:
            raise OptionError(option, value, f"one of {', '.join(map(repr, allowed))}")
        return value

    return check


def _texts(most: int, longest: int) -> Callable[[str, Any], tuple[str, ...]]:
    def check(option: str, value: Any) -> tuple[str, ...]:
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            raise OptionError(option, value, "a list of texts, not one text")
        texts = tuple(checked_text(option, text, longest) for text in cast(Iterable[Any], value))
        if len(texts) > most:
            raise OptionError(option, f"{len(texts):,} texts", f"at most {most}")
        return texts

    return check


def _callback(option: str, value: Any) -> Any:
    if not callable(value):
        raise OptionError(option, value, "a function or None")
    return value


def _key(option: str, value: Any) -> Any:
    is_function = callable(value) and not inspect.isclass(value)
    return value if is_function else checked_text(option, value, MAX_KEY)


def _limits(option: str, value: Any) -> tuple[Limit | KeyLimit, ...]:
    given = several(option, value, cast(Any, Limit | KeyLimit), "a list of Limit and KeyLimit")
    shared = [limit.name for limit in given if isinstance(limit, Limit)]
    if len(shared) > MAX_SHARED_LIMITS or len(given) - len(shared) > 1 or len(set(shared)) < len(shared):
        expected = f"at most {MAX_SHARED_LIMITS} Limit with different names, and one KeyLimit"
        raise OptionError(option, f"{len(shared)} Limit and {len(given) - len(shared)} KeyLimit", expected)
    return given


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "description": _text(MAX_NOTE, least=0),
    "name": _optional(_text(MAX_KEY)),
    "aliases": _texts(MAX_ALIASES, MAX_KIND),
    "version": _whole(f"a whole number from 0 to {MAX_NUMBER:,}", high=MAX_NUMBER),
    "priority": _whole("a 32-bit whole number (lower runs first)", MIN_PRIORITY, MAX_PRIORITY),
    "max_retries": _optional(_whole(f"a whole number from 0 to {MAX_COUNT:,}, or None for ever", high=MAX_COUNT)),
    "retry_on": _error_tests,
    "no_retry_on": _error_tests,
    "backoff": _backoff,
    "timeout": _optional(_timeout),
    "run_in": _choice("auto", "async", "thread", "process"),
    "on_store_loss": _choice("cancel", "continue"),
    "max_crashes": _whole(f"a whole number from 0 to {MAX_COUNT:,}", high=MAX_COUNT),
    "key": _optional(_key),
    "limits": _limits,
    "on_complete": _optional(_callback),
    "on_terminate": _optional(_callback),
    "on_state_change": _optional(_callback),
    "tags": _texts(MAX_TAGS, MAX_TAG),
    "retention": _optional(_retention),
}
