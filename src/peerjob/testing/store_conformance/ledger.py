"""The ledger has a record of every nominal time, within bounds."""

import msgspec
import pytest

from peerjob.model.firing import FireOutcome, FireRecord, FireStatus, Overlap
from peerjob.model.record import StoreLimits
from peerjob.model.state import State
from peerjob.store.base import Store

from .timetable import ScheduleSuite, nth

FIRED, MISSED, PAUSED = FireOutcome.FIRED, FireOutcome.MISSED, FireOutcome.PAUSED
COALESCED, SKIPPED = FireOutcome.COALESCED, FireOutcome.SKIPPED
BACKFILLED, TRIGGERED = FireOutcome.BACKFILLED, FireOutcome.TRIGGERED


class LedgerRules(ScheduleSuite):
    """Rules of `fires`, of stretches, of triggers and backfills, and of trimming."""

    async def test_the_ledger_of_an_unknown_schedule_is_empty(self, store: Store) -> None:
        page = await store.fires("nobody")
        assert (page.records, page.cursor) == ((), None)
        await self.schedule(store)
        assert await self.ledger(store) == []

    @pytest.mark.parametrize("limit", [1, 3, 10, 100])
    async def test_pages_tell_all_from_the_latest_on(self, store: Store, limit: int) -> None:
        await self.schedule(store)
        records = [await self.fired(store, number, (FIRED, MISSED)[number % 2]) for number in range(10)]
        assert await self.ledger(store, limit=limit) == records[::-1]

    @pytest.mark.parametrize("limit", [1, 2, 5])
    async def test_pages_divide_the_records_of_one_time(self, store: Store, limit: int) -> None:
        row = await self.schedule(store)
        made = [record.instance for _ in range(6) for record in await self.done(store, self.a_fire(row, 1, TRIGGERED))]
        made += [(await self.fired(store, number)).instance for number in range(2)]
        await self.fired(store, 2, MISSED)
        assert sorted(record.instance for record in await self.ledger(store, limit=limit)) == sorted(["", *made])

    async def test_pages_go_on_while_more_is_recorded(self, store: Store) -> None:
        await self.schedule(store)
        records = [await self.fired(store, number) for number in range(5)]
        page = await store.fires("s", limit=2)
        await self.fired(store, 5)
        rest = await store.fires("s", limit=9, cursor=page.cursor)
        assert (*page.records, *rest.records) == tuple(records[::-1])
        assert rest.cursor is None

    async def test_bounds_are_of_the_nominal_time(self, store: Store) -> None:
        await self.schedule(store)
        records = [await self.fired(store, number) for number in range(6)]
        assert await self.ledger(store, after_us=nth(2)) == records[:1:-1]
        assert await self.ledger(store, before_us=nth(2)) == records[1::-1]
        assert await self.ledger(store, after_us=nth(1), before_us=nth(4), limit=2) == records[3:0:-1]
        assert await self.ledger(store, after_us=nth(4), before_us=nth(4)) == []

    async def test_schedules_have_ledgers_of_their_own(self, store: Store) -> None:
        for name in ("s", "s/", "t"):
            await self.schedule(store, name)
            await self.fired(store, name=name)
        instances = [record.instance for name in ("s", "s/", "t") for record in await self.ledger(store, name)]
        assert len(set(instances)) == len(instances) == 3

    # -- records that cover several nominal times

    async def test_what_follows_directly_with_the_same_fate_is_one_stretch(self, store: Store) -> None:
        row = await self.schedule(store)
        await self.done(store, self.a_fire(row, 0, MISSED, reason="r"), node="one")
        await self.done(store, self.stretch(row, 1, 5, reason="r"))
        (record,) = await self.done(store, self.a_fire(row, 6, MISSED, reason="r"), node="two")
        assert (record.nominal_us, record.until_us, record.count) == (nth(0), nth(6), 7)
        assert (record.outcome, record.reason, record.node) == (MISSED, "r", "two")
        assert await self.ledger(store) == [record]

    async def test_what_one_call_joins_is_one_stretch(self, store: Store) -> None:
        row = await self.schedule(store)
        await self.done(store, self.a_fire(row, 0, MISSED))
        for first in (1, 4):
            await self.done(store, *(self.a_fire(row, number, MISSED) for number in range(first, first + 3)))
            assert await self.numbers(store) == [(0, MISSED, first + 3)]

    async def test_another_fate_is_another_stretch(self, store: Store) -> None:
        await self.schedule(store)
        for number, (outcome, reason) in enumerate(
            [(MISSED, "a"), (MISSED, "b"), (SKIPPED, "b"), (SKIPPED, "b"), (COALESCED, "b"), (MISSED, "b")]
        ):
            await self.fired(store, number, outcome, reason=reason)
        assert await self.numbers(store) == [
            (0, MISSED, 1),
            (1, MISSED, 1),
            (2, SKIPPED, 2),
            (4, COALESCED, 1),
            (5, MISSED, 1),
        ]

    async def test_an_instance_parts_two_stretches(self, store: Store) -> None:
        await self.schedule(store)
        for number, outcome in enumerate([MISSED, MISSED, FIRED, MISSED]):
            await self.fired(store, number, outcome)
        assert await self.numbers(store) == [(0, MISSED, 2), (2, FIRED, 1), (3, MISSED, 1)]

    async def test_what_a_fire_was_skipped_for_is_joined_too(self, store: Store) -> None:
        await self.schedule(store)
        for number in range(6):
            await self.fired(store, number, overlap=Overlap.SKIP)
        assert await self.numbers(store) == [(0, FIRED, 1), (1, SKIPPED, 5)]

    async def test_what_is_done_by_hand_parts_no_stretch(self, store: Store) -> None:
        await self.schedule(store)
        await self.fired(store, 0, MISSED)
        await self.fired(store, 0, TRIGGERED)
        await self.fired(store, 0, BACKFILLED)
        await self.fired(store, 1, MISSED)
        assert sorted(await self.numbers(store)) == [(0, BACKFILLED, 1), (0, MISSED, 2), (0, TRIGGERED, 1)]

    # -- triggers and backfills

    @pytest.mark.parametrize("overlap", list(Overlap))
    async def test_a_repeated_trigger_has_the_answer_of_the_first(self, store: Store, overlap: Overlap) -> None:
        row = await self.schedule(store)
        fire = self.a_fire(row, -1, TRIGGERED, overlap=overlap)
        first = await self.done(store, fire)
        changed = await self.put(store, row, definition=b"changed")
        assert changed is not None
        other = self.a_fire(changed, -1, TRIGGERED, overlap=overlap)
        await self.done(store, other)
        peer = await self.join(store)
        for claim in await peer.take():
            await peer.end(claim)
        before = await self.all_of(store)
        instance = msgspec.structs.replace(self.make.instance(spec=b"other"), id=first[0].instance)
        again = msgspec.structs.replace(fire, revision=changed.revision, instance=instance)
        assert await self.done(store, again) == first
        assert await self.all_of(store) == before

    async def test_a_repeated_trigger_is_skipped_as_the_first(self, store: Store) -> None:
        row = await self.schedule(store)
        await self.fired(store, 0, overlap=Overlap.SKIP)
        fire = self.a_fire(row, -1, TRIGGERED, overlap=Overlap.SKIP)
        (first,) = await self.done(store, fire)
        assert (first.outcome, first.instance) == (FireOutcome.SKIPPED, "")
        peer = await self.join(store)
        await peer.end(await peer.take_one())
        assert await self.done(store, fire) == [first]
        assert await self.counts(store) == {State.COMPLETED: 1}

    @pytest.mark.parametrize("overlap", list(Overlap))
    async def test_a_repeated_trigger_whose_record_was_trimmed_keeps_its_instance(
        self, store: Store, overlap: Overlap
    ) -> None:
        small = await self.open(StoreLimits(max_fires=1))
        row = await self.schedule(small)
        fire = self.a_fire(row, -1, TRIGGERED, overlap=overlap)
        (first,) = await self.done(small, fire)
        await self.fired(small, 0, FireOutcome.MISSED)
        assert await self.numbers(small) == [(0, FireOutcome.MISSED, 1)]
        (again,) = await self.done(small, fire)
        assert (again.outcome, again.instance, again.cancelled) == (TRIGGERED, first.instance, "")
        assert await self.state(small, first.instance) == State.SCHEDULED
        assert await self.counts(small) == {State.SCHEDULED: 1}

    async def test_a_trigger_is_about_no_nominal_time(self, store: Store) -> None:
        row = await self.schedule(store)
        records = await self.done(store, self.a_fire(row, 0, TRIGGERED))
        records += await self.done(store, self.a_fire(row, 0, TRIGGERED))
        assert (await self.row(store)) == row
        records.append(await self.fired(store, 0))
        records += await self.done(store, self.a_fire(row, 0, TRIGGERED))
        assert {record.instance for record in await self.ledger(store)} == {record.instance for record in records}
        assert await self.counts(store) == {State.SCHEDULED: 4}
        assert await self.refused(store, self.a_fire(row, 0, BACKFILLED)) is FireStatus.KNOWN

    async def test_a_backfill_fills_gaps_only(self, store: Store) -> None:
        row = await self.schedule(store)
        await self.fired(store, 0)
        await self.done(store, self.stretch(row, 1, 5))
        (record,) = await self.done(store, self.a_fire(row, 3, BACKFILLED))
        assert (record.nominal_us, record.outcome, record.until_us, record.count) == (nth(3), BACKFILLED, 0, 1)
        for number in (0, 3):
            assert await self.refused(store, self.a_fire(row, number, BACKFILLED)) is FireStatus.KNOWN
        assert await self.numbers(store) == [(0, FIRED, 1), (1, MISSED, 5), (3, BACKFILLED, 1)]
        after = await self.row(store)
        assert (after.next_us, after.last_us) == (nth(6), nth(5))

    async def test_a_time_that_was_backfilled_before_it_came_is_not_fired(self, store: Store) -> None:
        row = await self.schedule(store)
        await self.done(store, self.a_fire(row, 0, BACKFILLED))
        fire = self.a_fire(row, 0, FIRED)
        (answer,) = await self.send(store, fire)
        assert answer.status is FireStatus.KNOWN
        assert (await self.row(store)).next_us == nth(1)
        assert await self.refused(store, fire) is FireStatus.STALE
        await self.fired(store, 1)
        assert await self.numbers(store) == [(0, BACKFILLED, 1), (1, FIRED, 1)]
        assert await self.counts(store) == {State.SCHEDULED: 2}

    async def test_a_backfill_may_begin_where_a_stretch_does(self, store: Store) -> None:
        row = await self.schedule(store)
        await self.done(store, self.stretch(row, 0, 5))
        await self.fired(store, 0, BACKFILLED)
        assert sorted(await self.numbers(store)) == [(0, BACKFILLED, 1), (0, MISSED, 6)]

    async def test_a_backfill_that_was_skipped_may_come_again(self, store: Store) -> None:
        await self.schedule(store)
        await self.fired(store, overlap=Overlap.SKIP)
        skipped = await self.fired(store, -1, BACKFILLED, overlap=Overlap.SKIP)
        assert (skipped.outcome, skipped.instance) == (SKIPPED, "")
        peer = await self.join(store)
        await peer.end(await peer.take_one())
        done = await self.fired(store, -1, BACKFILLED, overlap=Overlap.SKIP)
        assert done.outcome is BACKFILLED
        assert await self.state(store, done.instance) == State.SCHEDULED

    async def test_a_fire_replaces_the_record_of_a_backfill_that_was_skipped(self, store: Store) -> None:
        row = await self.schedule(store)
        holder = (await self.done(store, self.a_fire(row, -1, TRIGGERED, overlap=Overlap.SKIP)))[0].instance
        (skipped,) = await self.done(store, self.a_fire(row, 0, BACKFILLED, overlap=Overlap.SKIP))
        assert skipped.outcome is SKIPPED
        await self.cancel(store, holder)
        await self.fired(store, 0, overlap=Overlap.SKIP)
        assert await self.numbers(store) == [(-1, TRIGGERED, 1), (0, FIRED, 1)]

    # -- limits of the ledger

    async def test_only_so_many_records_are_kept(self, store: Store) -> None:
        small = await self.open(StoreLimits(max_fires=5))
        row = await self.schedule(small)
        for number in range(12):
            await self.fired(small, number, (FIRED, MISSED, FIRED)[number % 3])
        assert await self.numbers(small) == [(number, (FIRED, MISSED, FIRED)[number % 3], 1) for number in range(7, 12)]
        assert (await self.row(small)).trimmed_us == nth(6)
        for number in (0, 4, 6):
            assert await self.refused(small, self.a_fire(row, number, BACKFILLED)) is FireStatus.TRIMMED
        assert await self.refused(small, self.a_fire(row, 8, BACKFILLED)) is FireStatus.KNOWN
        assert (await self.fired(small, 7, BACKFILLED)).outcome is BACKFILLED

    async def test_a_repeated_backfill_below_a_full_ledger_has_the_answer_of_the_first(self, store: Store) -> None:
        small = await self.open(StoreLimits(max_fires=3))
        row = await self.schedule(small)
        for number in range(3):
            await self.fired(small, number)
        backfill = self.a_fire(row, -1, BACKFILLED)
        first = await self.done(small, backfill)
        assert await self.done(small, backfill) == first
        assert len(await self.ledger(small)) == 3

    async def test_a_repeated_call_below_a_full_ledger_has_the_answers_of_the_first(self, store: Store) -> None:
        small = await self.open(StoreLimits(max_fires=3))
        row = await self.schedule(small)
        for number in range(3):
            await self.fired(small, number)
        fires = [self.a_fire(row, number, TRIGGERED) for number in (-1, -2, 5)]
        first = await self.done(small, *fires)
        assert len(await self.ledger(small)) == 3
        assert await self.done(small, *fires) == first
        await self.fired(small, 3)
        assert len(await self.ledger(small)) == 3

    async def test_puts_that_pass_over_times_keep_the_bound(self, store: Store) -> None:
        small = await self.open(StoreLimits(max_fires=3))
        row = await self.schedule(small)
        await self.fired(small, 0)
        row = await self.row(small)
        for number in range(1, 13):
            account = FireRecord(
                nominal_us=nth(number), outcome=(MISSED, PAUSED)[number % 2], at_us=0, request=self.make.request()
            )
            after = await self.put(small, row, next_us=nth(number + 1), account=account)
            assert after is not None
            assert after == await self.row(small)
            row = after
        assert [number for number, _, _ in await self.numbers(small)] == [10, 11, 12]
        assert row.trimmed_us == nth(0)
        assert await self.refused(small, self.a_fire(row, 0, BACKFILLED)) is FireStatus.TRIMMED

    async def test_a_put_that_passes_over_no_time_keeps_the_answers_of_a_call(self, store: Store) -> None:
        small = await self.open(StoreLimits(max_fires=3))
        row = await self.schedule(small)
        fires = [self.a_fire(row, number) for number in range(6)]
        first = await self.done(small, *fires)
        after = await self.put(small, await self.row(small), definition=b"another")
        assert after is not None
        assert after.trimmed_us == 0
        assert await self.done(small, *fires) == first

    async def test_a_long_stretch_is_one_record(self, store: Store) -> None:
        small = await self.open(StoreLimits(max_fires=3))
        await self.schedule(small)
        await self.fired(small, 0)
        for number in range(1, 30):
            await self.fired(small, number, MISSED)
        await self.fired(small, 30)
        assert await self.numbers(small) == [(0, FIRED, 1), (1, MISSED, 29), (30, FIRED, 1)]
        assert (await self.row(small)).trimmed_us == 0

    async def test_a_stretch_whose_record_was_trimmed_does_not_come_back(self, store: Store) -> None:
        small = await self.open(StoreLimits(max_fires=2))
        await self.schedule(small)
        await self.fired(small, 0, MISSED)
        for number in (7, 8):
            await self.fired(small, number, TRIGGERED)
        assert [number for number, _, _ in await self.numbers(small)] == [7, 8]
        record = await self.fired(small, 1, MISSED)
        assert (record.nominal_us, record.until_us, record.count) == (nth(1), 0, 1)

    async def test_several_in_one_call_keep_the_bound(self, store: Store) -> None:
        small = await self.open(StoreLimits(max_fires=4))
        row = await self.schedule(small)
        for first in (0, 3, 6):
            await self.done(small, *(self.a_fire(row, number) for number in range(first, first + 3)))
            assert len(await self.ledger(small)) <= 4
        assert await self.numbers(small) == [(number, FIRED, 1) for number in range(5, 9)]

    async def test_of_one_time_the_record_of_the_earliest_request_goes_first(self, store: Store) -> None:
        small = await self.open(StoreLimits(max_fires=2))
        row = await self.schedule(small)
        triggers = sorted((self.a_fire(row, 0, TRIGGERED) for _ in range(6)), key=lambda fire: fire.request)
        for number in (5, 2, 0, 3, 4, 1):
            await self.done(small, triggers[number], node="leader" if number < 3 else "")
        left = [record.request for record in await self.ledger(small)]
        assert sorted(left) == [triggers[number].request for number in (1, 5)]

    async def test_records_are_kept_for_so_long(self, store: Store) -> None:
        await self.schedule(store)
        for number in range(4):
            await self.fired(store, number, (FIRED, MISSED)[number % 2])
        assert len(await self.ledger(store)) == 4
        brief = await self.open(StoreLimits(fires_kept_us=300_000))
        await self.pass_time(0.4)
        await self.fired(brief, 4)
        assert await self.numbers(brief) == [(4, FIRED, 1)]
        row = await self.row(brief)
        assert (row.trimmed_us, row.last_us) == (nth(2), nth(4))
        assert await self.refused(brief, self.a_fire(row, 1, BACKFILLED)) is FireStatus.TRIMMED

    async def test_a_schedule_from_elsewhere_makes_no_instance_of_its_earlier_times(self, store: Store) -> None:
        row = await self.schedule(store, next_us=nth(5), trimmed_us=nth(4))
        assert (row.trimmed_us, row.last_us) == (nth(4), nth(4))
        assert await self.row(store) == row
        assert await self.refused(store, self.a_fire(row, 4, BACKFILLED)) is FireStatus.TRIMMED
        await self.fired(store, 5)
        changed = await self.put(store, await self.row(store), definition=b"another", trimmed_us=nth(9))
        assert changed is not None
        assert (changed.trimmed_us, changed.last_us) == (nth(4), nth(5))

    async def test_triggers_are_trimmed_without_a_trace(self, store: Store) -> None:
        small = await self.open(StoreLimits(max_fires=2))
        await self.schedule(small)
        for number in range(-3, 0):
            await self.fired(small, number, TRIGGERED)
        await self.fired(small, 0)
        assert await self.numbers(small) == [(-1, TRIGGERED, 1), (0, FIRED, 1)]
        assert (await self.row(small)).trimmed_us == 0
        await self.fired(small, -1, BACKFILLED)

    @pytest.mark.parametrize("outcome", [FIRED, BACKFILLED])
    async def test_a_fire_leaves_the_record_of_a_trigger_that_was_skipped(
        self, store: Store, outcome: FireOutcome
    ) -> None:
        row = await self.schedule(store)
        (holder,) = await self.done(store, self.a_fire(row, -1, TRIGGERED, overlap=Overlap.SKIP))
        (skipped,) = await self.done(store, self.a_fire(row, 0, TRIGGERED, overlap=Overlap.SKIP))
        assert skipped.outcome is SKIPPED
        await self.cancel(store, holder.instance)
        await self.fired(store, 0, outcome)
        assert sorted(await self.numbers(store)) == [(-1, TRIGGERED, 1), (0, outcome, 1), (0, SKIPPED, 1)]
