"""A watch: keys that were put, in this process or in another one."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Mapping


class SqliteWatch:
    """Keys below some prefixes, kept until the event loop of the watch asks."""

    def __init__(self, prefixes: tuple[str, ...], seen: int, on_close: Callable[[SqliteWatch], None]) -> None:
        self.prefixes = prefixes
        self.seen = seen
        """The revision up to which the thread of the file has looked for keys."""
        self._lock = threading.Lock()
        self._put: dict[str, bytes] = {}
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None
        self._on_close = on_close

    def tell(self, puts: Mapping[str, bytes]) -> None:
        """Note keys that were put; called from the thread of the file."""
        mine = {key: value for key, value in puts.items() if key.startswith(self.prefixes)}
        if not mine:
            return
        with self._lock:
            self._put |= mine
            if self._waiting is not None:
                loop, future = self._waiting
                self._waiting = None
                # if the event loop of the waiting task is closed, the task is gone
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(_finish, future)

    async def changed(self, timeout: float) -> dict[str, bytes] | None:
        if not self._put and timeout > 0:
            loop = asyncio.get_running_loop()
            future = loop.create_future()
            with self._lock:
                if not self._put:
                    self._waiting = (loop, future)
                else:
                    _finish(future)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await future
        with self._lock:
            self._waiting = None
            put, self._put = self._put, {}
        return put

    def close(self) -> None:
        self._on_close(self)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
