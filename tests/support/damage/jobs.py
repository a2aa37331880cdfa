"""The jobs of the cases, and how often each of them ran."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from typing import Any

from peerjob import INJECTED, Context, Job, job

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


async def _idle() -> None:
    """The body of a kind that is never scheduled."""


SPARE: list[Job[..., Any, Any]] = [job(kind=f"SPARE{number}")(_idle) for number in range(40)]
"""Further kinds, so that the kinds of a node have keys of their own."""
