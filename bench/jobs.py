"""The jobs that the benchmark runs."""

import asyncio
import time

from peerjob import INJECTED, Instance, Job


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


async def chatter(lines: int, instance: Instance[None] = INJECTED) -> None:
    """Log so many lines, and go on until it is cancelled."""
    for number in range(1, lines + 1):
        instance.log.info("line %s of %s", number, lines)
        if number % 500 == 0:
            await asyncio.sleep(0.1)  # a node drops lines that come faster than it writes them
    await asyncio.Event().wait()


NOOP = Job("noop", noop)
PAUSE = Job("pause", pause)
BLOCK = Job("block", block)
STAMP = Job("stamp", stamp)
CHATTER = Job("chatter", chatter)
