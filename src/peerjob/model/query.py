"""What to look for, and what to clear."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, Protocol, Self, TypeVar, cast
from uuid import UUID

from .clock import aware_us, to_us
from .durations import Duration, to_seconds
from .errors import OptionError
from .ids import checked_id
from .limits import MAX_KIND, MAX_TAG, checked_text
from .state import Level, State

T = TypeVar("T")
MAX_LIMIT = 10_000
LEVELS = sum(Level)
"""All levels, added up."""
_STATES = "a State, its text, or several of them"


class HasId(Protocol):
    """An `Instance` or a `BlockingInstance`."""

    @property
    def id(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Query:
    """Criteria for instances, history and logs; all that are given must match.

    `state` takes one state, a composite, or several; `level` takes levels added up. `before` and `after` mean the time
    of creation (`before` exclusive, `after` inclusive). `limit` is the size of a page (default 100, at most 10,000),
    `cursor` comes from the page before, `order` is that of creation.

    A criterion that names nothing, such as `state=[]` or `kind=""`, raises OptionError: it would match everything.
    """

    kind: str | None = None
    uuid: str | UUID | None = None
    state: State | str | Iterable[State | str] | None = None
    level: Level | int | None = None
    instance: HasId | str | UUID | None = None
    tag: str | None = None
    before: datetime | None = None
    after: datetime | None = None
    limit: int = 100
    cursor: str | None = None
    order: Literal["asc", "desc"] = "asc"

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= MAX_LIMIT:
            raise OptionError("limit", self.limit, f"a number from 1 to {MAX_LIMIT:,}")
        if self.order not in ("asc", "desc"):
            raise OptionError("order", self.order, "'asc' or 'desc'")
        for name, most in (("kind", MAX_KIND), ("tag", MAX_TAG)):
            if getattr(self, name) is not None:
                checked_text(name, getattr(self, name), most)
        for name in ("before", "after"):
            _checked_time(name, getattr(self, name))
        object.__setattr__(self, "state", _checked_state(self.state))
        _checked_level(self.level)
        if self.uuid is not None:
            object.__setattr__(self, "uuid", checked_id(self.uuid))
        if self.instance is not None:
            given = getattr(self.instance, "id", self.instance)
            object.__setattr__(self, "instance", checked_id(given, "instance"))

    @classmethod
    def all(cls) -> Self:
        """Everything in the namespace."""
        return cls()

    @property
    def id(self) -> str | None:
        """The one instance that is asked for, by `uuid` or `instance`."""
        return self.uuid or self.instance  # type: ignore[return-value]  # both were made text above

    @property
    def states(self) -> State:
        """The wanted states as one composite; ALL when none was given."""
        return self.state if isinstance(self.state, State) else State.ALL

    @property
    def after_us(self) -> int | None:
        return None if self.after is None else to_us(self.after)

    @property
    def before_us(self) -> int | None:
        return None if self.before is None else to_us(self.before)

    def at(self, cursor: str | None) -> Self:
        """The same query, from a cursor on."""
        return replace(self, cursor=cursor)


class ResultPage(list[T]):
    """A page of a lookup: a list, with the `cursor` for the next page (None: this was the last)."""

    def __init__(self, items: Iterable[T] = (), cursor: str | None = None) -> None:
        super().__init__(items)
        self.cursor = cursor


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which final instances, or parts of them, to clear: created before, after, or older than an age."""

    before: datetime | None = None
    after: datetime | None = None
    older_than: Duration | None = None

    def __post_init__(self) -> None:
        _checked_time("before", self.before)
        _checked_time("after", self.after)
        if self.older_than is not None:
            to_seconds(self.older_than, "older_than")

    def bounds_us(self, now_us: int) -> tuple[int | None, int | None]:
        """(after, before) in microseconds, with `older_than` judged at now."""
        after = None if self.after is None else to_us(self.after)
        before = None if self.before is None else to_us(self.before)
        if self.older_than is not None:
            aged = now_us - round(to_seconds(self.older_than, "older_than") * 1_000_000)
            before = aged if before is None else min(before, aged)
        return after, before


def _checked_time(name: str, moment: datetime | None) -> None:
    if moment is not None:
        aware_us(name, moment)


def _checked_level(given: object) -> None:
    if given is not None and not (isinstance(given, int) and not isinstance(given, bool) and 0 < given <= LEVELS):
        raise OptionError("level", given, f"levels added up, from 1 to {LEVELS}, or None for any")


def _checked_state(given: State | str | Iterable[State | str] | None) -> State | None:
    if given is None:
        return None
    state = _as_state(given)
    if not state:
        raise OptionError("state", given, f"{_STATES}, or None for any")
    return state


def _as_state(given: object) -> State:
    if isinstance(given, str):
        try:
            return State.parse(given)
        except ValueError as error:
            raise OptionError("state", given, str(error).partition("; expected ")[2]) from None
    if isinstance(given, int):
        if isinstance(given, bool) or not 0 <= given <= State.ALL:
            raise OptionError("state", given, f"states added up, at most {int(State.ALL)}")
        return State(given)
    if not isinstance(given, Iterable):
        raise OptionError("state", given, _STATES)
    combined = State.UNSET
    for one in cast("Iterable[object]", given):
        combined |= _as_state(one)
    return combined
