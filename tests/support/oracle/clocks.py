"""Clocks that a program moves."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import AsyncGenerator, Generator

from peerjob.model.clock import SystemClock

START_US = 1_767_225_600_000_000


class SteppedClock:
    """A clock that stands still until it is set; waits of the event loop do not depend on it."""

    virtual = False

    def __init__(self, now_us: int = START_US, seed: int = 0) -> None:
        self.now_us = now_us
        self._random = random.Random(seed)

    def time_us(self) -> int:
        return self.now_us

    def elapsed(self) -> float:
        return (self.now_us - START_US) / 1_000_000

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


class ShiftedClock(SystemClock):
    """The clock of the machine, set ahead: for stores whose nodes' clocks decide about due times."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead_us = 0

    def time_us(self) -> int:
        return time.time_ns() // 1000 + self.ahead_us

    def elapsed(self) -> float:
        return super().elapsed() + self.ahead_us / 1_000_000
