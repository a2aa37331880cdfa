"""How an instance runs: priority, retries, backoff, timeout, and who is told.

A job carries options of its definition; a schedule may override them, and the overrides travel with the instance. So an
option given per schedule must be storable: a value, or something importable by name.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, cast

from .durations import Duration, to_micros, to_seconds
from .errors import OptionError
from .injected import current_run
from .limits import MAX_ALIASES, MAX_ERROR_TESTS, MAX_KEY, MAX_KIND, MAX_NOTE, MAX_TAG, MAX_TAGS, checked_text
from .record import MAX_CRASHES, PRIORITY_MAX, PRIORITY_MIN
from .references import Trusted, from_stored, to_stored
from .timing import Jitter, Timing

if TYPE_CHECKING:
    from tenacity.wait import wait_base

    from peerjob.handles.instance import Instance

    from .clock import Clock
    from .state import State

R = TypeVar("R")


class Priority(IntEnum):
    """Named priorities; any 32-bit int will do, and a lower number runs first."""

    HIGH = 0
    MEDIUM = 5
    LOW = 10


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """How long a retry waits: initial × factor^(retry − 1), at most `max`, ± a share of `jitter`. In seconds."""

    initial: float = 1.0
    factor: float = 2.0
    max: float = 300.0
    jitter: float = 0.2

    def __post_init__(self) -> None:
        for name in ("initial", "max"):
            to_seconds(getattr(self, name), f"backoff {name}")
        if not self.factor >= 1:
            raise OptionError("backoff factor", self.factor, "a number of 1 or more")
        if not 0 <= self.jitter <= 1:
            raise OptionError("backoff jitter", self.jitter, "a share from 0 to 1")

    @classmethod
    def exponential(cls, initial: Duration = 1, factor: float = 2, max: Duration = 300, jitter: float = 0.2) -> Backoff:
        """Waits that grow by `factor`, up to `max`."""
        return cls(
            initial=to_seconds(initial, "backoff initial"),
            factor=factor,
            max=to_seconds(max, "backoff max"),
            jitter=jitter,
        )

    @classmethod
    def fixed(cls, wait: Duration, jitter: float = 0.0) -> Backoff:
        """The same wait each time."""
        seconds = to_seconds(wait, "backoff")
        return cls(initial=seconds, factor=1, max=seconds, jitter=jitter)

    def seconds(self, retry: int, clock: Clock) -> float:
        """The wait before this retry (1 is the first)."""
        # capped before it is raised: 2.0 ** 2000 overflows
        wait = self.max
        if self.initial > 0 and self.factor > 1:
            growth = min(retry - 1, 1024)
            try:
                wait = min(self.max, self.initial * self.factor**growth)
            except OverflowError:
                wait = self.max
        else:
            wait = min(self.max, self.initial)
        return wait * (1 + clock.random.uniform(-self.jitter, self.jitter)) if self.jitter else wait


@dataclass(frozen=True)
class Recovered:
    """Returned by `on_terminate`: the instance counts as Completed, with this result."""

    result: Any = None


@dataclass(frozen=True)
class FinishedResult:
    """What `Finished` makes of a result. Internal: checkers and callers see the result's own type."""

    result: Any


def Finished(result: R) -> R:  # noqa: N802  # reads as a class, like Recovered
    """Returned by a job: this result is complete, also when the run was asked to end meanwhile.

    The instance is then Completed. Without it, a body that was told to end because its node stops or lost its lease
    is handed back and runs again, whatever it returns. Outside a job it gives the result itself.
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
    """Everything that may be said about a job, on its definition or per schedule."""

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
    on_complete: Callable[[Instance[Any], Any], object] | None
    on_terminate: Callable[[Instance[Any], BaseException], object] | None
    on_state_change: Callable[[Instance[Any], State], object] | None
    tags: Iterable[str]
    retention: Duration | None


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Checked options of one job, or of one instance (the definition's with the schedule's over them)."""

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
    on_complete: Callable[..., object] | None = None
    on_terminate: Callable[..., object] | None = None
    on_state_change: Callable[..., object] | None = None
    tags: tuple[str, ...] = ()
    retention_us: int | None = None

    def retryable(self, error: BaseException) -> bool:
        """Whether this error may be retried at all, the number of attempts aside; a group, if each of its errors may.

        A class may also name the group itself. A function is called with the errors in it, one by one.
        """
        leaves = errors_in(error)
        if leaves[0] is error:
            return _any_matches(self.retry_on, error) and not _any_matches(self.no_retry_on, error)
        if _is_one_of(self.no_retry_on, error) or any(_any_matches(self.no_retry_on, one) for one in leaves):
            return False
        return _is_one_of(self.retry_on, error) or all(_any_matches(self.retry_on, one) for one in leaves)


def errors_in(error: BaseException) -> list[BaseException]:
    """The errors in a group and in the groups within it, in order; of any other error, itself."""
    found: list[BaseException] = []
    left = [error]
    while left:
        one = left.pop()
        if isinstance(one, BaseExceptionGroup):
            left.extend(reversed(cast("BaseExceptionGroup[BaseException]", one).exceptions))
        else:
            found.append(one)
    return found


def _is_one_of(tests: tuple[Any, ...], error: BaseException) -> bool:
    # a CancelledError that nobody asked for is a failure, though Python keeps it apart from Exception
    stray = isinstance(error, asyncio.CancelledError)
    return any(isinstance(test, type) and (isinstance(error, test) or (stray and test is Exception)) for test in tests)


def _any_matches(tests: tuple[Any, ...], error: BaseException) -> bool:
    return _is_one_of(tests, error) or any(not isinstance(test, type) and test(error) for test in tests)


DEFINITION_ONLY = frozenset({"aliases", "version", "description"})
"""Options that say what a job is, so they make no sense per schedule; `with_options` still takes them."""


def checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options brought to the form that Policy keeps; raises OptionError or ScheduleError at the first bad one."""
    known = Options.__annotations__
    result: dict[str, Any] = {}
    for option, value in options.items():
        if option not in known:
            raise OptionError(option, value, f"one of the options {', '.join(sorted(known))}")
        check = _CHECKS.get(option)
        result[option] = value if check is None else check(option, value)
    Timing.of(result)  # refuses bad times and combinations where they are given
    return result


POLICY_FIELDS = frozenset(one.name for one in fields(Policy)) - {"retention_us"}


def make_policy(options: Mapping[str, Any]) -> Policy:
    """The policy of checked options."""
    kept = {name: value for name, value in options.items() if name in POLICY_FIELDS}
    if "retention" in options:
        kept["retention_us"] = options["retention"]
    return Policy(**kept)


_ERROR_TESTS = frozenset({"retry_on", "no_retry_on"})
_STORED_BY_REFERENCE = _ERROR_TESTS | {"on_complete", "on_terminate", "on_state_change"}
_NOT_STORED = frozenset({"at", "after", "key", "tags", "priority", "name"})
"""Decided when the instance is enqueued, and part of its record."""


def store_overrides(overrides: Mapping[str, Any], local: dict[str, Any] | None, trusted: Trusted) -> dict[str, Any]:
    """What of a schedule's overrides travels with the instance, as plain values.

    `local` keeps callables that cannot be imported, for a store that lives in this process; None refuses them.
    """
    stored: dict[str, Any] = {}
    for option, value in overrides.items():
        if option in _NOT_STORED or option in DEFINITION_ONLY or option not in POLICY_FIELDS | {"retention"}:
            continue
        if option in _STORED_BY_REFERENCE:
            if option in _ERROR_TESTS:
                stored[option] = [to_stored(test, option, local, trusted) for test in value]
            else:
                stored[option] = None if value is None else to_stored(value, option, local, trusted)
        elif option == "backoff":
            stored[option] = _stored_backoff(value, local, trusted)
        else:
            stored[option] = value
    return stored


def load_overrides(stored: Mapping[str, Any], local: Mapping[str, Any] | None, trusted: Trusted) -> dict[str, Any]:
    """The inverse of `store_overrides`; raises DecodeError for a reference that cannot be resolved here.

    That is a StoredReferenceError where another node may be able to.
    """
    loaded: dict[str, Any] = {}
    for option, value in stored.items():
        if option in _STORED_BY_REFERENCE:
            if option in _ERROR_TESTS:
                loaded[option] = tuple(from_stored(test, option, local, trusted) for test in value)
            else:
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


def _description(option: str, value: Any) -> str:
    return checked_text(option, value, MAX_NOTE, least=0)


def _name(option: str, value: Any) -> str | None:
    return None if value is None else checked_text(option, value, MAX_KEY)


def _priority(option: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not PRIORITY_MIN <= value <= PRIORITY_MAX:
        raise OptionError(option, value, "a 32-bit whole number (lower runs first)")
    return int(value)


def _max_retries(option: str, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise OptionError(option, value, "a whole number of 0 or more, or None for ever")
    return value


def _count(option: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise OptionError(option, value, "a whole number of 0 or more")
    return value


def _timeout(option: str, value: Any) -> float | None:
    if value is None:
        return None
    seconds = to_seconds(value, option)
    if seconds == 0:
        raise OptionError(option, value, "a duration over zero, or None for no timeout")
    return seconds


def _retention(option: str, value: Any) -> int | None:
    return None if value is None else to_micros(value, option)


def _backoff(option: str, value: Any) -> Any:
    if isinstance(value, Backoff) or callable(value):
        return value
    return to_seconds(value, option)


def _error_tests(option: str, value: Any) -> tuple[Any, ...]:
    given: tuple[Any, ...] = (
        (value,) if isinstance(value, type) or callable(value) else tuple(cast(Iterable[Any], value))
    )
    if len(given) > MAX_ERROR_TESTS:
        raise OptionError(option, f"{len(given):,} classes and functions", f"at most {MAX_ERROR_TESTS:,}")
    for test in given:
        if isinstance(test, type) and not issubclass(cast(type[Any], test), BaseException):
            raise OptionError(option, cast(object, test), "error classes or functions of an error")
        if not callable(test):
            raise OptionError(option, test, "error classes or functions of an error")
    return given


def _choice(*allowed: str) -> Callable[[str, Any], Any]:
    def check(option: str, value: Any) -> Any:
        if value not in allowed:
            raise OptionError(option, value, f"one of {', '.join(map(repr, allowed))}")
        return value

    return check


def _texts(most: int, longest: int) -> Callable[[str, Any], tuple[str, ...]]:
    def check(option: str, value: Any) -> tuple[str, ...]:
        if isinstance(value, str):
            raise OptionError(option, value, "a list of texts, not one text")
        texts = tuple(checked_text(option, text, longest) for text in cast(Iterable[Any], value))
        if len(texts) > most:
            raise OptionError(option, f"{len(texts):,} texts", f"at most {most}")
        return texts

    return check


def _callback(option: str, value: Any) -> Any:
    if value is not None and not callable(value):
        raise OptionError(option, value, "a function or None")
    return value


def _key(option: str, value: Any) -> Any:
    if value is None or (callable(value) and not inspect.isclass(value)):
        return value
    return checked_text(option, value, MAX_KEY)


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "description": _description,
    "name": _name,
    "aliases": _texts(MAX_ALIASES, MAX_KIND),
    "version": _count,
    "priority": _priority,
    "max_retries": _max_retries,
    "retry_on": _error_tests,
    "no_retry_on": _error_tests,
    "backoff": _backoff,
    "timeout": _timeout,
    "run_in": _choice("auto", "async", "thread", "process"),
    "on_store_loss": _choice("cancel", "continue"),
    "max_crashes": _count,
    "key": _key,
    "on_complete": _callback,
    "on_terminate": _callback,
    "on_state_change": _callback,
    "tags": _texts(MAX_TAGS, MAX_TAG),
    "retention": _retention,
}
