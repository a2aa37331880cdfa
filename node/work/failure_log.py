"""Logs each failed attempt on the node that ran it, with a bound on tracebacks."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from peerjob.model.spec import ErrorInfo

from .run import Run

logger = logging.getLogger("peerjob.job")

MAX_PER_SECOND = 20
"""Most failures of one kind that are logged one by one in a second; the rest are counted in one line."""
MAX_NOTE = 200
"""Most bytes of an error's type and message in an entry of the history."""


class FailureLog:
    """Writes to the logger `peerjob.job`: WARNING for an attempt that is retried, ERROR for a final one.

    An attempt that ended with `Retry` is logged at INFO, since the job asked for it.
    """

    def __init__(self, node: str) -> None:
        self._node = node
        self._logged: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()
        self._second: asyncio.TimerHandle | None = None

    def failed(self, run: Run, info: ErrorInfo, then: str, *, level: int) -> None:
        """One attempt failed; `then` says what happens now. Below WARNING, the traceback is left out."""
        kind = run.claim.kind
        if not logger.isEnabledFor(level):
            return
        if self._second is None:
            self._second = asyncio.get_running_loop().call_later(1.0, self._end_second)
        if self._logged[kind] >= MAX_PER_SECOND:
            self._left_out[kind] += 1
            return
        self._logged[kind] += 1
        logger.log(
            level,
            "instance %s of %r failed in attempt %d on node %r: %s; %s%s",
            run.claim.id,
            kind,
            run.claim.attempts,
            self._node,
            info,
            then,
            f"\n{info.traceback.rstrip()}" if info.traceback and level >= logging.WARNING else "",
        )

    def snoozed(self, run: Run, then: str) -> None:
        """One attempt put itself off."""
        if logger.isEnabledFor(logging.INFO):
            logger.info("instance %s of %r on node %r: %s", run.claim.id, run.claim.kind, self._node, then)

    def close(self) -> None:
        """Log what was left out in this second."""
        if self._second is not None:
            self._second.cancel()
            self._end_second()

    def _end_second(self) -> None:
        self._second = None
        for kind, count in self._left_out.items():
            logger.warning(
                "%d more attempts of %r failed within a second on node %r; `jobctl list instances` shows their errors",
                count,
                kind,
                self._node,
            )
        self._logged.clear()
        self._left_out.clear()


def error_note(info: ErrorInfo) -> str:
    """An error's type and message for the history, on one line and within MAX_NOTE bytes."""
    text = " ".join(str(info).split())
    encoded = text.encode()
    if len(encoded) <= MAX_NOTE:
        return text
    return encoded[: MAX_NOTE - 3].decode(errors="ignore") + "…"
