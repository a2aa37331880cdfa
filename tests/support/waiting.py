"""How tests wait for a condition that sends no signal."""

import asyncio
import inspect
from collections.abc import Callable

PATIENCE = 60.0
"""Seconds after which something hangs. It says nothing about how fast anything is, on a machine that is busy."""
IN_TIME = 25.0
"""Seconds, fewer than those for which an open store tries again while its server is away."""
LOOK = 0.01


async def until(condition: Callable[[], object], timeout: float = PATIENCE) -> None:
    """Call the condition again and again, in real time, until its value is true; a coroutine is awaited."""
    async with asyncio.timeout(timeout):
        while True:
            value = condition()
            if await value if inspect.isawaitable(value) else value:
                return
            await asyncio.sleep(LOOK)
