"""A cron text as a recurrence: converts wall times of a zone to instants."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import tzinfo

from .text import CronText
from .zones import BLOCK, DAY, FIRST, LAST, Span, spans

SECOND = 1_000_000


class Cron:
    """The nominal times of a cron text in a time zone; a `Recurrence`."""

    __slots__ = ("_days", "_times", "fixed", "zone")

    def __init__(self, text: CronText, zone: tzinfo) -> None:
        self._days = text.days
        self._times = text.times
        self.fixed = text.fixed
        self.zone = zone

    def next_after(self, moment_us: int) -> int | None:
        moment = max(moment_us // SECOND + 1, FIRST)
        block = moment // BLOCK
        while block * BLOCK < LAST:
            for span in spans(self.zone, block):
                if span.end > moment and (first := self._first(span, max(moment, span.start))) is not None:
                    return first * SECOND
            # start the search one day early, since the wall times of a day can begin on the previous day in UTC
            day = self._days.next(((block + 1) * BLOCK) // DAY - 1)
            if day is None:
                return None
            block = max(block + 1, (day - 1) * DAY // BLOCK)
        return None

    def latest_at(self, moment_us: int) -> int | None:
        end = min(moment_us // SECOND + 1, LAST)
        block = (end - 1) // BLOCK
        while block * BLOCK > FIRST:
            for span in reversed(spans(self.zone, block)):
                if span.start < end and (last := self._last(span, min(end, span.end))) is not None:
                    return last * SECOND
            # start the search one day late, since the wall times of a day can end on the next day in UTC
            day = self._days.previous((block * BLOCK) // DAY + 1)
            if day is None:
                return None
            block = min(block - 1, (day + 2) * DAY // BLOCK)
        return None

    def count(self, after_us: int, until_us: int) -> int:
        start, end = max(after_us // SECOND + 1, FIRST), min(until_us // SECOND + 1, LAST)
        total = 0
        for block in range(start // BLOCK, (end - 1) // BLOCK + 1):
            for span in spans(self.zone, block):
                low, high = max(start, span.start), min(end, span.end)
                if low < high:
                    total += self._count(self._wall(span, low), high + span.offset)
                    total += (
                        low == span.start and self._replaces_skipped(span) and not self._count(span.wall, span.wall + 1)
                    )
        return total

    def times(self, after_us: int, until_us: int) -> Iterator[int]:
        moment = self.next_after(after_us)
        while moment is not None and moment <= until_us:
            yield moment
            moment = self.next_after(moment)

    # -- one stretch of time in which the zone's offset is constant ----------------------------------------------

    def _first(self, span: Span, low: int) -> int | None:
        """Return the first nominal instant of a stretch at or after `low`."""
        if low == span.start and self._replaces_skipped(span):
            return low
        wall = self.first_wall(self._wall(span, low), span.end + span.offset)
        return None if wall is None else wall - span.offset

    def _last(self, span: Span, high: int) -> int | None:
        """Return the last nominal instant of a stretch before `high`."""
        wall = self._last_wall(self._wall(span, span.start), high + span.offset)
        if wall is None:
            return span.start if self._replaces_skipped(span) else None
        return wall - span.offset

    def _wall(self, span: Span, instant: int) -> int:
        """Return the wall time of an instant. A text with fixed times skips the wall times that the clocks repeat."""
        return max(instant + span.offset, span.reached) if self.fixed else instant + span.offset

    def _replaces_skipped(self, span: Span) -> bool:
        """Whether the start of a stretch stands for wall times of the cron text that the clocks skipped."""
        return self.fixed and span.reached < span.wall and self.first_wall(span.reached, span.wall) is not None

    # -- wall times of the cron text -----------------------------------------------------------------------------

    def first_wall(self, low: int, high: int) -> int | None:
        """Return the first wall time of the text in [low, high), in seconds, skipped times included."""
        today, second = divmod(low, DAY)
        number = self._times.before(second)
        day = self._days.next(today if number < self._times.total else today + 1)
        if day is None:
            return None
        wall = day * DAY + self._times.at(number if day == today else 0)
        return wall if wall < high else None

    def _last_wall(self, low: int, high: int) -> int | None:
        today, second = divmod(high, DAY)
        number = self._times.before(second)
        day = self._days.previous(today if number else today - 1)
        if day is None:
            return None
        wall = day * DAY + self._times.at((number if day == today else self._times.total) - 1)
        return wall if wall >= low else None

    def _count(self, low: int, high: int) -> int:
        total = 0
        # `low` can be after `high`: a stretch of constant offset can end before all repeated wall times have passed
        day = self._days.next(low // DAY) if low < high else None
        while day is not None and day * DAY < high:
            total += self._times.before(min(high - day * DAY, DAY)) - self._times.before(max(low - day * DAY, 0))
            day = self._days.next(day + 1)
        return total
