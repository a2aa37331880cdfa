"""What engine B does for an instance that comes alone: few requests, and the same answers as with more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from peerjob.model.errors import StoreUnavailableError, UnknownInstanceError
from peerjob.model.query import Filter
from peerjob.model.record import Hint, Record, StoreLimits
from peerjob.model.state import State
from peerjob.node.manager.waiters import Waiters
from peerjob.store.kv.format.base import Applied, Compare, Delete, Entry, Found, Range, Transaction
from peerjob.store.kv.store import KVStore
from peerjob.store.memory.data import MemoryData
from peerjob.store.memory.driver import MemoryKeyValue
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import Factory, Peer, outcome


class Counting(MemoryKeyValue):
    """The memory driver, which counts requests."""

    requests = 0
    before: Callable[[], Awaitable[None]] | None = None
    """Called before the next transaction."""
    before_get: Callable[[], Awaitable[None]] | None = None
    """Called before the next `get`."""
    loses_answer = False
    """Whether the answer to the next request is lost that ends a registration as idle."""

    async def get(self, keys: Sequence[str]) -> list[Entry | None]:
        self.requests += 1
        if self.before_get is not None:
            await self.before_get()
        return await super().get(keys)

    async def read(self, ranges: Sequence[Range]) -> list[Found]:
        self.requests += 1
        return await super().read(ranges)

    async def txn(
        self, transactions: Sequence[Transaction], also: Transaction | None = None, guards: Sequence[Compare] = ()
    ) -> Applied:
        self.requests += 1
        if self.before is not None:
            await self.before()
        applied = await super().txn(transactions, also, guards)
        ops = [op for transaction in transactions for op in transaction.ops]
        if self.loses_answer and any(isinstance(op, Delete) and op.key.startswith("n/idle/") for op in ops):
            raise StoreUnavailableError("memory://", "the answer is lost")
        return applied


class Nodes:
    """Nodes that share the data of one server, each with a store of its own."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.make = Factory(clock)
        self.data = MemoryData()
        self.requests: dict[str, Counting] = {}
        self.stores: dict[str, KVStore] = {}

    async def node(self, name: str, *, idle: bool = True) -> Peer:
        """A node that waits for hints, and has found nothing to claim."""
        kv = self.requests[name] = Counting(self.data, self._clock)
        store = KVStore(kv, url="memory://", namespace="n", clock=self._clock, limits=StoreLimits())
        self.stores[name] = store
        peer = await Peer(store=store, info=self.make.node(name), make=self.make).join()
        assert await store.next_hints(peer.incarnation, 0) == []
        if idle:
            assert await peer.take() == ()
        return peer

    def idle(self) -> list[str]:
        """The incarnations that are registered as idle."""
        return [key.rpartition("/")[2] for key, _ in self.data.range(Range("n/idle/", "n/idle0")).items]

    async def add(self, by: Peer) -> str:
        """Add an instance; returns its id."""
        (one,) = self.make.instances(1)
        await by.store.enqueue([one])
        return one.id


@pytest.fixture
def nodes(clock: VirtualClock) -> Nodes:
    return Nodes(clock)


async def hinted(peer: Peer) -> list[Hint]:
    return await peer.store.next_hints(peer.incarnation, 0)


async def test_a_lone_job_has_few_requests(nodes: Nodes) -> None:
    peer = await nodes.node("own")
    kv, counted = nodes.requests["own"], list[int]()
    want = peer.want(10)

    async def live() -> None:
        added = await nodes.add(peer)
        counted.append(kv.requests)
        assert await hinted(peer) == [Hint("work", "")]
        _, claimed = await peer.store.turn(peer.incarnation, [], want, request=nodes.make.request())
        counted.append(kv.requests)
        assert [claim.id for claim in claimed.claims] == [added]
        await peer.store.watch_final(peer.incarnation, [added])
        ended = [outcome(claim) for claim in claimed.claims]
        _, claimed = await peer.store.turn(peer.incarnation, ended, want, request=nodes.make.request())
        assert claimed.claims == ()
        assert await hinted(peer) == [Hint("final", added)]
        (record,) = await peer.store.get_ended([added])
        counted.append(kv.requests)
        assert record is not None
        assert record.state is State.COMPLETED
        assert [record] == await peer.store.get([added])

    await live()
    await live()
    begin = counted[2] + 1
    assert [count - begin for count in counted[3:]] == [1, 3, 6]


async def ended(nodes: Nodes, peer: Peer, **options: Any) -> str:
    """Add an instance for which a caller of the own store waits, and end it; returns its id."""
    id = await nodes.add(peer)
    (claim,) = await peer.take()
    await peer.store.watch_final(peer.incarnation, [id])
    await peer.end(claim, **options)
    return id


async def test_the_record_of_an_own_end_is_given_once(nodes: Nodes) -> None:
    own, other = await nodes.node("own"), await nodes.node("other", idle=False)
    id = await ended(nodes, own, result=b"result")
    assert await other.store.clear_instances(Filter(), limit=10) == 1
    (record,) = await own.store.get_ended([id])
    assert record is not None
    assert record.result == b"result"
    assert await own.store.get_ended([id]) == [None]


async def test_an_end_without_a_waiting_caller_leaves_no_record(nodes: Nodes) -> None:
    own, other = await nodes.node("own"), await nodes.node("other", idle=False)
    id = await nodes.add(own)
    await own.end(await own.take_one())
    assert await other.store.clear_instances(Filter(), limit=10) == 1
    assert await own.store.get_ended([id]) == [None]


async def test_a_large_result_of_an_own_end_is_read(nodes: Nodes) -> None:
    own = await nodes.node("own")
    large, small = await ended(nodes, own, result=b"x" * 100_000), await ended(nodes, own, result=b"y")
    assert [record and record.result for record in await own.store.get_ended([large, small])] == [b"x" * 100_000, b"y"]


async def test_the_records_of_own_ends_are_bounded(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peerjob.store.kv.write.own_hints._MAX_RECORDS", 2)
    own, other = await nodes.node("own"), await nodes.node("other", idle=False)
    ids = [await ended(nodes, own) for _ in range(3)]
    assert await other.store.clear_instances(Filter(), limit=10) == 3
    assert [record is None for record in await own.store.get_ended(ids)] == [True, False, False]


async def test_the_record_of_an_own_end_is_left_to_no_later_caller(nodes: Nodes) -> None:
    """The first caller went away. Otherwise its record would stay in memory, and be given after the next end."""
    own, other = await nodes.node("own"), await nodes.node("other", idle=False)
    id = await ended(nodes, own)
    assert await own.store.watch_final(own.incarnation, [id]) == await own.store.get([id])
    assert await other.store.clear_instances(Filter(), limit=10) == 1
    assert await own.store.get_ended([id]) == [None]


async def test_a_caller_that_comes_after_the_end_reads_the_server(nodes: Nodes, clock: VirtualClock) -> None:
    """It comes while the record of the end is on its way to an earlier caller."""
    own, other = await nodes.node("own"), await nodes.node("other", idle=False)
    waiters = Waiters(clock, own.store, lambda: own.incarnation)
    kv, callers = nodes.requests["own"], list[asyncio.Task[Record]]()
    ids = [await nodes.add(own) for _ in range(2)]
    small, large = await own.take(2)
    callers += [asyncio.create_task(waiters.final(id)) for id in ids]
    waiters.start()
    try:
        await passes()
        await own.commit(outcome(small), outcome(large, result=b"x" * 100_000))

        async def come_late() -> None:
            kv.before_get = None
            assert await other.store.clear_instances(Filter(), limit=10) == 2
            callers.append(asyncio.create_task(waiters.final(small.id)))
            await asyncio.sleep(0)

        kv.before_get = come_late
        for id in ids:
            waiters.ended(id)
        await passes()
        assert [type(caller.exception()) for caller in callers] == [UnknownInstanceError] * 3
    finally:
        await waiters.stop()


async def passes() -> None:
    """Let the event loop run what is ready."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_an_own_node_is_woken_in_the_step_that_adds(nodes: Nodes) -> None:
    other, own = await nodes.node("other"), await nodes.node("own")
    await nodes.add(own)
    assert nodes.idle() == [other.incarnation]
    assert await hinted(other) == []
    assert await hinted(own) == [Hint("work", "")]


async def test_a_node_that_runs_something_leaves_the_choice_to_the_longest_idle(nodes: Nodes) -> None:
    other, own = await nodes.node("other"), await nodes.node("own")
    await nodes.add(own)
    assert await hinted(own) == [Hint("work", "")]
    (claim,) = await own.take()
    assert await own.take() == ()
    await nodes.add(own)
    assert nodes.idle() == [own.incarnation]
    assert await hinted(other) == [Hint("work", "")]
    assert await hinted(own) == []
    await own.end(claim)
    await nodes.add(own)
    assert await hinted(own) == [Hint("work", "")]


async def test_if_another_store_has_woken_the_own_node_a_further_one_is_woken(nodes: Nodes) -> None:
    own, client, other = await nodes.node("own"), await nodes.node("client", idle=False), await nodes.node("other")
    await nodes.add(client)
    assert nodes.idle() == [other.incarnation]
    await nodes.add(own)
    assert nodes.idle() == []
    assert await hinted(other) == [Hint("work", "")]


@pytest.mark.parametrize("count", [1, 2])
async def test_an_own_node_is_woken_although_the_answer_is_lost(nodes: Nodes, count: int) -> None:
    own = await nodes.node("own")
    nodes.requests["own"].loses_answer = True
    with pytest.raises(StoreUnavailableError):
        await own.store.enqueue(nodes.make.instances(count))
    nodes.requests["own"].loses_answer = False
    assert nodes.idle() == []
    assert await hinted(own) == [Hint("work", "")]
    assert len(await own.take()) == count
    assert await own.take() == ()
    assert nodes.idle() == [own.incarnation]


async def test_a_repeated_instance_wakes_no_own_node(nodes: Nodes) -> None:
    own = await nodes.node("own")
    (one,) = nodes.make.instances(1)
    await own.store.enqueue([one])
    assert await hinted(own) == [Hint("work", "")]
    await own.end(await own.take_one())
    assert await own.take() == ()
    await own.store.enqueue([one])
    assert nodes.idle() == [own.incarnation]
    assert await hinted(own) == []


async def test_a_node_that_was_woken_for_nothing_is_idle_again_at_once(nodes: Nodes) -> None:
    own, other = await nodes.node("own"), await nodes.node("other", idle=False)
    await nodes.add(own)
    assert len(await other.take()) == 1
    before = nodes.requests["own"].requests
    assert await own.take() == ()
    assert nodes.requests["own"].requests - before == 3
    assert nodes.idle() == [own.incarnation]


async def test_stores_that_use_the_same_counters_do_not_meet_again(nodes: Nodes) -> None:
    first, second = await nodes.node("first", idle=False), await nodes.node("second", idle=False)
    for store in nodes.stores.values():
        store._context.counts._free = [0, 1, 2]  # pyright: ignore[reportPrivateUsage]
    for _ in range(4):
        await nodes.add(first)
        await nodes.add(second)
    before = sum(kv.requests for kv in nodes.requests.values())
    await nodes.add(first)
    await nodes.add(second)
    assert sum(kv.requests for kv in nodes.requests.values()) - before == 2


async def test_an_own_node_that_runs_the_kind_no_more_wakes_another(nodes: Nodes) -> None:
    other, own = await nodes.node("other"), await nodes.node("own")
    added = await nodes.add(own)
    assert await hinted(other) == []
    assert (await own.claim(own.want(kinds={"new": 1}))).claims == ()
    assert await hinted(other) == [Hint("work", "")]
    assert [claim.id for claim in await other.take()] == [added]


async def test_a_claim_that_expects_nothing_finds_what_comes_before_the_head(nodes: Nodes) -> None:
    """As an instance of the past that is restored."""
    own, client = await nodes.node("own"), await nodes.node("client", idle=False)
    await nodes.add(own)
    assert len(await own.take()) == 1
    (past,) = nodes.make.instances(1, due_us=1_000)
    await client.store.enqueue([past])
    assert [claim.id for claim in await own.take()] == [past.id]


async def test_an_own_hint_ends_the_wait(nodes: Nodes) -> None:
    own = await nodes.node("own")
    waiting = asyncio.create_task(own.store.next_hints(own.incarnation, 5))
    await asyncio.sleep(0)
    await nodes.add(own)
    await passes()
    assert waiting.done()
    assert await waiting == [Hint("work", "")]


async def test_a_repeated_claim_that_took_all_gives_the_same(nodes: Nodes) -> None:
    own = await nodes.node("own")
    added = await nodes.add(own)
    for _ in range(2):
        claimed = await own.claim(request="a")
        assert [claim.id for claim in claimed.claims] == [added]


async def test_a_claim_that_expects_nothing_finds_what_came_meanwhile(nodes: Nodes, clock: VirtualClock) -> None:
    own, client = await nodes.node("own"), await nodes.node("client", idle=False)
    await nodes.add(own)
    (first,) = await own.take()
    second = await nodes.add(client)
    assert [claim.id for claim in await own.take()] == [second]
    assert nodes.idle() == []
    await own.end(first)
    (delayed,) = nodes.make.instances(1, delay_us=1_000_000)
    await client.store.enqueue([delayed])
    await nodes.add(client)
    assert len(await own.take()) == 1
    await clock.advance(2.0)
    assert [claim.id for claim in await own.take()] == [delayed.id]


async def test_a_claim_that_expects_nothing_knows_when_the_next_instance_is_due(nodes: Nodes) -> None:
    own, client = await nodes.node("own"), await nodes.node("client", idle=False)
    await nodes.add(own)
    assert len(await own.take()) == 1
    (delayed,) = nodes.make.instances(1, delay_us=1_000_000)
    await client.store.enqueue([delayed])
    claimed = await own.claim()
    assert claimed.claims == ()
    assert claimed.next_due_us is not None


async def test_a_claim_that_expects_nothing_learns_that_its_node_is_dead(nodes: Nodes) -> None:
    own, client = await nodes.node("own"), await nodes.node("client", idle=False)
    await nodes.add(own)
    assert len(await own.take()) == 1
    await client.store.leave(own.incarnation)
    assert (await own.claim()).dead


async def test_a_claim_of_a_record_that_another_store_changes(nodes: Nodes) -> None:
    """The own store has the record in memory, and does not read it."""
    own, other = await nodes.node("own"), await nodes.node("other", idle=False)
    added = await nodes.add(own)

    async def take() -> None:
        nodes.requests["own"].before = None
        assert [claim.id for claim in await other.take()] == [added]

    nodes.requests["own"].before = take
    assert await own.take() == ()
    again = await nodes.add(own)
    assert [claim.id for claim in await own.take()] == [again]


async def test_of_two_runs_of_a_claim_that_expects_nothing_one_takes_and_both_give_the_same(nodes: Nodes) -> None:
    own, client = await nodes.node("own"), await nodes.node("client", idle=False)
    await nodes.add(own)
    assert len(await own.take()) == 1
    second = await nodes.add(client)

    async def overtake() -> None:
        nodes.requests["own"].before = None
        assert [claim.id for claim in (await own.claim(request="a")).claims] == [second]
        await nodes.add(client)

    nodes.requests["own"].before = overtake
    assert [claim.id for claim in (await own.claim(request="a")).claims] == [second]
