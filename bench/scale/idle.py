"""What idle nodes cost: first a leader alone, then the same leader with followers."""

import asyncio
import time
from contextlib import AsyncExitStack

from .cells import Cell
from .engines import Site
from .hosts import Host, Total, host, total, until_led
from .leading import add_schedules
from .place import opened
from .verbs import Found

SETTLE = 6.5
"""Seconds until a node looks for dead peers, which begins a lease after its start, and compares its clock."""
WINDOW = 11.5
"""Ten renewals of a lease. Nodes that started together renew together, so a part of an interval can count as one."""
MAX_IDLE_KINDS = 4_999
"""Kinds of an idle node. It also runs the kind that the schedules of a cell make, and 5,000 kinds are the limit."""


async def idle(site: Site, cell: Cell) -> Found:
    """Requests, operations, bytes and CPU time a second: of a leader, of a follower, and of all nodes on the server."""
    async with AsyncExitStack() as cleanup:
        place = await cleanup.enter_async_context(opened(site, cell))
        if cell.schedules:
            await add_schedules(place, cell.schedules)
        kinds = min(MAX_IDLE_KINDS, cell.kinds // 2)
        hosts: list[Host] = []
        nothing = await _rate(site, hosts, seconds=3.0)
        hosts += await cleanup.enter_async_context(host(site, place.namespace, "leader", 1, kinds))
        await until_led(hosts[0])
        await asyncio.sleep(SETTLE + cell.schedules / 20_000)
        leader = await _rate(site, hosts)
        hosts += await cleanup.enter_async_context(host(site, place.namespace, "follower", cell.nodes - 1, kinds))
        await asyncio.sleep(SETTLE + cell.nodes / 10)
        all_nodes = await _rate(site, hosts)
        followers = max(1, cell.nodes - 1)
        return {
            "leader": {what: round(leader[what] - nothing[what], 3) for what in leader},
            "follower": {what: round((all_nodes[what] - leader[what]) / followers, 3) for what in leader},
            "server_cores": round((all_nodes["cpu_ms"]) / 1000, 4),
            "node_memory": round(all_nodes["memory"] / cell.nodes),
        }


async def _rate(site: Site, hosts: list[Host], *, seconds: float = WINDOW) -> dict[str, float]:
    """What happens in a second."""
    before, began = await total(site, hosts), time.monotonic()
    await asyncio.sleep(seconds)
    after, spent = await total(site, hosts), time.monotonic() - began
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
    }


def _calls(at: Total) -> int:
    return sum(count for verb, count in at.calls.items() if verb not in ("next_hints", "changed"))
