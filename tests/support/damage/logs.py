"""The log lines of the cases that run at the same time in one process."""

from __future__ import annotations

import contextvars
import logging
import re
import time
from collections import Counter, defaultdict
from collections.abc import Generator
from contextlib import contextmanager

import msgspec

NAMESPACE: contextvars.ContextVar[str] = contextvars.ContextVar("namespace", default="")
"""The namespace of the case that the present task belongs to."""


_MAX_LEASES = 20
_LEASES = re.compile("its lease|lease is renewed|declared dead|answer to its claim|event loop")
"""What lines tell about leases and claims that a node lost, and about what made it late."""


class Line(msgspec.Struct, frozen=True):
    """One log line."""

    at: float
    level: int
    text: str


class CaseLogs(logging.Handler):
    """Keeps the lines by namespace. A line of a thread is found by the namespace in its text; others are under ""."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: defaultdict[str, list[Line]] = defaultdict(list)

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        text = f"{record.name}: {record.getMessage()}" + (f" ({error!r:.200})" if error else "")
        namespace = NAMESPACE.get() or next((name for name in [*self.lines] if name and name in text), "")
        self.lines[namespace].append(Line(time.monotonic(), record.levelno, text))

    def leases(self, namespace: str, since: float) -> list[str]:
        """What the nodes of a case told about their leases, each with its time: a lost lease may repeat a run."""
        lines = [line for line in self.lines[namespace] if _LEASES.search(line.text)]
        return [f"{line.at - since:+.1f} s: {line.text}"[:120] for line in lines[:_MAX_LEASES]]

    def loud(self, namespace: str, since: float, level: int = logging.ERROR) -> Counter[str]:
        """The texts of a case from a time on, of this level and above."""
        lines = self.lines[namespace]
        return Counter(line.text[:200] for line in lines if line.at >= since and line.level >= level)


@contextmanager
def case_logs() -> Generator[CaseLogs]:
    """Keep the lines of the product instead of printing them."""
    logger, handler = logging.getLogger("peerjob"), CaseLogs()
    before = logger.propagate, logger.level
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.INFO)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        logger.propagate = before[0]
        logger.setLevel(before[1])
