"""The nominal times of a schedule's definition, and the jitter of each."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Protocol

from .cron.engine import Cron
from .cron.text import EveryText, read_cron
from .cron.zones import LAST, zone_named
from .definition import Definition
from .errors import ScheduleError
from .hashed import hashed_up_to

MAX_CACHED = 20_000
"""Most recurrences that the cache keeps."""
_LAST_US = LAST * 1_000_000


class Recurrence(Protocol):
    """The nominal times of a schedule, in microseconds since the epoch. A recurrence has no state."""

    def next_after(self, moment_us: int) -> int | None:
        """Return the first nominal time strictly after a moment, or None."""
        ...

    def latest_at(self, moment_us: int) -> int | None:
        """Return the last nominal time at or before a moment, or None."""
        ...

    def count(self, after_us: int, until_us: int) -> int:
        """Count the nominal times in (after, until]."""
        ...

    def times(self, after_us: int, until_us: int) -> Iterator[int]:
        """Yield the nominal times in (after, until], in order."""
        ...


class Interval:
    """Nominal times at anchor + k × every, for k ≥ 1, to the end of the year 9999."""

    def __init__(self, every_us: int, anchor_us: int) -> None:
        self._every = every_us
        self._anchor = anchor_us

    def next_after(self, moment_us: int) -> int | None:
        moment = self._first_after(moment_us)
        return moment if moment <= _LAST_US else None

    def latest_at(self, moment_us: int) -> int | None:
        number = self._at(moment_us)
        return self._anchor + number * self._every if number else None

    def count(self, after_us: int, until_us: int) -> int:
        return max(0, self._at(min(until_us, _LAST_US)) - self._at(after_us))

    def times(self, after_us: int, until_us: int) -> Iterator[int]:
        return iter(range(self._first_after(after_us), min(until_us, _LAST_US) + 1, self._every))

    def _first_after(self, moment_us: int) -> int:
        return self._anchor + (self._at(moment_us) + 1) * self._every

    def _at(self, moment_us: int) -> int:
        return max(0, (moment_us - self._anchor) // self._every)


def recurrence_of(definition: Definition) -> Recurrence:
    """Return the recurrence of a definition; raises ScheduleError if it has none that can be used here."""
    if definition.cron is not None:
        return cron_recurrence(definition.cron, definition.timezone)
    if definition.every_us is not None and definition.every_us > 0:
        return Interval(definition.every_us, definition.anchor_us)
    raise ScheduleError(f"schedule of {definition.kind!r}: expected cron or every, got neither")


@lru_cache(maxsize=MAX_CACHED)
def cron_recurrence(spec: str, timezone: str = "UTC") -> Recurrence:
    """Return the recurrence of a cron text in a time zone; raises ScheduleError for a bad text or zone.

    A zone in the text itself wins over `timezone`.
    """
    text = read_cron(spec)
    if isinstance(text, EveryText):
        return Interval(text.every_us, 0)
    return Cron(text, zone_named(timezone) if text.zone is None else zone_named(text.zone, "cron TZ"))


def jitter_us(definition: Definition, name: str, nominal_us: int) -> int:
    """Return the delay of a fire after its nominal time, from 0 to the schedule's jitter.

    It is the same on every node. Hashed jitter depends only on the name, so it is also the same at every fire.
    """
    return hashed_up_to(definition.jitter_us, name if definition.hashed else f"{name}/{nominal_us}")
