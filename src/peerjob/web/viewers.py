"""Counts the live views of a process."""

from __future__ import annotations

import asyncio
import contextlib

from peerjob.model.shares import Shares

MAX_VIEWERS = 200
"""The most live views of one dashboard. Further pages do not update by themselves."""
MAX_VIEWERS_CALLER = 100
"""The most live views of one caller: of a token, or of an address."""
RESERVED_VIEWERS = 10
"""The last of the live views, which are for admins."""


class Viewers:
    """The live views that are open."""

    def __init__(self) -> None:
        self._open = Shares(MAX_VIEWERS, MAX_VIEWERS_CALLER, RESERVED_VIEWERS)
        self._one_at_a_time = asyncio.Lock()
        self.closed = asyncio.Event()

    def admits(self, caller: str, *, admin: bool) -> bool:
        """Whether a caller may open one view more."""
        return not self.closed.is_set() and self._open.admits(caller, admin=admin)

    def close(self) -> None:
        """Let all views end, and no further one open."""
        self.closed.set()

    async def wait_for_others(self) -> None:
        """Wait until no other view works; other requests come before this one goes on."""
        async with self._one_at_a_time:
            await asyncio.sleep(0)

    def counted(self, caller: str) -> contextlib.AbstractContextManager[None]:
        """Count a view of a caller until the `with` block ends."""
        return self._open.taken(caller)
