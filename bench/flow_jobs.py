"""The durable bodies that `flows.py` runs."""

import time

from peerjob import INJECTED, Context, Job, Signal

NEVER = Signal("never", bool)


async def noop(n: int) -> int:
    return n


async def fan_out(children: int, context: Context = INJECTED) -> float:
    """Wait for so many children; the time at which the last run of the body began, by the clock of the machine."""
    began = time.time()
    await context.map("child", (CHILD.call(n) for n in range(children)))
    return began


async def stepped(steps: int, context: Context = INJECTED) -> None:
    for n in range(steps):
        await context.step(str(n), noop, n)


async def asleep(n: int, context: Context = INJECTED) -> bool:
    return await context.wait_for(NEVER)


NOOP = Job("noop", noop)
CHILD = Job[[int], int]("noop")
"""The same kind without its function, so that a node which makes the children runs none of them."""
FAN_OUT = Job("fan-out", fan_out)
STEPPED = Job("stepped", stepped)
ASLEEP = Job("asleep", asleep)
