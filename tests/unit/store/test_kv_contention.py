"""The engine keeps the contract if other requests come between its requests, as on a server.

The memory driver answers without a pause, so no call comes between two of its calls. Here, other calls do.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, TypeVar

import pytest
from msgspec import structs

from peerjob.model.capabilities import Capabilities
from peerjob.model.errors import StorePermissionError, StoreUnavailableError
from peerjob.model.record import MAX_BATCH, StoreLimits
from peerjob.model.state import State
from peerjob.model.stored_limit import MAX_CONCURRENCY, KindLimits, LimitNumbers, SharedLimit
from peerjob.store.base import Store
from peerjob.store.kv.format.base import MAX_WIDE_TRANSACTIONS, Applied, Compare, Entry, Found, Put, Range, Transaction
from peerjob.store.kv.format.keys import Keys, timed
from peerjob.store.kv.index import counts, queues
from peerjob.store.kv.queue import claim_limits
from peerjob.store.kv.queue.claim_select import MAX_PASSED, Pick, Remaining, Selection, index_of, share_of
from peerjob.store.kv.store import KVStore
from peerjob.store.kv.write import answers, context, hints, kind_sets
from peerjob.store.kv.write.limit_rules import free_numbers
from peerjob.store.memory.data import MemoryData
from peerjob.store.memory.driver import MemoryKeyValue
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import LONG_TTL_US, Factory, Peer, outcome
from peerjob.testing.store_conformance import StoreConformance
from support.etcd_model import EtcdData

pytestmark = pytest.mark.one_python

Result = TypeVar("Result")


class Overtaken(MemoryKeyValue):
    """The memory driver with pauses, so that calls of several stores mix. It enforces the limits of etcd."""

    conflicts = 0
    """Steps that were not applied."""

    def separate(self) -> "Overtaken":
        return Overtaken(self._data, self._clock)

    async def get(self, keys: Sequence[str]) -> list[Entry | None]:
        await self._pause()
        return await super().get(keys)

    async def read(self, ranges: Sequence[Range]) -> list[Found]:
        await self._pause()
        found = await super().read(ranges)
        await self._pause()
        return found

    async def txn(
        self, transactions: Sequence[Transaction], also: Transaction | None = None, guards: Sequence[Compare] = ()
    ) -> Applied:
        await self._pause()
        applied = await super().txn(transactions, also, guards)
        self.conflicts += sum(answer is None for answer in applied.answers)
        await self._pause()
        return applied

    async def _pause(self) -> None:
        for _ in range(self._clock.random.randrange(3)):
            await asyncio.sleep(0)


class TestOvertaken(StoreConformance):
    """Every rule, under contention, on virtual time."""

    conformance_on = "memory-contended"
    renewals_tell = True

    @cached_property
    def clock(self) -> VirtualClock:
        return VirtualClock()

    @cached_property
    def data(self) -> MemoryData:
        return EtcdData()

    def make_store(self, namespace: str, limits: StoreLimits) -> Store:
        kv = Overtaken(self.data, self.clock)
        return KVStore(kv, url="memory://", namespace=namespace, clock=self.clock, limits=limits)

    async def pass_time(self, seconds: float) -> None:
        await self.clock.advance(seconds)

    async def in_time(self, awaitable: Awaitable[Result]) -> Result:
        return await self.clock.run(awaitable)


class TestForgetful(TestOvertaken):
    """The same with tiny caches, so that a request clears what another request has just read."""

    conformance_on = "memory-contended-small-caches"

    @pytest.fixture(autouse=True)
    def _small_caches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in (answers, counts, kind_sets, queues):
            monkeypatch.setattr(module, "_MAX_KNOWN", 1)
        monkeypatch.setattr(context, "_MAX_CACHED", 1)
        monkeypatch.setattr(hints, "_MAX_GROUPED", 1)


class Windowed(Overtaken):
    """A driver on which several nodes keep the order within a window only."""

    @property
    def capabilities(self) -> Capabilities:
        return structs.replace(super().capabilities, order="windowed")


async def conflicts(clock: VirtualClock, driver: type[Overtaken]) -> int:
    """The number of transactions that fail while four nodes claim all instances."""
    make = Factory(clock)
    kv = driver(EtcdData(), clock)

    async def join() -> Peer:
        store = KVStore(kv, url="memory://", namespace="n", clock=clock, limits=StoreLimits())
        return await Peer(store=store, info=make.node(), make=make).join()

    async def drain(peer: Peer) -> list[str]:
        taken: list[str] = []
        while claims := await peer.take(20):
            taken += [claim.id for claim in claims]
        return taken

    peers = [await join() for _ in range(4)]
    batch = make.instances(400)
    await peers[0].store.enqueue(batch)
    shares = await asyncio.gather(*map(drain, peers))
    assert sorted(id for share in shares for id in share) == [new.id for new in batch]
    return kv.conflicts


async def test_a_window_keeps_nodes_out_of_each_others_way(clock: VirtualClock) -> None:
    assert await conflicts(clock, Windowed) * 2 < await conflicts(clock, Overtaken)


async def limited_conflicts(clock: VirtualClock, limits: KindLimits) -> float:
    """How many transactions fail for each instance while four nodes run what one limit lets go."""
    make = Factory(clock)
    kv = Windowed(EtcdData(), clock)

    async def join() -> Peer:
        store = KVStore(kv, url="memory://", namespace="n", clock=clock, limits=StoreLimits())
        return await Peer(store=store, info=make.node(), make=make).join()

    async def work(peer: Peer) -> int:
        done, claims = 0, await peer.take(10)
        while claims or done == 0:
            outcomes = [outcome(claim) for claim in claims]
            done += len(claims)
            _, claimed = await peer.store.turn(peer.incarnation, outcomes, peer.want(10), request=make.request())
            claims = claimed.claims
        return done

    peers = [await join() for _ in range(4)]
    await peers[0].store.publish_limits([limits])
    # the last instances are few, and several nodes want them: of many instances, these conflicts are a small part
    for _ in range(16):
        await peers[0].store.enqueue(make.instances(100))
        await clock.advance(0.1)
    conflicts = kv.conflicts
    assert sum(await asyncio.gather(*map(work, peers))) == 1_600
    return (kv.conflicts - conflicts) / 1_600


async def test_a_claim_that_reads_two_places_of_an_instance_takes_it_once(clock: VirtualClock) -> None:
    """It comes back from another node, behind the place that the claim has read, before the claim reads on."""
    make, kv = Factory(clock), MemoryKeyValue(EtcdData(), clock)
    store = KVStore(kv, url="memory://", namespace="n", clock=clock, limits=StoreLimits())
    peer = await Peer(store=store, info=make.node(), make=make).join()
    await store.publish_limits([KindLimits(kind="work", key_concurrency=1)])
    new = make.instance(limit_key="a", key_concurrency=1)
    await store.enqueue([new])
    queue, later_us = Keys("n").ready("work", new.priority, suspect=False), clock.time_us() + 1
    await kv.txn([Transaction([], [Put(queue + timed(later_us, new.id), b"")])])
    await clock.advance(1)
    assert [claim.id for claim in await peer.take()] == [new.id]
    await store.close()


async def test_nodes_choose_different_permits_of_a_shared_limit(clock: VirtualClock) -> None:
    shared = SharedLimit(name="shared", numbers=LimitNumbers(concurrency=40))
    assert await limited_conflicts(clock, KindLimits(kind="work", shared=(shared,))) < 0.07


async def test_a_small_claim_reads_the_records_of_its_share_with_the_queues(clock: VirtualClock) -> None:
    class Counted(Windowed):
        records = 0

        async def get(self, keys: Sequence[str]) -> list[Entry | None]:
            self.records += sum(key.startswith(Keys("n").state) for key in keys)
            return await super().get(keys)

    kv, make = Counted(EtcdData(), clock), Factory(clock)
    store = KVStore(kv, url="memory://", namespace="n", clock=clock, limits=StoreLimits())
    peers = [await Peer(store=store, info=make.node(), make=make).join() for _ in range(2)]
    await store.enqueue(make.instances(100))
    assert [len(await peer.take(5)) for peer in peers] == [5, 5]
    before = kv.records
    for _ in range(5):
        assert [len(await peer.take(5)) for peer in peers] == [5, 5]
    assert kv.records == before
    await store.close()


def test_a_node_begins_with_its_share_of_the_permits_and_goes_on_anywhere() -> None:
    for start in range(10):
        first, second, *others = free_numbers({1}, 10, start, 1, 4)
        assert {first, second} == {5, 9}
        assert sorted(others) == [0, 2, 3, 4, 6, 7, 8]
    # of 20 nodes, 10 have no share
    assert {next(free_numbers((), 10, start, 15, 20)) for start in range(10)} == {*range(10)}


async def test_of_a_limit_of_a_million_a_claim_looks_at_no_more_numbers_than_it_can_take(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    kv, make, looked = Windowed(MemoryData(), clock), Factory(clock), 0

    def counted(*given: Any) -> Iterator[int]:
        nonlocal looked
        for number in free_numbers(*given):
            looked += 1
            yield number

    monkeypatch.setattr(claim_limits, "free_numbers", counted)
    store = KVStore(kv, url="memory://", namespace="n", clock=clock, limits=StoreLimits())
    peer, _ = [await Peer(store=store, info=make.node(), make=make).join() for _ in range(2)]
    shared = SharedLimit(name="shared", numbers=LimitNumbers(concurrency=MAX_CONCURRENCY))
    await store.publish_limits([KindLimits(kind="work", shared=(shared,))])
    await store.enqueue(make.instances(10))
    store._context.limit_rules.wrote([0])  # pyright: ignore[reportPrivateUsage]  # as after a conflict
    assert len(await peer.take(10)) == 10
    assert looked < 2 * MAX_BATCH


async def test_the_window_of_a_claim_is_no_larger_than_its_limit_allows(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    kv, make, windows, pick = Windowed(MemoryData(), clock), Factory(clock), list[int](), Selection.pick

    async def counted(self: Selection, limit: int, remaining: Remaining) -> None:
        windows.append(limit)
        await pick(self, limit, remaining)

    monkeypatch.setattr(Selection, "pick", counted)
    store = KVStore(kv, url="memory://", namespace="n", clock=clock, limits=StoreLimits())
    peer, _ = [await Peer(store=store, info=make.node(), make=make).join() for _ in range(2)]
    shared = SharedLimit(name="shared", numbers=LimitNumbers(concurrency=5))
    await store.publish_limits([KindLimits(kind="work", shared=(shared,))])
    await store.enqueue(make.instances(200))
    assert len(await peer.take(50)) == 5
    assert windows == [5 * 4], "four times as many as it may take"


async def test_a_single_node_keeps_strict_order_in_a_window(clock: VirtualClock) -> None:
    kv, make = Windowed(MemoryData(), clock), Factory(clock)
    store = KVStore(kv, url="memory://", namespace="n", clock=clock, limits=StoreLimits())
    peer = await Peer(store=store, info=make.node(), make=make).join()
    batch = make.instances(50)
    await store.enqueue(batch)
    assert [claim.id for claim in await peer.take(20)] == [new.id for new in batch[:20]]


async def test_only_nodes_that_claim_make_the_window_wider(clock: VirtualClock) -> None:
    kv, make = Windowed(MemoryData(), clock), Factory(clock)
    store = KVStore(kv, url="memory://", namespace="n", clock=clock, limits=StoreLimits())
    peer = await Peer(store=store, info=make.node(), make=make).join()
    other = await Peer(store=store, info=make.node(kinds=()), make=make).join()
    await other.renew()
    batch = make.instances(200)
    await store.enqueue(batch)
    assert [claim.id for claim in await peer.take(20)] == [new.id for new in batch[:20]]
    await store.join(structs.replace(other.info, kinds=("work",)), ttl_us=LONG_TTL_US)
    assert [claim.id for claim in await peer.take(20)] != [new.id for new in batch[20:40]]


async def test_an_instance_is_passed_over_a_few_times_while_the_node_of_its_part_is_busy(clock: VirtualClock) -> None:
    kv, make = Windowed(MemoryData(), clock), Factory(clock)
    store = KVStore(kv, url="memory://", namespace="n", clock=clock, limits=StoreLimits())
    peer = await Peer(store=store, info=make.node(), make=make).join()
    await Peer(store=store, info=make.node(), make=make).join()  # it claims nothing
    batch = make.instances(400)
    await store.enqueue(batch)
    claims = [[claim.id for claim in await peer.take(5)] for _ in range(80)]
    for number, taken in enumerate(claims):
        assert all(sum(max(before) > id for before in claims[:number]) <= MAX_PASSED for id in taken)


async def test_a_share_of_permits_lets_no_more_of_less_urgent_instances_go_first(clock: VirtualClock) -> None:
    """Four other nodes are busy, and the permits of their shares stay free."""
    kv, make = Windowed(MemoryData(), clock), Factory(clock)
    store = KVStore(kv, url="memory://", namespace="n", clock=clock, limits=StoreLimits())
    kinds = ("urgent", "rest")
    peer, *_ = [await Peer(store=store, info=make.node(kinds=kinds), make=make).join() for _ in range(5)]
    shared = SharedLimit(name="shared", numbers=LimitNumbers(concurrency=10))
    await store.publish_limits([KindLimits(kind="urgent", shared=(shared,))])
    await store.enqueue([make.instance(kind="urgent", priority=0) for _ in range(60)])
    await store.enqueue([make.instance(kind="rest", priority=9) for _ in range(400)])
    claims, less_urgent = await peer.take(8), list[bool]()
    while any(claim.kind == "urgent" for claim in claims):
        # the last urgent ones have waited since the first claim
        less_urgent.append(any(claim.kind == "rest" for claim in claims))
        store._context.limit_rules.wrote([0])  # pyright: ignore[reportPrivateUsage]  # as after a conflict
        outcomes = [outcome(claim) for claim in claims]
        _, claimed = await store.turn(peer.incarnation, outcomes, peer.want(8), request=make.request())
        claims = claimed.claims
    assert await store.due(["urgent"]) == {}
    assert sum(less_urgent[:-1]) <= MAX_PASSED


async def test_claims_of_other_kinds_do_not_count_an_instance_anew(clock: VirtualClock) -> None:
    """The node of its part claims nothing, and each second claim of this node takes another kind."""
    kv, make = Windowed(MemoryData(), clock), Factory(clock)
    store = KVStore(kv, url="memory://", namespace="n", clock=clock, limits=StoreLimits())
    peer = await Peer(store=store, info=make.node(kinds=("work", "rest")), make=make).join()
    await Peer(store=store, info=make.node(kinds=("work", "rest")), make=make).join()
    await store.enqueue([make.instance(kind=kind) for _ in range(100) for kind in ("work", "rest")])
    claims: list[list[str]] = []
    for _ in range(20):
        claims.append([claim.id for claim in (await peer.claim(peer.want(5, {"work": 5, "rest": 0}))).claims])
        assert (await peer.claim(peer.want(5, {"work": 0, "rest": 5}))).claims
    for number, taken in enumerate(claims):
        assert all(sum(max(before) > id for before in claims[:number]) <= MAX_PASSED for id in taken)


def test_an_instance_stays_in_the_share_until_it_is_claimed(clock: VirtualClock) -> None:
    """A claim of a share can fail, and then the same instances are there again."""
    make, passed_over = Factory(clock), dict[str, int]()
    picks = [Pick(0, f"{number:019}{make.instance().id}", "work", "q/", False, 1) for number in range(40)]
    seen = Counter[str]()
    for _ in range(30):
        share, left = share_of(picks, 10, Remaining({"work": 40}, {}, 1), "a", ["a", "b"], passed_over)
        seen.update(pick.id for pick in left if pick.position < share[-1].position)
    assert 0 < max(seen.values()) <= MAX_PASSED


def test_one_node_is_the_first_to_take_what_a_busy_node_leaves(clock: VirtualClock) -> None:
    """If all nodes took it after the same number of claims, all but one of them would conflict."""
    make, nodes = Factory(clock), ["a", "b", "c", "d", "e"]
    parts: list[list[str]] = [[] for _ in nodes]
    while any(len(ids) < 12 for ids in parts):
        id = make.id()
        parts[index_of(id) % len(nodes)].append(id)
    ids = sorted(id for part in parts for id in part[:12])
    picks = [Pick(0, f"{number:019}{id}", "work", "q/", False, 1) for number, id in enumerate(ids)]
    passed_over: dict[str, dict[str, int]] = {node: {} for node in nodes[1:]}
    taken: dict[str, set[str]] = {node: set() for node in passed_over}
    while not any(taken.values()):
        for node, passed in passed_over.items():
            share, _ = share_of(picks, 8, Remaining({"work": 40}, {}, 1), node, nodes, passed)
            taken[node] = {pick.id for pick in share} & {*parts[0]}
    assert len([node for node, ids in taken.items() if ids]) == 1


def test_nodes_have_equal_shares_of_what_one_process_has_made(clock: VirtualClock) -> None:
    """With unequal shares, a node with a small one gets ahead, and takes what it has passed over from the others."""
    nodes = ["a", "b", "c", "d", "e", "f"]
    picks = [
        Pick(0, f"{at:019}{new.id}", "work", "q/", False, 1) for at, new in enumerate(Factory(clock).instances(60))
    ]
    shares = [share_of(picks, 10, Remaining({"work": 60}, {}, 1), node, nodes, {})[0] for node in nodes]
    assert {pick.id for share in shares for pick in share} == {pick.id for pick in picks}


def test_a_share_has_no_more_of_a_kind_than_its_node_has_room_for(clock: VirtualClock) -> None:
    make = Factory(clock)
    kinds = ["work", "rest"] * 20
    picks = [Pick(0, f"{at:019}{make.instance().id}", kind, "q/", False, 1) for at, kind in enumerate(kinds)]
    share, left = share_of(picks, 30, Remaining({"work": 3, "rest": 5}, {"rest": 1}, 1), "a", ["a"], {})
    assert Counter(pick.kind for pick in share) == {"work": 3, "rest": 4}
    assert len(share) + len(left) == len(picks)


async def test_no_claim_takes_an_instance_twice_when_queues_move_while_they_are_read(clock: VirtualClock) -> None:
    """The heads of many kinds are in an index, which is read further while other nodes claim."""
    kv, make = Overtaken(MemoryData(), clock), Factory(clock)
    kinds = [f"kind-{number}" for number in range(100)]
    taken: list[str] = []

    async def join() -> Peer:
        store = KVStore(kv, url="memory://", namespace="n", clock=clock, limits=StoreLimits())
        return await Peer(store=store, info=make.node(kinds=kinds), make=make).join()

    async def work(peer: Peer) -> None:
        for _ in range(20):
            claims = await peer.take(5)
            taken.extend(claim.id for claim in claims)
            await peer.commit(*map(outcome, claims))
            await peer.store.enqueue([make.instance(kind=clock.random.choice(kinds)) for _ in range(4)])

    peers = [await join() for _ in range(4)]
    for _ in range(2):
        await peers[0].store.enqueue([make.instance(kind=kind) for kind in kinds])
        await clock.advance(0.001)
        await asyncio.gather(*map(work, peers))
    assert len(set(taken)) == len(taken) > 400


class Interrupted(MemoryKeyValue):
    """The memory driver, which awaits other calls before its next transaction."""

    others: Callable[[], Awaitable[None]] | None = None

    async def txn(
        self, transactions: Sequence[Transaction], also: Transaction | None = None, guards: Sequence[Compare] = ()
    ) -> Applied:
        others, self.others = self.others, None
        if others is not None:
            await others()
        return await super().txn(transactions, also, guards)


async def test_a_claim_that_repeats_charges_a_rate_once(clock: VirtualClock) -> None:
    """Another node takes the instances of a claim after the claim has charged them."""
    data, make = EtcdData(), Factory(clock)

    async def join(kv: MemoryKeyValue) -> Peer:
        store = KVStore(kv, url="memory://", namespace="n", clock=clock, limits=StoreLimits())
        return await Peer(store=store, info=make.node(), make=make).join()

    kv = Interrupted(data, clock)
    peer, other = await join(kv), await join(MemoryKeyValue(data, clock))
    shared = SharedLimit(name="shared", numbers=LimitNumbers(period_us=10_000, burst=10))
    await peer.store.publish_limits([KindLimits(kind="work", shared=(shared,))])
    await other.store.enqueue(make.instances(20))
    assert await peer.take(0) == ()
    taken: list[str] = []

    async def charge() -> None:
        kv.others = take

    async def take() -> None:
        taken.extend(claim.id for claim in await other.take(5))

    kv.others = charge
    claims = await peer.take(5)
    assert len({*taken, *(claim.id for claim in claims)}) == 10
    assert await other.take() == ()
    await clock.advance(0.05)
    assert len(await other.take()) == 5


async def test_no_claim_takes_an_instance_twice_when_its_queues_become_too_many_meanwhile(clock: VirtualClock) -> None:
    """A repeated claim may read the indexes of its kinds, after an earlier round has read their queues one by one."""
    data, make, kinds = EtcdData(), Factory(clock), ["a", "b", "c"]

    async def join(kv: MemoryKeyValue) -> Peer:
        store = KVStore(kv, url="memory://", namespace="n", clock=clock, limits=StoreLimits())
        return await Peer(store=store, info=make.node(kinds=kinds), make=make).join()

    kv = Interrupted(data, clock)
    peer, other = await join(kv), await join(MemoryKeyValue(data, clock))
    await other.store.enqueue([make.instance(kind=kind) for kind in kinds for _ in range(10)])

    async def work() -> None:
        await other.take(15)
        await other.store.enqueue([make.instance(kind="a", priority=100 + number) for number in range(80)])

    kv.others = work
    claims = await peer.take(20)
    assert kv.others is None
    assert len({claim.id for claim in claims}) == len(claims) == 20
    totals = Counter[State]()
    for states in (await other.store.health()).counts.values():
        totals.update(states)
    assert totals == {State.SCHEDULED: 75, State.PROCESSING: 35}


async def test_a_claim_takes_an_instance_once_if_another_queue_still_has_an_entry_of_it(clock: VirtualClock) -> None:
    """A claim reads its queues one after another, so an instance that moves meanwhile can be found in two of them."""
    data, make, keys = EtcdData(), Factory(clock), Keys("n")
    kv = MemoryKeyValue(data, clock)
    store = KVStore(kv, url="memory://", namespace="n", clock=clock, limits=StoreLimits())
    peer = await Peer(store=store, info=make.node(), make=make).join()
    other, moved = make.instance(priority=6), make.instance(priority=5)
    await store.enqueue([other, moved])
    old, new = (keys.ready("work", priority, suspect=False) for priority in (6, 5))
    (entry,) = (key for key in data.entries if key.startswith(new))
    await kv.txn([Transaction([], [Put(old + entry.removeprefix(new), b"")])])

    claims = await peer.take(3)

    assert [claim.id for claim in claims] == [moved.id, other.id]
    assert [key for key in data.entries if key.startswith((old, new))] == []


class Forbidden(MemoryKeyValue):
    """The memory driver, which refuses its transactions after some."""

    allowed = 0

    async def txn(
        self, transactions: Sequence[Transaction], also: Transaction | None = None, guards: Sequence[Compare] = ()
    ) -> Applied:
        if self.allowed == 0:
            raise StorePermissionError("the role lost a right")
        self.allowed -= 1
        return await super().txn(transactions, also, guards)


@pytest.mark.parametrize(("allowed", "is_unsure"), [(0, False), (2, True)])
async def test_an_enqueue_that_is_refused_half_way_tells_so(
    clock: VirtualClock, allowed: int, *, is_unsure: bool
) -> None:
    """The relay of an outbox gives rows back only if the store has none of them."""
    make, kv = Factory(clock), Forbidden(EtcdData(), clock)
    store = KVStore(kv, url="memory://", namespace="n", clock=clock, limits=StoreLimits())
    kv.allowed = 100
    await store.open()
    kv.allowed = allowed
    with pytest.raises(StorePermissionError) as refused:
        await store.enqueue(make.instances(2 * MAX_WIDE_TRANSACTIONS))
    assert refused.value.is_unsure == is_unsure


class Unanswered(MemoryKeyValue):
    """The memory driver, which loses the answer to the next registration of an idle node."""

    loses = False

    async def txn(
        self, transactions: Sequence[Transaction], also: Transaction | None = None, guards: Sequence[Compare] = ()
    ) -> Applied:
        applied = await super().txn(transactions, also, guards)
        if self.loses and any(op.key.startswith("n/idle/") for one in transactions for op in one.ops):
            self.loses = False
            raise StoreUnavailableError("memory://", "the answer was lost")
        return applied


async def test_a_repeated_claim_looks_again_if_the_first_run_found_nothing(clock: VirtualClock) -> None:
    """The registration as idle finds that an instance has come, but its answer is lost."""
    data, make = MemoryData(), Factory(clock)
    kv = Unanswered(data, clock)
    store, other = (
        KVStore(one, url="memory://", namespace="n", clock=clock, limits=StoreLimits(), retry_for=0)
        for one in (kv, MemoryKeyValue(data, clock))
    )
    peer = await Peer(store=store, info=make.node(), make=make).join()
    first, new, request = make.instance(), make.instance(), make.request()
    await store.enqueue([first])
    await peer.take()  # so its store expects that nothing is left
    await other.enqueue([new])
    kv.loses = True
    with pytest.raises(StoreUnavailableError):
        await peer.claim(request=request)
    assert [claim.id for claim in (await peer.claim(request=request)).claims] == [new.id]
    assert await kv.get([f"n/idle/{peer.incarnation}"]) == [None], "the node is not idle"
