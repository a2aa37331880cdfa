"""The jobs of the fault tests, importable by every node process."""

import asyncio
import os
import signal
import socket
import time
from pathlib import Path

from peerjob import INJECTED, Context, Instance, JobGroup

group = JobGroup()


@group.job(kind="work")
async def work(number: int, seconds: float, context: Context = INJECTED) -> list[object]:
    """Sleep; the result says which run was accepted."""
    await asyncio.sleep(seconds)
    return [number, context.fence, os.getpid()]


@group.job(kind="stubborn")
def stubborn(path: str, context: Context = INJECTED, instance: Instance = INJECTED) -> int:
    """Run in a thread until a file exists, in spite of cancellations, and report progress all the time."""
    while True:
        context.progress(0.5, f"from {os.getpid()}")
        if Path(path).exists():
            break
        time.sleep(0.05)
    instance.log.info("done in %d", os.getpid())
    return os.getpid()


@group.job(kind="noted")
async def noted(journal: str, seconds: float, gate: str = "", context: Context = INJECTED) -> int:
    """Sleep, if there is a gate once that file exists, and write down when this very run began and ended."""
    _note(journal, "begin", context)
    try:
        if gate:
            await _opened(gate, context)
        await asyncio.sleep(seconds)
    finally:
        _note(journal, "end", context)
    return context.fence


@group.job(kind="gated")
async def gated(path: str, context: Context = INJECTED) -> list[object]:
    """Go on until a file exists; the result says which run was accepted."""
    await _opened(path, context)
    return [context.fence, os.getpid()]


@group.job(kind="held")
def held(path: str, context: Context = INJECTED) -> int:
    """Run in a thread until a file exists, in spite of cancellations."""
    while not Path(path).exists():
        time.sleep(0.02)
    return os.getpid()


@group.job(kind="fatal")
def fatal(status: int) -> None:
    """End the node's process from a thread."""
    os._exit(status)


@group.job(kind="poison")
async def poison() -> None:
    """Take the node down."""
    os.kill(os.getpid(), signal.SIGKILL)


async def _opened(path: str, context: Context) -> None:
    """Wait for a file. A progress in the store shows that the store has recorded the start."""
    context.progress(0.0)
    while not Path(path).exists():  # noqa: ASYNC110, ASYNC240  # what the test says has no signal, and is a look
        await asyncio.sleep(0.05)


def _note(journal: str, what: str, context: Context) -> None:
    process = f"{socket.gethostname()} {os.getpid()}"
    line = f"{context.id} {context.fence} {process} {what} {time.time_ns() // 1000}\n"
    file = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, line.encode())  # one write, so that the lines of several processes stay whole
    finally:
        os.close(file)


JOBS = group
