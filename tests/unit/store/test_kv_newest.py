"""The newest ids are found in order, at a cost that does not depend on how many others there are."""

from collections.abc import AsyncIterator, Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peerjob.model.clock import SystemClock, to_datetime
from peerjob.model.ids import id_time_us
from peerjob.model.query import Query
from peerjob.model.record import NewInstance, StoreLimits
from peerjob.store.kv.format.base import Entry, Found, Put, Range, Transaction
from peerjob.store.kv.format.rows import SMALL
from peerjob.store.kv.index.newest import NewestIds, id_at
from peerjob.store.kv.store import KVStore
from peerjob.store.memory.data import MemoryData
from peerjob.store.memory.driver import MemoryKeyValue
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import Factory, Peer, outcome
from support.etcd_model import EtcdData
from support.searches import examples

pytestmark = pytest.mark.one_python

NOW_US = 1_790_000_000_000_000
DAY_US = 86_400_000_000
INDEXES = ("n/by/a/1/", "n/by/b/1/", "n/own/x/")
# bursts: how long before now they were, within how many milliseconds, and how many ids they have
BURSTS = st.lists(
    st.tuples(
        st.one_of(st.integers(-DAY_US, 200 * DAY_US), st.integers(-1_000_000, 1_000_000), st.just(0)),
        st.sampled_from([1, 3, 50, 1_000, 10_000_000]),
        st.sampled_from([1, 2, 30, 300]),
    ),
    max_size=8,
)


class Trips(MemoryKeyValue):
    """The memory driver, which counts the requests that read."""

    trips = 0

    async def read(self, ranges: Sequence[Range]) -> list[Found]:
        self.trips += 1
        return await super().read(ranges)

    async def get(self, keys: Sequence[str]) -> list[Entry | None]:
        self.trips += 1
        return await super().get(keys)


def ids_of(bursts: list[tuple[int, int, int]], random: Random) -> list[str]:
    found: set[str] = set()
    for ago_us, millis, count in bursts:
        for _ in range(count):
            head = id_at(NOW_US - ago_us + random.randrange(millis) * 1_000)
            found.add(f"{head}-7{random.getrandbits(12):03x}-8{random.getrandbits(60):015x}")
    return sorted(found, reverse=True)


@pytest.mark.search
@given(bursts=BURSTS, limit=st.sampled_from([1, 2, 50, 500]), seed=st.integers(0, 99), data=st.data())
@settings(max_examples=examples(100))
async def test_pages_have_all_ids_in_order(
    bursts: list[tuple[int, int, int]], limit: int, seed: int, data: st.DataObject
) -> None:
    random = Random(seed)
    ids = ids_of(bursts, random)
    kv = MemoryKeyValue(MemoryData(), SystemClock())
    await kv.txn([Transaction([], [Put(random.choice(INDEXES) + id, b"") for id in ids])])
    newest = NewestIds(kv)
    start = data.draw(st.sampled_from(["", *(one[:13] for one in ids[::40])]))
    for _ in range(2):  # the second time, it knows where the first page began
        end, found, more = "", list[str](), True
        while more:
            page, more = await newest.read(INDEXES, (start, end), limit, NOW_US)
            assert len(page) == limit or not more
            found += page
            end = page[-1] if page else ""
        assert found == [id for id in ids if id >= start]


async def test_the_first_millisecond_of_a_range_has_more_pages() -> None:
    ids = ids_of([(0, 1, 120)], Random(1))
    kv = MemoryKeyValue(MemoryData(), SystemClock())
    await kv.txn([Transaction([], [Put(INDEXES[0] + id, b"") for id in ids])])
    newest, end, found, more = NewestIds(kv), "", list[str](), True
    while more:
        page, more = await newest.read(INDEXES, (ids[0][:13], end), 50, NOW_US)
        found += page
        end = page[-1]
    assert found == ids


class Bench:
    def __init__(self, clock: VirtualClock) -> None:
        data = EtcdData()
        self.costs, self.make, self.clock = data.costs, Factory(clock), clock
        self.kv = Trips(data, clock)
        self.store = KVStore(self.kv, url="memory://", namespace="n", clock=clock, limits=StoreLimits())

    async def add(self, count: int, *, tags: tuple[str, ...] = ()) -> list[str]:
        batch: list[NewInstance] = [self.make.instance(tags=tags) for _ in range(count)]
        for at in range(0, count, 100):
            await self.store.enqueue(batch[at : at + 100])
        return [new.id for new in batch]


@pytest.fixture
async def bench(clock: VirtualClock) -> AsyncIterator[Bench]:
    bench = Bench(clock)
    await bench.store.open()
    yield bench
    await bench.store.close()


@pytest.mark.parametrize("query", [Query(), Query(kind="work"), Query(tag="batch")], ids=["all", "kind", "tag"])
async def test_the_newest_page_after_a_large_batch_is_cheap(bench: Bench, query: Query) -> None:
    ids: list[str] = []
    for _ in range(20):
        ids += await bench.add(300, tags=("batch",))
        await bench.clock.advance(0.001)
    await bench.clock.advance(600)
    query = Query(kind=query.kind, tag=query.tag, order="desc", limit=100)
    first = await bench.store.lookup(query)
    assert bench.costs.most_values <= 1_000
    bench.kv.trips = 0
    again = await bench.store.lookup(query)
    assert [record.id for record in again.records] == [record.id for record in first.records] == ids[::-1][:100]
    assert bench.kv.trips <= 8
    await bench.add(20)
    assert len((await bench.store.lookup(query)).records) == 100


async def test_the_oldest_page_is_cheap_once_its_begin_is_known(bench: Bench) -> None:
    old = [bench.make.instance()]
    await bench.clock.advance(60)
    ids: list[str] = []
    for _ in range(30):
        ids += await bench.add(200)
        await bench.clock.advance(0.01)
    query = Query(limit=20)
    assert [one.id for one in (await bench.store.lookup(query)).records] == ids[:20]
    bench.costs.worst = 0
    assert [one.id for one in (await bench.store.lookup(query)).records] == ids[:20]
    assert bench.costs.worst <= 1_000
    await bench.store.enqueue(old)
    await bench.store.lookup(query)
    page = await bench.store.lookup(query)
    assert [one.id for one in page.records] == [old[0].id, *ids[:19]], "an older one comes first"
    rest = await bench.store.lookup(query.at(page.cursor))
    assert [one.id for one in rest.records] == ids[19:39]


async def test_a_page_of_small_records_takes_one_request_for_them(bench: Bench) -> None:
    ids = await bench.add(100)
    bench.costs.reads = 0
    assert [one.id for one in await bench.store.get(ids) if one] == ids
    assert bench.costs.reads == 100


async def test_a_page_has_all_parts_of_large_records(bench: Bench) -> None:
    peer = await Peer(store=bench.store, info=bench.make.node(), make=bench.make).join()
    large = b"x" * (SMALL + 1)
    made = [bench.make.instance(spec=large if number % 3 == 0 else b"small") for number in range(60)]
    await bench.store.enqueue(made)
    claims = [claim for _ in range(3) for claim in await peer.take(10)]
    await peer.report(claims[0], progress=b"half")
    for number, claim in enumerate(claims[1:]):
        await peer.commit(outcome(claim, result=large if number % 2 else b"r", progress=b"p" if number % 4 else None))
    together = await bench.store.get([new.id for new in made])
    alone = [(await bench.store.get([new.id]))[0] for new in made]
    assert together == alone
    assert {one.spec for one in together if one} == {large, b"small"}
    assert {one.result for one in together if one} == {None, large, b"r"}
    assert {one.progress for one in together if one} == {None, b"half", b"p"}


async def test_bounds_of_a_page_hold_in_a_crowd(bench: Bench) -> None:
    ids: list[str] = []
    for _ in range(30):
        ids += await bench.add(100)
        await bench.clock.advance(0.001)
    after, before = ids[1_000], ids[2_000]
    query = Query(order="desc", limit=100, after=to_datetime(id_time_us(after)), before=to_datetime(id_time_us(before)))
    found: list[str] = []
    while True:
        page = await bench.store.lookup(query)
        found += [record.id for record in page.records]
        if page.cursor is None:
            break
        query = query.at(page.cursor)
    assert found == [id for id in reversed(ids) if id_time_us(after) <= id_time_us(id) < id_time_us(before)]
