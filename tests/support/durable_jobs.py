"""Durable bodies for tests with node processes."""

import os
import time
from pathlib import Path

from peerjob import INJECTED, BlockingContext, Context, JobGroup, OptionError, Signal

APPROVAL = Signal("approval", bool)
STEPS = 20
HELD = 8
"""The step that goes on once a file exists."""

group = JobGroup()


def charge(journal: str, number: int, opened: str) -> int:
    """Write down each call."""
    with Path(journal).open("a") as file:
        file.write(f"{number} {os.getpid()}\n")
    while number == HELD and not Path(opened).exists():
        time.sleep(0.02)
    return number * number


@group.job(kind="stepped")
async def stepped(journal: str, opened: str, context: Context = INJECTED) -> list[int]:
    """Twenty steps, of which the eighth can be held."""
    return [await context.step(f"step {n}", charge, journal, n, opened) for n in range(1, STEPS + 1)]


@group.job(kind="pack")
def pack(item: int) -> list[int]:
    return [item, os.getpid()]


@group.job(kind="order")
def order(journal: str, items: int, context: BlockingContext = INJECTED) -> list[int]:
    """Ask for an approval, then pack each item."""
    with Path(journal).open("a") as file:
        file.write(f"{os.getpid()}\n")
    if not context.wait_for(APPROVAL, timeout="1h"):
        return []
    return [item for item, _ in context.map("pack", [pack.call(item) for item in range(items)])]


@group.job(kind="in process", run_in="process")
async def in_process(context: Context = INJECTED) -> str:
    """What a durable verb says in a process."""
    try:
        return await context.step("never", str)
    except OptionError as error:
        return str(error)
