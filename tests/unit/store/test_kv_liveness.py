"""What a renewal of a lease costs on a server that is far away."""

import asyncio
from collections.abc import Sequence

from peerjob.model.record import StoreLimits
from peerjob.store.kv.base import Applied, Compare, Found, Range, Step
from peerjob.store.kv.store import KVStore
from peerjob.store.memory.data import MemoryData
from peerjob.store.memory.driver import MemoryKeyValue
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import Factory, Peer

TRIP = 0.1
"""Seconds of a round trip."""


class FarKeyValue(MemoryKeyValue):
    """A driver whose calls take one round trip."""

    def separate(self) -> "FarKeyValue":
        return FarKeyValue(self._data, self._clock)

    async def read(self, ranges: Sequence[Range]) -> list[Found]:
        await asyncio.sleep(TRIP)
        return await super().read(ranges)

    async def txn(self, steps: Sequence[Step], also: Step | None = None, guards: Sequence[Compare] = ()) -> Applied:
        await asyncio.sleep(TRIP)
        return await super().txn(steps, also, guards)

    async def keepalive(self, lease: int) -> bool:
        await asyncio.sleep(TRIP)
        return await super().keepalive(lease)

    async def extend(self, lease: int, ranges: Sequence[Range]) -> tuple[bool, list[Found]]:
        await asyncio.sleep(TRIP)
        return await super().extend(lease, ranges)


async def test_a_renewal_takes_one_round_trip(clock: VirtualClock) -> None:
    """If a renewal needs several, a slow server ends the trust of all nodes sooner."""
    store = KVStore(FarKeyValue(MemoryData(), clock), url="memory://", namespace="n", clock=clock, limits=StoreLimits())
    make = Factory(clock)
    peer = await clock.run(Peer(store=store, info=make.node(), make=make).join())
    await clock.run(peer.renew())  # the first renewal reports this node's clock, and asks for those of others
    for _ in range(3):
        before = clock.elapsed()
        assert not (await clock.run(peer.renew())).dead
        assert round(clock.elapsed() - before, 3) == TRIP
    await clock.run(peer.close())
    await clock.run(store.close())


async def test_a_lease_that_ended_is_replaced(clock: VirtualClock) -> None:
    store = KVStore(FarKeyValue(MemoryData(), clock), url="memory://", namespace="n", clock=clock, limits=StoreLimits())
    make = Factory(clock)
    peer = await clock.run(Peer(store=store, info=make.node(), make=make).join(ttl_us=2_000_000))
    await clock.run(peer.renew(ttl_us=2_000_000))
    await clock.advance(60)
    assert await clock.run(store.nodes()) == []
    for _ in range(2):
        assert not (await clock.run(peer.renew(ttl_us=2_000_000))).dead
        assert len(await clock.run(store.nodes())) == 1
        await clock.advance(1)
    await clock.run(peer.close())
    await clock.run(store.close())
