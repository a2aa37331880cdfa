"""Hosts real nodes that have nothing to do: several in one process, which tells what it costs when asked.

    python -m scale.light URL NAMESPACE NAME COUNT KINDS

It says `ready` when all nodes run, and answers `leads`, `read` and `schedule COUNT`. It ends with its input. With
`--workers=0`, the nodes only schedule.
"""

import argparse
import asyncio
import json
import os
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from unittest import mock

import uvloop

from peerjob import Job, Node, StoreLimits
from peerjob.node.observe.observer import Observer

from .engines import resident

CONNECTING = 5
"""Nodes that start concurrently."""
MADE = "fired"
"""The kind that the schedules of a cell make."""


KEPT = 1_000
"""Final instances of a kind that the store keeps."""


class Calls(Observer):
    """Counts the calls of the store, by verb. A wait for hints is a call."""

    def __init__(self) -> None:
        self.verbs: Counter[str] = Counter()

    def store_called(self, verb: str, seconds: float) -> None:
        self.verbs[verb] += 1


class Bodies:
    """How many bodies have run in this process."""

    count = 0


async def nothing(n: int = 0) -> int:
    Bodies.count += 1
    return n


class Hosted:
    """The nodes of this process."""

    def __init__(self, nodes: Sequence[Node], calls: Calls) -> None:
        self._nodes = nodes
        self._calls = calls
        self.statements = 0

    async def leads(self) -> bool:
        """Whether any node of the namespace leads."""
        return await self._nodes[0].leader() is not None

    async def schedule(self, count: int) -> None:
        """Schedule instances of the made kind."""
        call = Job(MADE, nothing).call
        await self._nodes[0].schedule_many(call(number) for number in range(count))

    def read(self) -> dict[str, Any]:
        return {
            "cpu_ms": 1000 * time.process_time(),
            "memory": resident(os.getpid()),
            "statements": self.statements,
            "calls": dict(self._calls.verbs),
            "bodies": Bodies.count,
        }

    def count(self, _statement: str) -> None:
        self.statements += 1


@asynccontextmanager
async def hosted(
    url: str, namespace: str, name: str, count: int, kinds: int, workers: int = 10
) -> AsyncGenerator[Hosted]:
    """Start nodes, which run the made kind and `kinds` kinds of their own."""
    calls = Calls()
    jobs = [Job(MADE, nothing), *(Job(f"idle.orders.tasks.kind_{number}", nothing) for number in range(kinds))]
    limits = StoreLimits(max_final_per_kind=KEPT)
    nodes = [
        Node(url, namespace=namespace, name=f"{name}-{at}", jobs=jobs, workers=workers, store_limits=limits)
        for at in range(count)
    ]
    limit = asyncio.Semaphore(CONNECTING)
    host = Hosted(nodes, calls)
    async with AsyncExitStack() as cleanup:
        if url.startswith("sqlite"):
            cleanup.enter_context(_counted(host))

        async def start(node: Node) -> None:
            node.observe(calls)
            async with limit:
                await cleanup.enter_async_context(node)

        await asyncio.gather(*map(start, nodes))
        yield host


def _counted(host: Hosted) -> Any:
    """Count the statements of SQLite on connections that are opened from now on."""
    connect = sqlite3.connect

    def counted(*args: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, **options)
        connection.set_trace_callback(host.count)
        return connection

    return mock.patch.object(sqlite3, "connect", counted)


async def main(given: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    async with hosted(given.url, given.namespace, given.name, given.count, given.kinds, given.workers) as host:
        print("ready", flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            if line.strip() == "leads":
                print(f"leads {int(await host.leads())}", flush=True)
            elif line.startswith("schedule "):
                await host.schedule(int(line.split()[1]))
                print("scheduled", flush=True)
            elif line.strip() == "read":
                print(f"read {json.dumps(host.read())}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for what in ("url", "namespace", "name"):
        parser.add_argument(what)
    for what in ("count", "kinds"):
        parser.add_argument(what, type=int)
    parser.add_argument("--workers", type=int, default=10)
    uvloop.run(main(parser.parse_args()))
