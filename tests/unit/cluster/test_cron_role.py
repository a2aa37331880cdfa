"""The cron role: every nominal time is recorded once, also after a change of the leader."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from typing import Unpack

import msgspec
import pytest

from peerjob import Query, State, StoreFullError, StoreRefusedError
from peerjob.model.definition import encode_definition
from peerjob.model.firing import FireOutcome, FireRecord, Leader, Overlap, SchedulePage, SchedulePut, ScheduleRow, Term
from peerjob.model.record import Record
from peerjob.model.spec import decode_spec
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import Factory, Peer
from support.factories import memory_store, shared_url
from support.leaders import SECOND, TTL, ElectionNode, Fields, Misfire, accounted, definition, put, read_ledger
from support.records import logged

MINUTE = 60 * SECOND


class Bench:
    """A memory store, a look at it, and the nodes that stand for its leader."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.url = shared_url()
        self.store = memory_store(clock, self.url)
        self.started: list[ElectionNode] = []

    async def stand(self, name: str, kinds: tuple[str, ...] = ("k",)) -> ElectionNode:
        node = ElectionNode(self.clock, memory_store(self.clock, self.url), name, kinds=kinds)
        self.started.append(node)
        return await node.start()

    async def put(self, name: str = "s", *, old: ScheduleRow | None = None, **fields: Unpack[Fields]) -> ScheduleRow:
        given: Fields = {"anchor_us": self.clock.time_us(), **fields}
        wanted = definition(**given)
        return await put(self.store, name, wanted, now_us=self.clock.time_us(), old=old)

    async def row(self, name: str = "s") -> ScheduleRow:
        (row,) = await self.store.get_schedules([name])
        assert row is not None
        return row

    async def ledger(self, name: str = "s") -> list[FireRecord]:
        return await read_ledger(self.store, name)

    async def outcomes(self, name: str = "s") -> dict[str, int]:
        """Nominal times by what became of them."""
        counts: Counter[str] = Counter()
        for record in await self.ledger(name):
            counts[str(record.outcome)] += record.count
        return dict(counts)

    async def instances(self) -> list[Record]:
        return list((await self.store.lookup(Query(limit=1000))).records)

    async def peer(self, name: str = "worker", kinds: tuple[str, ...] = ("k",)) -> Peer:
        make = Factory(self.clock)
        return await Peer(store=self.store, info=make.node(name, kinds), make=make).join()

    def leader(self) -> ElectionNode:
        (leader,) = [one for one in self.started if one.election.is_leader]
        return leader


@pytest.fixture
async def bench(clock: VirtualClock) -> AsyncIterator[Bench]:
    bench = Bench(clock)
    await bench.store.open()
    yield bench
    for one in bench.started:
        one.flaky.heal()
        await clock.run(one.stop())


async def test_a_schedule_fires_when_it_is_due(clock: VirtualClock, bench: Bench) -> None:
    await bench.stand("a")
    began_us = clock.time_us()
    await bench.put(priority=3, tags=("t",), retention_us=7, max_crashes=9)
    await clock.advance(3.2)
    records = await bench.ledger()
    assert [record.nominal_us - began_us for record in records] == [SECOND, 2 * SECOND, 3 * SECOND]
    assert all(record.late_us < 2_000 for record in records)
    assert {(record.outcome, record.node) for record in records} == {(FireOutcome.FIRED, "a")}
    leader = bench.leader().election.leader
    assert leader is not None
    assert {(record.term, record.coordinator) for record in records} == {(leader.term.number, leader.term.coordinator)}
    instances = await bench.instances()
    assert sorted(one.id for one in instances) == sorted(record.instance for record in records)
    first = min(instances, key=lambda one: one.id)
    spec = decode_spec(first.spec)
    assert (spec.schedule, spec.nominal_us, spec.arguments()) == ("s", records[0].nominal_us, ((), {}))
    assert abs(spec.created_us - first.due_us) < 2_000
    assert (first.kind, first.priority, first.tags, first.due_us) == ("k", 3, ("t",), records[0].nominal_us)


async def test_nothing_fires_without_a_leader(clock: VirtualClock, bench: Bench) -> None:
    node = await bench.stand("a")
    await clock.advance(1)
    await bench.put()
    node.may_lead = False
    await clock.advance(10)
    assert await bench.ledger() == []


async def test_a_schedule_that_is_put_or_changed_or_removed_takes_effect_at_once(
    clock: VirtualClock, bench: Bench
) -> None:
    node = await bench.stand("a")
    await clock.advance(1.5)
    row = await bench.put(every_us=MINUTE)
    node.cron.changed()  # the hint "schedule"
    await clock.advance(1)
    await bench.put(every_us=100_000, old=row)
    node.cron.changed()
    await clock.advance(0.55)
    assert len(await bench.ledger()) == 5
    assert await bench.store.remove_schedule("s", request="r1")
    node.cron.changed()
    await clock.advance(5)
    assert len(await bench.instances()) == 5
    assert node.flaky.calls["fire"] == 5


async def test_a_lost_hint_costs_a_second(clock: VirtualClock, bench: Bench) -> None:
    await bench.stand("a")
    await clock.advance(1.5)
    await bench.put(every_us=10_000)
    await clock.advance(1.1)
    assert await bench.outcomes() == {"fired": pytest.approx(110, abs=2)}


async def test_a_leader_that_missed_a_change_reads_the_schedule_again(clock: VirtualClock, bench: Bench) -> None:
    node = await bench.stand("a")
    row = await bench.put()
    await clock.advance(2.5)
    stall = node.flaky.fail("changed_schedules")
    changed = await bench.put(every_us=2 * SECOND, anchor_us=clock.time_us(), old=await bench.row())
    assert changed.revision > row.revision
    await clock.advance(0.9)
    assert len(await bench.ledger()) == 2
    stall.left = 0
    await clock.advance(3.5)
    assert [one.outcome for one in await bench.ledger()] == [FireOutcome.FIRED] * 4


async def test_a_paused_schedule_does_not_fire_and_goes_on_when_it_is_resumed(
    clock: VirtualClock, bench: Bench
) -> None:
    await bench.stand("a")
    await bench.put()
    await clock.advance(3.5)
    row = await bench.row()
    wanted = definition(anchor_us=clock.time_us() - 3_500_000)
    paused = await put(bench.store, "s", wanted, now_us=row.last_us, old=row, paused=True)
    await clock.advance(10)
    assert await bench.outcomes() == {"fired": 3}
    account = FireRecord(
        nominal_us=row.last_us + SECOND, until_us=row.last_us + 10 * SECOND, count=10, outcome=FireOutcome.PAUSED
    )
    await put(bench.store, "s", wanted, now_us=clock.time_us(), old=paused, account=account)
    await clock.advance(5)
    assert await bench.outcomes() == {"fired": 8, "paused": 10}
    times = accounted(await bench.ledger(), wanted)
    assert times == list(range(times[0], times[0] + 18 * SECOND, SECOND))


# -- leaders come and go -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
async def test_every_second_is_accounted_for_over_failovers(seed: int) -> None:
    with VirtualClock(seed=seed) as clock:
        bench = Bench(clock)
        await bench.store.open()
        for name in "abcde":
            await bench.stand(name)
        await clock.advance(2)
        policies: tuple[Misfire, ...] = ("skip", "run_once", "run_all")
        anchor_us = clock.time_us()
        for policy in policies:
            await bench.put(policy, misfire=policy, anchor_us=anchor_us)
        for way in ("stop", "pause", "kill", "pause", "cut"):
            await clock.advance(5 + clock.random.random() * 5)
            leader = bench.leader()
            match way:
                case "stop":
                    await clock.run(leader.stop())
                case "pause":
                    leader.pause()
                case "kill":
                    await leader.kill()
                case _:
                    leader.flaky.lose_answers("fire", times=3)
                    leader.flaky.fail("campaign", times=5)
            await clock.advance(TTL + 2)
            leader.resume()
        await clock.advance(5)
        for policy in policies:
            records = await bench.ledger(policy)
            times = accounted(records, definition(anchor_us=anchor_us))
            assert times == list(range(anchor_us + SECOND, anchor_us + (len(times) + 1) * SECOND, SECOND))
            assert times[-1] > clock.time_us() - 2 * SECOND
        missed = await bench.outcomes("skip")
        assert 2 <= missed["missed"] <= 4 * (TTL + 1)
        assert set(await bench.outcomes("run_once")) == {"fired", "coalesced"}
        assert set(await bench.outcomes("run_all")) == {"fired"}
        instances = [decode_spec(one.spec) for one in await bench.instances()]
        fired = Counter((spec.schedule, spec.nominal_us) for spec in instances)
        assert set(fired.values()) == {1}
        for one in bench.started:
            one.flaky.heal()
            await clock.run(one.stop())


async def test_a_node_that_hands_over_loses_no_fire(clock: VirtualClock, bench: Bench) -> None:
    await bench.stand("a")
    await clock.advance(1)
    await bench.stand("b")
    await bench.put(misfire="skip", every_us=100_000)
    await clock.advance(1)
    await clock.run(bench.leader().stop())
    await clock.advance(1)
    assert set(await bench.outcomes()) == {"fired"}
    assert {record.node for record in await bench.ledger()} == {"a", "b"}


def won_by(node: ElectionNode, coordinator: str, leader: Leader) -> Leader:
    """What a campaign answers where another coordinator lets this one lead."""
    term = Term(coordinator, leader.term.number)
    return msgspec.structs.replace(leader, incarnation=node.info.incarnation, term=term)


async def test_two_that_believe_to_lead_fire_once(clock: VirtualClock, bench: Bench) -> None:
    """Even without a term to compare, as from coordinators that know nothing of each other."""
    first, second = await bench.stand("a"), await bench.stand("b")
    await clock.advance(1)
    await bench.put()
    for one, name in ((first, "one"), (second, "other")):
        one.flaky.change_answers(partial(won_by, one, name), "campaign", times=None)
        one.election.soon()
    await clock.advance(20.5)
    assert first.election.is_leader
    assert second.election.is_leader
    records = await bench.ledger()
    assert len(records) == len({record.nominal_us for record in records}) == len(await bench.instances())
    assert await bench.outcomes() == {"fired": 20}
    assert min(first.flaky.calls["fire"], second.flaky.calls["fire"]) >= 19


async def test_a_store_that_saw_a_later_term_makes_the_leader_stand_anew(clock: VirtualClock, bench: Bench) -> None:
    node = await bench.stand("a")
    await clock.advance(1)
    await bench.put()
    await clock.advance(1.5)
    assert node.election.term is not None
    number = node.election.term.number

    def of_an_earlier_term(leader: Leader) -> Leader:
        return msgspec.structs.replace(leader, term=Term(leader.term.coordinator, number - 1))

    node.flaky.change_answers(of_an_earlier_term, "campaign", times=1)
    await clock.advance(10)
    assert node.election.term is not None
    assert node.election.term.number > number
    assert await bench.outcomes() == {"fired": 11}


# -- outages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (Fields(misfire="skip"), {"missed"}),
        (Fields(misfire="run_once"), {"coalesced"}),
        (Fields(misfire="run_all"), set[str]()),
        (Fields(misfire="run_all", misfire_limit=5), {"missed"}),
        (Fields(misfire="run_all", start_deadline_us=10 * SECOND), {"missed"}),
    ],
)
async def test_an_outage_is_made_up_for_by_policy(
    clock: VirtualClock, bench: Bench, fields: Fields, expected: set[str]
) -> None:
    node = await bench.stand("a")
    await clock.advance(1)
    await bench.put(**fields)
    await clock.advance(2.5)
    node.flaky.fail()
    await clock.advance(30)
    node.flaky.heal()
    await clock.advance(5)
    assert set(await bench.outcomes()) == {"fired"} | expected
    times = accounted(await bench.ledger(), definition(anchor_us=(await bench.row()).last_us - 37 * SECOND))
    assert times == list(range(times[0], times[0] + 37 * SECOND, SECOND))


async def test_catching_up_holds_up_nothing_that_is_due(clock: VirtualClock, bench: Bench) -> None:
    node = await bench.stand("a")
    await clock.advance(1)
    for at in range(300):
        await bench.put(f"late{at}", misfire="run_all", every_us=SECOND)
    node.flaky.fail()
    await clock.advance(60)
    await bench.put("timely", every_us=700_000)
    node.flaky.heal()
    node.flaky.slow(0.4, "fire")
    await clock.advance(9)
    assert 2 < len([one for one in await bench.ledger("late0") if one.outcome is FireOutcome.FIRED]) < 60
    records = [record for record in await bench.ledger("timely") if record.nominal_us > clock.time_us() - 4 * SECOND]
    assert len(records) >= 5
    assert all(record.late_us < 10_000 for record in records)


async def test_nothing_is_sent_once_trust_has_ended(clock: VirtualClock, bench: Bench) -> None:
    node = await bench.stand("a")
    await clock.advance(1)
    await bench.put()
    await clock.advance(1.5)
    node.flaky.stall("campaign")
    slow = node.flaky.stall("nodes")
    while node.election.is_leader:
        await clock.advance(0.01)
    sent = node.flaky.calls["fire"]
    assert slow.met.is_set()
    slow.release()
    await clock.settle()
    assert node.flaky.calls["fire"] == sent


async def test_calls_under_way_end_with_the_role(clock: VirtualClock, bench: Bench) -> None:
    node = await bench.stand("a")
    await bench.put()
    call = node.flaky.stall("fire")
    await clock.advance(1.5)
    assert call.met.is_set()
    await clock.run(node.cron.stop())
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "peerjob-fire"]


async def test_one_that_was_stale_is_read_again_until_that_works(clock: VirtualClock, bench: Bench) -> None:
    node = await bench.stand("a")
    await clock.advance(1)
    row = await bench.put()
    await clock.advance(2.5)
    await bench.put(old=await bench.row())
    assert (await bench.row()).revision > row.revision
    node.flaky.change_answers(lambda page: msgspec.structs.replace(page, rows=()), "changed_schedules", times=None)
    node.flaky.fail("get_schedules", times=3)
    await clock.advance(10)
    assert node.flaky.calls["get_schedules"] == 4
    assert (await bench.ledger())[-1].nominal_us > clock.time_us() - 2 * SECOND


async def test_a_store_that_refuses_what_it_shows_is_not_asked_in_a_hurry(clock: VirtualClock, bench: Bench) -> None:
    node = await bench.stand("a")
    await bench.put()

    def as_before(rows: list[ScheduleRow]) -> list[ScheduleRow]:
        return [msgspec.structs.replace(row, next_us=row.last_us) for row in rows]

    node.flaky.lose_answers("fire")
    node.flaky.change_answers(as_before, "get_schedules", times=None)
    await clock.advance(10)
    assert 5 <= node.flaky.calls["fire"] <= 11


async def test_a_leader_forgets_what_was_removed_while_it_did_not_look(clock: VirtualClock, bench: Bench) -> None:
    """More removals within a second than a store remembers."""
    node = await bench.stand("a")
    for at in range(1_100):
        await bench.put(f"s{at}", every_us=MINUTE)
    await clock.advance(2)
    assert node.cron.schedules == 1_100
    for at in range(1_099):
        assert await bench.store.remove_schedule(f"s{at}", request=f"r{at}")
    await clock.advance(2)
    assert node.cron.schedules == 1
    node.may_lead = False
    await clock.advance(2)
    assert node.cron.schedules == 0


@pytest.mark.parametrize("full", [3, 30])
async def test_fires_wait_while_the_store_is_full(
    clock: VirtualClock, bench: Bench, caplog: pytest.LogCaptureFixture, full: float
) -> None:
    node = await bench.stand("a")
    await clock.advance(1)
    await bench.put(misfire="run_all")
    await clock.advance(1)
    node.flaky.refuse(StoreFullError("told to be full"), "fire")
    await clock.advance(full)
    node.flaky.heal()
    await clock.advance(5.5)
    assert node.election.is_leader
    times = accounted(await bench.ledger(), definition(anchor_us=(await bench.row()).last_us - 100 * SECOND))
    assert len(times) == full + 6
    assert len([one for one in logged(caplog) if "wait" in one.getMessage()]) == 1


async def test_one_that_cannot_be_read_or_fired_leaves_the_others_alone(
    clock: VirtualClock, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    await bench.stand("a")
    row = await bench.put("good")
    for name, stored in (("bytes", b"\xc1"), ("cron", encode_definition(definition(cron="not a cron")))):
        assert await bench.store.put_schedule(SchedulePut(name=name, kind="k", definition=stored, next_us=row.next_us))
    await clock.advance(10.5)
    assert await bench.outcomes("good") == {"fired": 10}
    errors = [one.getMessage() for one in logged(caplog, logging.ERROR)]
    assert len(errors) == 2
    assert all("'bytes'" in error or "'cron'" in error for error in errors)


@pytest.mark.parametrize("error", [ValueError("spoilt"), StoreRefusedError("too large")])
async def test_a_fire_that_spoils_its_call_is_found_out(
    clock: VirtualClock, bench: Bench, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    node = await bench.stand("a")
    await clock.advance(1)
    for name in ("a", "bad", "c"):
        await bench.put(name, misfire="run_all")
    node.flaky.refuse(error, "fire", when=lambda fires: any(fire.schedule == "bad" for fire in fires))
    await clock.advance(20.5)
    for name in ("a", "c"):
        assert await bench.outcomes(name) == {"fired": 20}
    assert await bench.ledger("bad") == []
    assert 1 <= len([one for one in logged(caplog, logging.ERROR) if "'bad'" in one.getMessage()]) <= 4


async def test_fires_go_together_again_after_a_call_that_was_refused(clock: VirtualClock, bench: Bench) -> None:
    node = await bench.stand("a")
    await clock.advance(1)
    for name in ("a", "b", "c"):
        await bench.put(name)
    node.flaky.refuse(StoreRefusedError("too large"), "fire", times=1)
    await clock.advance(3.5)
    before = node.flaky.calls["fire"]
    await clock.advance(10)
    assert node.flaky.calls["fire"] - before == 10


# -- what is in the way --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("intake", [None, "draining", "drained"])
async def test_a_kind_without_a_node_gets_one_waiting_instance(
    clock: VirtualClock, bench: Bench, intake: str | None
) -> None:
    """A node that drains takes no work."""
    await bench.stand("a", kinds=("other",))
    if intake is not None:
        drains = await bench.peer("drains")
        drains.info = msgspec.structs.replace(drains.info, intake=intake)
        await drains.join()
    await clock.advance(1)
    await bench.put()
    await clock.advance(5.5)
    records = await bench.ledger()
    assert records[0].outcome is FireOutcome.FIRED
    assert {(one.outcome, one.reason) for one in records[1:]} == {(FireOutcome.SKIPPED, "no node can run k")}
    assert len(await bench.instances()) == 1
    await bench.peer()
    await clock.advance(5)
    assert (await bench.ledger())[-1].outcome is FireOutcome.FIRED


async def test_instances_that_have_ended_wait_for_no_node(clock: VirtualClock, bench: Bench) -> None:
    peer = await bench.peer()
    await bench.store.enqueue(peer.make.instances(1, kind="k"))
    await peer.end(await peer.take_one())
    await bench.store.leave(peer.info.incarnation)
    await bench.stand("a", kinds=("other",))
    await clock.advance(1)
    await bench.put()
    await clock.advance(1.5)
    assert await bench.outcomes() == {"fired": 1}


async def test_overlap_skip_waits_for_the_run_before(clock: VirtualClock, bench: Bench) -> None:
    leader = await bench.stand("a")
    peer = await bench.peer()
    await bench.put(overlap=Overlap.SKIP)
    await clock.advance(3.5)
    assert await bench.outcomes() == {"fired": 1, "skipped": 2}
    assert [made.id for made in leader.made] == [record.id for record in await bench.instances()]
    await peer.end(await peer.take_one())
    await clock.advance(2)
    assert await bench.outcomes() == {"fired": 2, "skipped": 3}


async def test_overlap_queue_parks_as_many_as_are_allowed(clock: VirtualClock, bench: Bench) -> None:
    await bench.stand("a")
    peer = await bench.peer()
    await bench.put(overlap=Overlap.QUEUE, queue_limit=2)
    await clock.advance(5.5)
    assert await bench.outcomes() == {"fired": 3, "skipped": 2}
    for _ in range(3):
        (claim,) = await peer.take()
        await peer.end(claim)
    assert await peer.take() == ()


async def test_overlap_replace_cancels_the_run_before(clock: VirtualClock, bench: Bench) -> None:
    await bench.stand("a")
    await bench.peer()
    await bench.put(overlap=Overlap.REPLACE)
    await clock.advance(3.5)
    assert await bench.outcomes() == {"fired": 3}
    states = Counter(one.state for one in await bench.instances())
    assert states == {State.CANCELLED: 2, State.SCHEDULED: 1}


async def test_jitter_delays_the_instance_and_not_the_fire(clock: VirtualClock, bench: Bench) -> None:
    await bench.stand("a")
    await bench.put(jitter_us=MINUTE)
    await clock.advance(20.5)
    records = {record.instance: record for record in await bench.ledger()}
    assert all(record.late_us < 2_000 for record in records.values())
    delays = [one.due_us - records[one.id].nominal_us for one in await bench.instances()]
    assert len(delays) == 20
    assert all(0 <= delay <= MINUTE for delay in delays)
    assert len(set(delays)) > 10


@pytest.mark.parametrize("ahead", [-800_000, 800_000])
async def test_the_store_clock_decides_when_it_is_time(clock: VirtualClock, bench: Bench, ahead: int) -> None:
    """The clock of the node is off, and it fires by its own clock. No record is dated before its nominal time."""
    node = await bench.stand("a")
    node.ahead_us = ahead
    await bench.put()
    await clock.advance(5)
    records = await bench.ledger()
    made = await bench.store.get([record.instance for record in records])
    assert len(made) == len(records) > 3
    for record, instance in zip(records, made, strict=True):
        assert instance is not None
        assert instance.history[0].at_us - record.nominal_us == pytest.approx(ahead, abs=2_000)
        assert record.at_us - record.nominal_us == pytest.approx(max(0, ahead), abs=2_000)


async def test_many_schedules_are_read_in_pages(clock: VirtualClock, bench: Bench) -> None:
    node = await bench.stand("a")
    for at in range(1_234):
        await bench.put(f"s{at}", every_us=10 * SECOND)
    node.may_lead = False
    await clock.advance(2)
    node.flaky.calls.clear()
    node.may_lead = True
    await clock.advance(30)
    assert node.flaky.calls["changed_schedules"] <= 7 + 31
    for at in (0, 500, 1_233):
        assert set(await bench.outcomes(f"s{at}")) == {"fired"}


async def test_other_tasks_run_between_the_pages_of_a_new_leader(clock: VirtualClock, bench: Bench) -> None:
    """The store in memory answers without a wait: without a turn of the loop, the leadership could end meanwhile."""
    for at in range(1_001):
        await bench.put(f"s{at}", every_us=10 * SECOND)
    node = ElectionNode(clock, memory_store(clock, bench.url), "a", kinds=("k",))
    bench.started.append(node)
    turns: list[int] = []
    seen: list[int] = []

    def answered(page: SchedulePage) -> SchedulePage:
        seen.append(len(turns))
        asyncio.get_running_loop().call_soon(turns.append, 0)
        return page

    node.flaky.change_answers(answered, "changed_schedules", times=None)
    await node.start()
    await clock.advance(0.5)
    assert len(seen) >= 6
    assert seen == list(range(len(seen)))
