"""What the number of kinds costs: milliseconds per call of a store, by the number of kinds in the namespace.

    python bench/kinds.py memory:// redis://127.0.0.1:6379 etcd://127.0.0.1:2379

One node registers half of the kinds, and instances of all kinds wait. `claim` and `commit` take and end ten instances
of as many kinds, `claim 100` a hundred; the sparse claim finds the one instance that waits. Medians; the machine must
be quiet. The last column has the ratio to ten kinds. On Redis and Valkey, `server:` rows are milliseconds of the
server's CPU, which a busy machine lengthens little. The longest script tells how long one call holds up all others.
"""

import argparse
import asyncio
import json
import random
import statistics
import time
from collections.abc import Awaitable, Callable

import uvloop
from rich.console import Console
from rich.table import Table

from peerjob.model.caps import Caps
from peerjob.model.clock import SystemClock
from peerjob.model.ids import IdSource
from peerjob.model.query import Filter, Query
from peerjob.model.record import Action, Claim, NewInstance, NodeInfo, Outcome, StoreLimits, Want
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.store.drivers import open_store
from peerjob.store.lua.store import LuaStore
from server_cpu import ServerCpu

WAITING = 2_000
"""The fewest queued instances of the kinds that the node runs. As many instances of the other kinds are queued."""
TTL_US = 600_000_000
BATCH = 500
MOVED = 1_000


class Bench:
    """A namespace with `kinds` kinds, and one node that runs half of them."""

    def __init__(self, url: str, kinds: int, rounds: int, *, metered: bool = False) -> None:
        self._clock = SystemClock()
        self._ids = IdSource(self._clock)
        namespace = f"kinds-{self._ids.one()[-12:]}"
        self.store: Store = open_store(url, namespace=namespace, clock=self._clock, limits=StoreLimits())
        names = [f"shop.orders.tasks.kind_{number}" for number in range(kinds)]
        self._chance = random.Random(kinds)  # a fixed seed, so that all runs of the benchmark do the same
        self._chance.shuffle(names)
        self._own, self._others = names[: kinds // 2], names[kinds // 2 :]
        self._incarnation = self._ids.one()
        self._want = Caps(tuple(self._own), 100)
        self._cpu = ServerCpu.of(self.store) if metered else None
        self._rounds = rounds
        self.found: dict[str, float] = {}

    @property
    def has_scripts(self) -> bool:
        """Whether the store runs scripts on a server, whose CPU time can be metered."""
        return isinstance(self.store, LuaStore)

    def _time(self) -> float:
        """The time in seconds: CPU time of the server if `metered` is set, else wall-clock time."""
        return time.perf_counter() if self._cpu is None else self._cpu.spent_ms / 1000

    async def run(self) -> dict[str, float]:
        """Milliseconds per call, by what is called."""
        store = self.store
        await store.open()
        if self._cpu is not None:
            await self._cpu.calibrate()
        try:
            await self._join()
            await self.measure("first claim", lambda: self._claim(1), rounds=1)
            await self._sparse()
            await self._fill()
            await self.measure("enqueue", lambda: store.enqueue([self._new()]))
            await self.measure("enqueue 100", lambda: store.enqueue([self._new() for _ in range(100)]), rounds=5)
            await self._work("claim", 10)
            await self._work("claim 100", 100)
            await self._move()
            await self.measure("health", store.health, rounds=5)
            await self.measure("due", store.due, rounds=5)
            await self.measure("lookup", lambda: store.lookup(Query()), rounds=5)
            await self.measure("lookup newest", lambda: store.lookup(Query(order="desc")), rounds=5)
            await self.measure(
                "lookup state", lambda: store.lookup(Query(state=State.COMPLETED, order="desc")), rounds=5
            )
            await self.measure("nodes", store.nodes, rounds=5)
            await self.measure("expire", lambda: store.expire(BATCH), rounds=5)
            await self.measure("clear instances", lambda: store.clear_instances(Filter()), rounds=1)
        finally:
            await store.clear()
            await store.close()
        if self._cpu is not None:
            longest = max(self._cpu.longest_ms, key=self._cpu.longest_ms.__getitem__)
            print(json.dumps({"longest script": longest, "ms": self._cpu.longest_ms}), flush=True)
            self.found["longest script"] = round(self._cpu.longest_ms[longest], 3)
        return self.found

    async def measure(self, what: str, call: Callable[[], Awaitable[object]], *, rounds: int | None = None) -> None:
        """Measure a call several times, and note the median under the name `what`."""
        times: list[float] = []
        for _ in range(rounds or self._rounds):
            begin = self._time()
            await call()
            times.append(self._time() - begin)
        self._note(what, times)

    def _note(self, what: str, times: list[float]) -> None:
        self.found[what] = round(statistics.median(times) * 1000, 3)

    async def _join(self) -> None:
        info = NodeInfo(
            name="node",
            incarnation=self._incarnation,
            kinds=tuple(self._own),
            signatures=dict.fromkeys(self._own, "0123456789abcdef"),
            workers=100,
        )
        await self.store.join(info, ttl_us=TTL_US)

    async def _sparse(self) -> None:
        """Measure claims that find nothing, and claims that find the only queued instance."""
        await self.measure("idle claim", lambda: self._claim(10))
        times: list[float] = []
        for _ in range(self._rounds):
            await self.store.enqueue([self._new()])
            begin = self._time()
            claims = await self._claim(10)
            times.append(self._time() - begin)
            assert len(claims) == 1
            await self._end(claims)
        self._note("sparse claim", times)
        await self.measure("idle claim after", lambda: self._claim(10))

    async def _fill(self) -> None:
        """Enqueue instances of every kind."""
        kinds = [kind for pair in zip(self._own, self._others, strict=True) for kind in pair]
        rest = [self._new(kind) for _ in range(max(1, WAITING // len(self._own))) for kind in kinds]
        for at in range(0, len(rest), BATCH):
            await self.store.enqueue(rest[at : at + BATCH])

    async def _move(self) -> None:
        """Measure a claim that moves 1,000 delayed instances to the queues of all kinds that the node runs."""
        times: list[float] = []
        for _ in range(5):
            due_us = self._clock.time_us() + 2_000_000
            for at in range(0, MOVED, BATCH):
                kinds = [self._own[(at + number) % len(self._own)] for number in range(BATCH)]
                await self.store.enqueue([self._new(kind, due_us=due_us) for kind in kinds])
            await asyncio.sleep((due_us - self._clock.time_us()) / 1e6 + 0.1)
            begin = self._time()
            claims = await self._claim(1)
            times.append(self._time() - begin)
            await self._end(claims)
        self._note("claim and move 1,000", times)

    async def _work(self, what: str, limit: int) -> None:
        claims: list[float] = []
        commits: list[float] = []
        for _ in range(self._rounds):
            begin = self._time()
            got = await self._claim(limit)
            claimed = self._time()
            await self._end(got)
            commits.append(self._time() - claimed)
            claims.append(claimed - begin)
            assert len(got) == limit
        self._note(what, claims)
        self._note(what.replace("claim", "commit"), commits)

    def _new(self, kind: str = "", *, due_us: int | None = None) -> NewInstance:
        kind = kind or self._chance.choice(self._own)
        return NewInstance(id=self._ids.one(), kind=kind, spec=b"x" * 50, due_us=due_us)

    async def _claim(self, limit: int) -> tuple[Claim, ...]:
        want = Want(kinds=self._want, limit=limit)
        return (await self.store.claim(self._incarnation, want, request=self._ids.one())).claims

    async def _end(self, claims: tuple[Claim, ...]) -> None:
        outcomes = [Outcome(id=claim.id, fence=claim.fence, action=Action.COMPLETE) for claim in claims]
        await self.store.commit(self._incarnation, outcomes, request=self._ids.one())


async def main(urls: list[str], sizes: list[int], rounds: int) -> None:
    for url in urls:
        results: dict[int, dict[str, float]] = {}
        for size in sizes:
            bench = Bench(url, size, rounds)
            results[size] = await bench.run()
            if bench.has_scripts:
                metered = await Bench(url, size, rounds, metered=True).run()
                results[size] |= {f"server: {what}": value for what, value in metered.items()}
            print(json.dumps({"url": url, "kinds": size, "ms": results[size]}), flush=True)
            await asyncio.sleep(0)
        show(url, results)


def show(url: str, results: dict[int, dict[str, float]]) -> None:
    first, *_, last = results
    table = Table(title=f"{url}: milliseconds per call, by kinds in the namespace, half of which one node registers")
    for column in ("", *(f"{size:,}" for size in results), f"{last:,} / {first:,}"):
        table.add_column(column, justify="right" if column else "left")
    for what in results[first]:
        values = [results[size][what] for size in results]
        table.add_row(what, *(f"{value:,.2f}" for value in values), f"{values[-1] / max(values[0], 1e-6):.1f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("urls", nargs="+", help="stores to measure on, each in namespaces of its own")
    parser.add_argument("--kinds", default="10,100,1000,10000", help="numbers of kinds, with commas")
    parser.add_argument("--rounds", type=int, default=20, help="calls per figure (default: 20)")
    given = parser.parse_args()
    uvloop.run(main(given.urls, [int(size) for size in given.kinds.split(",")], given.rounds))
