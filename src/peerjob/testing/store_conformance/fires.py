"""ONE-FIRE: one transaction accounts for each nominal time, for a caller that knows the state of the schedule."""

import asyncio

import msgspec
import pytest

from peerjob.model.firing import MAX_SCHEDULES, FireOutcome, FireRecord, FireStatus, Overlap, Term
from peerjob.model.record import Action
from peerjob.model.state import State
from peerjob.store.base import Store

from .suite import states
from .timetable import MAKES, ScheduleSuite, assert_done, nth

FIRED, MISSED, PAUSED = FireOutcome.FIRED, FireOutcome.MISSED, FireOutcome.PAUSED
COALESCED, SKIPPED = FireOutcome.COALESCED, FireOutcome.SKIPPED
BACKFILLED, TRIGGERED = FireOutcome.BACKFILLED, FireOutcome.TRIGGERED


class FiringRules(ScheduleSuite):
    """Rules of `fire`, apart from slots."""

    async def test_a_fire_makes_an_instance(self, store: Store) -> None:
        row = await self.schedule(store)
        new = self.make.instance(tags=("t",), priority=3, max_crashes=7)
        before = await self.join(store)
        (record,) = await self.done(
            store, self.a_fire(row, instance=new), term=Term(coordinator="c", number=4), node="leader"
        )
        after = await self.join(store)

        assert before.joined_us <= record.at_us <= after.joined_us
        assert record == FireRecord(
            nominal_us=nth(0),
            outcome=FIRED,
            at_us=record.at_us,
            instance=new.id,
            node="leader",
            term=4,
            coordinator="c",
            request=record.request,
        )
        assert await self.ledger(store) == [record]
        fired = await self.row(store)
        assert (fired.next_us, fired.last_us, fired.revision) == (nth(1), nth(0), row.revision)
        instance = await self.read(store, new.id)
        assert states(instance) == [State.CREATED, State.SCHEDULED]
        assert (instance.tags, instance.priority, instance.slot) == (("t",), 3, "")
        assert {entry.node for entry in instance.history} == {"leader"}
        assert (await after.take_one()).id == new.id

    async def test_a_fire_is_recorded_at_its_time_at_the_earliest(self, store: Store) -> None:
        # the clock of the leader, which finds the fire due, can be ahead of the store's clock
        nominal_us = (await self.join(store)).joined_us + 60_000_000
        row = await self.schedule(store, next_us=nominal_us)
        fire = msgspec.structs.replace(self.a_fire(row), nominal_us=nominal_us, next_us=nominal_us + 1)
        (record,) = await self.done(store, fire)
        assert record.at_us == nominal_us

    async def test_what_is_made_for_later_waits(self, store: Store) -> None:
        row = await self.schedule(store)
        await self.done(store, self.a_fire(row, instance=self.make.instance(delay_us=60_000_000)))
        peer = await self.join(store)
        assert (await peer.claim()).claims == ()
        assert (await store.health()).delayed == 1

    async def test_a_fire_wakes_a_sleeper(self, store: Store) -> None:
        row = await self.schedule(store)
        sleepers = [await self.join(store, "able"), await self.join(store, "unable", ("other",))]
        for peer in sleepers:
            await peer.claim()
        await self.woken(sleepers)
        await self.done(store, self.a_fire(row))
        assert await self.woken(sleepers, 1) == ["able"]

    @pytest.mark.parametrize("runs", [False, True])
    async def test_a_new_instance_and_one_that_it_replaces_are_changes(self, store: Store, runs: bool) -> None:
        await self.schedule(store)
        watcher, worker = await self.join(store, "watcher"), await self.join(store)
        await store.watch_changes(watcher.incarnation, 60)
        first = await self.fired(store, overlap=Overlap.REPLACE)
        assert await self.hinted(watcher, "change", first.instance)
        if runs:
            await worker.take_one()
            assert await self.hinted(watcher, "change", first.instance)
        second = await self.fired(store, 1, overlap=Overlap.REPLACE)
        told: set[str] = set()
        while not told >= {first.instance, second.instance}:
            hints = await self.hints(watcher, self.patience)
            assert hints, told
            told.update(hint.id for hint in hints if hint.what == "change")

    @pytest.mark.parametrize("outcome", [MISSED, COALESCED, SKIPPED, PAUSED])
    async def test_other_outcomes_make_none(self, store: Store, outcome: FireOutcome) -> None:
        row = await self.schedule(store)
        (record,) = await self.done(store, self.stretch(row, 0, 9, outcome, reason="because"), node="leader")
        assert (record.nominal_us, record.until_us, record.count) == (nth(0), nth(9), 10)
        assert (record.outcome, record.reason, record.instance, record.node) == (outcome, "because", "", "leader")
        assert await self.ledger(store) == [record]
        fired = await self.row(store)
        assert (fired.next_us, fired.last_us) == (nth(10), nth(9))
        assert (await store.health()).counts == {}

    async def test_the_last_time_leaves_no_next(self, store: Store) -> None:
        row = await self.schedule(store)
        await self.done(store, self.a_fire(row, next_us=None))
        assert (await self.row(store)).next_us is None
        assert await self.refused(store, self.a_fire(row, 1)) is FireStatus.STALE

    # -- fires for schedules that have changed or do not exist

    async def test_nothing_is_fired_of_what_is_not_there(self, store: Store) -> None:
        row = await self.schedule(store)
        fire = self.a_fire(row, schedule="nobody")
        assert await self.refused(store, fire) is FireStatus.STALE

    @pytest.mark.parametrize("outcome", list(FireOutcome))
    async def test_an_old_definition_fires_nothing(self, store: Store, outcome: FireOutcome) -> None:
        old = await self.schedule(store)
        assert await self.put(store, old, definition=b"new") is not None
        assert await self.refused(store, self.a_fire(old, outcome=outcome)) is FireStatus.STALE

    @pytest.mark.parametrize("outcome", [outcome for outcome in FireOutcome if outcome.advances])
    @pytest.mark.parametrize("number", [-1, 1])
    async def test_another_time_than_the_next_is_not_fired(
        self, store: Store, outcome: FireOutcome, number: int
    ) -> None:
        row = await self.schedule(store)
        assert await self.refused(store, self.a_fire(row, number, outcome)) is FireStatus.STALE

    async def test_a_time_is_fired_once(self, store: Store) -> None:
        row = await self.schedule(store)
        await self.done(store, self.a_fire(row))
        assert await self.refused(store, self.a_fire(row)) is FireStatus.STALE

    async def test_of_two_leaders_one_fires(self, store: Store) -> None:
        other = await self.open()
        row = await self.schedule(store)
        for number in range(20):
            answers = await self.in_time(
                asyncio.gather(
                    *(
                        self.send(opened, self.a_fire(row, number), node=str(index))
                        for index, opened in enumerate((store, other))
                    )
                )
            )
            assert sorted(answer.status for (answer,) in answers) == [FireStatus.DONE, FireStatus.STALE]
        assert await self.numbers(store) == [(number, FIRED, 1) for number in range(20)]
        assert await self.counts(store) == {State.SCHEDULED: 20}

    @pytest.mark.parametrize("outcome", [FIRED, MISSED, COALESCED, SKIPPED])
    async def test_a_paused_schedule_is_not_fired(self, store: Store, outcome: FireOutcome) -> None:
        row = await self.schedule(store, paused=True)
        assert await self.refused(store, self.a_fire(row, outcome=outcome)) is FireStatus.STALE

    async def test_a_pause_is_accounted_for(self, store: Store) -> None:
        row = await self.schedule(store, paused=True)
        await self.done(store, self.stretch(row, 0, 4, PAUSED))
        assert await self.numbers(store) == [(0, PAUSED, 5)]

    @pytest.mark.parametrize("outcome", [BACKFILLED, TRIGGERED])
    async def test_a_paused_schedule_runs_by_hand(self, store: Store, outcome: FireOutcome) -> None:
        row = await self.schedule(store, paused=True)
        (record,) = await self.done(store, self.a_fire(row, -5, outcome))
        assert record.outcome is outcome
        assert (await self.row(store)).next_us == nth(0)
        assert await self.state(store, record.instance) == State.SCHEDULED

    async def test_a_key_that_is_taken_skips(self, store: Store) -> None:
        row = await self.schedule(store)
        holder, new, later = self.make.instances(3, key="k")
        await store.enqueue([holder])
        (record,) = await self.done(store, self.a_fire(row, instance=new))
        assert (record.outcome, record.instance) == (SKIPPED, "")
        assert record.reason
        assert await store.get([new.id]) == [None]
        assert (await self.row(store)).next_us == nth(1)

        peer = await self.join(store)
        await peer.end(await peer.take_one())
        (record,) = await self.done(store, self.a_fire(row, 1, instance=later))
        assert (record.outcome, record.instance) == (FIRED, later.id)
        (again,) = await store.enqueue([self.make.instance(key="k")])
        assert again.id == later.id

    async def test_two_schedules_want_one_key(self, store: Store) -> None:
        rows = [await self.schedule(store, name) for name in "ab"]
        fires = [self.a_fire(row, instance=self.make.instance(key="k")) for row in rows]
        records = await self.done(store, *fires)
        assert sorted(record.outcome for record in records) == [FIRED, SKIPPED]

    # -- batches

    async def test_a_batch_is_answered_in_order(self, store: Store) -> None:
        rows = [await self.schedule(store, f"s{number}") for number in range(120)]
        fires = [self.a_fire(row) for row in rows]
        fires[7] = msgspec.structs.replace(fires[7], nominal_us=nth(1))
        fires[70] = self.stretch(rows[70], 0, 3)
        answers = await self.send(store, *fires)
        assert answers[7].status is FireStatus.STALE
        for index, (fire, answer) in enumerate(zip(fires, answers, strict=True)):
            if index != 7:
                record = assert_done(answer)
                assert record.instance == ("" if fire.instance is None else fire.instance.id)
        assert await self.counts(store) == {State.SCHEDULED: 118}

    async def test_several_times_of_one_schedule_go_in_order(self, store: Store) -> None:
        row = await self.schedule(store)
        other = await self.schedule(store, "other")
        fires = [
            self.stretch(row, 0, 8, COALESCED),
            self.a_fire(other, 0, next_us=nth(1)),
            self.a_fire(row, 9),
            self.a_fire(row, 10),
            self.stretch(row, 11, 12),
            self.a_fire(row, -3, BACKFILLED),
            self.a_fire(row, 13),
        ]
        await self.done(store, *fires)
        assert await self.numbers(store) == [
            (-3, BACKFILLED, 1),
            (0, COALESCED, 9),
            (9, FIRED, 1),
            (10, FIRED, 1),
            (11, MISSED, 2),
            (13, FIRED, 1),
        ]
        assert (await self.row(store)).next_us == nth(14)
        assert await self.counts(store) == {State.SCHEDULED: 5}

    async def test_many_times_of_one_schedule_fit_in_one_call(self, store: Store) -> None:
        row = await self.schedule(store)
        await self.done(store, *(self.a_fire(row, -number, BACKFILLED) for number in range(1, 101)))
        assert len(await self.ledger(store)) == 100
        assert await self.counts(store) == {State.SCHEDULED: 100}

    async def test_times_with_large_arguments_fit_in_one_call(self, store: Store) -> None:
        row = await self.schedule(store)
        made = self.make.instances(6, spec=bytes(400_000))
        fires = [
            self.a_fire(row, -number, BACKFILLED, instance=new, request=new.id) for number, new in enumerate(made, 1)
        ]
        await self.done(store, *fires)
        assert [(await self.read(store, new.id)).spec for new in made] == [new.spec for new in made]

    async def test_a_call_may_be_empty_but_not_endless(self, store: Store) -> None:
        row = await self.schedule(store)
        assert await self.send(store) == []
        fires = [self.a_fire(row, -number, BACKFILLED) for number in range(MAX_SCHEDULES + 1)]
        with pytest.raises(ValueError, match=str(MAX_SCHEDULES)):
            await self.send(store, *fires)

    # -- requests that are sent a second time

    @pytest.mark.parametrize("outcome", list(FireOutcome))
    async def test_a_fire_sent_again_is_answered_as_it_was(self, store: Store, outcome: FireOutcome) -> None:
        row = await self.schedule(store, paused=outcome is PAUSED)
        fire = self.a_fire(row, 0 if outcome.advances else -1, outcome)
        first = await self.send(store, fire)
        assert_done(first[0])
        before = await self.all_of(store)
        for _ in range(2):
            assert await self.send(store, fire) == first
        assert await self.all_of(store) == before

    @pytest.mark.parametrize("outcome", MAKES)
    async def test_what_was_skipped_stays_skipped_when_sent_again(self, store: Store, outcome: FireOutcome) -> None:
        await self.schedule(store)
        holder = await self.fired(store, overlap=Overlap.SKIP)
        row = await self.row(store)
        number = 1 if outcome.advances else -1
        fire = self.a_fire(row, number, outcome, overlap=Overlap.SKIP)
        first = await self.send(store, fire)
        assert assert_done(first[0]).outcome is SKIPPED
        peer = await self.join(store)
        claim = await peer.take_one()
        assert claim.id == holder.instance
        await peer.end(claim)
        before = await self.all_of(store)
        assert await self.send(store, fire) == first
        assert await self.all_of(store) == before

    async def test_a_joined_stretch_sent_again_is_joined_once(self, store: Store) -> None:
        row = await self.schedule(store)
        await self.done(store, self.stretch(row, 0, 4))
        fire = self.stretch(row, 5, 9)
        first = await self.send(store, fire)
        assert await self.send(store, fire) == first
        assert await self.numbers(store) == [(0, MISSED, 10)]

    async def test_a_batch_sent_again_does_what_was_left(self, store: Store) -> None:
        rows = [await self.schedule(store, name) for name in "abc"]
        fires = [self.a_fire(row) for row in rows]
        first = await self.done(store, fires[1])
        records = await self.done(store, *fires)
        assert records[1:2] == first
        assert await self.counts(store) == {State.SCHEDULED: 3}

    async def test_the_same_fire_twice_at_once(self, store: Store) -> None:
        other = await self.open()
        row = await self.schedule(store)
        for number in range(10):
            fire = self.a_fire(row, number)
            first, two = await self.in_time(asyncio.gather(self.send(store, fire), self.send(other, fire)))
            assert first == two
            assert_done(first[0])
        assert await self.counts(store) == {State.SCHEDULED: 10}

    async def test_a_fire_sent_again_after_its_instance_is_over(self, store: Store) -> None:
        row = await self.schedule(store)
        fire = self.a_fire(row)
        first = await self.send(store, fire)
        peer = await self.join(store)
        await peer.end(await peer.take_one(), Action.COMPLETE)
        await store.clear()
        assert await self.send(store, fire) == first
        assert await self.counts(store) == {}


class TermRules(ScheduleSuite):
    """Rules of terms: the store refuses a deposed leader."""

    async def test_an_earlier_term_fires_nothing(self, store: Store) -> None:
        row = await self.schedule(store)
        other = await self.open()
        await self.done(store, self.a_fire(row), term=Term(coordinator="c", number=5))
        await self.done(other, self.a_fire(row, 1), term=Term(coordinator="c", number=7))
        for opened in (store, other):
            late = self.a_fire(row, 2)
            assert await self.refused(opened, late, Term(coordinator="c", number=5)) is FireStatus.DEPOSED
        await self.done(store, self.a_fire(row, 2), term=Term(coordinator="c", number=7))

    @pytest.mark.parametrize("outcome", list(FireOutcome))
    async def test_a_deposed_leader_does_nothing_at_all(self, store: Store, outcome: FireOutcome) -> None:
        other = await self.schedule(store, "other")
        row = await self.schedule(store, paused=outcome is PAUSED)
        await self.done(store, self.a_fire(other), term=Term(coordinator="c", number=2))
        fire = self.a_fire(row, outcome=outcome)
        assert await self.refused(store, fire, Term(coordinator="c", number=1)) is FireStatus.DEPOSED

    async def test_every_fire_of_a_deposed_leader_is_refused(self, store: Store) -> None:
        rows = [await self.schedule(store, name) for name in "abc"]
        await self.done(store, self.a_fire(rows[0]), term=Term(coordinator="c", number=2))
        answers = await self.send(store, *(self.a_fire(row) for row in rows[1:]), term=Term(coordinator="c", number=1))
        assert [answer.status for answer in answers] == [FireStatus.DEPOSED] * 2

    async def test_another_coordinator_starts_anew(self, store: Store) -> None:
        row = await self.schedule(store)
        await self.done(store, self.a_fire(row), term=Term(coordinator="etcd:1/ü", number=1_764_000_000_123_456))
        await self.done(store, self.a_fire(row, 1), term=Term(coordinator="etcd:2", number=1))
        await self.done(store, self.a_fire(row, 2), term=Term(coordinator="etcd:1/ü", number=1_764_000_000_123_456))
        late = self.a_fire(row, 3)
        assert await self.refused(store, late, Term(coordinator="etcd:1/ü", number=1_764_000_000_123_455)) is (
            FireStatus.DEPOSED
        )

    async def test_a_fire_by_hand_needs_no_term(self, store: Store) -> None:
        row = await self.schedule(store)
        await self.done(store, self.a_fire(row), term=Term(coordinator="c", number=9))
        (record,) = await self.done(store, self.a_fire(row, 1))
        assert (record.term, record.coordinator) == (0, "")

    async def test_a_later_term_is_remembered_even_if_nothing_was_fired(self, store: Store) -> None:
        row = await self.schedule(store)
        assert await self.refused(store, self.a_fire(row, 5), Term(coordinator="c", number=3)) is FireStatus.STALE
        assert await self.refused(store, self.a_fire(row), Term(coordinator="c", number=2)) is FireStatus.DEPOSED
