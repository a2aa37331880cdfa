"""The leader of ten schedules, on a server of its own: a cell with more schedules is measured beside it.

    python -m scale.beside ENGINE

Two leaders in one moment have the same share of the machine. It says `ready` when its leader runs, and answers `read`,
and `fire` when its schedules fire each second. It ends with its input.
"""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import uvloop

from .adding import add_firing, add_schedules
from .cells import Cell
from .engines import Site, metered
from .hosts import PATIENCE, LightProcess, host, until_led
from .place import opened

SCHEDULES = 10


class Beside(LightProcess):
    """A process of this module."""

    async def fire(self) -> None:
        """Add schedules that fire each second, and return when they fire."""
        await self.ask("fire")


@asynccontextmanager
async def beside(engine: str) -> AsyncGenerator[Beside]:
    """Start the leader."""
    process = await Beside.start(sys.executable, "-m", "scale.beside", engine, patience=PATIENCE)
    try:
        yield process
    finally:
        await process.stop(PATIENCE)


async def main(site: Site) -> None:
    loop = asyncio.get_running_loop()
    cell = Cell(engine=site.engine, part="schedules", schedules=SCHEDULES)
    async with opened(site, cell) as place:
        await add_schedules(place, SCHEDULES)
        async with host(site, place.namespace, "leader", 1, 0) as (leader,):
            await until_led(leader, SCHEDULES)
            print("ready", flush=True)
            while line := await loop.run_in_executor(None, sys.stdin.readline):
                if line.strip() == "fire":
                    await add_firing(place)
                    print("fires", flush=True)
                else:
                    print(f"read {json.dumps(await leader.read())}", flush=True)


if __name__ == "__main__":
    with metered(sys.argv[1]) as its_site:
        uvloop.run(main(its_site))
