"""Event loops in threads: they rest between their calls, because gRPC lets each loop watch the events of all."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from peerjob.cluster.lease import Lease
from peerjob.cluster.loop_thread import LastingExecutor, QuietLoop, resting, run_here
from peerjob.model.clock import SystemClock
from peerjob.model.errors import LayoutError
from peerjob.model.record import Renewed, StoreLimits
from peerjob.store.base import Liveness
from peerjob.store.kv.store import KVStore
from peerjob.store.memory.data import MemoryData
from peerjob.store.memory.driver import MemoryKeyValue
from peerjob.testing.factories import Factory
from support.waiting import PATIENCE, until

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    near, far = socket.socketpair()
    with near, far:
        yield near, far


async def passes() -> None:
    """Let the event loop look at its sockets."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_loop_that_rests_leaves_the_sockets_of_others_alone(pair: Pair) -> None:
    near, far = pair
    seen: list[bytes] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, QuietLoop)
        loop.add_reader(near, lambda: seen.append(near.recv(1)))
        with resting(loop):
            far.send(b"1")
            await passes()
            assert seen == []
        await passes()
        assert seen == [b"1"]
        with resting(loop):
            loop.remove_reader(near)
        far.send(b"2")
        await passes()
        assert seen == [b"1"]

    run_here(main(), quiet=True)


class Watching:
    """The connection of a lease, whose event loop also watches a socket, as gRPC lets it do."""

    def __init__(self, inner: Liveness, near: socket.socket) -> None:
        self._inner = inner
        self._near = near
        self.renews = False
        self.seen: list[bool] = []
        """For each event of the socket, whether a renewal was in flight."""
        self.close, self.withdraw = inner.close, inner.withdraw

    async def open(self, wake: Callable[[], None] | None = None) -> None:
        await self._inner.open(wake)
        asyncio.get_running_loop().add_reader(self._near, self._read)

    def _read(self) -> None:
        self._near.recv(1)
        self.seen.append(self.renews)

    async def renew(self, incarnation: str, *, ttl_us: int, running: int, count: int, fences_digest: int) -> Renewed:
        self.renews = True
        try:
            await passes()
            return await self._inner.renew(
                incarnation, ttl_us=ttl_us, running=running, count=count, fences_digest=fences_digest
            )
        finally:
            self.renews = False


class Heard:
    """The node of a lease."""

    renewals = 0

    def lease_summary(self) -> tuple[int, int, int]:
        return 0, 0, 0

    def lease_renewed(self, incarnation: str, reply: Renewed) -> None:
        self.renewals += 1

    def renewal_failed(self) -> None: ...

    def lease_dead(self, incarnation: str) -> None: ...

    def trust_ended(self) -> None: ...

    def trust_returned(self) -> None: ...

    def layout_changed(self, error: LayoutError) -> None: ...


class Probed:
    """An event loop that is blocked or not, as the thread of a lease sees it."""

    def __init__(self, *, answers: bool) -> None:
        self.answers = answers

    def ask(self) -> None: ...

    def check(self) -> None: ...


@asynccontextmanager
async def renewed(near: socket.socket, probe: Probed) -> AsyncGenerator[tuple[Watching, Heard]]:
    """A lease that has been renewed once, and whose next renewal is some time away."""
    clock, heard = SystemClock(), Heard()
    kv = MemoryKeyValue(MemoryData(), clock)
    store = KVStore(kv, url="memory://", namespace="n", clock=clock, limits=StoreLimits())
    node, watching = Factory(clock).node(), Watching(store.liveness(), near)
    await store.join(node, ttl_us=60_000_000)
    lease = Lease(clock=clock, ttl=60, liveness=lambda: watching, listener=heard)
    lease.loop_watch = probe
    lease.begin(node.incarnation, clock.elapsed())
    lease.start()
    try:
        async with asyncio.timeout(PATIENCE):
            await until(lambda: heard.renewals)
            yield watching, heard
    finally:
        await lease.stop()


async def test_between_renewals_the_thread_of_a_lease_does_not_wake_for_others(pair: Pair) -> None:
    near, far = pair
    async with renewed(near, Probed(answers=True)) as (watching, _):
        far.send(b"1")
        await until(lambda: watching.seen)
    assert watching.seen == [True]


async def test_while_the_loop_of_the_node_is_blocked_the_thread_of_a_lease_hears_its_peers_at_once(pair: Pair) -> None:
    """No other loop passes on what gRPC reports, and the clock of a peer that is read late looks slow."""
    near, far = pair
    sent: list[int] = []

    def is_told() -> bool:
        if len(watching.seen) == len(sent):  # also after a stall, since then the first event comes during a renewal
            sent.append(far.send(b"1"))
        return False in watching.seen or heard.renewals > 4

    async with renewed(near, Probed(answers=False)) as (watching, heard):
        await until(is_told)
        assert False in watching.seen  # the end of the lease reads what is left


def test_an_executor_runs_as_many_calls_at_a_time_as_it_may_start_threads() -> None:
    executor, all_run = LastingExecutor(most=3, name="three"), threading.Barrier(3)

    def run() -> threading.Thread:
        all_run.wait(PATIENCE)
        return threading.current_thread()

    threads = {future.result() for future in [executor.submit(run) for _ in range(6)]}
    assert {thread.name for thread in threads} == {"three-0", "three-1", "three-2"}
    executor.shutdown()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
