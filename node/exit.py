"""Leaves the cluster when a program ends without a stop."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from peerjob.model.child_tasks import cancel
from peerjob.model.errors import NodeStateError
from peerjob.model.handled_signals import handled

logger = logging.getLogger("peerjob.node")


class AtExit:
    """Calls a function once at the orderly end of this process, unless `cancel` was called before.

    Forked processes do not call the function. Errors of the function are not shown, because the program has already
    ended with its own exit status.
    """

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._pid = os.getpid()
        self._finalizer: Any = None
        atexit.register(self._run)
        if _is_child_of_multiprocessing():
            # a child process of multiprocessing ends with os._exit, which skips the handlers of atexit, but runs the
            # finalizers of multiprocessing
            from multiprocessing.util import Finalize

            self._finalizer = Finalize(None, self._run, exitpriority=100)

    def cancel(self) -> None:
        """Do not call the function; idempotent."""
        atexit.unregister(self._run)
        if self._finalizer is not None:
            self._finalizer.cancel()

    def _run(self) -> None:
        if os.getpid() != self._pid:
            return
        self.cancel()
        try:
            self._call()
        except (Exception, KeyboardInterrupt, asyncio.CancelledError):
            logger.debug("could not leave the cluster at exit; the lease expires", exc_info=True)


def _is_child_of_multiprocessing() -> bool:
    process = sys.modules.get("multiprocessing.process")
    try:
        return process is not None and process.parent_process() is not None
    except (AttributeError, NameError):
        # another thread imports the module at this moment; a child of multiprocessing has imported it before
        return False


@contextlib.contextmanager
def stop_signals() -> Generator[tuple[asyncio.Event, asyncio.Event]]:
    """Events for the first and the second SIGTERM or SIGINT; raises NodeStateError outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        raise NodeStateError("run() needs the main thread, which gets the signals; use `async with` in other threads")
    asked, again = asyncio.Event(), asyncio.Event()

    def on_signal(_: int) -> None:
        (again if asked.is_set() else asked).set()

    with handled((signal.SIGTERM, signal.SIGINT), on_signal):
        yield asked, again


def wait_on(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None], timeout: float, hurry: Callable[[], None]
) -> None:
    """Run a coroutine on the event loop of another thread, and wait. Ctrl-C calls `hurry` on that event loop.

    Raises TimeoutError, and KeyboardInterrupt at the second Ctrl-C.
    """
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        future.result(timeout)
    except KeyboardInterrupt:
        loop.call_soon_threadsafe(hurry)
        future.result(timeout)


async def outlast(task: asyncio.Task[None], on_cancel: Callable[[], None] = lambda: None) -> None:
    """Wait until a task has ended, also if the caller is cancelled meanwhile. Each cancellation calls `on_cancel`.

    Raises the error of the task, or else the cancellation. A timeout of anyio cancels its block again and again.
    """
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
            on_cancel()
    task.result()
    if cancelled is not None:
        raise cancelled


async def call_after(event: asyncio.Event, call: Callable[[], None]) -> None:
    """Call a function when an event is set."""
    await event.wait()
    call()


async def outlast_or_hurry(work: Coroutine[Any, Any, None], hurry: Callable[[], None], asked: asyncio.Event) -> None:
    """Like `outlast`; the event calls `hurry`, too."""
    loop = asyncio.get_running_loop()
    hurrying = loop.create_task(call_after(asked, hurry))
    try:
        await outlast(loop.create_task(work), hurry)
    finally:
        cancel(hurrying)


def abandon(task: asyncio.Task[Any]) -> None:
    """Let the event loop and the interpreter end without a task that ignores cancellation.

    `asyncio.run` waits for every task that it knows. When the interpreter destroys a task, it raises GeneratorExit in
    the coroutine. A coroutine that catches all errors in a loop then never ends, because awaits no longer work.
    """
    import ctypes  # not at the top: it takes 0.3 MiB, and few programs end so

    asyncio._unregister_task(task)  # asyncio documents this private function for other libraries
    # the call adds a reference that no code removes, so the interpreter never destroys the task
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(task))
