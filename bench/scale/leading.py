"""What schedules cost: to write one, to load it as a new leader, and to fire it."""

import asyncio
import time
from contextlib import AsyncExitStack

from peerjob import Job, Node
from peerjob.model.firing import SchedulePut

from .cells import Cell
from .engines import Site
from .hosts import host, total, until_led
from .light import MADE, nothing
from .place import Place, opened
from .verbs import Found

TOGETHER = 200
"""Concurrent puts."""
FIRING = 20
"""Schedules of a cell that fire once a second; all others fire on the next 29th of February."""
WINDOW = 8.0
SETTLE = 6.0
PATIENCE = 180.0


async def schedules(site: Site, cell: Cell) -> Found:
    """The cost of a put, of a loaded row, of an idle leader's second and of a fire, with so many schedules."""
    async with AsyncExitStack() as cleanup:
        place = await cleanup.enter_async_context(opened(site, cell))
        before = site.read()
        await add_schedules(place, cell.schedules)
        put = site.read() - before
        load, began = site.read(), time.process_time()
        rows = await _load(place)
        load, loaded_s = site.read() - load, time.process_time() - began
        (leader,) = await cleanup.enter_async_context(host(site, place.namespace, "leader", 1, 0))
        await until_led(leader)
        await asyncio.sleep(SETTLE + cell.schedules / 20_000)
        first = await total(site, [leader])
        await asyncio.sleep(WINDOW)
        second = await total(site, [leader])
        await _add(place, "* * * * * *", "each-second", FIRING)
        await _until_fired(place)
        third, fires = await total(site, [leader]), await _fires(place)
        await asyncio.sleep(WINDOW)
        fourth, fired = await total(site, [leader]), await _fires(place) - fires
        idle, busy = second.server - first.server, fourth.server - third.server
        idle_node, busy_node = second.nodes_ms - first.nodes_ms, fourth.nodes_ms - third.nodes_ms
        statements = (fourth.statements - third.statements) - (second.statements - first.statements)
        operations = statements if site.engine == "sqlite" else busy.operations - idle.operations
        return {
            "put": {"operations": put.operations / cell.schedules, "cpu_us": 1000 * put.cpu_ms / cell.schedules},
            "load": {
                "operations": load.operations / rows,
                "cpu_us": 1000 * load.cpu_ms / rows,
                "leader_cpu_us": 1e6 * loaded_s / rows,
            },
            "idle": {"requests": idle.requests / WINDOW, "leader_cpu_ms": idle_node / WINDOW},
            "fire": {
                "operations": operations / fired,
                "cpu_us": 1000 * (busy.cpu_ms - idle.cpu_ms) / fired,
                "leader_cpu_us": 1000 * (busy_node - idle_node) / fired,
                "count": fired,
            },
            "leader_memory": fourth.memory,
        }


async def add_schedules(place: Place, count: int) -> None:
    """Add schedules that fire on no day of the measurement."""
    await _add(place, "0 0 29 2 *", "leap-day", count)


async def _add(place: Place, cron: str, name: str, count: int) -> None:
    """Add one schedule as a program does, and then its copies as rows."""
    async with Node(place.site.url, namespace=place.namespace, workers=0) as client:
        await client.add_schedule(Job(MADE, nothing).with_options(cron=cron, name=f"{name}-0"), 0)
    (row,) = await place.store.get_schedules([f"{name}-0"])
    assert row is not None
    limit = asyncio.Semaphore(TOGETHER)

    async def put(number: int) -> None:
        async with limit:
            copy = SchedulePut(name=f"{name}-{number}", kind=row.kind, definition=row.definition, next_us=row.next_us)
            await place.store.put_schedule(copy)  # None: it was sent twice

    for start in range(1, count, 1_000):
        await asyncio.gather(*(put(number) for number in range(start, min(start + 1_000, count))))


async def _load(place: Place) -> int:
    """Read all schedules, as a new leader does."""
    rows, revision, more = 0, 0, True
    while more:
        page = await place.store.changed_schedules(revision)
        rows, revision, more = rows + len(page.rows), page.revision, page.more
    return rows


async def _until_fired(place: Place) -> None:
    """Wait until the leader knows the new schedules: under load, it reads many thousands of rows for a minute."""
    async with asyncio.timeout(PATIENCE):
        while await _fires(place) < 3 * FIRING:  # noqa: ASYNC110  # a store tells nothing of a fire
            await asyncio.sleep(0.5)


async def _fires(place: Place) -> int:
    """How often the firing schedules have fired."""
    pages = [await place.store.fires(f"each-second-{number}", limit=100) for number in range(FIRING)]
    return sum(len(page.records) for page in pages)
