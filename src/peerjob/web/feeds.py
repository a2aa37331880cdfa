"""What happens to one instance, for all its live views: one watch of the manager for each instance that is open."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import Context
from typing import Any, cast

from peerjob.handles.entries import LogEntry
from peerjob.handles.instance import Event, Instance
from peerjob.handles.manager import Manager
from peerjob.model.child_tasks import AsyncClosing, cancel
from peerjob.model.errors import PeerjobError

from .children import Children
from .links import Links

logger = logging.getLogger("peerjob.web")

MAX_LINES = 1_000
"""The most log lines of one page. A link leads to the others."""
CHUNK = 100
"""The most log lines that are rendered at a time."""


class Chunk:
    """Log lines that follow one another. They are rendered once for all views."""

    def __init__(self, lines: list[LogEntry]) -> None:
        self.lines = lines
        self._sent: bytes | None = None

    def event(self, render: Callable[[list[LogEntry]], str]) -> bytes:
        """The event with the lines, as `render` makes it."""
        if self._sent is None:
            self._sent = render(self.lines).encode()
        return self._sent


class Explained:
    """Why an instance is in its state, and the parts of its page, shared by all views."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.reasons: list[str] = []
        self.children: Children | None = None
        self.drawn: dict[Links, tuple[Children | None, str]] = {}
        """The children that were drawn last, as text."""
        self.at = float("-inf")
        self.state = ""
        self.parts: dict[Links, tuple[Instance[Any], list[str], float, Mapping[str, str]]] = {}


class Feed:
    """The latest record of an instance, and its last log lines."""

    def __init__(self) -> None:
        self.instance: Instance[Any] | None = None
        self.explained = Explained()
        self.count = 0
        """How many lines there were."""
        self.ended = False
        """Whether no more comes: the instance is final, or the watch broke off."""
        self.readers = 0
        self._chunks: deque[Chunk] = deque()
        self._kept = self._dropped = 0
        """How many lines are kept, and how many chunks were dropped because later ones fill a page."""
        self._new: list[LogEntry] = []
        """The latest lines, which no view has."""
        self._changed = asyncio.Event()

    async def run(self, manager: Manager, id: str) -> None:
        """Follow the instance."""
        try:
            async with AsyncClosing(cast("AsyncGenerator[Event]", manager.watch_instance(id))) as events:
                async for event in events:
                    self.instance = event.instance
                    if event.log is not None:
                        self._add(event.log)
                        if not self.count % CHUNK:
                            await asyncio.sleep(0)  # a store in memory answers without a pause
                    self._wake()
        except PeerjobError:
            pass  # the views end, and open again
        except Exception:
            logger.exception("the watch of instance %s failed; its live views end, and open again", id)
        finally:
            self.ended = True
            self._wake()

    def _add(self, line: LogEntry) -> None:
        self.count += 1
        self._new.append(line)
        if len(self._new) >= CHUNK:
            self._end_chunk()

    def _end_chunk(self) -> None:
        if self._new:
            self._chunks.append(Chunk(self._new))
            self._new = []
            self._kept += len(self._chunks[-1].lines)
        while self._chunks and self._kept - len(self._chunks[0].lines) >= MAX_LINES:
            self._kept -= len(self._chunks.popleft().lines)
            self._dropped += 1

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def news(self, seconds: float) -> None:
        """Wait for a change, for so many seconds at most."""
        changed = self._changed
        if not self.ended:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await changed.wait()

    def chunks_since(self, number: int) -> tuple[list[Chunk], int]:
        """The chunks after the first `number` ones, as far as they are kept, and how many there are now."""
        self._end_chunk()
        return list(self._chunks)[max(0, number - self._dropped) :], self._dropped + len(self._chunks)


class Feeds:
    """The feeds that are open."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._feeds: dict[str, tuple[Feed, asyncio.Task[None]]] = {}

    @asynccontextmanager
    async def open(self, id: str) -> AsyncGenerator[Feed]:
        """The feed of an instance, shared by its readers."""
        known = self._feeds.get(id)
        if known is None or known[0].ended:
            feed = Feed()
            task = asyncio.get_running_loop().create_task(
                feed.run(self._manager, id), name="peerjob-web-feed", context=Context()
            )
            known = self._feeds[id] = feed, task
        feed, task = known
        feed.readers += 1
        try:
            yield feed
        finally:
            feed.readers -= 1
            if not feed.readers:
                cancel(task)
                if self._feeds.get(id) is known:
                    del self._feeds[id]
