"""The set-ups of the lab: servers, how nodes reach them, and what can be done to the servers."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import cast

from support.etcd import EtcdCluster, EtcdServer
from support.servers import SERVERS, Server, ServerKind, ServerProcess
from support.waiting import LOOK, PATIENCE

from . import failing_over
from .crew import pods
from .disks import WHY_NOT, SmallDisk, small_disk
from .partition import Partition, leader_changes
from .proxy import FaultProxy
from .site import AWAY, Harm, Setup, Site, deaths, full_disk, full_memory

ALWAYS = ("--appendfsync", "always")
REWRITE = ("--auto-aof-rewrite-min-size", "16mb")
"""An append-only file that stays small, as its disk is small."""
CUT_OFF = 3.0
"""Seconds for which a member of etcd is alone: longer than its election timeout."""
ONE_LOG = ("--max-wals", "1", "--max-snapshots", "1")


@asynccontextmanager
async def _proxied(servers: Sequence[ServerProcess]) -> AsyncGenerator[tuple[str, list[FaultProxy]]]:
    """The hosts and ports of a proxy before each server."""
    async with AsyncExitStack() as cleanup:
        proxies = [await cleanup.enter_async_context(FaultProxy(server.port)) for server in servers]
        yield ",".join(f"127.0.0.1:{proxy.port}" for proxy in proxies), proxies


def _writes(server: Server) -> bool:
    """Whether a server has written to its disk what it has answered."""
    info = cast("dict[str, object]", server.command("INFO", "persistence"))
    return info["aof_last_write_status"] == "ok"


def _left_out(disk: SmallDisk | None) -> dict[str, str]:
    return {} if disk else {"disk full": WHY_NOT}


@asynccontextmanager
async def _lua(kind: ServerKind, chance: Random) -> AsyncGenerator[Site]:
    with small_disk("256m") as disk:
        place = ("--dir", str(disk.folder)) if disk else ()
        with SERVERS[kind](appendonly=True, config=(*ALWAYS, *REWRITE, *place)) as server:
            async with _proxied([server]) as (hosts, proxies):
                yield Site(
                    url=f"{kind}://{hosts}",
                    direct=server.url,
                    proxies=proxies,
                    harms={**deaths([server], chance), **full_memory(server), **_full(disk, server, kind)},
                    left_out=_left_out(disk),
                )


def _full(disk: SmallDisk | None, server: Server, kind: ServerKind) -> dict[str, Harm]:
    """Fill the disk: a server that syncs each write ends, and one that syncs each second refuses writes."""
    if disk is None or kind == "redis":
        return full_disk(disk, server)

    async def refusing() -> None:
        await asyncio.to_thread(server.command, "CONFIG", "SET", "appendfsync", "everysec")
        with disk.full():
            await asyncio.sleep(AWAY)
        async with asyncio.timeout(PATIENCE):
            while not await asyncio.to_thread(_writes, server):  # noqa: ASYNC110  # a server is asked
                await asyncio.sleep(LOOK)
        # as docs/stores.md says: the server may have damaged its append-only file
        await asyncio.to_thread(server.rewrite)
        await asyncio.to_thread(server.command, "CONFIG", "SET", "appendfsync", "always")

    return {"disk full": refusing}


@asynccontextmanager
async def _etcd(chance: Random) -> AsyncGenerator[Site]:
    partition = Partition()
    with small_disk("512m") as disk:
        cluster = EtcdCluster(config=ONE_LOG)
        first = (
            cluster.members[0]
            if disk is None
            else EtcdServer(name="member0", config=(*ONE_LOG, "--data-dir", str(disk.folder / "data")))
        )
        cluster.members[0] = first
        try:
            async with partition.between(cluster):
                # in a thread, since the members find each other by proxies of this loop
                await asyncio.to_thread(cluster.start)
                async with _proxied(cluster.members) as (hosts, proxies):
                    yield Site(
                        url=f"etcd://{hosts}",
                        direct=cluster.url,
                        proxies=proxies,
                        harms={
                            **deaths(cluster.members, chance),
                            **_minority(cluster, partition, chance),
                            **_out_of_quota(cluster),
                            **full_disk(disk, first),
                        },
                        shifts=partial(leader_changes, cluster),
                        health=partial(_health, cluster),
                        left_out=_left_out(disk),
                    )
        finally:
            cluster.close()


def _health(cluster: EtcdCluster) -> Iterator[str]:
    for member in cluster.members:
        try:
            yield f"{member.name}: running {member.child.running}, {member.call('maintenance/status')}"
        except OSError as error:
            yield f"{member.name}: running {member.child.running}, no answer: {error}"


def _minority(cluster: EtcdCluster, partition: Partition, chance: Random) -> dict[str, Harm]:
    async def follower() -> None:
        leader = await asyncio.to_thread(lambda: cluster.leader)
        with partition.of(chance.choice([one for one in cluster.members if one is not leader])):
            await asyncio.sleep(CUT_OFF)

    async def leader() -> None:
        with partition.of(await asyncio.to_thread(lambda: cluster.leader)):
            await asyncio.sleep(CUT_OFF)

    return {"minority partition": follower, "minority partition of the leader": leader}


def _out_of_quota(cluster: EtcdCluster) -> dict[str, Harm]:
    """Raise the alarm that etcd raises when its quota is used up: it then refuses what needs space."""

    async def alarm() -> None:
        member = await asyncio.to_thread(lambda: cluster.leader)
        status = await asyncio.to_thread(member.call, "maintenance/status")
        raised = {"memberID": status["header"]["member_id"], "alarm": "NOSPACE"}
        await asyncio.to_thread(lambda: member.call("maintenance/alarm", action="ACTIVATE", **raised))
        await asyncio.sleep(AWAY)
        await asyncio.to_thread(lambda: member.call("maintenance/alarm", action="DEACTIVATE", **raised))

    return {"quota reached": alarm}


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
                harms={**deaths([redis, etcd], chance), **full_memory(redis)},
            )


@asynccontextmanager
async def _sqlite(chance: Random) -> AsyncGenerator[Site]:
    with tempfile.TemporaryDirectory(prefix="lab-") as folder, small_disk("256m") as disk:
        url = f"sqlite://{Path(disk.folder if disk else folder, 'peerjob.db')}"
        yield Site(url=url, direct=url, harms=full_disk(disk, None), left_out=_left_out(disk))


def _lua_on(kind: ServerKind) -> Setup:
    def setup(chance: Random) -> AbstractAsyncContextManager[Site]:
        return _lua(kind, chance)

    return setup


SETUPS: Mapping[str, Setup] = {
    "redis": _lua_on("redis"),
    "valkey": _lua_on("valkey"),
    "valkey+glide": _lua_on("valkey+glide"),
    "etcd-3": _etcd,
    "redis+etcd": _redis_etcd,
    "redis+sentinel": failing_over.sentinel,
    "redis-cluster": failing_over.cluster,
    "sqlite": _sqlite,
    "pods": pods,
}
