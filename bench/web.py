"""Measures the dashboard: how long pages take over a full store, and what live views cost.

The store has 100,000 queued and 100,000 final instances. Viewers are in a process of their own. Every line is a JSON
object; a table with the targets stands at the end. The CPU time of a page does not depend on other programs.
"""

import argparse
import asyncio
import statistics
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import uvloop

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import jobs
from parts import Row
from peerjob import Node, Query, State, StoreLimits
from peerjob.cli.web_server import WebServer
from peerjob.node.observe.observer import Observer
from processes import cpu_seconds
from run import show, tell
from support.etcd import EtcdServer
from support.servers import RedisServer

VIEWERS = 50
CROWD = 200
"""Views that are opened at once, of an instance with many log lines."""
LINES = 100_000
PAGES = {
    "overview": "/",
    "instances": "/instances",
    "instances of a kind and state": "/instances?kind=pause&state=scheduled",
    "failed instances": "/instances?state=error",
    "a later page": "/instances?cursor={cursor}",
    "a queued instance": "/instances/{queued}",
    "a final instance": "/instances/{final}",
    "kinds": "/kinds",
    "nodes": "/nodes",
    "schedules": "/schedules",
}
TARGETS = {"redis": 50.0, "etcd": 100.0}


class Calls(Observer):
    """Counts the calls of the store."""

    def __init__(self) -> None:
        self.count = 0

    def store_called(self, verb: str, seconds: float) -> None:
        self.count += 1


async def fill(url: str, namespace: str, count: int) -> None:
    """Run `count` instances to their end, and queue as many."""
    async with Node(url, jobs=[jobs.NOOP], namespace=namespace, workers=100) as node:
        for start in range(0, count, 10_000):
            await node.schedule_many(jobs.NOOP.call(number) for number in range(start, min(count, start + 10_000)))
        await node.wait()
    async with Node(url, jobs=[jobs.PAUSE], namespace=namespace, workers=0) as node:
        for start in range(0, count, 10_000):
            await node.schedule_many(jobs.PAUSE.call(number) for number in range(start, min(count, start + 10_000)))


async def pages(node: Node, url: str, engine: str, pid: int, turns: int) -> list[Row]:
    """The p95 of each page, and its CPU time in this process and in the server of the store."""
    first = await node.lookup_instances(Query(order="desc", limit=100))
    [queued] = await node.lookup_instances(Query(state=State.SCHEDULED, limit=1))
    [final] = await node.lookup_instances(Query(state=State.COMPLETED, limit=1))
    rows: list[Row] = []
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        for name, path in PAGES.items():
            link = path.format(cursor=first.cursor, queued=queued.id, final=final.id)
            times: list[float] = []
            (await client.get(link)).raise_for_status()
            cpu, stored = time.process_time(), cpu_seconds(pid)
            for _ in range(turns):
                begun = time.perf_counter()
                (await client.get(link)).raise_for_status()
                times.append((time.perf_counter() - begun) * 1000)
            cpu, stored = ((time.process_time() - cpu) / turns * 1000, (cpu_seconds(pid) - stored) / turns * 1000)
            p95 = statistics.quantiles(times, n=20)[-1]
            rows += [
                Row(f"page: {name}, p95", engine, p95, "ms", TARGETS[engine], "low"),
                Row(f"page: {name}, the fastest", engine, min(times), "ms"),
                Row(f"page: {name}, CPU with the client", engine, cpu, "ms"),
                Row(f"page: {name}, CPU of the store", engine, stored, "ms"),
            ]
    return rows


async def viewers(url: str, engine: str, calls: Calls, seconds: float) -> list[Row]:
    """What live views of the overview cost, beside the node that serves them."""
    idle, idle_calls = await _cost(calls, seconds)
    command = (sys.executable, __file__, "--view", f"{url}live/overview", "--viewers", str(VIEWERS))
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    await process.stdout.readline()
    busy, busy_calls = await _cost(calls, seconds)
    process.stdin.close()
    await process.wait()
    return [
        Row(f"{VIEWERS} viewers: CPU of a core", engine, (busy - idle) * 100, "%", 3.0, "low"),
        Row(f"{VIEWERS} viewers: calls of the store", engine, busy_calls - idle_calls, "a second", 2.0, "low"),
    ]


async def _cost(calls: Calls, seconds: float) -> tuple[float, float]:
    cpu, count = time.process_time(), calls.count
    await asyncio.sleep(seconds)
    return (time.process_time() - cpu) / seconds, (calls.count - count) / seconds


async def _all(ready: list[asyncio.Event]) -> None:
    for one in ready:
        await one.wait()


async def view(url: str, count: int, until: str) -> None:
    """Be `count` viewers until the standard input ends. Report when each has a text, or an answer."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(
            httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=count))  # noqa: S113  # views are long
        )
        ready = [asyncio.Event() for _ in range(count)]

        async def read(seen: asyncio.Event) -> None:
            last = b""
            async with client.stream("GET", url) as stream:
                stream.raise_for_status()
                if not until:
                    seen.set()
                async for part in stream.aiter_raw():
                    last = last[-len(until) :] + part
                    if until.encode() in last:
                        seen.set()

        reading = [asyncio.create_task(read(seen)) for seen in ready]
        opening = [asyncio.create_task(_all(ready)), *reading]
        ended, _ = await asyncio.wait(opening, return_when=asyncio.FIRST_COMPLETED)
        if opening[0] not in ended:
            await ended.pop()
            raise SystemExit("a view ended before it was ready")
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        for task in reading:
            task.cancel()
        await asyncio.wait(reading)


async def crowd(store: str, engine: str) -> list[Row]:
    """How long a page takes while many views of an instance with many log lines are opened at once."""
    limits = StoreLimits(max_log_lines=LINES, max_log_bytes=64 << 20)
    async with AsyncExitStack() as stack:
        node = Node(store, jobs=[jobs.CHATTER], namespace="bench-web-log", workers=1, store_limits=limits)
        await stack.enter_async_context(node)
        one = await node.schedule(jobs.CHATTER, LINES)
        await asyncio.sleep(LINES / 5_000)  # it logs 5,000 lines a second
        while (count := sum([len(page.lines) async for page in node.log_pages(one.id)])) < LINES:
            tell([Row("log lines that are written so far", engine, count, "")])
            await asyncio.sleep(5)
        server = WebServer(node, "127.0.0.1:0")
        await server.start()
        stack.push_async_callback(server.stop)
        url, last = f"{server.url}live/instances/{one.id}", f"line {LINES} of {LINES}"
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=server.url, timeout=60))
        (await client.get("/kinds")).raise_for_status()
        begun = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, __file__, "--view", url, "--viewers", str(CROWD), "--until", last),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdin is not None
        opened, times = asyncio.ensure_future(process.stdout.readline()), [0.0]
        while not opened.done():
            page = time.perf_counter()
            (await client.get("/kinds")).raise_for_status()
            times.append((time.perf_counter() - page) * 1000)
            await asyncio.sleep(0.01)
        seconds = time.perf_counter() - begun
        process.stdin.close()
        await process.wait()
        await one.cancel()
    name = f"{CROWD} views of {LINES:,} log lines at once"
    return [
        Row(f"{name}: the longest page", engine, max(times), "ms", 300.0, "low"),
        Row(f"{name}: all have the log", engine, seconds, "s"),
    ]


async def delays(node: Node, url: str, engine: str, turns: int) -> list[Row]:
    """How long a change takes until the live view of its instance shows it."""
    times: list[float] = []
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        for number in range(turns):
            one = await node.schedule(jobs.PAUSE, number)
            async with client.stream("GET", f"/live/instances/{one.id}") as stream:
                lines = stream.aiter_lines()
                async for line in lines:
                    if "state-scheduled" in line:
                        break
                begun = time.perf_counter()
                await one.cancel()
                async for line in lines:
                    if "state-cancelled" in line:
                        break
                times.append((time.perf_counter() - begun) * 1000)
    return [Row("a change of an instance is seen, the longest", engine, max(times), "ms", 1000.0, "low")]


async def measure(url: str, engine: str, pid: int, count: int, turns: int, seconds: float) -> list[Row]:
    """All rows of one engine."""
    namespace, calls = "bench-web", Calls()
    await fill(url, namespace, count)
    node = Node(url, jobs=[jobs.PAUSE], namespace=namespace, workers=0)
    node.observe(calls)
    async with node:
        server = WebServer(node, "127.0.0.1:0")
        await server.start()
        try:
            rows = await pages(node, server.url, engine, pid, turns)
            rows += await delays(node, server.url, engine, 10)
            rows += await viewers(server.url, engine, calls, seconds)
        finally:
            await server.stop()
    return rows + await crowd(url, engine)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--count", type=int, default=100_000, help="how many queued and how many final instances")
    arguments.add_argument("--turns", type=int, default=50)
    arguments.add_argument("--seconds", type=float, default=20.0)
    arguments.add_argument("--engines", nargs="+", choices=tuple(TARGETS), default=list(TARGETS))
    arguments.add_argument("--view", help=argparse.SUPPRESS)
    arguments.add_argument("--viewers", type=int, help=argparse.SUPPRESS)
    arguments.add_argument("--until", default="", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.view:
        asyncio.run(view(given.view, given.viewers, given.until))
        return
    rows: list[Row] = []
    for engine in given.engines:
        with RedisServer() if engine == "redis" else EtcdServer(quota=8 << 30) as server:
            server.start()
            found = uvloop.run(measure(server.url, engine, server.child.pid, given.count, given.turns, given.seconds))
        tell(found)
        rows += found
    show(rows)


if __name__ == "__main__":
    main()
