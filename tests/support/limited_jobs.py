"""Jobs with limits for tests in several processes. Each body writes down its begin and its end, outside the store."""

import asyncio
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from peerjob import INJECTED, Context, JobGroup, KeyLimit, Limit

JOURNAL = "LIMITS_JOURNAL"
FEW, RATED = Limit("few", concurrency=4), Limit("rated", rate="50/s", burst=5)
HUNDRED = Limit("hundred", rate="100/s")
group = JobGroup()


@group.job(kind="few", limits=[FEW])
async def few(seconds: float, context: Context = INJECTED) -> None:
    await _noted("few", seconds, context)


@group.job(kind="few.too", limits=[FEW])
async def few_too(seconds: float, context: Context = INJECTED) -> None:
    await _noted("few", seconds, context)


@group.job(kind="keyed", limits=[KeyLimit("{key}")])
async def keyed(key: str, seconds: float, context: Context = INJECTED) -> None:
    await _noted(key, seconds, context)


@group.job(kind="rated", limits=[RATED])
async def rated(context: Context = INJECTED) -> None:
    await _noted("rated", 0, context)


@group.job(kind="hundred", limits=[HUNDRED])
async def hundred(context: Context = INJECTED) -> None:
    await _noted("hundred", 0, context)


@group.job(kind="closes")
async def closes(limit: str, time: str, context: Context = INJECTED) -> None:
    await context.throttle(limit, time)


async def _noted(name: str, seconds: float, context: Context) -> None:
    note = f"{context.id}/{context.fence}"
    _write({"name": name, "run": note, "pid": os.getpid(), "at": time.monotonic(), "begins": True})
    try:
        await asyncio.sleep(seconds)
    finally:
        _write({"name": name, "run": note, "pid": os.getpid(), "at": time.monotonic(), "begins": False})


def _write(line: dict[str, object]) -> None:
    file = os.open(os.environ[JOURNAL], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, f"{json.dumps(line)}\n".encode())  # one write, so that the lines of several processes stay whole
    finally:
        os.close(file)


@dataclass
class Noted:
    """What the bodies wrote down."""

    most: dict[str, int]
    """The most bodies of a name at a time."""
    starts: dict[str, list[float]]
    """When the bodies of a name began, in monotonic seconds."""


def read_journal(path: Path, killed: dict[int, float]) -> Noted:
    """The bodies of all processes; those of a killed process ended with it."""
    events: list[tuple[float, bool, str]] = []
    open_runs: dict[str, tuple[str, int]] = {}
    noted = Noted(most={}, starts={})
    for line in path.read_text().splitlines():
        told = json.loads(line)
        events.append((told["at"], told["begins"], told["name"]))
        if told["begins"]:
            open_runs[told["run"]] = told["name"], told["pid"]
            noted.starts.setdefault(told["name"], []).append(told["at"])
        else:
            del open_runs[told["run"]]
    events += [(killed[pid], False, name) for name, pid in open_runs.values()]
    now: dict[str, int] = {}
    for _, begins, name in sorted(events):
        now[name] = now.get(name, 0) + (1 if begins else -1)
        noted.most[name] = max(noted.most.get(name, 0), now[name])
    return noted


JOBS = group
