"""Runs random programs against the store contract on each kind of store, one seed after the other."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import uuid
from collections.abc import Callable, Generator, Sequence

from peerjob.model.clock import SystemClock
from peerjob.model.record import StoreLimits
from peerjob.store.drivers import open_store
from support.etcd import SHORT_LEASES, EtcdServer
from support.servers import MissingServerError, RedisServer, ServerProcess, ValkeyServer

from .coverage import Pairs
from .evidence import Violation
from .storming import storm

SHORT_TTL_US = 100_000
ETCD_TTL_US = 1_000_000
"""etcd grants no shorter lease."""
SERVERS: dict[str, Callable[[], ServerProcess]] = {
    "redis": RedisServer,
    "valkey": ValkeyServer,
    "etcd": lambda: EtcdServer(config=SHORT_LEASES),
}
ENGINES = ("memory", "sqlite", *SERVERS)


def storm_soak(engine: str, seeds: Sequence[int]) -> tuple[list[int], Pairs]:
    """Run the seeds on a store of that kind; the failing ones, and which verbs met which faults."""
    failing: list[int] = []
    pairs = Pairs()
    try:
        with serving(engine) as url:
            for seed in seeds:
                violations, happened = asyncio.run(judged(url, seed))
                pairs.update(happened)
                if violations:
                    failing.append(seed)
                    print(f"{engine}, seed {seed} fails: {violations[0]}", flush=True)
    except MissingServerError as missing:
        print(f"{engine} is left out: {missing}")
        return [], pairs
    print(f"{engine}: {len(seeds):,} seeds against the store contract, {len(failing)} failing", flush=True)
    return failing, pairs


async def judged(url: str, seed: int) -> tuple[list[Violation], Pairs]:
    """Run the program of a seed on a namespace of its own."""
    clock = SystemClock()
    store = open_store(url, namespace=uuid.uuid4().hex, clock=clock, limits=StoreLimits())
    await store.open()
    try:
        short_ttl_us = ETCD_TTL_US if store.capabilities.engine == "etcd" else SHORT_TTL_US
        return await storm(store, clock, seed, short_ttl_us=short_ttl_us)
    finally:
        await store.close()


@contextlib.contextmanager
def serving(engine: str) -> Generator[str]:
    """The URL of a store of that kind, which runs for as long as it is needed."""
    if engine == "memory":
        yield "memory://"
        return
    if engine == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield f"sqlite://{folder}/storm.db?sync=normal"
        return
    server = SERVERS[engine]()
    try:
        yield server.start().url
    finally:
        server.close()
