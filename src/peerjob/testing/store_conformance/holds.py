"""Holds: children stay until their parent is final; and the end of a parent cancels what is left of them."""

from __future__ import annotations

import asyncio

import pytest

from peerjob.model.durable import MAX_SETTLED
from peerjob.model.firing import Overlap
from peerjob.model.query import Filter, Query
from peerjob.model.record import Ack, Action, Claim, StoreLimits
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.store.rules import PARENT_ENDED
from peerjob.testing.factories import Peer

from .durable_suite import APPROVAL, HOUR_US, NEEDS, DurableSuite, needs_of
from .suite import ids_of
from .timetable import ScheduleSuite

ENDS = (
    *(action.value for action in (Action.COMPLETE, Action.TERMINATE, Action.TIME_OUT, Action.CANCEL)),
    "cancel while it runs",
    "cancel while it waits",
    "cancel in the queue",
    "poison",
)
"""How a parent becomes final."""


class HoldRules(DurableSuite):
    """Rules of the retention of children."""

    async def short_lived(self, **numbers: int) -> Store:
        """A store that keeps final instances for no time, unless it is told otherwise."""
        return await self.opened(StoreLimits(**{"retention_us": 0, **numbers}))

    async def remove_old(self, flows: Store) -> None:
        """Let everything go whose time is over."""
        await self.pass_time(0.001)
        while await flows.expire(100):
            pass

    @pytest.mark.parametrize("way", ["expire", "commit", "clear_instances"])
    async def test_a_child_stays_while_its_parent_is_not_final(self, store: Store, way: str) -> None:
        flows = await self.short_lived()
        peer = await self.join(flows)
        children = [self.child() for _ in range(3)]
        claim = await self.parent(peer, *children)
        for child in await peer.take():
            await peer.end(child, result=b"r")
        if way == "clear_instances":
            assert await flows.clear_instances(Filter()) == 0
        for _ in range(4 if way == "commit" else 0):
            await self.pass_time(0.001)
            await peer.end(await self.running(flows, peer))
        if way == "expire":
            await self.remove_old(flows)
        records = [await self.read(flows, child.instance.id) for child in children]
        assert [(record.state, record.result) for record in records] == [(State.COMPLETED, b"r")] * 3
        await peer.suspend(claim, APPROVAL)
        await self.remove_old(flows)
        assert len(await self.found(flows, Query(parent=claim.id))) == 3
        await flows.signal(claim.id, "approval", b"yes")
        await peer.end(await peer.take_one())
        await self.settle(flows)
        await self.remove_old(flows)
        assert await self.found(flows, Query()) == []
        await self.remove_all(flows, peer)

    async def test_a_child_that_never_ran_stays_while_its_parent_is_not_final(self, store: Store) -> None:
        flows = await self.short_lived()
        peer = await self.join(flows)
        child = self.child()
        claim = await self.parent(peer, child)
        await flows.cancel([child.instance.id], node="operator", request=self.make.request())
        await self.remove_old(flows)
        assert await self.state_of(flows, child) is State.CANCELLED
        await peer.end(claim)
        await self.settle(flows)
        await self.remove_old(flows)
        assert await self.found(flows, Query()) == []
        await self.remove_all(flows, peer)

    async def test_its_retention_begins_at_the_end_of_its_parent(self, flows: Store) -> None:
        peer = await self.join(flows)
        kept_us = round(8 * self.hint_wait * 1_000_000)
        child, other = self.child(retention_us=kept_us), self.child(retention_us=0)
        claim = await self.parent(peer, child, other)
        for running in await peer.take():
            await peer.end(running)
        await self.pass_time(10 * self.hint_wait)
        assert await flows.expire(100) == 0
        began = self.clock.elapsed()
        await peer.end(claim)
        await self.pass_time(0.001)
        removed = await flows.expire(100)
        assert removed == 1 or self.paused(began, kept_us / 1_000_000)
        await self.pass_time(10 * self.hint_wait)
        assert removed + await flows.expire(100) == 2
        assert await self.found(flows, Query()) == [claim.id]

    async def test_it_does_not_count_among_the_final_ones_of_its_kind(self, store: Store) -> None:
        flows = await self.short_lived(retention_us=600_000_000, max_final_per_kind=2)
        peer = await self.join(flows)
        children = [self.child() for _ in range(6)]
        claim = await self.parent(peer, *children)
        running = await peer.take()
        for child in running[:4]:
            await peer.end(child)
        await flows.enqueue(plain := self.make.instances(2, kind="work"))
        for queued in await peer.take():
            await peer.end(queued)
        await peer.end(running[4])
        await peer.end(running[5], logs=(self.make.line("an end with lines"),))
        await flows.expire(100)
        assert len(await self.found(flows, Query(parent=claim.id, state="Completed"))) == 6
        assert None not in await flows.get(ids_of(plain))
        await peer.end(claim)
        await self.settle(flows)
        for _ in range(8):
            await flows.expire(100)
            await peer.end(await self.running(flows, peer))
        await flows.expire(100)
        assert len(await self.found(flows, Query(state="Final"))) <= 4

    @pytest.mark.parametrize("first", ["child", "parent"])
    async def test_a_cancelled_body_keeps_it(self, store: Store, first: str) -> None:
        flows = await self.short_lived()
        peer, worker = await self.join(flows), await self.join(flows, "worker")
        child = self.child()
        claim = await self.parent(peer, child)
        running = await worker.take_one()
        if first == "child":
            await flows.cancel([running.id], node="operator", request=self.make.request())
        await peer.end(claim)
        await self.settle(flows)
        assert await self.state_of(flows, child) is State.CANCELLED
        await self.remove_old(flows)
        assert await self.found(flows, Query()) == [child.instance.id]
        assert await worker.end(running, Action.RELEASE) is Ack.CANCELLED
        await self.remove_old(flows)
        assert await self.found(flows, Query()) == []
        await self.remove_all(flows, peer, worker)

    async def test_a_final_child_lets_its_own_children_go(self, store: Store) -> None:
        flows = await self.short_lived()
        peer = await self.join(flows)
        child, grandchild = self.child(), self.child()
        claim = await self.parent(peer, child)
        middle = await peer.take_one()
        await self.spawn(peer, middle, grandchild)
        last = await peer.take_one()
        for ended in (last, middle):
            await peer.end(ended)
        await self.remove_old(flows)
        assert await self.found(flows, Query()) == sorted([claim.id, child.instance.id])
        await peer.end(claim)
        await self.remove_old(flows)
        assert await self.found(flows, Query()) == []
        await self.remove_all(flows, peer)

    async def test_clear_removes_children_and_needs(self, store: Store) -> None:
        flows = await self.opened(StoreLimits())
        peer = await self.join(flows)
        first, ended = self.child(), self.child(priority=-1)
        children = [first, ended, self.child(first.instance.id), self.child(first.instance.id, more=True)]
        claim = await self.parent(peer, *children)
        await peer.end(await peer.take_one())
        await peer.suspend(claim, NEEDS, needs=needs_of(*children))
        await flows.clear()
        assert await flows.get([claim.id, *(child.instance.id for child in children)]) == [None] * 5
        assert await self.found(flows, Query(parent=claim.id)) == []
        await self.remove_all(flows, peer)


class CascadeRules(DurableSuite, ScheduleSuite):
    """Rules of the end of a parent."""

    async def end_parent(self, flows: Store, peer: Peer, claim: Claim, way: str) -> None:
        """Make a running parent final."""
        match way:
            case "poison":
                await peer.report(claim, started=True)
                await flows.join(peer.info, ttl_us=round(self.short_ttl * 1_000_000))
                await self.reap(await self.join(flows, "reaper", ()))
            case "cancel while it waits":
                await peer.suspend(claim, APPROVAL)
                await self.cancel(flows, claim.id)
            case "cancel in the queue":
                await peer.end(claim, Action.HAND_BACK)
                await self.cancel(flows, claim.id)
            case "cancel while it runs":
                await self.cancel(flows, claim.id)
            case action:
                await peer.end(claim, Action(action))

    @pytest.mark.parametrize("way", ENDS)
    async def test_its_end_cancels_what_is_left(self, flows: Store, way: str) -> None:
        peer, worker = await self.join(flows, "p", ("parent",)), await self.join(flows, "worker")
        running, waiting, ended, queued = [self.child(priority=priority) for priority in (1, 2, 3, 4)]
        delayed, needy = self.child(delay_us=HOUR_US), self.child(queued.instance.id)
        still_open = self.child(more=True)
        await flows.enqueue([self.make.instance(kind="parent", max_crashes=0)])
        claim = await peer.take_one()
        children = (running, waiting, ended, queued, delayed, needy, still_open)
        await self.spawn(peer, claim, running, waiting, ended)
        taken = {each.id: each for each in await worker.take(3)}
        body, suspended, over = (taken[child.instance.id] for child in (running, waiting, ended))
        await self.spawn(peer, claim, queued, delayed, needy, still_open)
        await worker.suspend(suspended, APPROVAL)
        await worker.end(over, Action.TERMINATE)
        before = await self.read(flows, over.id)
        watcher = await self.join(flows, "watcher", ())
        await flows.watch_final(watcher.incarnation, [needy.instance.id])
        await self.end_parent(flows, peer, claim, way)
        for child in children:
            if child is not ended:
                record = await self.read(flows, child.instance.id)
                last = record.history[-1]
                assert (record.state, last.note, last.node) == (State.CANCELLED, PARENT_ENDED, "")
                assert (record.wait, record.open) == (None, False)
        assert await self.read(flows, over.id) == before
        assert await self.hinted(worker, "cancel")
        assert (await worker.renew(body)).cancelled == (body.id,)
        assert await self.hinted(watcher, "final", needy.instance.id)
        assert ((await flows.health()).delayed, await flows.due(), await worker.take()) == (0, {}, ())
        assert await worker.end(body) is Ack.CANCELLED
        assert await self.counts(flows) == {State.CANCELLED: 6, State.TERMINATED: 1}

    async def test_a_watcher_sees_a_new_child_and_its_cancel(self, flows: Store) -> None:
        watcher, peer = await self.join(flows, "watcher", ()), await self.join(flows)
        claim = await self.running(flows, peer)
        await flows.watch_changes(watcher.incarnation, 60)
        child = self.child()
        await self.spawn(peer, claim, child)
        assert await self.hinted(watcher, "change", child.instance.id)
        await peer.end(claim)
        await self.settle(flows)
        assert await self.hinted(watcher, "change", child.instance.id)

    async def test_it_goes_through_all_generations(self, flows: Store) -> None:
        peer = await self.join(flows)
        claims = [await self.parent(peer)]
        for _ in range(4):
            await self.spawn(peer, claims[-1], self.child(priority=-1), self.child(delay_us=HOUR_US))
            claims.append(await peer.take_one())
        await peer.end(claims[0])
        await self.settle(flows)
        assert await self.counts(flows) == {State.COMPLETED: 1, State.CANCELLED: 8}
        assert sorted((await peer.renew()).cancelled) == sorted(ids_of(claims[1:]))
        for claim in claims[1:]:
            assert await peer.end(claim) is Ack.CANCELLED

    async def test_many_children_are_cancelled_in_parts(self, flows: Store) -> None:
        peer = await self.join(flows)
        count = 2 * MAX_SETTLED + 30
        children = [self.child() for _ in range(count)]
        claim = await self.parent(peer, *children[:150])
        await self.spawn(peer, claim, *children[150:])
        other = await self.join(flows, "other")
        await peer.end(claim)
        if (await other.renew()).settling:
            assert (await flows.health()).settling > 0
        await self.settle(flows)
        assert ((await other.renew()).settling, (await flows.health()).settling) == (False, 0)
        assert await self.counts(flows) == {State.COMPLETED: 1, State.CANCELLED: count}
        assert await flows.due() == {}

    async def test_settling_in_small_parts(self, flows: Store) -> None:
        peer = await self.join(flows)
        children = [self.child() for _ in range(MAX_SETTLED + 20)]
        claim = await self.parent(peer, *children)
        other = await self.opened()
        await peer.end(claim)
        for number in range(200):
            if not await (flows, other)[number % 2].settle(limit=3):
                break
        assert not await flows.settle()
        assert await self.counts(flows) == {State.COMPLETED: 1, State.CANCELLED: MAX_SETTLED + 20}

    async def test_two_settle_at_once(self, flows: Store) -> None:
        peer = await self.join(flows)
        first = self.child()
        waiting = [self.child(first.instance.id) for _ in range(MAX_SETTLED + 40)]
        await self.parent(peer, first, *waiting)
        stores = [flows, *[await self.opened() for _ in range(2)]]
        await peer.end(await peer.take_one())
        await self.in_time(asyncio.gather(*(self.settle(store) for store in stores)))
        assert sorted(ids_of(await peer.take())) == sorted(child.instance.id for child in waiting)

    async def test_a_fire_that_replaces_a_parent_cancels_its_children(self, flows: Store) -> None:
        await self.schedule(flows)
        peer = await self.join(flows)
        await self.fired(flows, overlap=Overlap.REPLACE)
        claim = await peer.take_one()
        child = self.child()
        await self.spawn(peer, claim, child)
        await self.fired(flows, 1, overlap=Overlap.REPLACE)
        assert await self.state_of(flows, child) is State.CANCELLED
        assert await peer.end(claim) is Ack.CANCELLED

    async def test_the_end_of_a_child_leaves_its_parent(self, flows: Store) -> None:
        peer = await self.join(flows)
        child, other = self.child(), self.child()
        claim = await self.parent(peer, child, other)
        await self.cancel(flows, child.instance.id)
        assert await self.state_of(flows, claim) is State.PROCESSING
        assert await self.state_of(flows, other) is State.SCHEDULED
        assert await peer.end(claim) is Ack.DONE

    async def test_children_beside_the_end(self, flows: Store) -> None:
        """No child of a final parent is left, in each order of the two calls."""
        peer, other = await self.join(flows), await self.opened()
        for _ in range(6):
            claim = await self.parent(peer)
            children = [self.child() for _ in range(4)]
            await self.in_time(
                asyncio.gather(
                    self.spawn(peer, claim, *children), other.cancel([claim.id], request=self.make.request())
                )
            )
            await self.settle(flows)
            records = [record for record in await flows.get([child.instance.id for child in children]) if record]
            assert {record.state for record in records} <= {State.CANCELLED}
            assert await peer.end(claim) is Ack.CANCELLED
            assert await flows.due() == {}

    async def test_nothing_is_left(self, store: Store) -> None:
        flows = await self.opened(StoreLimits(retention_us=0))
        peer = await self.join(flows)
        first = self.child()
        children = [first, self.child(first.instance.id), self.child(), self.child(more=True)]
        claim = await self.parent(peer, *children)
        await peer.suspend(claim, NEEDS, needs=needs_of(*children))
        await peer.end(await peer.take_one())
        await self.cancel(flows, claim.id)
        await self.settle(flows)
        await self.pass_time(0.001)
        while await flows.expire(100):
            pass
        assert await self.found(flows, Query()) == []
        await flows.leave(peer.incarnation)
        await flows.expire(100)
        await self.assert_nothing_left(flows)
