"""Schedules on the engine: with lost answers, a full store and unreadable records; and their cost."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import pytest

from peerjob.model.errors import StoreFullError, StoreRefusedError, StoreUnavailableError
from peerjob.model.firing import Candidate, Fire, FireOutcome, FireStatus, Overlap, SchedulePut, ScheduleRow, Term
from peerjob.model.record import Ack, Action, NewInstance, StoreLimits
from peerjob.model.repeats import REPEAT_US
from peerjob.store.kv.format.base import Applied, Compare, Delete, Entry, Put, Range, Transaction
from peerjob.store.kv.format.keys import Keys, prefix_end
from peerjob.store.kv.nodes.elections import KVElections
from peerjob.store.kv.store import KVStore
from peerjob.store.memory.driver import MemoryKeyValue
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import Factory, Peer, outcome
from support.etcd_model import EtcdData
from support.records import logged

Result = TypeVar("Result")
FIRED, MISSED = FireOutcome.FIRED, FireOutcome.MISSED
SECOND_US = 1_000_000


class Line(MemoryKeyValue):
    """The memory driver over a connection that drops transactions or their answers."""

    share = 0.0
    writes = 0
    """Transactions that were sent."""
    refused = ""
    """A key that no transaction may write."""

    async def txn(
        self, transactions: Sequence[Transaction], also: Transaction | None = None, guards: Sequence[Compare] = ()
    ) -> Applied:
        self.writes += 1
        await asyncio.sleep(0)
        if any(op.key == self.refused for transaction in transactions for op in transaction.ops):
            raise StoreRefusedError("the request was refused")
        chance = self._clock.random.random()
        if chance < self.share / 2:
            raise StoreUnavailableError("memory://", "the request was lost")
        applied = await super().txn(transactions, also, guards)
        if chance < self.share:
            raise StoreUnavailableError("memory://", "the answer was lost")
        return applied


class Bench:
    """A namespace with schedules and a store that fires them."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.make = Factory(clock)
        self.data = EtcdData()
        self.costs = self.data.costs
        self.keys = Keys("n")
        self.kv = Line(self.data, clock)
        self.store = self.another()
        self.start_us = clock.time_us()

    def another(self, kv: MemoryKeyValue | None = None, limits: StoreLimits | None = None) -> KVStore:
        limits = limits or StoreLimits()
        return KVStore(kv or self.kv, url="memory://", namespace="n", clock=self.clock, limits=limits)

    async def schedule(self, name: str = "s") -> ScheduleRow:
        put = SchedulePut(name=name, kind="work", definition=b"d" * 200, next_us=self.start_us)
        row = await self.persist(partial(self.store.put_schedule, put))
        if row is None:
            (row,) = await self.store.get_schedules([name])
        assert row is not None
        return row

    def fire(
        self,
        row: ScheduleRow,
        number: int,
        outcome: FireOutcome = FIRED,
        overlap: Overlap = Overlap.ALLOW,
        new: NewInstance | None = None,
    ) -> Fire:
        instance = None if outcome is MISSED else new or self.make.instance()
        return Fire(
            schedule=row.name,
            revision=row.revision,
            nominal_us=self.start_us + number * SECOND_US,
            next_us=self.start_us + (number + 1) * SECOND_US,
            outcome=outcome,
            request=self.make.request(),
            instance=instance,
            overlap=overlap,
            queue_limit=10,
        )

    async def fired(self, row: ScheduleRow, number: int, overlap: Overlap = Overlap.ALLOW) -> str:
        (answer,) = await self.store.fire([self.fire(row, number, overlap=overlap)], term=None)
        assert answer.record is not None
        return answer.record.instance

    async def keys_below(self, prefix: str) -> list[str]:
        (found,) = await MemoryKeyValue(self.data, self.clock).read([Range(prefix, prefix_end(prefix))])
        return [key[len(prefix) :] for key, _ in found.items]

    async def persist(self, call: Callable[[], Awaitable[Result]]) -> Result:
        while True:
            try:
                return await call()
            except StoreUnavailableError:
                await self.clock.advance(0.01)


@pytest.fixture
async def bench(clock: VirtualClock) -> AsyncIterator[Bench]:
    bench = Bench(clock)
    await bench.store.open()
    yield bench
    await bench.store.close()


# -- many at once


@pytest.mark.parametrize("nodes", [1, 50])
async def test_concurrent_puts_share_transactions_for_any_number_of_nodes(bench: Bench, nodes: int) -> None:
    joining = [Peer(store=bench.store, info=bench.make.node(), make=bench.make).join() for _ in range(nodes)]
    peers = await asyncio.gather(*joining)
    for peer in peers:
        await bench.store.next_hints(peer.incarnation, 0)
    bench.kv.writes = 0
    rows = await asyncio.gather(*(bench.schedule(str(number)) for number in range(400)))
    assert sorted(row.revision for row in rows) == list(range(1, 401))
    assert bench.kv.writes <= 12
    for peer in peers:
        hints = await bench.store.next_hints(peer.incarnation, 0)
        assert [hint.what for hint in hints] == ["schedule"]


async def test_a_put_with_a_conflict_does_not_stop_other_puts(bench: Bench) -> None:
    rows = await asyncio.gather(*(bench.schedule(str(number)) for number in range(10)))
    puts = [
        SchedulePut(
            name=row.name,
            kind="work",
            definition=b"new",
            next_us=row.next_us,
            expected=row.revision - (row.name == "3"),
            expected_next_us=row.next_us,
        )
        for row in rows
    ]
    written = await asyncio.gather(*map(bench.store.put_schedule, puts))
    assert [row.name for row in written if row is not None] == [row.name for row in rows if row.name != "3"]


async def test_a_put_that_the_store_refuses_does_not_stop_other_puts(bench: Bench) -> None:
    bench.kv.refused = keys = bench.keys.schedule("3")
    written = await asyncio.gather(*(bench.schedule(str(number)) for number in range(10)), return_exceptions=True)
    assert [str(number) for number, row in enumerate(written) if isinstance(row, StoreRefusedError)] == ["3"]
    assert len([row for row in written if isinstance(row, ScheduleRow)]) == 9
    assert await bench.kv.get([keys]) == [None]


async def test_a_put_that_is_given_up_does_not_stop_other_puts(bench: Bench) -> None:
    puts = [asyncio.create_task(bench.schedule(str(number))) for number in range(100)]
    for number in (0, 1, 50, 99):
        await asyncio.sleep(0)
        puts[number].cancel()
    rows = await asyncio.gather(*puts, return_exceptions=True)
    assert len([row for row in rows if isinstance(row, ScheduleRow)]) == 96


# -- answers that never come


@pytest.mark.parametrize("share", [0.2, 0.5])
async def test_no_fire_is_lost_or_doubled_over_a_bad_connection(bench: Bench, share: float) -> None:
    bench.kv.share = share
    rows = [await bench.schedule(str(number)) for number in range(5)]
    assert sorted(row.revision for row in rows) == [1, 2, 3, 4, 5]
    overlaps = list(Overlap)
    for number in range(30):
        fires = [bench.fire(row, number, (FIRED, MISSED)[number % 3 == 2], overlaps[number % 4]) for row in rows]
        answers = await bench.persist(partial(bench.store.fire, fires, term=Term(coordinator="c", number=number)))
        assert {answer.status for answer in answers} == {FireStatus.DONE}
        for fire, answer in zip(fires, answers, strict=True):
            assert answer.record is not None
            assert answer.record.request == fire.request
    bench.kv.share = 0
    made: list[str] = []
    for row in rows:
        records = (await bench.store.fires(row.name)).records
        assert sum(record.count for record in records) == 30
        made += [record.instance for record in records if record.instance]
    assert sorted(await bench.keys_below(bench.keys.state)) == sorted(made)


async def test_schedules_are_put_and_removed_over_a_bad_connection(bench: Bench) -> None:
    bench.kv.share = 0.3
    for number in range(30):
        row = await bench.schedule()
        assert row.revision == 2 * number + 1
        removal = partial(bench.store.remove_schedule, "s", request=bench.make.request())
        assert await bench.persist(removal)
    bench.kv.share = 0
    assert await bench.store.get_schedules(["s"]) == [None]
    assert len((await bench.store.changed_schedules(1)).rows) == 30


async def test_the_leadership_survives_a_bad_connection(bench: Bench) -> None:
    line = Line(bench.data, bench.clock)
    line.share = 0.4
    elections = [KVElections(line, url="memory://", namespace="n", clock=bench.clock) for _ in range(3)]
    terms: set[tuple[int, str]] = set()
    for number in range(60):
        candidate = Candidate(incarnation=str(number % 3), name="node")
        campaign = partial(elections[number % 3].campaign, candidate, ttl_us=10 * SECOND_US)
        leader = await bench.persist(campaign)
        terms.add((leader.term.number, leader.incarnation))
        if leader.incarnation == candidate.incarnation:
            await bench.persist(partial(elections[number % 3].resign, candidate.incarnation))
    assert len({term for term, _ in terms}) == len(terms) > 10


async def test_keeping_the_leadership_writes_nothing(bench: Bench) -> None:
    elections = bench.store.elections()
    await elections.open()
    one, two = Candidate(incarnation="1", name="one"), Candidate(incarnation="2", name="two")
    await elections.campaign(one, ttl_us=SECOND_US)
    revision = bench.data.revision
    for _ in range(20):
        await bench.clock.advance(0.2)
        assert (await elections.campaign(one, ttl_us=SECOND_US)).incarnation == "1"
        assert (await elections.campaign(two, ttl_us=SECOND_US)).incarnation == "1"
    assert bench.data.revision == revision
    await elections.close()


async def test_a_leader_whose_key_is_gone_takes_the_leadership_anew(bench: Bench) -> None:
    """Its lease lives, as after the deletion of all keys: a peer could take the leadership, so the term ends."""
    elections = KVElections(bench.kv, url="memory://", namespace="n", clock=bench.clock)
    one = Candidate(incarnation="1", name="one")
    again = first = await elections.campaign(one, ttl_us=10 * SECOND_US)
    assert await elections.campaign(one, ttl_us=10 * SECOND_US) == first  # the candidate knows its key now
    await bench.kv.txn([Transaction([], [Delete(f"{bench.keys.leader}now")])])
    for _ in range(4):
        await bench.clock.advance(1)
        again = await elections.campaign(one, ttl_us=10 * SECOND_US)
    assert again.term.number > first.term.number
    assert again == await elections.leader()


@pytest.mark.parametrize("campaigns", [1, 2], ids=["the key is read", "the key is known"])
async def test_a_resignation_lets_peers_lead_without_the_end_of_its_lease(bench: Bench, campaigns: int) -> None:
    class Unrevoked(MemoryKeyValue):
        async def revoke(self, lease: int) -> None:
            raise StoreUnavailableError("memory://", "it revokes nothing")

    one, two = (Candidate(incarnation=name, name=name) for name in ("one", "two"))
    leader = KVElections(Unrevoked(bench.data, bench.clock), url="memory://", namespace="n", clock=bench.clock)
    peer = KVElections(bench.kv, url="memory://", namespace="n", clock=bench.clock)
    await leader.open()
    await peer.open()
    for _ in range(campaigns):
        await leader.campaign(one, ttl_us=10 * SECOND_US)
    assert (await peer.campaign(two, ttl_us=10 * SECOND_US)).name == "one"
    await leader.resign("one")
    assert await bench.clock.run(peer.changed(1))
    assert (await peer.campaign(two, ttl_us=10 * SECOND_US)).name == "two"
    await leader.close()
    await peer.close()


async def test_a_leader_whose_key_was_taken_resigns_nothing(bench: Bench) -> None:
    one, two = (Candidate(incarnation=name, name=name) for name in ("one", "two"))
    leader, peer = (KVElections(bench.kv, url="memory://", namespace="n", clock=bench.clock) for _ in range(2))
    for _ in range(2):
        await leader.campaign(one, ttl_us=10 * SECOND_US)
    await bench.kv.txn([Transaction([], [Delete(f"{bench.keys.leader}now")])])
    taken = await peer.campaign(two, ttl_us=10 * SECOND_US)
    await leader.resign("one")
    assert await peer.leader() == taken


async def test_an_election_that_gets_no_answer_fails_in_time(bench: Bench) -> None:
    class Silent(MemoryKeyValue):
        async def get(self, keys: Sequence[str]) -> list[Entry | None]:
            await asyncio.Event().wait()
            return []

    elections = KVElections(Silent(bench.data, bench.clock), url="memory://", namespace="n", clock=bench.clock)
    for ttl_us, wait in ((SECOND_US, 0.6), (10 * SECOND_US, 6)):
        before = bench.clock.elapsed()
        with pytest.raises(StoreUnavailableError, match="no answer"):
            await bench.clock.run(elections.campaign(Candidate(incarnation="1", name="one"), ttl_us=ttl_us))
        assert bench.clock.elapsed() - before == pytest.approx(wait)


# -- what is in the way


async def test_a_full_store_takes_no_instance_but_every_record(bench: Bench) -> None:
    rows = [await bench.schedule(name) for name in "ab"]
    bench.data.max_keys = len(await bench.keys_below("n/"))
    fires = [bench.fire(rows[0], 0, MISSED), bench.fire(rows[1], 0)]
    revision = bench.data.revision
    with pytest.raises(StoreFullError):
        await bench.store.fire(fires, term=None)
    assert bench.data.revision == revision
    (answer,) = await bench.store.fire(fires[:1], term=None)
    assert answer.status is FireStatus.DONE


async def test_an_unreadable_instance_passes_the_slot_on(bench: Bench) -> None:
    row = await bench.schedule("a/b")
    ids = [await bench.fired(row, number, Overlap.QUEUE) for number in range(4)]
    await bench.kv.txn([Transaction([], [Put(bench.keys.state + id, b"\xc1") for id in (ids[0], ids[2])])])
    assert await bench.store.get([ids[0], ids[2]]) == [None, None]
    (row_now,) = await bench.store.get_schedules(["a/b"])
    assert row_now is not None
    assert (row_now.holder, row_now.parked) == (ids[1], (ids[3],))
    peer = await Peer(store=bench.store, info=bench.make.node(), make=bench.make).join()
    assert [claim.id for claim in await peer.take()] == [ids[1]]


@pytest.mark.parametrize("overlap", [Overlap.SKIP, Overlap.QUEUE, Overlap.REPLACE])
async def test_a_slot_that_was_left_behind_is_free(bench: Bench, overlap: Overlap) -> None:
    row = await bench.schedule()
    first = await bench.fired(row, 0, overlap)
    await bench.kv.txn([Transaction([], [Delete(bench.keys.state + first)])])
    second = await bench.fired(row, 1, overlap)
    (row_now,) = await bench.store.get_schedules(["s"])
    assert row_now is not None
    assert (row_now.holder, row_now.parked) == (second, ())


async def test_an_instance_that_waits_for_a_free_slot_gets_the_slot(bench: Bench) -> None:
    row = await bench.schedule()
    first, second = [await bench.fired(row, number, Overlap.QUEUE) for number in range(2)]
    await bench.kv.txn([Transaction([], [Delete(bench.keys.state + first)])])
    assert await bench.fired(row, 2, Overlap.SKIP) == ""
    peer = await Peer(store=bench.store, info=bench.make.node(), make=bench.make).join()
    assert [claim.id for claim in await peer.take()] == [second]


@pytest.mark.parametrize("table", ["schedule", "next", "slot"])
async def test_an_unreadable_schedule_is_logged_once_and_can_be_put_again(
    bench: Bench, table: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [await bench.schedule(name) for name in "ab"]
    for row in rows:
        await bench.fired(row, 0, Overlap.SKIP)
    await bench.kv.txn([Transaction([], [Put(f"n/{table}/a", b"\xc1")])])
    with caplog.at_level(logging.ERROR, logger="peerjob.store"):
        await bench.store.fire([bench.fire(row, 1) for row in rows], term=None)
        for _ in range(3):
            await bench.store.get_schedules(["a", "b"])
            await bench.store.changed_schedules(0)
    assert len(logged(caplog)) == 1
    peer = await Peer(store=bench.store, info=bench.make.node(), make=bench.make).join()
    for claim in await peer.take():
        assert await peer.end(claim) is Ack.DONE
    assert len((await bench.store.fires("b")).records) == 2
    if table != "slot":
        assert await bench.store.get_schedules(["a"]) == [None]
        row = await bench.schedule("a")
        assert await bench.fired(row, 0) != ""


async def test_an_unreadable_record_of_the_ledger_is_passed_over(bench: Bench) -> None:
    small = bench.another(limits=StoreLimits(max_fires=3))
    row = await bench.schedule()
    for number in range(3):
        await bench.fired(row, number)
    prefix = bench.keys.ledger(row.revision)
    second = (await bench.keys_below(prefix))[1]
    await bench.kv.txn([Transaction([], [Put(prefix + second, b"\xc1")])])
    assert len((await small.fires("s")).records) == 2
    for number in range(3, 6):
        (answer,) = await small.fire([bench.fire(row, number)], term=None)
        assert answer.status is FireStatus.DONE
    assert len((await small.fires("s")).records) == 3


async def test_nothing_is_left_of_a_removed_schedule(bench: Bench) -> None:
    row = await bench.schedule()
    for number in range(5):
        await bench.fired(row, number, Overlap.QUEUE)
    await bench.store.clear()
    await bench.store.remove_schedule("s", request="r1")
    await bench.clock.advance(REPEAT_US / 1_000_000 + 10)
    for table in ("schedule", "next", "changed", "ledger", "slot", "state", "args", "ready", "by"):
        assert await bench.keys_below(f"n/{table}/") == [], table


# -- what it costs


async def test_firing_many_costs_a_few_requests(bench: Bench) -> None:
    requests = 0

    class Counted(MemoryKeyValue):
        async def txn(
            self, transactions: Sequence[Transaction], also: Transaction | None = None, guards: Sequence[Compare] = ()
        ) -> Applied:
            nonlocal requests
            requests += 1
            return await super().txn(transactions, also, guards)

    store = bench.another(Counted(bench.data, bench.clock))
    rows = [await bench.schedule(str(number)) for number in range(100)]
    term = Term(coordinator="c", number=1)
    for number in range(3):
        bench.costs.reads = requests = 0
        fires = [bench.fire(row, number, overlap=Overlap.SKIP) for row in rows]
        assert {answer.status for answer in await store.fire(fires, term=term)} == {FireStatus.DONE}
        assert requests <= 12
        assert bench.costs.reads <= 500


async def test_firing_depends_neither_on_other_schedules_nor_on_the_past(bench: Bench) -> None:
    small = bench.another(limits=StoreLimits(max_fires=200))
    rows = [await bench.schedule(str(number)) for number in range(1000)]
    bench.costs.worst = 0
    for number in range(800):
        (answer,) = await small.fire([bench.fire(rows[0], number)], term=None)
        assert answer.status is FireStatus.DONE
        await bench.clock.advance(1)
    assert bench.costs.worst <= 150, bench.costs.worst_range
    assert len((await small.fires("0", limit=500)).records) == 200


async def test_a_read_of_changes_costs_as_much_as_there_are_changes(bench: Bench) -> None:
    for number in range(2000):
        await bench.schedule(str(number))
    revision, pages = 0, 0
    while True:
        page = await bench.store.changed_schedules(revision)
        revision, pages = page.revision, pages + 1
        if not page.more:
            break
    assert pages == 4
    bench.costs.worst = bench.costs.reads = 0
    for _ in range(10):
        assert (await bench.store.changed_schedules(revision)).rows == ()
    assert (bench.costs.reads, bench.costs.worst) == (10, 0)
    await bench.schedule("new")
    bench.costs.worst = 0
    assert [row.name for row in (await bench.store.changed_schedules(revision)).rows] == ["new"]
    assert bench.costs.worst <= 10, bench.costs.worst_range


async def test_a_commit_that_ends_an_instance_and_adds_lines_to_the_last_one_writes_the_slot_once(bench: Bench) -> None:
    row = await bench.schedule()
    peer = await Peer(store=bench.store, info=bench.make.node(), make=bench.make).join()
    _, _, third = [await bench.fired(row, number, Overlap.QUEUE) for number in range(3)]
    first_claim = await peer.take_one()
    await peer.end(first_claim)
    second_claim = await peer.take_one()
    lines = outcome(first_claim, Action.REPORT, logs=(bench.make.line("late"),))
    assert await peer.commit(outcome(second_claim), lines) == [Ack.DONE, Ack.DONE]
    (row_now,) = await bench.store.get_schedules([row.name])
    assert row_now is not None
    assert (row_now.holder, row_now.parked) == (third, ())
