"""The number of kinds does not change the cost of the hot path, and deleted kinds leave no keys."""

import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence

import pytest

from peerjob.model.caps import Caps
from peerjob.model.errors import StoreUnavailableError
from peerjob.model.record import StoreLimits, Want
from peerjob.store.kv.format.base import Applied, Compare, Delete, Entry, Found, Range, Transaction
from peerjob.store.kv.format.keys import Keys
from peerjob.store.kv.index import counts
from peerjob.store.kv.kinds.kind_groups import Grouping
from peerjob.store.kv.store import KVStore
from peerjob.store.kv.write.context import KVContext
from peerjob.store.kv.write.guarded import GuardedKeyValue
from peerjob.store.memory.data import MemoryData
from peerjob.store.memory.driver import MemoryKeyValue
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import LONG_TTL_US, Factory, Peer, outcome
from support.counted import assert_counted
from support.etcd_model import EtcdData

Work = Callable[["Bench"], Awaitable[tuple[int, int, int]]]

MANY = 2_000
EACH = 4


class Tally(MemoryKeyValue):
    """The memory driver, which counts requests, operations and entries."""

    requests = 0
    operations = 0
    entries = 0
    fails_at = 0
    """The transaction that does not reach the store, counted from here."""

    async def get(self, keys: Sequence[str]) -> list[Entry | None]:
        found = await super().get(keys)
        self.requests += -(-len(keys) // 128)
        self.operations += len(keys)
        self.entries += len(keys) - found.count(None)
        return found

    async def read(self, ranges: Sequence[Range]) -> list[Found]:
        answers = await super().read(ranges)
        self.requests += -(-len(ranges) // 128)
        self.operations += len(ranges)
        self.entries += sum(len(found.items) for found in answers)
        return answers

    async def txn(
        self, transactions: Sequence[Transaction], also: Transaction | None = None, guards: Sequence[Compare] = ()
    ) -> Applied:
        self.fails_at -= 1
        if self.fails_at == 0:
            raise StoreUnavailableError("memory://", "the process ended here")
        every = [*transactions, also] if also is not None else transactions
        self.requests += 1
        self.operations += sum(
            len(transaction.compares) + len(transaction.ops) + len(transaction.reads) for transaction in every
        )
        return await super().txn(transactions, also, guards)

    def spent(self) -> tuple[int, int, int]:
        """Requests, operations and entries since the last call."""
        spent = self.requests, self.operations, self.entries
        self.requests = self.operations = self.entries = 0
        return spent


class Bench:
    """A namespace with many kinds; a node registers half of them."""

    def __init__(self, clock: VirtualClock, kinds: int) -> None:
        self.data = EtcdData()
        self.clock = clock
        self.make = Factory(clock)
        self.tallies: list[Tally] = []
        self.store = self.another()
        self.kv = self.tallies[0]
        names = [f"kind-{number}" for number in range(kinds)]
        self.own, self.others = names[: kinds // 2], names[kinds // 2 :]
        self.peer = Peer(store=self.store, info=self.make.node(kinds=self.own), make=self.make)

    def another(self) -> KVStore:
        """A further store on the same namespace."""
        self.tallies.append(Tally(self.data, self.clock))
        return KVStore(self.tallies[-1], url="memory://", namespace="n", clock=self.clock, limits=StoreLimits())

    async def enqueue(self, kinds: Sequence[str]) -> None:
        for at in range(0, len(kinds), 500):
            await self.store.enqueue([self.make.instance(kind=kind) for kind in kinds[at : at + 500]])
            await self.clock.advance(0.001)

    async def fill(self, each: int) -> None:
        for _ in range(each):
            await self.enqueue([kind for pair in zip(self.own, self.others, strict=True) for kind in pair])


@contextlib.asynccontextmanager
async def opened(clock: VirtualClock, kinds: int) -> AsyncGenerator[Bench]:
    bench = Bench(clock, kinds)
    await bench.store.open()
    await bench.peer.join()
    await bench.peer.take(1)
    yield bench
    await bench.store.close()


async def one_at_a_time(bench: Bench) -> tuple[int, int, int]:
    """Instances of kinds that were not used for a while are added one by one, and claimed while no other waits."""
    for kind in bench.own[:5]:
        await bench.enqueue([kind])
        await bench.peer.take()
    bench.kv.spent()
    for kind in bench.own[-5:]:
        await bench.enqueue([kind])
        (claim,) = await bench.peer.take()
        await bench.peer.end(claim)
        assert await bench.peer.take() == ()
    return bench.kv.spent()


async def from_long_queues(bench: Bench) -> tuple[int, int, int]:
    """Claims of ten instances while instances of all kinds wait. The node has half of the kinds."""
    await bench.fill(max(EACH, 1_000 // len(bench.own)))
    await bench.peer.take(10)
    bench.kv.spent()
    for _ in range(10):
        claims = await bench.peer.take(10)
        assert len(claims) == 10
        await bench.peer.commit(*map(outcome, claims))
    return bench.kv.spent()


async def idle(bench: Bench) -> tuple[int, int, int]:
    """Claims that find no instance."""
    for _ in range(2):
        await bench.peer.take()
    bench.kv.spent()
    for _ in range(5):
        assert await bench.peer.take() == ()
    return bench.kv.spent()


@pytest.mark.parametrize("kinds", [20, 60, 200])
async def test_the_step_of_an_idle_node_has_no_more_reads_than_etcd_accepts(clock: VirtualClock, kinds: int) -> None:
    """With any number of kinds and priorities, and with delayed instances in every delayed queue."""
    async with opened(clock, kinds) as bench:
        own = bench.own
        await bench.store.enqueue(
            [bench.make.instance(kind=own[number % len(own)], priority=number) for number in range(150)]
        )
        await bench.store.enqueue([bench.make.instance(kind=own[0], delay_us=60_000_000) for _ in range(100)])
        while claims := await bench.peer.take():
            await bench.peer.commit(*map(outcome, claims))
        for _ in range(3):
            assert (await bench.peer.claim()).next_due_us is not None
            await clock.advance(6)


@pytest.mark.parametrize("work", [one_at_a_time, from_long_queues, idle])
async def test_many_kinds_cost_no_more_than_twice_as_much(clock: VirtualClock, work: Work) -> None:
    async with opened(clock, 10) as few, opened(clock, MANY) as many:
        spent = [await work(few), await work(many)]
        # a node with few kinds that took all registers as idle without a read
        factors = (2, 2, 4) if work is one_at_a_time else (2, 2, 2)
        assert [most <= factor * least for least, most, factor in zip(*spent, factors, strict=True)] == [True] * 3, (
            spent
        )
        assert many.data.costs.worst <= 2 * MANY * EACH


class CountedCaps(Caps):
    """Caps that count how many kinds are looked up."""

    looked_up = 0

    def __getitem__(self, kind: str) -> int:
        self.looked_up += 1
        return super().__getitem__(kind)

    def __iter__(self) -> Iterator[str]:
        for kind in super().__iter__():
            self.looked_up += 1
            yield kind


async def test_a_claim_does_not_go_through_all_kinds_of_its_node(clock: VirtualClock) -> None:
    async with opened(clock, MANY) as bench:
        caps = CountedCaps(tuple(bench.own), 10)
        for kinds in (bench.own[:5], []):  # the last claim finds nothing, and registers as idle
            await bench.enqueue(kinds)
            claimed = await bench.peer.claim(Want(kinds=caps, limit=10))
            assert len(claimed.claims) == len(kinds)
            assert caps.looked_up < 100


async def test_the_first_instance_of_a_kind_takes_one_read_and_one_write(clock: VirtualClock) -> None:
    """The read has the head of the queue, the group of the kind and the counter."""
    async with opened(clock, MANY) as bench:
        await bench.enqueue(bench.own[:1])  # wakes the idle node
        for kind in bench.own[-3:]:
            bench.kv.spent()
            await bench.enqueue([kind])
            requests, _, _ = bench.kv.spent()
            assert requests == 2
        assert_counted(bench.data, "n")


async def test_a_claim_seldom_opens_queues_again_whose_first_instances_were_taken(clock: VirtualClock) -> None:
    async with opened(clock, 200) as bench:
        _, _, entries = await from_long_queues(bench)
        # ten instances, each from a queue of its own, of which a claim reads nine entries
        assert entries <= 10 * 10 * 20, entries


@pytest.mark.parametrize("fails_at", range(1, 9))
async def test_kinds_change_groups_also_if_the_node_that_began_fails(clock: VirtualClock, fails_at: int) -> None:
    async with opened(clock, 200) as bench:
        await bench.enqueue(bench.own)
        kinds = [*bench.own[::2], *bench.others]
        first, second = (
            Peer(store=bench.another(), info=bench.make.node(name, kinds), make=bench.make)
            for name in ("first", "second")
        )
        for peer in (first, second):
            await peer.join()
        kv = bench.tallies[-2]
        kv.fails_at = fails_at
        with contextlib.suppress(StoreUnavailableError):
            await first.take(1)
        await bench.enqueue(bench.others)
        kv.fails_at = 0
        got: list[str] = []
        while claims := [*await bench.peer.take(7), *await second.take(7)]:
            got += [claim.kind for claim in claims]
        assert len(got) >= 199
        assert {*bench.own, *bench.others} - {*got} <= {kinds[0]}


async def test_groups_that_no_node_tells_apart_become_one(clock: VirtualClock) -> None:
    async with opened(clock, 10) as bench:
        names = [f"task-{number}" for number in range(120)]
        for size in range(40, 120, 4):
            # each release of a program has more kinds than the one before it
            peer = Peer(store=bench.another(), info=bench.make.node("node", names[:size]), make=bench.make)
            await peer.join()
            await peer.take()
            await peer.store.leave(peer.incarnation)
        groups = [key for key in bench.data.entries if key.startswith("n/groups/")]
        assert len(groups) <= 9


def left_of(bench: Bench) -> set[str]:
    """The tables that have keys of kinds or groups."""
    return {key.split("/")[1] for key in bench.data.entries} & {
        "head",
        "count",
        "group",
        "groups",
        "order",
        "ready",
        "by",
    }


async def test_deleted_kinds_leave_no_keys(clock: VirtualClock) -> None:
    async with opened(clock, 10) as bench:
        other = bench.another()
        kinds = [f"once-{number}" for number in range(300)]
        worker = Peer(store=other, info=bench.make.node("worker", kinds), make=bench.make)
        await worker.join()
        for store in (bench.store, other):
            await store.enqueue([bench.make.instance(kind=kind, retention_us=0) for kind in kinds])
            while claims := await worker.take(100):
                await worker.commit(*map(outcome, claims))
        await other.leave(worker.incarnation)
        await clock.advance(1)
        while await bench.store.expire(500):
            pass
        await bench.store.expire(500)
        assert {key.split("/")[2] for key in bench.data.entries if key.startswith("n/head/")} == {"expiry"}
        assert left_of(bench) == {"head"}

        # both stores have old values in their caches, which must not mislead them
        again = await Peer(store=other, info=bench.make.node("again", kinds), make=bench.make).join()
        for store in (other, bench.store):
            await store.enqueue([bench.make.instance(kind=kind) for kind in kinds])
            assert sorted(claim.kind for claim in await again.take()) == sorted(kinds)
        assert (await bench.store.health()).counts.keys() == set(kinds)


async def test_kinds_stay_that_a_node_has_or_that_wait(clock: VirtualClock) -> None:
    async with opened(clock, 80) as bench:
        waiting = bench.make.instance(kind="waiting")
        await bench.store.enqueue([waiting])
        before = {key for key in bench.data.entries if "group" in key or "waiting" in key}
        await bench.store.expire(500)
        assert {key for key in bench.data.entries if "group" in key or "waiting" in key} == before
        assert len([key for key in before if key.startswith("n/group/")]) == 40


class RacingTally(Tally):
    """Lets another node write between two reads."""

    between: Callable[[], Awaitable[object]] | None = None

    async def get(self, keys: Sequence[str]) -> list[Entry | None]:
        found = await super().get(keys)
        between, self.between = self.between, None
        if between is not None:
            await between()
        return found


async def test_a_kind_that_leaves_its_group_before_the_marker_is_read_is_found(clock: VirtualClock) -> None:
    """The marker already shows the change, so no later read would find the change."""
    data = EtcdData()

    def grouping() -> tuple[RacingTally, Grouping]:
        kv = RacingTally(data, clock)
        guarded = GuardedKeyValue(kv, keys=Keys("n"), url="memory://")
        context = KVContext(guarded, url="memory://", namespace="n", clock=clock, limits=StoreLimits())
        return kv, Grouping(context)

    (kv, node), (_, other) = grouping(), grouping()
    await node.stable(("a", "b"))
    kv.between = lambda: other.stable(("a",))
    groups = await node.stable(("a", "b"))
    assert kv.between is None
    assert groups == await node.stable(("a", "b"))


async def test_nodes_show_their_kinds_however_many_sets_of_kinds_there_are(clock: VirtualClock) -> None:
    make = Factory(clock)
    kinds = {f"node-{number}": tuple(f"{number}-{kind}" for kind in range(20)) for number in range(120)}
    async with opened(clock, 2) as bench:
        for name, its in kinds.items():
            await bench.store.join(make.node(name=name, kinds=its), ttl_us=LONG_TTL_US)
        for store in (bench.store, bench.another()):
            shown = {view.info.name: view.info.kinds for view in await store.nodes() if view.info.name in kinds}
            assert shown == kinds


async def test_requests_for_many_kinds_count_though_counters_are_forgotten(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests in flight use counters that one of them has read and another one clears."""
    monkeypatch.setattr(counts, "_MAX_KNOWN", 3)
    make = Factory(clock)
    async with opened(clock, 2) as bench:
        kinds = [f"kind-{number}" for number in range(40)]
        for at in range(20):
            for start in (0, at, 20):
                await bench.store.enqueue([make.instance(kind=kind) for kind in kinds[start : start + 10]])
        assert_counted(bench.data, "n")


async def test_the_parts_of_kinds_that_a_dead_node_has_stored_leave_no_keys(clock: VirtualClock) -> None:
    """The node died before it wrote the stamp of the parts."""
    data, make = EtcdData(), Factory(clock)
    kv = MemoryKeyValue(data, clock)
    store = KVStore(kv, url="memory://", namespace="n", clock=clock, limits=StoreLimits())
    info = make.node(kinds=[f"kind-{number}" for number in range(20)])
    await store.join(info, ttl_us=LONG_TTL_US)
    stamp, *parts = sorted(key for key in data.entries if key.startswith("n/kinds/"))
    await kv.txn([Transaction([], [Delete(stamp), Delete(f"n/node/{info.incarnation}")])])
    assert parts
    await store.reap(10, reaper=info.incarnation)
    await store.expire(10)
    assert not any(key.startswith("n/kinds/") for key in data.entries)


async def test_a_join_stores_its_kinds_again_if_they_are_removed_meanwhile(clock: VirtualClock) -> None:
    data, make = EtcdData(), Factory(clock)

    class Removing(MemoryKeyValue):
        """Removes the unused kinds once, after the first part was written."""

        removed = False

        async def txn(
            self, transactions: Sequence[Transaction], also: Transaction | None = None, guards: Sequence[Compare] = ()
        ) -> Applied:
            applied = await super().txn(transactions, also, guards)
            parts = [
                op.key
                for transaction in transactions
                for op in transaction.ops
                if "/kinds/" in op.key and op.key.count("/") == 3
            ]
            if parts and not self.removed:
                self.removed = True
                await super().txn([Transaction([], [Delete(key) for key in parts])])
            return applied

    kv = Removing(data, clock)
    store = KVStore(kv, url="memory://", namespace="n", clock=clock, limits=StoreLimits())
    info = make.node(kinds=[f"kind-{number}" for number in range(20)])
    await store.join(info, ttl_us=LONG_TTL_US)
    assert kv.removed
    other = KVStore(MemoryKeyValue(data, clock), url="memory://", namespace="n", clock=clock, limits=StoreLimits())
    assert [len(view.info.kinds) for view in await other.nodes()] == [20]


async def test_a_node_with_many_kinds_joins_in_linear_time(clock: VirtualClock) -> None:
    make = Factory(clock)

    async def join(kinds: int) -> float:
        kv = MemoryKeyValue(MemoryData(), clock)
        store = KVStore(kv, url="memory://", namespace="n", clock=clock, limits=StoreLimits(), retry_for=0)
        info = make.node("node", kinds=[f"kind-{number}" for number in range(kinds)])
        begin = time.thread_time()
        await Peer(store=store, info=info, make=make).join(LONG_TTL_US)
        return time.thread_time() - begin

    pairs = [(await join(1_000), await join(8_000)) for _ in range(7)]
    few, many = (min(times) for times in zip(*pairs, strict=True))
    # a quadratic step takes 20 times as long
    assert many < 14 * few
