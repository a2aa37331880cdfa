"""Permits: how many calls may be under way at the same time."""

from __future__ import annotations

import asyncio
from collections import deque


class Permits:
    """A semaphore without a coroutine for a permit that is free, since each call of a store or a server needs one."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: deque[asyncio.Future[None]] = deque()

    def take(self) -> bool:
        """Take a permit; False if none is free. Then `wait` takes one."""
        if self._free:
            self._free -= 1
            return True
        return False

    async def wait(self) -> None:
        """Take the next permit that a call gives back; the first one in line gets it."""
        if self.take():
            return
        given = asyncio.get_running_loop().create_future()
        self._waiting.append(given)
        try:
            await given
        except asyncio.CancelledError:
            if given.done() and not given.cancelled():  # it was given at the same moment
                self.give_back()
            raise

    def give_back(self) -> None:
        """Give a permit to the first call in line, or to the next call that asks."""
        while self._waiting:
            given = self._waiting.popleft()
            if not given.done():
                given.set_result(None)
                return
        self._free += 1
