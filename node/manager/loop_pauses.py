"""Long work on the event loop, with pauses in which other tasks run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

MAX_STRETCH = 0.01
"""Seconds of work after which the event loop runs other tasks."""
MAX_SMALL = 4_096
"""Most bytes of a value that needs no pause."""


def map_with_pauses(items: Iterable[T], make: Callable[[T], R]) -> Coroutine[Any, Any, list[R]]:
    """Call `make` for each item, with pauses between the calls; return the results."""
    return list_with_pauses(map(make, items))


async def list_with_pauses(items: Iterable[T]) -> list[T]:
    """Return the list of items, with pauses between those that take long to make."""
    made: list[T] = []
    # Measure with the time of the event loop. In a test, this time is virtual and stands still during the work, so that
    # the load of the machine does not change the test.
    now = asyncio.get_running_loop().time
    began = now()
    for item in items:
        made.append(item)
        if now() - began > MAX_STRETCH:
            await asyncio.sleep(0)
            began = now()
    return made


async def pause_after(size: int) -> None:
    """Pause after work on a value of so many bytes, unless it is small."""
    if size > MAX_SMALL:
        await asyncio.sleep(0)
