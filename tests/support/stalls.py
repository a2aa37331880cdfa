"""How long the machine ran nobody: what came too late is a fault of ours only as far as it is more than that."""

import threading
import time
from types import TracebackType
from typing import Self

STEP = 0.02
SHORT = 0.03
"""Seconds by which a machine that runs us is late now and then."""


class Stalls:
    """Notes, in a thread of its own, whenever it is scheduled later than it asked for. Times are those of the clock."""

    def __init__(self) -> None:
        self._late: list[tuple[int, float]] = []
        """When each stall ended, in microseconds, and how many seconds it took."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stalls", daemon=True)

    def between(self, first_us: int, last_us: int) -> float:
        """Seconds that were lost between two moments."""
        lost = 0.0
        for end_us, seconds in list(self._late):
            begin_us = end_us - round(seconds * 1_000_000)
            lost += max(0, min(end_us, last_us) - max(begin_us, first_us)) / 1_000_000
        return lost

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.is_set():
            asked = time.monotonic()
            time.sleep(STEP)
            late = time.monotonic() - asked - STEP
            if late > SHORT:
                self._late.append((time.time_ns() // 1000, late))
