"""A node in a process of its own, to be killed, paused and stopped by tests.

Prints what it logs, when the process stood still, and its state when a signal asks for it.
"""

import argparse
import logging

import uvloop

from peerjob import Node, StoreLimits
from peerjob.node import runtime
from peerjob.store import rules
from support.builds import newer_store
from support.shifted import ShiftedClock
from support.stalls import Stalls, tell
from support.testimony import testify_on_signal


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("namespace")
    parser.add_argument("--name", default="node")
    parser.add_argument("--workers", type=int, default=10)
    parser.add_argument("--ttl", type=float, default=2.0)
    parser.add_argument("--grace", type=float, default=0.2)
    parser.add_argument("--jobs", default="support.fault_jobs")
    parser.add_argument("--coordinator")
    parser.add_argument("--ahead", type=float, default=0.0, help="seconds that its clock is ahead")
    parser.add_argument("--adds", action="store_true", help="write records as a later release")
    parser.add_argument("--reads", type=int, help="read no higher layout, as an earlier release")
    given = parser.parse_args()
    for module in (rules, runtime) if given.reads else ():
        vars(module)["READS_LAYOUT"] = given.reads
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    clock = ShiftedClock(given.ahead)
    node = Node(
        newer_store(given.url, namespace=given.namespace, clock=clock, limits=StoreLimits())
        if given.adds
        else given.url,
        jobs=given.jobs,
        coordinator=given.coordinator,
        namespace=given.namespace,
        name=given.name,
        workers=given.workers,
        lease_ttl=given.ttl,
        clock=clock,
    )
    testify_on_signal(node)
    with Stalls(tell=tell):
        await node.run(grace=given.grace)


if __name__ == "__main__":
    uvloop.run(main())  # as `jobd` does; the nodes within the tests run on asyncio's own loop
