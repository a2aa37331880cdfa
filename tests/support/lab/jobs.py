"""The jobs of the lab. Each body writes down its runs in the file that the variable names, outside the store."""

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import uuid4

from peerjob import INJECTED, Context, JobGroup, Suspended
from support.stalls import Stalls, tell
from support.true_time import true_us

JOURNAL = "LAB_JOURNAL"
IN_POD = "LAB_IN_POD"
"""Set where the number of the process says nothing, because each pod has one."""


def _node() -> str:
    """What this process calls itself in the journal."""
    if IN_POD not in os.environ:
        return str(os.getpid())
    Stalls(tell=tell).__enter__()
    started = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    return f"{socket.gethostname()}:{started}"


NODE = _node()
group = JobGroup()


@group.job(kind="noted", max_retries=0)
async def noted(seconds: float, context: Context = INJECTED) -> int:
    """Sleep; the result says which run was accepted."""
    return await _noted("noted", seconds, context)


@group.job(kind="tick", cron="* * * * * *", overlap="allow", max_retries=0)
async def tick(context: Context = INJECTED) -> int:
    """Take a moment, so that a node that is killed has one under way."""
    return await _noted("tick", 0.05, context)


@group.job(kind="member", max_retries=0)
async def member(seconds: float, context: Context = INJECTED) -> int:
    """Sleep, as a member of a flow."""
    return await _noted("member", seconds, context)


@group.job(kind="failing", max_retries=0)
async def failing(seconds: float, context: Context = INJECTED) -> int:
    """Fail: what needs the result is cancelled."""
    await _noted("failing", seconds, context)
    raise RuntimeError("a member fails")


@group.job(kind="stepped", max_retries=0)
async def stepped(seconds: float, context: Context = INJECTED) -> int:
    """Three steps, a child and a wait, without a worker while it waits."""
    return await _noted("stepped", seconds, context, _stepped)


async def _stepped(seconds: float, context: Context) -> None:
    async def step(name: str) -> str:
        value = str(uuid4())
        _note(context, {"step": name, "called": value})
        await asyncio.sleep(seconds / 3)
        return value

    for number in range(3):
        name = f"step/{number}"
        _note(context, {"step": name, "kept": await context.step(name, step, name)})
    child = await context.start("child", member.call(seconds))
    _note(context, {"child": "child", "made": child.id})
    result = await child
    _note(context, {"awaited": child.id, "result": result})
    await context.suspend("pause", seconds)


async def _slept(seconds: float, _: Context) -> None:
    await asyncio.sleep(seconds)


async def _noted(
    kind: str, seconds: float, context: Context, work: Callable[[float, Context], Awaitable[None]] = _slept
) -> int:
    ending = "raised"
    _note(context, {"kind": kind, "attempt": context.attempt})
    try:
        await work(seconds, context)
        ending = "returned"
    except asyncio.CancelledError:
        ending = "cancelled"
        raise
    except Suspended:
        ending = "suspended"
        raise
    finally:
        reason = context.reason
        _note(context, {"ending": ending, "asked": None if reason is None else str(reason)})
    return context.fence


def _note(context: Context, what: dict[str, object]) -> None:
    line = {"id": context.id, "fence": context.fence, "node": NODE, "at_us": true_us(), **what}
    file = os.open(os.environ[JOURNAL], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, f"{json.dumps(line)}\n".encode())  # one write, so that the lines of several processes stay whole
    finally:
        os.close(file)


JOBS = group
