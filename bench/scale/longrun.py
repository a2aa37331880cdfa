"""Runs a million jobs, and shows that the memory of nodes stays flat: python -m scale.longrun redis etcd sqlite.

One process runs the jobs, another one schedules them. Both are nodes, and both are measured, after each hundredth of
the jobs. This process has the server, and keeps its log. The store keeps 1,000 final instances. The results go to
build/scale-memory.json.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import uvloop

from support.servers import MissingServerError

from .engines import EtcdSite, LuaSite, Site, metered, resident
from .hosts import LightProcess
from .running import ROOT

RESULTS = ROOT / "build" / "scale-memory.json"
SAMPLES = 100
AHEAD = 10_000
"""Most instances that wait."""
BATCH = 2_000
Report = dict[str, Any]


async def run(site: Site, jobs: int, minutes: float, kept: Callable[[Report], None]) -> None:
    """Schedule and run so many jobs, unless the time ends first."""
    namespace = f"long-{uuid4().hex[:12]}"
    report: Report = {"engine": site.engine, "wanted": jobs, "samples": []}
    command = (sys.executable, "-m", "scale.light", site.url, namespace)
    until, began, scheduled = time.monotonic() + 60 * minutes, time.monotonic(), 0
    worker = await LightProcess.start(*command, "worker", "1", "0")
    client = await LightProcess.start(*command, "client", "1", "0", "--workers=0")
    try:
        done, next_sample = 0, 0
        while done < jobs and time.monotonic() < until:
            if scheduled < jobs and scheduled - done < AHEAD:
                count = min(BATCH, jobs - scheduled)
                await client.ask(f"schedule {count}", "scheduled")
                scheduled += count
            else:
                await asyncio.sleep(0.05)
            at = await worker.read()
            done = int(at["bodies"])
            if done >= next_sample or done >= jobs:
                next_sample = done - done % (jobs // SAMPLES) + jobs // SAMPLES
                report["samples"].append(
                    {
                        "jobs": done,
                        "seconds": round(time.monotonic() - began, 1),
                        "worker": at["memory"],
                        "client": (await client.read())["memory"],
                        "server": _server(site),
                    }
                )
                kept(report)
    finally:
        await client.stop()
        await worker.stop()


def _server(site: Site) -> int | None:
    """Bytes that the server's process has; None without a server."""
    return resident(site.pid) if isinstance(site, EtcdSite | LuaSite) else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("engines", nargs="+", choices=("redis", "valkey", "etcd", "sqlite"))
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, default=60.0, help="the most minutes for an engine (default: 60)")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the results go, beside those of other runs")
    given = parser.parse_args()
    if given.jobs < SAMPLES:
        parser.error(f"--jobs must be at least {SAMPLES}, got {given.jobs}")
    given.json.parent.mkdir(parents=True, exist_ok=True)

    def kept(report: Report) -> None:
        runs: dict[str, Any] = json.loads(given.json.read_text()) if given.json.exists() else {}
        given.json.write_text(json.dumps({**runs, report["engine"]: report}, indent=1) + "\n")

    for engine in given.engines:
        try:
            with metered(engine) as site:
                uvloop.run(run(site, given.jobs, given.minutes, kept))
        except MissingServerError as missing:
            print(f"{engine}: skipped, {missing}")
            continue
        samples = json.loads(given.json.read_text())[engine]["samples"]
        print(f"{engine}: {samples[-1]}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
