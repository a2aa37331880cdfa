"""A thread for each child process: it waits for the child's end, and for the time between a notice and a kill.

It is started with the child. At the exit of a program no thread can be started, and an executor may be full of other
work or closed already.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import subprocess
import threading
from collections.abc import Callable


class ChildWatcher:
    """Calls back on the loop that made it. Its seconds are real ones, since virtual time stands still for bodies."""

    def __init__(self, child: subprocess.Popen[bytes], *, buried: Callable[[], None]) -> None:
        self._child = child
        self._buried = buried
        self._loop = asyncio.get_running_loop()
        self._orders: queue.SimpleQueue[tuple[float, Callable[[], None]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name=f"peerjob-child-{child.pid}", daemon=True).start()

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call after so many seconds, unless the child is to be buried before; a later call replaces it."""
        self._orders.put((seconds, call))

    def bury(self) -> None:
        """Wait for the end of the child, which was killed, and tell."""
        self._orders.put(None)

    def _serve(self) -> None:
        order = self._orders.get()
        while order is not None:
            seconds, call = order
            try:
                order = self._orders.get(timeout=seconds)
            except queue.Empty:
                self._tell(call)
                order = self._orders.get()
        self._child.wait()
        self._tell(self._buried)

    def _tell(self, call: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(call)
