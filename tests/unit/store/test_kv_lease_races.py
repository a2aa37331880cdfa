"""A renewal of a lease beside another call of the same incarnation, which comes between any two requests."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable

from peerjob.model.record import NodeInfo, Renewed, StoreLimits
from peerjob.store.kv.store import KVStore
from peerjob.store.memory.driver import MemoryKeyValue
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import Factory
from support.etcd_model import EtcdData
from support.interleaving import Interrupted

TTL_US = 5_000_000
RUNNING = 3

Call = Callable[[KVStore, NodeInfo], Awaitable[object]]


class Interleaved(Interrupted):
    """A driver that awaits another call before a request, also before one of a renewal."""

    def separate(self) -> "Interleaved":
        return self


async def join(store: KVStore, node: NodeInfo) -> None:
    await store.join(node, ttl_us=TTL_US)


async def leave(store: KVStore, node: NodeInfo) -> None:
    await store.leave(node.incarnation)


async def renew(store: KVStore, node: NodeInfo) -> Renewed:
    liveness = store.liveness()
    return await liveness.renew(node.incarnation, ttl_us=TTL_US, running=RUNNING, count=0, fences_digest=0)


async def everywhere(clock: VirtualClock, verb: Call, intruder: Call) -> AsyncIterator[tuple[object, list[int]]]:
    """The answers to a verb, and the loads that are shown then, with the intruder before each of its requests."""
    for before in itertools.count():
        data, node = EtcdData(), Factory(clock).node()
        interleaved = Interleaved(data, clock)
        drivers = interleaved, MemoryKeyValue(data, clock)
        store, other = (
            KVStore(kv, url="memory://", namespace="n", clock=clock, limits=StoreLimits()) for kv in drivers
        )
        await join(other, node)
        interleaved.let_in(lambda other=other, node=node: intruder(other, node), before)  # type: ignore[misc]
        answer = await verb(store, node)
        if interleaved.waits:
            assert before >= 3
            return
        yield answer, [view.running for view in await other.nodes()]


async def test_a_join_keeps_the_load_that_a_renewal_tells_meanwhile(clock: VirtualClock) -> None:
    async for _, shown in everywhere(clock, join, renew):
        assert shown == [RUNNING]


async def test_a_renewal_is_answered_although_a_join_replaces_the_lease(clock: VirtualClock) -> None:
    async for renewed, shown in everywhere(clock, renew, join):
        assert isinstance(renewed, Renewed)
        assert not renewed.dead
        assert shown == [RUNNING]


async def test_a_renewal_is_answered_although_a_leave_ends_the_lease(clock: VirtualClock) -> None:
    async for renewed, shown in everywhere(clock, renew, leave):
        assert isinstance(renewed, Renewed)
        assert shown == []
