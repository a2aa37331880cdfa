"""The jobs of the cases, and how often each of them ran."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from typing import Any

from peerjob import INJECTED, Context, Flow, Job, Signal, job

RUNS: defaultdict[str, Counter[str]] = defaultdict(Counter)
"""Namespace → name of a run → how often its body began."""


@job(kind="QUICK")
async def quick(namespace: str, name: str) -> str:
    """Count a run."""
    RUNS[namespace][name] += 1
    return name


@job(kind="LARGE")
async def large(namespace: str, name: str, padding: str) -> str:
    """Count a run, whose arguments and result have keys of their own."""
    RUNS[namespace][name] += 1
    return padding


@job(kind="LONG")
async def long(namespace: str, name: str, seconds: float, context: Context = INJECTED) -> None:
    """Count a run, and hold its claim."""
    RUNS[namespace][name] += 1
    context.progress(0.5, "half")
    context.log_line(20, "LINE")
    await asyncio.sleep(seconds)


@job(kind="TICK")
async def tick(namespace: str, name: str, seconds: float = 0) -> None:
    """Count a run of a schedule."""
    RUNS[namespace][name] += 1
    await asyncio.sleep(seconds)


@job(kind="FAILING", max_retries=5, backoff="1h")
async def failing(namespace: str, name: str) -> None:
    """Fail, so that an instance with an error waits for a retry."""
    RUNS[namespace][name] += 1
    raise ValueError("x" * 600)


GO = Signal("GO", bool)


GATES: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
"""Namespace → what the children and the first member of the flow wait for."""


@job(kind="PART")
async def part(namespace: str, name: str) -> None:
    """Count a run, and hold its claim until the damage was done."""
    RUNS[namespace][name] += 1
    await GATES[namespace].wait()


async def _paid() -> str:
    return "p" * 300


@job(kind="PARENT")
async def parent(namespace: str, name: str, context: Context = INJECTED) -> None:
    """Wait for two children, and count an end."""
    await context.step("paid", _paid)
    parts = [await context.start(f"part{n}", part.call(namespace, f"part{n}")) for n in range(2)]
    await context.gather(*parts)
    RUNS[namespace][name] += 1


@job(kind="SIGNALLED")
async def signalled(namespace: str, name: str, context: Context = INJECTED) -> None:
    """Wait for a signal, and count an end."""
    await context.step("paid", _paid)
    await context.wait_for(GO, timeout="1h")
    RUNS[namespace][name] += 1


def graph(namespace: str) -> Flow:
    """A flow whose second member waits for the first one."""
    flow = Flow("FLOW")
    first = flow.add(part.call(namespace, "member0"))
    flow.add(quick.call(namespace, "member1"), after=[first])
    return flow


DURABLE = ({"parent", "part0", "part1"}, {"signalled"}, {"flow", "member0", "member1"})
"""The names of durable instances, with those that one damage can take along."""


async def _idle() -> None:
    """The body of a kind that is never scheduled."""


SPARE: list[Job[..., Any, Any]] = [job(kind=f"SPARE{number}")(_idle) for number in range(40)]
"""Further kinds, so that the kinds of a node have keys of their own."""
