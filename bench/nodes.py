"""Measures what many light nodes cost one etcd: its CPU time, in shares of a core.

    python bench/nodes.py --nodes 100
    python bench/nodes.py --nodes 50 --schedules 10000

Each node has the connections of a real one. It renews its lease once a second with another load each time, it looks for
dead nodes twice a second, and it waits for hints, of which it gets one a second. Each part is also measured alone.
`--schedules` adds so many schedules instead, while that many nodes listen.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import jobs
from measures import fresh_namespace
from peerjob import Node, Store, StoreLimits
from peerjob.model.clock import SystemClock
from peerjob.model.errors import StoreUnavailableError
from peerjob.model.firing import SchedulePut
from peerjob.store.base import Liveness
from peerjob.store.drivers import open_store
from peerjob.store.rules import digest
from peerjob.testing.factories import Factory
from support.etcd import EtcdServer

TTL_US = 60_000_000
TOGETHER = 500
"""The number of concurrent calls of `add_schedule`."""
BEGIN = 10.0
"""Seconds over which the starts of the nodes are spread, since all nodes of this benchmark share one event loop."""
CONNECTING = 10
"""The number of nodes that connect concurrently."""
PARTS = ("renewals and clocks", "reaping", "hints", "all")


class LightNode:
    """Sends the same calls to a store as a node without jobs."""

    def __init__(self, url: str, namespace: str, number: int) -> None:
        self._clock = SystemClock()
        make = Factory(self._clock)
        self.info = make.node(f"node-{number}", tuple(f"kind-{kind}" for kind in range(20)))
        self.store: Store = open_store(url, namespace=namespace, clock=self._clock, limits=StoreLimits())
        self.liveness: Liveness = self.store.liveness()
        self.calls = self.late = 0
        """The number of calls, and the number of calls that were not answered in time."""
        self._running = 0

    async def start(self) -> None:
        await self.store.open()
        await self.store.join(self.info, ttl_us=TTL_US)
        await self.liveness.open()

    async def stop(self) -> None:
        await self.liveness.close()
        await self.store.close()

    async def renew(self) -> None:
        self._running += 1
        await self.liveness.renew(
            self.info.incarnation, ttl_us=TTL_US, running=self._running, count=0, fences_digest=digest([])
        )

    async def reap(self) -> None:
        assert await self.store.reap(100, reaper=self.info.incarnation) == []

    async def listen(self) -> None:
        """Wait for hints until the task is cancelled."""
        while True:
            await self.store.next_hints(self.info.incarnation, 5.0)

    async def every(self, seconds: float, call: Callable[[], Awaitable[None]]) -> None:
        """Repeat a call every so many seconds, from a random moment of the first BEGIN seconds."""
        await asyncio.sleep(BEGIN * self._clock.random.random())
        while True:
            began = time.monotonic()
            self.calls += 1
            try:
                await call()
            except StoreUnavailableError:
                self.late += 1
            await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))


async def hint_all(store: Store) -> None:
    """Store a schedule, so that the store sends a hint to every node."""
    now_us = time.time_ns() // 1000
    await store.put_schedule(SchedulePut(name=str(now_us), kind="kind-1", definition=b"", next_us=None))


async def cost(server: EtcdServer, nodes: Sequence[LightNode], part: str, seconds: float) -> dict[str, object]:
    """The CPU time of etcd and of the nodes, while the nodes do one part of their work."""
    every = part == PARTS[-1]
    tasks: list[asyncio.Task[None]] = []
    for node in nodes:
        if every or part == "renewals and clocks":
            tasks.append(asyncio.create_task(node.every(1.0, node.renew)))
        if every or part == "reaping":
            tasks.append(asyncio.create_task(node.every(0.5, node.reap)))
        if every or part == "hints":
            tasks.append(asyncio.create_task(node.listen()))
    if every or part == "hints":
        tasks.append(asyncio.create_task(nodes[0].every(1.0, lambda: hint_all(nodes[0].store))))
    await asyncio.sleep(BEGIN + 6)  # the nodes need this time to compare their clocks
    calls = sum(node.calls for node in nodes)
    before, own, began = cpu(server.child.pid), cpu(os.getpid()), time.monotonic()
    await asyncio.sleep(seconds)
    spent = time.monotonic() - began
    found: dict[str, object] = {
        "nodes": len(nodes),
        "part": part,
        "etcd_cores": round((cpu(server.child.pid) - before) / spent, 3),
        "nodes_cores": round((cpu(os.getpid()) - own) / spent, 3),
        "calls_per_second": round((sum(node.calls for node in nodes) - calls) / spent),
        "late": sum(node.late for node in nodes),
    }
    for task in tasks:
        if task.done():
            task.result()  # a task ends only by an error, which this call raises
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return found


def cpu(pid: int) -> float:
    """Seconds of CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def add_schedules(url: str, count: int, *, nodes: int) -> dict[str, object]:
    """The rate at which one node adds schedules, TOGETHER concurrently, while other nodes are live."""
    namespace = fresh_namespace()
    limit = asyncio.Semaphore(TOGETHER)
    async with AsyncExitStack() as cleanup, Node(url, namespace=namespace, workers=0) as client:
        await started([LightNode(url, namespace, number) for number in range(nodes)], cleanup)

        async def add(number: int) -> None:
            async with limit:
                await client.add_schedule(jobs.NOOP.with_options(cron="0 0 29 2 *", name=f"leap-day-{number}"), number)

        began = time.monotonic()
        await asyncio.gather(*map(add, range(count)))
        seconds = time.monotonic() - began
    return {"nodes": nodes, "schedules": count, "seconds": round(seconds, 1), "per_second": round(count / seconds)}


async def started(nodes: Sequence[LightNode], cleanup: AsyncExitStack) -> None:
    """Start the nodes, CONNECTING of them concurrently."""
    limit = asyncio.Semaphore(CONNECTING)

    async def start(node: LightNode) -> None:
        async with limit:
            await node.start()
        cleanup.push_async_callback(node.stop)

    await asyncio.gather(*map(start, nodes))


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--schedules", type=int, default=0)
    given = parser.parse_args()
    with EtcdServer() as server:
        if given.schedules:
            print(json.dumps(await add_schedules(server.url, given.schedules, nodes=given.nodes)), flush=True)
            return
        async with AsyncExitStack() as cleanup:
            namespace = fresh_namespace()
            nodes = [LightNode(server.url, namespace, number) for number in range(given.nodes)]
            await started(nodes, cleanup)
            for part in PARTS:
                print(json.dumps(await cost(server, nodes, part, given.seconds)), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
