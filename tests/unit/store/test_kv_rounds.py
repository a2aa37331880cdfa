"""A call whose attempts all conflict raises an error: it does not answer as if it had done its work."""

import itertools
from collections.abc import Awaitable, Callable, Sequence

import pytest
from msgspec.structs import replace

from peerjob.model.errors import StoreUnavailableError
from peerjob.model.firing import SchedulePut
from peerjob.model.record import StoreLimits
from peerjob.store.kv.format.base import Applied, Compare, Entry, Put, Transaction
from peerjob.store.kv.format.keys import Keys
from peerjob.store.kv.store import KVStore
from peerjob.store.memory.data import MemoryData
from peerjob.store.memory.driver import MemoryKeyValue
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import LONG_TTL_US, Factory, Peer

KEYS = Keys("n")
TTL_US = 5_000_000


class Conflicting(MemoryKeyValue):
    """The memory driver, on which another writer is always first with the keys below one prefix."""

    contended = ""
    """The prefix; "" if there is none."""
    meanwhile: Callable[[], Awaitable[object]] | None = None
    """What another writer does each time between the reads of two keys."""

    def separate(self) -> "Conflicting":
        return self

    async def get(self, keys: Sequence[str]) -> list[Entry | None]:
        if self.meanwhile is None:
            return await super().get(keys)
        found: list[Entry | None] = []
        for key in keys:
            found += await super().get([key])
            await self.meanwhile()
        return found

    async def txn(
        self, transactions: Sequence[Transaction], also: Transaction | None = None, guards: Sequence[Compare] = ()
    ) -> Applied:
        every = [*transactions, also] if also is not None else transactions
        if self.contended and any(op.key.startswith(self.contended) for one in every for op in one.ops):
            applied = await super().txn([replace(one, ops=()) for one in transactions], None, guards)
            return replace(applied, answers=[None] * len(transactions), also=None)
        return await super().txn(transactions, also, guards)


class Scene:
    """A store whose writes conflict, and another store of the namespace."""

    def __init__(self, clock: VirtualClock) -> None:
        data = MemoryData()
        self.clock, self.make = clock, Factory(clock)
        self.kv = Conflicting(data, clock)
        self.store, self.other = (
            KVStore(kv, url="memory://", namespace="n", clock=clock, limits=StoreLimits())
            for kv in (self.kv, MemoryKeyValue(data, clock))
        )

    async def peer(self, store: KVStore, ttl_us: int = LONG_TTL_US) -> Peer:
        return await Peer(store=store, info=self.make.node(), make=self.make).join(ttl_us)

    async def put(self, *, revision: int) -> None:
        """Put a schedule that has this revision now."""
        now_us = self.clock.time_us()
        put = SchedulePut(
            name="s", kind="work", definition=b"", next_us=now_us, expected=revision, expected_next_us=now_us
        )
        assert await self.other.put_schedule(put) is not None

    async def fails(self, contended: str, call: Callable[[], Awaitable[object]]) -> None:
        """Check that a call fails while these keys are contended; afterwards they are not."""
        self.kv.contended = contended
        with pytest.raises(StoreUnavailableError, match=r"again and again|too many writers"):
            await call()
        self.kv.contended = ""


async def test_a_join_that_always_conflicts_fails(clock: VirtualClock) -> None:
    scene, node = Scene(clock), Factory(clock).node()
    await scene.fails(KEYS.node, lambda: scene.store.join(node, ttl_us=TTL_US))
    assert await scene.other.nodes() == []
    await scene.store.join(node, ttl_us=TTL_US)
    assert [view.info.incarnation for view in await scene.other.nodes()] == [node.incarnation]


@pytest.mark.parametrize("mark", [True, False])
async def test_a_join_that_cannot_take_crashes_back_fails(clock: VirtualClock, mark: bool) -> None:
    scene = Scene(clock)
    lost, reaper = await scene.peer(scene.other, TTL_US), await scene.peer(scene.other)
    await scene.other.enqueue(scene.make.instances(2))
    claims = await lost.take(2)
    ids = [claim.id for claim in claims]
    for claim in claims:
        await lost.report(claim, started=True)
    await clock.advance(30)
    # one claim was charged, and the next one is to be charged by the mark on the row
    assert len(await scene.other.reap(1, reaper=reaper.incarnation)) == 1
    node = scene.make.node()

    async def join() -> None:
        await scene.store.join(node, ttl_us=LONG_TTL_US, previous=lost.incarnation)

    await scene.fails(KEYS.node + lost.incarnation if mark else KEYS.charged(lost.incarnation), join)
    await join()
    await scene.other.reap(10, reaper=reaper.incarnation)
    records = [record for record in await scene.other.get(ids) if record is not None]
    assert [(record.crashes, record.losses) for record in records] == [(0, 1)] * 2


async def test_a_renewal_that_always_conflicts_does_not_say_that_the_node_is_dead(clock: VirtualClock) -> None:
    scene = Scene(clock)
    peer, liveness = await scene.peer(scene.store), scene.store.liveness()

    async def renew() -> bool:
        renewed = await liveness.renew(peer.incarnation, ttl_us=TTL_US, running=3, count=0, fences_digest=0)
        return renewed.dead

    await scene.fails(KEYS.live, renew)
    assert not await renew()


async def test_a_schedule_whose_parts_change_during_each_read_is_not_absent(clock: VirtualClock) -> None:
    scene = Scene(clock)
    await scene.put(revision=0)
    revisions = itertools.count(1)
    scene.kv.meanwhile = lambda: scene.put(revision=next(revisions))
    await scene.fails("", lambda: scene.store.get_schedules(["s"]))
    scene.kv.meanwhile = None
    (row,) = await scene.store.get_schedules(["s"])
    assert row is not None


async def test_a_schedule_whose_parts_stay_unlike_is_absent(clock: VirtualClock) -> None:
    """They are damaged, so no later read finds others."""
    scene = Scene(clock)
    await scene.put(revision=0)
    (before,) = await scene.kv.get([KEYS.next_fire("s")])
    assert before is not None
    await scene.put(revision=1)
    await scene.kv.txn([Transaction([], [Put(KEYS.next_fire("s"), before.value)])])
    assert await scene.store.get_schedules(["s"]) == [None]


async def test_a_node_whose_claim_always_conflicts_claims_again_soon(clock: VirtualClock) -> None:
    """It is not registered as idle, so no hint would wake it."""
    scene = Scene(clock)
    peer = await scene.peer(scene.store)
    (new,) = scene.make.instances(1)
    await scene.other.enqueue([new])
    for contended in (KEYS.state, KEYS.idle):
        scene.kv.contended = contended
        claimed = await peer.claim()
        assert not claimed.claims
        assert claimed.next_due_us is not None
        assert 0 < claimed.next_due_us - claimed.now_us <= 100_000
        scene.kv.contended = ""
        assert len(await peer.take()) == (contended == KEYS.state)
