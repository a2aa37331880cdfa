"""What idle nodes cost: first a leader alone, then the same leader with followers."""

import asyncio
from contextlib import AsyncExitStack

from peerjob.cluster.retention import FOLLOWER_PERIOD, PERIOD

from .adding import add_schedules
from .cells import Cell
from .engines import Site
from .hosts import Host, host, until_led
from .place import opened
from .rates import as_rate, calls_of_expire, rate
from .verbs import Found

SETTLE = 6.5
"""Seconds until a node looks for dead peers, which begins a lease after its start, and compares its clock."""
WINDOWS = 2
"""Windows that are measured if there is one follower: its cost is then the difference of two small numbers."""
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
        nothing = await rate(site, hosts, seconds=3.0)
        hosts += await cleanup.enter_async_context(host(site, place.namespace, "leader", 1, kinds))
        await until_led(hosts[0], cell.schedules)
        await asyncio.sleep(SETTLE)
        windows = WINDOWS if cell.nodes <= 2 else 1
        leader = await rate(site, hosts, windows=windows)
        hosts += await cleanup.enter_async_context(host(site, place.namespace, "follower", cell.nodes - 1, kinds))
        await asyncio.sleep(SETTLE + cell.nodes / 10)
        all_nodes = await rate(site, hosts, windows=windows)
        followers = max(1, cell.nodes - 1)
        expires = await calls_of_expire(site, place.store)
        of_leader, of_follower = (as_rate(site, *expires, period) for period in (PERIOD, FOLLOWER_PERIOD))
        return {
            "leader": {what: round(leader[what] - nothing[what] + of_leader.get(what, 0), 3) for what in leader},
            "follower": {
                what: round((all_nodes[what] - leader[what]) / followers + of_follower.get(what, 0), 3)
                for what in leader
            },
            "server_cores": round((all_nodes["cpu_ms"]) / 1000, 4),
            "node_memory": round(all_nodes["memory"] / cell.nodes),
        }
