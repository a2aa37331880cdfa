"""What limits cost: microseconds of CPU of the server per job, beside jobs without limits, in alternating rounds.

    python bench/limits.py redis etcd

A job is one instance of an enqueue of `--batch`, and of turns that commit and claim 50. etcd is measured by the time of
the calls of six nodes. The ratio is that of jobs without limits to those of the row.
"""

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from peerjob import Job, KeyLimit, Limit
from peerjob import Node as RealNode
from peerjob.model.clock import SystemClock
from peerjob.model.ids import IdSource
from peerjob.model.record import Action, Claim, NewInstance, NodeInfo, Outcome, StoreLimits, Want
from peerjob.model.stored_limit import KindLimits, LimitNumbers, SharedLimit
from peerjob.store.base import Store
from peerjob.store.drivers import open_store
from server_cpu import ServerCpu
from support.etcd import EtcdServer
from support.servers import RedisServer, ValkeyServer

TTL_US = 600_000_000
KIND = "charge"
TURN = 50


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is measured."""

    name: str
    keys: int = 0
    concurrency: int = 1
    shared: int = 0
    goal: float = 0
    """The least ratio, in percent."""


ROWS = (
    Row(name="no limit"),
    Row(name="a shared limit of 50", shared=50, goal=95),
    Row(name="1,000 keys, not full", keys=1_000, concurrency=1_000, goal=85),
    Row(name="1,000 keys, one at a time", keys=1_000, goal=70),
    Row(name="50 keys, all full", keys=50, goal=60),
)


class Node:
    """One node, without bodies."""

    def __init__(self, store: Store, ids: IdSource, name: str) -> None:
        self._store = store
        self._ids = ids
        self._incarnation = ids.one()
        self._info = NodeInfo(name=name, incarnation=self._incarnation, kinds=(KIND,), workers=TURN, reads_layout=4)

    async def join(self) -> None:
        await self._store.join(self._info, ttl_us=TTL_US)

    async def drain(self, limit: int = TURN) -> int:
        """Run what there is."""
        claims: tuple[Claim, ...] = ()
        done = 0
        while True:
            outcomes = [Outcome(id=claim.id, fence=claim.fence, action=Action.COMPLETE) for claim in claims]
            want = Want(kinds={KIND: limit}, limit=limit)
            _, claimed = await self._store.turn(self._incarnation, outcomes, want, request=self._ids.one())
            done += len(claims)
            claims = claimed.claims
            if not claims and not outcomes:
                return done


async def measure(url: str, row: Row, count: int, nodes: int, batch: int) -> tuple[float, float]:
    """Microseconds per job: of an enqueue, and of turns. For Redis and Valkey, of the server's CPU."""
    clock = SystemClock()
    ids = IdSource(clock)
    store = open_store(url, namespace=f"limits-{ids.one()[-12:]}", clock=clock, limits=StoreLimits())
    await store.open()
    cpu = ServerCpu.of(store)
    if cpu is not None:
        await cpu.calibrate()
    try:
        numbers = LimitNumbers(concurrency=row.shared)
        shared = (SharedLimit(name="shared", numbers=numbers),) if row.shared else ()
        await store.publish_limits(
            [KindLimits(kind=KIND, shared=shared, key_concurrency=row.concurrency * (row.keys > 0))]
        )
        peers = [Node(store, ids, f"node-{number}") for number in range(nodes)]
        for peer in peers:
            await peer.join()

        def spent() -> float:
            return time.perf_counter() * 1000 if cpu is None else cpu.spent_ms

        # all rows have the same keys in the same order
        keys = [f"tenant/{random.Random(at).randrange(row.keys)}" for at in range(count)] if row.keys else []
        news = [
            NewInstance(
                id=ids.one(), kind=KIND, spec=b"x" * 50, limit_key=keys[at] if keys else "",
                key_concurrency=row.concurrency if keys else 0,
            )
            for at in range(count)
        ]  # fmt: skip
        began = spent()
        for at in range(0, count, batch):
            await store.enqueue(news[at : at + batch])
        enqueued = spent()
        done = await asyncio.gather(*(peer.drain() for peer in peers))
        assert sum(done) == count, (row, done)
        return 1000 * (enqueued - began) / count, 1000 * (spent() - enqueued) / count
    finally:
        await store.clear()
        await store.close()


async def waits(url: str, limits: Sequence[Limit | KeyLimit], count: int = 1_000) -> list[float]:
    """Milliseconds from the end of a body to the start of the next one, which waits for the place of the first."""
    times: list[tuple[float, float]] = []

    async def body() -> None:
        began = time.perf_counter()
        await asyncio.sleep(0.002)
        times.append((began, time.perf_counter()))

    async with RealNode(url, namespace=f"waits-{time.monotonic_ns()}", jobs=[Job(KIND, body, limits=limits)]) as node:
        await node.pause_kind(KIND)
        await node.schedule_many(node.job(KIND).call() for _ in range(count))
        await node.resume_kind(KIND)
        await node.wait()
    times.sort()
    return sorted(1000 * (began - ended) for (_, ended), (began, _) in pairwise(times))


async def latency(url: str) -> None:
    for name, limit in (("a shared limit", Limit("one", concurrency=1)), ("a key", KeyLimit("all"))):
        found = await waits(url, [limit])
        p50, p99 = (found[len(found) * share // 100] for share in (50, 99))
        print(f"  end to the next body, {name:16} p50 {p50:.2f} ms, p99 {p99:.2f} ms (goal 5 ms)", flush=True)


async def compare(url: str, count: int, rounds: int, nodes: int, batch: int, only: str) -> None:
    found: dict[str, list[tuple[float, float]]] = {}
    rows = [row for row in ROWS if not row.goal or only in row.name]
    for _ in range(rounds):
        for row in rows:
            found.setdefault(row.name, []).append(await measure(url, row, count, nodes, batch))
    base = statistics.median(map(sum, found[ROWS[0].name]))
    for row in rows:
        enqueue, turn = (statistics.median(part) for part in zip(*found[row.name], strict=True))
        ratio = 100 * base / statistics.median(map(sum, found[row.name]))
        goal = f" (goal {row.goal:.0f} %)" if row.goal else ""
        print(f"  {row.name:28} {enqueue:8.1f} + {turn:8.1f} us {ratio:6.1f} %{goal}", flush=True)


async def main(engines: list[str], count: int, rounds: int, batch: int, only: str) -> None:
    for engine in engines:
        server = {"redis": RedisServer, "valkey": ValkeyServer, "etcd": EtcdServer}[engine]()
        server.start()
        try:
            print(engine, flush=True)
            await latency(server.url)
            await compare(server.url, count, rounds, 6 if engine == "etcd" else 1, batch, only)
        finally:
            server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", nargs="+", choices=["redis", "valkey", "etcd"])
    parser.add_argument("--count", type=int, default=10_000, help="jobs of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=100, help="instances of one enqueue")
    parser.add_argument("--only", default="", help="only rows with this text")
    given = parser.parse_args()
    uvloop.run(main(given.engines, given.count, given.rounds, given.batch, given.only))
