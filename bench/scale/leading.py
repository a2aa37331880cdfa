"""What schedules cost: to write one, to load it as a new leader, and to fire it."""

import asyncio
import statistics
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack

from peerjob.cluster.retention import PERIOD

from .adding import add_firing, add_schedules
from .beside import SCHEDULES, beside
from .cells import Cell
from .engines import Site
from .hosts import Host, host, until_led
from .place import Place, opened
from .rates import WINDOW, as_rate, calls_of_expire, rate
from .verbs import Found

FIRE_WINDOW = 6.0
WINDOWS = 3
"""Windows in which the schedules fire. The one of the least CPU time counts, since other work only adds."""
SETTLE = 6.0
Second = Mapping[str, float]


async def schedules(site: Site, cell: Cell) -> Found:
    """The cost of a put, of a loaded row, of an idle leader's second and of a fire, with so many schedules.

    The growth is the leader's cost of a fire, as a multiple of that of another leader with ten schedules in the same
    moments.
    """
    async with AsyncExitStack() as cleanup:
        place = await cleanup.enter_async_context(opened(site, cell))
        before = site.read()
        await add_schedules(place, cell.schedules)
        put = site.read() - before
        load, began = site.read(), time.process_time()
        rows = await _load(place)
        load, loaded_s = site.read() - load, time.process_time() - began
        without = await rate(site, [], seconds=3.0)
        (leader,) = await cleanup.enter_async_context(host(site, place.namespace, "leader", 1, 0))
        alone = cell.schedules <= SCHEDULES
        smallest = None if alone else await cleanup.enter_async_context(beside(site.engine))
        await until_led(leader, cell.schedules)
        await asyncio.sleep(SETTLE)
        idle, its_idle = await _both(site, leader, smallest, seconds=WINDOW)
        await add_firing(place)
        if smallest is not None:
            await smallest.fire()
        windows = [await _both(site, leader, smallest, seconds=FIRE_WINDOW) for _ in range(WINDOWS)]
        growth = statistics.median(
            _of_fire(busy, idle, "nodes_cpu_ms") / _of_fire(its_busy, its_idle, "nodes_cpu_ms")
            for busy, its_busy in windows
        )
        busy = min((busy for busy, _ in windows), key=lambda one: (one["nodes_cpu_ms"] + one["cpu_ms"]) / one["bodies"])
        searches = as_rate(site, *await calls_of_expire(site, place.store), PERIOD)
        return {
            "put": {"operations": put.operations / cell.schedules, "cpu_us": 1000 * put.cpu_ms / cell.schedules},
            "load": {
                "operations": load.operations / rows,
                "cpu_us": 1000 * load.cpu_ms / rows,
                "leader_cpu_us": 1e6 * loaded_s / rows,
            },
            "idle": {
                "requests": idle["requests"] - without["requests"] + searches["requests"],
                "leader_cpu_ms": idle["nodes_cpu_ms"],
            },
            "fire": {
                "operations": _of_fire(busy, idle, "operations"),
                "cpu_us": 1000 * _of_fire(busy, idle, "cpu_ms"),
                "leader_cpu_us": 1000 * _of_fire(busy, idle, "nodes_cpu_ms"),
                "count": round(busy["bodies"] * FIRE_WINDOW),
                "growth": growth,
            },
            "leader_memory": idle["memory"],
        }


async def _both(site: Site, leader: Host, other: Host | None, *, seconds: float) -> tuple[Second, Second]:
    """A second of both leaders in the same moments."""
    if other is None:
        second = await rate(site, [leader], seconds=seconds)
        return second, second
    first, second = await asyncio.gather(rate(site, [leader], seconds=seconds), rate(site, [other], seconds=seconds))
    return first, second


def _of_fire(busy: Second, idle: Second, what: str) -> float:
    return (busy[what] - idle[what]) / busy["bodies"]


async def _load(place: Place) -> int:
    """Read all schedules, as a new leader does."""
    rows, revision, more = 0, 0, True
    while more:
        page = await place.store.changed_schedules(revision)
        rows, revision, more = rows + len(page.rows), page.revision, page.more
    return rows
