"""The filters of the instances: what a link or a form says, and the Query that it means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from peerjob.model.durations import to_seconds
from peerjob.model.errors import OptionError, ScheduleError
from peerjob.model.query import Query
from peerjob.model.state import State

ROWS = 100
"""The rows of a page."""
MAX_FILTER = 1_000
"""The most characters of a filter. A process remembers the answers of forms, which contain the filters."""


@dataclass(frozen=True, kw_only=True)
class Filters:
    """The filters as text, as they stand in links and forms."""

    kind: str = ""
    state: str = ""
    tag: str = ""
    parent: str = ""
    id: str = ""
    after: str = ""
    before: str = ""
    error: str = ""
    """A text that the error of an instance contains, in any case."""
    order: str = ""

    @classmethod
    def read(cls, value: Callable[[str], str]) -> Filters:
        """The filters from the values of a link or a form; raises OptionError for one that is too long."""
        given = {name: value(name).strip() for name in FIELDS}
        for name, text in given.items():
            if len(text) > MAX_FILTER:
                raise OptionError(name, f"{len(text):,} characters", f"at most {MAX_FILTER:,} characters")
        return cls(**given)

    def fields(self) -> dict[str, str]:
        """The filters that are given, for links and hidden fields."""
        return {name: value for name in FIELDS if (value := getattr(self, name))}

    def query(self, now: datetime) -> Query:
        """The query; raises OptionError or ScheduleError for a filter that cannot be read."""
        query = Query(
            kind=self.kind or None,
            uuid=self.id or None,
            state=self.state or None,
            tag=self.tag or None,
            parent=self.parent or None,
            after=parse_time("after", self.after, now),
            before=parse_time("before", self.before, now),
            limit=ROWS,
            order="asc" if self.order == "asc" else "desc",
        )
        return replace(query, state=query.states & State.ERROR or State.TERMINATED) if self.error else query

    @property
    def only_times(self) -> bool:
        """Whether no filter but the times is given: these are the filters of a clear."""
        return not self.fields().keys() - {"after", "before", "order"}

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.fields().items() if name != "order") or "all"


FIELDS = ("kind", "state", "tag", "parent", "id", "after", "before", "error", "order")


def parse_time(option: str, text: str, now: datetime) -> datetime | None:
    """A time: 2026-11-26T09:00 in UTC, with another zone, or an age such as 2h; None for no text."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        pass
    else:
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    try:
        return now - timedelta(seconds=to_seconds(text, option))
    except (OptionError, ScheduleError, OverflowError):
        raise OptionError(option, text, "a time such as 2026-11-26T09:00 (UTC), or an age such as 2h") from None
