"""How tests wait for a condition that sends no signal."""

import asyncio
from collections.abc import Awaitable, Callable

PATIENCE = 60.0
"""Seconds after which something hangs. It says nothing about how fast anything is, on a machine that is busy."""
IN_TIME = 25.0
"""Seconds, fewer than those for which an open store tries again while its server is away."""
LOOK = 0.01


async def until(condition: Callable[[], Awaitable[object]], timeout: float = PATIENCE) -> None:
    """Ask again and again, in real time, until the condition holds."""
    async with asyncio.timeout(timeout):
        while not await condition():  # noqa: ASYNC110  # that is the point
            await asyncio.sleep(LOOK)
