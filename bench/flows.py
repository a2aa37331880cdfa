"""Measures steps, waits, children and flows on servers that it starts itself, beside the goals.

Every line is a JSON object; a table with the goals stands at the end. Run it on a quiet machine: `make bench-flows`.
With --quick, counts are a tenth or less, for a look at whether it works.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import measures
from flow_jobs import ASLEEP, FAN_OUT, NOOP, STEPPED
from measures import Target, clear, fresh_namespace, redis_client
from parts import Row
from peerjob import Flow, Instance, Node, Query, State
from peerjob.model.clock import to_us
from processes import cpu_seconds, worker_processes
from run import show, tell
from support.etcd import EtcdServer
from support.servers import RedisServer, ServerProcess, ValkeyServer

QUIET_SECONDS = 5.0
"""How long a node is watched while all instances wait."""
SERVERS: dict[str, Callable[[], ServerProcess]] = {"redis": RedisServer, "valkey": ValkeyServer, "etcd": EtcdServer}
Part = Callable[[Target, int], Awaitable[list[Row]]]


async def fan_in(target: Target, scale: int) -> list[Row]:
    """Children of one body that waits for them, beside as many plain jobs: from the start of a worker to the end."""
    count = (2_000 if target.etcd else 10_000) // scale
    plain = (await measures.drain(target, processes=1, count=count))["per_second"]
    namespace = fresh_namespace()
    async with Node(target.url, namespace=namespace, jobs=[FAN_OUT], workers=1, allow_unknown=True) as node:
        parent = await node.schedule(FAN_OUT, count)
        while (await parent.refresh()).record.wait is None:  # noqa: ASYNC110  # the node tells of a wait in the store only
            await asyncio.sleep(0.05)
        async with worker_processes(target.url, namespace, count=1, workers=10, jobs="flow_jobs") as workers:
            begin = time.perf_counter()
            await workers[0].go()
            await parent.wait("10m")
            rate = count / (time.perf_counter() - begin)
        await clear(node, target)
    goal = 2_500.0 if target.etcd else None
    return [
        Row(f"drain of {count:,} plain jobs", target.engine, plain, "jobs/s"),
        Row(f"fan-in of {count:,} children", target.engine, rate, "children/s", goal),
        Row("fan-in beside plain drain", target.engine, rate / plain, "", 0.6),
    ]


async def chain(target: Target, scale: int) -> list[Row]:
    """From the end of a member to the end of the next one, by the store's clock."""
    namespace = fresh_namespace()
    flow = Flow("chain")
    last = flow.add(NOOP.call(0))
    for _ in range(1_000 // scale):
        last = flow.add(NOOP.call(last.output))
    async with (
        Node(target.url, namespace=namespace, workers=0, allow_unknown=True) as node,
        worker_processes(target.url, namespace, count=1, workers=10, jobs="flow_jobs") as workers,
    ):
        await workers[0].go()
        run = await node.schedule_flow(flow)
        await run.wait("10m")
        ends = sorted(
            [ended_us(member) async for member in node.iter_instances(Query(parent=run, state=State.COMPLETED))]
        )
        links = [(later - earlier) / 1000 for earlier, later in pairwise(ends)]
        await clear(node, target)
    return [
        Row("link of a chain, p50", target.engine, percentile(links, 0.5), "ms", 2, "low"),
        Row("link of a chain, p99", target.engine, percentile(links, 0.99), "ms"),
    ]


async def wake(target: Target, scale: int) -> list[Row]:
    """From the commit of the last child to the body of its parent."""
    namespace = fresh_namespace()
    waits: list[float] = []
    async with (
        Node(target.url, namespace=namespace, workers=0, allow_unknown=True) as node,
        worker_processes(target.url, namespace, count=1, workers=10, jobs="flow_jobs") as workers,
    ):
        await workers[0].go()
        for _ in range(1_000 // scale):
            parent = await node.schedule(FAN_OUT, 3)
            began = await parent.result("1m")
            ends = [ended_us(child) async for child in node.iter_instances(Query(parent=parent))]
            waits.append(began * 1000 - max(ends) / 1000)
        await clear(node, target)
    return [
        Row("last child's commit to its parent's body, p50", target.engine, percentile(waits, 0.5), "ms"),
        Row("last child's commit to its parent's body, p99", target.engine, percentile(waits, 0.99), "ms", 20, "low"),
    ]


async def steps(target: Target, scale: int) -> list[Row]:
    """Steps of 100 bodies on one node."""
    namespace, each = fresh_namespace(), 200 // scale
    async with Node(target.url, namespace=namespace, workers=0, allow_unknown=True) as node:
        await node.schedule_many(STEPPED.call(each) for _ in range(100))
        async with worker_processes(target.url, namespace, count=1, workers=100, jobs="flow_jobs") as workers:
            calls = await script_calls(target)
            begin = time.perf_counter()
            await workers[0].go()
            await measures.until_completed(node, 100, pause=target.pause)
            rate = 100 * each / (time.perf_counter() - begin)
            calls = await script_calls(target) - calls
        await clear(node, target)
    rows = [Row("steps of 100 bodies on one node", target.engine, rate, "steps/s", 10_000)]
    if not target.etcd:
        rows.append(Row("round trips", target.engine, calls / 100 / each, "a step", 1, "low"))
    return rows


async def suspended(target: Target, scale: int) -> list[Row]:
    """What instances cost that wait for a signal."""
    count, namespace = 100_000 // scale, fresh_namespace()
    async with Node(target.url, namespace=namespace, workers=0, allow_unknown=True) as node:
        before = await memory(target)
        await node.schedule_many(ASLEEP.call(n) for n in range(count))
        async with worker_processes(target.url, namespace, count=1, workers=100, jobs="flow_jobs") as workers:
            idle = await cpu_of(workers[0].pid)
            await workers[0].go()
            while await node.due() or await node.count(Query(state=State.PROCESSING)):  # noqa: ASYNC110  # a count
                await asyncio.sleep(0.2)
            spent = await cpu_of(workers[0].pid)
            each = (await memory(target) - before) / count
        await clear(node, target)
    what = f"{count:,} suspended instances"
    rows = [Row(f"{what}: CPU of a node, beside no instance", target.engine, spent - idle, "ms/s", 2, "low")]
    if not target.etcd:
        rows.append(Row(f"{what}: memory of the server", target.engine, each, "B each", 1_000, "low"))
    return rows


PARTS: dict[str, Part] = {"fan-in": fan_in, "chain": chain, "wake": wake, "steps": steps, "suspended": suspended}


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def ended_us(instance: Instance[object]) -> int:
    assert instance.completed_at is not None
    return to_us(instance.completed_at)


async def cpu_of(pid: int) -> float:
    """Milliseconds of CPU that a process uses in a second."""
    before = cpu_seconds(pid)
    await asyncio.sleep(QUIET_SECONDS)
    return (cpu_seconds(pid) - before) * 1000 / QUIET_SECONDS


async def memory(target: Target) -> int:
    if target.etcd:
        return 0
    async with redis_client(target.url) as redis:
        return int((await redis.info("memory"))["used_memory"])


async def script_calls(target: Target) -> int:
    if target.etcd:
        return 0
    async with redis_client(target.url) as redis:
        stats = await redis.info("commandstats")
        return sum(
            int(stats[f"cmdstat_{name}"]["calls"]) for name in ("evalsha", "fcall") if f"cmdstat_{name}" in stats
        )


async def main(engines: list[str], chosen: list[str], scale: int) -> None:
    rows: list[Row] = []
    for engine in engines:
        with SERVERS[engine]() as server:
            etcd = server if isinstance(server, EtcdServer) else None
            target = Target(engine=engine, url=server.url, pid=server.child.pid, etcd=etcd)
            for part in chosen:
                found = await PARTS[part](target, scale)
                tell(found)
                rows += found
    show(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", default="redis,etcd", help="redis, valkey, etcd; with commas")
    parser.add_argument("--only", default=",".join(PARTS), help=f"which of {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="a tenth of each count")
    given = parser.parse_args()
    if unknown := set(given.only.split(",")) - PARTS.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    uvloop.run(main(given.engines.split(","), given.only.split(","), 10 if given.quick else 1))
