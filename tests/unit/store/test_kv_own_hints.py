"""No hint is lost where a store tells its own nodes without keys: lost answers, and watches that end meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

import pytest

from peerjob.model.errors import StoreUnavailableError
from peerjob.model.record import Hint, NewInstance, StoreLimits
from peerjob.store.kv.format.base import Applied, Compare, Delete, Transaction
from peerjob.store.kv.store import KVStore
from peerjob.store.kv.write.own_hints import OwnHints
from peerjob.store.memory.data import MemoryData, MemoryWatch
from peerjob.store.memory.driver import MemoryKeyValue
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import Factory, Peer


class Unreliable(MemoryKeyValue):
    """The memory driver, which calls a function before a write, or between a write and its answer."""

    before: Callable[[], object] | None = None
    meanwhile: Callable[[], object] | None = None
    """Called once, at the next write that deletes a hint, or a registration as idle or for the end of an instance."""

    async def txn(
        self, transactions: Sequence[Transaction], also: Transaction | None = None, guards: Sequence[Compare] = ()
    ) -> Applied:
        deleted = [op.key for transaction in transactions for op in transaction.ops if isinstance(op, Delete)]
        hit = any(part in key for key in deleted for part in ("/idle/", "/watch/", "/hint/"))
        before, meanwhile = (self.before, self.meanwhile) if hit else (None, None)
        if before is not None:
            self.before = None
            before()
        applied = await super().txn(transactions, also, guards)
        if meanwhile is not None:
            self.meanwhile = None
            meanwhile()
        return applied


def lose_answer() -> None:
    raise StoreUnavailableError("memory://", "the answer is lost")


def cancel() -> None:
    raise asyncio.CancelledError


class Scene:
    """One server with two stores: `own` has the node and its callers, `other` is that of another node."""

    def __init__(self, clock: VirtualClock) -> None:
        self.make = Factory(clock)
        data = MemoryData()
        self.kv = Unreliable(data, clock)
        self.own, self.other = (
            KVStore(kv, url="memory://", namespace="n", clock=clock, limits=StoreLimits())
            for kv in (self.kv, MemoryKeyValue(data, clock))
        )

    async def node(self, store: KVStore) -> Peer:
        peer = await Peer(store=store, info=self.make.node(), make=self.make).join()
        assert await store.next_hints(peer.incarnation, 0) == []
        return peer

    def new(self) -> NewInstance:
        (one,) = self.make.instances(1)
        return one

    def stop_watch(self, peer: Peer) -> None:
        """End the watch of a node, as a failed `next_hints` does."""
        self.own._stop_watch(peer.incarnation)  # pyright: ignore[reportPrivateUsage]


async def repeated(call: Callable[[], Awaitable[object]]) -> None:
    """Make a call, and once more if the store was unavailable."""
    try:
        await call()
    except StoreUnavailableError:
        await call()


@pytest.fixture
def scene(clock: VirtualClock) -> Scene:
    return Scene(clock)


ENQUEUES = pytest.mark.parametrize("count", [1, 2], ids=["in the same step", "in a further step"])
"""How many instances an enqueue adds: one wakes the own node in the step that adds it."""


@ENQUEUES
async def test_a_lost_answer_to_an_enqueue_leaves_no_node_asleep(scene: Scene, count: int) -> None:
    node = await scene.node(scene.own)
    assert await node.take() == ()
    scene.kv.meanwhile = lose_answer
    new = scene.make.instances(count)
    await repeated(lambda: scene.own.enqueue(new))
    assert scene.kv.meanwhile is None
    assert await scene.own.next_hints(node.incarnation, 0) == [Hint("work", "")]


@ENQUEUES
async def test_a_cancelled_enqueue_leaves_no_node_asleep(scene: Scene, count: int) -> None:
    node = await scene.node(scene.own)
    assert await node.take() == ()
    scene.kv.meanwhile = cancel
    with pytest.raises(asyncio.CancelledError):
        await scene.own.enqueue(scene.make.instances(count))
    assert await scene.own.next_hints(node.incarnation, 0) == [Hint("work", "")]


@ENQUEUES
async def test_a_watch_that_ends_during_an_enqueue_misses_no_wakeup(scene: Scene, count: int) -> None:
    node = await scene.node(scene.own)
    assert await node.take() == ()
    scene.kv.meanwhile = lambda: scene.stop_watch(node)
    await scene.own.enqueue(scene.make.instances(count))
    assert scene.kv.meanwhile is None
    assert await scene.own.next_hints(node.incarnation, 0) == [Hint("work", "")]


@pytest.mark.parametrize("cut_off", [lose_answer, cancel])
async def test_a_commit_that_is_cut_off_tells_those_that_wait(scene: Scene, cut_off: Callable[[], None]) -> None:
    node = await scene.node(scene.own)
    await scene.own.enqueue([scene.new()])
    claim = await node.take_one()
    await scene.own.watch_final(node.incarnation, [claim.id])
    scene.kv.meanwhile = cut_off
    with contextlib.suppress(asyncio.CancelledError):
        await repeated(lambda: node.end(claim))
    assert scene.kv.meanwhile is None
    assert await scene.own.next_hints(node.incarnation, 0) == [Hint("final", claim.id)]


async def test_a_watch_that_ends_during_a_commit_misses_no_end(scene: Scene) -> None:
    node = await scene.node(scene.own)
    await scene.own.enqueue([scene.new()])
    claim = await node.take_one()
    await scene.own.watch_final(node.incarnation, [claim.id])
    scene.kv.meanwhile = lambda: scene.stop_watch(node)
    await node.end(claim)
    assert await scene.own.next_hints(node.incarnation, 0) == [Hint("final", claim.id)]


async def test_what_was_unknown_or_ended_and_is_awaited_again_keeps_its_registration(scene: Scene) -> None:
    waiter, worker = await scene.node(scene.own), await scene.node(scene.other)
    new = scene.make.instances(60)
    ids = [one.id for one in new]
    first, rest = ids[:1], ids[1:]
    assert await scene.own.watch_final(waiter.incarnation, first) == [None]
    await scene.other.enqueue(new[:1])
    await scene.own.watch_final(waiter.incarnation, first)
    assert await scene.own.watch_final(waiter.incarnation, rest) == [None] * 59
    await worker.end(await worker.take_one())
    assert await scene.own.next_hints(waiter.incarnation, 0) == [Hint("final", ids[0])]


async def with_hints_read(scene: Scene, node: Peer) -> None:
    """Let a node read so many hints of another store, one about work among them, that its next call deletes them."""
    worker = await scene.node(scene.other)
    await scene.other.enqueue(scene.make.instances(60))
    claims = await worker.take(60)
    assert len(claims) == 60
    await scene.own.watch_final(node.incarnation, [claim.id for claim in claims])
    assert await node.take() == ()
    await scene.other.enqueue([scene.new()])
    assert await scene.own.next_hints(node.incarnation, 0) == [Hint("work", "")]
    assert len(await node.take()) == 1
    assert await node.take() == ()
    for claim in claims:
        await worker.end(claim)
    assert len(await scene.own.next_hints(node.incarnation, 0)) == 60


async def test_a_hint_that_comes_while_there_is_no_watch_is_read_before_old_ones_are_deleted(scene: Scene) -> None:
    node = await scene.node(scene.own)
    await with_hints_read(scene, node)
    scene.stop_watch(node)
    await scene.other.enqueue([scene.new()])
    assert Hint("work", "") in await scene.own.next_hints(node.incarnation, 0)


@pytest.mark.parametrize("cut_off", [lose_answer, cancel])
async def test_a_deletion_of_old_hints_that_is_cut_off_loses_no_new_one(
    scene: Scene, cut_off: Callable[[], None]
) -> None:
    node = await scene.node(scene.own)
    await with_hints_read(scene, node)
    await scene.other.enqueue([scene.new()])
    scene.kv.meanwhile = cut_off
    with pytest.raises((StoreUnavailableError, asyncio.CancelledError)):
        await scene.own.next_hints(node.incarnation, 0)
    assert await scene.own.next_hints(node.incarnation, 0) == [Hint("work", "")]


async def test_a_failed_wakeup_for_a_kind_that_a_node_runs_no_more_is_repeated(scene: Scene) -> None:
    other, node = await scene.node(scene.other), await scene.node(scene.own)
    assert await other.take() == await node.take() == ()
    await scene.own.enqueue([scene.new()])
    assert await scene.other.next_hints(other.incarnation, 0) == []
    scene.kv.before = lose_answer
    await repeated(lambda: node.claim(node.want(kinds={"new": 1})))
    assert scene.kv.before is None
    assert await scene.other.next_hints(other.incarnation, 0) == [Hint("work", "")]


def test_the_first_of_too_many_registrations_are_forgotten() -> None:
    own = OwnHints()
    own.watches["i"] = MemoryWatch(MemoryData(), ("n/hint/",))
    for number in range(10_000):
        own.waits(str(number), "i")
    assert own.ends(["0", "9999"]) == [("i", "final/0"), ("i", "final/9999")]
    own.waits("next", "i")
    assert own.ends(["0", "9999", "next"]) == [("i", "final/next")]
