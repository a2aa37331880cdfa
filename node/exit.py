"""Leaves the cluster for a program that ends without a stop."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import ctypes
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from peerjob.model.errors import NodeStateError

logger = logging.getLogger("peerjob.node")


class AtExit:
    """Calls a function once when this process ends in an orderly way, unless it is cancelled before.

    A process that was forked from this one does not call it. What the function raises is not shown: the program has
    ended, and its exit status is its own.
    """

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._pid = os.getpid()
        self._finalizer: Any = None
        atexit.register(self._run)
        process = sys.modules.get("multiprocessing.process")
        if process is not None and process.parent_process() is not None:
            # a forked child of multiprocessing ends with os._exit, after its finalizers and without exit handlers
            from multiprocessing.util import Finalize

            self._finalizer = Finalize(None, self._run, exitpriority=100)

    def cancel(self) -> None:
        """Do not call it; idempotent."""
        atexit.unregister(self._run)
        if self._finalizer is not None:
            self._finalizer.cancel()

    def _run(self) -> None:
        if os.getpid() != self._pid:
            return
        self.cancel()
        try:
            self._call()
        except (Exception, KeyboardInterrupt, asyncio.CancelledError):  # see above
            logger.debug("could not leave the cluster at exit; the lease expires", exc_info=True)


@contextlib.contextmanager
def stop_signals() -> Generator[tuple[asyncio.Event, asyncio.Event]]:
    """Events for the first SIGTERM or SIGINT and for the next one; raises NodeStateError outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        raise NodeStateError("run() waits for signals, which only the main thread gets; use `async with` elsewhere")
    loop = asyncio.get_running_loop()
    asked, again = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (again if asked.is_set() else asked).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        yield asked, again
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def wait_on(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None], timeout: float, hurry: Callable[[], None]
) -> None:
    """Run work on a loop that runs in another thread, and wait for its end; Ctrl-C calls `hurry` on that loop.

    Raises TimeoutError, and KeyboardInterrupt at the second Ctrl-C.
    """
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        future.result(timeout)
    except KeyboardInterrupt:
        loop.call_soon_threadsafe(hurry)
        future.result(timeout)


def abandon(task: asyncio.Task[Any]) -> None:
    """Let the event loop and the interpreter end without a task that ignores cancellation.

    `asyncio.run` waits for every task that it knows. A task that the interpreter destroys at its end raises
    GeneratorExit in its coroutine, and a loop that catches everything then never ends, since no await works any more.
    """
    asyncio._unregister_task(task)  # documented for those who extend asyncio
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(task))  # so it is never destroyed
