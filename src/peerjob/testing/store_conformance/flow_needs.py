"""Needs of a child as "completed", and open children, to which their parent adds needs in several calls."""

from __future__ import annotations

import pytest

from peerjob.model.durable import MAX_SETTLED, Need
from peerjob.model.record import Ack, Action, Enqueued
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.store.rules import need_failed
from peerjob.testing.factories import outcome

from .durable_suite import HOUR_US, NEEDS, DurableSuite, needs_of
from .suite import ids_of

FAILURES = {
    Action.TERMINATE: State.TERMINATED,
    Action.TIME_OUT: State.TIMED_OUT,
    Action.CANCEL: State.CANCELLED,
}


def completed(id: str) -> Need:
    """A need as "completed"."""
    return Need(id, "completed")


class FlowNeedRules(DurableSuite):
    """Rules of graphs of children."""

    async def assert_failed(self, flows: Store, id: str, needed: str, state: State | None) -> None:
        """Assert that an instance is cancelled because of a need."""
        record = await self.read(flows, id)
        last = record.history[-1]
        assert (record.state, last.note, last.node) == (State.CANCELLED, need_failed(needed, state), "")
        assert (record.wait, record.open) == (None, False)

    async def test_a_completed_sibling_lets_it_go(self, flows: Store) -> None:
        peer = await self.join(flows)
        first = self.child()
        second = self.child(completed(first.instance.id))
        await self.parent(peer, first, second)
        await self.assert_waits(flows, second.instance.id)
        await peer.end(await peer.take_one(), Action.RETRY)
        await self.assert_waits(flows, second.instance.id)
        await peer.end(await peer.take_one())
        await self.assert_queued(flows, second.instance.id)

    @pytest.mark.parametrize("action", FAILURES)
    async def test_a_failure_cancels_what_needs_it(self, flows: Store, action: Action) -> None:
        peer = await self.join(flows)
        first = self.child()
        id = first.instance.id
        second = self.child(completed(id))
        third, apart, after = self.child(completed(second.instance.id)), self.child(priority=9), self.child(id)
        parent = await self.parent(peer, first, second, third, apart, after)
        await peer.suspend(parent, NEEDS, needs=needs_of(third))
        await peer.end(await peer.take_one(), action)
        await self.assert_failed(flows, second.instance.id, id, FAILURES[action])
        await self.assert_failed(flows, third.instance.id, second.instance.id, State.CANCELLED)
        await self.assert_queued(flows, apart.instance.id, after.instance.id, parent.id)

    async def test_a_cancelled_sibling_fails_when_it_is_over(self, flows: Store) -> None:
        peer = await self.join(flows)
        first = self.child()
        second = self.child(completed(first.instance.id))
        await self.parent(peer, first, second)
        claim = await peer.take_one()
        await flows.cancel([claim.id], request=self.make.request())
        await self.assert_waits(flows, second.instance.id)
        await peer.end(claim)
        await self.assert_failed(flows, second.instance.id, claim.id, State.CANCELLED)

    async def test_one_failure_is_enough(self, flows: Store) -> None:
        peer = await self.join(flows)
        first, other = self.child(), self.child()
        second = self.child(other.instance.id, completed(first.instance.id))
        await self.parent(peer, first, other, second)
        failed, running = await peer.take()
        await peer.end(failed, Action.TERMINATE)
        await self.assert_failed(flows, second.instance.id, failed.id, State.TERMINATED)
        before = await self.read(flows, second.instance.id)
        await peer.end(running)
        assert await self.read(flows, second.instance.id) == before
        assert await peer.take() == ()

    async def test_a_failure_in_one_batch_with_an_end(self, flows: Store) -> None:
        peer = await self.join(flows)
        first, other = self.child(), self.child()
        second = self.child(completed(other.instance.id), completed(first.instance.id))
        await self.parent(peer, first, other, second)
        failed, running = await peer.take()
        await peer.commit(outcome(running), outcome(failed, Action.TERMINATE))
        await self.assert_failed(flows, second.instance.id, failed.id, State.TERMINATED)
        assert ((await flows.health()).delayed, await flows.due(), await peer.take()) == (0, {}, ())

    @pytest.mark.parametrize("action", [Action.COMPLETE, *FAILURES])
    async def test_a_sibling_that_ended_before(self, flows: Store, action: Action) -> None:
        peer = await self.join(flows)
        parent = await self.parent(peer, self.child())
        over = await peer.take_one()
        await peer.end(over, action)
        late = self.child(completed(over.id))
        last = self.child(completed(late.instance.id))
        assert await self.spawn(peer, parent, late, last) == [
            Enqueued(late.instance.id, True),
            Enqueued(last.instance.id, True),
        ]
        await self.settle(flows)
        if action is Action.COMPLETE:
            await self.assert_queued(flows, late.instance.id)
            await self.assert_waits(flows, last.instance.id)
        else:
            await self.assert_failed(flows, late.instance.id, over.id, FAILURES[action])
            await self.assert_failed(flows, last.instance.id, late.instance.id, State.CANCELLED)
            assert await self.spawn(peer, parent, late) == [Enqueued(late.instance.id, True, repeated=True)]

    async def test_a_sibling_that_is_unknown(self, flows: Store) -> None:
        peer = await self.join(flows)
        foreign = self.child(delay_us=HOUR_US)
        await self.parent(peer, foreign)
        parent = await self.parent(peer)
        for id in (self.make.id(), foreign.instance.id):
            late = self.child(completed(id))
            await self.spawn(peer, parent, late)
            await self.settle(flows)
            await self.assert_failed(flows, late.instance.id, id, None)

    async def test_a_sibling_that_comes_later_in_the_call(self, flows: Store) -> None:
        peer = await self.join(flows)
        last = self.child(delay_us=HOUR_US)
        failed, free = self.child(completed(last.instance.id)), self.child(last.instance.id)
        parent = await self.parent(peer, failed, free, last)
        await self.settle(flows)
        await self.assert_failed(flows, failed.instance.id, last.instance.id, None)
        claim = await peer.take_one()
        assert claim.id == free.instance.id
        late = self.child(completed(last.instance.id))
        await self.spawn(peer, parent, late)
        await self.assert_waits(flows, late.instance.id)

    async def test_a_long_chain_is_cancelled_in_parts(self, flows: Store) -> None:
        peer = await self.join(flows)
        chain = [self.child()]
        for _ in range(MAX_SETTLED + 30):
            chain.append(self.child(completed(chain[-1].instance.id)))
        parent = await self.parent(peer, *chain)
        await peer.suspend(parent, NEEDS, needs=needs_of(chain[-1]))
        await peer.end(await peer.take_one(), Action.TERMINATE)
        await self.settle(flows)
        assert await self.counts(flows) == {State.TERMINATED: 1, State.CANCELLED: len(chain) - 1, State.SCHEDULED: 1}
        await self.assert_queued(flows, parent.id)

    # -- open children

    async def test_an_open_child_waits_for_its_last_needs(self, flows: Store) -> None:
        peer, sleeper = await self.join(flows), await self.join(flows, "sleeper")
        still_open = self.child(more=True)
        parent = await self.parent(peer, still_open)
        await sleeper.claim()
        await self.hints(sleeper)
        id = still_open.instance.id
        record = await self.assert_waits(flows, id)
        assert (record.open, record.wait, await flows.open_needs([id])) == (True, NEEDS, [0])
        assert await self.spawn(peer, parent, still_open) == [Enqueued(id, True, repeated=True)]
        await self.assert_waits(flows, id)
        closing = self.child(id=id)
        assert await self.spawn(peer, parent, closing) == [Enqueued(id, True, repeated=True)]
        assert await self.woken([sleeper], 1) == ["sleeper"]
        await self.assert_queued(flows, id)
        assert await self.spawn(peer, parent, closing, still_open) == [Enqueued(id, True, repeated=True)] * 2
        assert ids_of(await peer.take()) == [id]
        assert await peer.take() == ()

    async def test_needs_come_in_parts(self, flows: Store) -> None:
        peer = await self.join(flows)
        needed = [self.child() for _ in range(6)]
        ids = [child.instance.id for child in needed]
        member = self.child(*map(completed, ids[:2]), more=True)
        id = member.instance.id
        parent = await self.parent(peer, *needed, member)
        running = await peer.take()
        for claim in running[:2]:
            await peer.end(claim)
        assert (await self.assert_waits(flows, id)).open
        part = self.child(*map(completed, ids[2:4]), id=id, more=True)
        for _ in range(2):
            await self.spawn(peer, parent, part)
            assert await flows.open_needs([id]) == [2]
        await peer.end(running[2])
        last = self.child(*map(completed, ids[3:]), id=id)
        await self.spawn(peer, parent, last)
        assert (await self.assert_waits(flows, id)).open is False
        assert await flows.open_needs([id]) == [3]
        ignored = self.child(parent.id, self.make.id(), id=id, more=True)
        await self.spawn(peer, parent, ignored)
        assert await flows.open_needs([id]) == [3]
        for claim in running[3:]:
            await self.assert_waits(flows, id)
            await peer.end(claim)
        await self.assert_queued(flows, id)

    async def test_an_open_child_is_cancelled_before_it_is_closed(self, flows: Store) -> None:
        peer = await self.join(flows)
        needed = self.child()
        member = self.child(completed(needed.instance.id), more=True)
        parent = await self.parent(peer, needed, member)
        await peer.end(await peer.take_one(), Action.TERMINATE)
        await self.assert_failed(flows, member.instance.id, needed.instance.id, State.TERMINATED)
        closing = self.child(id=member.instance.id)
        assert await self.spawn(peer, parent, closing) == [Enqueued(member.instance.id, True, repeated=True)]
        await self.assert_failed(flows, member.instance.id, needed.instance.id, State.TERMINATED)
        assert await peer.take() == ()

    async def test_an_open_child_outlives_a_run_of_its_parent(self, flows: Store) -> None:
        peer = await self.join(flows)
        needed, member = self.child(priority=9), self.child(more=True)
        parent = await self.parent(peer, needed, member)
        await peer.end(parent, Action.HAND_BACK)
        again = await peer.take_one()
        assert again.id == parent.id
        closing = self.child(completed(needed.instance.id), id=member.instance.id)
        await self.spawn(peer, again, needed, closing)
        await self.assert_waits(flows, member.instance.id)
        await peer.end(await peer.take_one())
        await self.assert_queued(flows, member.instance.id)

    async def test_a_fan_in_of_many_parts(self, flows: Store) -> None:
        peer = await self.join(flows)
        needed = [self.child() for _ in range(2 * MAX_SETTLED + 50)]
        parent = await self.parent(peer, *needed[:150])
        await self.spawn(peer, parent, *needed[150:])
        member = self.child(more=True)
        for first in range(0, len(needed), 100):
            part = [completed(child.instance.id) for child in needed[first : first + 100]]
            await self.spawn(peer, parent, self.child(*part, id=member.instance.id, more=first + 100 < len(needed)))
        running = await peer.take()
        assert len(running) == len(needed)
        await peer.commit(*map(outcome, running[1:]))
        await self.settle(flows)
        assert await flows.open_needs([member.instance.id]) == [1]
        assert await peer.end(running[0]) is Ack.DONE
        await self.settle(flows)
        await self.assert_queued(flows, member.instance.id)
