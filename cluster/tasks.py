"""Ends child tasks, also when Python destroys their parent after its event loop was closed."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any


def cancel(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks, unless their event loop is closed.

    Python destroys the coroutines of a closed event loop in any order. Python 3.11 crashes if a parent's `finally`
    cancels a task that is within `asyncio.timeout`: then only the timeout holds the task, and frees the task too early.
    """
    for task in tasks:
        if not task.get_loop().is_closed():
            task.cancel()


async def end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks, and wait for their end; does nothing if their event loop is closed."""
    running = [task for task in tasks if not task.get_loop().is_closed()]
    cancel(*running)
    if running:
        await asyncio.wait(running)
