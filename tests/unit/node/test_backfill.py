"""Backfills: instances for past nominal times, on request."""

from collections.abc import AsyncIterator

import pytest

from peerjob import Query, ScheduleError, Store
from peerjob.handles.schedule import Backfill
from peerjob.model.firing import FireOutcome, Overlap, ScheduleRow
from peerjob.model.ids import IdSource
from peerjob.model.spec import decode_spec
from peerjob.node.manager.backfill import MAX_TIMES, backfill
from peerjob.testing.clock import VirtualClock
from support.factories import memory_store, shared_url
from support.flaky import FlakyStore
from support.leaders import SECOND, ElectionNode, definition, put, read_ledger

HOUR = 3600 * SECOND


class Bench:
    """A memory store with one schedule, which is an hour old and recurs every second."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.url = shared_url()
        self.flaky = FlakyStore(memory_store(clock, self.url))
        self.ids = IdSource(clock)
        self.now_us = clock.time_us()

    @property
    def store(self) -> Store:
        return self.flaky.store

    async def put(
        self,
        *,
        paused: bool = False,
        old: ScheduleRow | None = None,
        every_us: int = SECOND,
        overlap: Overlap = Overlap.SKIP,
    ) -> ScheduleRow:
        wanted = definition(anchor_us=self.now_us - HOUR, every_us=every_us, overlap=overlap)
        return await put(self.store, "s", wanted, now_us=self.now_us, paused=paused, old=old)

    async def backfill(
        self, row: ScheduleRow, start: int, end: int, overlap: Overlap = Overlap.ALLOW
    ) -> tuple[Backfill, list[Backfill]]:
        """From and to so many seconds after now; what became of it, and how it went."""
        progress: list[Backfill] = []
        counts = await backfill(
            clock=self.clock,
            store=self.store,
            row=row,
            start_us=self.now_us + start * SECOND,
            end_us=self.now_us + end * SECOND,
            ids=self.ids,
            now_us=self.clock.time_us(),
            node="asker",
            overlap=overlap,
            on_progress=progress.append,
        )
        return counts, progress

    async def nominals(self) -> list[int]:
        """Nominal times of the instances, in seconds after now, in the order in which they were made."""
        records = (await self.store.lookup(Query(limit=1000))).records
        made = sorted(records, key=lambda record: record.id)
        return [(decode_spec(record.spec).nominal_us - self.now_us) // SECOND for record in made]


@pytest.fixture
async def bench(clock: VirtualClock) -> AsyncIterator[Bench]:
    bench = Bench(clock)
    await bench.store.open()
    yield bench
    await bench.store.close()


async def test_each_time_of_the_range_gets_an_instance(bench: Bench) -> None:
    row = await bench.put()
    counts, progress = await bench.backfill(row, -300, -50)
    assert counts == Backfill(times=250, made=250)
    assert [one.done for one in progress] == [100, 200, 250]
    assert await bench.nominals() == list(range(-300, -50))
    records = await read_ledger(bench.store, "s")
    assert {(record.outcome, record.node, record.count) for record in records} == {(FireOutcome.BACKFILLED, "asker", 1)}


async def test_times_that_have_an_instance_get_no_second_one(bench: Bench) -> None:
    row = await bench.put()
    await bench.backfill(row, -20, -10)
    counts, _ = await bench.backfill(row, -30, -5)
    assert counts == Backfill(times=25, made=15, known=10)
    assert sorted(await bench.nominals()) == list(range(-30, -5))


async def test_what_is_still_to_come_is_left_to_the_leader(clock: VirtualClock, bench: Bench) -> None:
    node = await ElectionNode(clock, memory_store(clock, bench.url), "leader").start()
    row = await bench.put(overlap=Overlap.ALLOW)
    counts, _ = await bench.backfill(row, -3, 10)
    assert counts == Backfill(times=4, made=4)
    await clock.advance(4.5)
    assert sorted(await bench.nominals()) == list(range(-3, 5))
    await clock.run(node.stop())


async def test_a_leader_that_is_late_and_a_backfill_do_not_make_two(clock: VirtualClock, bench: Bench) -> None:
    row = await bench.put(overlap=Overlap.ALLOW)
    await clock.advance(10)
    counts, _ = await bench.backfill(row, -3, 10)
    assert counts.made == 4
    node = await ElectionNode(clock, memory_store(clock, bench.url), "leader").start()
    await clock.advance(2)
    nominals = await bench.nominals()
    assert len(nominals) == len(set(nominals))
    await clock.run(node.stop())


async def test_the_time_of_a_pause_can_be_made_up_for(clock: VirtualClock, bench: Bench) -> None:
    row = await bench.put(paused=True)
    await clock.advance(10.5)
    counts, _ = await bench.backfill(row, 0, 100)
    assert counts == Backfill(times=11, made=11)


async def test_a_pause_meanwhile_stops_no_backfill(bench: Bench) -> None:
    row = await bench.put()
    await bench.put(old=row, paused=True)
    counts, _ = await bench.backfill(row, -200, 0)
    assert counts == Backfill(times=200, made=200)


async def test_a_change_meanwhile_stops_it(bench: Bench) -> None:
    row = await bench.put()
    await bench.put(old=row, every_us=7 * SECOND)
    with pytest.raises(ScheduleError, match="'s': the schedule was changed meanwhile"):
        await bench.backfill(row, -200, 0)


async def test_a_removal_meanwhile_stops_it(bench: Bench) -> None:
    row = await bench.put()
    await bench.store.remove_schedule("s", request="r1")
    with pytest.raises(ScheduleError, match="'s': the schedule was removed meanwhile"):
        await bench.backfill(row, -200, 0)


async def test_overlap_is_that_of_the_asker(bench: Bench) -> None:
    row = await bench.put()
    counts, _ = await bench.backfill(row, -20, 0, Overlap.SKIP)
    assert counts == Backfill(times=20, made=1, skipped=19)


async def test_an_answer_that_was_lost_makes_nothing_twice(bench: Bench) -> None:
    row = await bench.put()
    bench.flaky.repeat("fire")
    counts, _ = await bench.backfill(row, -150, 0)
    assert counts == Backfill(times=150, made=150)
    assert len(await bench.nominals()) == 150


async def test_too_many_times_are_refused_before_anything_is_made(bench: Bench) -> None:
    row = await bench.put(every_us=1_000)
    with pytest.raises(ScheduleError, match="at most 100,000 nominal times"):
        await bench.backfill(row, -(MAX_TIMES // 1000) - 1, 0)
    assert await bench.nominals() == []


async def test_an_empty_range_makes_nothing(bench: Bench) -> None:
    counts, progress = await bench.backfill(await bench.put(), -10, -20)
    assert (counts, progress) == (Backfill(), [])
