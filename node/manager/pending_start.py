"""A start of a node that a stop can end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

from peerjob.model.errors import NodeStateError
from peerjob.node.exit import outlast


class PendingStart:
    """A call of `start` that has not returned yet. A call of `stop` can end the start."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._starter = asyncio.current_task()
        self._opening: asyncio.Task[None] | None = None
        self._stopped = False
        self.ended = asyncio.Event()

    async def unless_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        """Await the work; raises NodeStateError immediately when `stop` is called."""
        opening = self._opening = asyncio.get_running_loop().create_task(work)
        try:
            await asyncio.wait([opening])
        finally:
            if not (opening.done() or opening.get_loop().is_closed()):
                opening.cancel()
                with contextlib.suppress(Exception):  # ignored: the caller of `start` was cancelled
                    await outlast(opening)
        self.check()
        opening.result()

    def check(self) -> None:
        """Raise NodeStateError after `stop`."""
        if self._stopped:
            raise NodeStateError(f"node {self._name!r} was stopped while it started")

    async def stop(self) -> None:
        """End the start, and wait for its end."""
        self._stopped = True
        if self._opening is not None:
            self._opening.cancel()
        # a lifespan runs inside `start`, so a `stop` that the lifespan calls must not wait for the end of `start`
        if asyncio.current_task() is not self._starter:
            await self.ended.wait()
