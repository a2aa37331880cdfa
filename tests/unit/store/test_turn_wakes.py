"""A turn on the key-value engine wakes nodes for what its commit let go and its claim left."""

import asyncio

from peerjob.model.record import Action, Claimed, StoreLimits, Want
from peerjob.model.stored_limit import KindLimits
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


class Dying(KVStore):
    """The store of a node that dies between the commit and the claim of a turn."""

    committed: asyncio.Event | None = None

    async def _claim(self, incarnation: str, want: Want, request: str, verb: str) -> Claimed:
        if self.committed is not None:
            self.committed.set()
            await asyncio.Event().wait()
        return await super()._claim(incarnation, want, request, verb)


async def test_a_renewal_finds_what_a_node_let_go_that_died_before_its_claim(clock: VirtualClock) -> None:
    """No hint tells of what the commit let go, and the contract says of a lost hint that a renewal finds the work."""
    make, data = Factory(clock), MemoryData()
    dying, store = (
        made(MemoryKeyValue(data, clock), url="memory://", namespace="n", clock=clock, limits=StoreLimits())
        for made in (Dying, KVStore)
    )
    await store.publish_limits([KindLimits(kind="work", key_concurrency=1)])
    peer = await Peer(store=dying, info=make.node(), make=make).join()
    idle = await Peer(store=store, info=make.node(), make=make).join()
    first, second = (make.instance(limit_key="a", key_concurrency=1) for _ in range(2))
    await store.enqueue([first, second])
    (claim,) = await peer.take()
    assert await idle.take() == ()
    assert not (await idle.renew()).work_due
    assert isinstance(dying, Dying)
    dying.committed = asyncio.Event()
    turn = asyncio.create_task(dying.turn(peer.incarnation, [outcome(claim)], peer.want(1), request=make.request()))
    await dying.committed.wait()
    turn.cancel()
    assert await store.next_hints(idle.incarnation, 0) == []
    assert (await idle.renew()).work_due
    assert [claim.id for claim in await idle.take()] == [second.id]
