"""Stalls of the machine: a delay is a fault of peerjob only as far as it is longer than the stalls."""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Self

from support.true_time import true_us

Span = tuple[int, int]
"""A stall, from the last moment at which the process surely ran to its end, in microseconds of the clock."""

STEP = 0.02
SHORT = 0.03
"""Seconds by which a machine that runs us is late now and then."""
TOLD = 0.1
"""Seconds from which on a process reports its own stalls."""
_TOLD_AS = "stood still from and to:"


class Stalls:
    """Notes, in a thread of its own, whenever it is scheduled later than it asked for.

    `tell` is called with each stall, and `others` returns the stalls of other processes, which count too.
    """

    def __init__(
        self, *, tell: Callable[[Span], None] | None = None, others: Callable[[], Iterable[Span]] = tuple
    ) -> None:
        self._spans: list[Span] = []
        self._tell = tell
        self._others = others
        self._noted_us = 0
        """Up to this moment each stall is noted."""
        self._news = threading.Condition()
        self._over = False
        self._thread = threading.Thread(target=self._watch, name="stalls", daemon=True)

    def between(self, first_us: int, last_us: int) -> float:
        """Seconds that were lost between two moments.

        A stall that has just ended is noted a moment later, which this waits for.
        """
        return lost(self._until(last_us), first_us, last_us)

    def last_end(self, first_us: int, last_us: int, *, least: float) -> int:
        """The end of the last stall between two moments that took `least` seconds, or the first moment."""
        spans = self._until(last_us)
        long = [end for begin, end in spans if end - begin >= least * 1_000_000 and first_us < end <= last_us]
        return max(long, default=first_us)

    def took(self, first_us: int, last_us: int | None = None) -> float:
        """Seconds between two moments, or until now, without those that were lost."""
        end_us = now_us() if last_us is None else last_us
        return (end_us - first_us) / 1_000_000 - self.between(first_us, end_us)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        self._thread.join()

    def _until(self, last_us: int) -> list[Span]:
        with self._news:
            self._news.wait_for(lambda: self._noted_us >= last_us or self._over)
            return [*self._spans, *self._others()]

    def _watch(self) -> None:
        while not self._over:
            asked, asked_us = time.monotonic(), now_us()
            time.sleep(STEP)
            late, woken_us = time.monotonic() - asked - STEP, now_us()
            with self._news:
                if late > SHORT:
                    self._spans.append((asked_us, woken_us))
                    if self._tell is not None and late > TOLD:
                        self._tell((asked_us, woken_us))
                self._noted_us = woken_us
                self._news.notify_all()


def now_us() -> int:
    """Microseconds of the machine's clock."""
    return true_us()


def lost(spans: Iterable[Span], first_us: int, last_us: int) -> float:
    """Seconds between two moments that lie in any of the spans."""
    seconds, counted_us = 0.0, first_us
    for begin_us, end_us in sorted(spans):
        until_us = min(end_us, last_us)
        seconds += max(0, until_us - max(begin_us, counted_us)) / 1_000_000
        counted_us = max(counted_us, until_us)
    return seconds


def tell(span: Span) -> None:
    """Print a stall, for `stalls_in`; in one piece, since the process prints other lines at the same time."""
    sys.stdout.write(f"{_TOLD_AS} {span[0]} {span[1]}\n")
    sys.stdout.flush()


def stalls_in(lines: Iterable[str]) -> Sequence[Span]:
    """The stalls that a process reported."""
    parts = (line.removeprefix(_TOLD_AS).split() for line in lines if line.startswith(_TOLD_AS))
    return [(int(begin_us), int(end_us)) for begin_us, end_us in parts]
