"""Ends child tasks and iterators, also when Python destroys their parent after its event loop was closed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Generator
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")


def cancel(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks, unless their event loop is closed.

    Python destroys the coroutines of a closed event loop in any order. Python 3.11 crashes if a parent's `finally`
    cancels a task that is within `asyncio.timeout`: then only the timeout holds the task, and frees the task too early.
    """
    for task in tasks:
        if not task.get_loop().is_closed():
            task.cancel()


async def end(tasks: Collection[asyncio.Future[Any]]) -> None:
    """Cancel tasks, and wait for their end; does nothing if their event loop is closed."""
    running = [task for task in tasks if not task.get_loop().is_closed()]
    cancel(*running)
    if running:
        await asyncio.gather(*running, return_exceptions=True)


@contextlib.contextmanager
def cancelled_after(call: Any) -> Generator[None]:
    """Cancel a call of gRPC after the block, unless the event loop was closed meanwhile."""
    loop = asyncio.get_running_loop()
    try:
        yield
    finally:
        if not loop.is_closed():
            call.cancel()


class AsyncClosing(Generic[T]):
    """Like `contextlib.aclosing`, which fails if Python destroys the coroutine while it awaits the iterator.

    Python then ends the iterator first. Until Python 3.13 the iterator stays marked as running, and refuses to close.
    """

    def __init__(self, iterator: T) -> None:
        self._iterator = iterator

    async def __aenter__(self) -> T:
        return self._iterator

    async def __aexit__(self, *error: object) -> None:
        if not getattr(self._iterator, "ag_running", False):
            await cast(Any, self._iterator).aclose()
