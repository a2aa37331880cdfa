"""Schedules of a cell: many that do not fire meanwhile, and some that fire each second."""

import asyncio

from peerjob import Job, Node
from peerjob.model.firing import SchedulePut

from .light import MADE, nothing
from .place import Place

TOGETHER = 200
"""Concurrent puts."""
FIRING = 20
"""Schedules of a cell that fire once a second; all others fire on the next 29th of February."""
PATIENCE = 180.0


async def add_schedules(place: Place, count: int) -> None:
    """Add schedules that fire on no day of the measurement."""
    await _add(place, "0 0 29 2 *", "leap-day", count)


async def add_firing(place: Place) -> None:
    """Add schedules that fire each second, and wait until they do."""
    await _add(place, "* * * * * *", "each-second", FIRING)
    await _until_fired(place)


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


async def _until_fired(place: Place) -> None:
    """Wait until the leader knows the new schedules: under load, it reads many thousands of rows for a minute."""
    async with asyncio.timeout(PATIENCE):
        while await _fires(place) < 3 * FIRING:  # noqa: ASYNC110  # a store tells nothing of a fire
            await asyncio.sleep(0.5)


async def _fires(place: Place) -> int:
    """How often the firing schedules have fired."""
    pages = [await place.store.fires(f"each-second-{number}", limit=100) for number in range(FIRING)]
    return sum(len(page.records) for page in pages)
