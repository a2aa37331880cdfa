"""All counts, by part and path. Each part starts the server that it needs."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from support.etcd import EtcdServer
from support.servers import RedisServer

from .meters import Counts, EtcdMeter, Meter, RedisMeter, SqliteMeter
from .node_paths import (
    calls_of_a_thread,
    calls_of_one_job,
    calls_of_schedule,
    files_of_one_job,
    idle_minute,
    left_by_jobs,
    one_job,
)
from .store_paths import store_paths

Paths = Mapping[str, Mapping[str, int]]
NODE = "node"
ENGINES = ("redis", "etcd", "sqlite", NODE)
SCHEDULE = "schedule() of a plain job"
SCHEDULE_IN_A_THREAD = "schedule() of a plain job, in a thread"


async def measured(parts: Iterable[str]) -> dict[str, Paths]:
    """The counts of some parts: part → path → what → how often."""
    return {part: await (_of_node() if part == NODE else _of_engine(part)) for part in parts}


async def _of_engine(engine: str) -> Paths:
    async with metered(engine) as (url, meter):
        paths = await store_paths(url, meter)
        if engine == "redis":
            # on the other engines, its cost depends on which requests happen to come together
            paths["one job of an idle node"] = await one_job(url, meter)
            paths[SCHEDULE] = await calls_of_schedule(url)
            paths[SCHEDULE_IN_A_THREAD] = await asyncio.to_thread(calls_of_a_thread, url)
        return paths


async def _of_node() -> Paths:
    return {
        "files that one job passes": await files_of_one_job(),
        "calls of the store for one job": await calls_of_one_job(),
        "calls of the store in an idle minute": await idle_minute(),
        "memory blocks": Counts({"left by a job": await left_by_jobs()}),
    }


@asynccontextmanager
async def metered(engine: str) -> AsyncGenerator[tuple[str, Meter]]:
    """The URL of a new server, and what counts its work."""
    if engine == "redis":
        with RedisServer() as redis, RedisMeter(redis).counting() as counted:
            yield redis.url, counted
    elif engine == "etcd":
        with EtcdServer() as etcd:
            yield etcd.url, EtcdMeter(etcd)
    else:
        with tempfile.TemporaryDirectory(prefix="guard-") as folder, SqliteMeter().counting() as meter:
            yield f"sqlite://{Path(folder, 'peerjob.db')}?sync=normal", meter
