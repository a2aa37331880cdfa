"""The parts of the benchmark: what each shows, and what it should reach."""

import functools
import statistics
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import jobs
import measures
from measures import Target
from schedules import fire_delays


@dataclass(frozen=True)
class Row:
    """One figure, and what it should reach."""

    what: str
    engine: str
    value: float
    unit: str
    target: float | None = None
    best: str = "high"

    @property
    def reached(self) -> bool | None:
        if self.target is None:
            return None
        return self.value >= self.target if self.best == "high" else self.value <= self.target


@dataclass(frozen=True, kw_only=True)
class Goals:
    """The figures that an engine should reach; None for a figure without a goal."""

    drain: float | None = None
    drain_by_two: float | None = None
    cpu: float | None = None
    one_to_lpush: float | None = None
    concurrent: float | None = None
    bulk: float | None = None
    latency_p50: float | None = None
    latency_inside_p50: float | None = None
    latency_p99: float | None = None
    ten_ms: float | None = None
    queued: int = 100_000
    """The length of a long queue. Claims from this queue should be as fast as claims from a queue of 1,000."""


IN_MEMORY = Goals(
    drain=25_000,
    drain_by_two=35_000,
    cpu=0.08,
    one_to_lpush=0.8,
    concurrent=40_000,
    bulk=70_000,
    latency_p50=1.0,
    latency_p99=1.6,
    ten_ms=2.05,
)
GOALS = {
    "redis": IN_MEMORY,
    "valkey": IN_MEMORY,
    "valkey+glide": IN_MEMORY,
    # an etcd with one member, which calls fsync for each commit
    "etcd": Goals(drain=5_000, bulk=15_000, latency_p50=10, queued=50_000),
    "sqlite": Goals(drain=1_000, bulk=15_000),
    "sqlite-normal": Goals(drain=4_000, bulk=15_000, latency_p50=8, latency_inside_p50=2),
}


async def medians(measure: Callable[[], Awaitable[dict[str, float]]], rounds: int) -> dict[str, float]:
    results = [await measure() for _ in range(rounds)]
    return {name: statistics.median(result[name] for result in results) for name in results[0]}


async def drain(target: Target, rounds: int) -> list[Row]:
    engine, goals = target.engine, GOALS[target.engine]
    one = await medians(lambda: measures.drain(target, processes=1), rounds)
    two = await medians(lambda: measures.drain(target, processes=2), rounds)
    return [
        Row("drain, 1 worker process", engine, one["per_second"], "jobs/s", goals.drain),
        Row("drain, 2 worker processes", engine, two["per_second"], "jobs/s", goals.drain_by_two),
        Row("CPU per 1,000 jobs, worker + server", engine, one["cpu_per_1000"], "s", goals.cpu, "low"),
        Row("peak memory, 1 worker process", engine, one["peak_mib"], "MiB", 60, "low"),
    ]


async def enqueue(target: Target, rounds: int) -> list[Row]:
    engine, goals = target.engine, GOALS[target.engine]
    rates = await medians(lambda: measures.enqueue(target), rounds)
    rows = [
        Row("enqueue one at a time", engine, rates["one"], "per s"),
        Row("enqueue, 100 concurrent", engine, rates["concurrent"], "per s", goals.concurrent),
        Row("enqueue, bulk", engine, rates["bulk"], "per s", goals.bulk),
    ]
    if "lpush" in rates:
        rows[:1] = [
            Row("bare LPUSH", engine, rates["lpush"], "per s"),
            rows[0],
            Row("enqueue / LPUSH", engine, rates["one"] / rates["lpush"], "ratio", goals.one_to_lpush),
        ]
    return rows


async def latency(target: Target, rounds: int) -> list[Row]:
    engine, goals = target.engine, GOALS[target.engine]
    waits = await medians(lambda: measures.latency(target), rounds)
    inside = await medians(lambda: measures.latency_inside(target), rounds)
    return [
        Row("idle latency within a process p50", engine, inside["p50"], "ms", goals.latency_inside_p50, "low"),
        Row("idle latency within a process p99", engine, inside["p99"], "ms"),
        Row("idle latency p50", engine, waits["p50"], "ms", goals.latency_p50, "low"),
        Row("idle latency p99", engine, waits["p99"], "ms", goals.latency_p99, "low"),
    ]


async def ten_ms(target: Target, rounds: int) -> list[Row]:
    rows: list[Row] = []
    for how, job in (("in threads", jobs.BLOCK), ("on the loop", jobs.PAUSE)):
        seconds = (await medians(functools.partial(measures.ten_ms, target, job), rounds))["seconds"]
        goal = GOALS[target.engine].ten_ms
        rows.append(Row(f"2,000 x 10 ms {how}, 10 workers", target.engine, seconds, "s", goal, "low"))
    return rows


async def claim(target: Target, rounds: int) -> list[Row]:
    engine, queued = target.engine, GOALS[target.engine].queued
    rates = [
        (await measures.claim_rate(target, queued=1_000), await measures.claim_rate(target, queued=queued))
        for _ in range(rounds + 1)
    ][1:]  # the first round is left out, since it only warms up the server
    small, large = (statistics.median(column) for column in zip(*rates, strict=True))
    return [
        Row("claims, 1,000 queued", engine, small, "per s"),
        Row(f"claims, {queued:,} queued", engine, large, "per s"),
        Row(f"claims, {queued:,} / 1,000 queued", engine, large / small, "ratio", 0.9),
    ]


async def memory(target: Target, rounds: int) -> list[Row]:
    if target.file is not None:
        size = await measures.file_per_job(target)
        return [Row("file per finished job", target.engine, size, "bytes", 2000, "low")]
    if target.etcd is not None:
        return []
    bytes_each = await measures.memory_per_job(target)
    return [Row("server memory per finished job", target.engine, bytes_each, "bytes", 2048, "low")]


async def database(target: Target, rounds: int) -> list[Row]:
    if target.etcd is None:
        return []
    size = await measures.database_per_job()
    return [
        Row("database per finished job", target.engine, size["used"], "bytes"),
        Row("the same, compacted and defragmented", target.engine, size["compacted"], "bytes"),
    ]


async def conflicts(target: Target, rounds: int) -> list[Row]:
    rows: list[Row] = []
    for nodes in (1, 3, 5) if target.etcd is not None else ():
        found = await medians(functools.partial(measures.conflicts, target, nodes=nodes), rounds)
        rows += [
            Row(f"conflicts per claim, {nodes} nodes", target.engine, found["changes"], ""),
            Row(f"counters in conflict per claim, {nodes} nodes", target.engine, found["counters"], ""),
        ]
    return rows


async def schedules(target: Target, rounds: int) -> list[Row]:
    late = await fire_delays(target)
    what = "10,000 schedules, 100 due a second: late by"
    return [
        Row(f"{what} p50", target.engine, late["p50"], "ms"),
        Row(f"{what} p99", target.engine, late["p99"], "ms", 200, "low"),
    ]


PARTS: dict[str, Callable[[Target, int], Awaitable[list[Row]]]] = {
    "drain": drain,
    "enqueue": enqueue,
    "latency": latency,
    "ten_ms": ten_ms,
    "claim": claim,
    "memory": memory,
    "database": database,
    "conflicts": conflicts,
    "schedules": schedules,
}
