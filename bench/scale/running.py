"""Runs the cells, each in a process of its own: what counts and meters alone, what mostly waits beside it."""

import asyncio
import json
import os
import platform
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from peerjob.cluster.lease import INTERVAL
from support.etcd import EtcdServer
from support.servers import SERVERS, MissingServerError

from .cells import ENGINES, Cell, grid, misfit

ROOT = Path(__file__).parents[2]
WAITING_LANES = 2
"""Cells of idle nodes and schedules that run concurrently: their nodes wait most of the time."""
STARVED = 0.75
"""An idle follower calls the store at each renewal. The machine did not run nodes that made less than this share."""
PATIENCE = 600.0
"""Seconds after which a cell is ended, and named as one that did not finish."""
ENDING = 60.0
"""Seconds in which a cell that was told to end closes its servers and removes their data."""
NO_TIME = "left out: the time of the run was over"
Result = dict[str, Any]


def by_cell(report: Mapping[str, Any]) -> dict[Cell, Result]:
    """The results of a file, by cell; a result from before an axis came has its base size."""
    return {Cell(**result["cell"]): result for result in report.get("cells", ())}


def merged(stored: Mapping[Cell, Result], new: Mapping[Cell, Result]) -> list[Result]:
    """Stored results and new ones, in the order of the grid.

    A new result takes the place of a stored one, unless its cell was left out now and measured before.
    """
    left_out = {cell for cell, one in new.items() if "skipped" in one and "found" in stored.get(cell, ())}
    found = {**stored, **{cell: one for cell, one in new.items() if cell not in left_out}}
    order = {cell: place for place, cell in enumerate(grid(ENGINES))}
    return [found[cell] for cell in sorted(found, key=lambda cell: order.get(cell, len(order)))]


async def run(
    cells: Sequence[Cell], known: Mapping[Cell, Result], kept: Callable[[dict[Cell, Result]], None], seconds: float
) -> None:
    """Run the cells that have no known result, in their order; `kept` gets all results after each cell.

    After so many seconds, the cells that still run end, and the others are named as left out.
    """
    until = time.monotonic() + seconds
    results = {cell: known[cell] for cell in cells if cell in known}
    left = [cell for cell in cells if cell not in known]
    waits, meters = [cell for cell in left if cell.waits], [cell for cell in left if not cell.waits]

    async def lane(queue: list[Cell]) -> None:
        while queue:
            cell = queue.pop(0)
            results[cell] = await _one(cell, until - time.monotonic())
            kept(results)

    await asyncio.gather(lane(meters), *(lane(waits) for _ in range(WAITING_LANES)))


async def _one(cell: Cell, left: float) -> Result:
    result: Result = {"cell": cell.to_dict()}
    began = time.monotonic()
    reason = NO_TIME if left <= 0 else misfit(cell, available_memory())
    if reason is not None:
        result["skipped"] = reason
    else:
        result |= await _measured(cell, min(PATIENCE, left))
        if result.get("skipped") and left < PATIENCE:
            result["skipped"] = NO_TIME
        if cell.part == "idle" and "found" in result and starved(result["found"]["follower"]):
            result["skipped"] = "its nodes were starved by other work on the machine"
            del result["found"]
    result["seconds"] = round(time.monotonic() - began, 1)
    said = result.get("skipped") or result.get("error") or "measured"
    print(f"{cell.name}: {said} ({result['seconds']:.0f} s)", flush=True)
    return result


def starved(follower: Mapping[str, float]) -> bool:
    """Whether the machine gave an idle follower so little CPU time that it could not renew its lease as it should."""
    return follower["calls"] < STARVED / INTERVAL


async def _measured(cell: Cell, limit: float) -> Result:
    """What the process of a cell found, or why it found nothing."""
    command = (sys.executable, "-m", "scale.cell", json.dumps(cell.to_dict()))
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=dict(os.environ)
    )
    try:
        out, told = await asyncio.wait_for(process.communicate(), limit)
    except TimeoutError:
        return {"skipped": f"did not finish within {limit:.0f} s"}
    finally:
        await _end(process)
    lines = out.decode().splitlines()
    if process.returncode == 0 and lines:
        return {"found": json.loads(lines[-1])}
    reasons = told.decode().strip().splitlines() or ["ended without a word"]
    return {"error": " / ".join(reasons[-1:] if ":" in reasons[-1] else reasons[-4:])[:300]}


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the process of a cell that still runs, which ends its servers."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.communicate(), ENDING)
    except TimeoutError:
        process.kill()
        await process.wait()


def available_memory() -> int:
    """Bytes of memory that new programs can have."""
    match = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text())
    assert match is not None
    return int(match[1]) * 1024


def versions() -> list[str]:
    """Python and the servers that this machine has, each with its release."""
    found = [f"Python {platform.python_version()}", f"SQLite {sqlite3.sqlite_version}"]
    for name, server in (("Redis", SERVERS["redis"]), ("Valkey", SERVERS["valkey"]), ("etcd", EtcdServer)):
        try:
            command = [str(server.binary()), "--version"]
        except MissingServerError:
            continue
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        number = re.search(r"(?:v=|Version: )([\d.]+)", said)
        found.append(f"{name} {number[1] if number else '?'}")
    return found
