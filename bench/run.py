"""Measures throughput, latency, cost and memory on servers that it starts itself.

Every line is a JSON object; a table with the targets stands at the end. Medians of interleaved rounds.
"""

import argparse
import functools
import json
import statistics
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import jobs
import measures
from measures import Target
from support.servers import MissingServerError, RedisServer, Server, ValkeyServer


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


async def server_rows(target: Target, rounds: int, chosen: set[str]) -> list[Row]:
    engine = target.engine
    rows: list[Row] = []

    def add(what: str, value: float, unit: str, goal: float | None = None, best: str = "high") -> None:
        rows.append(Row(what, engine, value, unit, goal, best))

    if "drain" in chosen:
        one = await medians(lambda: measures.drain(target, processes=1), rounds)
        two = await medians(lambda: measures.drain(target, processes=2), rounds)
        add("drain, 1 worker process", one["per_second"], "jobs/s", 25_000)
        add("drain, 2 worker processes", two["per_second"], "jobs/s", 35_000)
        add("CPU per 1,000 jobs, worker + server", one["cpu_per_1000"], "s", 0.08, "low")
        add("peak memory, 1 worker process", one["peak_mib"], "MiB", 60, "low")
    if "enqueue" in chosen:
        enqueue = await medians(lambda: measures.enqueue(target), rounds)
        add("bare LPUSH", enqueue["lpush"], "per s")
        add("enqueue one at a time", enqueue["one"], "per s")
        add("enqueue / LPUSH", enqueue["one"] / enqueue["lpush"], "ratio", 0.8)
        add("enqueue, 100 concurrent", enqueue["concurrent"], "per s", 40_000)
        add("enqueue, bulk", enqueue["bulk"], "per s", 70_000)
    if "latency" in chosen:
        waits = await medians(lambda: measures.latency(target), rounds)
        add("idle latency p50", waits["p50"], "ms", 1.0, "low")
        add("idle latency p99", waits["p99"], "ms", 1.6, "low")
    if "ten_ms" in chosen:
        for how, job in (("in threads", jobs.BLOCK), ("on the loop", jobs.PAUSE)):
            seconds = (await medians(functools.partial(measures.ten_ms, target, job), rounds))["seconds"]
            add(f"2,000 x 10 ms {how}, 10 workers", seconds, "s", 2.05, "low")
    if "claim" in chosen:
        rates = [
            (await measures.claim_rate(target, queued=1_000), await measures.claim_rate(target, queued=100_000))
            for _ in range(rounds + 1)
        ][1:]  # the first only warms up
        small, large = (statistics.median(column) for column in zip(*rates, strict=True))
        add("claims, 1,000 queued", small, "per s")
        add("claims, 100,000 queued", large, "per s")
        add("claims, 100,000 / 1,000 queued", large / small, "ratio", 0.9)
    if "memory" in chosen:
        add("server memory per finished job", await measures.memory_per_job(target), "bytes", 2048, "low")
    return rows


async def medians(measure: Callable[[], Awaitable[dict[str, float]]], rounds: int) -> dict[str, float]:
    results = [await measure() for _ in range(rounds)]
    return {name: statistics.median(result[name] for result in results) for name in results[0]}


async def main(engines: list[str], rounds: int, chosen: set[str]) -> None:
    rows: list[Row] = []
    if "memory" in engines:
        rate = (await medians(measures.memory_store, rounds))["per_second"]
        rows.append(Row("schedule, run and commit", "memory", rate, "jobs/s", 10_000))
    kinds: dict[str, type[Server]] = {"redis": RedisServer, "valkey": ValkeyServer}
    for engine in engines:
        if engine not in kinds:
            continue
        try:
            server = kinds[engine]()
        except MissingServerError as missing:
            print(json.dumps({"engine": engine, "skipped": str(missing)}), flush=True)
            continue
        server.start()
        try:
            rows += await server_rows(Target(engine=engine, url=server.url, pid=server.child.pid), rounds, chosen)
        finally:
            server.close()
    for row in rows:
        print(json.dumps({**row.__dict__, "reached": row.reached}), flush=True)
    show(rows)


def show(rows: list[Row]) -> None:
    table = Table(title="peerjob benchmark: medians of one run, servers and clients on this machine")
    for column in ("", "engine", "measured", "target", ""):
        table.add_column(column, justify="right" if column in ("measured", "target") else "left")
    for row in rows:
        sign = "≥" if row.best == "high" else "≤"
        goal = "" if row.target is None else f"{sign} {_number(row.target)} {row.unit}"
        mark = {True: "ok", False: "short", None: ""}[row.reached]
        table.add_row(row.what, row.engine, f"{_number(row.value)} {row.unit}", goal, mark)
    Console(width=110).print(table)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    everything = ("drain", "enqueue", "latency", "ten_ms", "claim", "memory")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", default="memory,redis,valkey", help="which, with commas (default: all)")
    parser.add_argument("--only", default=",".join(everything), help=f"which of {', '.join(everything)}")
    parser.add_argument("--rounds", type=int, default=3, help="rounds per figure (default: 3)")
    given = parser.parse_args()
    uvloop.run(main(given.engines.split(","), given.rounds, set(given.only.split(","))))
