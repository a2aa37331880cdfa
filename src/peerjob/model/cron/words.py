"""Describes cron texts in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from .days import Days
from .text import CronText

MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
WEEKDAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
ORDINALS = ("first", "second", "third", "fourth", "fifth")
MAX_LISTED = 4
"""Most times of the day that a description lists one by one."""


def in_words(text: CronText) -> str:
    """Describe a cron text: times of the day, days, months."""
    parts = [_times(text), _days(text.days)]
    if len(text.days.months) < len(MONTHS):
        parts.append(f"in {_listed(_named(text.days.months, MONTHS, 1))}")
    return ", ".join(parts)


def clock(second: int) -> str:
    """Format a time of the day: 02:30, or 02:30:15 if the seconds are not 0."""
    minute, rest = divmod(second % 86_400, 60)
    return f"{minute // 60:02}:{minute % 60:02}" + (f":{rest:02}" if rest else "")


def _times(text: CronText) -> str:
    times = text.times
    if times.total <= MAX_LISTED:
        return f"at {_listed([clock(times.at(number)) for number in range(times.total)])}"
    parts = [_units(times.minutes, "minute", 60)]
    if times.seconds != [0]:
        parts.insert(0, _units(times.seconds, "second", 60))
    if len(times.hours) < 24 or len(times.minutes) < 60:
        parts.append(_units(times.hours, "hour", 24))
    return ", ".join(parts)


def _units(numbers: Sequence[int], unit: str, size: int) -> str:
    if len(numbers) == size:
        return f"every {unit}"
    step = numbers[1] - numbers[0] if len(numbers) > 2 else 0
    if step > 1 and size % step == 0 and list(numbers) == list(range(0, size, step)):
        return f"every {step} {unit}s"
    return f"{unit}{'s' if len(numbers) > 1 else ''} {_listed(_named(numbers))}"


def _days(days: Days) -> str:
    by_number = [f"day{'s' if len(days.days) > 1 else ''} {_listed(_named(days.days))}"] if days.days else []
    by_number += [f"the working day nearest to day {day}" for day in sorted(days.nearest)]
    by_number += ["the last day"] * days.last
    by_weekday = [_listed(_named(days.weekdays, WEEKDAYS))] if days.weekdays else []
    by_weekday += [f"the {ORDINALS[ordinal - 1]} {WEEKDAYS[weekday]}" for weekday, ordinal in sorted(days.nth)]
    by_weekday += [f"the last {WEEKDAYS[weekday]}" for weekday in sorted(days.last_weekdays)]
    any_number, any_weekday = len(days.days) == 31, len(days.weekdays) == 7
    if (any_number and any_weekday) or (not days.both and (any_number or any_weekday)):
        return "every day"
    number, weekday = f"{_listed(by_number)} of the month", _listed(by_weekday)
    if days.nth or days.last_weekdays:
        weekday += " of the month"
    if days.both:
        return f"on {weekday if any_number else number if any_weekday else f'{number} if it is {weekday}'}"
    return f"on {number}, or on {weekday}"


def _named(numbers: Iterable[int], names: Sequence[str] = (), first: int = 0) -> list[str]:
    """Format numbers or their names: three or more in a row as "9 to 17", many at equal steps as "1, 3 … 31"."""
    ordered = sorted(numbers)
    steps = {after - before for before, after in pairwise(ordered)}
    if not names and len(ordered) > MAX_LISTED and len(steps) == 1 and 1 not in steps:
        return [f"{ordered[0]}, {ordered[1]} … {ordered[-1]}"]
    rows: list[list[int]] = []
    for number in ordered:
        if rows and rows[-1][-1] == number - 1:
            rows[-1].append(number)
        else:
            rows.append([number])
    named: list[str] = []
    for row in rows:
        texts = [names[number - first] if names else str(number) for number in row]
        named += [f"{texts[0]} to {texts[-1]}"] if len(texts) > 2 else texts
    return named


def _listed(parts: Sequence[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts)
