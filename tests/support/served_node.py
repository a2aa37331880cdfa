"""A node that serves gRPC in a process of its own. Prints `serves HOST:PORT`, and what it logs."""

import argparse
import asyncio
import logging

import uvloop

from peerjob import Node, Server


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("namespace")
    parser.add_argument("--name", default="node")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--ttl", type=float, default=2.0)
    parser.add_argument("--jobs", default="support.served_jobs")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    node = Node(
        given.url,
        jobs=given.jobs,
        namespace=given.namespace,
        name=given.name,
        workers=given.workers,
        lease_ttl=given.ttl,
    )
    async with node, Server(node, "127.0.0.1:0") as server:
        logging.getLogger().info("serves %s", server.target)
        await asyncio.Event().wait()  # until it is killed


if __name__ == "__main__":
    uvloop.run(main())
