"""What is measured, each on a namespace of its own on a server that the benchmark has started."""

import asyncio
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from glide import GlideClient, GlideClientConfiguration, NodeAddress
from redis.asyncio import Redis

import jobs
from peerjob import Job, Node, Query, State
from peerjob.model.clock import SystemClock
from peerjob.model.record import StoreLimits, Want
from peerjob.store.drivers import open_store
from processes import cpu_seconds, worker_processes
from support.etcd import EtcdServer

_serial = itertools.count()


@dataclass(frozen=True, kw_only=True)
class Target:
    """A server to measure on."""

    engine: str
    url: str
    pid: int | None
    """The process of the server; None for a file."""
    etcd: EtcdServer | None = None
    """The etcd server, for figures that other servers do not have; None for Redis and Valkey."""
    file: Path | None = None
    """The file of SQLite."""

    @property
    def pause(self) -> float:
        """Seconds between two counts of completed jobs. Each count takes time of the measured server, etcd's most."""
        return 0.005 if self.etcd is None and self.file is None else 0.02


def fresh_namespace() -> str:
    return f"bench-{time.monotonic_ns()}-{next(_serial)}"


def redis_client(url: str) -> Any:
    """A client without the options of a store; `Any`, since the annotations of redis-py are incomplete."""
    return Redis.from_url(f"redis://{urlsplit(url).netloc}")  # pyright: ignore[reportUnknownMemberType]


async def clear(client: Node, target: Target) -> None:
    """Remove all instances, and the marks of removed instances, whose expiry would slow the next measure."""
    await client.clear()
    if target.etcd is None and target.file is None:
        async with redis_client(target.url) as redis:
            if marks := [key async for key in redis.scan_iter(match="*gone*", count=10_000)]:
                await redis.unlink(*marks)


async def until_completed(node: Node, count: int, *, pause: float = 0.005) -> None:
    while await node.count(Query(state=State.COMPLETED)) < count:  # noqa: ASYNC110  # a store sends no event for a count
        await asyncio.sleep(pause)


async def drain(target: Target, *, processes: int, count: int = 20_000) -> dict[str, float]:
    """No-op jobs per second, from the start of claiming until all are Completed; CPU and memory on the way."""
    namespace = fresh_namespace()
    async with Node(target.url, namespace=namespace, workers=0, allow_unknown=True) as client:
        await client.schedule_many(jobs.NOOP.call(n) for n in range(count))
        async with worker_processes(target.url, namespace, count=processes, workers=10) as workers:
            pids = [*([] if target.pid is None else [target.pid]), *(worker.pid for worker in workers)]
            cpu = sum(map(cpu_seconds, pids))
            begin = time.perf_counter()
            for worker in workers:
                await worker.go()
            await until_completed(client, count, pause=target.pause)
            seconds = time.perf_counter() - begin
            cpu = sum(map(cpu_seconds, pids)) - cpu
            peak = max([await worker.peak_memory() for worker in workers])
        await clear(client, target)
    return {"per_second": count / seconds, "cpu_per_1000": cpu / count * 1000, "peak_mib": peak / 2**20}


async def ten_ms(target: Target, job: Job[[int], int], *, count: int = 2_000) -> dict[str, float]:
    """Seconds for jobs of 10 ms on ten workers; ideal: count / 1,000."""
    namespace = fresh_namespace()
    async with Node(target.url, namespace=namespace, workers=0) as client:
        await client.schedule_many(job.call(n) for n in range(count))
        async with worker_processes(target.url, namespace, count=1, workers=10) as workers:
            begin = time.perf_counter()
            await workers[0].go()
            await until_completed(client, count, pause=target.pause)
            seconds = time.perf_counter() - begin
        await clear(client, target)
    return {"seconds": seconds}


async def bare_lpush(target: Target, *, count: int = 3_000) -> float:
    """LPUSH per second, one at a time, through the client that the store uses."""
    if target.engine == "valkey+glide":
        address = NodeAddress(urlsplit(target.url).hostname or "", urlsplit(target.url).port or 0)
        client = await GlideClient.create(GlideClientConfiguration([address]))
        try:
            return await _lpush_rate(lambda key, values: client.lpush(key, [*values]), count)
        finally:
            await client.delete(["bench-lpush"])
            await client.close()
    async with redis_client(target.url) as redis:
        try:
            return await _lpush_rate(lambda key, values: redis.lpush(key, *values), count)
        finally:
            await redis.delete("bench-lpush")


async def _lpush_rate(lpush: Callable[[str, list[str]], Awaitable[object]], count: int) -> float:
    await lpush("bench-lpush", ["x"])
    begin = time.perf_counter()
    for _ in range(count):
        await lpush("bench-lpush", ["x" * 100])
    return count / (time.perf_counter() - begin)


async def enqueue(target: Target) -> dict[str, float]:
    """Enqueues per second: one at a time (and, on Redis, a bare LPUSH for comparison), 100 concurrent, in bulk."""
    async with Node(target.url, namespace=fresh_namespace(), workers=0) as client:

        async def one_by_one(count: int) -> None:
            for n in range(count):
                await client.schedule(jobs.NOOP, n)

        async def concurrent(count: int) -> None:
            await asyncio.gather(*(one_by_one(count // 100) for _ in range(100)))

        async def bulk(count: int) -> None:
            await client.schedule_many([jobs.NOOP.call(n) for n in range(count)])

        await one_by_one(200)
        rates = {} if target.etcd or target.file else {"lpush": await bare_lpush(target)}
        rates["one"] = await _rate(one_by_one, 3_000 if "lpush" in rates else 1_000)
        await clear(client, target)
        rates["concurrent"] = await _rate(concurrent, 20_000)
        await clear(client, target)
        rates["bulk"] = await _rate(bulk, 20_000)
        await clear(client, target)
    return rates


async def _rate(work: Callable[[int], Awaitable[None]], count: int) -> float:
    begin = time.perf_counter()
    await work(count)
    return count / (time.perf_counter() - begin)


async def latency(target: Target, *, count: int = 500) -> dict[str, float]:
    """Milliseconds from before schedule() to the start of the body in another, idle process."""
    namespace = fresh_namespace()
    async with (
        Node(target.url, namespace=namespace, workers=0) as client,
        worker_processes(target.url, namespace, count=1, workers=10) as workers,
    ):
        await workers[0].go()
        return await _latency_of(client, target, count)


async def latency_inside(target: Target, *, count: int = 500) -> dict[str, float]:
    """Milliseconds from before schedule() to the start of the body in the same, idle node."""
    async with Node(target.url, jobs=jobs, namespace=fresh_namespace(), workers=10) as node:
        return await _latency_of(node, target, count)


async def _latency_of(node: Node, target: Target, count: int) -> dict[str, float]:
    waits: list[float] = []
    for n in range(count + 20):
        begin = time.monotonic()
        instance = await node.schedule(jobs.STAMP, n)
        waits.append((await instance.result(timeout=10) - begin) * 1000)
        await asyncio.sleep(0.002)
    waits = sorted(waits[20:])
    await clear(node, target)
    return {"p50": statistics.median(waits), "p99": waits[int(len(waits) * 0.99)]}


async def claim_rate(target: Target, *, queued: int) -> float:
    """Claims per second in batches of 100, by the store alone, while `queued` instances wait.

    On etcd, the rate is that of the median batch: during the first batches, etcd still writes new instances to disk.
    """
    store = open_store(target.url, namespace=fresh_namespace(), clock=SystemClock(), limits=StoreLimits())
    client = Node(store, workers=0)
    async with client:
        for _ in range(max(1, queued // 20_000)):
            await client.schedule_many([jobs.NOOP.call(n) for n in range(min(queued, 20_000))])
        incarnation = client.incarnation
        want = Want(kinds={"noop": 100}, limit=100)
        # the first claim also registers the kinds, which a node does when it joins
        await store.claim(incarnation, want, request="bench")
        seconds: list[float] = []
        for turn in range(min(50, queued // 100 - 2)):
            begin = time.perf_counter()
            claimed = await store.claim(incarnation, want, request=f"bench/{turn}")
            seconds.append(time.perf_counter() - begin)
            assert len(claimed.claims) == 100
        await clear(client, target)
    return 100 / (statistics.fmean(seconds) if target.etcd is None else statistics.median(seconds))


async def memory_per_job(target: Target, *, count: int = 20_000) -> float:
    """Bytes of server memory per finished small job, all indexes included."""
    async with redis_client(target.url) as server:
        namespace = fresh_namespace()
        async with Node(target.url, namespace=namespace, workers=0) as client:
            before = int((await server.info("memory"))["used_memory"])
            await client.schedule_many([jobs.NOOP.call(n) for n in range(count)])
            async with worker_processes(target.url, namespace, count=1, workers=10) as workers:
                await workers[0].go()
                await until_completed(client, count, pause=target.pause)
            after = int((await server.info("memory"))["used_memory"])
            await clear(client, target)
    return (after - before) / count


async def database_per_job(*, count: int = 20_000) -> dict[str, float]:
    """Bytes of a new etcd's database per finished small job: before and after a compaction and a defragmentation."""
    namespace = fresh_namespace()
    with EtcdServer(config=("--experimental-compaction-batch-limit", "100000")) as etcd:
        before = _size(etcd)
        async with Node(etcd.url, namespace=namespace, workers=0) as client:
            await client.schedule_many([jobs.NOOP.call(n) for n in range(count)])
            async with worker_processes(etcd.url, namespace, count=1, workers=10) as workers:
                await workers[0].go()
                await until_completed(client, count, pause=0.02)
        used = _size(etcd)
        etcd.make_room()
        return {"used": (used - before) / count, "compacted": (_size(etcd) - before) / count}


async def file_per_job(target: Target, *, count: int = 20_000) -> float:
    """Bytes of the file per finished small job, with the log of changes that the close copies into the file."""
    assert target.file is not None
    namespace = fresh_namespace()
    before = target.file.stat().st_size if target.file.exists() else 0
    async with Node(target.url, namespace=namespace, workers=0) as client:
        await client.schedule_many([jobs.NOOP.call(n) for n in range(count)])
        async with worker_processes(target.url, namespace, count=1, workers=10) as workers:
            await workers[0].go()
            await until_completed(client, count, pause=target.pause)
    return (target.file.stat().st_size - before) / count


def _size(etcd: EtcdServer) -> int:
    return int(etcd.call("maintenance/status")["dbSizeInUse"])


async def conflicts(target: Target, *, nodes: int, count: int = 10_000) -> dict[str, float]:
    """Writes that etcd refuses per claim while `nodes` nodes empty one queue: of instances, and of counters."""
    namespace = fresh_namespace()
    async with Node(target.url, namespace=namespace, workers=0) as client:
        await client.schedule_many([jobs.NOOP.call(n) for n in range(count)])
        async with worker_processes(target.url, namespace, count=nodes, workers=10) as workers:
            begin = time.perf_counter()
            await asyncio.gather(*(worker.go() for worker in workers))
            await until_completed(client, count, pause=target.pause)
            seconds = time.perf_counter() - begin
            refused = [await worker.refused() for worker in workers]
        await clear(client, target)
    changes, counters = (sum(column) / count for column in zip(*refused, strict=True))
    return {"changes": changes, "counters": counters, "per_second": count / seconds}


async def memory_store(*, count: int = 10_000) -> dict[str, float]:
    """Jobs per second through the memory store, scheduling, running and committing in one process."""
    async with Node("memory://", jobs=jobs, workers=10) as node:
        begin = time.perf_counter()
        await node.schedule_many([jobs.NOOP.call(n) for n in range(count)])
        await until_completed(node, count)
        seconds = time.perf_counter() - begin
    return {"per_second": count / seconds}
