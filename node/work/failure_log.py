"""Logs failed attempts on the node that ran them, with a limit on tracebacks."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from peerjob.model.spec import ErrorInfo
from peerjob.node.body.errors import BodyError, from_body

from .run import Run

logger = logging.getLogger("peerjob.job")

MAX_PER_SECOND = 20
"""Most failures of one kind that are logged one by one in a second. One log entry counts the rest."""
MAX_NOTE = 200
"""Most bytes of an error, with type and message, in the history of an instance."""


class FailureLog:
    """Writes to the logger `peerjob.job`: WARNING for an attempt with a retry, ERROR for the last attempt.

    The level is INFO if the job raised `Retry` itself.
    """

    def __init__(self, node: str) -> None:
        self._node = node
        self._logged: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()
        self._second: asyncio.TimerHandle | None = None

    def failed(self, run: Run, error: BaseException, info: ErrorInfo, then: str, *, level: int) -> None:
        """Log a failed attempt; `then` says what happens next. Below WARNING, the entry has no traceback.

        The record has the error itself, as `exc_info`: error trackers group failures by it.
        """
        kind = run.claim.kind
        if not logger.isEnabledFor(level):
            return
        if self._second is None:
            self._second = asyncio.get_running_loop().call_later(1.0, self._end_second)
        if self._logged[kind] >= MAX_PER_SECOND:
            self._left_out[kind] += 1
            return
        self._logged[kind] += 1
        text = "instance %s of %r failed in attempt %d on node %r: %s; %s"
        arguments = (run.claim.id, kind, run.claim.attempts, self._node, str(info), then)
        fields = {"instance": run.claim.id, "kind": kind, "attempt": run.claim.attempts}
        raised = error.cause if isinstance(error, BodyError) else error
        shown = (type(raised), raised, from_body(raised.__traceback__)) if level >= logging.WARNING else None
        record = logger.makeRecord(logger.name, level, __file__, 0, text, arguments, shown, "failed", fields)
        if shown is not None:
            # formatters print this text, which is bounded. They do not format the error, whose methods can do anything
            record.exc_text = info.traceback.rstrip()
        logger.handle(record)

    def snoozed(self, run: Run, then: str) -> None:
        """Log an attempt that delayed its instance."""
        if logger.isEnabledFor(logging.INFO):
            logger.info("instance %s of %r on node %r: %s", run.claim.id, run.claim.kind, self._node, then)

    def close(self) -> None:
        """Log the counts of this second."""
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
    """The type and the message of an error on one line of at most MAX_NOTE bytes, for the history."""
    text = " ".join(str(info).split())
    encoded = text.encode()
    if len(encoded) <= MAX_NOTE:
        return text
    return encoded[: MAX_NOTE - 3].decode(errors="ignore") + "…"
