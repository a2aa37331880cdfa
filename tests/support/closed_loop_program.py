"""A program that closes the event loop of a running node, stops the node in another loop, and starts it again there.

Arguments: the URL of the store, and "url", or "store" to give the node a Store. It ends with 0 if all is as expected.
"""

import asyncio
import logging
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from peerjob import Instance, Job, Node, NodeStateError, Query, State, StoreLimits, SystemClock
from peerjob.store.drivers import open_store
from support import bodies
from support.waiting import until


def add(x: int, y: int) -> int:
    return x + y


async def hang() -> None:
    await asyncio.Event().wait()


ADD, HANG = Job("add", add), Job("hang", hang)
PROCESS = Job("process", bodies.with_children, run_in="process")
CLOSED = "closed without a stop: await its stop"


async def is_in(instance: Instance[Any], state: State) -> bool:
    return (await instance.refresh()).state is state


async def runs_again(instance: Instance[Any]) -> bool:
    return (await instance.refresh()).fence > 1


async def use(node: Node, started: Path) -> None:
    await node.start()
    assert await (await node.schedule(ADD, 1, 2)).result(30) == 3
    hanging = await node.schedule(HANG)
    await until(lambda: is_in(hanging, State.PROCESSING))
    await node.schedule(PROCESS, str(started))
    await until(lambda: started.exists() and " " in started.read_text())


async def use_again(node: Node, pids: list[str]) -> None:
    for call in (lambda: node.schedule(ADD, 1, 2), node.start, node.count):
        with pytest.raises(NodeStateError, match=CLOSED):
            await call()
    releasing = [asyncio.create_task(node.stop()) for _ in range(2)]
    await asyncio.sleep(0)
    with ThreadPoolExecutor(1) as thread, pytest.raises(NodeStateError, match="another event loop releases node"):
        thread.submit(asyncio.run, node.stop()).result(30)  # this event loop stands still meanwhile
    await asyncio.gather(*releasing)
    await node.stop()
    assert not node.is_healthy
    await until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in pids))
    await until(lambda: not any(one.name.startswith("peerjob") for one in threading.enumerate()))
    node.unregister("process")
    async with node:
        assert await (await node.schedule(ADD, 3, 4)).result(30) == 7
        (hanging,) = await node.lookup_instances(Query(kind="hang"))
        await until(lambda: runs_again(hanging))
        assert len(await node.nodes()) == 1
        await hanging.cancel()


def main(url: str, given: str) -> None:
    logging.basicConfig()
    store = open_store(url, namespace="default", clock=SystemClock(), limits=StoreLimits()) if given == "store" else url
    node = Node(store, jobs=[ADD, HANG, PROCESS], lease_ttl=2)
    with TemporaryDirectory() as folder:
        started = Path(folder) / "started"
        loop = asyncio.new_event_loop()
        loop.run_until_complete(use(node, started))
        loop.close()
        asyncio.run(use_again(node, started.read_text().split()))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
