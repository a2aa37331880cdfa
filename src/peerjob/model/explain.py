"""What a cron text means, for people."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice

from .clock import SystemClock, aware_us, to_datetime, to_us
from .cron.changes import clock_changes
from .cron.engine import Cron
from .cron.text import EveryText, read_cron
from .cron.words import in_words
from .cron.zones import zone_named
from .errors import OptionError
from .recurrence import Interval, Recurrence

AHEAD = timedelta(days=400)
"""How far ahead changes of the clocks are told: one of each kind lies within."""
MAX_COUNT = 1_000
WIDTH = 80


@dataclass(frozen=True, kw_only=True)
class ClockChange:
    """A day on which the clocks of the zone change, and what a cron job does about it."""

    at: datetime
    """The first instant with the new offset, in the zone."""
    shift: timedelta
    """How far clocks go on; negative when they go back."""
    effect: str

    def __str__(self) -> str:
        before = (self.at.replace(tzinfo=None) - self.shift).strftime("%H:%M")
        return f"{self.at:%Y-%m-%d}  {before} → {self.at:%H:%M}  {self.effect}"


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What a cron text means; as text it is for people, at most 80 columns wide."""

    spec: str
    timezone: str
    words: str
    fires: tuple[datetime, ...]
    """The next nominal times, in the zone."""
    changes: tuple[ClockChange, ...]
    """The changes of the zone's clocks in the coming 400 days; none for an interval, which they do not touch."""

    def __str__(self) -> str:
        lines = textwrap.wrap(f"{self.spec}  ({self.timezone})", WIDTH)
        lines += textwrap.wrap(self.words, WIDTH, initial_indent="  ", subsequent_indent="    ")
        lines += ["", "next"]
        lines += [f"  {fire:%a} {_stamp(fire)}" for fire in self.fires]
        if self.changes:
            lines += ["", "clock changes"]
            for change in self.changes:
                lines += textwrap.wrap(str(change), WIDTH, initial_indent="  ", subsequent_indent="    ")
        return "\n".join(lines)


def explain(spec: str, timezone: str = "UTC", *, start: datetime | None = None, count: int = 5) -> Explanation:
    """Tell what a cron text means in a time zone: in words, by its next fires, and on days when clocks change.

    `start` (aware; default: now) is what the `count` fires (up to 1,000) come after. A zone in the text itself counts,
    rather than `timezone`. Raises ScheduleError for what cannot be used as `cron=`.
    """
    found, fires = explain_text(spec, timezone, start=start)
    return replace(found, fires=tuple(islice(fires, checked_count(count))))


def checked_count(count: int) -> int:
    """How many fires are to be told; raises OptionError."""
    if isinstance(count, bool) or not 0 <= count <= MAX_COUNT:
        raise OptionError("count", count, f"a whole number from 0 to {MAX_COUNT:,}")
    return count


def explain_text(
    spec: str, timezone: str = "UTC", *, start: datetime | None = None
) -> tuple[Explanation, Iterator[datetime]]:
    """An explanation without fires, and the fires: each of them may take milliseconds to find."""
    start_us = SystemClock().time_us() if start is None else aware_us("start", start)
    text = read_cron(spec)
    zone = zone_named(timezone)
    recurrence: Recurrence
    changes: list[ClockChange] = []
    if isinstance(text, EveryText):
        recurrence = Interval(text.every_us, start_us)
        words = f"every {text.duration}, counted from its start"
    else:
        zone = zone if text.zone is None else zone_named(text.zone, f"cron={spec!r}: TZ")
        recurrence = Cron(text, zone)
        words = in_words(text)
        for instant, shift, effect in clock_changes(
            recurrence, start_us // 1_000_000, (start_us + AHEAD // timedelta(microseconds=1)) // 1_000_000
        ):
            at = datetime.fromtimestamp(instant, zone)
            changes.append(ClockChange(at=at, shift=timedelta(seconds=shift), effect=effect))
    found = Explanation(spec=spec.strip(), timezone=zone.key, words=words, fires=(), changes=tuple(changes))
    times = recurrence.times(start_us, to_us(datetime.max.replace(tzinfo=UTC)))
    return found, (to_datetime(fire).astimezone(zone) for fire in times)


def _stamp(moment: datetime) -> str:
    return moment.isoformat(sep=" ", timespec="seconds" if not moment.microsecond else "milliseconds")
