"""What a job costs that comes alone: two nodes share a store, and a client schedules jobs at a steady rate."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Generator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

from caller import OWN_CONNECTION, noop
from parts import Row
from peerjob.proto.job.v1 import service_pb2 as pb
from processes import HERE
from support.etcd import EtcdServer
from support.jobd import JOBD, READY, target
from support.processes import ChildProcess
from support.rpc import RawClient, raw_client
from support.servers import RedisServer

NODES, RATE = 2, 130
GOALS = {"redis": (1.2, 0.5), "etcd": (3.5, 3.0)}
"""Milliseconds of CPU for each job: of the nodes, and of the server."""
WARM_UP = 3.0


@contextmanager
def _pair(store: str, folder: Path) -> Generator[list[ChildProcess]]:
    options = ("--store", store, "--namespace", "lone", "--workers", "10", "--app-dir", str(HERE))
    ports = ("--listen", "127.0.0.1:0", "--metrics-listen", "off")
    nodes: list[ChildProcess] = []
    try:
        for number in range(NODES):
            nodes.append(ChildProcess([JOBD, "run", "jobs", *options, *ports], output=folder / f"lone-{number}.log"))
            nodes[-1].wait_for(READY)
        yield nodes
    finally:
        for node in nodes:
            node.close()


def _run_seconds(pid: int) -> float:
    """CPU time of all threads of a process, in nanoseconds of the kernel; /proc/PID/stat has the same sum in ticks."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


async def _come(clients: Sequence[RawClient], seconds: float, latencies: list[float]) -> int:
    """Schedule jobs at RATE, by the nodes in turn, and wait for the end of each; returns their number."""

    async def one(client: RawClient) -> None:
        begin = time.perf_counter()
        made = (await client.call("ScheduleJob", noop())).instance.uuid
        await client.call("WaitInstance", pb.WaitInstanceRequest(uuid=made))
        latencies.append(time.perf_counter() - begin)

    begin, count = time.perf_counter(), round(seconds * RATE)
    async with asyncio.TaskGroup() as jobs:
        for number, client in zip(range(count), itertools.cycle(clients), strict=False):
            await asyncio.sleep(begin + number / RATE - time.perf_counter())
            jobs.create_task(one(client))
    return count


async def lone(engine: str, folder: Path, seconds: float) -> list[Row]:
    """CPU of the nodes and of the server for each job, and the time from the call to the known result."""
    latencies: list[float] = []
    with EtcdServer() if engine == "etcd" else RedisServer() as server, _pair(server.url, folder) as nodes:
        pids = [node.pid for node in nodes]
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(raw_client(target(node), [OWN_CONNECTION])) for node in nodes]
            await _come(clients, WARM_UP, latencies)
            latencies.clear()
            own, of_server = sum(map(_run_seconds, pids)), _run_seconds(server.child.pid)
            count = await _come(clients, seconds, latencies)
            own, of_server = sum(map(_run_seconds, pids)) - own, _run_seconds(server.child.pid) - of_server
    what, (nodes_goal, server_goal) = f"lone jobs, {RATE}/s to {NODES} nodes", GOALS[engine]
    return [
        Row(f"{what}: CPU of the nodes for each", engine, own / count * 1000, "ms", nodes_goal, "low"),
        Row(f"{what}: CPU of the server for each", engine, of_server / count * 1000, "ms", server_goal, "low"),
        Row(f"{what}: until the result is known, p50", engine, statistics.median(latencies) * 1000, "ms"),
    ]
