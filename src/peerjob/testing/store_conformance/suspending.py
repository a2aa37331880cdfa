"""SUSPEND: a run ends, and the instance waits in no queue until a signal is there or a time has come."""

from __future__ import annotations

import pytest

from peerjob.model.durable import Wait
from peerjob.model.firing import Overlap
from peerjob.model.query import Filter
from peerjob.model.record import MAX_HISTORY, Ack, Action, Enqueued, StoreLimits
from peerjob.model.run_now import RunNow
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.store.rules import REPLACED, SUSPENDED
from peerjob.testing.factories import outcome

from .durable_suite import APPROVAL, HOUR_US, DurableSuite, steps
from .limit_suite import LimitSuite
from .suite import ids_of, states
from .timetable import ScheduleSuite


class SuspendRules(DurableSuite, LimitSuite, ScheduleSuite):
    """Rules of waits, apart from what a signal does."""

    async def test_a_suspended_instance_waits(self, flows: Store) -> None:
        peer = await self.join(flows)
        claim = await self.running(flows, peer)
        await peer.report(claim, started=True, progress=b"half")
        assert await peer.suspend(claim, APPROVAL, error=b"e", result=b"no", delay_us=HOUR_US) is Ack.DONE
        record = await self.assert_waits(flows, claim.id)
        assert states(record)[1:] == [State.SCHEDULED, State.PROCESSING, State.SCHEDULED]
        assert (record.history[-1].note, record.history[-1].node) == (SUSPENDED, "node")
        assert (record.wait, record.open, record.owner) == (APPROVAL, False, "")
        assert (record.attempts, record.crashes, record.losses) == (0, 0, 0)
        assert (record.due_us, record.progress, record.error, record.result) == (claim.due_us, b"half", b"e", None)
        assert (await peer.take(), await flows.due()) == ((), {})
        assert (await peer.claim()).next_due_us is None
        assert (await flows.health()).delayed == 0
        assert await self.counts(flows) == {State.SCHEDULED: 1}
        assert (await peer.renew()).held is None

    async def test_the_note_of_the_outcome_comes_first(self, flows: Store) -> None:
        peer = await self.join(flows)
        claim = await self.running(flows, peer)
        await peer.suspend(claim, APPROVAL, note="cool-down")
        assert (await self.read(flows, claim.id)).history[-1].note == "cool-down"

    async def test_a_time_ends_a_wait(self, flows: Store) -> None:
        peer = await self.join(flows)
        claim = await self.running(flows, peer)
        wait = Wait(signals=("approval",), until_us=claim.at_us + 3_000_000)
        await peer.suspend(claim, wait)
        record = await self.assert_waits(flows, claim.id)
        assert (record.wait, record.due_us) == (wait, wait.until_us)
        assert ((await flows.health()).delayed, await flows.due()) == (1, {})
        assert (await peer.claim()).next_due_us == wait.until_us
        await self.pass_time(3.1)
        assert await flows.due() == {"work": 1}
        assert await self.hurry(flows, claim.id) is RunNow.WAS_DUE
        (again,) = await peer.take()
        assert (again.id, again.due_us, again.attempts) == (claim.id, wait.until_us, 1)
        assert (await self.read(flows, claim.id)).wait is None
        await peer.end(again, Action.RETRY, delay_us=HOUR_US)
        assert (await self.read(flows, claim.id)).wait is None, "the wait belongs to the fence before"
        assert await self.hurry(flows, claim.id) is RunNow.DUE_NOW

    async def test_a_time_that_has_come_ends_the_wait_at_once(self, flows: Store) -> None:
        peer = await self.join(flows)
        claim = await self.running(flows, peer)
        await peer.suspend(claim, Wait(until_us=claim.at_us))
        assert await flows.due() == {"work": 1}
        (again,) = await peer.take()
        assert (again.id, again.due_us) == (claim.id, claim.at_us)

    async def test_a_time_far_away_is_kept(self, flows: Store) -> None:
        peer = await self.join(flows)
        claim = await self.running(flows, peer)
        assert await peer.suspend(claim, Wait(until_us=claim.at_us + 100 * 365 * 24 * HOUR_US)) is Ack.DONE
        await self.assert_waits(flows, claim.id)

    @pytest.mark.parametrize("wait", [APPROVAL, Wait(until_us=4_000_000_000_000_000)])
    async def test_run_now_is_refused(self, flows: Store, wait: Wait) -> None:
        peer = await self.join(flows)
        claim = await self.suspended(flows, peer, wait)
        before = await self.everything(flows, claim.id)
        request = self.make.request()
        for _ in range(2):
            assert await flows.run_now([claim.id], request=request) == [RunNow.SUSPENDED]
        assert await self.everything(flows, claim.id) == before
        assert await peer.take() == ()
        await flows.signal(claim.id, "approval", b"yes")
        assert await flows.run_now([claim.id], request=request) == [RunNow.SUSPENDED], "as the first answer"

    async def test_a_wait_forgets_crashes(self, flows: Store) -> None:
        new = self.make.instance(crashes=1, losses=1, max_crashes=3)
        await flows.enqueue([new])
        peer = await self.join(flows)
        claim = await peer.take_one()
        assert claim.suspect
        await peer.suspend(claim, APPROVAL)
        record = await self.read(flows, new.id)
        assert (record.crashes, record.losses) == (0, 0)
        await flows.signal(new.id, "approval", b"yes")
        await flows.enqueue(self.make.instances(1))
        again, _ = await peer.take()
        assert (again.id, again.suspect) == (new.id, False)

    async def test_the_same_request_waits_once(self, flows: Store) -> None:
        peer = await self.join(flows)
        claim = await self.running(flows, peer)
        said, request = outcome(claim, Action.SUSPEND, wait=APPROVAL, steps=steps(a=b"1")), self.make.request()
        assert await peer.commit(said, request=request) == [Ack.DONE]
        before = await self.everything(flows, claim.id)
        assert await peer.commit(said, request=request) == [Ack.DONE]
        assert await self.everything(flows, claim.id) == before
        await flows.signal(claim.id, "approval", b"yes")
        again = await peer.take_one()
        assert await peer.commit(said, request=request) == [Ack.DONE]
        assert await peer.commit(said) == [Ack.LOST]
        assert await peer.end(again) is Ack.DONE

    async def test_others_do_not_suspend_it(self, flows: Store) -> None:
        peer, other = await self.join(flows), await self.join(flows, "other")
        claim = await self.running(flows, peer)
        assert await other.suspend(claim, APPROVAL) is Ack.LOST
        await peer.end(claim, Action.HAND_BACK)
        assert await peer.suspend(claim, APPROVAL) is Ack.LOST
        await self.assert_queued(flows, claim.id)

    @pytest.mark.parametrize("wait", [APPROVAL, Wait(until_us=4_000_000_000_000_000)])
    async def test_a_cancel_ends_a_wait(self, flows: Store, wait: Wait) -> None:
        peer = await self.join(flows)
        claim = await self.suspended(flows, peer, wait)
        watcher = await self.join(flows, "watcher", ())
        await flows.watch_final(watcher.incarnation, [claim.id])
        assert await self.cancel(flows, claim.id) == [State.SCHEDULED]
        assert await self.hinted(watcher, "final", claim.id)
        record = await self.read(flows, claim.id)
        assert (record.state, record.wait) == (State.CANCELLED, None)
        assert ((await flows.health()).delayed, await flows.due()) == (0, {})
        assert await flows.signal(claim.id, "approval", b"yes") == "final"
        assert await peer.take() == ()
        assert await flows.clear_instances(Filter()) == 1
        await self.remove_all(flows, peer, watcher)

    async def test_a_cancelled_body_that_suspends_is_released(self, flows: Store) -> None:
        peer = await self.join(flows)
        claim = await self.running(flows, peer)
        await self.cancel(flows, claim.id)
        assert await peer.suspend(claim, APPROVAL, steps=steps(a=b"1")) is Ack.CANCELLED
        assert (await peer.renew()).cancelled == ()
        assert await flows.clear_instances(Filter()) == 1

    @pytest.mark.parametrize("way", ["retry", "leave", "die"])
    async def test_a_claim_ends_the_wait_for_good(self, flows: Store, way: str) -> None:
        peer, reaper = await self.join(flows), await self.join(flows, "reaper", ())
        claim = await self.suspended(flows, peer)
        await flows.signal(claim.id, "approval", b"yes")
        mortal = await self.join_briefly(flows)
        again = await mortal.take_one()
        if way == "retry":
            await mortal.end(again, Action.RETRY)
        elif way == "leave":
            await flows.leave(mortal.incarnation)
        else:
            await self.reap(reaper)
        await self.assert_queued(flows, claim.id)
        assert (await peer.take_one()).id == claim.id

    async def test_nothing_removes_or_takes_back_what_waits(self, flows: Store) -> None:
        mortal, reaper = await self.join_briefly(flows), await self.join(flows, "reaper", ())
        claim = await self.suspended(flows, mortal)
        other = await self.running(flows, mortal)
        assert ids_of(await self.reap_all(reaper)) == [other.id]
        assert await flows.clear_instances(Filter()) == 0
        await flows.expire(100)
        await self.assert_waits(flows, claim.id)

    async def test_it_keeps_its_unique_key(self, flows: Store) -> None:
        first, second = self.make.instances(2, key="k")
        await flows.enqueue([first])
        peer = await self.join(flows)
        await peer.suspend(await peer.take_one(), APPROVAL)
        assert await flows.enqueue([second]) == [Enqueued(first.id, False)]
        await flows.signal(first.id, "approval", b"yes")
        await peer.end(await peer.take_one())
        assert await flows.enqueue([second]) == [Enqueued(second.id, True)]

    async def test_it_keeps_its_slot(self, flows: Store) -> None:
        await self.schedule(flows)
        peer = await self.join(flows)
        first, second = await self.parked(flows, 2)
        await peer.suspend(await peer.take_one(), APPROVAL)
        assert await self.held(flows) == (first, (second,))
        assert await peer.take() == ()
        assert await self.hurry(flows, second) is RunNow.PARKED
        await flows.signal(first, "approval", b"yes")
        assert await self.held(flows) == (first, (second,))
        (again,) = await peer.take()
        assert again.id == first
        await peer.end(again)
        assert ids_of(await peer.take()) == [second]

    async def test_a_fire_replaces_what_waits(self, flows: Store) -> None:
        await self.schedule(flows)
        peer = await self.join(flows)
        first = (await self.fired(flows, overlap=Overlap.REPLACE)).instance
        await peer.suspend(await peer.take_one(), Wait(until_us=peer.joined_us + HOUR_US))
        record = await self.fired(flows, 1, overlap=Overlap.REPLACE)
        assert record.cancelled == first
        assert (await self.read(flows, first)).history[-1].note == REPLACED
        assert await self.held(flows) == (record.instance, ())
        assert ids_of(await peer.take()) == [record.instance]

    async def test_it_leaves_the_place_of_its_shared_limit(self, flows: Store) -> None:
        await self.limit(flows, concurrency=1)
        await flows.enqueue(batch := self.make.instances(2))
        peer = await self.join(flows)
        claim = await peer.take_one()
        assert await peer.take() == ()
        await peer.suspend(claim, APPROVAL)
        assert ids_of(await peer.take()) == [batch[1].id]
        await flows.signal(claim.id, "approval", b"yes")
        assert await peer.take() == ()

    async def test_a_turn_suspends_and_claims_again(self, flows: Store) -> None:
        peer = await self.join(flows)
        claims = [await self.running(flows, peer) for _ in range(3)]
        await flows.signal(claims[1].id, "approval", b"yes")
        said = [outcome(claim, Action.SUSPEND, wait=APPROVAL) for claim in claims]
        request = self.make.request()
        for _ in range(2):
            acks, claimed = await flows.turn(peer.incarnation, said, peer.want(), request=request)
            assert (acks, ids_of(claimed.claims)) == ([Ack.DONE] * 3, [claims[1].id])

    async def test_an_idle_node_learns_of_an_earlier_time(self, flows: Store) -> None:
        peer, sleeper = await self.join(flows), await self.join(flows, "sleeper")
        claim = await self.running(flows, peer)
        await sleeper.claim()
        await self.hints(sleeper)
        await peer.suspend(claim, Wait(until_us=claim.at_us + HOUR_US))
        assert await self.woken([sleeper], 1) == ["sleeper"]
        assert (await sleeper.claim()).next_due_us == claim.at_us + HOUR_US

    async def test_a_history_of_many_waits_is_folded(self, flows: Store) -> None:
        peer = await self.join(flows)
        claim = await self.running(flows, peer)
        await flows.signal(claim.id, "approval", b"yes")
        for _ in range(MAX_HISTORY):
            await peer.suspend(claim, APPROVAL)
            claim = await peer.take_one()
        record = await self.read(flows, claim.id)
        assert len(record.history) <= MAX_HISTORY + 1
        assert sum(entry.count for entry in record.history) == 3 + 2 * MAX_HISTORY
        assert record.attempts == 1

    async def test_clear_removes_what_waits(self, store: Store) -> None:
        flows = await self.opened(StoreLimits())
        peer = await self.join(flows)
        waits = (APPROVAL, Wait(until_us=peer.joined_us + HOUR_US))
        claims = [await self.suspended(flows, peer, wait) for wait in waits]
        await flows.clear()
        assert await flows.get(ids_of(claims)) == [None, None]
        assert (await flows.health()).delayed == 0
        await self.remove_all(flows, peer)
