"""An idle node whose event loop is blocked keeps no instance from its peers."""

import asyncio
import threading
import time

import pytest

from peerjob import Instance, Job, Node
from peerjob.cluster.lease import INTERVAL, LOOP_ANSWERS
from support.stalls import Stalls, now_us
from support.waiting import PATIENCE, until

BLOCKED = 5.0
"""Seconds for which other code of the program blocks the event loop."""


class Peer:
    """A node with its own event loop in a thread, which starts to schedule when it is told to."""

    def __init__(self, url: str, namespace: str) -> None:
        self.waits: dict[int, tuple[int, int]] = {}
        """Number of the instance → when it was scheduled, and when its body began on any node, in microseconds."""
        self.go, self.ready = threading.Event(), threading.Event()
        self._url, self._namespace = url, namespace
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))
        self._thread.start()

    async def work(self, number: int, scheduled_us: int) -> None:
        assert number not in self.waits, "it ran twice"
        self.waits[number] = scheduled_us, now_us()

    def join(self) -> None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    async def _main(self) -> None:
        job = Job("work", self.work)
        async with Node(self._url, jobs=[job], namespace=self._namespace, name="peer") as node:
            self.ready.set()
            await asyncio.to_thread(self.go.wait, PATIENCE)
            ends_at = time.monotonic() + BLOCKED - 1
            instances: list[Instance[None]] = []
            while time.monotonic() < ends_at:
                instances.append(await node.schedule(job, len(instances), now_us()))
                await asyncio.sleep(0.05)
            for instance in instances:
                await instance.wait(timeout=PATIENCE)


def _waits_with_claim(node: Node) -> bool:
    runtime = node._runtime  # pyright: ignore[reportPrivateUsage]
    return runtime is not None and runtime.in_flight.hinted_claim is not None


@pytest.mark.parametrize("store_url", ["redis", "valkey"], indirect=True)
async def test_peers_run_the_instance_that_came_with_the_hint(store_url: str, namespace: str) -> None:
    peer = Peer(store_url, namespace)
    with Stalls() as stalls:
        try:
            assert await asyncio.to_thread(peer.ready.wait, PATIENCE)
            async with Node(store_url, jobs=[Job("work", peer.work)], namespace=namespace, name="blocked") as node:
                await until(lambda: asyncio.sleep(0, _waits_with_claim(node)))
                peer.go.set()
                time.sleep(BLOCKED)  # noqa: ASYNC251
                await asyncio.to_thread(peer.join)
        finally:
            peer.go.set()
            await asyncio.to_thread(peer.join)
        assert len(peer.waits) > 20
        assert max(stalls.took(*wait) for wait in peer.waits.values()) < INTERVAL + LOOP_ANSWERS + 1.1
