"""What a set-up of the lab is: the addresses of its servers, and what can be done to them."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Protocol

from support.servers import Server, ServerProcess
from support.stalls import Span

from .disks import SmallDisk
from .proxy import FaultProxy

AWAY = 2.0
"""Seconds for which a killed, frozen or full server is away."""
FAILOVERS = frozenset({"failover", "failover by SIGSTOP"})
"""Harms after which another server has the place of the first one, and may lack its latest claims."""
Harm = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, kw_only=True)
class Hit:
    """What was done to a node, from its begin to its end."""

    node: str
    """The node, as the journal calls it."""
    begin_us: int
    end_us: int


NodeHarm = Callable[[], Coroutine[Any, Any, Hit]]


class OwnNodes(Protocol):
    """The nodes of a set-up that are no processes of the lab."""

    async def start(self, namespace: str, folder: Path) -> None:
        """Start them, with the journal in this folder."""
        ...

    def harms(self, chance: Random) -> Mapping[str, NodeHarm]: ...

    async def spans(self) -> Sequence[tuple[str, Span]]:
        """When a node stood still."""
        ...

    async def settled(self) -> None:
        """Wait until all nodes run again."""
        ...


@dataclass(kw_only=True)
class Site:
    """A running set-up."""

    url: str
    """The store, as the nodes reach it."""
    direct: str
    """The store without proxies."""
    coordinator: str | None = None
    direct_coordinator: str | None = None
    proxies: Sequence[FaultProxy] = ()
    harms: Mapping[str, Harm] = field(default_factory=dict[str, Harm])
    """What can be done to the servers; each ends with all servers running again."""
    shifts: Callable[[], Sequence[Span]] = tuple
    """When the members of a server had another leader."""
    health: Callable[[], Iterable[str]] = tuple
    """What the servers say about themselves; called in a thread."""
    nodes: OwnNodes | None = None
    left_out: Mapping[str, str] = field(default_factory=dict[str, str])
    """Harms that this machine does not allow, and why."""


Setup = Callable[[Random], AbstractAsyncContextManager[Site]]


def deaths(servers: Sequence[ServerProcess], chance: Random) -> dict[str, Harm]:
    """Kill, stop or freeze one of the servers for a moment."""

    async def kill() -> None:
        server = chance.choice(servers)
        server.kill()
        await asyncio.sleep(AWAY)
        await asyncio.to_thread(server.start)

    async def restart() -> None:
        await asyncio.to_thread(chance.choice(servers).restart)

    async def freeze() -> None:
        server = chance.choice(servers)
        server.pause()
        try:
            await asyncio.sleep(AWAY)
        finally:
            server.resume()

    return {"server SIGKILL": kill, "server restart": restart, "server SIGSTOP": freeze}


def full_memory(server: Server) -> dict[str, Harm]:
    """Lower the limit of a server below what it uses, and lift it again."""

    async def fill() -> None:
        await asyncio.to_thread(server.command, "CONFIG", "SET", "maxmemory", 1_000)
        await asyncio.sleep(AWAY)
        await asyncio.to_thread(server.command, "CONFIG", "SET", "maxmemory", 0)

    return {"maxmemory reached": fill}


def full_disk(disk: SmallDisk | None, server: ServerProcess | None) -> dict[str, Harm]:
    """Fill the disk of a server, or of a file without one, and make room again.

    Some servers end when a write fails; they are started again.
    """
    if disk is None:
        return {}

    async def fill() -> None:
        with disk.full():
            await asyncio.sleep(AWAY)
        if server is not None:
            # a server may be about to end because of its last write
            await asyncio.sleep(0.2)
            if not server.child.running:
                await asyncio.to_thread(server.start)

    return {"disk full": fill}
