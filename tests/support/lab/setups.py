"""The set-ups of the lab: servers, how nodes reach them, and what can be done to the servers."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from support.etcd import EtcdCluster, EtcdServer
from support.sentinels import WatchedServers
from support.servers import SERVERS, ServerKind, ServerProcess

from .proxy import FaultProxy

AWAY = 2.0
"""Seconds for which a killed or frozen server is away."""
ALWAYS = ("--appendfsync", "always")
Harm = Callable[[], Coroutine[Any, Any, None]]


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
    fails_over: bool = False
    """Whether another server takes over, which may lack the latest claims."""


def _harms(servers: Sequence[ServerProcess], chance: Random) -> dict[str, Harm]:
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


@asynccontextmanager
async def _proxied(servers: Sequence[ServerProcess]) -> AsyncGenerator[tuple[str, list[FaultProxy]]]:
    """The hosts and ports of a proxy before each server."""
    async with AsyncExitStack() as cleanup:
        proxies = [await cleanup.enter_async_context(FaultProxy(server.port)) for server in servers]
        yield ",".join(f"127.0.0.1:{proxy.port}" for proxy in proxies), proxies


@asynccontextmanager
async def _lua(kind: ServerKind, chance: Random) -> AsyncGenerator[Site]:
    with SERVERS[kind](appendonly=True, config=ALWAYS) as server:
        async with _proxied([server]) as (hosts, proxies):
            yield Site(url=f"{kind}://{hosts}", direct=server.url, proxies=proxies, harms=_harms([server], chance))


def _redis(chance: Random) -> AbstractAsyncContextManager[Site]:
    return _lua("redis", chance)


def _valkey(chance: Random) -> AbstractAsyncContextManager[Site]:
    return _lua("valkey", chance)


@asynccontextmanager
async def _etcd(chance: Random) -> AsyncGenerator[Site]:
    with EtcdCluster() as cluster:
        async with _proxied(cluster.members) as (hosts, proxies):
            harms = _harms(cluster.members, chance)
            yield Site(url=f"etcd://{hosts}", direct=cluster.url, proxies=proxies, harms=harms)


@asynccontextmanager
async def _redis_etcd(chance: Random) -> AsyncGenerator[Site]:
    with SERVERS["redis"](appendonly=True, config=ALWAYS) as redis, EtcdServer() as etcd:
        async with _proxied([redis]) as (stores, to_store), _proxied([etcd]) as (coordinators, to_coordinator):
            yield Site(
                url=f"redis://{stores}",
                direct=redis.url,
                coordinator=f"etcd://{coordinators}",
                direct_coordinator=etcd.url,
                proxies=[*to_store, *to_coordinator],
                harms=_harms([redis, etcd], chance),
            )


@asynccontextmanager
async def _sentinel(chance: Random) -> AsyncGenerator[Site]:
    servers = await asyncio.to_thread(WatchedServers("redis", replicas=1).__enter__)
    try:
        url = servers.with_options("durability=replicas:1&durability_timeout=5s")

        async def fail_over() -> None:
            """Kill the primary, and start it again once the replica has its place."""
            old = await asyncio.to_thread(servers.primary)
            old.kill()
            while await asyncio.to_thread(servers.primary) is old:  # noqa: ASYNC110  # a sentinel is asked
                await asyncio.sleep(0.1)
            await asyncio.to_thread(old.start)
            for setting in ("masterauth", "requirepass"):
                old.command("CONFIG", "SET", setting, "of-the-servers")

        yield Site(url=url, direct=url, harms={"failover": fail_over}, fails_over=True)
    finally:
        await asyncio.to_thread(servers.__exit__)


@asynccontextmanager
async def _sqlite(chance: Random) -> AsyncGenerator[Site]:
    with tempfile.TemporaryDirectory(prefix="lab-") as folder:
        url = f"sqlite://{Path(folder, 'peerjob.db')}"
        yield Site(url=url, direct=url)


SETUPS: Mapping[str, Callable[[Random], AbstractAsyncContextManager[Site]]] = {
    "redis": _redis,
    "valkey": _valkey,
    "etcd-3": _etcd,
    "redis+etcd": _redis_etcd,
    "redis+sentinel": _sentinel,
    "sqlite": _sqlite,
}
