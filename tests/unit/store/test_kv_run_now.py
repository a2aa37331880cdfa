"""`run_now` on the engine: lost answers, clocks that differ, unreadable answers, and a server without space."""

import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import pytest
from msgspec.structs import replace

from peerjob.model.errors import StoreUnavailableError
from peerjob.model.record import SUSPECT_AFTER, Action, StoreLimits
from peerjob.model.run_now import RunNow, RunNowAnswer
from peerjob.model.state import State
from peerjob.model.stored_limit import KindLimits
from peerjob.store.kv.format.base import Applied, Compare, Delete, Entry, Op, Put, Range, Transaction
from peerjob.store.kv.format.keys import Keys, below, timed
from peerjob.store.kv.format.limit_rows import decode_key_permit
from peerjob.store.kv.format.rows import Row, decode_row, encode
from peerjob.store.kv.store import KVStore
from peerjob.store.memory.data import MemoryData
from peerjob.store.memory.driver import MemoryKeyValue
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import Factory, Peer
from support.etcd_model import hold_to_etcd

HOUR_US = 3_600_000_000


class Unreliable(MemoryKeyValue):
    """The memory driver over a connection that drops transactions or their answers, on a server without leases."""

    share = 0.0
    """The share of transactions that fail, half of them before they are applied."""
    lose_next = False
    """Whether the answer to the next transaction is lost."""
    grants = True
    before_records: Callable[[], Awaitable[object]] | None = None
    """What happens once, before the next read of records."""

    async def get(self, keys: Sequence[str]) -> list[Entry | None]:
        if self.before_records is not None and keys and "/state/" in keys[0]:
            act, self.before_records = self.before_records, None
            await act()
        return await super().get(keys)

    async def txn(
        self, transactions: Sequence[Transaction], also: Transaction | None = None, guards: Sequence[Compare] = ()
    ) -> Applied:
        chance = self._clock.random.random()
        if chance < self.share / 2:
            raise StoreUnavailableError("memory://", "the request was lost")
        applied = await super().txn(transactions, also, guards)
        if chance < self.share or (self.lose_next and also is not None):
            self.lose_next = False
            raise StoreUnavailableError("memory://", "the answer was lost")
        return applied

    async def grant(self, ttl_us: int) -> int:
        if not self.grants:
            raise StoreUnavailableError("memory://", "no space")
        return await super().grant(ttl_us)


class Bench:
    """A namespace in memory, with a store and a factory."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.make = Factory(clock)
        self.data = MemoryData()
        self.keys = Keys("n")
        self.kv = Unreliable(self.data, clock)
        self.store = self.another(self.kv)

    def another(self, kv: MemoryKeyValue | None = None) -> KVStore:
        kv = kv or MemoryKeyValue(self.data, self.clock)
        return KVStore(kv, url="memory://", namespace="n", clock=self.clock, limits=StoreLimits())

    async def join(self, store: KVStore) -> Peer:
        return await Peer(store=store, info=self.make.node(), make=self.make).join()

    async def row(self, id: str) -> Row:
        (entry,) = await self.kv.get([self.keys.state + id])
        assert entry is not None
        return decode_row(entry.value)

    async def put(self, key: str, value: bytes) -> None:
        await self.kv.txn([Transaction([], [Put(key, value)])])

    async def tables(self) -> Counter[str]:
        """The number of keys of each table of the namespace."""
        (found,) = await self.kv.read([Range("n/", "n0")])
        return Counter(key.split("/")[1] for key, _ in found.items)


@pytest.fixture
def bench(clock: VirtualClock) -> Bench:
    return Bench(clock)


async def delayed(bench: Bench, count: int = 1) -> list[str]:
    batch = bench.make.instances(count, delay_us=HOUR_US)
    await bench.store.enqueue(batch)
    return [new.id for new in batch]


async def test_a_call_whose_answer_was_lost_acts_once(bench: Bench) -> None:
    (id,) = await delayed(bench)
    peer = await bench.join(bench.another())
    bench.kv.lose_next = True
    with pytest.raises(StoreUnavailableError):
        await bench.store.run_now([id], request="r")
    await peer.end(await peer.take_one(), Action.SNOOZE, delay_us=HOUR_US)
    for store in (bench.store, bench.another()):
        assert await store.run_now([id], request="r") == [RunNow.DUE_NOW]
    assert await peer.take() == ()
    assert (await bench.another().health()).delayed == 1


@pytest.mark.parametrize("snoozes", [True, False])
async def test_the_same_request_on_another_node_at_the_same_time_acts_once(bench: Bench, snoozes: bool) -> None:
    """The other node acts after this one has found no answer, and before it reads the records."""
    (id,) = await delayed(bench)
    other = bench.another()
    peer = await bench.join(other)

    async def overtake() -> None:
        assert await other.run_now([id], request="r") == [RunNow.DUE_NOW]
        if snoozes:
            await peer.end(await peer.take_one(), Action.SNOOZE, delay_us=HOUR_US)

    bench.kv.before_records = overtake
    for store in (bench.store, other):
        assert await store.run_now([id], request="r") == [RunNow.DUE_NOW]
    assert len(await peer.take()) == (0 if snoozes else 1)


async def test_over_a_bad_connection_each_instance_moves_once(bench: Bench) -> None:
    ids = await delayed(bench, 40)
    bench.kv.share = 0.4
    for number in range(0, 40, 10):
        part = ids[number : number + 10]
        assert await persist(bench, part, str(number)) == [RunNow.DUE_NOW] * 10
    bench.kv.share = 0
    peer = await bench.join(bench.another())
    assert sorted(claim.id for claim in await peer.take()) == ids


async def persist(bench: Bench, ids: Sequence[str], request: str) -> list[RunNowAnswer]:
    """The first answer of a call that is repeated until it has one."""
    while True:
        with contextlib.suppress(StoreUnavailableError):
            return await bench.store.run_now(ids, request=request)


async def test_one_that_a_faster_clock_found_due_moves_too(bench: Bench) -> None:
    """The claim of a node whose clock is ahead has moved the instance to its ready queue."""
    (id,) = await delayed(bench)
    peer = await bench.join(bench.store)
    row = await bench.row(id)
    place = timed(row.due_us, id)
    ready = bench.keys.ready(row.kind, row.priority, suspect=False)
    await bench.kv.txn([Transaction([], [Delete(bench.keys.delayed(id) + place), Put(ready + place, b"")])])
    assert await bench.store.run_now([id], request="r") == [RunNow.DUE_NOW]
    assert [claim.id for claim in await peer.take()] == [id]
    assert (await bench.tables())["ready"] == 0


async def test_one_that_a_faster_clock_let_past_its_gate_keeps_its_permit(bench: Bench) -> None:
    """The clock of the node that added the instance is ahead."""
    hold_to_etcd(bench.data)
    new = bench.make.instance(limit_key="key", key_concurrency=2)
    await bench.store.publish_limits([KindLimits(kind=new.kind, key_concurrency=2)])
    await bench.store.enqueue([new])
    row = await bench.row(new.id)
    (found,) = await bench.kv.read([below(bench.keys.key_permits((new.kind, "key")))])
    ((key, entry),) = found.items
    later_us, queue = row.due_us + HOUR_US, bench.keys.ready(new.kind, row.priority, suspect=False)
    permit = replace(decode_key_permit(entry.value), due_us=later_us, queued_us=later_us)
    ops: list[Op] = [
        Put(bench.keys.state + new.id, encode(replace(row, due_us=later_us))),
        Put(key, encode(permit)),
        Delete(queue + timed(row.due_us, new.id)),
        Put(queue + timed(later_us, new.id), b""),
    ]
    await bench.kv.txn([Transaction([], ops)])

    assert await bench.store.run_now([new.id], request="r") == [RunNow.DUE_NOW]
    peer = await bench.join(bench.store)
    await peer.end(await peer.take_one())
    assert {"ready", "permit", "wait"}.isdisjoint(+await bench.tables())


async def test_a_suspect_enters_the_queue_of_suspects(bench: Bench) -> None:
    """A claim would repair a wrong entry, with more requests."""
    suspect = bench.make.instance(delay_us=HOUR_US, losses=SUSPECT_AFTER)
    await bench.store.enqueue([suspect])
    await bench.store.run_now([suspect.id], request="r")
    row = await bench.row(suspect.id)
    place = bench.keys.ready(row.kind, row.priority, suspect=True) + timed(row.due_us, suspect.id)
    assert (await bench.kv.get([place]))[0] is not None


async def test_an_unreadable_answer_counts_as_none(bench: Bench) -> None:
    first, second = await delayed(bench, 2)
    for id, value in ((first, b"\xff"), (second, b"77")):
        await bench.put(bench.keys.run_now("r") + id, value)
    assert await bench.store.run_now([first, second], request="r") == [RunNow.DUE_NOW] * 2
    assert await bench.another().run_now([second, first], request="r") == [RunNow.DUE_NOW] * 2


async def test_an_unreadable_record_is_set_aside_and_the_others_move(bench: Bench) -> None:
    first, second = await delayed(bench, 2)
    await bench.put(bench.keys.state + first, b"\xc1")
    assert await bench.store.run_now([first, second], request="r") == [None, RunNow.DUE_NOW]
    assert (await bench.store.health()).undecodable == 1


async def test_a_server_without_space_keeps_no_answers(bench: Bench) -> None:
    """An answer without a lease would stay for ever."""
    ids = await delayed(bench, 2)
    bench.data.max_keys, bench.kv.grants = 1, False
    assert bench.kv.full
    store = bench.another(bench.kv)
    assert await store.run_now([*ids, bench.make.id()], request="r") == [RunNow.DUE_NOW, RunNow.DUE_NOW, None]
    assert await store.run_now(ids, request="r") == [RunNow.WAS_DUE] * 2
    assert (await bench.tables())["now"] == 0


async def test_the_answers_leave_with_their_lease(bench: Bench) -> None:
    ids = await delayed(bench, 3)
    await bench.store.run_now(ids, request="r")
    assert (await bench.tables())["now"] == 3
    await bench.clock.advance(299)
    assert (await bench.tables())["now"] == 3
    await bench.clock.advance(302)
    assert (await bench.tables())["now"] == 0


async def test_the_later_fields_of_a_record_stay(bench: Bench) -> None:
    (id,) = await delayed(bench)
    later = replace(await bench.row(id), extra=msgspec.Raw(encode({"later": 1})))
    await bench.put(bench.keys.state + id, encode(later))
    assert await bench.store.run_now([id], request="r") == [RunNow.DUE_NOW]
    row = await bench.row(id)
    assert (bytes(row.extra), row.state) == (bytes(later.extra), State.SCHEDULED)
