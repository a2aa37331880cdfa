"""A thread for each child process: it waits for the child's end, and for the time between a notice and a kill.

The thread starts with the child. When a program exits, no thread can be started, and an executor may be full or closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import subprocess
import threading
from collections.abc import Callable


class ChildWatcher:
    """Calls back on the event loop that made the watcher, after real seconds: virtual time stands still for bodies."""

    def __init__(self, child: subprocess.Popen[bytes], *, on_reaped: Callable[[], None]) -> None:
        self._child = child
        self._on_reaped = on_reaped
        self._loop = asyncio.get_running_loop()
        self._orders: queue.SimpleQueue[tuple[float, Callable[[], None]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name=f"peerjob-child-{child.pid}", daemon=True).start()

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call back after so many seconds, unless `reap` or another `call_later` comes before."""
        self._orders.put((seconds, call))

    def reap(self) -> None:
        """Wait for the end of the killed child, then call `on_reaped`."""
        self._orders.put(None)

    def _serve(self) -> None:
        order = self._orders.get()
        while order is not None:
            seconds, call = order
            try:
                order = self._orders.get(timeout=seconds)
            except queue.Empty:
                self._call(call)
                order = self._orders.get()
        self._child.wait()
        self._call(self._on_reaped)

    def _call(self, call: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed, so no task waits for the call
            self._loop.call_soon_threadsafe(call)
