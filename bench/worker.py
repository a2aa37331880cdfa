"""A worker process: connects, says `ready`, and begins to claim when a line comes in. Ends with its input."""

import argparse
import asyncio
import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

import uvloop

from peerjob import Node
from peerjob.store.base import Store


def peak_memory() -> int:
    """The most bytes that this process used, from /proc: getrusage also counts memory of the parent before the exec."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) * 1024  # type: ignore[index]  # every Linux reports VmHWM


async def main(url: str, namespace: str, workers: int, jobs: ModuleType) -> None:
    loop = asyncio.get_running_loop()
    etcd = None
    store: str | Store = url
    if url.startswith("etcd"):
        # imported only for etcd, so that the import takes no memory in measurements of other stores
        from counting import counting_store

        etcd, store = counting_store(url, namespace)
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("namespace")
    parser.add_argument("--workers", type=int, default=10)
    parser.add_argument("--jobs", default="jobs", help="a module of this folder with jobs (default: jobs)")
    given = parser.parse_args()
    uvloop.run(main(given.url, given.namespace, given.workers, importlib.import_module(given.jobs)))
