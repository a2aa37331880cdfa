"""Warns that the event loop of a node is blocked, and names the body that blocks it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import time
import traceback

from peerjob.node.work.in_flight import InFlight
from peerjob.node.work.pool import Pool

logger = logging.getLogger("peerjob.node")

BLOCKED_AFTER = 1.0
"""Seconds without an answer, after which the event loop counts as blocked."""
SILENT_AFTER = 0.2
"""Seconds without an answer, after which a claim that waits in the store is withdrawn."""
PAUSED_AFTER = 3.0
"""If more seconds pass between two checks, the whole process was probably paused, so no warning is logged."""


class LoopWatch:
    """Checks the event loop on which the watch was made.

    The thread of the lease calls `ask` and then `check` about once a second, for as long as the node runs.
    """

    def __init__(self, pool: Pool, in_flight: InFlight, node: str) -> None:
        self._pool = pool
        self._in_flight = in_flight
        self._node = node
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._asked_at: float | None = None
        self._checked_at = time.monotonic()
        self._warned = False

    @property
    def answers(self) -> bool:
        """Whether no answer is missing."""
        return self._asked_at is None

    def ask(self) -> None:
        """Ask the event loop to answer, unless an answer is missing."""
        if self._asked_at is None:
            self._asked_at = time.monotonic()
            with contextlib.suppress(RuntimeError):  # the event loop is closed, so no warning is needed
                self._loop.call_soon_threadsafe(self._answered)

    def check(self) -> str | None:
        """Warn once if the event loop is blocked. Returns the request of a claim that the lease must withdraw."""
        now, checked_at, self._checked_at = time.monotonic(), self._checked_at, time.monotonic()
        asked_at = self._asked_at
        if asked_at is None:
            return None
        self._warn(now, asked_at, checked_at)
        return self._in_flight.give_up_hinted_claim() if now - asked_at >= SILENT_AFTER else None

    def _warn(self, now: float, asked_at: float, checked_at: float) -> None:
        if now - checked_at > PAUSED_AFTER:
            # measure again from now on, because the whole process was probably paused, not only the event loop
            self._asked_at = now
        elif not self._warned and (seconds := now - asked_at) >= BLOCKED_AFTER:
            self._warned = True
            logger.warning(
                "node %r: the event loop has been blocked for %.1f s by %s; nothing else of this node runs meanwhile. "
                "A blocking call belongs in a sync job or in run_in='process'",
                self._node,
                seconds,
                self._blocker(),
            )

    def _answered(self) -> None:
        if self._warned and self._asked_at is not None:
            seconds = time.monotonic() - self._asked_at
            logger.warning("node %r: the event loop goes on, after %.1f s", self._node, seconds)
        self._warned = False
        self._asked_at = None

    def _blocker(self) -> str:
        task = asyncio.current_task(self._loop)
        run = next((run for run in self._pool.runs() if run.task is task), None)
        name = "a callback" if task is None else f"task {task.get_name()!r}"
        if run is not None:
            name = f"instance {run.claim.id} of {run.claim.kind!r}"
        # sys._current_frames is public in spite of its name: Python documents the function for reading other threads
        frame = sys._current_frames().get(self._thread)  # pyright: ignore[reportPrivateUsage]
        if frame is None:
            return name
        location = traceback.extract_stack(frame, limit=1)[0]
        return f"{name}, at {location.filename}:{location.lineno} in {location.name}"
