"""The parser of cron texts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from peerjob.model.durations import to_micros
from peerjob.model.errors import ScheduleError
from peerjob.model.printable import counted, shown

from .days import Days
from .daytime import DayTimes

MAX_TEXT = 1_000
"""Most characters of a cron text. Even a text that lists all values of all fields is shorter."""
EXPECTED = (
    "expected five fields (minute, hour, day of month, month, day of week), six with leading seconds, "
    "@yearly, @monthly, @weekly, @daily, @hourly, or @every and a duration"
)
MIN_EVERY_US = 10_000
"""Shortest interval of `@every`, in microseconds. The limit protects the store: each fire is a transaction."""
MAX_ITEMS_CACHED = 5_000
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


@dataclass(frozen=True)
class CronField:
    """One field of a cron text, and its valid values."""

    name: str
    low: int
    high: int
    index: int
    """Index of the field in the text for croniter that parses this field. Seconds are parsed as minutes."""
    forms: str
    names: tuple[str, ...] = ()
    """Names for the numbers of the field, the first one for `low`."""

    def number(self, text: str) -> int | None:
        """Convert digits or a name to a number."""
        if text in self.names:
            return self.names.index(text) + self.low
        return int(text) if text.isdigit() else None


_NUMERIC = "*, numbers, ranges such as 10-20, steps such as */5, lists of these"
FIELDS = (
    CronField("second", 0, 59, 0, _NUMERIC),
    CronField("minute", 0, 59, 0, _NUMERIC),
    CronField("hour", 0, 23, 1, _NUMERIC),
    CronField("day of month", 1, 31, 2, f"{_NUMERIC}, L (the last day), 15W (the nearest working day), ?"),
    CronField("month", 1, 12, 3, f"{_NUMERIC}, JAN to DEC", MONTHS),
    CronField(
        "day of week", 0, 7, 4, f"{_NUMERIC}, SUN to SAT, L5 (the last Friday), 5#2 (the second one), ?", WEEKDAYS
    ),
)


@dataclass(frozen=True, kw_only=True)
class CronText:
    """A parsed cron text."""

    text: str
    """The cron text as given, without its zone."""
    zone: str | None
    """The zone that the text begins with, or None."""
    fields: tuple[str, str, str, str, str, str]
    """The fields second, minute, hour, day of month, month and day of week, in capital letters."""
    times: DayTimes
    days: Days

    @property
    def fixed(self) -> bool:
        """Whether this is a fixed time, for which clock changes have other rules (see the package)."""
        return not self.fields[1].startswith("*") and not self.fields[2].startswith("*")


@dataclass(frozen=True)
class EveryText:
    """`@every` and a duration."""

    every_us: int
    duration: str
    """The duration as given after `@every`."""


def read_cron(given: object) -> CronText | EveryText:
    """Parse a cron text; raises ScheduleError, which names the field at fault."""
    if not isinstance(given, str):
        raise ScheduleError(f"cron={shown(given)}: {EXPECTED}")
    if len(given) > MAX_TEXT:
        raise ScheduleError(f"cron={given[:40]!r}…: {len(given):,} characters, over the limit of {MAX_TEXT:,}")
    text, zone = _without_zone(given)
    words = text.split()
    if words and words[0].startswith("@"):
        name = words[0].lower()
        if name == "@every":
            duration = "".join(words[1:])
            return EveryText(_every_us(given, duration), duration)
        if name not in ALIASES or len(words) > 1:
            raise ScheduleError(f"cron={given!r}: {EXPECTED}")
        words = ALIASES[name].split()
    if len(words) not in (5, 6):
        raise ScheduleError(f"cron={given!r}: {counted(len(words), 'field')}; {EXPECTED}")
    seconds, minutes, hours, days, months, weekdays = (word.upper() for word in ["0", *words][-6:])
    parts = (seconds, minutes, hours, days, months, weekdays)
    values = [_values(given, field, part) for field, part in zip(FIELDS, parts, strict=True)]
    rule = Days(
        months=values[4].numbers,
        days=values[3].numbers,
        last=values[3].last,
        nearest=values[3].nearest,
        weekdays=values[5].numbers,
        nth=values[5].nth,
        last_weekdays=values[5].last_weekdays,
        both=days[0] in "*?" or weekdays[0] in "*?",
    )
    if not rule.ever:
        raise ScheduleError(
            f"cron={given!r}: never fires, there is no day with day of month {days}, month {months} and day of week"
            f" {weekdays}"
        )
    return CronText(
        text=text, zone=zone, fields=parts, days=rule,
        times=DayTimes(values[2].numbers, values[1].numbers, values[0].numbers),
    )  # fmt: skip


_ZONE = re.compile(r"\s*(?:CRON_)?TZ=(\S*)\s+(.*)", re.ASCII | re.DOTALL | re.IGNORECASE)


def _without_zone(given: str) -> tuple[str, str | None]:
    match = _ZONE.fullmatch(given)
    return (given.strip(), None) if match is None else (match[2].strip(), match[1])


def _every_us(given: str, duration: str) -> int:
    try:
        every = to_micros(duration)
    except ValueError:
        raise ScheduleError(f'cron={given!r}: expected a duration such as "5s" or "1h30m" after @every') from None
    if every < MIN_EVERY_US:
        raise ScheduleError(f"cron={given!r}: expected an interval of at least {MIN_EVERY_US // 1000} ms")
    return every


_NUMBER = re.compile(r"\d+", re.ASCII)
_ITEM = re.compile(r"[A-Z0-9*/#-]+|\?", re.ASCII)
_CHANCE = re.compile(r"[HR](/|$)", re.ASCII)
_STRETCH = re.compile(r"(\w+)(?:-(\w+))?(?:/0*[1-9]\d*)?", re.ASCII)
_NEAREST = re.compile(r"(\d{1,2})W|W(\d{1,2})", re.ASCII)
_LAST_WEEKDAY = re.compile(rf"(\d|{'|'.join(WEEKDAYS)})L", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class _Values:
    """The values of one item of a field, or of all items."""

    numbers: frozenset[int] = frozenset()
    last: bool = False
    nearest: frozenset[int] = frozenset()
    nth: frozenset[tuple[int, int]] = frozenset()
    last_weekdays: frozenset[int] = frozenset()

    def __or__(self, other: _Values) -> _Values:
        return _Values(
            numbers=self.numbers | other.numbers,
            last=self.last or other.last,
            nearest=self.nearest | other.nearest,
            nth=self.nth | other.nth,
            last_weekdays=self.last_weekdays | other.last_weekdays,
        )


def _values(given: str, field: CronField, text: str) -> _Values:
    expanded: _Values | None = None
    for item in text.split(","):
        values = _item_values(field, item)
        if values is None:
            raise ScheduleError(f"cron={given!r}: {field.name} {_reason(field, item)}")
        expanded = values if expanded is None else expanded | values
    assert expanded is not None
    return expanded


@lru_cache(maxsize=MAX_ITEMS_CACHED)
def _item_values(field: CronField, item: str) -> _Values | None:
    """Return the values of one item of a field, or None for an invalid item."""
    if not _ITEM.fullmatch(item) or _CHANCE.match(item):
        return None
    if field.index == 2 and (match := _NEAREST.fullmatch(item)):
        day = int(match[1] or match[2])
        return _Values(nearest=frozenset({day})) if field.low <= day <= field.high else None
    if field.index == 4 and (match := _LAST_WEEKDAY.fullmatch(item)):
        item = f"L{field.number(match[1])}"
    highest = 6 if field.index == 4 else field.high
    # replace a range of one value, such as "5-5", by the value: croniter expands the range to the whole field.
    # Before version 7, croniter also expands a step from the last value, such as "59/2"
    if match := _STRETCH.fullmatch(item):
        first, last = field.number(match[1]), field.number(match[2]) if match[2] else highest
        item = match[1] if first is not None and first == last else item
    # import croniter when a cron text is parsed, so that other processes stay small. croniter has no type annotations
    import croniter as croniter_  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]

    words = ["*"] * 5
    words[field.index] = item
    try:
        expanded, nth = cast(Any, croniter_).croniter.expand(" ".join(words))
    except (ValueError, TypeError, LookupError, ArithmeticError):
        return None
    values = cast(list[int | str], expanded[field.index])
    if values == ["l"]:
        return _Values(last=True)
    if nth:
        ordinals_of_days = [
            (weekday, ordinal)
            for weekday, ordinals in cast(dict[int, set[int | str]], nth).items()
            for ordinal in ordinals
        ]
        return _Values(
            nth=frozenset((weekday, ordinal) for weekday, ordinal in ordinals_of_days if isinstance(ordinal, int)),
            last_weekdays=frozenset(weekday for weekday, ordinal in ordinals_of_days if ordinal == "l"),
        )
    every = range(field.low, highest + 1)
    return _Values(numbers=frozenset(every if values == ["*"] else cast(list[int], values)))


def _reason(field: CronField, item: str) -> str:
    body, _, step = item.partition("/")
    for number in _NUMBER.findall(body.partition("#")[0]):
        if not field.low <= int(number) <= field.high:
            return f"{number} is not in {field.low}-{field.high}"
    if step.isdigit() and not int(step):
        return f"{item} has a step of 0"
    return f"{item!r} is none of {field.forms}"
