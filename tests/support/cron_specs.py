"""Cron texts and zones for property tests, and slow, obvious answers to compare with."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice
from zoneinfo import ZoneInfo

from cronsim import CronSim
from hypothesis import strategies as st

from peerjob.model.clock import to_us

WHOLE_HOUR = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Sydney", "Europe/London", "Africa/Casablanca"]
"""Their clocks change by an hour, and not at midnight: elsewhere cronsim skips and invents times of wildcard jobs."""
ODD = [
    ("Australia/Lord_Howe", datetime(2026, 10, 3, 15, 30, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 4, 4, 15, tzinfo=UTC)),
    ("America/Sao_Paulo", datetime(2018, 11, 4, 3, tzinfo=UTC)),
    ("America/Sao_Paulo", datetime(2019, 2, 17, 2, tzinfo=UTC)),
    ("Pacific/Apia", datetime(2011, 12, 30, 10, tzinfo=UTC)),
    ("Pacific/Kwajalein", datetime(1993, 8, 21, 12, tzinfo=UTC)),
    ("America/St_Johns", datetime(2010, 11, 7, 2, 31, tzinfo=UTC)),
    ("America/Santiago", datetime(2026, 9, 6, 4, tzinfo=UTC)),
    ("America/Havana", datetime(2026, 11, 1, 5, tzinfo=UTC)),
    ("Asia/Kathmandu", datetime(1985, 12, 31, 18, 30, tzinfo=UTC)),
    ("Antarctica/Troll", datetime(2026, 3, 29, 1, tzinfo=UTC)),
    ("Antarctica/Troll", datetime(2026, 10, 25, 1, tzinfo=UTC)),
    ("Asia/Pyongyang", datetime(2018, 5, 4, 15, tzinfo=UTC)),
    ("Europe/Dublin", datetime(2026, 3, 29, 1, tzinfo=UTC)),
    # right at the edge of one of the blocks in which the engine looks for changes
    ("Asia/Jerusalem", datetime(2023, 3, 24, tzinfo=UTC)),
    ("Europe/Lisbon", datetime(1976, 9, 26, tzinfo=UTC)),
]
"""Zones with an odd change of clocks, and its instant."""


@st.composite
def items(draw: st.DrawFn, low: int, high: int) -> str:
    first = draw(st.integers(low, high))
    form = draw(st.sampled_from(["value", "value", "range", "steps", "stepped range", "all", "open"]))
    if form == "value":
        return str(first)
    if form == "all":
        return "*"
    step = draw(st.integers(1, high + 2))
    if form == "steps":
        return f"*/{step}"
    if form == "open" and high != 7:  # croniter's Saturday ends a week, cronsim's second Sunday does
        return f"{first}/{step}"
    last = draw(st.integers(first, high))
    return f"{first}-{last}/{step}" if form == "stepped range" and last > first else f"{first}-{last}"


def fields(low: int, high: int, *more: str) -> st.SearchStrategy[str]:
    one = st.one_of(items(low, high), st.sampled_from(more)) if more else items(low, high)
    return st.one_of(st.just("*"), st.lists(one, min_size=1, max_size=3).map(",".join))


MINUTES, HOURS = fields(0, 59), fields(0, 23)
DATES = st.tuples(
    fields(1, 31, "L"),
    st.one_of(st.just("*"), fields(1, 12, "JAN", "DEC")),
    st.one_of(st.just("*"), fields(0, 7, "MON", "SUN", "5L", "0L", "1#1", "FRI#2", "7#5")),
).map(" ".join)
SPECS = st.tuples(MINUTES, HOURS, DATES).map(" ".join)
"""What both croniter and cronsim can read."""
NIGHTLY = st.tuples(
    MINUTES, st.sampled_from(["0", "1", "2", "3", "1-3", "0,23", "*", "*/2", "2/3", "0-23"]), st.just("* * *")
).map(" ".join)
"""Times at which clocks change."""


def cronsim_times(spec: str, zone: str, start: datetime, until: datetime, most: int) -> list[int]:
    """The first of cronsim's times within (start, until], several at one instant counted once."""
    found: list[int] = []
    for moment in islice(CronSim(spec, start.astimezone(ZoneInfo(zone))), most):
        instant = moment.astimezone(UTC)
        if instant > until:
            break
        if not found or found[-1] != to_us(instant):
            found.append(to_us(instant))
    return found


def walked_times(
    matches: Callable[[datetime], bool], zone: tzinfo, start: datetime, until: datetime, *, fixed: bool
) -> Iterator[int]:
    """Times within (start, until], found by looking at a wall clock every minute."""
    minute = timedelta(minutes=1)
    reached = start.astimezone(zone).replace(tzinfo=None)
    while start < until:
        start += minute
        wall = start.astimezone(zone).replace(tzinfo=None)
        if not fixed:
            due = matches(wall)
        else:
            due = False
            while reached < wall:
                reached += minute
                due = due or matches(reached)
        if due:
            yield to_us(start)
