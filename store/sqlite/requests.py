"""Requests to the thread of a file, and their answers."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from .leases import Leases
from .transaction import SharedTransaction

T = TypeVar("T")
Work = Callable[[SharedTransaction, Leases], T]

WRITE_LOCK_TIMEOUT = 5.0
"""Seconds that a write waits for the write lock while another process writes."""


class BlockingAnswer:
    """Tells a thread that the result of its request is there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self._is_given_up = False

    def wait(self, seconds: float) -> bool:
        """Wait for the result; False if it has not come in time."""
        return self._lock.acquire(timeout=seconds)

    def give_up(self) -> None:
        """Tell the thread of the file that no thread waits any more."""
        self._is_given_up = True

    def cancelled(self) -> bool:
        """Whether no thread waits for the result."""
        return self._is_given_up

    def come(self) -> None:
        """End the wait."""
        if self._lock.locked():
            self._lock.release()


Answer = asyncio.Future[Any] | BlockingAnswer
"""Tells an event loop or a thread the result of a request."""


@dataclass(eq=False, slots=True)
class Request:
    """Work for the thread of a file, and what waits for its result."""

    work: Work[Any]
    answer: Answer
    writes: bool
    durable: bool
    """Whether the answer must wait for the disk."""
    until: float
    """The monotonic time until which a write waits for the write lock."""
    outcome: Any = None
    error: BaseException | None = None

    def run(self, transaction: SharedTransaction, leases: Leases) -> None:
        """Do the work, and keep its result."""
        self.outcome = self.work(transaction, leases)


def request_of(work: Work[Any], answer: Answer | None = None, *, writes: bool, durable: bool) -> Request:
    """A request from now on. Without an `answer`, its result goes to a future of the running event loop."""
    answer = answer or asyncio.get_running_loop().create_future()
    return Request(work, answer, writes, durable, time.monotonic() + WRITE_LOCK_TIMEOUT)


def deliver(requests: Iterable[Request]) -> None:
    """Give the outcomes of requests to the event loops and threads that wait for them."""
    loops: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Request]]] = {}
    for request in requests:
        answer = request.answer
        if isinstance(answer, BlockingAnswer):
            answer.come()
        else:
            loops.setdefault(answer.get_loop(), []).append((answer, request))
    for loop, done in loops.items():
        # a closed event loop has no task that waits
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_finish, done)


def fail(requests: Iterable[Request], error: BaseException) -> None:
    """Give one error to all requests."""
    failed = [*requests]
    for request in failed:
        request.error = error
    deliver(failed)


def _finish(requests: Iterable[tuple[asyncio.Future[Any], Request]]) -> None:
    for future, request in requests:
        if future.done():
            continue
        if request.error is None:
            future.set_result(request.outcome)
        else:
            future.set_exception(request.error)
