"""A damaged value of the key-value engine: the record decides, a good value replaces it, or it alone is left out."""

from __future__ import annotations

import logging
from typing import Any, Unpack

import msgspec
import pytest

from peerjob.model.audit import AuditRecord
from peerjob.model.firing import Candidate, Fire, FireOutcome, FireStatus, Overlap, SchedulePut, ScheduleRow
from peerjob.model.query import Query
from peerjob.model.record import Ack, NodeView, StoreLimits, Want
from peerjob.model.state import State
from peerjob.model.stored_limit import KindLimits
from peerjob.store.kv.format.base import Entry, Put, Transaction
from peerjob.store.kv.format.keys import below
from peerjob.store.kv.format.rows import decode_row
from peerjob.store.kv.store import KVStore
from peerjob.store.memory.data import MemoryData
from peerjob.store.memory.driver import MemoryKeyValue
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import Factory, InstanceOptions, Peer

DAMAGED = [b"", b"\xff\xfe", b"9" * 400, b"\x93\x02\xa3abc\xcc\x80", b"\xcf" + b"\xff" * 8]


class Bench:
    """A namespace in memory, whose values a test can replace."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.make = Factory(clock)
        self.kv = MemoryKeyValue(MemoryData(), clock)
        self.store = self.another()

    def another(self) -> KVStore:
        """A further store, which remembers nothing."""
        return KVStore(self.kv, url="memory://", namespace="n", clock=self.clock, limits=StoreLimits(), retry_for=0)

    async def join(self, name: str = "node") -> Peer:
        return await Peer(store=self.another(), info=self.make.node(name), make=self.make).join()

    async def entry(self, key: str) -> Entry:
        (entry,) = await self.kv.get([f"n/{key}"])
        assert entry is not None, key
        return entry

    async def put(self, key: str, data: bytes) -> None:
        """Replace a value, as a damage would."""
        await self.kv.txn([Transaction([], [Put(f"n/{key}", data, (await self.entry(key)).lease)])])

    async def put_field(self, key: str, place: int, value: Any) -> None:
        """Replace one field of a stored array."""
        fields = msgspec.msgpack.decode((await self.entry(key)).value)
        fields[place] = value
        await self.put(key, msgspec.msgpack.encode(fields))

    async def schedule(self, name: str = "s") -> ScheduleRow:
        put = SchedulePut(name=name, kind="work", definition=b"d", next_us=self.clock.time_us())
        row = await self.store.put_schedule(put)
        assert row is not None
        return row

    async def fire(self, row: ScheduleRow, **options: Unpack[InstanceOptions]) -> ScheduleRow:
        """Fire a schedule at its next time, in its slot; the schedule afterwards."""
        assert row.next_us is not None
        fire = Fire(
            schedule=row.name,
            revision=row.revision,
            nominal_us=row.next_us,
            next_us=row.next_us + 1_000_000,
            outcome=FireOutcome.FIRED,
            request=self.make.request(),
            instance=self.make.instance(**options),
            overlap=Overlap.QUEUE,
            queue_limit=9,
        )
        (answer,) = await self.store.fire([fire], term=None)
        assert answer.status is FireStatus.DONE
        (after,) = await self.store.get_schedules([row.name])
        assert after is not None
        return after


@pytest.fixture
def bench(clock: VirtualClock) -> Bench:
    return Bench(clock)


# -- records ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "value"),
    [(1, 0), (1, 1), (1, 6), (1, 128), (1, 2**62), (4, []), (0, ""), (8, -1), (1, int(State.PROCESSING))],
    ids=["no state", "created", "two states", "128", "huge", "no history", "no kind", "fence", "no owner"],
)
async def test_an_impossible_record_is_set_aside_and_the_others_are_claimed(
    bench: Bench, place: int, value: object
) -> None:
    peer = await bench.join()
    batch = bench.make.instances(4)
    await bench.store.enqueue(batch)
    await bench.put_field(f"state/{batch[1].id}", place, value)
    assert {claim.id for claim in [*await peer.take(), *await peer.take()]} == {batch[at].id for at in (0, 2, 3)}
    assert (await bench.store.health()).undecodable == 1


async def test_a_claim_beside_an_impossible_record_is_in_the_order_of_the_queue(bench: Bench) -> None:
    """The limit of the kind makes the claim look again, and it finds an earlier instance then."""
    peer = await bench.join()
    kinds = (("work", 0), ("work", 1), ("work", 2), ("other", 3))
    bad, first, second, third = (bench.make.instance(kind=kind, priority=place) for kind, place in kinds)
    await bench.store.enqueue([bad, first, second, third])
    await bench.put_field(f"state/{bad.id}", 1, 0)
    want, request = Want(kinds={"work": 2, "other": 2}, limit=10), bench.make.request()
    claimed = await peer.store.claim(peer.incarnation, want, request=request)
    assert [claim.id for claim in claimed.claims] == [first.id, second.id, third.id]
    assert (await bench.another().claim(peer.incarnation, want, request=request)).claims == claimed.claims


async def test_a_later_round_of_a_claim_puts_one_that_waited_for_its_key_behind_what_was_there(bench: Bench) -> None:
    """It takes its place in the queue when the key lets it pass, although it was due before."""
    await bench.store.publish_limits([KindLimits(kind="work", key_concurrency=1)])
    peer = await bench.join()
    ended, waiting = (
        bench.make.instance(limit_key="a", key_concurrency=1, due_us=due_us) for due_us in (1_000_000, 2_000_000)
    )
    bad, other = bench.make.instance(priority=1), bench.make.instance(kind="other")
    await bench.store.enqueue([ended, waiting, other])
    claim = await peer.take_one()
    await bench.store.enqueue([bad])
    await bench.clock.advance(1)
    await peer.end(claim)
    await bench.put_field(f"state/{bad.id}", 1, 0)
    claimed = await peer.claim(Want(kinds={"work": 1, "other": 1}, limit=10))
    assert [claim.id for claim in claimed.claims] == [other.id, waiting.id]


async def test_unreadable_limits_are_removed_after_other_kinds_were_published(bench: Bench) -> None:
    """The store keeps what it writes, and must not forget what it could not read."""
    published = [KindLimits(kind=kind, key_concurrency=1) for kind in ("damaged", "whole")]
    await bench.store.publish_limits(published)
    (key, _) = await _keys(bench, "limited/")
    await bench.put(key, b"?")
    store = bench.another()
    await store.publish_limits([KindLimits(kind="new", key_concurrency=1)])
    await store.publish_limits([KindLimits(kind="damaged")])
    assert len(await _keys(bench, "limited/")) == 2


async def test_a_clear_ends_the_count_of_what_was_set_aside(bench: Bench) -> None:
    new = bench.make.instance()
    assert (await bench.store.health()).undecodable == 0  # no count is due for an hour
    for _ in range(2):
        await bench.another().enqueue([new])
        await bench.put(f"state/{new.id}", b"")
        assert await bench.store.get([new.id]) == [None]
    await bench.store.clear()
    assert (await bench.store.health()).undecodable == 0


async def test_a_sum_below_zero_is_counted_anew(bench: Bench) -> None:
    await bench.store.enqueue(bench.make.instances(3))
    assert (await bench.store.health()).counts["work"] == {State.SCHEDULED: 3}
    (key,) = await _keys(bench, "count/work/")
    await bench.put(key, msgspec.msgpack.encode([-5] * 9))
    assert (await bench.another().health()).counts == {"work": {State.SCHEDULED: 3}}


async def test_a_history_with_an_impossible_state_is_refused(bench: Bench) -> None:
    (new,) = batch = bench.make.instances(1)
    await bench.store.enqueue(batch)
    await bench.put_field(f"state/{new.id}", 4, [[2**40, 0]])
    assert await bench.store.get([new.id]) == [None]


async def test_a_huge_fence_does_not_raise_the_fences_of_others(bench: Bench) -> None:
    peer = await bench.join()
    batch = bench.make.instances(2)
    await bench.store.enqueue(batch)
    await bench.put_field(f"state/{batch[0].id}", 8, 2**53 - 1)
    fences = {claim.id: claim.fence for claim in await peer.take()}
    assert fences[batch[1].id] <= bench.clock.time_us() + 2
    entry = await bench.entry(f"state/{batch[1].id}")
    assert decode_row(entry.value).state is State.PROCESSING


# -- entries that repeat a part of a record ---------------------------------------------------------------------------


@pytest.mark.parametrize("data", DAMAGED)
async def test_the_record_decides_about_an_unreadable_claim(bench: Bench, data: bytes) -> None:
    peer = await bench.join()
    await bench.store.enqueue([bench.make.instance()])
    claim = await peer.take_one()
    key = f"own/{peer.incarnation}/{claim.id}"
    before = (await bench.entry(key)).value
    await bench.put(key, data)
    assert (await peer.renew(claim)).held is None
    assert (await bench.entry(key)).value == before
    assert await peer.end(claim) is Ack.DONE


async def test_the_record_decides_about_a_claim_with_another_fence(bench: Bench) -> None:
    peer = await bench.join()
    await bench.store.enqueue([bench.make.instance()])
    claim = await peer.take_one()
    await bench.put_field(f"own/{peer.incarnation}/{claim.id}", 0, claim.fence + 7)
    assert (await peer.renew(claim)).held is not None
    assert (await peer.renew(claim)).held is None


async def test_a_claim_that_is_marked_as_cancelled_by_damage_goes_on(bench: Bench) -> None:
    peer = await bench.join()
    await bench.store.enqueue([bench.make.instance()])
    claim = await peer.take_one()
    await bench.put_field(f"own/{peer.incarnation}/{claim.id}", 2, True)
    assert (await peer.renew(claim)).cancelled == ()


@pytest.mark.parametrize("priority", [-1, 2**31 - 1])
async def test_an_instance_that_damage_led_to_a_wrong_queue_is_claimed(bench: Bench, priority: int) -> None:
    peer = await bench.join()
    new = bench.make.instance(delay_us=1_000_000)
    await bench.store.enqueue([new])
    due_us = bench.clock.time_us() + 1_000_000
    await bench.put_field(f"due/{new.id[-1]}/{due_us:018d}/{new.id}", 1, priority)
    await bench.clock.advance(2)
    assert [claim.id for claim in [*await peer.take(), *await peer.take()]] == [new.id]
    assert await bench.store.due() == {}


@pytest.mark.parametrize("data", [*DAMAGED, b"1abc", b"999999999999999999x", b"0 \xff"])
async def test_a_queue_with_an_unreadable_head_is_read_from_its_beginning(bench: Bench, data: bytes) -> None:
    peer = await bench.join()
    new = bench.make.instance()
    await bench.store.enqueue([new])
    await bench.put("head/ready/work/n/80000005", data)
    assert (await peer.take_one()).id == new.id


@pytest.mark.parametrize("data", DAMAGED)
async def test_an_idle_node_with_an_unreadable_registration_is_woken(bench: Bench, data: bytes) -> None:
    peer = await bench.join()
    assert await peer.take() == ()
    await bench.put(f"idle/{peer.incarnation}", data)
    await bench.store.enqueue([bench.make.instance()])
    hints = await peer.store.next_hints(peer.incarnation, 0)
    assert "work" in {hint.what for hint in hints}


# -- nodes and counters -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", DAMAGED)
async def test_a_node_writes_its_unreadable_record_anew(bench: Bench, data: bytes) -> None:
    peer, other = await bench.join(), await bench.join("other")
    await peer.renew()
    await bench.put(f"node/{peer.incarnation}", data)
    assert [view.name for view in await bench.store.nodes()] == [other.name]
    await bench.store.enqueue([bench.make.instance()])
    record = await bench.store.get([(await peer.take_one()).id])
    assert record[0] is not None
    assert record[0].history[-1].node == peer.name, "its name is not lost"
    assert not (await peer.renew()).dead
    assert [view.name for view in await bench.store.nodes()] == [peer.name, other.name]


@pytest.mark.parametrize("data", DAMAGED)
async def test_a_node_writes_its_unreadable_lease_anew(bench: Bench, data: bytes) -> None:
    peer = await bench.join()
    await peer.renew()
    lease = (await bench.entry(f"live/{peer.incarnation}")).lease
    await bench.put(f"live/{peer.incarnation}", data)
    assert {view.name for view in await bench.store.nodes()} == {peer.name}
    assert not (await peer.renew()).dead
    (view,) = await bench.store.nodes()
    assert isinstance(view, NodeView)
    assert view.renewed_us > 0
    assert (await bench.entry(f"live/{peer.incarnation}")).lease == lease


@pytest.mark.parametrize("data", DAMAGED)
async def test_an_unreadable_counter_is_counted_anew(bench: Bench, data: bytes) -> None:
    await bench.store.enqueue(bench.make.instances(3))
    (key,) = await _keys(bench, "count/work/")
    await bench.put(key, data)
    other = bench.another()
    await other.health()
    assert (await other.health()).counts == {"work": {State.SCHEDULED: 3}}
    assert (await bench.another().health()).counts == {"work": {State.SCHEDULED: 3}}
    assert msgspec.msgpack.decode((await bench.entry(key)).value)


@pytest.mark.parametrize("value", [b"text", b"\x99" + b"\xff" * 9])
async def test_a_wrong_counter_hides_no_instance(bench: Bench, value: bytes) -> None:
    new = bench.make.instance()
    await bench.store.enqueue([new])
    (key,) = await _keys(bench, "count/work/")
    await bench.put(key, value)
    assert [record.id for record in (await bench.another().lookup(Query())).records] == [new.id]


async def _keys(bench: Bench, prefix: str) -> list[str]:
    (found,) = await bench.kv.read([below(f"n/{prefix}")])
    return [key[2:] for key, _ in found.items]


@pytest.mark.parametrize("data", [b"", b"\xff", b"two", b"-5", b"9" * 400])
async def test_a_layout_that_is_no_number_is_written_anew(bench: Bench, data: bytes) -> None:
    peer = await bench.join()
    await bench.put("layout", data)
    await bench.store.enqueue([bench.make.instance()])
    assert len(await peer.take()) == 1
    assert not (await peer.renew()).dead
    assert (await bench.entry("layout")).value == b"2"


@pytest.mark.parametrize("data", [b"", b"\xff", b"9" * 400, b"-5"])
async def test_an_unreadable_number_of_the_audit_log_is_found_again(bench: Bench, data: bytes) -> None:
    for number in range(3):
        await bench.store.add_audit([_audit(bench, number)])
    await bench.put("audit/next", data)
    assert [record.verb for record in await bench.store.audit()] == ["verb 2", "verb 1", "verb 0"]
    await bench.store.add_audit([_audit(bench, 3)])
    assert [record.verb for record in await bench.store.audit()] == ["verb 3", "verb 2", "verb 1", "verb 0"]


def _audit(bench: Bench, number: int) -> Any:
    return AuditRecord(id=bench.make.id(), at_us=bench.clock.time_us(), principal="p", verb=f"verb {number}")


# -- the leader -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", DAMAGED)
async def test_an_unreadable_leader_is_no_leader(bench: Bench, data: bytes) -> None:
    first, second = bench.store.elections(), bench.store.elections()
    for elections in (first, second):
        await elections.open()
    before = await first.campaign(Candidate(incarnation="a", name="a"), ttl_us=5_000_000)
    await bench.put("leader/now", data)
    assert await second.leader() is None
    after = await second.campaign(Candidate(incarnation="b", name="b"), ttl_us=5_000_000)
    assert after.name == "b"
    assert after.term.coordinator == before.term.coordinator
    assert after.term.number > before.term.number
    await bench.clock.advance(4)
    assert await first.campaign(Candidate(incarnation="a", name="a"), ttl_us=5_000_000) == after
    for elections in (first, second):
        await elections.close()


@pytest.mark.parametrize("data", [b"", b"\xff" * 16, b"9" * 400])
async def test_an_unreadable_origin_of_terms_is_written_anew(bench: Bench, data: bytes) -> None:
    elections = bench.store.elections()
    await elections.open()
    candidate = Candidate(incarnation="a", name="a")
    before = await elections.campaign(candidate, ttl_us=5_000_000)
    await bench.put("leader/token", data)
    assert await elections.leader() is not None
    await bench.clock.advance(4)
    after = await elections.campaign(candidate, ttl_us=5_000_000)
    assert after.term.coordinator not in {before.term.coordinator, f"{bench.kv.identity}:"}
    await elections.close()


# -- schedules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"\x93\xff\x00\x00", *DAMAGED])
async def test_unreadable_revisions_are_found_again(bench: Bench, data: bytes) -> None:
    for name in ("a", "b", "c"):
        await bench.schedule(name)
    await bench.store.remove_schedule("b", request="r")
    await bench.put("schedules/now", data)
    page = await bench.another().changed_schedules(0)
    assert {row.name for row in page.rows} == {"a", "c"}
    assert page.revision == 4
    await bench.put("schedules/now", data)
    assert (await bench.schedule("d")).revision == 5
    assert {row.name for row in (await bench.store.changed_schedules(page.revision)).rows} == {"d"}


async def test_a_revision_that_is_too_low_hides_no_schedule_from_a_leader(bench: Bench) -> None:
    for name in ("a", "b", "c"):
        await bench.schedule(name)
    await bench.put_field("schedules/now", 0, 1)
    page = await bench.store.changed_schedules(3)
    assert page.revision == 3
    assert (await bench.schedule("d")).revision == 4


@pytest.mark.parametrize("part", ["schedule", "next"])
@pytest.mark.parametrize("data", DAMAGED)
async def test_an_unreadable_schedule_is_left_out_reported_once_and_can_be_removed(
    bench: Bench, part: str, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    await bench.schedule("bad")
    good = await bench.schedule("good")
    await bench.put(f"{part}/bad", data)
    with caplog.at_level(logging.ERROR, "peerjob.store"):
        for _ in range(3):
            assert [row.name for row in (await bench.store.changed_schedules(0)).rows] == ["good"]
            assert (await bench.store.get_schedules(["bad", "good"]))[0] is None
    assert len(caplog.records) == 1
    assert (await bench.store.health()).undecodable == 1
    await bench.fire(good)
    assert await bench.store.remove_schedule("bad", request="r")
    assert (await bench.store.health()).undecodable == 0
    assert await _keys(bench, "schedule/") == ["schedule/good"]
    assert await _keys(bench, "next/") == ["next/good"]


async def test_the_slot_of_an_unreadable_record_goes_to_an_instance_with_a_limit_key(bench: Bench) -> None:
    peer, row = await bench.join(), await bench.schedule()
    for _ in range(3):
        row = await bench.fire(row, limit_key="a", key_concurrency=1)
    assert row.holder is not None
    await bench.put(f"state/{row.holder}", b"\xff\xfe")
    for parked in row.parked:
        claim = await peer.take_one()
        assert claim.id == parked
        assert await peer.end(claim) is Ack.DONE
    assert (await bench.store.key_limits("work")).views == ()


@pytest.mark.parametrize("data", DAMAGED)
async def test_an_unreadable_slot_is_written_anew_from_the_ledger(bench: Bench, data: bytes) -> None:
    peer, row = await bench.join(), await bench.schedule()
    for _ in range(3):
        row = await bench.fire(row)
    assert len(row.parked) == 2
    claim = await peer.take_one()
    assert claim.id == row.holder
    await bench.put("slot/s", data)
    assert await peer.end(claim) is Ack.DONE
    second = await peer.take_one()
    assert second.id == row.parked[0]
    await bench.put("slot/s", data)
    row = await bench.fire(row)
    assert (row.holder, len(row.parked)) == (second.id, 2)
    assert await peer.end(second) is Ack.DONE
    assert (await peer.take_one()).id == row.parked[0]
