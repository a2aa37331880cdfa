"""The jobs of the fault tests, importable by every node process."""

import asyncio
import os
import signal
import time

from peerjob import INJECTED, Context, Instance, JobGroup

group = JobGroup()


@group.job(kind="work")
async def work(number: int, seconds: float, context: Context = INJECTED) -> list[object]:
    """Sleep; the result says which run was accepted."""
    await asyncio.sleep(seconds)
    return [number, context.fence, os.getpid()]


@group.job(kind="stubborn")
def stubborn(seconds: float, context: Context = INJECTED, instance: Instance = INJECTED) -> int:
    """Go on in a thread whatever happens, and say a lot about it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.05)
        context.progress(0.5, f"from {os.getpid()}")
    instance.log.info("done in %d", os.getpid())
    return os.getpid()


@group.job(kind="poison")
async def poison() -> None:
    """Take the node down."""
    os.kill(os.getpid(), signal.SIGKILL)


JOBS = group
