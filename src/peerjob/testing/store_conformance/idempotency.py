"""A request that is sent again gets its first answer and does nothing twice."""

import asyncio

import pytest

from peerjob.model.query import Filter
from peerjob.model.record import Ack, Action, Claim
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.testing.factories import outcome

from .suite import PLAIN_ACTIONS, StoreSuite, ids_of


class IdempotencyRules(StoreSuite):
    """Rules of requests that are repeated because their answer was lost."""

    async def test_a_claim_sent_again_gives_the_same_claims(self, store: Store) -> None:
        await store.enqueue(self.make.instances(5))
        peer = await self.join(store)
        want, request = peer.want(2), self.make.request()
        first = await peer.claim(want, request=request)
        again = await peer.claim(want, request=request)

        assert again.claims == first.claims
        assert len(first.claims) == 2
        assert await self.counts(store) == {State.PROCESSING: 2, State.SCHEDULED: 3}
        assert len(await peer.take()) == 3

    @pytest.mark.parametrize("by_turn", [False, True])
    async def test_a_claim_sent_again_leaves_out_the_claims_that_have_ended_since(
        self, store: Store, *, by_turn: bool
    ) -> None:
        news = self.make.instances(4)
        await store.enqueue(news)
        peer, request = await self.join(store), self.make.request()

        async def send() -> tuple[Claim, ...]:
            if by_turn:
                return (await store.turn(peer.incarnation, [], peer.want(4), request=request))[1].claims
            return (await peer.claim(peer.want(4), request=request)).claims

        done, retried, cancelled, held = await send()
        await peer.commit(outcome(done), outcome(retried, Action.RETRY))
        await store.cancel([cancelled.id], request=self.make.request())
        assert await send() == (held,)
        other = self.make.request()
        _, claimed = await store.claim_on_hint(peer.incarnation, peer.want(1), request=other, timeout=0)
        assert claimed is not None
        (later,) = claimed.claims
        assert later.id == retried.id
        assert later.fence != retried.fence
        assert await send() == (held,)
        assert await peer.commit(outcome(later), outcome(held)) == [Ack.DONE, Ack.DONE]
        assert await send() == ()

    @pytest.mark.parametrize("action", [Action.COMPLETE, Action.RETRY, Action.RELEASE])
    async def test_a_batch_that_comes_late_tells_no_more_than_at_first(self, store: Store, action: Action) -> None:
        """Another request was answered since. The record may still tell, but a lost outcome is never told as done."""
        await store.enqueue(self.make.instances(2))
        peer, request = await self.join(store), self.make.request()
        claim, other = await peer.take()
        if action is Action.RELEASE:
            await store.cancel([claim.id], request=self.make.request())
        line = self.make.line("late")
        batch = [
            outcome(claim, Action.REPORT, progress=b"half"),
            outcome(claim, action),
            outcome(claim, Action.HAND_BACK),
            outcome(claim, Action.REPORT, logs=(line,)),
        ]
        first = await peer.commit(*batch, request=request)
        assert first[:3] == ([Ack.CANCELLED] * 2 if action is Action.RELEASE else [Ack.DONE] * 2) + [Ack.LOST]
        assert first[3] is (Ack.DONE if action is Action.COMPLETE else Ack.LOST)
        await peer.end(other)
        late = await peer.commit(*batch, request=request)
        assert all(ack in (before, Ack.LOST) for before, ack in zip(first[:3], late[:3], strict=True))

    async def test_one_instance_sent_again_alone_is_there_once(self, store: Store) -> None:
        """A store may add one instance by a cheaper command, which must recognize a repeated request, too."""
        new = self.make.instance()
        peer = await self.join(store)

        async def send(state: State) -> None:
            for _ in range(2):
                (answer,) = await store.enqueue([new])
                assert (answer.id, answer.is_new) == (new.id, True)
            assert await self.counts(store) == {state: 1}

        await send(State.SCHEDULED)
        (claim,) = (await peer.claim(peer.want(idle=False))).claims
        await send(State.PROCESSING)
        assert (await peer.claim(peer.want(idle=False))).claims == ()
        await peer.end(claim)
        await send(State.COMPLETED)
        assert (await peer.claim(peer.want(idle=False))).claims == ()

    async def test_the_same_claim_sent_twice_at_once(self, store: Store) -> None:
        await store.enqueue(self.make.instances(5))
        peer = await self.join(store)
        want, request = peer.want(2), self.make.request()
        first, two = await self.in_time(
            asyncio.gather(peer.claim(want, request=request), peer.claim(want, request=request))
        )
        assert first.claims == two.claims
        assert len(first.claims) == 2
        assert await self.counts(store) == {State.PROCESSING: 2, State.SCHEDULED: 3}

    async def test_peers_do_not_share_requests(self, store: Store) -> None:
        await store.enqueue(self.make.instances(2))
        peer, two = await self.join(store), await self.join(store)
        request = self.make.request()
        first = await peer.claim(peer.want(1), request=request)
        second = await two.claim(two.want(1), request=request)
        assert len({*ids_of(first.claims), *ids_of(second.claims)}) == 2

    @pytest.mark.parametrize("action", [action for action in PLAIN_ACTIONS if action is not Action.RELEASE])
    async def test_a_commit_sent_again_is_done(self, store: Store, action: Action) -> None:
        await store.enqueue(self.make.instances(1))
        peer = await self.join(store)
        claim = await peer.take_one()
        request = self.make.request()
        said = outcome(
            claim,
            action,
            result=b"r",
            progress=b"p",
            delay_us=60_000_000 if action in (Action.RETRY, Action.SNOOZE) else 0,
            logs=(self.make.line("once"),),
        )
        assert await peer.commit(said, request=request) == [Ack.DONE]
        before = await self.everything(store, claim.id)
        for _ in range(2):
            assert await peer.commit(said, request=request) == [Ack.DONE]
        assert await self.everything(store, claim.id) == before
        assert len(await self.lines(store, claim.id)) == 1

    async def test_a_commit_sent_again_after_another_claimed(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        peer, other = await self.join(store), await self.join(store)
        claim, request = await peer.take_one(), self.make.request()
        await peer.commit(outcome(claim, Action.RETRY), request=request)
        newer = await other.take_one()
        before = await self.everything(store, claim.id)

        assert await peer.commit(outcome(claim, Action.RETRY), request=request) == [Ack.DONE]
        assert await self.everything(store, claim.id) == before
        assert await other.end(newer) is Ack.DONE

    async def test_a_commit_sent_again_after_removal(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        peer = await self.join(store)
        claim, request = await peer.take_one(), self.make.request()
        await peer.commit(outcome(claim), request=request)
        assert await store.clear_instances(Filter()) == 1
        assert await peer.commit(outcome(claim), request=request) == [Ack.DONE]
        assert await store.get([claim.id]) == [None]

    async def test_a_lost_outcome_stays_lost(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        owner, thief = await self.join(store), await self.join(store)
        claim, request = await owner.take_one(), self.make.request()
        assert await thief.commit(outcome(claim), request=request) == [Ack.LOST]
        assert await thief.commit(outcome(claim), request=request) == [Ack.LOST]

    async def test_a_mixed_batch_sent_again_gives_every_first_answer(self, store: Store) -> None:
        await store.enqueue(self.make.instances(4))
        peer, other = await self.join(store), await self.join(store)
        done, retried, cancelled = await peer.take(3)
        lost = await other.take_one()
        await store.cancel([cancelled.id], request=self.make.request())
        batch = [
            outcome(done),
            outcome(lost),
            outcome(cancelled),
            outcome(retried, Action.RETRY),
        ]
        request = self.make.request()
        first = await peer.commit(*batch, request=request)
        assert first == [Ack.DONE, Ack.LOST, Ack.CANCELLED, Ack.DONE]
        before = await self.everything(store, done.id, lost.id, cancelled.id, retried.id)
        assert await peer.commit(*batch, request=request) == first
        assert await self.everything(store, done.id, lost.id, cancelled.id, retried.id) == before

    async def test_a_turn_sent_again_gives_its_first_answer(self, store: Store) -> None:
        await store.enqueue(self.make.instances(4))
        peer = await self.join(store)
        claim, request = await peer.take_one(), self.make.request()
        said = [outcome(claim, Action.RETRY, logs=(self.make.line("once"),))]
        acks, claimed = await store.turn(peer.incarnation, said, peer.want(2), request=request)
        again, claimed_again = await store.turn(peer.incarnation, said, peer.want(2), request=request)
        assert (again, claimed_again.claims) == (acks, claimed.claims)
        assert (acks, len(claimed.claims)) == ([Ack.DONE], 2)
        assert len(await self.lines(store, claim.id)) == 1
        assert await self.counts(store) == {State.PROCESSING: 2, State.SCHEDULED: 2}

    async def test_a_cancel_sent_again_answers_as_it_did(self, store: Store) -> None:
        done, running, queued = self.make.instances(3)
        await store.enqueue([done, running, queued])
        peer = await self.join(store)
        await peer.end((await peer.take(2))[0])
        ids = [running.id, queued.id, done.id, self.make.id()]
        request = self.make.request()
        first = await store.cancel(ids, node="a", request=request)
        assert first == [State.PROCESSING, State.SCHEDULED, State.COMPLETED, None]
        before = await self.everything(store, *ids[:3])

        assert await store.cancel(ids, node="a", request=request) == first
        assert await self.everything(store, *ids[:3]) == before
        assert await store.cancel([running.id], request=self.make.request()) == [State.CANCELLED]

    async def test_joining_again_with_a_previous_life_converts_once(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1, max_crashes=10))
        reaper = await self.join(store)
        for name in ("first", "second"):
            mortal = await self.join_briefly(store, name)
            claim = await mortal.take_one()
            await mortal.report(claim, started=True)
            await self.reap(reaper)
        back = await self.join(store, "second", previous=mortal.incarnation)
        await back.join(previous=mortal.incarnation)
        record = await self.read(store, claim.id)
        assert (record.crashes, record.losses) == (1, 1)
