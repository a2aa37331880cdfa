"""The etcd driver behaves as the memory driver, the model of a key-value store."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence

import pytest

from peerjob.model.clock import SystemClock
from peerjob.model.errors import StoreError, StoreUnavailableError
from peerjob.store.etcd.api import etcd
from peerjob.store.etcd.driver import EtcdKeyValue
from peerjob.store.kv.format.base import Applied, Compare, Delete, Entry, Found, KeyValue, Op, Put, Range, Transaction
from peerjob.store.memory.data import MemoryData
from peerjob.store.memory.driver import MemoryKeyValue
from support.etcd import EtcdServer, StartEtcd
from support.etcd_model import RequestRefusedError, check
from support.etcd_site import EtcdSite
from support.searches import seeds
from support.waiting import PATIENCE, until


@pytest.fixture
async def kv(etcd_url: str, etcd_site: EtcdSite) -> EtcdKeyValue:
    return await etcd_site.driver(etcd_url)


@pytest.fixture
def root(etcd_site: EtcdSite) -> str:
    """A prefix that no other test uses."""
    return f"{etcd_site.namespace}/"


# -- transactions


_Plan = tuple[list[Transaction], Transaction | None, list[Compare]]
"""The parts of a transaction."""


class Both:
    """The same keys on etcd and in memory, and the same transactions for both."""

    def __init__(self, etcd: EtcdKeyValue, root: str, chance: random.Random, *, calm: bool) -> None:
        self.stores: tuple[KeyValue, ...] = (etcd, MemoryKeyValue(MemoryData(), SystemClock()))
        self.root = root
        self.chance = chance
        self.calm = calm
        """Whether every compare holds."""
        self.names = [f"{root}{letter}/{number}" for letter in "ab" for number in range(6)]

    async def contents(self) -> list[Sequence[tuple[str, Entry]]]:
        every = Range(self.root, self.root[:-1] + "0")
        return [(await kv.read([every]))[0].items for kv in self.stores]

    def plans(self, contents: Sequence[Sequence[tuple[str, Entry]]]) -> list[_Plan]:
        """One transaction, for each store with its own revisions."""
        chance, free = self.chance, self.names.copy()
        chance.shuffle(free)
        per_store: list[list[Transaction]] = [[] for _ in self.stores]
        count = chance.randint(1, 4)
        for _ in range(count):
            ops = [self.op(free.pop()) for _ in range(chance.randint(0, 3))]
            reads = [self.range() for _ in range(chance.randint(0, 2))]
            choices = [self.choice() for _ in range(chance.randint(0, 2))]
            for transactions, content in zip(per_store, contents, strict=True):
                transactions.append(Transaction([_compare(dict(content), *choice) for choice in choices], ops, reads))
        guarded = [(name, 1.0, right) for name, _, right in (self.choice() for _ in range(chance.choice((0, 0, 1, 2))))]
        guards = [[_compare(dict(content), *choice) for choice in guarded] for content in contents]
        return [
            (transactions[:-1], transactions[-1], guards_here) if count > 2 else (transactions, None, guards_here)
            for transactions, guards_here in zip(per_store, guards, strict=True)
        ]

    def choice(self) -> tuple[str, float, float]:
        """A key, its compare, and whether the compare holds."""
        chance = self.chance
        return chance.choice(self.names), 1.0 if self.calm else chance.random(), 0.0 if self.calm else chance.random()

    def op(self, key: str) -> Op:
        return Delete(key) if self.chance.random() < 0.3 else Put(key, bytes([self.chance.randint(97, 122)]))

    def range(self) -> Range:
        chance = self.chance
        start = chance.choice(self.names)
        if chance.random() < 0.4:
            return Range(start)
        return Range(
            start,
            chance.choice([self.root[:-1] + "0", f"{start[:-1]}9"]),
            limit=chance.choice((0, 1, 3)),
            keys_only=chance.random() < 0.3,
            reverse=chance.random() < 0.3,
        )


def _compare(content: dict[str, Entry], key: str, how: float, right: float) -> Compare:
    entry = content.get(key)
    if how < 0.2:
        return Compare(key, below=chr(97 + int(right * 26)))
    if how < 0.4:
        return Compare(key, end=f"{key}~" if right < 0.5 else f"{key[:-1]}9")
    mod = 0 if entry is None else entry.mod
    return Compare(key, mod=mod if right < 0.8 else mod + 1)


def _seen(found: Found, *, keys_only: bool) -> object:
    return [(key, b"" if keys_only else entry.value) for key, entry in found.items], found.count


def _answers(
    applied: Applied, transactions: Sequence[Transaction], also: Transaction | None, _: Sequence[Compare]
) -> list[object]:
    every = [*zip(transactions, applied.answers, strict=True), *([(also, applied.also)] if also is not None else [])]
    return [
        None
        if answers is None
        else [_seen(found, keys_only=read.keys_only) for read, found in zip(transaction.reads, answers, strict=True)]
        for transaction, answers in every
    ]


@pytest.mark.parametrize("seed", range(3))
async def test_the_server_takes_what_the_limits_take(kv: EtcdKeyValue, root: str, seed: int) -> None:
    chance = random.Random(seed)
    taken = Counter[bool]()
    for number in range(30):
        sizes = [chance.choice((1, 1, 2, 8, 30, 60, 64, 100, 126)) for _ in range(4)]
        count, compares, reads, along = (max(1, size + chance.randint(-2, 2)) for size in sizes)
        widths = [(chance.randint(0, compares), chance.randint(0, reads)) for _ in range(count)]
        widths[0] = compares, reads
        transactions = [
            Transaction(
                [Compare(f"{root}{number}/{chance.randint(0, 200)}") for _ in range(wide)],
                [],
                [Range(f"{root}{one}") for one in range(deep)],
            )
            for wide, deep in widths
        ]
        also = Transaction([], [], [Range(f"{root}{one}") for one in range(along)]) if chance.random() < 0.7 else None
        guards = [Compare(f"{root}guard/{one}") for one in range(chance.choice((0, 1, 5)))]
        fits = True
        try:
            check(transactions, also, guards)
        except RequestRefusedError:
            fits = False
        accepted = True
        try:
            await kv.txn(transactions, also, guards)
        except StoreError as refused:
            assert "too many operations" in str(refused)  # noqa: PT017  # any other error is a fault of the test
            accepted = False
        assert accepted is fits, (count, compares, reads, along, len(guards), also is not None)
        taken[fits] += 1
    assert min(taken[True], taken[False]) > 3


@pytest.mark.parametrize("calm", [False, True])
@pytest.mark.parametrize("seed", seeds(range(6)))
async def test_any_transaction_does_what_it_does_in_memory(kv: EtcdKeyValue, root: str, seed: int, calm: bool) -> None:
    both = Both(kv, root, random.Random(seed), calm=calm)
    applied = 0
    for _ in range(120):
        contents = await both.contents()
        plans = both.plans(contents)
        done = [await store.txn(*plan) for store, plan in zip(both.stores, plans, strict=True)]
        seen = [_answers(one, *plan) for one, plan in zip(done, plans, strict=True)]
        assert seen[0] == seen[1], plans[0]
        applied += sum(answer is not None for answer in done[0].answers)
        on_etcd, in_memory = await both.contents()
        assert [(key, entry.value) for key, entry in on_etcd] == [(key, entry.value) for key, entry in in_memory]
    assert applied > 60


async def test_what_is_written_has_the_revision_of_the_answer(kv: EtcdKeyValue, root: str) -> None:
    first = await kv.txn([Transaction([], [Put(f"{root}a", b"1")]), Transaction([], [Put(f"{root}b", b"2")])])
    again = await kv.txn([Transaction([Compare(f"{root}a", mod=first.revision)], [Put(f"{root}a", b"3")])])
    assert again.answers == [()]
    entries = await kv.get([f"{root}a", f"{root}b", f"{root}c"])
    assert entries == [Entry(b"3", again.revision), Entry(b"2", first.revision), None]


@pytest.mark.parametrize("fails", [None, 0, 39, "guard"])
@pytest.mark.parametrize(
    ("compares", "more", "along"),
    [(1, 0, 60), (2, 0, 60), (2, 15, 20), (2, 25, 40)],
    ids=["nested", "nearly too many compares", "compares outside", "compares outside and much along"],
)
async def test_what_goes_along_with_many_steps_needs_all_of_them(
    kv: EtcdKeyValue, root: str, compares: int, more: int, along: int, fails: int | str | None
) -> None:
    mark = f"{root}mark"
    await kv.txn([Transaction([], [Put(mark, b"5")])])
    transactions = [
        Transaction(
            [
                Compare(f"{root}{number}", mod=1 if number == fails else 0),
                *(Compare(f"{root}{number}/{place}") for place in range(1, compares)),
            ],
            [Put(f"{root}{number}", b"x")],
            [Range(f"{root}{number}")],
        )
        for number in range(40)
    ]
    also = Transaction(
        [Compare(mark, below="6"), *(Compare(f"{root}none/{number}") for number in range(more))],
        [Put(f"{root}also/{number}", b"y") for number in range(along)],
        [Range(mark)],
    )
    guards = [Compare(mark, below="6"), Compare(f"{root}guard", mod=1 if fails == "guard" else 0)]
    applied = await kv.txn(transactions, also, guards)
    assert [answer is None for answer in applied.answers] == [fails in (number, "guard") for number in range(40)]
    assert applied.refused is (fails == "guard")
    for number, answer in enumerate(applied.answers):
        if answer is not None:
            assert [key for key, _ in answer[0].items] == [f"{root}{number}"]
    (found,) = await kv.read([Range(f"{root}also/", f"{root}also0")])
    if fails is None:
        assert applied.also is not None
        assert applied.also[0].items[0][1].value == b"5"
        assert found.count == along
    else:
        assert applied.also is None
        assert found.count == 0


# -- reading


async def test_reads_are_as_many_and_as_large_as_they_need_be(kv: EtcdKeyValue, root: str) -> None:
    value = b"v" * 1_000_000
    for number in range(6):
        await kv.txn([Transaction([], [Put(f"{root}{number}", value)])])
    (found,) = await kv.read([Range(root, root[:-1] + "0")])
    assert [entry.value for _, entry in found.items] == [value] * 6
    entries = await kv.get([f"{root}{number}" for number in range(300)])
    assert [entry is not None for entry in entries] == [True] * 6 + [False] * 294
    assert len(await kv.read([Range(f"{root}{number}") for number in range(129)])) == 129


async def test_each_etcd_has_an_identity_of_its_own(
    kv: EtcdKeyValue, etcd_site: EtcdSite, start_etcd: StartEtcd
) -> None:
    assert kv.identity.startswith("etcd:")
    other = kv.separate()
    with pytest.raises(StoreUnavailableError, match="not open"):
        await other.get(["key"])
    await other.open()
    assert other.identity == kv.identity
    await other.close()
    assert (await etcd_site.driver(start_etcd().url)).identity != kv.identity


# -- leases


async def test_a_lease_takes_its_keys_along_and_lasts_whole_seconds(
    kv: EtcdKeyValue, root: str, etcd_server: EtcdServer
) -> None:
    short, long = await kv.grant(3_200_000), await kv.grant(59_000_001)
    await kv.txn([Transaction([], [Put(f"{root}short", b"", short), Put(f"{root}long", b"", long)])])
    left = await kv.remaining([short, long])
    assert left[0] <= 4_500_000
    assert 50_000_000 < left[1] <= 60_500_000
    assert await kv.keepalive(long)

    async def gone() -> bool:
        return await kv.get([f"{root}short"]) == [None]

    await until(gone)
    assert not await kv.keepalive(short)
    assert [left_us > 0 for left_us in await kv.remaining([short, long, 12345])] == [False, True, False]

    await kv.revoke(long)
    await kv.revoke(long)
    assert etcd_server.keys(root) == []


@pytest.mark.parametrize(("asked_us", "seconds"), [(59_000_000, 59), (59_000_001, 60), (59_999_999, 60)])
async def test_no_lease_is_shorter_than_asked_for(kv: EtcdKeyValue, asked_us: int, seconds: int) -> None:
    lease = await kv.grant(asked_us)
    reply = await kv._client.call("remaining", etcd.LeaseTimeToLiveRequest(ID=lease))  # pyright: ignore[reportPrivateUsage]
    assert reply.grantedTTL == seconds
    await kv.revoke(lease)


async def test_a_write_on_a_lease_that_has_ended_does_nothing(kv: EtcdKeyValue, root: str) -> None:
    lease = await kv.grant(60_000_000)
    await kv.revoke(lease)
    with pytest.raises(StoreUnavailableError, match="lease not found"):
        await kv.txn([Transaction([], [Put(f"{root}plain", b"")]), Transaction([], [Put(f"{root}leased", b"", lease)])])
    assert await kv.get([f"{root}plain"]) == [None]


# -- watches


async def test_a_watch_tells_what_was_put_and_nothing_else(kv: EtcdKeyValue, root: str) -> None:
    watch = kv.watch(f"{root}in/")
    # most likely before the server knows the watch; the watch must see it nevertheless
    await kv.txn([Transaction([], [Put(f"{root}in/first", b""), Put(f"{root}in0", b""), Put(f"{root}out", b"")])])
    assert list(await watch.changed(PATIENCE) or ()) == [f"{root}in/first"]
    await kv.txn([Transaction([], [Delete(f"{root}in/first")])])
    assert await watch.changed(0.1) == {}
    await kv.txn([Transaction([], [Put(f"{root}in/b", b""), Put(f"{root}in/a", b"")])])
    assert sorted(await watch.changed(PATIENCE) or ()) == [f"{root}in/a", f"{root}in/b"]
    watch.close()


async def test_a_watch_tells_of_keys_that_end_with_their_lease(kv: EtcdKeyValue, root: str) -> None:
    watch = kv.watch(f"{root}in/", ends=(f"{root}live/",))
    lease = await kv.grant(60_000_000)
    await kv.txn([Transaction([], [Put(f"{root}live/a", b"x", lease), Put(f"{root}live/b", b"x")])])
    assert await watch.changed(0.1) == {}
    await kv.revoke(lease)
    assert await watch.changed(PATIENCE) == {f"{root}live/a": b""}
    await kv.txn([Transaction([], [Delete(f"{root}live/b")])])
    assert await watch.changed(PATIENCE) == {f"{root}live/b": b""}
    await kv.txn([Transaction([], [Put(f"{root}in/c", b"y")])])
    assert await watch.changed(PATIENCE) == {f"{root}in/c": b"y"}
    watch.close()


async def test_a_watch_that_missed_something_says_so_and_goes_on(start_etcd: StartEtcd, etcd_site: EtcdSite) -> None:
    server = start_etcd()
    kv = await etcd_site.driver(server.url)
    watch = kv.watch("in/")
    await kv.txn([Transaction([], [Put("in/first", b"")])])
    assert list(await watch.changed(PATIENCE) or ()) == ["in/first"]

    server.kill()
    server.start()
    assert await watch.changed(PATIENCE) is None

    await kv.txn([Transaction([], [Put("in/second", b"")])])
    assert list(await watch.changed(PATIENCE) or ()) == ["in/second"]
    watch.close()


async def test_a_watch_that_begins_in_what_was_compacted_says_so_and_goes_on(
    start_etcd: StartEtcd, etcd_site: EtcdSite
) -> None:
    server = start_etcd()
    kv, other = await etcd_site.driver(server.url), await etcd_site.driver(server.url)
    for number in range(10):
        await other.txn([Transaction([], [Put(f"in/{number}", b"")])])
    server.compact()
    watch = kv.watch("in/")
    assert await watch.changed(PATIENCE) is None
    await other.txn([Transaction([], [Put("in/new", b"")])])
    assert list(await watch.changed(PATIENCE) or ()) == ["in/new"]
    watch.close()


async def test_a_clear_ends_while_instances_come_in(etcd_site: EtcdSite, etcd_url: str) -> None:
    store, other = await etcd_site.open(etcd_url), await etcd_site.open(etcd_url)
    await store.enqueue(old := etcd_site.make.instances(250))
    cleared = asyncio.Event()

    async def produce() -> None:
        while not cleared.is_set():
            await other.enqueue([etcd_site.make.instance()])

    producer = asyncio.create_task(produce())
    try:
        async with asyncio.timeout(PATIENCE):
            await store.clear()
    finally:
        cleared.set()
        await producer
    assert await store.get([new.id for new in old]) == [None] * 250
