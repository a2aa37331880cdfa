"""Wall-clock time and randomness, injected so that tests can run on virtual time."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import AsyncGenerator, Generator
from datetime import UTC, datetime
from typing import Protocol

from .errors import ScheduleError


class Clock(Protocol):
    """Source of wall-clock time, of a monotonic time that also counts suspension, and of randomness."""

    @property
    def virtual(self) -> bool:
        """Whether time only moves when a test moves it; roles then run as tasks, never as threads."""
        ...

    def time_us(self) -> int:
        """Microseconds since the epoch."""
        ...

    def elapsed(self) -> float:
        """Seconds on a clock that never goes back and goes on while the machine sleeps."""
        ...

    @property
    def random(self) -> random.Random:
        """The generator for jitter and identifiers."""
        ...

    def outside(self) -> contextlib.AbstractContextManager[None]:
        """Hold virtual time still while a thread or a process works for the loop."""
        ...

    def inside(self) -> contextlib.AbstractContextManager[None]:
        """Let virtual time pass again while work that is `outside` waits for the loop; entered on the loop."""
        ...

    def passing(self, timeout: float | None) -> contextlib.AbstractAsyncContextManager[None]:
        """Let virtual time pass while the caller waits; `timeout` is the wait's own, in seconds."""
        ...


_BOOTTIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)


class SystemClock:
    """The machine's own clock."""

    virtual = False

    def __init__(self) -> None:
        self._random = random.Random()

    def time_us(self) -> int:
        return time.time_ns() // 1000

    def elapsed(self) -> float:
        # platforms without a clock that counts suspension have to do with the monotonic one
        return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)

    @property
    def random(self) -> random.Random:
        return self._random

    @contextlib.contextmanager
    def outside(self) -> Generator[None]:
        yield

    @contextlib.contextmanager
    def inside(self) -> Generator[None]:
        yield

    @contextlib.asynccontextmanager
    async def passing(self, timeout: float | None) -> AsyncGenerator[None]:
        yield


class CorrectedTime:
    """Wall-clock time by a clock that counts more than this one, and by this one until the two were compared.

    It passes with the monotonic time since the last comparison, so a wall clock that is set meanwhile changes nothing.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.ahead_us = 0
        """How far this node's clock was ahead at the last comparison."""
        self.correct(0)

    def correct(self, ahead_us: int) -> None:
        """Note how far this node's clock is ahead at this moment."""
        self.ahead_us = ahead_us
        self._zero_us = self._clock.time_us() - ahead_us - self._elapsed_us()

    def time_us(self) -> int:
        """Microseconds since the epoch."""
        return self._zero_us + self._elapsed_us()

    def _elapsed_us(self) -> int:
        return round(self._clock.elapsed() * 1_000_000)


def to_datetime(time_us: int) -> datetime:
    """An aware UTC datetime for microseconds since the epoch."""
    seconds, micros = divmod(time_us, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=micros)


def to_us(moment: datetime) -> int:
    """Microseconds since the epoch of an aware datetime, without passing through a float."""
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def aware_us(option: str, moment: datetime) -> int:
    """Like `to_us`, of what was given for an option; raises ScheduleError for a moment without a time zone."""
    if moment.tzinfo is None:
        raise ScheduleError(f"{option}={moment.isoformat()} has no time zone; pass an aware datetime")
    return to_us(moment)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
