"""What a cluster of several shards gains: the same work in namespaces that share a shard, and in ones that are spread.

All keys of a namespace are in one hash slot, so one shard serves it. Real nodes run the jobs: one process a namespace.
"""

import asyncio
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import cast
from uuid import uuid4

from redis.crc import key_slot

from peerjob.store.lua.client.driver import prefix
from support.servers import Server, ServerCluster, ServerKind

from .cells import Cell
from .engines import LuaSite, Reading, Site
from .hosts import Host, LightProcess, host, until_led
from .verbs import Found

SHARDS = 3
ROUNDS = 3
"""Rounds of each layout, which alternate. Costs are those of the round with the least CPU time."""
JOBS = 30_000
"""Jobs of a round, in equal parts for the namespaces."""
SETTLE = 2.0
"""Seconds in which new nodes find out about each other."""
PATIENCE = 120.0
LOOK = 0.02


class ClusterSite(Site):
    """A Redis or Valkey Cluster of primaries."""

    def __init__(self, kind: ServerKind) -> None:
        self.engine = kind
        self._cluster = ServerCluster(kind, shards=SHARDS)
        try:
            self._cluster.start()
        except BaseException:
            self._cluster.close()
            raise
        self.url = self._cluster.url
        self.shards = [LuaSite(kind, server) for server in self._cluster.nodes]
        self._ranges = [(range(first, last + 1), shard) for first, last, shard in _slots(self._cluster.nodes)]

    def shard_of(self, namespace: str) -> int:
        """The number of the shard that serves a namespace."""
        slot = key_slot(prefix(namespace).encode())
        return next(shard for slots, shard in self._ranges if slot in slots)

    def read(self) -> Reading:
        return sum((shard.read() for shard in self.shards), start=Reading())

    def memory(self) -> int:
        return sum(shard.memory() for shard in self.shards)

    def longest_ms(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        self._cluster.close()


def _slots(nodes: Sequence[Server]) -> list[tuple[int, int, int]]:
    """First and last slot, and the number of the shard that has them."""
    numbers = {node.port: number for number, node in enumerate(nodes)}
    ranges = cast("list[tuple[int, int, tuple[str, int]]]", nodes[0].command("CLUSTER", "SLOTS"))
    return [(first, last, numbers[primary[1]]) for first, last, primary, *_ in ranges]


@contextmanager
def clustered(engine: str) -> Generator[ClusterSite]:
    """A cluster of three shards, closed at the end."""
    with ClusterSite(cast("ServerKind", engine)) as site:
        yield site


def choose(number: int, shards: Sequence[int], shard_of: Callable[[str], int]) -> list[str]:
    """So many new namespaces, on these shards in turn."""
    stem, names = f"scale-{uuid4().hex[:8]}", count()
    chosen: list[str] = []
    for at in range(number):
        wanted = shards[at % len(shards)]
        chosen.append(next(name for name in (f"{stem}-{one}" for one in names) if shard_of(name) == wanted))
    return chosen


@dataclass(frozen=True, kw_only=True)
class Round:
    """What the shards did for the jobs of one round."""

    seconds: float
    shards: Sequence[Reading]

    @property
    def busiest_ms(self) -> float:
        return max(one.cpu_ms for one in self.shards)

    @property
    def cores(self) -> float:
        """Cores that the busiest shard used."""
        return self.busiest_ms / 1000 / self.seconds


def summary(rounds: Sequence[Round]) -> Found:
    """Costs are for one of all jobs, also that of the busiest shard. The rate is that of the fastest round."""
    cheapest = min(rounds, key=lambda one: one.busiest_ms)
    fastest = min(rounds, key=lambda one: one.seconds)
    total = sum(cheapest.shards, start=Reading())
    return {
        "cpu_us": round(1000 * total.cpu_ms / JOBS, 2),
        "operations": round(total.operations / JOBS, 2),
        "shares": [round(one.operations / total.operations, 3) for one in cheapest.shards],
        "busiest_cpu_us": round(1000 * cheapest.busiest_ms / JOBS, 2),
        "rate": round(JOBS / fastest.seconds),
        "busiest_cores": round(fastest.cores, 2),
    }


async def shards(site: Site, cell: Cell) -> Found:
    """Costs and throughput with all namespaces on the first shard, and, with several, spread evenly over the shards."""
    assert isinstance(site, ClusterSite)
    layouts: dict[str, Sequence[int]] = {"one shard": (0,)}
    if cell.namespaces > 1:
        layouts["spread"] = range(SHARDS)
    async with AsyncExitStack() as cleanup:
        crews: dict[str, list[Host]] = {}
        for layout, on in layouts.items():
            names = choose(cell.namespaces, on, site.shard_of)
            starting = [cleanup.enter_async_context(host(site, name, "node", 1, 0)) for name in names]
            crews[layout] = [one for hosts in await asyncio.gather(*starting) for one in hosts]
        await asyncio.gather(*(until_led(one) for crew in crews.values() for one in crew))
        await asyncio.sleep(SETTLE)
        rounds: dict[str, list[Round]] = {layout: [] for layout in crews}
        for turn in range(ROUNDS + 1):
            for layout, crew in crews.items():
                done = await _round(site, cast("list[LightProcess]", crew))
                if turn:  # the first round loads the scripts, and opens connections
                    rounds[layout].append(done)
        return {layout: summary(of) for layout, of in rounds.items()}


async def _round(site: ClusterSite, crew: Sequence[LightProcess]) -> Round:
    """Schedule the jobs in equal parts, and wait until the nodes have run them."""
    each = JOBS // len(crew)
    done = [int((await one.read())["bodies"]) + each for one in crew]
    before, began = [shard.read() for shard in site.shards], time.monotonic()

    async def run(one: LightProcess, until: int) -> None:
        await one.ask(f"schedule {each}", "scheduled")
        while int((await one.read())["bodies"]) < until:  # noqa: ASYNC110  # the node is another process
            await asyncio.sleep(LOOK)

    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(run(one, until) for one, until in zip(crew, done, strict=True)))
    spent = time.monotonic() - began
    return Round(seconds=spent, shards=[shard.read() - past for shard, past in zip(site.shards, before, strict=True)])
