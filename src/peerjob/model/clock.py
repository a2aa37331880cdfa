"""Wall-clock time and randomness. They are injected, so that tests can run on virtual time."""

from __future__ import annotations

import contextlib
import os
import random
import time
import weakref
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from typing import Protocol, cast

from .errors import OptionError, ScheduleError


class Clock(Protocol):
    """Source of wall-clock time, of a monotonic time that includes suspension, and of randomness."""

    @property
    def virtual(self) -> bool:
        """Whether time moves only when a test moves it. Roles then run as tasks, not in threads."""
        ...

    def time_us(self) -> int:
        """Microseconds since the epoch."""
        ...

    def elapsed(self) -> float:
        """Seconds on a monotonic clock that continues while the machine sleeps."""
        ...

    @property
    def random(self) -> random.Random:
        """The generator for jitter and ids."""
        ...

    def outside(self) -> contextlib.AbstractContextManager[None]:
        """Hold virtual time while a thread or a process works for the loop."""
        ...

    def inside(self) -> contextlib.AbstractContextManager[None]:
        """Let virtual time pass while work that is `outside` waits for the loop. Enter it on the loop."""
        ...

    def passing(self, timeout: float | None) -> contextlib.AbstractAsyncContextManager[None]:
        """Let virtual time pass while the caller waits. `timeout` is that of the wait, in seconds."""
        ...


TOLD_CHANGE_US = 250_000
"""The least change of a node's lead that the node tells the others, because telling it costs a write."""
_BOOTTIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)
_generators: weakref.WeakSet[random.Random] = weakref.WeakSet()
"""The generators of all clocks. A forked child seeds them anew. Otherwise it would draw the same ids as its parent, and
as the other children of its parent."""


def _seed_anew() -> None:
    for generator in list(_generators):
        generator.seed()


os.register_at_fork(after_in_child=_seed_anew)


class SystemClock:
    """The clock of the machine."""

    virtual = False

    def __init__(self) -> None:
        self._random = random.Random()
        _generators.add(self._random)

    def time_us(self) -> int:
        """Microseconds since the epoch."""
        return time.time_ns() // 1000

    def elapsed(self) -> float:
        """Seconds on a monotonic clock that continues while the machine sleeps."""
        # without a clock that counts on while the machine is suspended, as on some platforms, use the monotonic clock
        return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)

    @property
    def random(self) -> random.Random:
        """The generator for jitter and ids."""
        return self._random

    @contextlib.contextmanager
    def outside(self) -> Generator[None]:
        """Do nothing: real time cannot be held."""
        yield

    @contextlib.contextmanager
    def inside(self) -> Generator[None]:
        """Do nothing: real time passes anyway."""
        yield

    def passing(self, timeout: float | None) -> contextlib.AbstractAsyncContextManager[None]:
        """Do nothing: real time passes anyway."""
        return contextlib.nullcontext()


class CorrectedTime:
    """Wall-clock time of an authoritative clock: this node's clock, corrected by the last comparison.

    It advances with the monotonic time, so a change of the node's wall clock has no effect.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.ahead_us = 0
        """Lead of this node's clock over the authoritative clock at the last comparison, in microseconds."""
        self.told_ahead_us = 0
        """`ahead_us` as of its last change by more than TOLD_CHANGE_US, for the list of nodes."""
        self._has_news = False
        self.correct(0)
        self.is_known = False
        """Whether the clocks were compared."""

    def correct(self, ahead_us: int) -> None:
        """Store the present lead of this node's clock."""
        self.ahead_us = ahead_us
        if abs(ahead_us - self.told_ahead_us) > TOLD_CHANGE_US:
            self.told_ahead_us, self._has_news = ahead_us, True
        self.is_known = True
        self._zero_us = self._clock.time_us() - ahead_us - self._elapsed_us()

    def take_news(self) -> bool:
        """Whether `told_ahead_us` has changed since the last call."""
        news, self._has_news = self._has_news, False
        return news

    def time_us(self) -> int:
        """Microseconds since the epoch."""
        return self._zero_us + self._elapsed_us()

    def _elapsed_us(self) -> int:
        return round(self._clock.elapsed() * 1_000_000)


def to_datetime(time_us: int) -> datetime:
    """Convert microseconds since the epoch to an aware UTC datetime."""
    return _EPOCH + timedelta(0, 0, time_us)


def to_us(moment: datetime) -> int:
    """Convert an aware datetime to microseconds since the epoch, exactly."""
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def aware_us(option: str, moment: datetime) -> int:
    """Like `to_us`, for the value of an option; raises ScheduleError if it is naive, OptionError for another type."""
    # a caller without a type checker can pass any object
    if not isinstance(moment, datetime):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(option, cast(object, moment), "an aware datetime")
    if moment.tzinfo is None:
        raise ScheduleError(f"{option}={moment.isoformat()} has no time zone; pass an aware datetime")
    return to_us(moment)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
