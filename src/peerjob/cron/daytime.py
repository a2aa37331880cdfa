"""The times of a day that a cron text names."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable


class DayTimes:
    """All combinations of the given hours, minutes and seconds, numbered in order from 0."""

    __slots__ = ("_hours", "_minutes", "_per_hour", "_per_minute", "_seconds", "total")

    def __init__(self, hours: Iterable[int], minutes: Iterable[int], seconds: Iterable[int]) -> None:
        self._hours, self._minutes, self._seconds = sorted(hours), sorted(minutes), sorted(seconds)
        self._per_minute = len(self._seconds)
        self._per_hour = len(self._minutes) * self._per_minute
        self.total = len(self._hours) * self._per_hour

    def before(self, second: int) -> int:
        """How many lie before this second of the day: the number of the first that does not."""
        hour, rest = divmod(second, 3600)
        number = bisect_left(self._hours, hour)
        count = number * self._per_hour
        if number == len(self._hours) or self._hours[number] != hour:
            return count
        minute, rest = divmod(rest, 60)
        number = bisect_left(self._minutes, minute)
        count += number * self._per_minute
        if number == len(self._minutes) or self._minutes[number] != minute:
            return count
        return count + bisect_left(self._seconds, rest)

    def at(self, number: int) -> int:
        """The time of this number, in seconds of the day."""
        hour, rest = divmod(number, self._per_hour)
        minute, second = divmod(rest, self._per_minute)
        return self._hours[hour] * 3600 + self._minutes[minute] * 60 + self._seconds[second]
