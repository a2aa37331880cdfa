"""Objects of asyncio that outlive an event loop: a node can start again in another one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerLoop(Generic[T]):
    """A lock, a semaphore or an event, made anew in each event loop.

    asyncio binds such an object to the loop of its first wait. In another loop, each later wait raises RuntimeError.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: tuple[asyncio.AbstractEventLoop, T] | None = None

    def __call__(self) -> T:
        """Return the object of the running loop."""
        loop, made = asyncio.get_running_loop(), self._made
        if made is None or made[0] is not loop:
            made = self._made = (loop, self._make())
        return made[1]
