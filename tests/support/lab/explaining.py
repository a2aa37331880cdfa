"""Explains why instances wait although all faults are over, by what the store, the servers and each node answer."""

import asyncio
import contextlib
import os
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import UTC, datetime

from peerjob import Node, PeerjobError, Query, State
from peerjob.handles.observing import observe
from peerjob.handles.reasons import why_instance
from peerjob.model.clock import SystemClock
from peerjob.model.record import StoreLimits, is_suspect
from peerjob.store.drivers import open_store
from support.peers import READY
from support.processes import ChildProcess
from support.simulation.evidence import Run
from support.stalls import Span, lost, now_us
from support.testimony import ASK, is_whole, testimonies
from support.waiting import until

EXPLAINED = 3
"""The oldest instances, of which the text says why each does not run."""
PATIENT = 15.0
"""Seconds for each question."""
STEP_US = 10_000_000
TAIL = 30
"""Last lines of each node's log."""


async def explained(
    client: Node,
    url: str,
    nodes: Sequence[ChildProcess],
    health: Callable[[], Iterable[str]],
    runs: Sequence[Run],
    since_us: int,
    stalls: Sequence[Span],
) -> str:
    """All that helps to find the cause, as text. `url` is the store as nodes reach it; faults ended at `since_us`."""
    questions = {
        "machine": _machine(stalls, since_us),
        "servers": _servers(health),
        "store": _store(client, url),
        "instances": _instances(client),
        "bodies": _bodies(runs, since_us),
        **{f"node {node.pid}": _node(node) for node in nodes},
    }
    parts: list[str] = []
    for subject, answer in questions.items():
        lines: list[str] = []
        try:
            async with asyncio.timeout(PATIENT):
                async for line in answer:
                    lines.append(line)  # noqa: PERF401  # what came before a failure is kept
        except (PeerjobError, OSError, TimeoutError) as error:
            lines.append(f"no further answer: {error!r}")
        parts.append("\n".join([f"{subject}:", *(f"  {line}" for line in lines)]))
    return "\n\n".join(parts) + "\n"


async def _machine(stalls: Sequence[Span], since_us: int) -> AsyncIterator[str]:
    now = now_us()
    yield f"load {os.getloadavg()} on {os.cpu_count()} cores"
    yield f"{(now - since_us) / 1e6:.0f} s since the last fault, {lost(stalls, since_us, now):.0f} s of them stalled"


async def _servers(health: Callable[[], Iterable[str]]) -> AsyncIterator[str]:
    for line in await asyncio.to_thread(lambda: list(health())):
        yield line


async def _store(client: Node, url: str) -> AsyncIterator[str]:
    began = time.monotonic()
    yield f"stats {await client.stats()}"
    yield f"leader {await client.leader()}"
    for view in await client.nodes():
        yield f"live {view}"
    yield f"these three answers took {time.monotonic() - began:.2f} s"
    store = open_store(url, namespace=client.namespace, clock=SystemClock(), limits=StoreLimits())
    try:
        for what, call in {"opened": store.open, "read": store.nodes}.items():
            began = time.monotonic()
            await call()
            yield f"{what} on the way of the nodes in {time.monotonic() - began:.2f} s"
    finally:
        await store.close()


async def _instances(client: Node) -> AsyncIterator[str]:
    waiting = [one async for one in client.iter_instances(Query(state=State.ACTIVE, limit=1000, order="asc"))]
    kinds = Counter(
        f"{one.state!s} {one.kind} of {one.node}{', suspect' if is_suspect(one.crashes, one.losses) else ''}"
        for one in waiting
    )
    for kind, count in kinds.items():
        yield f"{count} {kind}"
    for one in waiting[:EXPLAINED]:
        yield f"{one.record}"
        for reason in why_instance(await observe(client, one, datetime.now(UTC))):
            yield f"  why: {reason}"


async def _bodies(runs: Sequence[Run], since_us: int) -> AsyncIterator[str]:
    begun = Counter((run.begin_us - since_us) // STEP_US for run in runs if run.begin_us >= since_us)
    for step in range((now_us() - since_us) // STEP_US + 1):
        yield f"{begun[step]} began from {10 * step} s to {10 * step + 10} s after the last fault"


async def _node(node: ChildProcess) -> AsyncIterator[str]:
    before = len(node.lines)
    if not node.running:
        yield f"it has ended with {node.returncode}"
    elif not any(re.search(READY, line) for line in node.lines):
        yield "it has not begun to work"
    else:
        node.signal(ASK)
        with contextlib.suppress(TimeoutError):
            await until(lambda: is_whole(node.lines[before:]), PATIENT / 3)
        told = testimonies(node.lines[before:])
        for line in told or ["its event loop does not answer"]:
            yield line
    for line in node.lines[max(0, before - TAIL) : before]:
        yield f"log: {line}"
