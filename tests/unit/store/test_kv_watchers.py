"""A node that waits for the end of an instance gets a hint about it, for any number of other waiting nodes."""

from collections.abc import Sequence

import pytest

from peerjob.model.record import Hint, StoreLimits
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


@pytest.mark.parametrize("ender", ["waiter", "worker"])
async def test_the_end_of_an_own_instance_needs_no_key(clock: VirtualClock, ender: str) -> None:
    """The node that waits has a watch, so its store tells it of what its store does; other stores write a key."""
    data, make = EtcdData(), Factory(clock)
    stores = {
        name: KVStore(MemoryKeyValue(data, clock), url="memory://", namespace="n", clock=clock, limits=StoreLimits())
        for name in ("waiter", "worker")
    }
    waiter = await Peer(store=stores["waiter"], info=make.node(), make=make).join()
    worker = await Peer(store=stores["worker"], info=make.node(), make=make).join()
    assert await waiter.store.next_hints(waiter.incarnation, 0) == []
    peer = {"waiter": waiter, "worker": worker}[ender]
    (one,) = make.instances(1)
    await worker.store.enqueue([one])
    claim = await peer.take_one()
    await waiter.store.watch_final(waiter.incarnation, [one.id])
    await peer.end(claim)
    assert data.range(Range("n/watch/", "n/watch0")).count == 0
    assert data.range(Range("n/hint/", "n/hint0")).count == (0 if ender == "waiter" else 1)
    assert await waiter.store.next_hints(waiter.incarnation, 5) == [Hint("final", one.id)]
    assert await waiter.store.next_hints(waiter.incarnation, 0) == []


async def test_an_own_hint_survives_a_watch_that_missed_some(clock: VirtualClock) -> None:
    data, make = EtcdData(), Factory(clock)
    store = KVStore(MemoryKeyValue(data, clock), url="memory://", namespace="n", clock=clock, limits=StoreLimits())
    peer = await Peer(store=store, info=make.node(), make=make).join()
    await store.next_hints(peer.incarnation, 0)
    assert await peer.take() == ()
    await store.enqueue(make.instances(1))
    store._context.own_hints.watches.pop(peer.incarnation).close()  # pyright: ignore[reportPrivateUsage]
    assert await store.next_hints(peer.incarnation, 5) == [Hint("work", "")]


async def test_a_watch_that_missed_some_tells_of_all_that_may_have_changed(clock: VirtualClock) -> None:
    data, make = EtcdData(), Factory(clock)
    store = KVStore(MemoryKeyValue(data, clock), url="memory://", namespace="n", clock=clock, limits=StoreLimits())
    peer = await Peer(store=store, info=make.node(), make=make).join()
    assert await store.next_hints(peer.incarnation, 0) == []
    watch = store._context.own_hints.watches[peer.incarnation]  # pyright: ignore[reportPrivateUsage]

    async def changed(timeout: float) -> None:
        """Tell that some changes are unknown, as the watch of a server does that lost its connection."""

    watch.changed = changed  # type: ignore[method-assign]
    hints = await store.next_hints(peer.incarnation, 5)
    assert hints == [Hint("schedule", ""), Hint("dead", "")]


async def test_hints_that_were_read_are_deleted_together(clock: VirtualClock) -> None:
    data, make = EtcdData(), Factory(clock)
    stores = [
        KVStore(MemoryKeyValue(data, clock), url="memory://", namespace="n", clock=clock, limits=StoreLimits())
        for _ in range(2)
    ]
    waiter = await Peer(store=stores[0], info=make.node(kinds=()), make=make).join()
    worker = await Peer(store=stores[1], info=make.node(), make=make).join()
    hinted: list[str] = []
    most = 0
    for _ in range(200):
        (one,) = make.instances(1)
        await worker.store.enqueue([one])
        await waiter.store.watch_final(waiter.incarnation, [one.id])
        await worker.end(await worker.take_one())
        hinted += [hint.id for hint in await waiter.store.next_hints(waiter.incarnation, 0) if hint.id == one.id]
        most = max(most, data.range(Range("n/hint/", "n/hint0")).count)
    assert len(hinted) == 200
    assert most <= 60


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
