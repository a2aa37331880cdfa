"""Work of many parts on the event loop, with a pause for everything else after each few milliseconds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

AT_A_STRETCH = 0.01
"""Seconds after which the loop gets a turn."""
SMALL = 4_096
"""Bytes of a value that takes no time worth a pause."""


async def map_with_pauses(items: Iterable[T], make: Callable[[T], R]) -> list[R]:
    """What `make` returns for each item; one call is never divided."""
    made: list[R] = []
    # on virtual time, which stands still meanwhile, how busy the machine is must not change what happens
    now = asyncio.get_running_loop().time
    began = now()
    for item in items:
        made.append(make(item))
        if now() - began > AT_A_STRETCH:
            await asyncio.sleep(0)
            began = now()
    return made


async def pause_after(size: int) -> None:
    """Let the loop have a turn after work on a value of so many bytes, unless it is small."""
    if size > SMALL:
        await asyncio.sleep(0)
