"""A watch of keys that threads of this process put, for drivers that need no server."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from abc import ABC, abstractmethod


class LocalWatch(ABC):
    """Keys that were put below some prefixes, kept until the event loop of the watch asks."""

    def __init__(self, prefixes: tuple[str, ...]) -> None:
        self.prefixes = prefixes
        self._lock = threading.Lock()
        self._put: dict[str, bytes] = {}
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None

    def tell(self, key: str, value: bytes) -> None:
        """Remember a key that was put, from any thread; keys below other prefixes are left out."""
        if not key.startswith(self.prefixes):
            return
        with self._lock:
            self._put[key] = value
        self.wake()

    def wake(self) -> None:
        """End the wait of `changed` now, from any thread."""
        with self._lock:
            waiting, self._waiting = self._waiting, None
        if waiting is None:
            return
        loop, future = waiting
        if loop is _running_loop():
            _finish(future)
        else:
            # if the event loop of the waiting task is closed, the task is gone
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_finish, future)

    async def changed(self, timeout: float) -> dict[str, bytes] | None:
        if not self._put and timeout > 0:
            loop = asyncio.get_running_loop()
            future = loop.create_future()
            with self._lock:
                if self._put:
                    _finish(future)
                else:
                    self._waiting = (loop, future)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await future
        with self._lock:
            self._waiting = None
            put, self._put = self._put, {}
        return put

    @abstractmethod
    def close(self) -> None:
        """End the watch."""


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
