"""Set-ups in which another server takes over: Redis with Sentinel, and Redis Cluster."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from typing import cast

import redis

from support.sentinels import PASSWORD, WatchedServers
from support.servers import Server, ServerCluster
from support.waiting import LOOK, PATIENCE

from .site import Harm, Site

CONFIRMED = "durability=replicas:1&durability_timeout=5s"
NODE_TIMEOUT = 1500
"""Milliseconds after which the members of a cluster take one of them for dead."""


Primary = Callable[[Server | None], Server | None]
"""The primary now, or None; a server that is away is not asked."""
ComesBack = Callable[[Server], Awaitable[None]]


def _failovers(primary: Primary, started: ComesBack, back: ComesBack) -> dict[str, Harm]:
    """Kill the primary, or freeze it, until another server has its place."""

    async def there(away: Server | None) -> Server:
        async with asyncio.timeout(PATIENCE):
            while (found := await asyncio.to_thread(primary, away)) is None:  # noqa: ASYNC110  # servers are asked
                await asyncio.sleep(LOOK)
            return found

    async def kill() -> None:
        old = await there(None)
        old.kill()
        await there(old)
        await asyncio.to_thread(old.start)
        await started(old)
        await back(old)

    async def freeze() -> None:
        old = await there(None)
        old.pause()
        try:
            await there(old)
        finally:
            old.resume()
        await back(old)

    return {"failover": kill, "failover by SIGSTOP": freeze}


async def _nothing(_: Server) -> None:
    pass


@asynccontextmanager
async def sentinel(chance: Random) -> AsyncGenerator[Site]:
    servers = await asyncio.to_thread(WatchedServers("redis", replicas=1).__enter__)
    try:
        url = servers.with_options(CONFIRMED)

        def primary(away: Server | None) -> Server | None:
            found = servers.agreed_primary()
            return None if found is away else found

        async def started(server: Server) -> None:
            for setting in ("masterauth", "requirepass"):
                await asyncio.to_thread(server.command, "CONFIG", "SET", setting, PASSWORD)

        yield Site(url=url, direct=url, harms=_failovers(primary, started, partial(_follows, password=PASSWORD)))
    finally:
        await asyncio.to_thread(servers.__exit__)


@asynccontextmanager
async def cluster(chance: Random) -> AsyncGenerator[Site]:
    servers = await asyncio.to_thread(ServerCluster("redis", replicas=1, timeout=NODE_TIMEOUT).__enter__)
    members = [*servers.nodes, *servers.replicas]

    def primary(away: Server | None) -> Server | None:
        """The one that has the keys: a namespace is on one shard."""
        asked = [one for one in members if one is not away]
        return next((one for one in asked if _role(one)[0] == "master" and one.command("DBSIZE")), None)

    try:
        url = f"redis://{','.join(f'127.0.0.1:{one.port}' for one in members)}?cluster=true&{CONFIRMED}"
        yield Site(url=url, direct=url, harms=_failovers(primary, _nothing, _follows))
    finally:
        await asyncio.to_thread(servers.close)


async def _follows(server: Server, *, password: str | None = None) -> None:
    """Wait until a server has all data of the one that took its place: else the next failover fails both at once."""
    role: list[object] = []
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                role = await asyncio.to_thread(_role, server, password)
                if role[0] == "slave" and role[3] == "connected":
                    return
                await asyncio.sleep(LOOK)
    except TimeoutError:
        newest = max(server.files("log-*"), key=lambda path: path.stat().st_mtime)
        said = "\n".join(newest.read_text().splitlines()[-30:])
        raise AssertionError(
            f"the server does not follow another after {PATIENCE:g} s: {role}; it wrote\n{said}"
        ) from None


def _role(server: Server, password: str | None = None) -> list[object]:
    with redis.Redis(port=server.port, password=password, decode_responses=True, socket_timeout=PATIENCE) as client:
        run = cast("Callable[..., list[object]]", client.execute_command)  # pyright: ignore[reportUnknownMemberType]
        return run("ROLE")
