"""What enqueue, claim and commit cost on the server, and how often writers of one queue are in each other's way."""

import asyncio
import statistics
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import replace
from typing import Any

from counting import AllRefusals, refusals_of
from peerjob.store.base import Store
from peerjob.store.etcd.driver import EtcdKeyValue
from peerjob.store.memory.driver import MemoryKeyValue
from peerjob.store.sqlite.driver import SqliteKeyValue
from peerjob.testing.factories import Peer
from server_cpu import ServerCpu

from .cells import Cell
from .engines import Reading, Site, metered
from .goals import VERBS
from .place import Place, fresh_store, opened

BLOCKS = 9
"""Blocks of calls. A figure is the mean of the least third of the blocks, since other work on the machine only adds."""
CALLS = {"redis": 150, "valkey": 150, "etcd": 12, "sqlite": 30, "memory": 40}
"""Calls of a block: so many enqueues, and a quarter as many claims and commits of ten instances."""
SHARED = 2_000
"""Instances that several peers take from one queue."""
DRIVERS: dict[str, type[Any]] = {"etcd": EtcdKeyValue, "sqlite": SqliteKeyValue, "memory": MemoryKeyValue}

Found = dict[str, Any]


async def verbs(site: Site, cell: Cell) -> Found:
    """Cost of one instance, by verb; bytes of the store for each waiting instance; the longest scripts.

    The growth is the cost as a multiple of that of the smallest cell. Its blocks alternate with those of the cell, on a
    server of its own, so that the load of the machine lengthens both alike.
    """
    async with AsyncExitStack() as cleanup:
        smallest = replace(cell, kinds=10, queued=1_000)
        place = await cleanup.enter_async_context(opened(site, cell))
        places = [place]
        if smallest != cell:
            places.append(
                await cleanup.enter_async_context(opened(cleanup.enter_context(metered(site.engine)), smallest))
            )
        calls = CALLS[site.engine] if cell.payload < 1 << 18 else 4
        found: Found = {"memory_per_instance": round(place.filled_bytes)}
        blocks: list[dict[str, list[dict[str, float]]]] = [{verb: [] for verb in VERBS} for _ in places]
        for one in places:
            await _round(one)  # a first claim registers the kinds
        site.longest_ms()
        for _ in range(BLOCKS):
            for one, block in zip(places, blocks, strict=True):
                block["enqueue"].append(await _enqueue(one, calls))
                claim, commit = await _work(one, max(2, calls // 4))
                block["claim"].append(claim)
                block["commit"].append(commit)
        for verb, costs in blocks[0].items():
            found[verb] = {what: round(_low(costs, what), 4) for what in costs[0]}
        found["growth"] = {
            verb: round(_low(blocks[0][verb], "cpu_us") / _low(blocks[-1][verb], "cpu_us"), 3) for verb in VERBS
        }
        async with _longest(place) as longest:
            for _ in range(3):
                await _round(place)
        found["longest_ms"] = {name: round(ms, 3) for name, ms in longest.items()}
        return found


def _low(blocks: list[dict[str, float]], what: str) -> float:
    """The mean of the least third of the blocks."""
    return statistics.fmean(sorted(one[what] for one in blocks)[: max(1, len(blocks) // 3)])


async def _enqueue(place: Place, calls: int) -> dict[str, float]:
    before = place.site.read()
    for _ in range(calls):
        await place.store.enqueue([place.new()])
    return each(place.site.read() - before, calls)


async def _work(place: Place, calls: int) -> tuple[dict[str, float], dict[str, float]]:
    """The cost of an instance in claims, and in commits, of ten."""
    begun = place.site.read()
    held = [await place.take(place.worker) for _ in range(calls)]
    claimed = place.site.read()
    for claims in held:
        await place.end(place.worker, claims)
    count = sum(map(len, held))
    assert count, "the queue was empty"
    return each(claimed - begun, count), each(place.site.read() - claimed, count)


async def _round(place: Place) -> None:
    await place.store.enqueue([place.new()])
    await place.end(place.worker, await place.take(place.worker))


def each(spent: Reading, count: int) -> dict[str, float]:
    """The cost of one of so many."""
    return {
        "requests": spent.requests / count,
        "operations": spent.operations / count,
        "cpu_us": 1000 * spent.cpu_ms / count,
        "bytes": spent.traffic / count,
    }


@asynccontextmanager
async def _longest(place: Place) -> AsyncGenerator[dict[str, float]]:
    """The longest scripts or transactions of what happens inside; scripts are metered one by one."""
    found: dict[str, float] = {}
    metered, _ = fresh_store(place.site, place.namespace)
    cpu = ServerCpu.of(metered)
    if cpu is None:
        place.site.longest_ms()
        yield found
        found |= place.site.longest_ms()
        return
    await metered.open()
    plain: tuple[Store, Store] = (place.store, place.worker.store)
    try:
        await cpu.calibrate()
        place.store = place.worker.store = metered
        yield found
        found |= cpu.longest_ms
    finally:
        place.store, place.worker.store = plain
        await metered.close()


async def contention(site: Site, cell: Cell) -> Found:
    """Several peers empty one queue, ten instances at a time: conflicts and cost of each instance."""
    driver = DRIVERS.get(site.engine)
    async with opened(site, cell) as place:
        await place.fill(SHARED)
        peers = [
            await Peer(store=place.store, info=place.make.node(f"peer-{number}", place.kinds), make=place.make).join()
            for number in range(cell.nodes)
        ]
        for peer in peers:
            await place.end(peer, await place.take(peer, 1))
        left = SHARED

        async def drain(peer: Peer) -> None:
            nonlocal left
            while left > 0:
                claims = await place.take(peer)
                left -= len(claims)
                await place.end(peer, claims)

        counting: Any = nullcontext(AllRefusals()) if driver is None else refusals_of(driver)
        with counting as refused:
            before = site.read()
            await asyncio.gather(*map(drain, peers))
            spent = site.read() - before
        done = SHARED - left
        return {
            "job": each(spent, done),
            "conflicts": refused.changes / done,
            "counter_conflicts": refused.counters / done,
        }


Measure = Callable[[Site, Cell], Coroutine[Any, Any, Found]]
