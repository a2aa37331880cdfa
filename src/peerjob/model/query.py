"""Criteria of lookups and of the removal of old data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import ClassVar, Literal, Protocol, Self, TypeVar, cast
from uuid import UUID

from .arguments import whole_number
from .clock import aware_us, to_us
from .durations import Duration, to_seconds
from .errors import OptionError
from .ids import checked_id
from .limits import MAX_KIND, MAX_TAG, checked_text
from .state import Level, State

T = TypeVar("T")
MAX_LIMIT = 10_000
LEVELS = sum(Level)
"""The sum of all levels, which matches log lines of any level."""
_STATES = "a State, its text, or several of them"


class HasId(Protocol):
    """An `Instance` or a `BlockingInstance`."""

    @property
    def id(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Query:
    """Criteria for instances, history and logs. An instance must match all given criteria.

    - `state`: one state, a composite, or several. `level`: a sum of levels.
    - `parent`: an instance; its children match, also after its end.
    - `before` (exclusive) and `after` (inclusive): the time of creation.
    - `limit`: the size of a page, by default 100, at most 10,000. `cursor`: from the previous page. `order`: by
      creation.

    An empty criterion, such as `state=[]` or `kind=""`, raises OptionError: it would match everything.
    """

    named_in_errors: ClassVar[str] = "a Query (Query.all() matches everything)"

    kind: str | None = None
    uuid: str | UUID | None = None
    state: State | str | Iterable[State | str] | None = None
    level: Level | int | None = None
    instance: HasId | str | UUID | None = None
    tag: str | None = None
    parent: HasId | str | UUID | None = None
    before: datetime | None = None
    after: datetime | None = None
    limit: int = 100
    cursor: str | None = None
    order: Literal["asc", "desc"] = "asc"

    def __post_init__(self) -> None:
        whole_number("limit", self.limit, 1, MAX_LIMIT)
        if self.order not in ("asc", "desc"):
            raise OptionError("order", self.order, "'asc' or 'desc'")
        if self.cursor is not None and not isinstance(self.cursor, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise OptionError("cursor", self.cursor, "the cursor of a page, or None")
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
        if self.parent is not None:
            given = getattr(self.parent, "id", self.parent)
            object.__setattr__(self, "parent", checked_id(given, "parent"))

    @classmethod
    def all(cls) -> Self:
        """A query that matches everything in the namespace."""
        return cls()

    @property
    def id(self) -> str | None:
        """The id of the single instance that `uuid` or `instance` names, or None."""
        return self.uuid or self.instance  # type: ignore[return-value]  # __post_init__ made text of both

    @property
    def parent_id(self) -> str | None:
        """The id of the parent whose children match, or None."""
        return self.parent  # type: ignore[return-value]  # __post_init__ made text of it

    @property
    def states(self) -> State:
        """The states as one composite; ALL by default."""
        return self.state if isinstance(self.state, State) else State.ALL

    @property
    def after_us(self) -> int | None:
        """`after` in microseconds since the epoch, or None."""
        return None if self.after is None else to_us(self.after)

    @property
    def before_us(self) -> int | None:
        """`before` in microseconds since the epoch, or None."""
        return None if self.before is None else to_us(self.before)

    def at(self, cursor: str | None) -> Self:
        """The same query, starting at a cursor."""
        return replace(self, cursor=cursor)


class ResultPage(list[T]):
    """A page of a lookup: a list with the `cursor` of the next page; None on the last page."""

    def __init__(self, items: Iterable[T] = (), cursor: str | None = None) -> None:
        super().__init__(items)
        self.cursor = cursor


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Criteria for the removal of final instances, histories and logs: time of creation or age."""

    before: datetime | None = None
    after: datetime | None = None
    older_than: Duration | None = None

    def __post_init__(self) -> None:
        _checked_time("before", self.before)
        _checked_time("after", self.after)
        if self.older_than is not None:
            to_seconds(self.older_than, "older_than")

    def bounds_us(self, now_us: int) -> tuple[int | None, int | None]:
        """Return (after, before) in microseconds, with `older_than` counted back from now."""
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
    if not isinstance(given, Iterable) or isinstance(given, bytes):
        raise OptionError("state", given, _STATES)
    combined = State.UNSET
    for value in cast("Iterable[object]", given):
        combined |= _as_state(value)
    return combined
