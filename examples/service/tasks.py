"""The jobs of `jobd run tasks` in the compose files and manifests: some to try, and one with a schedule.

jobctl schedule add 40 2 --wait
jobctl schedule sleep 30
jobctl schedule flaky 0.5
jobctl schedules fires heartbeat
"""

import asyncio
import logging
import random

from peerjob import INJECTED, Backoff, Context, job

logger = logging.getLogger("tasks")


@job(kind="add")
def add(x: int, y: int) -> int:
    return x + y


@job(kind="sleep", timeout="1h")
async def sleep(seconds: float, context: Context = INJECTED) -> str:
    """Sleep, and report progress."""
    steps = max(1, round(seconds))
    for step in range(steps):
        await asyncio.sleep(seconds / steps)
        context.progress((step + 1) / steps)
    return f"slept {seconds:g} s"


@job(kind="flaky", max_retries=5, backoff=Backoff.exponential())
async def flaky(chance: float) -> str:
    """Fail with this probability, from 0 to 1."""
    if random.random() < chance:
        raise RuntimeError("bad luck")
    return "good luck"


@job(kind="heartbeat", every="10s")
async def heartbeat(context: Context = INJECTED) -> None:
    logger.info("the heartbeat of %s", context.nominal_at)
