"""What a renewal of a lease costs on a server that is far away."""

import asyncio
from collections.abc import Sequence

import pytest

from peerjob.model.record import StoreLimits
from peerjob.store.kv.format.base import Applied, Compare, Found, Range, Transaction
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

    async def txn(
        self, transactions: Sequence[Transaction], also: Transaction | None = None, guards: Sequence[Compare] = ()
    ) -> Applied:
        await asyncio.sleep(TRIP)
        return await super().txn(transactions, also, guards)

    async def keepalive(self, lease: int) -> bool:
        await asyncio.sleep(TRIP)
        return await super().keepalive(lease)

    async def extend(self, lease: int, ranges: Sequence[Range]) -> tuple[bool, list[Found]]:
        await asyncio.sleep(TRIP)
        return await super().extend(lease, ranges)


class CountingKeyValue(MemoryKeyValue):
    """A driver that counts the entries and the ends of leases that it reads."""

    read_count = 0

    def separate(self) -> "CountingKeyValue":
        return self

    async def extend(self, lease: int, ranges: Sequence[Range]) -> tuple[bool, list[Found]]:
        alive, found = await super().extend(lease, ranges)
        self.read_count += sum(len(one.items) for one in found)
        return alive, found

    async def remaining(self, leases: Sequence[int]) -> list[int]:
        self.read_count += len(leases)
        return await super().remaining(leases)


TTL_US = 5_000_000


async def renewing(clock: VirtualClock, count: int) -> tuple[CountingKeyValue, list[Peer]]:
    """Peers of one store that have just renewed their leases."""
    kv, make = CountingKeyValue(MemoryData(), clock), Factory(clock)
    store = KVStore(kv, url="memory://", namespace="n", clock=clock, limits=StoreLimits())
    peers = [await Peer(store=store, info=make.node(f"node-{at}"), make=make).join(TTL_US) for at in range(count)]
    for peer in peers:
        await peer.renew(ttl_us=TTL_US)
    return kv, peers


async def test_a_renewal_costs_as_much_with_a_hundred_nodes_as_with_five(clock: VirtualClock) -> None:
    spent: list[int] = []
    for count in (5, 100):
        kv, peers = await renewing(clock, count)
        for _ in range(10):
            await clock.advance(1)
            for peer in peers[1:]:
                await peer.renew(ttl_us=TTL_US)
            kv.read_count = 0
            await peers[0].renew(ttl_us=TTL_US)
            spent.append(kv.read_count)
    assert sum(spent[10:]) <= sum(spent[:10])


async def test_some_peers_know_when_the_lease_of_a_node_ends(clock: VirtualClock) -> None:
    _, peers = await renewing(clock, 10)
    for gone in peers:
        await clock.advance(1)
        ends_us = [(await peer.renew(ttl_us=TTL_US)).reap_in_us for peer in peers if peer is not gone]
        assert min(end_us for end_us in ends_us if end_us is not None) <= TTL_US - 1_000_000
        await gone.renew(ttl_us=TTL_US)


@pytest.mark.parametrize("survivor", [0, 4, 9])
async def test_a_node_finds_all_its_peers_dead_when_their_leases_have_ended(clock: VirtualClock, survivor: int) -> None:
    _, peers = await renewing(clock, 10)
    peer = peers[survivor]
    for _ in range(5):
        assert (await peer.renew(ttl_us=TTL_US)).reap_in_us != 0
        await clock.advance(1)
    assert (await peer.renew(ttl_us=TTL_US)).reap_in_us == 0


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
