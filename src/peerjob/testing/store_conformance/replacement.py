"""A replacing fire cancels the holder of the slot and the waiting instances, and runs after the body has ended."""

import asyncio

from peerjob.model.firing import FireOutcome, Overlap
from peerjob.model.record import Ack, Action
from peerjob.model.state import State
from peerjob.store.base import Store

from .suite import states
from .timetable import ScheduleSuite

FIRED, SKIPPED, REPLACE = FireOutcome.FIRED, FireOutcome.SKIPPED, Overlap.REPLACE


class ReplacingRules(ScheduleSuite):
    """Rules of `Overlap.REPLACE`."""

    async def test_replace_takes_the_place_of_what_waits(self, store: Store) -> None:
        await self.schedule(store)
        first = await self.fired(store, overlap=REPLACE)
        assert (first.outcome, first.cancelled) == (FIRED, "")
        second = await self.fired(store, 1, overlap=REPLACE)
        assert (second.outcome, second.cancelled, second.parked) == (FIRED, first.instance, False)
        assert await self.held(store) == (second.instance, ())
        replaced = await self.read(store, first.instance)
        assert states(replaced) == [State.CREATED, State.SCHEDULED, State.CANCELLED]
        assert replaced.history[-1].note
        peer = await self.join(store)
        assert [claim.id for claim in await peer.take()] == [second.instance]
        assert await self.counts(store) == {State.CANCELLED: 1, State.PROCESSING: 1}

    async def test_replace_waits_for_the_body_of_what_runs(self, store: Store) -> None:
        await self.schedule(store)
        first = await self.fired(store, overlap=REPLACE)
        peer = await self.join(store)
        claim = await peer.take_one()
        second = await self.fired(store, 1, overlap=REPLACE)
        assert (second.outcome, second.cancelled, second.parked) == (FIRED, first.instance, True)
        assert await self.held(store) == (first.instance, (second.instance,))
        assert await self.state(store, first.instance) == State.CANCELLED
        assert await self.hinted(peer, "cancel")
        assert (await peer.renew(claim)).cancelled == (first.instance,)
        assert (await peer.claim()).claims == ()

        third = await self.fired(store, 2, overlap=REPLACE)
        assert (third.cancelled, third.parked) == (second.instance, True)
        assert await self.held(store) == (first.instance, (third.instance,))
        assert await self.state(store, second.instance) == State.CANCELLED

        assert await peer.end(claim, Action.RELEASE) is Ack.CANCELLED
        assert await self.held(store) == (third.instance, ())
        assert (await peer.take_one()).id == third.instance

    async def test_replace_clears_the_queue(self, store: Store) -> None:
        await self.schedule(store)
        ids = await self.parked(store, 12)
        record = await self.fired(store, 12, overlap=REPLACE)
        assert record.outcome is FIRED
        assert record.cancelled == ids[0]
        assert await self.held(store) == (record.instance, ())
        assert await self.counts(store) == {State.CANCELLED: 12, State.SCHEDULED: 1}
        peer = await self.join(store)
        assert [claim.id for claim in await peer.take()] == [record.instance]

    async def test_what_is_delayed_is_replaced(self, store: Store) -> None:
        await self.schedule(store)
        await self.fired(store, overlap=REPLACE, instance=self.make.instance(delay_us=60_000_000))
        second = await self.fired(store, 1, overlap=REPLACE)
        assert (await store.health()).delayed == 0
        assert await self.held(store) == (second.instance, ())

    async def test_a_watcher_hears_that_it_was_replaced(self, store: Store) -> None:
        await self.schedule(store)
        first = await self.fired(store, overlap=REPLACE)
        peer = await self.join(store)
        await store.watch_final(peer.incarnation, [first.instance])
        await self.fired(store, 1, overlap=REPLACE)
        assert await self.hinted(peer, "final", first.instance)

    async def test_a_replaced_key_is_taken_over(self, store: Store) -> None:
        await self.schedule(store)
        first, second, third = self.make.instances(3, key="k")
        await self.fired(store, overlap=REPLACE, instance=first)
        record = await self.fired(store, 1, overlap=REPLACE, instance=second)
        assert (record.outcome, record.cancelled) == (FIRED, first.id)
        (taken,) = await store.enqueue([self.make.instance(key="k")])
        assert taken.id == second.id
        # a running instance keeps its key until its body has ended, so a fire that would replace it with an instance of
        # the same key is skipped, and cancels nothing
        peer = await self.join(store)
        await peer.take_one()
        record = await self.fired(store, 2, overlap=REPLACE, instance=third)
        assert (record.outcome, record.cancelled) == (SKIPPED, "")
        assert await self.state(store, second.id) == State.PROCESSING

    async def test_a_replacement_sent_again_replaces_once(self, store: Store) -> None:
        row = await self.schedule(store)
        await self.done(store, self.a_fire(row, overlap=REPLACE))
        fire = self.a_fire(row, 1, overlap=REPLACE)
        first = await self.send(store, fire)
        before = await self.all_of(store)
        assert await self.send(store, fire) == first
        assert await self.all_of(store) == before

    async def test_a_replacement_and_an_end_at_once_have_one_order(self, store: Store) -> None:
        other = await self.open()
        await self.schedule(store)
        peer = await self.join(other)
        await self.fired(store, overlap=REPLACE)
        for number in range(1, 15):
            row, claim = await self.row(store), await peer.take_one()
            fire = self.a_fire(row, number, overlap=REPLACE)
            ack, (record,) = await self.in_time(asyncio.gather(peer.end(claim), self.done(store, fire)))
            assert (ack, record.cancelled) in ((Ack.DONE, ""), (Ack.CANCELLED, claim.id))
            assert await self.held(store) == (record.instance, ())
