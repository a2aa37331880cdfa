"""A node that waits for the end of an instance gets a hint about it, for any number of other waiting nodes."""

from collections.abc import Sequence

import pytest

from peerjob.model.record import StoreLimits
from peerjob.store.kv.format.base import Range
from peerjob.store.kv.store import KVStore
from peerjob.store.memory.driver import MemoryKeyValue
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import Factory, Peer, outcome
from support.etcd_model import EtcdData


@pytest.mark.parametrize("count", [20, 450])
@pytest.mark.parametrize("seconds", [0.0, 3.0])
async def test_of_many_awaited_instances_those_that_end_are_reported(
    clock: VirtualClock, count: int, seconds: float
) -> None:
    data, make = EtcdData(), Factory(clock)
    store = KVStore(MemoryKeyValue(data, clock), url="memory://", namespace="n", clock=clock, limits=StoreLimits())
    worker = await Peer(store=store, info=make.node(), make=make).join()
    waiter = await Peer(store=store, info=make.node(kinds=()), make=make).join()
    ids: list[str] = []
    for _ in range(5):
        batch = make.instances(count // 5)
        await store.enqueue(batch)
        ids += [new.id for new in batch]
        await clock.advance(seconds)
    await store.watch_final(waiter.incarnation, ids)
    claims = await worker.take(count)
    assert len(claims) == count

    async def hinted() -> list[str]:
        return sorted(hint.id for hint in await store.next_hints(waiter.incarnation, 0) if hint.what == "final")

    async def end(ending: Sequence[int]) -> list[str]:
        await worker.commit(*(outcome(claims[at]) for at in ending))
        return sorted(claims[at].id for at in ending)

    assert await hinted() == []
    first = await end([0, count // 2, count - 1])
    assert await hinted() == first
    rest = await end([at for at in range(count) if claims[at].id not in first])
    assert await hinted() == rest
    assert data.range(Range("n/watch/", "n/watch0")).count == 0


async def test_a_store_listens_for_live_incarnations_only(clock: VirtualClock) -> None:
    """Also if a node joins again many times, as it does each time that its lease expires."""
    data, make = EtcdData(), Factory(clock)
    store = KVStore(MemoryKeyValue(data, clock), url="memory://", namespace="n", clock=clock, limits=StoreLimits())
    listening: list[int] = []
    for _ in range(3):
        peers = [await Peer(store=store, info=make.node(), make=make).join() for _ in range(2)]
        for peer in peers:
            await store.next_hints(peer.incarnation, 0)
        listening.append(len(data._watches))  # pyright: ignore[reportPrivateUsage]
        for peer in peers:
            await store.leave(peer.incarnation)
            await peer.close()
    assert listening == [2, 2, 2]
    assert data._watches == []  # pyright: ignore[reportPrivateUsage]
