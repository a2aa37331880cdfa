"""Measures a node from outside: `jobd run` on a Redis, and clients in processes of their own.

A thousand streams that watch, calls per second beside a bare grpc.aio server that does nothing, and the node's memory
while it is called. Every line is a JSON object; a table with the targets stands at the end. The node is one process
with one event loop. So its CPU time per call shows how many calls it can answer a second with a whole core, even if
other programs use the machine too.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from caller import OWN_CONNECTION, noop
from lone import GOALS, lone
from parts import Row
from peerjob import State
from peerjob.proto.job.v1 import service_pb2 as pb
from processes import HERE, cpu_seconds
from run import show, tell
from support.jobd import JOBD, READY, target
from support.processes import ChildProcess
from support.rpc import raw_client
from support.servers import RedisServer

WATCHERS, CONNECTIONS = 1_000, 20
CALLERS, IN_FLIGHT = 2, 32
CALLS = {"GetVersion": None, "GetInstance": 5_000.0, "ScheduleJob": 5_000.0}
MIXES = {"calls": "calls", "mixed": "calls and streams"}
MIB = 2**20


def daemon(store: str, folder: Path, *, workers: int) -> ChildProcess:
    """Start a node that serves gRPC and runs jobs."""
    options = ("--store", store, "--namespace", f"bench-{workers}", "--workers", str(workers), "--app-dir", str(HERE))
    ports = ("--listen", "127.0.0.1:0", "--metrics-listen", "off")
    child = ChildProcess([JOBD, "run", "jobs", *options, *ports], output=folder / f"jobd-{workers}.log")
    child.wait_for(READY)
    return child


class Caller:
    """A process that runs `caller.py`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def counted(self, name: str, seconds: float, in_flight: int) -> int:
        """The number of calls that the caller made in so many seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{name} {seconds} {in_flight}\n".encode())
        return int((await self.line()).split()[1])

    async def line(self) -> bytes:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("a caller ended; what it wrote to stderr tells why")
        return line


@asynccontextmanager
async def callers(address: str, count: int) -> AsyncGenerator[list[Caller]]:
    """Start `count` callers, and wait until they are connected."""
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, str(HERE / "caller.py"), address)
    processes = [await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe) for _ in range(count)]
    try:
        ready = [Caller(process) for process in processes]
        for one in ready:
            await one.line()
        yield ready
    finally:
        for process in processes:
            process.kill()
            await process.wait()


async def watched(node: ChildProcess, rounds: int) -> list[Row]:
    """The time from scheduling a job until the last of all watchers knows that the job is completed."""
    seen: asyncio.Queue[float] = asyncio.Queue()

    async def watch(stream: Any) -> None:
        async for data in stream:
            if pb.WatchResponse.FromString(data).entry.state == int(State.COMPLETED):
                seen.put_nowait(time.monotonic())

    async with AsyncExitStack() as stack:
        before = resident(node)
        channels = [
            await stack.enter_async_context(raw_client(target(node), [OWN_CONNECTION])) for _ in range(CONNECTIONS)
        ]
        request = pb.WatchRequest(query=pb.Query(kind="noop"))
        begin = time.monotonic()
        streams: list[Any] = [channels[n % CONNECTIONS].stream("Watch", request) for n in range(WATCHERS)]
        for stream in streams:
            await stream.initial_metadata()
        opening = time.monotonic() - begin
        watching = [asyncio.ensure_future(watch(stream)) for stream in streams]
        last: list[float] = []
        cpu: list[float] = []
        for _ in range(rounds):
            used, begin = cpu_seconds(node.pid), time.monotonic()
            await channels[0].call("ScheduleJob", noop())
            times = [await asyncio.wait_for(seen.get(), 60) for _ in range(WATCHERS)]
            last.append(max(times) - begin)
            cpu.append(cpu_seconds(node.pid) - used)
        memory = resident(node) - before
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
    what = f"{WATCHERS:,} watchers"
    return [
        Row(f"{what}: until all are open", "redis", opening, "s"),
        Row(f"{what}: until the last knows of an end", "redis", statistics.median(last) * 1000, "ms", 1_000, "low"),
        Row(f"{what}: CPU of the node for one job", "redis", statistics.median(cpu) * 1000, "ms"),
        Row(f"{what}: memory of the node for each", "redis", memory / WATCHERS / 1024, "KiB"),
    ]


async def called(node: ChildProcess, echo: ChildProcess, rounds: int, seconds: float) -> list[Row]:
    """Calls per second, and CPU time of the node per call, compared with a server that does nothing."""
    address = echo.wait_for(r"serves on (\S+)")[1]
    servers = {"bare grpc.aio": (echo, address), "node": (node, target(node))}
    asked = [("bare grpc.aio", "GetVersion"), *(("node", name) for name in CALLS)]
    found: dict[tuple[str, str], list[tuple[float, float]]] = {one: [] for one in asked}
    async with AsyncExitStack() as stack:
        ready = {
            name: await stack.enter_async_context(callers(address, CALLERS)) for name, (_, address) in servers.items()
        }
        # the servers take turns in each round, since the speed of the machine changes over time
        for _ in range(rounds):
            for who, name in asked:
                found[who, name].append(await _called(servers[who][0], ready[who], name, seconds / rounds))
    rows: list[Row] = []
    for (who, name), measured in found.items():
        rate, each = (statistics.median(one) for one in zip(*measured, strict=True))
        goal = CALLS[name] if who == "node" else None
        rows += [
            Row(f"{name}, {CALLERS} clients, {who}", "redis", rate, "calls/s", goal),
            Row(f"{name}: CPU of the {who} for each", "redis", each * 1e6, "µs"),
        ]
    return rows


async def _called(server: ChildProcess, ready: list[Caller], name: str, seconds: float) -> tuple[float, float]:
    await asyncio.gather(*(one.counted(name, 0.3, IN_FLIGHT) for one in ready))
    used, begin = cpu_seconds(server.pid), time.monotonic()
    count = sum(await asyncio.gather(*(one.counted(name, seconds, IN_FLIGHT) for one in ready)))
    return count / (time.monotonic() - begin), (cpu_seconds(server.pid) - used) / count


async def grown(node: ChildProcess, seconds: float, mix: str) -> list[Row]:
    """The growth of the node's memory under constant calls, after a quarter of the time to warm up.

    `mix` selects the calls: "calls", or "mixed" for calls and cancelled streams (see docs/decisions/0007).
    """
    samples: list[tuple[float, float]] = []
    async with callers(target(node), 1) as (caller,):
        calling = asyncio.ensure_future(caller.counted(mix, seconds, 4))
        begin = time.monotonic()
        while not calling.done():
            await asyncio.wait({calling}, timeout=min(5.0, seconds / 20))
            samples.append((time.monotonic() - begin, resident(node) / MIB))
        count = await calling
    late = [sample for sample in samples if sample[0] > seconds / 4]
    slope = statistics.linear_regression([at for at, _ in late], [size for _, size in late]).slope * 60
    what = f"memory of the node over {seconds:,.0f} s, {MIXES[mix]}"
    sizes = {n: [size for at, size in samples if _quarter(at, seconds) == n] for n in (1, 2, 3, 4)}
    quarters = [Row(f"{what}, quarter {n}", "redis", statistics.median(sizes[n]), "MiB") for n in sizes]
    each = [] if mix == "calls" else [Row(f"{what}: growth for each", "redis", slope * MIB / 60 * seconds / count, "B")]
    return [
        Row(f"{what}: jobs meanwhile", "redis", count, ""),
        *quarters,
        *each,
        Row(f"{what}: growth after the first", "redis", slope, "MiB/min", 0.1, "low"),
    ]


def _quarter(at: float, seconds: float) -> int:
    return min(4, int(at / seconds * 4) + 1)


def resident(child: ChildProcess) -> int:
    """Bytes of memory that a process uses."""
    return int(Path(f"/proc/{child.pid}/statm").read_text().split()[1]) * 4096


async def main(parts: list[str], rounds: int, seconds: float, memory_seconds: float) -> None:
    rows: list[Row] = []
    for engine in GOALS:
        if "lone" in parts or f"lone-{engine}" in parts:
            with tempfile.TemporaryDirectory() as folder:
                rows += await lone(engine, Path(folder), 2 * seconds)
    if parts and all(part.startswith("lone") for part in parts):
        tell(rows)
        show(rows)
        return
    with tempfile.TemporaryDirectory() as folder, RedisServer() as redis:
        if "calls" in parts:
            bare = ChildProcess.python(HERE / "echo.py", output=Path(folder) / "echo.log")
            with daemon(redis.url, Path(folder), workers=0) as only_serves, bare as echo:
                rows += await called(only_serves, echo, rounds, seconds)
        with daemon(redis.url, Path(folder), workers=10) as node:
            if "watch" in parts:
                rows += await watched(node, rounds)
            for mix in MIXES:
                if "memory" in parts or f"memory-{mix}" in parts:
                    rows += await grown(node, memory_seconds, mix)
    tell(rows)
    show(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="calls,watch,memory,lone", help="which, with commas (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="jobs that are watched (default: 5)")
    parser.add_argument("--seconds", type=float, default=5, help="of calling, for each RPC (default: 5)")
    parser.add_argument("--memory-seconds", type=float, default=60, help="of watching the memory (default: 60)")
    given = parser.parse_args()
    uvloop.run(main(given.only.split(","), given.rounds, given.seconds, given.memory_seconds))
