"""The days that match a cron text."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from calendar import monthrange
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date

EPOCH = 719_163
"""`date.toordinal()` of 1970-01-01, which is day 0 in this module."""
MAX_GAP_YEARS = 50
"""Most years between two matching days. 50 is enough, since each kind of leap year repeats within 40 years."""
FULL_CYCLE = range(2001, 2029)


@dataclass(frozen=True, kw_only=True)
class Days:
    """A rule for days. Weekdays count from 0 for Sunday; days count from the epoch."""

    months: frozenset[int]
    days: frozenset[int]
    last: bool = False
    """Cron text "L": the last day of the month."""
    nearest: frozenset[int] = frozenset()
    """Cron text "15W": the working day of the same month that is nearest to day 15."""
    weekdays: frozenset[int] = frozenset()
    nth: frozenset[tuple[int, int]] = frozenset()
    """Cron text "5#2": a weekday and its number within the month, here the second Friday."""
    last_weekdays: frozenset[int] = frozenset()
    """Cron text "L5": the last Friday of the month."""
    both: bool = False
    """Whether a day must match by its number and by its weekday. If False, one of the two is enough."""
    _kinds: dict[tuple[int, int], tuple[int, ...]] = field(
        default_factory=dict[tuple[int, int], tuple[int, ...]], init=False, repr=False, compare=False
    )

    @property
    def ever(self) -> bool:
        """Whether any day matches."""
        return any(self._of(year, month) for year in FULL_CYCLE for month in self.months)

    def next(self, day: int) -> int | None:
        """Return the first matching day at or after this day."""
        if not 0 < day + EPOCH <= date.max.toordinal():
            return None
        start = date.fromordinal(day + EPOCH)
        matching = self._of(start.year, start.month)
        number = bisect_left(matching, start.day)
        if number < len(matching):
            return day + matching[number] - start.day
        for year, month in self._months_from(start.year, start.month, 1):
            if matching := self._of(year, month):
                return date(year, month, matching[0]).toordinal() - EPOCH
        return None

    def previous(self, day: int) -> int | None:
        """Return the last matching day at or before this day."""
        if not 0 < day + EPOCH <= date.max.toordinal():
            return None
        start = date.fromordinal(day + EPOCH)
        matching = self._of(start.year, start.month)
        number = bisect_right(matching, start.day)
        if number:
            return day + matching[number - 1] - start.day
        for year, month in self._months_from(start.year, start.month, -1):
            if matching := self._of(year, month):
                return date(year, month, matching[-1]).toordinal() - EPOCH
        return None

    def _months_from(self, year: int, month: int, step: int) -> Iterator[tuple[int, int]]:
        """Yield the months of the rule after this month, nearest first.

        With a negative step, yield the months before this month.
        """
        months = sorted(self.months, reverse=step < 0)
        rest = [other for other in months if (other - month) * step > 0]
        for current in range(year, year + (MAX_GAP_YEARS + 1) * step, step):
            if not date.min.year <= current <= date.max.year:
                return
            yield from ((current, other) for other in (rest if current == year else months))

    def _of(self, year: int, month: int) -> tuple[int, ...]:
        """Return the matching days of a month, which depend only on the month's first weekday and length."""
        if month not in self.months:
            return ()
        kind = monthrange(year, month)
        days = self._kinds.get(kind)
        if days is None:
            first = (kind[0] + 1) % 7
            days = tuple(day for day in range(1, kind[1] + 1) if self._matches(day, first, kind[1]))
            self._kinds[kind] = days
        return days

    def _matches(self, day: int, first: int, length: int) -> bool:
        weekday = (first + day - 1) % 7
        by_number = (
            day in self.days
            or (self.last and day == length)
            or any(day == _nearest(wanted, first, length) for wanted in self.nearest)
        )
        by_weekday = (
            weekday in self.weekdays
            or (weekday, (day + 6) // 7) in self.nth
            or (weekday in self.last_weekdays and day + 7 > length)
        )
        return by_number and by_weekday if self.both else by_number or by_weekday


def _nearest(day: int, first: int, length: int) -> int:
    """Return the working day of the same month that is nearest to a day."""
    day = min(day, length)
    weekday = (first + day - 1) % 7
    if weekday == 6:
        return day - 1 if day > 1 else day + 2
    if weekday == 0:
        return day + 1 if day < length else day - 2
    return day
