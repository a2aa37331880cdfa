"""A worker process: connects, says `ready`, and begins to claim when a line comes in. Ends with its input."""

import argparse
import asyncio
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

import jobs
from peerjob import Node
from peerjob.clock import SystemClock
from peerjob.record import StoreLimits
from peerjob.store.kv.base import Applied, Step
from peerjob.store.kv.etcd import EtcdKV
from peerjob.store.kv.etcd_address import parse_address
from peerjob.store.kv.store import KVStore


class CountingEtcd(EtcdKV):
    """Counts what was refused because somebody else was faster."""

    changes = 0
    counters = 0

    async def txn(self, steps: Sequence[Step], also: Step | None = None) -> Applied:
        applied = await super().txn(steps, also)
        if also is not None:
            failed = sum(answer is None for answer in applied.steps)
            self.changes += failed
            self.counters += applied.also is None and not failed
        return applied


def peak_memory() -> int:
    """Bytes; from /proc, as getrusage counts the parent's memory from before the exec too."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) * 1024  # type: ignore[index]  # Linux always tells


async def main(url: str, namespace: str, workers: int) -> None:
    loop = asyncio.get_running_loop()
    etcd = CountingEtcd(parse_address(url), SystemClock()) if url.startswith("etcd") else None
    store = url if etcd is None else counting(etcd, url, namespace)
    async with Node(store, namespace=namespace, workers=workers, name=f"bench-{namespace}") as node:
        print("ready", flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            if line.strip() == "go":
                node.register(jobs)
                print("going", flush=True)
            elif line.strip() == "peak":
                print(f"peak {peak_memory()}", flush=True)
            elif line.strip() == "refused" and etcd is not None:
                print(f"refused {etcd.changes} {etcd.counters}", flush=True)


def counting(etcd: EtcdKV, url: str, namespace: str) -> KVStore:
    """A store on an etcd whose refusals are counted."""
    return KVStore(etcd, url=url, namespace=namespace, clock=SystemClock(), limits=StoreLimits(), retry_for=30)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("namespace")
    parser.add_argument("--workers", type=int, default=10)
    given = parser.parse_args()
    uvloop.run(main(given.url, given.namespace, given.workers))
