"""Measures what `?durability=` costs on Redis: each option beside the same server without it, in interleaved rounds.

Every line is a JSON object; a table with medians, and their ratio to the same server without the option, ends it.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import jobs
import measures
from measures import Target
from peerjob import Node
from support.servers import RedisServer

OPTIONS: dict[str, tuple[str, ...]] = {
    "no disk": (),
    "no disk, 1 replica": ("replicas:1",),
    "appendfsync always": ("aof",),
    "appendfsync everysec": ("aof",),
}
"""Kind of server → the values of `durability=` to measure on it, besides a measurement without the option."""


async def measure(target: Target, *, slow: bool) -> dict[str, float]:
    """Jobs per second drained, enqueues per second, and milliseconds of latency."""
    drained = await measures.drain(target, processes=1, count=1_000 if slow else 20_000)
    rates = await (enqueue_slowly(target) if slow else measures.enqueue(target))
    waits = await measures.latency(target, count=5 if slow else 200)
    enqueued = {f"enqueue, {how}": rates[how] for how in ("one", "concurrent", "bulk")}
    return {"drain": drained["per_second"], **enqueued, "latency p50": waits["p50"], "latency p99": waits["p99"]}


async def enqueue_slowly(target: Target) -> dict[str, float]:
    """The same rates as `measures.enqueue`, with fewer calls, for a server on which each call takes about a second."""
    async with Node(target.url, namespace=measures.fresh_namespace(), workers=0) as client:
        works: dict[str, tuple[int, Callable[[], Awaitable[object]]]] = {
            "one": (3, lambda: client.schedule(jobs.NOOP, 0)),
            "concurrent": (500, lambda: asyncio.gather(*(client.schedule(jobs.NOOP, n) for n in range(500)))),
            "bulk": (20_000, lambda: client.schedule_many([jobs.NOOP.call(n) for n in range(20_000)])),
        }
        rates: dict[str, float] = {}
        for how, (count, work) in works.items():
            begin = time.perf_counter()
            for _ in range(count if how == "one" else 1):
                await work()
            rates[how] = count / (time.perf_counter() - begin)
        await client.clear()
    return rates


def start_servers(stack: contextlib.ExitStack) -> dict[str, RedisServer]:
    def start(*config: str, appendonly: bool = False) -> RedisServer:
        return stack.enter_context(RedisServer(appendonly=appendonly, config=config))

    primary = start("--repl-diskless-sync-delay", "0")
    start("--replicaof", f"127.0.0.1 {primary.port}")
    assert primary.command("WAIT", 1, 9_000) == 1
    always = start("--appendfsync", "always", appendonly=True)
    everysec = start("--appendfsync", "everysec", appendonly=True)
    return dict(zip(OPTIONS, (start(), primary, always, everysec), strict=True))


async def main(rounds: int) -> None:
    found: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with contextlib.ExitStack() as stack:
        servers = start_servers(stack)
        for _ in range(rounds):
            for setup, server in servers.items():
                for option in ("", *OPTIONS[setup]):
                    url = f"{server.url}?durability={option}" if option else server.url
                    slow = bool(option) and setup == "appendfsync everysec"
                    row = await measure(Target(engine="redis", url=url, pid=server.child.pid), slow=slow)
                    print(json.dumps({"setup": setup, "durability": option, **row}), flush=True)
                    for what, value in row.items():
                        found[setup, option][what].append(value)
    show({key: {what: statistics.median(values) for what, values in row.items()} for key, row in found.items()})


def show(medians: dict[tuple[str, str], dict[str, float]]) -> None:
    table = Table(title="what durability= costs: medians, and the ratio to the same server without it")
    names = list(next(iter(medians.values())))
    for column in ("server", "durability", *names):
        table.add_column(column)
    for (setup, option), row in medians.items():
        plain = medians[setup, ""]
        cells = [f"{row[name]:,.4g}" + (f" ({row[name] / plain[name]:.2f})" if option else "") for name in names]
        table.add_row(setup, option, *cells)
    Console(width=140).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="rounds per figure (default: 3)")
    uvloop.run(main(parser.parse_args().rounds))
