"""Requests to the thread of a file, and their answers."""

from __future__ import annotations

import asyncio
import contextlib
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


@dataclass(eq=False, slots=True)
class Request:
    """Work for the thread of a file, and the future for its result."""

    work: Work[Any]
    future: asyncio.Future[Any]
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


def request_of(work: Work[Any], *, writes: bool, durable: bool) -> Request:
    """A request whose future belongs to the running event loop."""
    future = asyncio.get_running_loop().create_future()
    return Request(work, future, writes, durable, time.monotonic() + WRITE_LOCK_TIMEOUT)


def deliver(requests: Iterable[Request]) -> None:
    """Give the outcomes of requests to the event loops that wait for them."""
    loops: dict[asyncio.AbstractEventLoop, list[Request]] = {}
    for request in requests:
        loops.setdefault(request.future.get_loop(), []).append(request)
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


def _finish(requests: Iterable[Request]) -> None:
    for request in requests:
        if request.future.done():
            continue
        if request.error is None:
            request.future.set_result(request.outcome)
        else:
            request.future.set_exception(request.error)
