"""What of a node stands for leader, in a process of its own. Prints when it acts as leader, and in which term.

A line `act <before> <after> <term>` says that at a moment between these two, in nanoseconds of the machine's monotonic
clock, it might act.
"""

import argparse
import asyncio
import contextlib
import logging
import signal
import time

import uvloop

from peerjob import StoreLimits
from peerjob.model.clock import SystemClock
from peerjob.store.drivers import open_elections, open_store
from support.leaders import ElectionNode

LOOK = 0.01


async def watch(node: ElectionNode) -> None:
    while True:
        before = time.monotonic_ns()
        term = node.election.term
        if term is not None:
            print(f"act {before} {time.monotonic_ns()} {term.number}", flush=True)
        await asyncio.sleep(LOOK)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("namespace")
    parser.add_argument("--coordinator")
    parser.add_argument("--name", default="node")
    parser.add_argument("--ttl", type=float, default=2.0)
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    clock = SystemClock()
    store = open_store(given.url, namespace=given.namespace, clock=clock, limits=StoreLimits(), retry_for=1)
    elections = None
    if given.coordinator:
        elections = open_elections(given.coordinator, namespace=given.namespace, clock=clock)
    node = await ElectionNode(clock, store, given.name, ttl=given.ttl, elections=elections).start()
    print("ready", flush=True)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    watching = asyncio.create_task(watch(node))
    await stopped.wait()
    await node.stop()
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    await store.close()


if __name__ == "__main__":
    uvloop.run(main())
