"""The jobs of the demo. Node processes import this module; the demo schedules its calls."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, TypedDict

from peerjob import INJECTED, Backoff, Call, Context, Priority, job

from .corpus import Count, count_file

WATCHED = "watched"
"""Tag of the jobs whose changes the view tells one by one."""
FAILURES = 2
"""How often a flaky job fails before it completes."""
FLAKY_JOBS = 5
URGENT_JOBS = 5
SLOW_PER_NODE = 2
SLOW_SECONDS = 3.0
SLOW_STEPS = 12
DELAYS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0)
"""Seconds from scheduling until the delayed jobs fall due."""


class Receipt(TypedDict):
    """What every job returns: which run it was, and what it found."""

    node: str
    fence: int
    count: dict[str, int]


def _receipt(ctx: Context, count: Count | None = None) -> Receipt:
    worker = ctx.worker
    return Receipt(
        node="" if worker is None else worker.node,
        fence=ctx.fence,
        count={} if count is None else asdict(count),
    )


@job(kind="demo.count")
def count(path: str, ctx: Context = INJECTED) -> Receipt:
    """Count lines, tokens and definitions of one source file."""
    return _receipt(ctx, count_file(path))


@job(kind="demo.slow", tags=[WATCHED], priority=Priority.HIGH)
async def slow(name: str, ctx: Context = INJECTED) -> Receipt:
    """Take its time, and tell how far it is."""
    for step in range(SLOW_STEPS):
        ctx.progress(step / SLOW_STEPS)
        await asyncio.sleep(SLOW_SECONDS / SLOW_STEPS)
    return _receipt(ctx)


@job(kind="demo.flaky", tags=[WATCHED], max_retries=FAILURES, backoff=Backoff.exponential(initial=0.3))
async def flaky(name: str, ctx: Context = INJECTED) -> Receipt:
    """Fail, fail again, and then complete."""
    if ctx.attempt <= FAILURES:
        raise RuntimeError(f"{name} fails on purpose, the {'first' if ctx.attempt == 1 else 'second'} time")
    return _receipt(ctx)


@job(kind="demo.delayed", tags=[WATCHED])
async def delayed(name: str, ctx: Context = INJECTED) -> Receipt:
    """Run when its time has come, not before."""
    return _receipt(ctx)


@job(kind="demo.urgent", tags=[WATCHED], priority=Priority.HIGH)
async def urgent(name: str, ctx: Context = INJECTED) -> Receipt:
    """Run before all that waits."""
    return _receipt(ctx)


JOBS = (count, slow, flaky, delayed, urgent)


def first_calls(files: Iterable[str]) -> Iterator[Call[Receipt]]:
    """What is scheduled first: all but the slow jobs. The urgent ones come last, and run first all the same."""
    for path in files:
        yield count.call(path)
    for number in range(1, FLAKY_JOBS + 1):
        yield flaky.call(f"flaky {number}")
    for number, delay in enumerate(DELAYS, start=1):
        yield delayed.with_options(after=delay).call(f"delayed {number}")
    for number in range(1, URGENT_JOBS + 1):
        yield urgent.call(f"urgent {number}")


def slow_calls(nodes: int) -> Iterator[Call[Receipt]]:
    """What is scheduled half way: slow jobs for every node, so that whichever is killed has work under way."""
    for number in range(1, SLOW_PER_NODE * nodes + 1):
        yield slow.call(f"slow {number}")


def name_of(kind: str, args: Sequence[Any]) -> str:
    """What people call an instance: its name, or the file that it counts."""
    return str(args[0]) if args else kind
