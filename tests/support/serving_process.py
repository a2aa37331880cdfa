"""A node that serves gRPC in a process of its own, to be killed and paused by tests. Prints `serving host:port`."""

import asyncio
import sys
from datetime import timedelta
from typing import Any

import uvloop

from peerjob import INJECTED, Instance, Job, Node, Server


async def tell(number: int, pause: timedelta, instance: Instance[Any] = INJECTED) -> int:
    for line in range(3):
        instance.log.info("%d: line %d", number, line)
        await asyncio.sleep(pause.total_seconds())
    return number


TELL = Job("tell", tell)


async def main(url: str, namespace: str, name: str) -> None:
    async with (
        Node(url, jobs=TELL, namespace=namespace, name=name, lease_ttl=2, workers=20) as node,
        Server(node, "127.0.0.1:0") as server,
    ):
        print(f"serving {server.target}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))  # as `jobd` does
