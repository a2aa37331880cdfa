"""Instances that come from another store, with their steps, waits, children and ends."""

from __future__ import annotations

from typing import Any, Unpack

import pytest

from peerjob.model.durable import MAX_CHILDREN_CALL, MAX_RESTORED_STEPS, MAX_STEPS_CALL, Need, SignalAnswer, Step, Wait
from peerjob.model.query import Query
from peerjob.model.record import Ack, Action, Enqueued, NewChild
from peerjob.model.restored import Restored
from peerjob.model.run_now import RunNow
from peerjob.model.state import State
from peerjob.model.stored_limit import KindLimits
from peerjob.store.base import Store
from peerjob.store.rules import PARENT_ENDED
from peerjob.testing.factories import InstanceOptions

from .durable_suite import APPROVAL, HOUR_US, NEEDS, DurableSuite
from .suite import ids_of, states

STEPS = (Step("charge", b"paid"), Step("!vote", b"yes"))


class RestoreRules(DurableSuite):
    """Rules of `restore`."""

    def moved(self, *, more: dict[str, Any] | None = None, **options: Unpack[InstanceOptions]) -> Restored:
        """An instance of another store; `more` has what only such an instance has."""
        given: InstanceOptions = {"due_us": 1_000, **options}
        return Restored(instance=self.make.instance(**given), **(more or {}))

    async def restore(self, store: Store, *instances: Restored) -> list[Enqueued]:
        return await store.restore(instances, node="import")

    async def test_an_instance_comes_with_its_steps(self, flows: Store) -> None:
        peer = await self.join(flows)
        await peer.claim()
        await self.hints(peer)
        restored = self.moved(more={"steps": STEPS}, attempts=2, crashes=1, key="k", tags=("t",), retention_us=5)
        assert await self.restore(flows, restored) == [Enqueued(restored.instance.id, True)]
        assert await self.woken([peer], 1)
        record = await self.read(flows, restored.instance.id)
        assert (states(record), record.history[-1].node) == ([State.CREATED, State.SCHEDULED], "import")
        assert (record.wait, record.open, record.has_steps, record.parent) == (None, False, True, "")
        assert (record.attempts, record.crashes, record.due_us) == (2, 1, 1_000)
        assert (record.key, record.tags, record.retention_us) == ("k", ("t",), 5)
        claim = await peer.take_one()
        assert (claim.has_steps, claim.linked, claim.attempts) == (True, True, 3)
        assert await self.steps(flows, claim.id) == {step.name: step.value for step in STEPS}
        assert await peer.report(claim, steps=(Step("charge", b"other"),)) is Ack.TAKEN
        assert await peer.end(claim) is Ack.DONE
        await self.remove_all(flows, peer)
        assert await self.steps(flows, claim.id) == {}

    async def test_a_watcher_sees_each_part(self, flows: Store) -> None:
        watcher = await self.join(flows, kinds=())
        await flows.watch_changes(watcher.incarnation, 60)
        first = self.moved(more={"open": True})
        for part in (first, Restored(instance=first.instance)):
            await self.restore(flows, part)
            assert await self.hinted(watcher, "change", first.instance.id)

    async def test_the_same_call_again_changes_nothing(self, flows: Store) -> None:
        peer = await self.join(flows)
        restored, other = self.moved(more={"steps": STEPS}), self.moved(more={"wait": APPROVAL})
        await self.restore(flows, restored, other)
        ids = [restored.instance.id, other.instance.id]
        before = await self.everything(flows, *ids)
        known = [Enqueued(id, True, repeated=True) for id in ids]
        assert await self.restore(flows, restored, other) == known
        assert await self.everything(flows, *ids) == before
        claim = await peer.take_one()
        assert await self.restore(flows, restored, other) == known
        assert await peer.end(claim, result=b"r") is Ack.DONE
        assert await self.restore(flows, restored, other) == known
        assert (await self.read(flows, claim.id)).result == b"r"
        assert await peer.take() == ()
        await flows.clear()
        assert await self.restore(flows, restored) == known[:1]

    @pytest.mark.parametrize("limited", [False, True])
    async def test_a_wait_goes_on(self, flows: Store, limited: bool) -> None:
        peer = await self.join(flows)
        options: InstanceOptions = {"limit_key": "key", "key_concurrency": 1} if limited else {}
        if limited:
            await flows.publish_limits([KindLimits(kind="work", key_concurrency=1)])
        until_us = peer.joined_us + HOUR_US
        timed = Wait(signals=("other",), until_us=until_us)
        waiting, delayed = self.moved(more={"wait": APPROVAL}, **options), self.moved(more={"wait": timed}, **options)
        there = self.moved(more={"wait": Wait(signals=("no", "vote"), until_us=until_us), "steps": STEPS}, due_us=3_000)
        past = self.moved(more={"wait": Wait(until_us=2_000)})
        await self.restore(flows, waiting, delayed, there, past)
        assert (await self.assert_waits(flows, waiting.instance.id)).wait == APPROVAL
        record = await self.assert_waits(flows, delayed.instance.id)
        assert (record.wait, record.due_us) == (timed, until_us)
        assert (await flows.health()).delayed == 1
        claims = await peer.take()
        assert [(claim.id, claim.due_us) for claim in claims] == [
            (past.instance.id, 2_000),
            (there.instance.id, 3_000),
        ]
        for claim in claims:
            assert await peer.end(claim) is Ack.DONE
        for restored, name in ((waiting, "approval"), (delayed, "other")):
            assert await flows.signal(restored.instance.id, name, b"yes") is SignalAnswer.ACCEPTED
            (claim,) = await peer.take()
            assert (claim.id, claim.due_us, claim.has_steps) == (restored.instance.id, 1_000, True)
            assert await peer.end(claim) is Ack.DONE
        assert await flows.limit_keys([waiting.instance.id]) == [None]

    async def test_an_open_instance_waits_for_its_parts(self, flows: Store) -> None:
        peer = await self.join(flows)
        restored = self.moved(more={"steps": STEPS[:1], "open": True})
        id = restored.instance.id
        assert await self.restore(flows, restored) == [Enqueued(id, True)]
        record = await self.read(flows, id)
        assert (record.wait, record.open, record.has_steps) == (NEEDS, True, True)
        assert await self.hurry(flows, id) is RunNow.SUSPENDED
        assert await peer.take() == ()
        known = [Enqueued(id, True, repeated=True)]
        more = Restored(instance=restored.instance, steps=(Step("charge", b"other"), Step("mail", b"sent")), open=True)
        assert await self.restore(flows, more) == known
        assert await flows.signal(id, "vote", b"no") is SignalAnswer.ACCEPTED
        assert await peer.take() == ()
        assert await self.restore(flows, Restored(instance=restored.instance, steps=STEPS)) == known
        claim = await peer.take_one()
        assert (claim.id, claim.due_us) == (id, 1_000)
        assert await self.steps(flows, id) == {"charge": b"paid", "mail": b"sent", "!vote": b"no"}
        assert await self.restore(flows, Restored(instance=restored.instance, steps=(Step("late", b"x"),))) == known
        assert await peer.end(claim) is Ack.DONE
        assert "late" not in await self.steps(flows, id)

    async def test_children_come_under_an_open_parent(self, flows: Store) -> None:
        peer = await self.join(flows)
        parent = self.moved(more={"open": True})
        held = {"parent": parent.instance.id}
        queued = self.moved(more=held, tags=("t",))
        done = self.moved(more={**held, "state": State.COMPLETED, "result": b"r" * 2_000}, retention_us=0)
        failed = self.moved(more={**held, "state": State.TERMINATED, "error": b"e"}, retention_us=0)
        member = self.moved(more={**held, "open": True})
        children = [queued, done, failed, member]
        ids = [child.instance.id for child in children]
        await self.restore(flows, parent)
        assert await self.restore(flows, *children) == [Enqueued(id, True) for id in ids]
        assert await self.found(flows, Query(parent=parent.instance.id)) == ids
        assert await self.counts(flows) == {State.SCHEDULED: 3, State.COMPLETED: 1, State.TERMINATED: 1}
        record = await self.read(flows, done.instance.id)
        assert (record.result, record.error, record.owner, record.parent) == (
            b"r" * 2_000,
            None,
            "",
            parent.instance.id,
        )
        assert states(record) == [State.CREATED, State.SCHEDULED, State.PROCESSING, State.COMPLETED]
        assert (await self.read(flows, failed.instance.id)).error == b"e"
        child = await peer.take_one()
        assert (child.id, child.parent, child.tags) == (queued.instance.id, parent.instance.id, ("t",))
        assert await peer.end(child) is Ack.DONE
        await self.pass_time(0.001)
        assert await flows.expire(100) == 0
        assert await self.restore(flows, *children) == [Enqueued(id, True, repeated=True) for id in ids]
        assert await self.restore(flows, Restored(instance=parent.instance)) == [
            Enqueued(parent.instance.id, True, repeated=True)
        ]
        claim = await peer.take_one()
        assert (claim.id, claim.linked) == (parent.instance.id, True)
        needs = (Need(done.instance.id, "completed"), Need(queued.instance.id))
        assert await self.spawn(peer, claim, NewChild(instance=member.instance, needs=needs)) == [
            Enqueued(member.instance.id, True, repeated=True)
        ]
        assert await peer.suspend(claim, NEEDS, needs=(Need(member.instance.id),)) is Ack.DONE
        last = await peer.take_one()
        assert last.id == member.instance.id
        assert await peer.end(last) is Ack.DONE
        assert await peer.end(await peer.take_one()) is Ack.DONE
        await self.settle(flows)
        assert (await flows.health()).settling == 0
        await self.pass_time(0.001)
        assert await flows.expire(100) == 2
        await self.remove_all(flows, peer)

    async def test_a_need_that_failed_before_cancels(self, flows: Store) -> None:
        peer = await self.join(flows)
        parent = self.moved(more={"open": True})
        held = {"parent": parent.instance.id}
        failed, member = self.moved(more={**held, "state": State.TERMINATED}), self.moved(more={**held, "open": True})
        await self.restore(flows, parent)
        await self.restore(flows, failed, member)
        await self.restore(flows, Restored(instance=parent.instance))
        claim = await peer.take_one()
        await self.spawn(
            peer, claim, NewChild(instance=member.instance, needs=(Need(failed.instance.id, "completed"),))
        )
        await self.settle(flows)
        record = await self.read(flows, member.instance.id)
        assert (record.state, failed.instance.id in record.history[-1].note) == (State.CANCELLED, True)

    @pytest.mark.parametrize("way", ["unknown", "running", "cancelled", "plain"])
    async def test_a_parent_that_is_not_open_gets_no_children(self, flows: Store, way: str) -> None:
        peer = await self.join(flows)
        parent = self.moved(more={"open": way != "plain"})
        child = self.moved(more={"parent": parent.instance.id})
        answer = Enqueued(child.instance.id, True, repeated=True)
        if way == "unknown":
            answer = Enqueued(parent.instance.id, False)
        else:
            await self.restore(flows, parent)
        if way == "running":
            await self.restore(flows, Restored(instance=parent.instance))
            await peer.take_one()
        if way == "cancelled":
            await flows.cancel([parent.instance.id], request=self.make.request())
        before = await self.counts(flows)
        assert await self.restore(flows, child) == [answer]
        assert await flows.get([child.instance.id]) == [None]
        assert await self.counts(flows) == before

    async def test_the_cancel_of_an_open_parent_ends_its_children(self, flows: Store) -> None:
        await self.join(flows)
        parent = self.moved(more={"open": True})
        children = [self.moved(more={"parent": parent.instance.id, "open": bool(n % 2)}) for n in range(4)]
        await self.restore(flows, parent)
        await self.restore(flows, *children)
        await flows.cancel([parent.instance.id], request=self.make.request())
        await self.settle(flows)
        records = [await self.read(flows, child.instance.id) for child in children]
        assert {(restored.state, restored.history[-1].note) for restored in records} == {
            (State.CANCELLED, PARENT_ENDED)
        }
        assert await self.counts(flows) == {State.CANCELLED: 5}

    async def test_a_unique_key_is_taken_once(self, flows: Store) -> None:
        peer = await self.join(flows)
        first, second, third = (self.moved(key="k") for _ in range(3))
        taken = Enqueued(first.instance.id, False)
        assert await self.restore(flows, first, second) == [Enqueued(first.instance.id, True), taken]
        assert await self.restore(flows, third) == [taken]
        assert await peer.end(await peer.take_one()) is Ack.DONE
        assert await self.restore(flows, third) == [Enqueued(third.instance.id, True)]

    async def test_a_mistake_in_what_is_restored_is_refused_before_anything_is_added(self, flows: Store) -> None:
        good = self.moved()
        child = {"parent": self.make.id()}
        wrong = [
            [good],
            [self.moved() for _ in range(MAX_CHILDREN_CALL)],
            [self.moved(more={"parent": good.instance.id})],
            [self.moved(more=child, key="k")],
            [self.moved(more={"wait": NEEDS})],
            [self.moved(more={"wait": Wait()})],
            [self.moved(more={"wait": Wait(signals=("a" * 512, "b" * 512))})],
            [self.moved(more={"wait": Wait(signals=("a", ""))})],
            [self.moved(more={"wait": APPROVAL, "open": True})],
            [self.moved(more={"state": State.COMPLETED})],
            [self.moved(more={**child, "state": State.COMPLETED, "steps": STEPS})],
            [self.moved(more={**child, "state": State.COMPLETED, "open": True})],
            [self.moved(more={**child, "state": State.PROCESSING})],
            [self.moved(more={**child, "result": b"r"})],
            [self.moved(more={"steps": (STEPS[0], STEPS[0])})],
            [self.moved(more={"steps": tuple(Step(str(n), b"") for n in range(MAX_STEPS_CALL + 1))})],
            [
                self.moved(more={"steps": tuple(Step(str(n), b"") for n in range(MAX_STEPS_CALL))})
                for _ in range(MAX_RESTORED_STEPS // MAX_STEPS_CALL + 1)
            ],
            [self.moved(due_us=None)],
            [self.moved(delay_us=5)],
        ]
        for more in wrong:
            with pytest.raises(ValueError, match=r"restore|instance|child"):
                await self.restore(flows, good, *more)
        assert await self.counts(flows) == {}

    async def test_it_needs_the_layout(self, store: Store) -> None:
        with pytest.raises(ValueError, match="require_layout"):
            await self.restore(store, self.moved())
        assert await self.counts(store) == {}

    async def test_a_retry_of_a_restored_instance_is_usual(self, flows: Store) -> None:
        peer = await self.join(flows)
        restored = self.moved(more={"steps": STEPS})
        await self.restore(flows, restored)
        assert await peer.end(await peer.take_one(), Action.RETRY) is Ack.DONE
        again = await peer.take_one()
        assert (ids_of([again]), again.attempts, again.has_steps) == ([restored.instance.id], 2, True)
