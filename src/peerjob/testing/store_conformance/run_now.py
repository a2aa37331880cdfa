"""A delayed instance becomes due at once; every other instance stays as it is."""

import asyncio

import msgspec
import pytest

from peerjob.model.firing import Overlap
from peerjob.model.query import Filter
from peerjob.model.record import MAX_BATCH, SUSPECT_AFTER, Action, Enqueued
from peerjob.model.run_now import RunNow, RunNowAnswer
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.testing.factories import Peer

from .suite import ids_of, states
from .timetable import ScheduleSuite

HOUR_US = 3_600_000_000


class RunNowRules(ScheduleSuite):
    """Rules of `run_now`."""

    async def run_now(self, store: Store, *ids: str) -> list[RunNowAnswer]:
        """Make due under a fresh request id."""
        return await store.run_now(ids, request=self.make.request())

    async def delayed(self, store: Store, peer: Peer, how: str) -> str:
        """An instance that is due in an hour."""
        if how == "scheduled":
            new = self.make.instance(delay_us=HOUR_US)
            await store.enqueue([new])
            return new.id
        await store.enqueue(self.make.instances(1))
        claim = await peer.take_one()
        await peer.report(claim, progress=b"half", logs=(self.make.line("before"),))
        await peer.end(claim, Action(how), delay_us=HOUR_US, error=b"why" if how == Action.RETRY else None)
        return claim.id

    # -- what changes

    @pytest.mark.parametrize("how", ["scheduled", Action.RETRY, Action.SNOOZE])
    async def test_a_delayed_instance_is_due_at_once(self, store: Store, how: str) -> None:
        peer = await self.join(store)
        id = await self.delayed(store, peer, how)
        before, logs = await self.read(store, id), await store.logs(id)
        assert (await peer.claim()).claims == ()
        assert ((await store.health()).delayed, await store.due()) == (1, {})

        assert await self.run_now(store, id) == [RunNow.DUE_NOW]
        after = await self.read(store, id)
        assert before.history[-1].at_us <= after.due_us < before.due_us
        assert after == msgspec.structs.replace(before, due_us=after.due_us)
        assert await store.logs(id) == logs
        assert ((await store.health()).delayed, await store.due()) == (0, {"work": 1})
        assert await self.counts(store) == {State.SCHEDULED: 1}

        claim = await peer.take_one()
        assert (claim.id, claim.due_us, claim.attempts) == (id, after.due_us, before.attempts + 1)
        assert (await peer.claim()).next_due_us is None
        assert ((await store.health()).delayed, await store.due()) == (0, {})
        await peer.end(claim)
        assert await self.counts(store) == {State.COMPLETED: 1}

    async def test_the_next_due_time_is_that_of_the_next_one(self, store: Store) -> None:
        first, second = self.make.instance(delay_us=HOUR_US), self.make.instance(delay_us=2 * HOUR_US)
        await store.enqueue([first, second])
        peer = await self.join(store)
        await self.run_now(store, first.id)
        await peer.take_one()
        assert (await peer.claim()).next_due_us == (await self.read(store, second.id)).due_us

    async def test_it_comes_after_those_that_were_due_before_it(self, store: Store) -> None:
        urgent, late = self.make.instance(priority=-1, delay_us=HOUR_US), self.make.instances(3, delay_us=HOUR_US)
        await store.enqueue([urgent, *late])
        due = self.make.instances(2)
        await store.enqueue(due)
        await self.pass_time(0.001)
        moved = [late[2].id, late[0].id, urgent.id]
        assert await self.run_now(store, *moved) == [RunNow.DUE_NOW] * 3
        await self.pass_time(0.001)
        await store.enqueue(last := self.make.instances(1))
        peer = await self.join(store)
        assert ids_of(await peer.take()) == ids_of([urgent, *due, late[0], late[2], *last])

    async def test_its_unique_key_stays_taken(self, store: Store) -> None:
        first, second = self.make.instances(2, key="k", delay_us=HOUR_US)
        await store.enqueue([first])
        await self.run_now(store, first.id)
        assert await store.enqueue([second]) == [Enqueued(first.id, False)]
        peer = await self.join(store)
        await peer.end(await peer.take_one())
        assert await store.enqueue([second]) == [Enqueued(second.id, True)]

    async def test_a_suspect_is_still_claimed_alone(self, store: Store) -> None:
        suspect = self.make.instance(delay_us=HOUR_US, losses=SUSPECT_AFTER)
        await store.enqueue([suspect, *self.make.instances(2)])
        assert await self.run_now(store, suspect.id) == [RunNow.DUE_NOW]
        peer = await self.join(store)
        assert len((await peer.claim(peer.want(suspects=False))).claims) == 2
        assert ids_of(await peer.take()) == [suspect.id]

    async def test_a_node_with_many_kinds_claims_it(self, store: Store) -> None:
        kinds = [f"kind-{number}" for number in range(40)]
        peer = await self.join(store, kinds=kinds)
        assert (await peer.claim(peer.want(1))).claims == ()
        late = [self.make.instance(kind=kind, delay_us=HOUR_US) for kind in kinds[:3]]
        await store.enqueue(late)
        assert await self.run_now(store, late[1].id) == [RunNow.DUE_NOW]
        await self.pass_time(0.001)
        assert await self.run_now(store, late[0].id, late[2].id) == [RunNow.DUE_NOW] * 2
        assert [ids_of(await peer.take(1)) for _ in range(4)] == [[late[n].id] for n in (1, 0, 2)] + [[]]

    async def test_a_whole_batch_moves(self, store: Store) -> None:
        batch = self.make.instances(MAX_BATCH, delay_us=HOUR_US)
        await store.enqueue(batch)
        ids = ids_of(batch)
        with pytest.raises(ValueError, match=str(MAX_BATCH)):
            await self.run_now(store, *ids, self.make.id())
        assert await self.run_now(store, *ids) == [RunNow.DUE_NOW] * MAX_BATCH
        peer = await self.join(store)
        assert sorted(ids_of(await peer.take())) == sorted(ids)

    # -- what stays

    async def test_one_that_is_due_keeps_its_place(self, store: Store) -> None:
        due = self.make.instances(3)
        fallen = self.make.instance(delay_us=1)
        await store.enqueue(due[:1])
        await store.enqueue([fallen])
        await self.pass_time(0.01)
        await store.enqueue(due[1:])
        ids = ids_of([due[0], fallen, *due[1:]])
        before = await self.everything(store, *ids)
        assert await self.run_now(store, *ids) == [RunNow.WAS_DUE] * 4
        assert await self.run_now(store, due[0].id) == [RunNow.WAS_DUE]
        assert await self.everything(store, *ids) == before
        peer = await self.join(store)
        assert ids_of(await peer.take()) == ids

    async def test_a_running_and_a_final_one_answer_with_their_state(self, store: Store) -> None:
        batch = self.make.instances(5)
        await store.enqueue(batch)
        peer = await self.join(store)
        claims = await peer.take()
        for claim, action in zip(claims, (Action.COMPLETE, Action.TERMINATE, Action.TIME_OUT), strict=False):
            await peer.end(claim, action)
        await store.cancel([claims[3].id], request=self.make.request())
        before = await self.everything(store, *ids_of(batch))
        assert await self.run_now(store, self.make.id(), *ids_of(batch)) == [
            None,
            State.COMPLETED,
            State.TERMINATED,
            State.TIMED_OUT,
            State.CANCELLED,
            State.PROCESSING,
        ]
        assert await self.run_now(store) == []
        assert await self.everything(store, *ids_of(batch)) == before
        assert await store.due() == {}
        assert await peer.take() == ()

    async def test_a_parked_one_still_waits_for_its_slot(self, store: Store) -> None:
        await self.schedule(store)
        holder, *parked = await self.parked(store, 3)
        before, row = await self.everything(store, *parked), await self.row(store)
        assert await self.run_now(store, *parked) == [RunNow.PARKED] * 2
        assert await self.everything(store, *parked) == before
        assert await self.row(store) == row
        peer = await self.join(store)
        (claim,) = await peer.take()
        assert claim.id == holder
        await peer.end(claim)
        assert ids_of(await peer.take()) == parked[:1]

    async def test_the_holder_of_a_slot_keeps_it(self, store: Store) -> None:
        """Nominal times, ledger and slot stay; those that wait for the slot still wait."""
        await self.schedule(store)
        holder, *parked = await self.parked(store, 2)
        peer = await self.join(store)
        await peer.end(await peer.take_one(), Action.SNOOZE, delay_us=HOUR_US)
        before = await self.all_of(store)
        assert await self.run_now(store, holder, *parked) == [RunNow.DUE_NOW, RunNow.PARKED]
        assert await self.all_of(store) == before
        (claim,) = await peer.take()
        assert claim.id == holder
        await peer.end(claim)
        assert ids_of(await peer.take()) == parked

    async def test_a_delayed_one_that_was_parked_can_run_now(self, store: Store) -> None:
        await self.schedule(store)
        late = self.make.instance(delay_us=HOUR_US)
        await self.fired(store, overlap=Overlap.QUEUE, queue_limit=5)
        await self.fired(store, 1, overlap=Overlap.QUEUE, queue_limit=5, instance=late)
        assert await self.run_now(store, late.id) == [RunNow.PARKED]
        peer = await self.join(store)
        await peer.end(await peer.take_one())
        assert ((await store.health()).delayed, await peer.take()) == (1, ())
        assert await self.run_now(store, late.id) == [RunNow.DUE_NOW]
        assert ids_of(await peer.take()) == [late.id]

    # -- who hears of it

    async def test_idle_nodes_that_can_run_it_are_woken(self, store: Store) -> None:
        late = self.make.instances(3, delay_us=HOUR_US)
        await store.enqueue(late)
        able = [await self.join(store, f"able {number}") for number in range(3)]
        unable = await self.join(store, "unable", ("other",))
        for peer in (*able, unable):
            assert (await peer.claim()).claims == ()
        request = self.make.request()
        await store.run_now([late[0].id], request=request)
        first = await self.woken([*able, unable], 1)
        assert len(first) == 1
        assert first[0].startswith("able")
        await store.run_now([late[0].id], request=request)
        await self.run_now(store, late[0].id)
        assert await self.woken([*able, unable]) == []
        await self.run_now(store, late[1].id, late[2].id)
        assert sorted([*first, *await self.woken([*able, unable], 2)]) == [peer.name for peer in able]

    async def test_a_change_is_hinted_once(self, store: Store) -> None:
        late, due = self.make.instance(delay_us=HOUR_US), self.make.instance()
        await store.enqueue([late, due])
        watcher = await self.join(store, "watcher", ())
        await store.watch_changes(watcher.incarnation, 60)
        await self.run_now(store, due.id, late.id)
        assert await self.hinted(watcher, "change", late.id)
        await self.run_now(store, due.id, late.id)
        assert await self.hints(watcher) == []

    # -- repeats

    async def test_a_repeat_has_the_first_answer_and_changes_nothing(self, store: Store) -> None:
        """Also on another node, in a batch that was cut in another way, and after the instance was delayed again."""
        peer, elsewhere = await self.join(store), await self.open()
        id = await self.delayed(store, peer, "scheduled")
        due, unknown = self.make.instances(2)
        await store.enqueue([due])
        ids, request = [id, due.id, unknown.id, id], self.make.request()
        wanted = [RunNow.DUE_NOW, RunNow.WAS_DUE, None, RunNow.DUE_NOW]
        assert await store.run_now(ids, request=request) == wanted
        assert await elsewhere.run_now(ids, request=request) == wanted
        await store.enqueue([unknown])
        for claim in await peer.take():
            await peer.end(claim, Action.SNOOZE, delay_us=HOUR_US)
        before = await self.everything(store, *ids[:3])

        for again in (store, elsewhere):
            assert [(await again.run_now([uuid], request=request))[0] for uuid in ids] == wanted
            assert await again.run_now(ids[::-1], request=request) == wanted[::-1]
        assert await self.everything(store, *ids[:3]) == before
        assert ((await store.health()).delayed, await peer.take()) == (3, ())
        assert await self.run_now(elsewhere, *ids) == [RunNow.DUE_NOW] * 4
        assert len(await peer.take()) == 3

    async def test_a_request_sent_twice_at_once_acts_once(self, store: Store) -> None:
        other = await self.open()
        for _ in range(10):
            batch = self.make.instances(3, delay_us=HOUR_US)
            await store.enqueue(batch)
            request, ids = self.make.request(), ids_of(batch)
            first, another = await self.in_time(
                asyncio.gather(store.run_now(ids, request=request), other.run_now(ids[::-1], request=request))
            )
            assert first == another == [RunNow.DUE_NOW] * 3

    async def test_of_two_requests_at_once_one_acts(self, store: Store) -> None:
        other = await self.open()
        for _ in range(10):
            (new,) = self.make.instances(1, delay_us=HOUR_US)
            await store.enqueue([new])
            answers = await self.in_time(asyncio.gather(self.run_now(store, new.id), self.run_now(other, new.id)))
            assert sorted(answers, key=str) == [[RunNow.DUE_NOW], [RunNow.WAS_DUE]]

    # -- races

    async def test_a_move_and_a_cancel_at_once_have_one_order(self, store: Store) -> None:
        other = await self.open()
        for _ in range(20):
            (new,) = self.make.instances(1, delay_us=HOUR_US)
            await store.enqueue([new])
            (moved,), (was,) = await self.in_time(
                asyncio.gather(self.run_now(store, new.id), self.cancel(other, new.id))
            )
            assert (moved, was) in ((RunNow.DUE_NOW, State.SCHEDULED), (State.CANCELLED, State.SCHEDULED))
            assert states(await self.read(store, new.id)) == [State.CREATED, State.SCHEDULED, State.CANCELLED]
        assert (await store.health()).delayed == 0
        assert await store.due() == {}
        assert await self.counts(store) == {State.CANCELLED: 20}

    async def test_a_move_and_a_claim_at_once_take_each_instance_once(self, store: Store) -> None:
        """The claim moves instances that fall due in this moment, too."""
        other = await self.open()
        peer = await self.join(other)
        for _ in range(20):
            batch = [self.make.instance(delay_us=delay_us) for delay_us in (1, 1_000, HOUR_US)]
            await store.enqueue(batch)
            _, claims = await self.in_time(asyncio.gather(self.run_now(store, *ids_of(batch)), peer.take()))
            await self.pass_time(0.002)
            claims += await peer.take()
            assert sorted(ids_of(claims)) == sorted(ids_of(batch))
        assert (await store.health()).delayed == 0
        assert await store.due() == {}
        assert await self.counts(store) == {State.PROCESSING: 60}

    async def test_nothing_is_left_of_it(self, store: Store) -> None:
        late = [self.make.instance(delay_us=HOUR_US, kind=kind, tags=("t",), key="k") for kind in ("work", "other")]
        await store.enqueue(late)
        peer = await self.join(store)
        await self.run_now(store, *ids_of(late), self.make.id())
        await peer.end(await peer.take_one())
        await store.cancel([late[1].id], request=self.make.request())
        await store.leave(peer.incarnation)
        while await store.clear_instances(Filter()):
            pass
        # several calls of `expire` are needed to forget the kinds of the node that left
        for _ in range(3):
            await store.expire(10)
        await self.assert_nothing_left(store)
