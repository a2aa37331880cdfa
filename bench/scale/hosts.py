"""Processes of light nodes, as a cell sees them; on the store in memory, the nodes are in this process."""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from peerjob.cluster.cron import PAGE
from processes import LineProcess

from .engines import Reading, Site
from .light import hosted

PATIENCE = 120.0
"""Seconds for the start and for the stop of a process with 25 nodes on a busy machine."""
PROCESSES = 4
"""The nodes of a cell share so many processes."""


class Host(Protocol):
    """Some nodes."""

    async def leads(self) -> bool: ...

    async def read(self) -> dict[str, Any]: ...


async def until_led(host: Host, schedules: int = 0) -> None:
    """Wait until a node leads and has read so many schedules: on a busy machine, it reads 100,000 for a minute."""
    while not await host.leads():  # noqa: ASYNC110  # the host is another process
        await asyncio.sleep(0.1)
    while (await host.read())["calls"].get("changed_schedules", 0) <= schedules / PAGE:  # noqa: ASYNC110
        await asyncio.sleep(0.1)


class LightProcess(LineProcess):
    """A process of `light.py`."""

    async def leads(self) -> bool:
        return (await self.ask("leads")).split()[1] == "1"

    async def read(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads((await self.ask("read")).partition(" ")[2])
        return answer


@dataclass(frozen=True, kw_only=True)
class Total:
    """What the server and the nodes have done until now."""

    server: Reading
    nodes_ms: float = 0.0
    statements: int = 0
    calls: Counter[str] = field(default_factory=Counter[str])
    memory: int = 0
    bodies: int = 0


async def total(site: Site, hosts: Sequence[Host]) -> Total:
    """Read the server and each host once."""
    answers = [await host.read() for host in hosts]
    calls: Counter[str] = Counter()
    for one in answers:
        calls.update(one["calls"])
    return Total(
        server=site.read(),
        nodes_ms=sum(one["cpu_ms"] for one in answers),
        statements=sum(one["statements"] for one in answers),
        calls=calls,
        memory=sum(one["memory"] for one in answers),
        bodies=sum(one["bodies"] for one in answers),
    )


class _Here:
    """Nodes of this process."""

    def __init__(self, nodes: Any) -> None:
        self._nodes = nodes

    async def leads(self) -> bool:
        return bool(await self._nodes.leads())

    async def read(self) -> dict[str, Any]:
        answer: dict[str, Any] = self._nodes.read()
        return answer


@asynccontextmanager
async def host(site: Site, namespace: str, name: str, count: int, kinds: int) -> AsyncGenerator[list[Host]]:
    """Start `count` light nodes."""
    if site.engine == "memory":
        async with hosted(site.url, namespace, name, count, kinds) as nodes:
            yield [_Here(nodes)]
        return
    shares = [count // PROCESSES + (number < count % PROCESSES) for number in range(PROCESSES)]
    started: list[LightProcess] = []
    try:
        starting = [
            LightProcess.start(
                *(sys.executable, "-m", "scale.light", site.url, namespace, f"{name}-{number}"),
                *(str(share), str(kinds)),
                patience=PATIENCE,
            )
            for number, share in enumerate(shares)
            if share
        ]
        started += await asyncio.gather(*starting)
        yield list(started)
    finally:
        for one in started:
            await one.stop(PATIENCE)
