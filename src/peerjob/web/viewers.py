"""Counts the live views of a process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator

MAX_VIEWERS = 200
"""The most live views of one dashboard. Further pages do not update by themselves."""


class Viewers:
    """The live views that are open."""

    def __init__(self) -> None:
        self._open = 0
        self._turns = asyncio.Lock()
        self.closed = asyncio.Event()

    @property
    def full(self) -> bool:
        """Whether no further view may open."""
        return self._open >= MAX_VIEWERS or self.closed.is_set()

    def close(self) -> None:
        """Let all views end, and no further one open."""
        self.closed.set()

    async def turn(self) -> None:
        """Wait until it is the turn of this view to work: other requests come between two turns."""
        async with self._turns:
            await asyncio.sleep(0)

    @contextlib.contextmanager
    def counted(self) -> Generator[None]:
        """Count a view until the `with` block ends."""
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
