"""Threads for sync bodies: as many as are needed at a time, up to the number of workers."""

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
"""Whether it raised, and what it raised or returned."""


async def to_the_end(work: asyncio.Future[T], on_cancel: Callable[[], object]) -> T:
    """The result of work that a cancellation does not end: `on_cancel` is called then, and the wait goes on.

    The wait ends all the same with what `on_cancel` raises.
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
    """Runs functions in daemon threads, so that a body which never returns does not keep the process from ending."""

    def __init__(self, size: int, name: str = "peerjob-worker") -> None:
        self._size = size
        self._name = name
        self._work: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = 0
        """Threads that wait for work, less the work that waits for threads."""
        self._held = 0
        """Threads of these that are held by work which was given up."""
        self._open: set[_Item] = set()
        """What somebody waits for."""

    async def run(self, work: Work, on_cancel: Callable[[], object]) -> Any:
        """What the function returns or raises, once it has ended.

        A cancellation does not end the wait, since nothing ends a thread: `on_cancel` may tell the function. Only
        `close` does, and an `on_cancel` that raises; the pool then does without that thread until its function returns.
        """
        item = _Item(work)
        self._add(item)
        self._open.add(item)
        try:
            failed, value = await to_the_end(item.done, on_cancel)
        except BaseException:
            if not item.done.cancelled():
                self._do_without(item)
            raise
        finally:
            self._open.discard(item)
        if not failed:
            return value
        try:
            raise value
        finally:
            del value, item  # this frame too is held by the error

    def resize(self, size: int) -> None:
        """Change how many threads there may be; those that are too many end with what they are doing."""
        with self._lock:
            self._size = size
            self._end_surplus()

    def close(self) -> None:
        """Let every thread end, now or with what it is doing; who still waits for one gets a CancelledError."""
        self.resize(0)
        for item in self._open:
            item.done.cancel()

    def _do_without(self, item: _Item) -> None:
        """Let another thread take the place of the one that is held by work whose result is not waited for."""
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
            with self._lock:  # before the answer: its reader may have more work at once
                item.ended = True
                self._held -= item.held
                self._idle += 1
                self._end_surplus()
            item.post(answer)
            del item, answer


class _Item:
    """Work on its way through a thread."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.began = self.ended = self.abandoned = self.held = False
        self._loop = asyncio.get_running_loop()
        self.done: asyncio.Future[_Answer] = self._loop.create_future()

    def post(self, answer: _Answer) -> None:
        # a loop that was closed meanwhile has nobody left who waits
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._finish, answer)

    def _finish(self, answer: _Answer) -> None:
        if not self.done.done():
            self.done.set_result(answer)


def _done(work: Work) -> _Answer:
    """In a frame of its own, which knows nothing of who waits: an error holds the frames that it came through."""
    try:
        return False, work()
    except BaseException as error:  # noqa: BLE001  # nothing that a body raises may end the thread
        return True, error
