"""Notices that a node's event loop is blocked, and says which body blocks it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import time
import traceback

from peerjob.node.work.pool import Pool

logger = logging.getLogger("peerjob.node")

BLOCKED_AFTER = 1.0
"""Seconds after which a loop that has not come around counts as blocked."""
PAUSED_AFTER = 3.0
"""Seconds between two looks after which the first one tells nothing."""


class LoopWatch:
    """Made on the loop of a node, and asked from another thread.

    `look` is called about once a second, for as long as the node runs.
    """

    def __init__(self, pool: Pool, node: str) -> None:
        self._pool = pool
        self._node = node
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._asked_at: float | None = None
        self._looked_at = time.monotonic()
        self._said = False

    def look(self) -> None:
        """Ask the loop for a sign of life, or log a warning, once, when the last one did not come."""
        now, looked_at, self._looked_at = time.monotonic(), self._looked_at, time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._came_around)
        elif now - looked_at > PAUSED_AFTER:
            self._asked_at = now  # the whole process may have been paused
        elif not self._said and (seconds := now - self._asked_at) >= BLOCKED_AFTER:
            self._said = True
            logger.warning(
                "node %r: the event loop has been blocked for %.1f s by %s; nothing else of this node runs meanwhile. "
                "A blocking call belongs in a sync job or in run_in='process'",
                self._node,
                seconds,
                self._culprit(),
            )

    def _came_around(self) -> None:
        if self._said and self._asked_at is not None:
            seconds = time.monotonic() - self._asked_at
            logger.warning("node %r: the event loop goes on, after %.1f s", self._node, seconds)
        self._said = False
        self._asked_at = None

    def _culprit(self) -> str:
        task = asyncio.current_task(self._loop)
        run = next((one for one in self._pool.runs() if one.task is task), None)
        who = "a callback" if task is None else f"task {task.get_name()!r}"
        if run is not None:
            who = f"instance {run.claim.id} of {run.claim.kind!r}"
        # the documented way to see another thread
        frame = sys._current_frames().get(self._thread)  # pyright: ignore[reportPrivateUsage]
        if frame is None:
            return who
        where = traceback.extract_stack(frame, limit=1)[0]
        return f"{who}, at {where.filename}:{where.lineno} in {where.name}"
