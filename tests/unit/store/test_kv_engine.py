"""The engine when answers of the server are lost, and the keys that it leaves."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import pytest

from peerjob.model.errors import LayoutError, StoreUnavailableError
from peerjob.model.firing import SchedulePut
from peerjob.model.query import Filter, Query
from peerjob.model.record import MAX_HISTORY, Ack, Action, Claim, Outcome, Renewed, StoreLimits, Want
from peerjob.model.repeats import REPEAT_US
from peerjob.model.state import State
from peerjob.store.kv.format.base import (
    MAX_REQUEST_BYTES,
    MAX_WIDE_TRANSACTIONS,
    Applied,
    Compare,
    Delete,
    Found,
    Put,
    Range,
    Transaction,
    bytes_of,
)
from peerjob.store.kv.format.keys import Keys
from peerjob.store.kv.format.rows import SMALL
from peerjob.store.kv.store import KVStore
from peerjob.store.kv.write.context import KVCommands
from peerjob.store.kv.write.request_parts import cut
from peerjob.store.kv.write.transaction_plan import Change
from peerjob.store.memory.driver import MemoryKeyValue
from peerjob.store.rules import digest
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import Factory, Peer, outcome
from support.etcd_model import EtcdData
from support.records import logged

Result = TypeVar("Result")

LARGE = bytes(SMALL + 1)
"""Arguments with a separate key."""

REMEMBERED = REPEAT_US / 1_000_000 + 10
"""Seconds after which no enqueue is repeated."""
ENDS = (Action.COMPLETE, Action.COMPLETE, Action.RETRY, Action.HAND_BACK, Action.SNOOZE)


class Unreliable(MemoryKeyValue):
    """The memory driver over a connection that drops transactions or their answers."""

    share = 0.0
    """The share of transactions that fail, half of them before they are applied."""
    lose_next = 0
    """Answers to drop in any case."""

    async def txn(
        self, transactions: Sequence[Transaction], also: Transaction | None = None, guards: Sequence[Compare] = ()
    ) -> Applied:
        chance = self._clock.random.random()
        if chance < self.share / 2:
            raise StoreUnavailableError("memory://", "the request was lost")
        applied = await super().txn(transactions, also, guards)
        if also is not None and self.lose_next:
            self.lose_next -= 1
            raise StoreUnavailableError("memory://", "the answer was lost")
        if chance < self.share:
            raise StoreUnavailableError("memory://", "the answer was lost")
        return applied


class Bench:
    """A new namespace in memory, with a store and a factory."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.make = Factory(clock)
        self.data = EtcdData()
        self.keys = Keys("n")
        self.kv = Unreliable(self.data, clock)
        self.store = self.another(self.kv)

    def another(
        self, kv: MemoryKeyValue | None = None, limits: StoreLimits | None = None, retry_for: float = 0
    ) -> KVStore:
        """A further store on the same namespace."""
        return KVStore(
            kv or MemoryKeyValue(self.data, self.clock),
            url="memory://",
            namespace="n",
            clock=self.clock,
            limits=limits or StoreLimits(),
            retry_for=retry_for,
        )

    async def join(self, store: KVStore | None = None, name: str = "node") -> Peer:
        return await Peer(store=store or self.store, info=self.make.node(name), make=self.make).join()

    async def tables(self) -> Counter[str]:
        """The number of keys of each table of the namespace."""
        (found,) = await MemoryKeyValue(self.data, self.clock).read([Range("n/", "n0")])
        return Counter(key.split("/")[1] for key, _ in found.items)

    async def work(self, peer: Peer, number: str) -> list[str]:
        """Claim and commit over a bad connection; the answer is the completed ids."""
        want = Want(kinds={"work": 25}, limit=25)
        claim = partial(peer.store.claim, peer.incarnation, want, request=f"claim {number}")
        said = [outcome(claim, self.clock.random.choice(ENDS)) for claim in (await self.persist(claim)).claims]
        acks = await self.persist(partial(peer.commit, *said, request=f"commit {number}"))
        assert set(acks) <= {Ack.DONE}
        await self.clock.advance(0.01)
        return [one.id for one in said if one.action is Action.COMPLETE]

    async def spoil(self, *ids: str) -> None:
        """Make some records unreadable."""
        await self.kv.txn([Transaction([], [Put(self.keys.state + id, b"\xc1 spoilt") for id in ids])])

    async def persist(self, call: Callable[[], Awaitable[Result]]) -> Result:
        """Call until an answer comes."""
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


# -- answers that never come


async def test_a_repeated_claim_whose_answer_was_lost_gets_the_same_instances(bench: Bench) -> None:
    peer = await bench.join()
    await bench.store.enqueue(bench.make.instances(100))
    want = Want(kinds={"work": 70}, limit=70)
    bench.kv.lose_next = 1
    with pytest.raises(StoreUnavailableError):
        await bench.store.claim(peer.incarnation, want, request="r")
    held = (await peer.renew()).held or ()
    claimed = await bench.store.claim(peer.incarnation, want, request="r")
    assert {claim.id for claim in claimed.claims} == {one.id for one in held}
    assert (await peer.renew(*claimed.claims)).held is None


async def test_a_repeated_commit_whose_answer_was_lost_gets_the_same_answer(bench: Bench) -> None:
    peer, thief = await bench.join(), await bench.join(name="thief")
    await bench.store.enqueue(bench.make.instances(120))
    claims = await peer.take()
    said = [outcome(claim, Action.RETRY if at % 2 else Action.COMPLETE) for at, claim in enumerate(claims)]
    bench.kv.lose_next = 1
    with pytest.raises(StoreUnavailableError):
        await peer.commit(*said, request="r")
    assert 0 < len(await thief.take()) < 60  # some were written, and some were not
    assert await peer.commit(*said, request="r") == [Ack.DONE] * 120


async def test_verbs_are_tried_again_while_the_server_is_away(bench: Bench) -> None:
    peer = await bench.join(bench.another(bench.kv, retry_for=30))
    bench.kv.lose_next = 3
    await bench.clock.run(peer.store.enqueue(bench.make.instances(10)))
    bench.kv.lose_next = 3
    claims = await bench.clock.run(peer.take())
    bench.kv.lose_next = 3
    acks, _ = await bench.clock.run(
        peer.store.turn(peer.incarnation, [*map(outcome, claims)], peer.want(), request="r")
    )
    assert acks == [Ack.DONE] * 10
    assert (await peer.store.health()).counts == {"work": {State.COMPLETED: 10}}


@pytest.mark.parametrize("share", [0.1, 0.4])
async def test_no_instance_is_lost_or_done_twice_over_a_bad_connection(bench: Bench, share: float) -> None:
    lines = [Unreliable(bench.data, bench.clock) for _ in range(4)]
    stores = [bench.another(line) for line in lines]
    peers = [await bench.join(store) for store in stores[:3]]
    for line in lines:
        line.share = share
    batches = [*(bench.make.instances(30) for _ in range(8)), bench.make.instances(5, delay_us=50_000, spec=LARGE)]
    for batch in batches:
        await bench.persist(partial(stores[3].enqueue, batch))

    accepted: Counter[str] = Counter()
    for number in range(1000):
        peer = peers[number % 3]
        accepted.update(await bench.work(peer, str(number)))
        # a node hands back claims whose answer was lost
        held = (await bench.persist(peer.renew)).held or ()
        back = [Outcome(id=one.id, fence=one.fence, action=Action.HAND_BACK) for one in held]
        await bench.persist(partial(peer.commit, *back, request=f"back {number}"))
        if len(accepted) == 245:
            break

    assert set(accepted) == {new.id for batch in batches for new in batch}
    assert set(accepted.values()) == {1}
    for store in (*stores, stores[0]):
        await bench.persist(store.health)
    health = await bench.another().health()
    assert (health.counts, health.delayed) == ({"work": {State.COMPLETED: 245}}, 0)
    tables = await bench.tables()
    assert tables["by"] == tables["state"] == tables["expiry"] == 245
    assert tables["args"] == 5
    assert not {"own", "ready", "due", "unique"} & tables.keys()


async def test_a_wrong_counter_is_put_right_within_the_hour(bench: Bench) -> None:
    peer = await bench.join()
    await bench.store.enqueue([*bench.make.instances(3), bench.make.instance(kind="rest")])
    _, cancelled = await peer.take(2)
    await bench.store.cancel([cancelled.id], request="r")
    assert len((await peer.claim(Want(kinds={"rest": 1}, limit=1))).claims) == 1
    await bench.kv.txn([Transaction([], [Delete(f"{bench.keys.count}work/", f"{bench.keys.count}work0")])])
    other = bench.another()
    await other.enqueue([*bench.make.instances(2), *bench.make.instances(2, delay_us=9_000_000_000)])
    rest = {"rest": {State.PROCESSING: 1}}
    assert (await other.health()).counts == {"work": {State.SCHEDULED: 4}, **rest}
    await bench.clock.advance(3600)
    work = {State.SCHEDULED: 5, State.PROCESSING: 1, State.CANCELLED: 1}
    for _ in range(2):
        health = await other.health()
        assert (health.counts, health.delayed) == ({"work": work, **rest}, 2)


async def test_a_lookup_finds_claims_of_a_node_that_joins_meanwhile(bench: Bench) -> None:
    class Slow(MemoryKeyValue):
        """A node joins and claims all instances between the first two reads."""

        reads = 0

        async def read(self, ranges: Sequence[Range]) -> list[Found]:
            self.reads += 1
            if self.reads == 2:
                await (await bench.join(name="late")).take()
            return await super().read(ranges)

    new = bench.make.instances(5)
    await bench.join()
    await bench.store.enqueue(new)
    page = await bench.another(Slow(bench.data, bench.clock)).lookup(Query(kind="work", state=State.ACTIVE))
    assert [(one.id, one.state) for one in page.records] == [(one.id, State.PROCESSING) for one in new]


# -- what is left behind


async def test_clear_leaves_nothing_of_the_instances(bench: Bench) -> None:
    peer = await bench.join()
    await bench.store.enqueue(bench.make.instances(50, tags=("a", "b")))
    await bench.store.enqueue(bench.make.instances(50, delay_us=60_000_000))
    await bench.store.enqueue([bench.make.instance(key=str(number)) for number in range(50)])
    claims = await peer.take(60)
    lines = (bench.make.line("one"), bench.make.line("two"))
    await peer.commit(*(outcome(claim, result=b"r", progress=b"p", logs=lines) for claim in claims[:30]))
    await bench.store.watch_final(peer.incarnation, [claim.id for claim in claims])
    await bench.store.cancel([claim.id for claim in claims[30:40]], request="r")
    await bench.store.clear()
    assert (await bench.store.health()).counts == {}
    assert (await bench.store.health()).delayed == 0
    await bench.clock.advance(REMEMBERED)
    assert (await bench.tables()).keys() <= NOT_OF_INSTANCES


async def test_retention_leaves_nothing_of_an_instance(bench: Bench) -> None:
    brief = bench.another(limits=StoreLimits(retention_us=1_000_000))
    peer = await bench.join(brief)
    await brief.enqueue([bench.make.instance(key=str(number), tags=("t",)) for number in range(20)])
    claims = await peer.take()
    logs = (bench.make.line("line"),)
    await peer.commit(*(outcome(claim, error=b"e", progress=b"p", logs=logs) for claim in claims))
    await bench.clock.advance(2)
    assert await brief.expire(100) == 20
    await bench.clock.advance(REMEMBERED)
    assert (await bench.tables()).keys() <= NOT_OF_INSTANCES


@pytest.mark.parametrize(("kept", "ahead"), [(60, 60), (3_600, 3_600), (7_200, 3_600)])
async def test_the_head_of_an_empty_expiry_queue_is_below_the_next_entry(bench: Bench, kept: int, ahead: int) -> None:
    """So the end of an instance need not move the head. An hour suffices, as other stores may keep less."""
    brief = bench.another(limits=StoreLimits(retention_us=kept * 1_000_000))
    peer = await bench.join(brief)
    await brief.enqueue(bench.make.instances(1))
    await peer.end(await peer.take_one())
    await bench.clock.advance(kept + 1)
    now_us = bench.clock.time_us()
    assert await brief.expire(10) == 1
    (heads,) = await bench.kv.read([Range("n/head/expiry/", "n/head/expiry0")])
    assert [int(entry.value[:18]) - now_us for _, entry in heads.items] == [ahead * 1_000_000]


async def test_a_lookup_removes_instances_that_were_set_aside_from_the_index_of_a_tag(bench: Bench) -> None:
    peer = await bench.join()
    first, second, third = bench.make.instances(3, tags=("t",))
    await bench.store.enqueue([first, second, third])
    await bench.spoil(first.id)
    assert len(await peer.take()) == 2
    await bench.spoil(second.id)
    found = (await bench.store.lookup(Query(tag="t"))).records
    assert [record.id for record in found] == [third.id]
    (index,) = await bench.kv.read([Range("n/tag/", "n/tag0")])
    assert [key.rsplit("/", 1)[1] for key, _ in index.items] == [third.id]


async def test_the_registration_of_a_dead_waiter_is_deleted(bench: Bench) -> None:
    """Also for an instance that never ends."""
    peer = await bench.join()
    (late,) = bench.make.instances(1, delay_us=10**12)
    await bench.store.enqueue([late])
    await bench.store.watch_final(peer.incarnation, [late.id])
    await bench.store.leave(peer.incarnation)
    await bench.clock.advance(601)
    assert "watch" not in await bench.tables()


async def test_a_node_that_leaves_has_no_keys(bench: Bench) -> None:
    peer = await bench.join()
    await bench.store.enqueue(bench.make.instances(5))
    claims = await peer.take()
    await peer.end(claims[0])
    await peer.take()
    await bench.store.watch_changes(peer.incarnation, 60)
    assert await bench.store.leave(peer.incarnation) == 4
    gone = {"node", "live", "idle", "own", "journal", "changes", "hint"}
    assert not gone & (await bench.tables()).keys()


async def test_temporary_keys_end_with_their_leases(bench: Bench) -> None:
    mortal, reaper = await bench.join(), await bench.join(name="reaper")
    await bench.store.enqueue(bench.make.instances(2))
    claims = await mortal.take(1)
    await mortal.report(claims[0], started=True)
    await mortal.store.join(mortal.info, ttl_us=1_000_000)
    await bench.clock.advance(2)
    assert len(await bench.store.reap(10, reaper=reaper.incarnation)) == 1
    await reaper.take(1)
    assert {"charged", "journal"} <= (await bench.tables()).keys()
    await bench.clock.advance(601)
    assert not {"charged", "journal", "hint"} & (await bench.tables()).keys()


# -- records


@pytest.mark.parametrize("verb", ["claim", "commit", "cancel", "run_now", "watch_changes", "put_schedule"])
async def test_a_verb_works_again_after_the_server_has_ended_its_leases(bench: Bench, verb: str) -> None:
    """Such as an etcd that was restored from a snapshot. The first try may fail, as it is what learns of it."""
    peer = await bench.join()
    await bench.store.enqueue(bench.make.instances(2))
    first, second = await peer.take(2)
    put = SchedulePut(name="s", kind="work", definition=b"", next_us=bench.clock.time_us())

    async def use(claim: Claim, request: str) -> object:
        match verb:
            case "claim":
                await bench.join(name=request)  # it wakes none, and so each claim registers anew
                return await peer.claim(peer.want(kinds={request: 1}))
            case "commit":
                return await peer.commit(outcome(claim), request=request)
            case "cancel":
                return await bench.store.cancel([claim.id], request=request)
            case "run_now":
                return await bench.store.run_now([claim.id], request=request)
            case "watch_changes":
                await bench.store.watch_changes(peer.incarnation, 60)
                return None
            case _:
                return await bench.store.put_schedule(put)

    await use(first, "first")
    live = bench.keys.live
    for lease in {entry.lease for key, entry in bench.data.entries.items() if entry.lease and not key.startswith(live)}:
        await bench.kv.revoke(lease)
    with contextlib.suppress(StoreUnavailableError):
        await use(second, "second")
    await use(second, "third")


async def test_an_unreadable_record_is_set_aside(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    peer = await bench.join()
    bad, good, running = bench.make.instances(3, key=None, kind="work")
    keyed = bench.make.instance(key="k", tags=("t",))
    await bench.store.enqueue([running])
    claim = await peer.take_one()
    await bench.store.enqueue([bad, keyed, good])
    await bench.spoil(bad.id, keyed.id, running.id)

    with caplog.at_level(logging.ERROR, logger="peerjob.store"):
        assert [one.id for one in await peer.take()] == [good.id]
        assert await bench.store.get([bad.id, running.id]) == [None, None]
        assert await peer.end(claim) is Ack.LOST
    assert len(logged(caplog)) == 3
    health = await bench.store.health()
    assert (health.undecodable, health.counts) == (3, {"work": {State.PROCESSING: 1}})
    assert (await peer.renew()).held != ()
    assert [one.id for one in (await bench.store.lookup(Query())).records] == [good.id]
    # the key of an unreadable instance is free
    again = bench.make.instance(key="k")
    assert (await bench.store.enqueue([again]))[0].is_new


@pytest.mark.parametrize("size", [0, SMALL, SMALL + 1])
async def test_large_values_have_separate_keys_and_are_removed_with_the_record(bench: Bench, size: int) -> None:
    brief = bench.another(limits=StoreLimits(retention_us=1_000_000))
    peer = await bench.join(brief)
    new = bench.make.instance(spec=bytes(size))
    await brief.enqueue([new])
    claim = await peer.take_one()
    assert claim.spec == new.spec
    await peer.commit(outcome(claim, Action.RETRY, error=bytes(size)))
    (record,) = await bench.store.get([new.id])
    assert record is not None
    assert (record.error, record.result) == (bytes(size), None)
    claim = await peer.take_one()
    await peer.commit(outcome(claim, result=bytes(size // 2), error=bytes(size - size // 2)))
    (record,) = await bench.store.get([new.id])
    assert record is not None
    assert (record.result, record.error) == (bytes(size // 2), bytes(size - size // 2))
    own_key = size > SMALL
    tables = await bench.tables()
    assert (tables["args"], tables["out"]) == (own_key, own_key)
    await bench.clock.advance(2)
    assert await brief.expire(10) == 1
    assert not {"args", "out"} & (await bench.tables()).keys()
    await bench.clock.advance(REMEMBERED)
    assert "state" not in await bench.tables()


async def test_an_instance_without_arguments_is_set_aside(bench: Bench) -> None:
    peer = await bench.join()
    first, second = bench.make.instances(2, spec=LARGE)
    await bench.store.enqueue([first, second])
    await bench.kv.txn([Transaction([], [Delete(bench.keys.args + first.id)])])
    assert [claim.id for claim in await peer.take()] == [second.id]
    assert (await bench.store.health()).undecodable == 1


async def test_unreadable_final_ones_do_not_stop_retention(bench: Bench) -> None:
    brief = bench.another(limits=StoreLimits(retention_us=1_000_000, max_final_per_kind=1))
    peer = await bench.join(brief)
    await brief.enqueue(bench.make.instances(20))
    claims = await peer.take()
    await peer.commit(*map(outcome, claims[:10]))
    await bench.spoil(*(claim.id for claim in claims[:10:2]))
    await bench.clock.advance(2)
    for claim in claims[10:]:
        await peer.end(claim)
    await bench.clock.advance(2)
    while await brief.expire(10):
        pass
    assert (await brief.health()).counts == {}
    assert (await bench.tables())["expiry"] == 0


async def test_a_state_record_stays_small(bench: Bench) -> None:
    peer = await bench.join(name="a node with a name of some length")
    (new,) = bench.make.instances(1)
    await bench.store.enqueue([new])
    for _ in range(MAX_HISTORY):
        await peer.end(await peer.take_one(), Action.RETRY, note="retry 12 of 50 in 30s: " + "ü" * 1000)
    (entry,) = await bench.kv.get([bench.keys.state + new.id])
    assert entry is not None
    assert len(entry.value) <= 4096
    (record,) = await bench.store.get([new.id])
    assert record is not None
    assert sum(entry.count for entry in record.history) == 2 + 2 * MAX_HISTORY


async def test_lines_that_processors_log_after_the_end_are_kept(bench: Bench) -> None:
    peer, other = await bench.join(), await bench.join(name="other")
    await bench.store.enqueue(bench.make.instances(1))
    claim = await peer.take_one()
    await peer.end(claim)
    late = (bench.make.line("late"),)
    assert await peer.report(claim, logs=late) is Ack.DONE
    assert await other.report(claim, logs=late) is Ack.LOST
    assert await peer.report(claim, logs=late, progress=b"p") is Ack.LOST
    assert [line.message for line in (await bench.store.logs(claim.id)).lines] == ["late"]
    (record,) = await bench.store.get([claim.id])
    assert record is not None
    assert (record.owner, record.progress) == (peer.incarnation, None)


async def test_a_newer_layout_is_refused(bench: Bench) -> None:
    await bench.kv.txn([Transaction([], [Put(bench.keys.layout, b"99")])])
    with pytest.raises(LayoutError, match="99"):
        await bench.another().open()


async def test_a_lease_is_renewed_from_another_thread(bench: Bench) -> None:
    peer = await bench.join()
    await bench.store.enqueue(bench.make.instances(2))
    claims = await peer.take()
    liveness = bench.store.liveness()

    def renew() -> Renewed:
        fences = [claim.fence for claim in claims]
        call = liveness.renew(peer.incarnation, ttl_us=5_000_000, running=2, count=2, fences_digest=digest(fences))
        return asyncio.run(call)

    renewed = await asyncio.to_thread(renew)
    assert (renewed.dead, renewed.held) == (False, None)
    assert (await bench.store.nodes())[0].running == 2


async def test_clearing_many_kinds_goes_in_bounded_steps(bench: Bench) -> None:
    kinds = [f"kind/{number}" for number in range(150)]
    peer = await bench.join()
    await bench.store.enqueue([bench.make.instance(kind=kind) for kind in kinds])
    want = Want(kinds=dict.fromkeys(kinds, 10), limit=500)
    claimed = await bench.store.claim(peer.incarnation, want, request="r")
    assert [claim.kind for claim in claimed.claims] == kinds
    assert set(await peer.commit(*map(outcome, claimed.claims))) == {Ack.DONE}
    assert await bench.store.clear_instances(Filter(), limit=100) == 100
    assert await bench.store.clear_instances(Filter(), limit=100) == 50
    assert await bench.store.clear_instances(Filter()) == 0


NOT_OF_INSTANCES = {"layout", "counted", "count", "head", "node", "live", "idle", "journal", "hint"}


@pytest.mark.parametrize("size", [10, 10_000, MAX_REQUEST_BYTES // 3, MAX_REQUEST_BYTES * 2 // 3, MAX_REQUEST_BYTES])
def test_a_batch_is_cut_where_the_next_change_does_not_fit(size: int) -> None:
    """Also by bytes, with those of the first change of each request."""
    changes = [Change([], [Put(f"key {number:03}", bytes(size))], adds=(("q", ""),)) for number in range(130)]
    parts = list(cut(changes))
    assert [change for part in parts for change in part] == changes
    sizes = [sum(bytes_of(change.compares, change.ops) for change in part) for part in parts]
    assert all(total <= MAX_REQUEST_BYTES or len(part) == 1 for total, part in zip(sizes, parts, strict=True))
    assert all(len(part) <= MAX_WIDE_TRANSACTIONS for part in parts)
    one = bytes_of((), changes[0].ops)
    assert all(
        total + one > MAX_REQUEST_BYTES or len(part) == MAX_WIDE_TRANSACTIONS
        for total, part in zip(sizes, parts[:-1], strict=False)
    )


def test_the_verb_groups_define_different_names() -> None:
    """`KVStore` inherits all groups, so of two methods with the same name, one would be hidden."""
    groups = [base for base in KVStore.__mro__ if issubclass(base, KVCommands)]
    names = Counter(name for group in groups for name in vars(group) if not name.startswith("__"))
    assert len(groups) > 10
    assert [name for name, count in names.items() if count > 1] == []
