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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from support.etcd import EtcdServer
from support.servers import SERVERS, MissingServerError

from .cells import Cell, misfit

ROOT = Path(__file__).parents[2]
WAITING_LANES = 3
"""Cells of idle nodes and schedules that run concurrently: their nodes wait most of the time."""
STARVED = 2.9
"""Calls of the store a second. An idle follower makes four; one that makes fewer was not run by the machine."""
PATIENCE = 900.0
"""Seconds after which a cell is ended, and named as one that did not finish."""
Result = dict[str, Any]


async def run(cells: Sequence[Cell], known: Sequence[Result], kept: Callable[[list[Result]], None]) -> list[Result]:
    """The results of the cells, in their order; `kept` gets all results after each cell."""
    found = {json.dumps(result["cell"], sort_keys=True): result for result in known if "found" in result}
    results: dict[Cell, Result] = {}
    waits = [cell for cell in cells if cell.part in ("idle", "schedules")]
    meters = [cell for cell in cells if cell not in set(waits)]

    async def lane(queue: list[Cell]) -> None:
        while queue:
            cell = queue.pop(0)
            again = found.get(json.dumps(cell.to_dict(), sort_keys=True))
            results[cell] = again or await _one(cell)
            kept([results[one] for one in cells if one in results])

    await asyncio.gather(lane(meters), *(lane(waits) for _ in range(WAITING_LANES)))
    return [results[cell] for cell in cells]


async def _one(cell: Cell) -> Result:
    result: Result = {"cell": cell.to_dict()}
    reason = misfit(cell, available_memory())
    began = time.monotonic()
    if reason is not None:
        result["skipped"] = reason
    else:
        command = (sys.executable, "-m", "scale.cell", json.dumps(cell.to_dict()))
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=dict(os.environ)
        )
        try:
            out, told = await asyncio.wait_for(process.communicate(), PATIENCE)
        except TimeoutError:
            process.terminate()
            await process.wait()
            result["skipped"] = f"did not finish within {PATIENCE:.0f} s"
        else:
            lines = out.decode().splitlines()
            if process.returncode == 0 and lines:
                result["found"] = json.loads(lines[-1])
                if cell.part == "idle" and result["found"]["follower"]["calls"] < STARVED:
                    result["skipped"] = "its nodes were starved by other work on the machine"
                    del result["found"]
            else:
                reasons = told.decode().strip().splitlines() or ["ended without a word"]
                result["error"] = " / ".join(reasons[-1:] if ":" in reasons[-1] else reasons[-4:])[:300]
    result["seconds"] = round(time.monotonic() - began, 1)
    said = result.get("skipped") or result.get("error") or "measured"
    print(f"{cell.name}: {said} ({result['seconds']:.0f} s)", flush=True)
    return result


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
