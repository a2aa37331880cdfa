"""The transaction that ends the holder of a slot also passes the slot on."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import ClassVar

import pytest

from peerjob.model.firing import FireOutcome, Overlap
from peerjob.model.query import Filter
from peerjob.model.record import Ack, Action, Claim
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.testing.factories import Peer, outcome

from .suite import states
from .timetable import ScheduleSuite

FIRED = FireOutcome.FIRED
SKIP, QUEUE = Overlap.SKIP, Overlap.QUEUE


class PassingRules(ScheduleSuite):
    """Rules of the end of a holder, and of the next holder."""

    async def _commit(self, peer: Peer, claim: Claim, action: Action) -> None:
        assert await peer.end(claim, action) is Ack.DONE

    async def _cancel_and_release(self, peer: Peer, claim: Claim) -> None:
        await self.cancel(peer.store, claim.id)
        assert await peer.end(claim, Action.RELEASE) is Ack.CANCELLED

    async def _cancel_and_leave(self, peer: Peer, claim: Claim) -> None:
        await self.cancel(peer.store, claim.id)
        await peer.store.leave(peer.incarnation)

    async def _cancel_and_die(self, peer: Peer, claim: Claim) -> None:
        await self.cancel(peer.store, claim.id)
        await peer.store.join(peer.info, ttl_us=round(self.short_ttl * 1_000_000))
        await self.reap(await self.join(peer.store, "reaper", ()))

    async def _cancel_in_the_queue(self, peer: Peer, claim: Claim) -> None:
        await peer.end(claim, Action.HAND_BACK)
        assert await self.cancel(peer.store, claim.id) == [State.SCHEDULED]

    async def _cancel_while_delayed(self, peer: Peer, claim: Claim) -> None:
        await peer.end(claim, Action.RETRY, delay_us=60_000_000)
        assert await self.cancel(peer.store, claim.id) == [State.SCHEDULED]

    async def _poison(self, peer: Peer, claim: Claim) -> None:
        await peer.report(claim, started=True)
        await peer.store.join(peer.info, ttl_us=round(self.short_ttl * 1_000_000))
        (reaped,) = await self.reap(await self.join(peer.store, "reaper", ()))
        assert reaped.state == State.TERMINATED

    ENDINGS: ClassVar[dict[str, Callable[["PassingRules", Peer, Claim], Awaitable[None]]]] = {
        "complete": lambda self, peer, claim: self._commit(peer, claim, Action.COMPLETE),
        "terminate": lambda self, peer, claim: self._commit(peer, claim, Action.TERMINATE),
        "time out": lambda self, peer, claim: self._commit(peer, claim, Action.TIME_OUT),
        "cancel itself": lambda self, peer, claim: self._commit(peer, claim, Action.CANCEL),
        "cancel, release": _cancel_and_release,
        "cancel, leave": _cancel_and_leave,
        "cancel, reap": _cancel_and_die,
        "cancel in the queue": _cancel_in_the_queue,
        "cancel while delayed": _cancel_while_delayed,
        "poison": _poison,
    }

    @pytest.mark.parametrize("ending", ENDINGS)
    async def test_the_slot_is_free_after(self, store: Store, ending: str) -> None:
        await self.schedule(store)
        first = self.make.instance(max_crashes=0)
        await self.fired(store, overlap=SKIP, instance=first)
        peer = await self.join(store)
        claim = await peer.take_one()
        assert claim.id == first.id
        await self.ENDINGS[ending](self, peer, claim)
        assert await self.held(store) == ("", ())
        assert (await self.read(store, first.id)).slot == ""
        record = await self.fired(store, 1, overlap=SKIP)
        assert record.outcome is FIRED
        assert await self.held(store) == (record.instance, ())

    @pytest.mark.parametrize("ending", ENDINGS)
    async def test_the_first_that_is_parked_is_next_after(self, store: Store, ending: str) -> None:
        await self.schedule(store)
        first = self.make.instance(max_crashes=0)
        await self.fired(store, overlap=QUEUE, instance=first)
        second, third = [(await self.fired(store, number, overlap=QUEUE, queue_limit=2)).instance for number in (1, 2)]
        peer = await self.join(store)
        claim = await peer.take_one()
        sleeper = await self.join(store, "sleeper")
        await sleeper.claim()
        await self.hints(sleeper)
        await self.ENDINGS[ending](self, peer, claim)

        assert await self.held(store) == (second, (third,))
        assert await self.woken([sleeper], 1) == ["sleeper"]
        claim = await sleeper.take_one()
        assert claim.id == second
        assert (await sleeper.claim()).claims == ()
        assert states(await self.read(store, second)) == [State.CREATED, State.SCHEDULED, State.PROCESSING]
        await sleeper.end(claim)
        assert (await sleeper.take_one()).id == third
        assert await self.held(store) == (third, ())

    async def test_one_turn_ends_and_claims_the_next(self, store: Store) -> None:
        await self.schedule(store)
        first, second = await self.parked(store, 2)
        peer = await self.join(store)
        claim = await peer.take_one()
        assert claim.id == first
        acks, claimed = await store.turn(peer.incarnation, [outcome(claim)], peer.want(), request=self.make.request())
        assert acks == [Ack.DONE]
        assert [claim.id for claim in claimed.claims] == [second]

    async def test_a_parked_instance_keeps_its_due_time(self, store: Store) -> None:
        await self.schedule(store)
        await self.parked(store, 1)
        later = self.make.instance(delay_us=3_000_000)
        await self.fired(store, 1, overlap=QUEUE, instance=later)
        peer = await self.join(store)
        assert (await store.health()).delayed == 0
        await peer.end(await peer.take_one())
        claimed = await peer.claim()
        assert claimed.claims == ()
        assert (await store.health()).delayed == 1
        assert claimed.next_due_us == (await self.read(store, later.id)).due_us
        await self.pass_time(3.1)
        assert (await peer.take_one()).id == later.id

    async def test_a_waiting_instance_that_is_cancelled_frees_its_place(self, store: Store) -> None:
        await self.schedule(store)
        holder, *waiting = await self.parked(store, 4)
        assert await self.cancel(store, waiting[1]) == [State.SCHEDULED]
        assert await self.held(store) == (holder, (waiting[0], waiting[2]))
        assert states(await self.read(store, waiting[1])) == [State.CREATED, State.SCHEDULED, State.CANCELLED]
        assert (await self.read(store, waiting[1])).slot == ""
        peer = await self.join(store)
        for id in (holder, waiting[0], waiting[2]):
            claim = await peer.take_one()
            assert claim.id == id
            await peer.end(claim)
        assert await self.held(store) == ("", ())
        assert (await peer.claim()).claims == ()

    async def test_all_are_cancelled_in_one_call(self, store: Store) -> None:
        await self.schedule(store)
        ids = await self.parked(store, 12)
        request = self.make.request()
        for _ in range(2):
            assert await store.cancel(ids, request=request) == [State.SCHEDULED] * 12
        assert await self.held(store) == ("", ())
        assert await self.counts(store) == {State.CANCELLED: 12}
        peer = await self.join(store)
        assert (await peer.claim()).claims == ()
        assert (await self.fired(store, 12, overlap=SKIP)).outcome is FIRED

    async def test_the_holder_and_the_next_are_cancelled_in_one_call(self, store: Store) -> None:
        await self.schedule(store)
        holder, parked, last = await self.parked(store, 3)
        assert await self.cancel(store, holder, parked) == [State.SCHEDULED] * 2
        peer = await self.join(store)
        assert [claim.id for claim in await peer.take()] == [last]

    async def test_parked_ones_outlive_their_schedule(self, store: Store) -> None:
        await self.schedule(store)
        ids = await self.parked(store, 3)
        await store.remove_schedule("s", request=self.make.id())
        peer = await self.join(store)
        for id in ids:
            claim = await peer.take_one()
            assert claim.id == id
            await peer.end(claim)
        await self.schedule(store)
        assert await self.held(store) == ("", ())

    async def test_final_instances_are_cleared_without_a_trace(self, store: Store) -> None:
        await self.schedule(store)
        first, second = await self.parked(store, 2)
        peer = await self.join(store)
        await peer.end(await peer.take_one())
        assert await store.clear_instances(Filter()) == 1
        assert await store.get([first]) == [None]
        assert await self.held(store) == (second, ())

    async def test_clearing_everything_frees_every_slot(self, store: Store) -> None:
        await self.schedule(store)
        await self.parked(store, 5)
        peer = await self.join(store)
        await peer.take_one()
        await store.clear()
        assert await self.held(store) == ("", ())
        assert (await self.fired(store, 5, overlap=SKIP)).outcome is FIRED
        assert len(await peer.take()) == 1

    async def test_an_end_and_a_fire_at_once_leave_no_instance_behind(self, store: Store) -> None:
        other = await self.open()
        await self.schedule(store)
        peer = await self.join(other)
        await self.fired(store, overlap=QUEUE)
        for number in range(1, 15):
            row, claim = await self.row(store), await peer.take_one()
            fire = self.a_fire(row, number, overlap=QUEUE)
            ack, (record,) = await self.in_time(asyncio.gather(peer.end(claim), self.done(store, fire)))
            assert (ack, record.outcome) == (Ack.DONE, FIRED)
            assert await self.held(store) == (record.instance, ())

    async def test_an_end_and_a_cancel_at_once_leave_no_instance_behind(self, store: Store) -> None:
        other = await self.open()
        await self.schedule(store)
        holder, *waiting = await self.parked(store, 15)
        peer = await self.join(other)
        claim = await peer.take_one()
        while waiting:
            ack, (was,) = await self.in_time(asyncio.gather(peer.end(claim), self.cancel(store, waiting[0])))
            assert (ack, was) == (Ack.DONE, State.SCHEDULED)
            holder, waiting = (waiting[1], waiting[2:]) if len(waiting) > 1 else ("", [])
            assert await self.held(store) == (holder, tuple(waiting))
            if holder:
                claim = await peer.take_one()
                assert claim.id == holder

    async def test_a_parked_suspect_from_another_store_is_claimed_alone(self, store: Store) -> None:
        await self.schedule(store)
        peer = await self.join(store)
        await self.fired(store, overlap=Overlap.QUEUE)
        suspect = self.make.instance(losses=2)
        assert (await self.fired(store, 1, overlap=Overlap.QUEUE, instance=suspect)).parked
        await peer.end(await peer.take_one())
        other = self.make.instance()
        await store.enqueue([other])
        assert [claim.id for claim in await peer.take()] == [suspect.id]
        assert [claim.id for claim in await peer.take()] == [other.id]

    async def test_nothing_is_left_of_what_took_a_slot_and_expired(self, store: Store) -> None:
        """Retention removes an instance together with its tags, its key and its place in the slot."""
        await self.schedule(store)
        peer = await self.join(store)
        new = self.make.instance(tags=("a", "b"), key="key", retention_us=0)
        await self.fired(store, overlap=Overlap.QUEUE, instance=new)
        await peer.end(await peer.take_one())
        await self.pass_time(0.01)
        await store.expire(10)
        assert await store.get([new.id]) == [None]
        await store.leave(peer.incarnation)
        # several calls of `expire` are needed to forget the kinds of the node that left
        for _ in range(3):
            await store.expire(10)
        await self.assert_nothing_left(store)
