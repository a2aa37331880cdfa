"""Writes log lines of instances that do not run on this node, such as the lines of their processors."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Mapping, Sequence

from peerjob.cluster.role import BackgroundRole
from peerjob.handles.job_log import make_line
from peerjob.model.clock import Clock
from peerjob.model.errors import StoreError
from peerjob.model.record import MAX_BATCH, LogLine
from peerjob.store.base import Store

logger = logging.getLogger("peerjob.node")

MAX_WAITING = 10_000
"""Most log lines that wait to be written; above this number, the oldest lines are dropped."""


class LogLineWriter(BackgroundRole):
    """Writes lines in the background. Any thread can add lines. Lines are lost if the store does not answer."""

    name = "lines"

    def __init__(self, clock: Clock, store: Store, node: str) -> None:
        super().__init__(clock)
        self._store = store
        self._node = node
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[str, LogLine]] = deque(maxlen=MAX_WAITING)
        self._added = asyncio.Event()
        self._writing = asyncio.Lock()

    def keep(
        self, id: str, level: int, message: str, *, attempt: int = 0, fields: Mapping[str, object] | None = None
    ) -> None:
        """Add one line; `level` is a `logging` number."""
        line = make_line(self.clock.time_us(), level, message, attempt=attempt, node=self._node, fields=fields)
        self.keep_all(id, (line,))

    def keep_all(self, id: str, lines: Sequence[LogLine]) -> None:
        """Add lines."""
        self._waiting.extend((id, line) for line in lines)
        with contextlib.suppress(RuntimeError):  # the event loop is closed, because the node has stopped
            self._loop.call_soon_threadsafe(self._added.set)

    async def run(self) -> None:
        while True:
            await self._added.wait()
            self._added.clear()
            await self.flush()

    async def flush(self, seconds: float | None = None) -> None:
        """Write the waiting lines, and wait for a write that is in progress, for so many seconds at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._writing:
                await self._flush()

    async def _flush(self) -> None:
        while self._waiting:
            id, first = self._waiting.popleft()
            lines = [first]
            while self._waiting and self._waiting[0][0] == id and len(lines) < MAX_BATCH:
                lines.append(self._waiting.popleft()[1])
            try:
                await self._store.add_lines(id, lines)
            except StoreError as error:
                logger.warning("%d log line(s) of instance %s are lost: %s", len(lines), id, error)
