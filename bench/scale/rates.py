"""What nodes cost in a second: in windows without a search for expired instances, which is added by its period."""

import asyncio
import statistics
import time
from collections.abc import Sequence

from peerjob.cluster.retention import BATCH
from peerjob.store.base import Store

from .engines import Reading, Site
from .hosts import Host, Total, total

WINDOW = 11.5
"""Ten renewals of a lease. Nodes that started together renew together, so a part of an interval can count as one."""
ATTEMPTS = 8
"""Windows that are tried until the leader calls `expire` in none. It calls it each 15 to 45 seconds."""
LONGEST_EXPIRE = 1.0
"""Most seconds of a call of `expire`. It is counted when it ends, which can be after the window."""
SEARCH_PERIOD = 240.0
"""Least seconds between two calls of `expire` that make the requests of a first one: on etcd, the search for unused
kinds."""


async def calls_of_expire(site: Site, store: Store) -> tuple[Reading, Reading]:
    """What the first call of `expire` of a store costs, and what a later one costs."""
    readings = [site.read()]
    for _ in range(2):
        await store.expire(BATCH)
        readings.append(site.read())
    return readings[1] - readings[0], readings[2] - readings[1]


def as_rate(site: Site, first: Reading, later: Reading, period: float) -> dict[str, float]:
    """The mean of a second of a node that calls `expire` once in a period."""
    searches = min(1.0, period / SEARCH_PERIOD)

    def each(of_first: float, of_later: float) -> float:
        return (of_later + searches * max(0.0, of_first - of_later)) / period

    return {
        # on SQLite, a call of the store is a request
        "requests": 1 / period if site.engine == "sqlite" else each(first.requests, later.requests),
        "operations": each(first.operations, later.operations),
        "calls": 1 / period,
        "bytes": each(first.traffic, later.traffic),
        "cpu_ms": each(first.cpu_ms, later.cpu_ms),
    }


async def rate(site: Site, hosts: Sequence[Host], *, seconds: float = WINDOW, windows: int = 1) -> dict[str, float]:
    """What happens in a second, without calls of `expire`: a window of seconds has none of them, or too many."""
    found: list[dict[str, float]] = []
    for _ in range(ATTEMPTS):
        before, began = await total(site, hosts), time.monotonic()
        await asyncio.sleep(seconds)
        after, spent = await total(site, hosts), time.monotonic() - began
        await asyncio.sleep(LONGEST_EXPIRE if hosts else 0)
        if (await total(site, hosts)).calls["expire"] == before.calls["expire"]:
            found.append(_mean(site, before, after, spent))
            if len(found) == windows:
                return {what: statistics.fmean(one[what] for one in found) for what in found[0]}
    raise RuntimeError(f"nodes called `expire` in most of {ATTEMPTS} windows")


def _mean(site: Site, before: Total, after: Total, spent: float) -> dict[str, float]:
    server = after.server - before.server

    def each(now: float, then: float) -> float:
        return (now - then) / spent

    requests, operations = server.requests, server.operations
    if site.engine == "sqlite":
        # the nodes are in other processes, which count; a request is a call of the store, other than a wait
        requests = float(_calls(after) - _calls(before))
        operations = float(after.statements - before.statements)
    return {
        "requests": requests / spent,
        "operations": operations / spent,
        "calls": each(_calls(after), _calls(before)),
        "bytes": server.traffic / spent,
        "cpu_ms": server.cpu_ms / spent,
        "nodes_cpu_ms": each(after.nodes_ms, before.nodes_ms),
        "memory": float(after.memory),
        "bodies": each(after.bodies, before.bodies),
    }


def _calls(at: Total) -> int:
    return sum(count for verb, count in at.calls.items() if verb not in ("next_hints", "changed"))
