"""The times of day that match a cron text."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable


class DayTimes:
    """All combinations of given hours, minutes and seconds, numbered in order from 0."""

    __slots__ = ("_per_hour", "_per_minute", "hours", "minutes", "seconds", "total")

    def __init__(self, hours: Iterable[int], minutes: Iterable[int], seconds: Iterable[int]) -> None:
        self.hours, self.minutes, self.seconds = sorted(hours), sorted(minutes), sorted(seconds)
        self._per_minute = len(self.seconds)
        self._per_hour = len(self.minutes) * self._per_minute
        self.total = len(self.hours) * self._per_hour

    def before(self, second: int) -> int:
        """Count the times before this second of the day."""
        hour, rest = divmod(second, 3600)
        number = bisect_left(self.hours, hour)
        count = number * self._per_hour
        if number == len(self.hours) or self.hours[number] != hour:
            return count
        minute, rest = divmod(rest, 60)
        number = bisect_left(self.minutes, minute)
        count += number * self._per_minute
        if number == len(self.minutes) or self.minutes[number] != minute:
            return count
        return count + bisect_left(self.seconds, rest)

    def at(self, number: int) -> int:
        """Return the time with this number, in seconds of the day."""
        hour, rest = divmod(number, self._per_hour)
        minute, second = divmod(rest, self._per_minute)
        return self.hours[hour] * 3600 + self.minutes[minute] * 60 + self.seconds[second]
