"""Threads for sync bodies: as many as run at a time, up to the number of workers."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
Work = Callable[[], Any]
_Answer = tuple[bool, Any]
"""Whether the work raised, and the error or the result."""


async def wait_to_end(work: asyncio.Future[T], on_cancel: Callable[[], object]) -> T:
    """Wait for work that a cancellation does not end: a cancellation calls `on_cancel`, and the wait goes on.

    An exception from `on_cancel` ends the wait.
    """
    while not work.done():
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            if work.cancelled():
                raise
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
            on_cancel()
    return work.result()


class ThreadPool:
    """Runs functions in daemon threads, so that a process can end although a body never returns."""

    def __init__(self, size: int, name: str = "peerjob-worker") -> None:
        self._size = size
        self._name = name
        self._work: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = 0
        """Number of threads that wait for work, minus number of items that wait for a thread."""
        self._held = 0
        """Number of threads whose caller has given up waiting; the limit of threads does not count them."""
        self._open: set[_Item] = set()
        """Items whose caller still waits for an answer."""

    async def run(self, work: Work, on_cancel: Callable[[], object]) -> Any:
        """Return or raise what the function does, once it has ended.

        A cancellation does not end the wait, because a thread cannot be ended: `on_cancel` can tell the function. Only
        `close` and an exception from `on_cancel` end the wait. After that, another thread can replace the occupied one.
        """
        item = _Item(work)
        self._add(item)
        self._open.add(item)
        try:
            failed, value = await wait_to_end(item.done, on_cancel)
        except BaseException:
            if not item.done.cancelled():
                self._replace_thread(item)
            raise
        finally:
            self._open.discard(item)
        if not failed:
            return value
        try:
            raise value
        finally:
            del value, item  # break a reference cycle: the error refers to this frame, and the frame to the error

    def resize(self, size: int) -> None:
        """Change the limit of threads; surplus threads end after their present work."""
        with self._lock:
            self._size = size
            self._end_surplus()

    def close(self) -> None:
        """End every thread, after its present work; callers that still wait get a CancelledError."""
        self.resize(0)
        for item in self._open:
            item.done.cancel()

    def _replace_thread(self, item: _Item) -> None:
        """Allow one more thread for as long as work that its caller gave up occupies a thread."""
        with self._lock:
            item.abandoned = True
            if item.began and not item.ended:
                item.held = True
                self._held += 1
                if self._idle < 0:
                    self._start_thread()

    def _add(self, item: _Item) -> None:
        with self._lock:
            self._idle -= 1
            if self._idle < 0 and self._threads - self._held < max(1, self._size):
                self._start_thread()
            self._work.put(item)

    def _start_thread(self) -> None:
        self._threads += 1
        self._idle += 1
        name = f"{self._name}-{self._threads}"
        threading.Thread(target=self._serve, name=name, daemon=True).start()

    def _end_surplus(self) -> None:
        for _ in range(min(self._idle, self._threads - self._held - self._size)):
            self._idle -= 1
            self._threads -= 1
            self._work.put(None)

    def _serve(self) -> None:
        while (item := self._work.get()) is not None:
            item.began = True
            answer = _done(item.work) if not item.abandoned else (False, None)
            # count the thread as idle before the caller gets the answer, because the caller can add work immediately
            with self._lock:
                item.ended = True
                self._held -= item.held
                self._idle += 1
                self._end_surplus()
            item.post(answer)
            del item, answer


class _Item:
    """One piece of work, with its state and a future for its answer."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.began = self.ended = self.abandoned = self.held = False
        self._loop = asyncio.get_running_loop()
        self.done: asyncio.Future[_Answer] = self._loop.create_future()

    def post(self, answer: _Answer) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed, so no caller waits
            self._loop.call_soon_threadsafe(self._finish, answer)

    def _finish(self, answer: _Answer) -> None:
        if not self.done.done():
            self.done.set_result(answer)


def _done(work: Work) -> _Answer:
    """Call the work in a separate frame, so that the traceback of an error keeps no variables of the caller alive."""
    try:
        return False, work()
    except BaseException as error:  # noqa: BLE001  # an error of a body must not end the thread
        return True, error
