"""What happens to one instance, for all its live views: one watch of the manager for each instance that is open."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

from peerjob.handles.entries import LogEntry
from peerjob.handles.instance import Event, Instance
from peerjob.handles.manager import Manager
from peerjob.model.errors import PeerjobError

logger = logging.getLogger("peerjob.web")

MAX_LINES = 1_000
"""The most log lines of one page. A link leads to the others."""


class Feed:
    """The latest record of an instance, and its last log lines."""

    def __init__(self) -> None:
        self.instance: Instance[Any] | None = None
        self.lines: deque[LogEntry] = deque(maxlen=MAX_LINES)
        self.count = 0
        """How many lines there were."""
        self.ended = False
        """Whether no more comes: the instance is final, or the watch broke off."""
        self.readers = 0
        self._changed = asyncio.Event()

    async def run(self, manager: Manager, id: str) -> None:
        """Follow the instance."""
        try:
            async with aclosing(cast("AsyncGenerator[Event]", manager.watch_instance(id))) as events:
                async for event in events:
                    self.instance = event.instance
                    if event.log is not None:
                        self.lines.append(event.log)
                        self.count += 1
                    self._wake()
        except PeerjobError:
            pass  # the views end, and open again
        except Exception:
            logger.exception("the watch of instance %s failed; its live views end, and open again", id)
        finally:
            self.ended = True
            self._wake()

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

    def lines_since(self, count: int) -> list[LogEntry]:
        """The lines after the first `count` ones, as far as they are kept."""
        new = min(self.count - count, len(self.lines))
        return list(self.lines)[len(self.lines) - new :] if new > 0 else []


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
            task = asyncio.get_running_loop().create_task(feed.run(self._manager, id), name="peerjob-web-feed")
            known = self._feeds[id] = feed, task
        feed, task = known
        feed.readers += 1
        try:
            yield feed
        finally:
            feed.readers -= 1
            if not feed.readers:
                task.cancel()
                if self._feeds.get(id) is known:
                    del self._feeds[id]
