"""A cancel is final in one transaction; the holder can then only release the instance."""

import asyncio

import pytest

from peerjob.model.record import Ack, Action, Enqueued, Hint
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.testing.factories import outcome

from .suite import PLAIN_ACTIONS, StoreSuite, states


class CancelRules(StoreSuite):
    """Rules of `cancel`."""

    async def cancel(self, store: Store, *ids: str) -> list[State | None]:
        """Cancel under a fresh request id."""
        return await store.cancel(ids, node="operator", request=self.make.request())

    @pytest.mark.parametrize("delay_us", [None, 60_000_000])
    async def test_a_queued_instance_is_cancelled(self, store: Store, delay_us: int | None) -> None:
        new, other = self.make.instance(delay_us=delay_us), self.make.instance()
        await store.enqueue([new, other])
        assert await self.cancel(store, new.id) == [State.SCHEDULED]

        record = await self.read(store, new.id)
        assert states(record) == [State.CREATED, State.SCHEDULED, State.CANCELLED]
        assert (record.history[-1].node, record.owner) == ("operator", "")
        peer = await self.join(store)
        assert [claim.id for claim in await peer.take()] == [other.id]
        assert (await peer.claim()).next_due_us is None
        assert await self.counts(store) == {State.CANCELLED: 1, State.PROCESSING: 1}
        assert (await store.health()).delayed == 0

    async def test_the_answer_is_the_state_before(self, store: Store) -> None:
        done, running, queued = self.make.instances(3)
        await store.enqueue([done, running, queued])
        peer = await self.join(store)
        first, _ = await peer.take(2)
        await peer.end(first)
        before = await self.everything(store, done.id)

        assert await self.cancel(store, self.make.id(), queued.id, done.id, running.id) == [
            None,
            State.SCHEDULED,
            State.COMPLETED,
            State.PROCESSING,
        ]
        assert await self.everything(store, done.id) == before
        assert await self.cancel(store) == []

    async def test_an_id_that_comes_twice_has_one_answer_and_one_end(self, store: Store) -> None:
        (running,) = instances = self.make.instances(1)
        await store.enqueue(instances)
        peer, waiter = await self.join(store), await self.join(store, "waiter")
        await peer.take(1)
        (queued,) = instances = self.make.instances(1)
        await store.enqueue(instances)
        await store.watch_final(waiter.incarnation, [queued.id])
        answers = await self.cancel(store, queued.id, running.id, queued.id, running.id)
        assert answers == [State.SCHEDULED, State.PROCESSING] * 2
        assert states(await self.read(store, queued.id)) == [State.CREATED, State.SCHEDULED, State.CANCELLED]
        assert await self.hints(waiter, self.patience) == [Hint("final", queued.id)]

    async def test_a_retried_instance_is_cancelled(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        peer = await self.join(store)
        claim = await peer.take_one()
        await peer.end(claim, Action.RETRY, delay_us=60_000_000)
        assert await self.cancel(store, claim.id) == [State.SCHEDULED]
        assert (await self.read(store, claim.id)).state == State.CANCELLED

    async def test_a_running_instance_is_cancelled_at_once(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        peer = await self.join(store)
        claim = await peer.take_one()
        assert await self.cancel(store, claim.id) == [State.PROCESSING]
        record = await self.read(store, claim.id)
        assert record.state == State.CANCELLED
        assert states(record)[2:] == [State.PROCESSING, State.CANCELLED]
        assert record.history[-1].node == "operator"
        assert await self.counts(store) == {State.CANCELLED: 1}

    @pytest.mark.parametrize("action", PLAIN_ACTIONS)
    async def test_its_holder_changes_nothing(self, store: Store, action: Action) -> None:
        await store.enqueue(self.make.instances(1))
        peer = await self.join(store)
        claim = await peer.take_one()
        await peer.report(claim, progress=b"half", logs=(self.make.line("before"),))
        await self.cancel(store, claim.id)
        before = await self.read(store, claim.id)

        said = outcome(
            claim,
            action,
            result=b"no",
            error=b"no",
            progress=b"no",
            logs=(self.make.line("after"),),
        )
        assert await peer.commit(said) == [Ack.CANCELLED]
        after = await self.read(store, claim.id)
        assert (after.state, after.history) == (before.state, before.history)
        assert (after.result, after.error, after.progress) == (None, None, b"half")
        assert [line.message for line in await self.lines(store, claim.id)] == ["before"]
        assert await self.counts(store) == {State.CANCELLED: 1}
        assert await peer.take() == ()

    @pytest.mark.parametrize("action", [action for action in PLAIN_ACTIONS if action is not Action.REPORT])
    async def test_the_key_is_free_when_its_body_has_ended(self, store: Store, action: Action) -> None:
        first, second = self.make.instances(2, key="k")
        await store.enqueue([first])
        peer = await self.join(store)
        claim = await peer.take_one()
        await self.cancel(store, first.id)
        assert await store.enqueue([second]) == [Enqueued(first.id, False)]
        assert await peer.report(claim, progress=b"on my way") is Ack.CANCELLED
        third = self.make.instance(key="k")
        assert await store.enqueue([third]) == [Enqueued(first.id, False)]

        assert await peer.end(claim, action) is Ack.CANCELLED
        fourth = self.make.instance(key="k")
        assert await store.enqueue([fourth]) == [Enqueued(fourth.id, True)]

    async def test_the_holder_hears_of_it(self, store: Store) -> None:
        await store.enqueue(self.make.instances(3))
        peer = await self.join(store)
        first, second, third = await peer.take()
        await self.cancel(store, first.id, third.id)

        assert await self.hinted(peer, "cancel")
        for _ in range(2):
            assert set((await peer.renew(first, second, third)).cancelled) == {first.id, third.id}
        await peer.end(first, Action.RELEASE)
        assert (await peer.renew(second, third)).cancelled == (third.id,)
        await peer.end(third)
        renewed = await peer.renew(second)
        assert (renewed.cancelled, renewed.held, renewed.dead) == ((), None, False)

    async def test_a_release_sent_again_is_still_cancelled(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        peer = await self.join(store)
        claim, request = await peer.take_one(), self.make.request()
        await self.cancel(store, claim.id)
        for _ in range(2):
            assert await peer.commit(outcome(claim, Action.RELEASE), request=request) == [Ack.CANCELLED]

    async def test_only_the_holder_releases(self, store: Store) -> None:
        first, second = self.make.instances(2, key="k")
        await store.enqueue([first])
        peer, other = await self.join(store), await self.join(store)
        claim = await peer.take_one()
        await self.cancel(store, first.id)
        await other.end(claim, Action.RELEASE)
        assert await store.enqueue([second]) == [Enqueued(first.id, False)]
        assert (await peer.renew(claim)).cancelled == (first.id,)

    async def test_a_dead_holder_is_released_by_the_reaper(self, store: Store) -> None:
        first, second = self.make.instances(2, key="k", max_crashes=0)
        await store.enqueue([first])
        mortal, reaper = await self.join_briefly(store), await self.join(store)
        claim = await mortal.take_one()
        await mortal.report(claim, started=True)
        await self.cancel(store, first.id)
        before = (await self.read(store, first.id)).history

        (reaped,) = await self.reap(reaper)
        assert (reaped.id, reaped.state, reaped.node) == (first.id, State.CANCELLED, "mortal")
        record = await self.read(store, first.id)
        assert (record.state, record.history, record.owner) == (State.CANCELLED, before, "")
        assert await store.enqueue([second]) == [Enqueued(second.id, True)]
        assert await store.reap(10, reaper=reaper.incarnation) == []

    async def test_a_holder_that_leaves_releases(self, store: Store) -> None:
        first, second = self.make.instances(2, key="k")
        await store.enqueue([first])
        peer = await self.join(store)
        await peer.take_one()
        await self.cancel(store, first.id)
        await store.leave(peer.incarnation)
        assert (await self.read(store, first.id)).state == State.CANCELLED
        assert await store.enqueue([second]) == [Enqueued(second.id, True)]

    async def test_a_cancel_and_an_end_at_once_have_one_winner(self, store: Store) -> None:
        other = await self.open()
        peer = await self.join(other)
        for _ in range(20):
            await store.enqueue(self.make.instances(1))
            claim = await peer.take_one()
            (was,), ack = await self.in_time(asyncio.gather(self.cancel(store, claim.id), peer.end(claim)))
            state = (await self.read(store, claim.id)).state
            assert (was, ack, state) in (
                (State.PROCESSING, Ack.CANCELLED, State.CANCELLED),
                (State.COMPLETED, Ack.DONE, State.COMPLETED),
            )

    async def test_a_cancel_and_a_claim_at_once_have_one_order(self, store: Store) -> None:
        other = await self.open()
        peer = await self.join(other)
        for _ in range(20):
            (new,) = self.make.instances(1)
            await store.enqueue([new])
            (was,), claims = await self.in_time(asyncio.gather(self.cancel(store, new.id), peer.take()))
            assert (was, len(claims)) in ((State.PROCESSING, 1), (State.SCHEDULED, 0))
            assert (await self.read(store, new.id)).state == State.CANCELLED
