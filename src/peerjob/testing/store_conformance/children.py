"""Children: instances that a running instance makes, each once."""

from __future__ import annotations

import asyncio

import pytest

from peerjob.model.durable import MAX_CHILDREN_CALL, MAX_NEEDS_CALL, Need
from peerjob.model.query import Query
from peerjob.model.record import Ack, Action, Enqueued, Held
from peerjob.model.run_now import RunNow
from peerjob.model.state import State
from peerjob.store.base import Store

from .durable_suite import APPROVAL, HOUR_US, DurableSuite
from .suite import ids_of, states


class ChildRules(DurableSuite):
    """Rules of `spawn`, and of queries by parent."""

    async def test_a_running_instance_makes_children(self, flows: Store) -> None:
        peer, sleepers = await self.join(flows), [await self.join(flows, f"sleeper {number}") for number in range(3)]
        claim = await self.running(flows, peer)
        for sleeper in sleepers:
            await sleeper.claim()
            await self.hints(sleeper)
        assert (claim.parent, claim.linked) == ("", False)
        first = self.child(priority=3, tags=("t", "u"), max_crashes=7, retention_us=5)
        second = self.child(spec=b"other")
        assert await self.spawn(peer, claim, first, second) == [
            Enqueued(first.instance.id, True),
            Enqueued(second.instance.id, True),
        ]
        assert len(await self.woken(sleepers, 2)) == 2
        record = await self.read(flows, first.instance.id)
        assert states(record) == [State.CREATED, State.SCHEDULED]
        assert [entry.node for entry in record.history] == ["node"] * 2
        assert (record.parent, record.wait, record.open) == (claim.id, None, False)
        assert (record.priority, record.tags, record.max_crashes, record.retention_us) == (3, ("t", "u"), 7, 5)
        assert (await self.read(flows, claim.id)).state is State.PROCESSING
        assert (await flows.due(), await self.counts(flows)) == ({"work": 2}, {State.PROCESSING: 1, State.SCHEDULED: 2})
        claims = await sleepers[0].take()
        assert ids_of(claims) == [first.instance.id, second.instance.id]
        assert [(child.parent, child.linked, child.has_steps, child.tags) for child in claims] == [
            (claim.id, True, False, ("t", "u")),
            (claim.id, True, False, ()),
        ]
        assert [child.spec for child in claims] == [b"spec", b"other"]
        assert [await sleepers[0].end(child, result=b"r") for child in claims] == [Ack.DONE] * 2
        assert await self.counts(flows) == {State.PROCESSING: 1, State.COMPLETED: 2}
        assert await peer.end(claim) is Ack.DONE

    async def test_a_child_is_made_once(self, flows: Store) -> None:
        peer = await self.join(flows)
        children = [self.child() for _ in range(3)]
        claim = await self.parent(peer, *children[:2])
        known = [Enqueued(child.instance.id, True, repeated=True) for child in children]
        assert await self.spawn(peer, claim, *children[:2]) == known[:2]
        running = await peer.take_one()
        await peer.end(claim, Action.RETRY)
        (again,) = [taken for taken in await peer.take() if taken.id == claim.id]
        assert again.linked
        added = Enqueued(children[2].instance.id, True)
        assert await self.spawn(peer, again, *children, children[2]) == [*known[:2], added, known[2]]
        assert ids_of(await peer.take()) == [children[2].instance.id]
        assert await peer.end(running) is Ack.DONE
        assert await self.spawn(peer, again, *children) == known
        assert await peer.take() == ()
        assert await self.counts(flows) == {State.PROCESSING: 3, State.COMPLETED: 1}

    async def test_two_calls_at_once_make_each_child_once(self, flows: Store) -> None:
        peer, other = await self.join(flows), await self.opened()
        claim = await self.parent(peer)
        children = [self.child() for _ in range(8)]
        held = Held(claim.id, claim.fence)
        answers = await self.in_time(
            asyncio.gather(*(store.spawn(peer.incarnation, held, children) for store in (flows, other, flows)))
        )
        for of_child in zip(*[answer or () for answer in answers], strict=True):
            assert [answer.repeated for answer in of_child].count(False) == 1
        assert ids_of(await peer.take()) == [child.instance.id for child in children]
        assert await peer.take() == ()

    @pytest.mark.parametrize("way", ["fence", "incarnation", "unknown", "retried", "suspended", "ended", "cancelled"])
    async def test_only_the_holder_makes_children(self, flows: Store, way: str) -> None:
        peer, other = await self.join(flows), await self.join(flows, "other", ())
        claim = await self.parent(peer)
        incarnation, held = peer.incarnation, Held(claim.id, claim.fence)
        match way:
            case "fence":
                held = Held(claim.id, claim.fence + 1)
            case "incarnation":
                incarnation = other.incarnation
            case "unknown":
                held = Held(self.make.id(), claim.fence)
            case "retried":
                await peer.end(claim, Action.RETRY)
            case "suspended":
                await peer.suspend(claim, APPROVAL)
            case "ended":
                await peer.end(claim)
            case _:
                await flows.cancel([claim.id], request=self.make.request())
        before = await self.counts(flows)
        child = self.child()
        assert await flows.spawn(incarnation, held, [child]) is None
        assert await flows.get([child.instance.id]) == [None]
        assert await self.counts(flows) == before

    async def test_an_instance_of_another_parent_is_refused(self, flows: Store) -> None:
        peer = await self.join(flows)
        plain, foreign = self.child(), self.child(delay_us=HOUR_US)
        await flows.enqueue([plain.instance])
        await self.parent(peer, foreign)
        await peer.take_one()
        claim = await self.parent(peer)
        before = await self.everything(flows, plain.instance.id, foreign.instance.id)
        for wrong in (plain, foreign):
            with pytest.raises(ValueError, match=wrong.instance.id):
                await self.spawn(peer, claim, wrong)
        assert await self.everything(flows, plain.instance.id, foreign.instance.id) == before
        assert await self.found(flows, Query(parent=claim.id)) == []

    async def test_mistakes_are_refused_before_anything_is_added(self, flows: Store) -> None:
        peer = await self.join(flows)
        claim = await self.parent(peer)
        good, ids = self.child(), [self.make.id() for _ in range(MAX_NEEDS_CALL // 2 + 1)]
        itself = self.child()
        for wrong in (
            [self.child() for _ in range(MAX_CHILDREN_CALL)],
            [self.child(*ids), self.child(*ids)],
            [self.child(key="unique")],
            [self.child(good.instance.id, good.instance.id)],
            [self.child(Need(itself.instance.id), id=itself.instance.id)],
        ):
            with pytest.raises(ValueError, match=r"child|need"):
                await self.spawn(peer, claim, good, *wrong)
        assert await self.counts(flows) == {State.PROCESSING: 1}

    async def test_children_need_the_layout(self, store: Store) -> None:
        peer = await self.join(store)
        claim = await self.running(store, peer)
        with pytest.raises(ValueError, match="require_layout"):
            await self.spawn(peer, claim, self.child())
        assert await self.counts(store) == {State.PROCESSING: 1}

    async def test_so_many_children_come_in_a_call(self, flows: Store) -> None:
        peer = await self.join(flows)
        children = [self.child() for _ in range(MAX_CHILDREN_CALL)]
        claim = await self.parent(peer, *children)
        ids = [child.instance.id for child in children]
        assert sorted(await self.found(flows, Query(parent=claim.id))) == sorted(ids)
        assert ids_of(await peer.take()) == ids

    async def test_a_child_can_be_due_later(self, flows: Store) -> None:
        peer = await self.join(flows)
        child = self.child(delay_us=HOUR_US)
        await self.parent(peer, child)
        assert ((await flows.health()).delayed, await flows.due()) == (1, {})
        assert await self.hurry(flows, child.instance.id) is RunNow.DUE_NOW
        assert ids_of(await peer.take()) == [child.instance.id]

    async def test_a_child_can_be_a_parent(self, flows: Store) -> None:
        peer = await self.join(flows)
        child, grandchild = self.child(), self.child()
        claim = await self.parent(peer, child)
        middle = await peer.take_one()
        assert await self.spawn(peer, middle, grandchild) == [Enqueued(grandchild.instance.id, True)]
        last = await peer.take_one()
        assert (last.id, last.parent) == (grandchild.instance.id, child.instance.id)
        assert await self.found(flows, Query(parent=claim.id)) == [child.instance.id]
        for ended in (last, middle, claim):
            assert await peer.end(ended) is Ack.DONE
        assert await self.counts(flows) == {State.COMPLETED: 3}

    @pytest.mark.parametrize("way", ["retry", "snooze", "hand_back", "suspend", "leave", "die"])
    async def test_children_go_on_when_a_run_ends(self, flows: Store, way: str) -> None:
        peer, other = await self.join(flows), await self.join(flows, "other")
        children = [self.child(), self.child(priority=-1)]
        claim = await self.parent(peer, *children)
        child = await other.take_one()
        # a store can keep the order within a window only
        (queued,) = (new for new in children if new.instance.id != child.id)
        match way:
            case "leave":
                await flows.leave(peer.incarnation)
            case "die":
                await flows.join(peer.info, ttl_us=round(self.short_ttl * 1_000_000))
                await self.reap(other)
            case "suspend":
                await peer.suspend(claim, APPROVAL)
            case action:
                await peer.end(claim, Action(action), delay_us=HOUR_US)
        assert (await self.read(flows, queued.instance.id)).state is State.SCHEDULED
        assert await other.end(child) is Ack.DONE
        assert queued.instance.id in ids_of(await other.take())

    # -- queries

    async def test_a_query_finds_children(self, flows: Store) -> None:
        peer = await self.join(flows)
        children = [self.child(tags=("odd",) if number % 2 else (), kind="other") for number in range(6)]
        claim = await self.parent(peer, *children)
        foreign = [self.child(tags=("odd",)) for _ in range(2)]
        await self.parent(peer, *foreign)
        await flows.enqueue(self.make.instances(3, tags=("odd",)))
        ids = [child.instance.id for child in children]
        worker = await self.join(flows, "worker", ("other",))
        ended = await worker.take(2)
        for child in ended:
            await worker.end(child)
        for limit in (1, 4, 100):
            query = Query(parent=claim.id, limit=limit)
            assert await self.found(flows, query) == ids
        assert await self.found(flows, Query(parent=claim.id, order="desc")) == ids[::-1]
        assert await self.found(flows, Query(parent=claim.id, state="Completed")) == sorted(ids_of(ended))
        assert await self.found(flows, Query(parent=claim.id, kind="other", tag="odd")) == ids[1::2]
        assert await self.found(flows, Query(parent=claim.id, kind="work")) == []
        assert await self.found(flows, Query(parent=claim.id, uuid=ids[3])) == [ids[3]]
        assert await self.found(flows, Query(parent=claim.id, uuid=foreign[0].instance.id)) == []
        assert await self.found(flows, Query(parent=ids[0])) == []
        assert len(await self.found(flows, Query(tag="odd"))) == 8
        assert (await self.read(flows, ids[0])).tags == ()

    async def test_a_query_finds_children_after_the_end(self, flows: Store) -> None:
        peer = await self.join(flows)
        children = [self.child() for _ in range(3)]
        claim = await self.parent(peer, *children)
        await peer.end(await peer.take_one())
        await peer.end(claim)
        assert await self.found(flows, Query(parent=claim.id)) == [child.instance.id for child in children]
        assert await self.found(flows, Query(parent=claim.id, state="Cancelled")) == [
            child.instance.id for child in children[1:]
        ]
