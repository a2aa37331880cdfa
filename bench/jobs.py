"""The jobs that the benchmark runs."""

import asyncio
import time

from peerjob import Job


async def noop(n: int) -> int:
    return n


async def pause(n: int) -> int:
    await asyncio.sleep(0.010)
    return n


def block(n: int) -> int:
    time.sleep(0.010)
    return n


async def stamp(n: int) -> float:
    """The time at which the job started, by the monotonic clock that all processes of a machine share."""
    return time.monotonic()


NOOP = Job("noop", noop)
PAUSE = Job("pause", pause)
BLOCK = Job("block", block)
STAMP = Job("stamp", stamp)
