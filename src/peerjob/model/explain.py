"""Explains a cron text: in words, by its next fires, and at changes of the clocks."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice

from .arguments import typed, whole_number
from .clock import SystemClock, aware_us, to_datetime, to_us
from .cron.changes import clock_changes
from .cron.engine import Cron
from .cron.text import EveryText, read_cron
from .cron.words import in_words
from .cron.zones import zone_named
from .recurrence import Interval, Recurrence

AHEAD = timedelta(days=400)
"""Period whose clock changes an explanation lists. 400 days contain one change of each kind."""
MAX_COUNT = 1_000
WIDTH = 80


@dataclass(frozen=True, kw_only=True)
class ClockChange:
    """A change of the zone's clocks, and its effect on the cron job."""

    at: datetime
    """The first instant with the new offset, as a time in the zone."""
    shift: timedelta
    """Time by which the clocks go forward; negative if they go back."""
    effect: str

    def __str__(self) -> str:
        before = (self.at.replace(tzinfo=None) - self.shift).strftime("%H:%M")
        return f"{self.at:%Y-%m-%d}  {before} → {self.at:%H:%M}  {self.effect}"


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """The meaning of a cron text. `str()` formats it for people, at most 80 columns wide."""

    spec: str
    timezone: str
    words: str
    fires: tuple[datetime, ...]
    """The next nominal times, in the zone."""
    changes: tuple[ClockChange, ...]
    """Changes of the zone's clocks in the next 400 days. An interval has none, as clock changes do not affect it."""

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


@typed
def explain(spec: str, timezone: str = "UTC", *, start: datetime | None = None, count: int = 5) -> Explanation:
    """Explain a cron text in a time zone: in words, by its next fires, and at changes of the clocks.

    The `count` fires (at most 1,000) come after `start`, an aware datetime, by default now. A zone in the text itself
    wins over `timezone`. Raises ScheduleError for a text that is not valid as `cron=`.
    """
    explanation, fires = explain_text(spec, timezone, start=start)
    return replace(explanation, fires=tuple(islice(fires, checked_count(count))))


def checked_count(count: int) -> int:
    """Return a valid number of fires; raises OptionError."""
    return whole_number("count", count, 0, MAX_COUNT)


def explain_text(
    spec: str, timezone: str = "UTC", *, start: datetime | None = None
) -> tuple[Explanation, Iterator[datetime]]:
    """Return an explanation without fires, and an iterator of the fires: each can take milliseconds to find."""
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
    explanation = Explanation(spec=spec.strip(), timezone=zone.key, words=words, fires=(), changes=tuple(changes))
    times = recurrence.times(start_us, to_us(datetime.max.replace(tzinfo=UTC)))
    return explanation, (to_datetime(fire).astimezone(zone) for fire in times)


def _stamp(moment: datetime) -> str:
    return moment.isoformat(sep=" ", timespec="seconds" if not moment.microsecond else "milliseconds")
