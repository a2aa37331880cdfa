"""A turn on the key-value engine wakes nodes for what its commit let go and its claim left."""

import asyncio

from peerjob.model.record import Action, StoreLimits
from peerjob.store.kv.store import KVStore
from peerjob.store.memory.data import MemoryData
from peerjob.store.memory.driver import MemoryKeyValue
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import Factory, Peer, outcome


async def test_a_turn_that_takes_more_of_a_kind_than_it_let_go_wakes_no_node_for_it(clock: VirtualClock) -> None:
    make = Factory(clock)
    store = KVStore(
        MemoryKeyValue(MemoryData(), clock), url="memory://", namespace="n", clock=clock, limits=StoreLimits()
    )

    async def join(*kinds: str) -> Peer:
        return await Peer(store=store, info=make.node(kinds=kinds), make=make).join()

    async def woken() -> list[bool]:
        return [bool(hints) for hints in await asyncio.gather(*(store.next_hints(id, 0) for id in sleepers))]

    peer = await join("taken", "left")
    await store.enqueue([make.instance(kind="taken"), make.instance(kind="left")])
    outcomes = [outcome(claim, Action.RETRY) for claim in await peer.take()]
    sleepers: list[str] = []
    for _ in range(5):
        sleeper = await join("taken")
        await sleeper.claim()
        sleepers.append(sleeper.incarnation)
    await store.enqueue([make.instance(kind="taken") for _ in range(2)])
    assert sum(await woken()) == 2
    want = peer.want(3, {"taken": 3, "left": 0})
    _, claimed = await store.turn(peer.incarnation, outcomes, want, request=make.request())
    assert [claim.kind for claim in claimed.claims] == ["taken"] * 3
    assert not any(await woken())
