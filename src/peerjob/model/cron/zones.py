"""Time zones as stretches of constant offset."""

from __future__ import annotations

from datetime import datetime, tzinfo
from functools import lru_cache
from typing import NamedTuple, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from peerjob.model.errors import ScheduleError
from peerjob.model.printable import shown

DAY = 86_400
BLOCK = 30 * DAY
"""Length of a block, in seconds. Stretches of constant offset are computed and cached per block."""
MAX_BLOCKS_CACHED = 20_000
FIRST = -719_162 * DAY + 2 * DAY
"""FIRST to LAST are the supported seconds since the epoch.

They cover the years 1 to 9999, except for the days that an offset could move outside these years.
"""
LAST = 2_932_897 * DAY - 2 * DAY


class Span(NamedTuple):
    """A stretch of instants with one offset, within a block. Instants and wall times are seconds since the epoch."""

    start: int
    end: int
    """The first instant after the stretch, in seconds since the epoch."""
    offset: int
    """Wall time minus UTC time during the stretch, in seconds."""
    reached: int
    """The wall time that the clocks had reached when the stretch began.

    If `reached` is before the stretch's first wall time, the clocks skip the times between the two. If `reached` is
    later, the clocks repeat the times up to it.
    """

    @property
    def wall(self) -> int:
        """The first wall time of the stretch."""
        return self.start + self.offset


def zone_named(name: object, option: str = "timezone") -> ZoneInfo:
    """Return the time zone with this name; raises ScheduleError."""
    try:
        return ZoneInfo(cast(str, name))
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
        raise ScheduleError(
            f"{option}={shown(name)}: no such time zone (expected a name such as Europe/Berlin)"
        ) from None


@lru_cache(maxsize=MAX_BLOCKS_CACHED)
def spans(zone: tzinfo, block: int) -> tuple[Span, ...]:
    """Return the stretches of one block in order. Block n starts n × BLOCK after the epoch."""
    start, end = block * BLOCK, (block + 1) * BLOCK
    # begin one day before the block, since a clock change on that day can repeat wall times within the block
    spans = [Span(start - DAY, end, _offset(zone, start - DAY), start - DAY + _offset(zone, start - DAY))]
    for day in range(start, end + 1, DAY):
        before, offset = spans[-1].offset, _offset(zone, day)
        if offset != before:
            change = _change(zone, day - DAY, day)
            if change < end:
                spans[-1] = spans[-1]._replace(end=change)
                spans.append(Span(change, end, offset, change + before))
    return tuple(_from(span, start) for span in spans if span.end > start)


def transitions(zone: tzinfo, after: int, until: int) -> list[tuple[Span, Span]]:
    """Return the stretches before and after each change of offset in (after, until]."""
    pairs: list[tuple[Span, Span]] = []
    previous: Span | None = None
    for block in range(after // BLOCK, until // BLOCK + 1):
        for span in spans(zone, block):
            if previous is not None and previous.offset != span.offset and after < span.start <= until:
                pairs.append((previous, span))
            previous = span
    return pairs


def _from(span: Span, start: int) -> Span:
    """Cut a stretch to the part from `start` on.

    The wall times that the clocks skipped belong to the part that is cut off.
    """
    if span.start >= start:
        return span
    return span._replace(start=start, reached=max(span.reached, start + span.offset))


def _change(zone: tzinfo, low: int, high: int) -> int:
    """Return the first second in (low, high] whose offset differs from the offset at `low`."""
    before = _offset(zone, low)
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(zone, middle) == before:
            low = middle
        else:
            high = middle
    return high


def _offset(zone: tzinfo, instant: int) -> int:
    delta = datetime.fromtimestamp(min(max(instant, FIRST), LAST), zone).utcoffset()
    return 0 if delta is None else delta.days * DAY + delta.seconds
