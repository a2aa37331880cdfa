"""The cost of a hot path depends only on what it uses: etcd charges every key in a range that is read."""

import sys
from collections.abc import AsyncIterator, Sequence
from types import FrameType

import pytest

from peerjob.model.clock import to_datetime
from peerjob.model.query import Query
from peerjob.model.record import Ack, Action, Claim, StoreLimits
from peerjob.model.run_now import RunNow
from peerjob.model.stored_limit import KindLimits, LimitNumbers, SharedLimit
from peerjob.store.kv.format.base import MAX_REQUEST_BYTES, Delete, Entry, Found, Put, Range, Transaction
from peerjob.store.kv.queue import claim, claim_heads
from peerjob.store.kv.store import KVStore
from peerjob.store.memory.driver import MemoryKeyValue
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import Factory, Peer, outcome
from support.etcd_model import EtcdData, RequestRefusedError

pytestmark = pytest.mark.one_python

QUEUED = 10_000
BATCH = 100
BEARABLE = 1_500
"""Keys and tombstones that one read may count; each of these tests stores far more."""


class Counted(MemoryKeyValue):
    """The memory driver, which counts requests that read ranges."""

    requests = 0
    counters = 0
    """How many counters of instances were read one by one."""
    value_bytes = 0
    """Bytes of the values that were read."""

    async def read(self, ranges: Sequence[Range]) -> list[Found]:
        self.requests += 1
        answers = await super().read(ranges)
        for wanted, found in zip(ranges, answers, strict=True):
            if not wanted.keys_only:
                self.value_bytes += sum(len(entry.value) for _, entry in found.items)
        return answers

    async def get(self, keys: Sequence[str]) -> list[Entry | None]:
        entries = await super().get(keys)
        self.counters += sum(key.startswith("n/count/") for key in keys)
        self.value_bytes += sum(len(entry.value) for entry in entries if entry is not None)
        return entries


class Bench:
    """A store whose reads are counted, and a node on it."""

    def __init__(self, clock: VirtualClock, limits: StoreLimits) -> None:
        self.data = EtcdData()
        self.costs = self.data.costs
        self.kv = Counted(self.data, clock)
        self.store = KVStore(self.kv, url="memory://", namespace="n", clock=clock, limits=limits)
        self.make = Factory(clock)
        self.clock = clock
        self.began_us = clock.time_us()
        self.peer = Peer(store=self.store, info=self.make.node(), make=self.make)

    async def fill(self, count: int, *, delay_us: int | None = None, priorities: int = 1) -> None:
        for _ in range(count // BATCH):
            await self.store.enqueue(
                [self.make.instance(delay_us=delay_us, priority=number % priorities) for number in range(BATCH)]
            )
            await self.clock.advance(0.005)

    async def make_more(self, count: int) -> list[str]:
        batch = self.make.instances(count)
        await self.store.enqueue(batch)
        return [new.id for new in batch]

    async def work(self, rounds: int, action: Action = Action.COMPLETE) -> int:
        done = 0
        for _ in range(rounds):
            claims = await self.peer.take(BATCH)
            await self.peer.commit(*(outcome(claim, action) for claim in claims))
            await self.clock.advance(0.001)
            done += len(claims)
        return done

    def assert_cheap(self, worst: int = BEARABLE) -> None:
        assert self.costs.worst <= worst, self.costs.worst_range


@pytest.fixture
async def bench(clock: VirtualClock) -> AsyncIterator[Bench]:
    bench = Bench(clock, StoreLimits())
    await bench.store.open()
    await bench.peer.join()
    yield bench
    await bench.store.close()


async def test_the_model_charges_keys_tombstones_and_no_limit(bench: Bench) -> None:
    await bench.kv.txn([Transaction([], [Put(f"n/a/{number:03d}", b"") for number in range(100)])])
    await bench.kv.txn([Transaction([], [Delete("n/a/000", "n/a/050")])])
    await bench.kv.read([Range("n/a/", "n/a0", limit=1)])
    assert bench.costs.worst == 100
    bench.data.compact()
    bench.costs.worst = 0
    await bench.kv.read([Range("n/a/", "n/a0", limit=1)])
    assert bench.costs.worst == 50


async def test_claiming_and_committing_from_a_long_queue(bench: Bench) -> None:
    await bench.fill(QUEUED)
    assert await bench.work(20) == 20 * BATCH
    bench.assert_cheap()


async def test_a_queue_of_one_instant_is_read_in_pieces(bench: Bench) -> None:
    due_us = bench.clock.time_us()
    for _ in range(QUEUED // BATCH):
        await bench.store.enqueue([bench.make.instance(due_us=due_us) for _ in range(BATCH)])
        await bench.clock.advance(0.001)
    await bench.work(5)
    bench.costs.worst = 0
    await bench.work(10)
    # the window after an empty one gets at most 8 times the wanted entries, which are two batches
    bench.assert_cheap(8 * 2 * BATCH)


async def test_many_priorities(bench: Bench) -> None:
    await bench.fill(QUEUED, priorities=20)
    await bench.work(20)
    bench.assert_cheap()


async def test_a_claim_does_not_search_all_priorities_for_each_instance(bench: Bench) -> None:
    """Each instance has a priority of its own."""
    priorities = 2_000
    for first in range(0, priorities, BATCH):
        await bench.store.enqueue([bench.make.instance(priority=first + number) for number in range(BATCH)])
    calls = 0

    def called(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    counts: list[int] = []
    for size in (BATCH // 10, BATCH):
        calls = 0
        sys.setprofile(called)
        try:
            claims = await bench.peer.take(size)
        finally:
            sys.setprofile(None)
        assert len(claims) == size
        counts.append(calls)
    few, many = counts
    assert many - few < BATCH * priorities / 10, counts


async def test_one_of_many_delayed_instances_becomes_due_without_a_search(bench: Bench) -> None:
    await bench.fill(QUEUED, delay_us=3_600_000_000)
    batch = bench.make.instances(3, delay_us=7_200_000_000)
    ids = [new.id for new in batch]
    await bench.store.enqueue(batch)
    bench.costs.worst = 0
    for id in ids:
        assert await bench.store.run_now([id], request=id) == [RunNow.DUE_NOW]
    bench.assert_cheap(20)
    assert len(await bench.peer.take(BATCH)) == 3


async def test_a_drained_queue_stays_cheap_before_it_is_compacted(bench: Bench) -> None:
    for _ in range(5):
        await bench.fill(QUEUED // 10)
        await bench.work(11)
    bench.costs.worst = 0
    for _ in range(20):
        await bench.store.enqueue(bench.make.instances(1))
        assert await bench.work(2) == 1
        await bench.clock.advance(1)
    bench.assert_cheap()


async def test_enqueuing_depends_on_nothing(bench: Bench) -> None:
    await bench.fill(QUEUED)
    bench.costs.worst = 0
    await bench.fill(BATCH)
    bench.assert_cheap(100)


async def test_a_far_future_costs_the_present_nothing(bench: Bench) -> None:
    await bench.fill(QUEUED, delay_us=86_400_000_000)
    bench.costs.worst = 0
    await bench.fill(BATCH)
    await bench.work(3)
    bench.assert_cheap()


async def test_due_instances_are_moved_in_pieces(bench: Bench) -> None:
    await bench.fill(QUEUED, delay_us=60_000_000)
    await bench.clock.advance(61)
    claims = await bench.peer.take(BATCH)
    assert len(claims) == BATCH
    assert (await bench.store.health()).delayed == QUEUED - 500
    bench.assert_cheap(3_000)


async def test_the_removal_of_expired_instances_costs_as_much_as_it_removes(clock: VirtualClock) -> None:
    bench = Bench(clock, StoreLimits(retention_us=60_000_000))
    await bench.store.open()
    await bench.peer.join()
    await bench.fill(QUEUED // 2)
    await bench.work(QUEUED // 2 // BATCH)
    await clock.advance(61)
    bench.costs.worst = 0
    for _ in range(10):
        await bench.fill(BATCH)
        await bench.work(1)
    assert (await bench.store.health()).counts["work"].values()
    bench.assert_cheap()


async def test_the_limit_on_final_instances_costs_as_much_as_it_removes(clock: VirtualClock) -> None:
    bench = Bench(clock, StoreLimits(max_final_per_kind=QUEUED // 4))
    await bench.store.open()
    await bench.peer.join()
    await bench.fill(QUEUED // 2)
    bench.costs.worst = 0
    await bench.work(QUEUED // 2 // BATCH)
    (finals,) = (await bench.store.health()).counts["work"].values()
    assert finals == QUEUED // 4
    bench.assert_cheap()


async def test_handing_back_keeps_the_place_without_a_scan(bench: Bench) -> None:
    await bench.fill(QUEUED)
    await bench.work(5)
    first = await bench.peer.take(BATCH)
    second = await bench.peer.take(BATCH)
    bench.costs.worst = 0
    for claims in (second, first):
        await bench.peer.commit(*(outcome(claim, Action.HAND_BACK) for claim in claims))
    again = await bench.peer.take(2 * BATCH)
    assert ids_of(again) == ids_of(first) + ids_of(second)
    bench.assert_cheap()


async def test_a_call_makes_few_reads(bench: Bench) -> None:
    await bench.fill(QUEUED)
    await bench.work(3)
    before = bench.costs.reads
    claims = await bench.peer.take(BATCH)
    taken = bench.costs.reads - before
    await bench.peer.commit(*map(outcome, claims))
    committed = bench.costs.reads - before - taken
    assert taken < 2 * BATCH + 100
    assert committed < BATCH + 100


async def test_gaps_between_batches_are_passed_in_few_reads(bench: Bench) -> None:
    for _ in range(20):
        await bench.store.enqueue(bench.make.instances(300))
        await bench.clock.advance(0.02)
    before = bench.kv.requests
    for _ in range(40):
        assert len(await bench.peer.take(BATCH)) == BATCH
    assert bench.kv.requests - before < 40 * 5
    bench.assert_cheap()


async def test_a_head_that_lags_costs_no_second_read(bench: Bench) -> None:
    """A claim moves the head after 200 claims only."""
    for _ in range(40):
        await bench.store.enqueue(bench.make.instances(40))
        await bench.clock.advance(0.02)
    requests: list[int] = []
    for _ in range(60):
        before = bench.kv.requests
        assert len(await bench.peer.take(8)) == 8
        requests.append(bench.kv.requests - before)
    assert sum(requests) < 2 * 60, requests
    bench.assert_cheap()


async def test_a_claim_over_many_kinds_reads_several_queues_at_a_time(bench: Bench) -> None:
    kinds = [f"kind{number}" for number in range(20)]
    peer = await Peer(store=bench.store, info=bench.make.node("other", kinds), make=bench.make).join()
    for number in range(100):
        await bench.store.enqueue([bench.make.instance(kind=kinds[number * 7 % 20])])
        await bench.clock.advance(0.13)
    before = bench.kv.requests
    assert len(await peer.take(BATCH)) == 100
    assert bench.kv.requests - before < 60


@pytest.mark.parametrize("kind", [None, "work"])
async def test_a_lookup_does_not_depend_on_the_queue(bench: Bench, kind: str | None) -> None:
    await bench.fill(QUEUED)
    newest = await bench.make_more(5)
    bench.costs.worst = 0
    page = await bench.store.lookup(Query(kind=kind, order="desc", limit=50))
    assert [record.id for record in page.records][:5] == newest[::-1]
    assert page.cursor is not None
    assert len((await bench.store.lookup(Query(kind=kind, order="desc", limit=50, cursor=page.cursor))).records) == 50
    oldest = await bench.store.lookup(Query(kind=kind, limit=50, after=to_datetime(bench.began_us)))
    assert oldest.cursor is not None
    assert len((await bench.store.lookup(Query(kind=kind, limit=50, cursor=oldest.cursor))).records) == 50
    assert await bench.store.due() == {"work": QUEUED + 5}
    await bench.store.health()
    bench.assert_cheap()


async def test_looking_for_dead_nodes_reads_no_rows_of_live_ones(bench: Bench) -> None:
    kinds = tuple(f"shop.tasks.kind_{number}" for number in range(60))
    for number in range(50):
        await bench.store.join(bench.make.node(f"node-{number}", kinds), ttl_us=60_000_000)
    await bench.store.reap(100, reaper=bench.peer.incarnation)
    bench.kv.value_bytes = 0
    assert await bench.store.reap(100, reaper=bench.peer.incarnation) == []
    assert bench.kv.value_bytes == 0


async def test_the_kinds_of_a_node_are_read_once(bench: Bench) -> None:
    kinds = tuple(f"shop.tasks.kind_{number}" for number in range(5_000))
    peers = [Peer(store=bench.store, info=bench.make.node(name, kinds), make=bench.make) for name in "ab"]
    for peer in peers:
        await peer.join()
        await peer.claim(peer.want(1, {"work": 1}))
    assert max(len(entry.value) for entry in bench.data.entries.values()) <= MAX_REQUEST_BYTES
    bench.kv.value_bytes = 0
    for peer in peers:
        await peer.renew()
        await peer.claim(peer.want(1, {"work": 1}))
    views = await bench.store.nodes()
    assert [view.info for view in views] == [*(peer.info for peer in peers), bench.peer.info]
    assert bench.kv.value_bytes < 10_000


async def test_the_kinds_of_nodes_go_with_the_last_node(bench: Bench) -> None:
    kinds = tuple(f"kind-{number}" for number in range(100))
    first = await Peer(store=bench.store, info=bench.make.node("first", kinds), make=bench.make).join()
    second = await Peer(store=bench.store, info=bench.make.node("second", kinds), make=bench.make).join()
    await bench.store.leave(first.incarnation)
    await bench.store.expire(1)
    assert {view.name: view.info for view in await bench.store.nodes()}["second"] == second.info
    await bench.store.leave(second.incarnation)
    await bench.store.expire(1)
    assert not [key for key in bench.data.entries if key.startswith("n/kinds/")]


async def test_a_transaction_over_a_limit_is_caught(bench: Bench) -> None:
    twice = [Transaction([], [Put("n/a/1", b"")]), Transaction([], [Put("n/a/1", b"")])]
    wide = [Transaction([], [Put(f"n/a/{number}", b"")]) for number in range(129)]
    deep = [Transaction([], [Put(f"n/a/{number}", b"") for number in range(128)])]
    both = [Transaction([], [Put("n/a/1", b""), Delete("n/a/", "n/a0")])]
    for transactions in (twice, wide, deep, both):
        with pytest.raises(RequestRefusedError):
            await bench.kv.txn(transactions)


def ids_of(claims: tuple[Claim, ...]) -> list[str]:
    return [claim.id for claim in claims]


async def test_what_waits_for_a_limit_key_is_read_together_with_its_permits(bench: Bench) -> None:
    await bench.store.enqueue(bench.make.instances(20, limit_key="a", key_concurrency=2))
    requests: list[int] = []
    for _ in range(10):
        claims = await bench.peer.take(2)
        before = bench.kv.requests
        assert await bench.peer.commit(*map(outcome, claims)) == [Ack.DONE] * 2
        requests.append(bench.kv.requests - before)
    assert sorted(requests)[len(requests) // 2] == 1, requests


async def test_a_few_hundred_instances_that_wait_for_a_limit_key_are_read_at_once(bench: Bench) -> None:
    for _ in range(15):
        await bench.store.enqueue(bench.make.instances(20, limit_key="a", key_concurrency=2))
        await bench.clock.advance(0.013)
    requests: list[int] = []
    for _ in range(30):
        claims = await bench.peer.take(2)
        before = bench.kv.requests
        assert await bench.peer.commit(*map(outcome, claims)) == [Ack.DONE] * 2
        requests.append(bench.kv.requests - before)
    assert sorted(requests)[-3] == 1, requests


async def test_a_conflict_about_an_instance_costs_no_read_of_the_counters(bench: Bench) -> None:
    first, second = await bench.make_more(2)
    other = KVStore(
        MemoryKeyValue(bench.data, bench.clock), url="memory://", namespace="n", clock=bench.clock, limits=StoreLimits()
    )
    claims = await bench.peer.take(2)
    await bench.peer.commit(outcome(claims[0], Action.REPORT, progress=b"half"))
    await other.cancel([second], request=bench.make.request())
    before = bench.kv.counters
    assert await bench.peer.commit(*map(outcome, claims)) == [Ack.DONE, Ack.CANCELLED]
    assert [claim.id for claim in claims] == [first, second]
    assert bench.kv.counters == before


async def test_a_store_remembers_the_claims_of_few_incarnations(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator serves many incarnations, one after another."""
    for module in (claim, claim_heads):
        monkeypatch.setattr(module, "MAX_INCARNATIONS", 2)
    store = KVStore(bench.kv, url="memory://", namespace="n", clock=bench.clock, limits=StoreLimits())
    heads = store._heads  # pyright: ignore[reportPrivateUsage]
    for _ in range(5):
        peer = await Peer(store=store, info=bench.make.node(), make=bench.make).join()
        await bench.make_more(1)
        assert len(await peer.take()) == 1
        known = (heads._last, heads._took_all, store._passed_over)  # pyright: ignore[reportPrivateUsage]
        assert max(len(one) for one in known) <= 2
    assert len(heads._last) == len(store._passed_over) == 2  # pyright: ignore[reportPrivateUsage]


async def test_a_publication_of_many_limits_does_not_read_them_for_each_part(bench: Bench) -> None:
    few = SharedLimit(name="few", numbers=LimitNumbers(concurrency=1))
    limits = [
        KindLimits(kind=f"kind-{number}", shared=(few,) * (number < 50), key_concurrency=1) for number in range(500)
    ]
    await bench.store.publish_limits(limits)
    assert bench.kv.value_bytes < 5_000
    assert len((await bench.store.limits(limit=1_000)).views) == 501
