"""Needs: an instance waits until others are over: final, and without a body."""

from __future__ import annotations

import asyncio

import pytest

from peerjob.model.durable import MAX_CHILDREN_CALL, MAX_NEEDS_CALL, MAX_SETTLED, Need, Wait
from peerjob.model.record import Ack, Action, Claim
from peerjob.model.run_now import RunNow
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.testing.factories import Peer, outcome

from .durable_suite import APPROVAL, HOUR_US, NEEDS, DurableSuite, needs_of, steps
from .suite import ids_of

WAYS = (
    *(action.value for action in (Action.COMPLETE, Action.TERMINATE, Action.TIME_OUT, Action.CANCEL)),
    "cancelled by a user",
    "poison",
    "cancel, release",
    "cancel, leave",
    "cancel, die",
)
"""How a child gets over."""


class NeedRules(DurableSuite):
    """Rules of needs that look at the end only."""

    async def end_child(self, flows: Store, parent: Claim, id: str, way: str) -> None:
        """Get the only child in the queue over."""
        if way == "cancelled by a user":
            await flows.cancel([id], request=self.make.request())
            return
        peer = await self.join(flows, "worker")
        claim = await peer.take_one()
        assert claim.id == id
        if way.startswith("cancel, "):
            await flows.cancel([id], request=self.make.request())
            await self.assert_waits(flows, parent.id)
        match way.removeprefix("cancel, "):
            case "leave":
                await flows.leave(peer.incarnation)
            case "die" | "poison":
                await peer.report(claim, started=True)
                await flows.join(peer.info, ttl_us=round(self.short_ttl * 1_000_000))
                await self.reap(await self.join(flows, "reaper", ()))
            case action:
                await peer.end(claim, Action(action))

    # -- a parent that waits

    @pytest.mark.parametrize("way", WAYS)
    async def test_a_parent_waits_until_its_child_is_over(self, flows: Store, way: str) -> None:
        peer = await self.join(flows)
        child = self.child(max_crashes=0)
        claim = await self.parent(peer, child)
        assert await peer.suspend(claim, NEEDS, needs=needs_of(child)) is Ack.DONE
        record = await self.assert_waits(flows, claim.id)
        assert (record.wait, await flows.open_needs([claim.id])) == (NEEDS, [1])
        await self.end_child(flows, claim, child.instance.id, way)
        await self.assert_queued(flows, claim.id)
        again = await peer.take_one()
        assert (again.id, again.due_us, again.attempts) == (claim.id, claim.due_us, 1)
        assert await peer.take() == ()

    async def test_a_check_of_needs_changes_nothing_without_damage(self, flows: Store) -> None:
        peer = await self.join(flows)
        first, open_child = self.child(), self.child(more=True)
        waiting = [self.child(first.instance.id) for _ in range(MAX_CHILDREN_CALL - 2)]
        parent = await self.parent(peer, first, open_child, *waiting)
        more = [self.child(first.instance.id, waiting[0].instance.id) for _ in range(MAX_CHILDREN_CALL)]
        await self.spawn(peer, parent, *more)
        claim = await peer.take_one()
        assert await self.check_needs(flows) == 0
        await peer.suspend(parent, NEEDS, needs=needs_of(first, *more))
        signalled, slept = await self.suspended(flows, peer), await self.suspended(flows, peer, Wait(until_us=2**52))
        assert await self.check_needs(flows) == 0
        await peer.end(claim)
        assert await self.check_needs(flows) == 0
        await self.settle(flows)
        await self.assert_queued(flows, *ids_of([child.instance for child in waiting]))
        for id in (parent.id, signalled.id, slept.id, open_child.instance.id):
            assert (await self.read(flows, id)).wait is not None
        assert await flows.open_needs([parent.id, *ids_of([child.instance for child in more])[:99]]) == [200, *[1] * 99]

    @pytest.mark.parametrize("parts", [1, 2])
    async def test_the_last_child_wakes_its_parent(self, flows: Store, parts: int) -> None:
        peer, sleeper = await self.join(flows), await self.join(flows, "sleeper", ("parent",))
        children = [self.child() for _ in range(4)]
        await flows.enqueue([self.make.instance(kind="parent")])
        claim = await sleeper.take_one()
        await self.spawn(sleeper, claim, *children)
        if parts == 2:
            assert await sleeper.report(claim, needs=needs_of(*children[:2])) is Ack.DONE
            await sleeper.suspend(claim, NEEDS, needs=needs_of(*children[1:]))
        else:
            await sleeper.suspend(claim, NEEDS, needs=needs_of(*children))
        await sleeper.claim()
        await self.hints(sleeper)
        for left, child in zip((3, 2, 1, 0), await peer.take(), strict=True):
            assert await flows.open_needs([child.id, claim.id, self.make.id()]) == [0, left + 1, 0]
            if left == 1:
                assert not any(hint.what == "work" for hint in await self.hints(sleeper))
            await peer.end(child)
        assert await self.woken([sleeper], 1) == ["sleeper"]
        assert await flows.open_needs([claim.id]) == [0]
        assert ids_of(await sleeper.take()) == [claim.id]

    async def test_a_child_that_ended_before_is_no_need(self, flows: Store) -> None:
        peer = await self.join(flows)
        children = [self.child() for _ in range(3)]
        claim = await self.parent(peer, *children)
        first, second, third = await peer.take()
        await peer.end(first, Action.TERMINATE)
        await peer.report(claim, needs=needs_of(*children))
        await peer.end(second)
        await peer.end(third)
        assert await peer.suspend(claim, NEEDS) is Ack.DONE
        await self.assert_queued(flows, claim.id)

    async def test_no_needs_are_over_at_once(self, flows: Store) -> None:
        """The callback of an empty group runs."""
        peer = await self.join(flows)
        claim = await self.running(flows, peer)
        assert await peer.suspend(claim, NEEDS) is Ack.DONE
        await self.assert_queued(flows, claim.id)

    async def test_needs_of_others_are_over_at_once(self, flows: Store) -> None:
        peer = await self.join(flows)
        foreign = self.child(delay_us=HOUR_US)
        await self.parent(peer, foreign)
        await flows.enqueue([plain := self.make.instance(delay_us=HOUR_US)])
        claim = await self.running(flows, peer)
        needs = (Need(foreign.instance.id), Need(plain.id), Need(self.make.id()))
        assert await peer.suspend(claim, NEEDS, needs=needs) is Ack.DONE
        await self.assert_queued(flows, claim.id)

    async def test_a_need_that_is_named_again_counts_once(self, flows: Store) -> None:
        peer = await self.join(flows)
        child = self.child()
        claim = await self.parent(peer, child)
        request = self.make.request()
        said = outcome(claim, Action.REPORT, needs=needs_of(child))
        for _ in range(3):
            assert await peer.commit(said, request=request) == [Ack.DONE]
        await peer.report(claim, needs=needs_of(child))
        await peer.suspend(claim, NEEDS, needs=needs_of(child))
        assert await flows.open_needs([claim.id]) == [1]
        await peer.end(await peer.take_one())
        await self.assert_queued(flows, claim.id)

    @pytest.mark.parametrize("way", ["retry", "snooze", "hand_back", "suspend", "die"])
    async def test_a_child_that_runs_again_is_not_over(self, flows: Store, way: str) -> None:
        peer, mortal = await self.join(flows), await self.join(flows, "mortal")
        child = self.child()
        claim = await self.parent(peer, child)
        await peer.suspend(claim, NEEDS, needs=needs_of(child))
        running = await mortal.take_one()
        if way == "suspend":
            await mortal.suspend(running, APPROVAL)
            await flows.signal(running.id, "approval", b"yes")
        elif way == "die":
            await mortal.report(running, started=True)
            await flows.join(mortal.info, ttl_us=round(self.short_ttl * 1_000_000))
            await self.reap(await self.join(flows, "reaper", ()))
        else:
            await mortal.end(running, Action(way))
        await self.assert_waits(flows, claim.id)
        await peer.end(await peer.take_one())
        await self.assert_queued(flows, claim.id)

    async def test_a_wait_for_one_of_two(self, flows: Store) -> None:
        peer = await self.join(flows)
        for first in ("signal", "child"):
            child = self.child()
            claim = await self.parent(peer, child)
            running = await peer.take_one()
            wait = Wait(signals=("approval",), needs=True, until_us=claim.at_us + HOUR_US)
            await peer.suspend(claim, wait, needs=needs_of(child))
            assert (await flows.health()).delayed == 1
            if first == "signal":
                await flows.signal(claim.id, "approval", b"yes")
            else:
                await peer.end(running)
            await self.assert_queued(flows, claim.id)
            assert (await flows.health()).delayed == 0
            if first == "signal":
                await peer.end(running)
            else:
                await flows.signal(claim.id, "approval", b"yes")
            again = await peer.take_one()
            assert (again.id, again.due_us) == (claim.id, claim.due_us)
            assert await peer.take() == ()
            await peer.end(again)

    async def test_needs_end_after_the_time(self, flows: Store) -> None:
        peer = await self.join(flows)
        child = self.child()
        claim = await self.parent(peer, child)
        running = await peer.take_one()
        until_us = claim.at_us + round(self.hint_wait * 1_000_000)
        await peer.suspend(claim, Wait(needs=True, until_us=until_us), needs=needs_of(child))
        await self.pass_time(2 * self.hint_wait)
        await peer.end(running)
        again = await peer.take_one()
        assert (again.id, again.due_us) == (claim.id, until_us)
        assert await peer.take() == ()

    # -- a need belongs to a fence

    @pytest.mark.parametrize("way", ["retry", "hand_back", "leave", "die"])
    async def test_a_need_of_an_earlier_run_counts_no_more(self, flows: Store, way: str) -> None:
        peer, mortal = await self.join(flows), await self.join(flows, "mortal", ("parent",))
        children = [self.child() for _ in range(3)]
        await flows.enqueue([self.make.instance(kind="parent")])
        claim = await mortal.take_one()
        await self.spawn(mortal, claim, *children)
        await mortal.report(claim, needs=needs_of(*children))
        if way == "leave":
            await flows.leave(mortal.incarnation)
        elif way == "die":
            await flows.join(mortal.info, ttl_us=round(self.short_ttl * 1_000_000))
            await self.reap(await self.join(flows, "reaper", ()))
        else:
            await mortal.end(claim, Action(way))
        assert await flows.due() == {"work": 3, "parent": 1}
        other = await self.join(flows, "other", ("parent",))
        again = await other.take_one()
        await other.suspend(again, Wait(signals=("approval",), needs=True), needs=needs_of(*children[1:]))
        assert await flows.open_needs([claim.id]) == [2]
        first, *others = await peer.take()
        await peer.end(first)
        await self.assert_waits(flows, claim.id)
        assert await flows.open_needs([claim.id]) == [2]
        await peer.commit(*map(outcome, others))
        await self.settle(flows)
        await self.assert_queued(flows, claim.id)
        third = await other.take_one()
        await other.suspend(third, APPROVAL)
        await self.assert_waits(flows, claim.id)

    async def test_a_need_of_two_runs_ends_once(self, flows: Store) -> None:
        peer = await self.join(flows)
        children = [self.child(priority=9) for _ in range(2)]
        claim = await self.parent(peer, *children)
        for _ in range(3):
            await peer.report(claim, needs=needs_of(*children))
            await peer.end(claim, Action.HAND_BACK)
            claim = await peer.take_one()
        await peer.suspend(claim, NEEDS, needs=needs_of(*children))
        assert await flows.open_needs([claim.id]) == [2]
        first, second = await peer.take()
        await peer.end(first)
        await self.assert_waits(flows, claim.id)
        await peer.end(second)
        await self.assert_queued(flows, claim.id)

    async def test_a_need_of_a_run_that_was_given_back_does_not_enter_twice(self, flows: Store) -> None:
        peer = await self.join(flows)
        child = self.child()
        claim = await self.parent(peer, child)
        running = await peer.take_one()
        await peer.report(claim, needs=needs_of(child))
        await peer.end(claim, Action.SNOOZE, delay_us=HOUR_US)
        await peer.end(running)
        assert ((await flows.health()).delayed, await flows.due()) == (1, {})
        assert await self.hurry(flows, claim.id) is RunNow.DUE_NOW
        await self.assert_queued(flows, claim.id)

    # -- several at once

    @pytest.mark.parametrize("order", ["children first", "parent first"])
    async def test_one_batch_ends_children_and_suspends(self, flows: Store, order: str) -> None:
        peer = await self.join(flows)
        children = [self.child() for _ in range(2)]
        claim = await self.parent(peer, *children)
        ends = [outcome(child) for child in await peer.take()]
        suspend = outcome(claim, Action.SUSPEND, wait=NEEDS, needs=needs_of(*children))
        said = [*ends, suspend] if order == "children first" else [suspend, *ends]
        request = self.make.request()
        for _ in range(2):
            acks, claimed = await flows.turn(peer.incarnation, said, peer.want(), request=request)
            assert (acks, ids_of(claimed.claims)) == ([Ack.DONE] * 3, [claim.id])

    async def test_one_batch_suspends_between_ends_of_some_needs(self, flows: Store) -> None:
        peer = await self.join(flows)
        children = [self.child() for _ in range(3)]
        claim = await self.parent(peer, *children)
        await peer.report(claim, needs=needs_of(*children))
        first, second, last = await peer.take()
        suspend = outcome(claim, Action.SUSPEND, wait=NEEDS)
        assert await peer.commit(outcome(first), suspend, outcome(second)) == [Ack.DONE] * 3
        await self.settle(flows)
        await self.assert_waits(flows, claim.id)
        assert await flows.open_needs([claim.id]) == [1]
        await peer.end(last)
        await self.assert_queued(flows, claim.id)

    async def test_an_end_is_the_last_need_of_one_and_not_of_another(self, flows: Store) -> None:
        peer = await self.join(flows)
        claim = await self.parent(peer)  # its id comes before that of the sibling, and so does its edge
        first, other = self.child(), self.child(priority=8)
        sibling = self.child(first.instance.id, priority=9)
        await self.spawn(peer, claim, first, other, sibling)
        await peer.suspend(claim, NEEDS, needs=needs_of(first, other, sibling))
        await peer.end(await peer.take_one())
        await self.settle(flows)
        assert await flows.open_needs([claim.id]) == [2]
        for left in (other, sibling):
            await self.assert_waits(flows, claim.id)
            running = await peer.take_one()
            assert running.id == left.instance.id
            await peer.end(running)
        await self.assert_queued(flows, claim.id)

    async def test_ends_beside_a_suspend(self, flows: Store) -> None:
        """Each order is right, and the parent enters its queue once."""
        peers = [await self.join(flows, f"peer {number}") for number in range(3)]
        others = [await self.opened() for _ in peers]
        for _ in range(6):
            children = [self.child() for _ in peers]
            claim = await self.parent(peers[0], *children)
            claims = [await peer.take_one() for peer in peers]
            commits = [
                store.commit(peer.incarnation, [outcome(child)], request=self.make.request())
                for store, peer, child in zip(others, peers, claims, strict=True)
            ]
            waiting = peers[0].suspend(claim, NEEDS, needs=needs_of(*children))
            await self.in_time(asyncio.gather(commits[0], waiting, *commits[1:]))
            await self.settle(flows)
            await self.assert_queued(flows, claim.id)
            assert (await peers[1].take_one()).id == claim.id
            assert await peers[1].take() == ()

    async def test_a_parent_can_need_many(self, flows: Store) -> None:
        peer = await self.join(flows)
        count = 2 * MAX_SETTLED + 50
        children = [self.child() for _ in range(count)]
        claim = await self.parent(peer, *children[:150])
        await self.spawn(peer, claim, *children[150:])
        for first in range(0, count, 100):
            await peer.report(claim, needs=needs_of(*children[first : first + 100]))
        await peer.suspend(claim, NEEDS)
        assert await flows.open_needs([claim.id]) == [count]
        running = await peer.take()
        assert len(running) == count
        for first in range(0, count, 125):
            await peer.commit(*map(outcome, running[first : first + 125]))
            await self.settle(flows)
            left = max(0, count - first - 125)
            assert await flows.open_needs([claim.id]) == [left]
        await self.assert_queued(flows, claim.id)

    async def test_so_many_needs_come_in_a_call(self, flows: Store) -> None:
        peer = await self.join(flows)
        children = [self.child(delay_us=HOUR_US) for _ in range(MAX_NEEDS_CALL)]
        claim = await self.running(flows, peer)
        for first in range(0, MAX_NEEDS_CALL, 100):
            await self.spawn(peer, claim, *children[first : first + 100])
        assert await peer.suspend(claim, NEEDS, needs=needs_of(*children)) is Ack.DONE
        assert await flows.open_needs([claim.id]) == [MAX_NEEDS_CALL]
        await flows.cancel([claim.id], request=self.make.request())
        await self.settle(flows)
        assert await self.counts(flows) == {State.CANCELLED: MAX_NEEDS_CALL + 1}

    # -- siblings

    @pytest.mark.parametrize("way", ["complete", "terminate", "cancel, release"])
    async def test_a_child_waits_for_a_sibling(self, flows: Store, way: str) -> None:
        peer = await self.join(flows)
        first = self.child()
        second = self.child(first.instance.id, priority=-1)
        parent = await self.parent(peer, first, second)
        waiting = second.instance.id
        record = await self.assert_waits(flows, waiting)
        assert (record.wait, record.open, record.parent) == (NEEDS, False, parent.id)
        assert (await flows.open_needs([waiting]), await flows.due()) == ([1], {"work": 1})
        sleeper = await self.join(flows, "sleeper")
        claim = await peer.take_one()
        assert claim.id == first.instance.id
        await sleeper.claim()
        await self.hints(sleeper)
        if way.startswith("cancel"):
            await flows.cancel([claim.id], request=self.make.request())
            await self.assert_waits(flows, waiting)
        await peer.end(claim, Action(way.removeprefix("cancel, ")))
        assert await self.woken([sleeper], 1) == ["sleeper"]
        await self.assert_queued(flows, waiting)
        last = await sleeper.take_one()
        assert (last.id, last.parent, last.attempts) == (waiting, parent.id, 1)

    async def test_a_chain_of_children(self, flows: Store) -> None:
        peer = await self.join(flows)
        chain = [self.child()]
        for _ in range(5):
            chain.append(self.child(chain[-1].instance.id))
        parent = await self.parent(peer, *chain)
        await peer.suspend(parent, NEEDS, needs=needs_of(chain[-1]))
        ids: list[str] = []
        while claims := await peer.take():
            (claim,) = claims
            ids.append(claim.id)
            await peer.end(claim)
        assert ids == [*(child.instance.id for child in chain), parent.id]
        assert await self.counts(flows) == {State.COMPLETED: 7}

    async def test_a_sibling_that_is_over_is_no_need(self, flows: Store) -> None:
        peer = await self.join(flows)
        first, second = self.child(), self.child()
        parent = await self.parent(peer, first, second)
        over, running = await peer.take()
        await peer.end(over, Action.TERMINATE)
        third = self.child(over.id)
        fourth = self.child(over.id, running.id)
        await self.spawn(peer, parent, third, fourth)
        await self.assert_queued(flows, third.instance.id)
        await self.assert_waits(flows, fourth.instance.id)
        await peer.end(running)
        assert ids_of(await peer.take()) == [third.instance.id, fourth.instance.id]

    async def test_a_child_that_waits_keeps_its_due_time(self, flows: Store) -> None:
        peer = await self.join(flows)
        first = self.child(priority=-1)
        late, soon = self.child(first.instance.id, delay_us=HOUR_US), self.child(first.instance.id)
        await self.parent(peer, first, late, soon)
        assert (await flows.health()).delayed == 0
        await self.pass_time(0.001)
        await flows.enqueue([plain := self.make.instance()])
        await peer.end(await peer.take_one())
        assert (await flows.health()).delayed == 1
        assert ids_of(await peer.take()) == [soon.instance.id, plain.id]

    async def test_a_waiting_child_can_be_cancelled(self, flows: Store) -> None:
        peer = await self.join(flows)
        first = self.child()
        second = self.child(first.instance.id)
        third = self.child(second.instance.id)
        await self.parent(peer, first, second, third)
        assert await flows.cancel([second.instance.id], request=self.make.request()) == [State.SCHEDULED]
        await self.assert_queued(flows, first.instance.id, third.instance.id)
        await peer.end(await peer.take_one())
        assert ids_of(await peer.take()) == [third.instance.id]

    async def test_a_child_that_has_run_needs_its_siblings_no_more(self, flows: Store) -> None:
        peer = await self.join(flows)
        first = self.child()
        second = self.child(first.instance.id)
        await self.parent(peer, first, second)
        await peer.end(await peer.take_one())
        claim = await peer.take_one()
        assert await peer.report(claim, steps=steps(a=b"1")) is Ack.DONE
        await peer.suspend(claim, APPROVAL)
        await self.assert_waits(flows, claim.id)
        await flows.signal(claim.id, "approval", b"yes")
        assert ids_of(await peer.take()) == [claim.id]

    async def test_many_siblings_need_one(self, flows: Store) -> None:
        peer = await self.join(flows)
        first = self.child()
        parent = await self.parent(peer, first)
        waiting = [self.child(first.instance.id) for _ in range(2 * MAX_SETTLED + 10)]
        await self.spawn(peer, parent, *waiting[:150])
        await self.spawn(peer, parent, *waiting[150:])
        await peer.end(await peer.take_one())
        await self.assert_told(peer)
        await self.settle(flows)
        assert ((await peer.renew(parent)).settling, (await flows.health()).settling) == (False, 0)
        assert sorted(ids_of(await peer.take())) == sorted(child.instance.id for child in waiting)

    async def assert_told(self, peer: Peer) -> None:
        """Assert that a node hears of ends that are not followed up, if there are any."""
        if (await peer.renew()).settling:
            assert (await peer.store.health()).settling > 0
            assert await self.hinted(peer, "settle")
