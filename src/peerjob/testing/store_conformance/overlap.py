"""A schedule without overlap has one slot: the effect on its fires."""

import random  # noqa: TID251  # seeded, so that a failed walk can be repeated

import pytest

from peerjob.model.firing import FireOutcome, Overlap
from peerjob.model.query import Query
from peerjob.model.record import Ack, Action, Claim
from peerjob.model.state import State
from peerjob.store.base import Store

from .suite import states
from .timetable import ScheduleSuite, nth

FIRED, SKIPPED = FireOutcome.FIRED, FireOutcome.SKIPPED
SKIP, QUEUE, REPLACE, ALLOW = Overlap.SKIP, Overlap.QUEUE, Overlap.REPLACE, Overlap.ALLOW


class OverlapRules(ScheduleSuite):
    """Rules of slots."""

    # -- while the slot is taken

    async def test_the_first_takes_the_slot(self, store: Store) -> None:
        await self.schedule(store)
        record = await self.fired(store, overlap=SKIP)
        assert (record.outcome, record.parked) == (FIRED, False)
        assert await self.held(store) == (record.instance, ())
        assert (await self.read(store, record.instance)).slot == "s"

    async def test_allowed_ones_take_no_slot(self, store: Store) -> None:
        await self.schedule(store)
        for number in range(3):
            record = await self.fired(store, number, overlap=ALLOW)
            assert (record.outcome, record.parked) == (FIRED, False)
            assert (await self.read(store, record.instance)).slot == ""
        assert await self.held(store) == ("", ())
        holder = await self.fired(store, 3, overlap=SKIP)
        assert (await self.fired(store, 4, overlap=ALLOW)).outcome is FIRED
        assert await self.held(store) == (holder.instance, ())

    async def test_skip_makes_nothing(self, store: Store) -> None:
        await self.schedule(store)
        holder = await self.fired(store, overlap=SKIP)
        record = await self.fired(store, 1, overlap=SKIP)
        assert (record.outcome, record.instance, bool(record.reason)) == (SKIPPED, "", True)
        assert (await self.row(store)).next_us == nth(2)
        assert await self.held(store) == (holder.instance, ())
        assert await self.counts(store) == {State.SCHEDULED: 1}

    async def test_queue_parks(self, store: Store) -> None:
        await self.schedule(store)
        holder = await self.fired(store, overlap=QUEUE)
        record = await self.fired(store, 1, overlap=QUEUE)
        assert (record.outcome, record.parked) == (FIRED, True)
        assert await self.held(store) == (holder.instance, (record.instance,))
        parked = await self.read(store, record.instance)
        assert (states(parked), parked.slot) == ([State.CREATED, State.SCHEDULED], "s")
        assert await self.counts(store) == {State.SCHEDULED: 2}
        assert await self.found(store, Query(state=State.SCHEDULED)) == [holder.instance, record.instance]
        peer = await self.join(store)
        assert [claim.id for claim in await peer.take()] == [holder.instance]
        assert (await peer.claim()).claims == ()
        assert (await store.health()).delayed == 0

    async def test_only_so_many_are_parked(self, store: Store) -> None:
        await self.schedule(store)
        records = [await self.fired(store, number, overlap=QUEUE, queue_limit=2) for number in range(5)]
        assert [record.outcome for record in records] == [FIRED, FIRED, FIRED, SKIPPED, SKIPPED]
        assert records[3].reason
        assert await self.held(store) == (records[0].instance, (records[1].instance, records[2].instance))

    async def test_no_fire_is_parked_where_none_may_wait(self, store: Store) -> None:
        await self.schedule(store)
        assert (await self.fired(store, overlap=QUEUE, queue_limit=0)).outcome is FIRED
        assert (await self.fired(store, 1, overlap=QUEUE, queue_limit=0)).outcome is SKIPPED

    async def test_schedules_have_slots_of_their_own(self, store: Store) -> None:
        for name in ("s", "s/t"):
            await self.schedule(store, name)
            assert (await self.fired(store, name=name, overlap=SKIP)).outcome is FIRED

    async def test_what_runs_by_hand_minds_the_slot_too(self, store: Store) -> None:
        await self.schedule(store)
        holder = await self.fired(store, -2, FireOutcome.TRIGGERED, overlap=SKIP)
        assert await self.held(store) == (holder.instance, ())
        assert (await self.fired(store, 0, overlap=SKIP)).outcome is SKIPPED
        for by_hand in (FireOutcome.TRIGGERED, FireOutcome.BACKFILLED):
            assert (await self.fired(store, -1, by_hand, overlap=SKIP)).outcome is SKIPPED
        parked = await self.fired(store, -1, FireOutcome.TRIGGERED, overlap=QUEUE)
        assert parked.parked
        assert await self.held(store) == (holder.instance, (parked.instance,))

    async def test_several_in_one_call_mind_each_other(self, store: Store) -> None:
        row = await self.schedule(store)
        fires = [self.a_fire(row, number, overlap=overlap) for number, overlap in enumerate((SKIP, SKIP, QUEUE, QUEUE))]
        records = await self.done(store, *fires)
        assert [(record.outcome, record.parked) for record in records] == [
            (FIRED, False),
            (SKIPPED, False),
            (FIRED, True),
            (SKIPPED, False),
        ]
        assert await self.held(store) == (records[0].instance, (records[2].instance,))

    @pytest.mark.parametrize("action", [Action.RETRY, Action.SNOOZE, Action.HAND_BACK])
    async def test_a_holder_that_returns_to_the_queue_keeps_the_slot(self, store: Store, action: Action) -> None:
        await self.schedule(store)
        holder = await self.fired(store, overlap=SKIP)
        peer = await self.join(store)
        await peer.end(await peer.take_one(), action)
        assert await self.held(store) == (holder.instance, ())
        assert (await self.fired(store, 1, overlap=SKIP)).outcome is SKIPPED
        await peer.end(await peer.take_one())
        assert (await self.fired(store, 2, overlap=SKIP)).outcome is FIRED

    async def test_an_instance_that_is_taken_back_keeps_the_slot(self, store: Store) -> None:
        await self.schedule(store)
        holder = await self.fired(store, overlap=SKIP)
        reaper = await self.join(store)
        for leaves in (True, False):
            mortal = await self.join_briefly(store)
            assert (await mortal.take_one()).id == holder.instance
            if leaves:
                await store.leave(mortal.incarnation)
            else:
                await self.reap(reaper)
            assert await self.held(store) == (holder.instance, ())
            assert (await self.read(store, holder.instance)).slot == "s"

    async def test_a_cancelled_body_that_still_runs_keeps_the_slot(self, store: Store) -> None:
        await self.schedule(store)
        holder = await self.fired(store, overlap=SKIP)
        peer = await self.join(store)
        claim = await peer.take_one()
        await self.cancel(store, claim.id)
        assert await self.held(store) == (holder.instance, ())
        assert (await self.fired(store, 1, overlap=SKIP)).outcome is SKIPPED
        assert await peer.report(claim) is Ack.CANCELLED
        assert await self.held(store) == (holder.instance, ())

    # -- random commands

    @pytest.mark.parametrize("seed", range(4))
    async def test_at_any_time_at_most_one_instance_holds_the_slot(self, store: Store, seed: int) -> None:
        chance = random.Random(seed)
        await self.schedule(store)
        peer = await self.join(store)
        ids: list[str] = []
        running: list[Claim] = []
        number = 0
        for _ in range(80):
            verb = chance.choice(("fire", "fire", "fire", "claim", "claim", "end", "end", "cancel"))
            if verb == "fire":
                record = await self.fired(store, number, overlap=chance.choice((SKIP, QUEUE, REPLACE)), queue_limit=3)
                number += 1
                ids += [record.instance] if record.instance else []
            elif verb == "claim":
                running += await peer.take()
            elif verb == "end" and running:
                action = chance.choice((Action.COMPLETE, Action.TERMINATE, Action.RETRY, Action.HAND_BACK))
                await peer.end(running.pop(), action)
            elif verb == "cancel" and ids:
                await self.cancel(store, *chance.sample(ids, min(len(ids), 3)))
            await self._assert_one_at_work(store, ids, running)

    async def _assert_one_at_work(self, store: Store, ids: list[str], running: list[Claim]) -> None:
        holder, parked = await self.held(store)
        records = [await self.read(store, id) for id in ids]
        runs = {claim.id for claim in running}
        assert len(runs) <= 1
        live = [record.id for record in records if not record.state.is_final or record.id in runs]
        assert live == ([holder, *parked] if holder else [])
        assert [record.id for record in records if record.slot] == live
        assert not runs or runs == {holder}
        assert await self.found(store, Query(state=State.SCHEDULED)) == [id for id in live if id not in runs]
