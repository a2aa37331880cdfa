"""HINTS: a wait for hints that ends with a claim."""

import asyncio

import pytest

from peerjob.model.record import MAX_HISTORY, Ack, Action, Claim, Claimed, Hint
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.testing.factories import Peer, outcome

from .suite import StoreSuite, states


class HintedClaimRules(StoreSuite):
    """Rules of `claim_on_hint`."""

    async def sleeper(self, store: Store) -> Peer:
        """A peer that found nothing to claim, and so is registered as idle."""
        peer = await self.join(store, "sleeper")
        assert (await peer.claim()).claims == ()
        return peer

    async def hinted_claim(
        self,
        peer: Peer,
        timeout: float | None = None,
        *,
        limit: int = 1,
        cap: int | None = None,
        request: str | None = None,
    ) -> tuple[list[Hint], Claimed | None]:
        """What a peer gets, by default within the time in which hints come. `cap` is the limit of each kind."""
        kinds = None if cap is None else dict.fromkeys(peer.info.kinds, cap)
        return await self.in_time(
            peer.store.claim_on_hint(
                peer.incarnation,
                peer.want(limit, kinds, suspects=False),
                request=request or self.make.request(),
                timeout=self.patience if timeout is None else timeout,
            )
        )

    async def test_a_hint_about_work_ends_the_wait_with_a_claim(self, store: Store) -> None:
        peer = await self.sleeper(store)
        waiting = asyncio.create_task(self.hinted_claim(peer))
        await self.pass_time(0.01)
        (new,) = self.make.instances(1)
        await (await self.open()).enqueue([new])
        hints, claimed = await waiting
        assert [hint.what for hint in hints] == ["work"]
        assert claimed is not None
        assert [claim.id for claim in claimed.claims] == [new.id]
        await peer.end(claimed.claims[0])

    async def test_a_hint_that_came_before_the_wait_ends_it(self, store: Store) -> None:
        peer = await self.sleeper(store)
        await store.enqueue(self.make.instances(3))
        _, claimed = await self.hinted_claim(peer, limit=2)
        assert claimed is not None
        assert len(claimed.claims) == 2

    async def test_a_wait_without_hints_ends_with_the_time(self, store: Store) -> None:
        peer = await self.sleeper(store)
        began = self.clock.elapsed()
        hints, claimed = await self.hinted_claim(peer, 0.2)
        assert hints == []
        assert claimed is None or claimed.claims == ()
        assert 0.15 < self.clock.elapsed() - began < self.patience

    async def test_a_timeout_of_0_claims_at_once(self, store: Store) -> None:
        peer = await self.join(store)
        await store.enqueue(self.make.instances(1))
        hints, claimed = await self.hinted_claim(peer, 0)
        assert hints == []
        assert claimed is not None
        assert len(claimed.claims) == 1

    async def test_other_hints_come_too(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        peer = await self.join(store)
        claim = await peer.take_one()
        await store.cancel([claim.id], request=self.make.request())
        hints, _ = await self.hinted_claim(peer)
        assert "cancel" in [hint.what for hint in hints]

    @pytest.mark.parametrize("limit", [0, 1])
    async def test_a_repeat_gives_the_claims_of_the_first_call(self, store: Store, limit: int) -> None:
        peer = await self.sleeper(store)
        await store.enqueue(self.make.instances(3))
        request = self.make.request()
        _, first = await self.hinted_claim(peer, request=request)
        _, again = await self.hinted_claim(peer, 0, limit=limit, request=request)
        assert first is not None
        assert again is not None
        assert again.claims == first.claims
        assert len(again.claims) == 1

    async def test_the_claims_of_turns_in_between_do_not_change_the_answer(self, store: Store) -> None:
        peer = await self.sleeper(store)
        await store.enqueue(self.make.instances(3))
        request = self.make.request()
        _, first = await self.hinted_claim(peer, request=request)
        _, other = await store.turn(peer.incarnation, [], peer.want(1), request=self.make.request())
        _, again = await self.hinted_claim(peer, 0, limit=0, request=request)
        assert first is not None
        assert again is not None
        assert again.claims == first.claims
        assert other.claims != first.claims

    async def test_a_node_that_found_nothing_is_idle_again(self, store: Store) -> None:
        peer = await self.sleeper(store)
        (new,) = self.make.instances(1)
        await store.enqueue([new])
        await store.cancel([new.id], request=self.make.request())
        _, claimed = await self.hinted_claim(peer)
        assert claimed is not None
        assert claimed.claims == ()
        await store.enqueue(self.make.instances(1))
        hints, claimed = await self.hinted_claim(peer)
        assert [hint.what for hint in hints] == ["work"]
        assert claimed is not None
        assert len(claimed.claims) == 1

    async def test_a_cancelled_wait_claims_nothing_after_its_repeat(self, store: Store) -> None:
        for _ in range(5):
            peer = await self.sleeper(store)
            request = self.make.request()
            waiting = asyncio.create_task(self.hinted_claim(peer, 30, request=request))
            await self.pass_time(0.01)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await self.wait_given_up()
            _, claimed = await self.hinted_claim(peer, 0, limit=0, request=request)
            assert claimed is not None
            assert claimed.claims == ()
            await store.enqueue(self.make.instances(1))
            other = await self.join(store, "other")
            await other.end(await other.take_one())
            await store.leave(peer.incarnation)

    async def test_a_repeat_gives_no_later_claim_of_the_instance(self, store: Store) -> None:
        """The node runs the later claim, and hands back what a withdrawn call has claimed."""
        peer = await self.sleeper(store)
        await store.enqueue(self.make.instances(1))
        request = self.make.request()
        _, first = await self.hinted_claim(peer, 0, request=request)
        assert first is not None
        await peer.end(first.claims[0], Action.HAND_BACK)
        claim = await peer.take_one()
        _, again = await self.hinted_claim(peer, 0, limit=0, request=request)
        assert again is not None
        assert again.claims == ()
        assert await peer.end(claim) is Ack.DONE

    async def test_a_repeat_leaves_nothing_to_a_call_that_still_waits(self, store: Store) -> None:
        """As if the server has not noticed yet that the first connection was closed."""
        peer = await self.sleeper(store)
        request = self.make.request()
        waiting = asyncio.create_task(self.hinted_claim(peer, request=request))
        await self.pass_time(0.01)
        again = await (await self.open()).claim_on_hint(peer.incarnation, peer.want(0), request=request, timeout=0)
        assert again == ([], Claimed(now_us=again[1].now_us if again[1] is not None else 0))
        await store.enqueue(self.make.instances(1))
        _, claimed = await waiting
        assert claimed is None or claimed.claims == ()
        assert await self.counts(store) == {State.SCHEDULED: 1}

    @pytest.mark.parametrize("is_repeated", [True, False])
    async def test_a_call_that_still_waits_claims_nothing_after_a_later_call(
        self, store: Store, is_repeated: bool
    ) -> None:
        peer = await self.sleeper(store)
        elsewhere = await self.open()
        earlier, later = self.make.request(), self.make.request()
        waiting = asyncio.create_task(self.hinted_claim(peer, request=earlier))
        await self.pass_time(0.01)
        for request in (earlier, later) if is_repeated else (later,):
            await elsewhere.claim_on_hint(peer.incarnation, peer.want(1 - is_repeated), request=request, timeout=0)
        await store.enqueue(self.make.instances(1))
        _, claimed = await waiting
        assert claimed is None or claimed.claims == () or not self.claims_wait
        _, again = await elsewhere.claim_on_hint(peer.incarnation, peer.want(1), request=later, timeout=0)
        assert again is None or again.claims == ()

    async def test_a_repeat_gives_the_claims_although_the_node_runs_other_kinds_now(self, store: Store) -> None:
        peer = await self.sleeper(store)
        await store.enqueue(self.make.instances(2))
        request = self.make.request()
        _, first = await self.hinted_claim(peer, request=request)
        await store.claim(peer.incarnation, peer.want(kinds={"other": 1}), request=self.make.request())
        elsewhere = await self.open()  # it knows neither set of kinds
        _, again = await elsewhere.claim_on_hint(peer.incarnation, peer.want(0), request=request, timeout=0)
        assert first is not None
        assert again is not None
        assert again.claims == first.claims
        assert len(again.claims) == 1
        await store.enqueue([self.make.instance(kind="other")])
        assert await self.woken([peer], 1) == [peer.name]

    @pytest.mark.parametrize("cap", [0, 1])
    async def test_what_falls_due_wakes_a_peer_of_a_node_that_takes_nothing(self, store: Store, cap: int) -> None:
        peer = await self.join(store)
        other = await self.join(await self.open(), "other")
        began = self.clock.elapsed()
        await store.enqueue([self.make.instance(delay_us=500_000)])
        while claims := (await other.claim()).claims:
            assert self.paused(began, 0.5)
            began = self.clock.elapsed()
            await other.commit(*(outcome(claim, Action.RETRY, delay_us=500_000) for claim in claims))
        await self.pass_time(0.6)
        _, claimed = await self.hinted_claim(peer, 0, limit=0, cap=cap)
        assert claimed is not None
        assert claimed.claims == ()
        assert await self.woken([other], 1) == ["other"]

    async def test_a_dead_incarnation_learns_it(self, store: Store) -> None:
        peer = await self.sleeper(store)
        await store.leave(peer.incarnation)
        _, claimed = await self.hinted_claim(peer, 0)
        assert claimed is not None
        assert claimed.dead

    # -- instances unlike most -----------------------------------------------------------------------------------------

    async def only_claim(self, peer: Peer) -> Claim:
        """The only claim of a hinted claim, which a claim of the same peer would not find any more."""
        _, claimed = await self.hinted_claim(peer, 0)
        assert claimed is not None
        (claim,) = claimed.claims
        assert (await self.read(peer.store, claim.id)).fence == claim.fence
        assert await peer.take() == ()
        return claim

    async def test_a_hinted_claim_is_like_any_other(self, store: Store) -> None:
        peer = await self.sleeper(store)
        (new,) = self.make.instances(1)
        await store.enqueue([new])
        request = self.make.request()
        _, first = await self.hinted_claim(peer, 0, request=request)
        _, again = await self.hinted_claim(peer, 0, request=request)
        assert first is not None
        assert again is not None
        assert again.claims == first.claims
        (claim,) = first.claims
        assert await self.counts(store) == {State.PROCESSING: 1}
        record = await self.read(store, new.id)
        assert (record.state, record.owner, record.fence) == (State.PROCESSING, peer.incarnation, claim.fence)
        assert states(record) == [State.CREATED, State.SCHEDULED, State.PROCESSING]
        assert await peer.take() == ()
        assert (await peer.renew(claim)).held is None
        assert await peer.end(claim) is Ack.DONE
        assert await self.counts(store) == {State.COMPLETED: 1}

    async def test_a_repeated_hinted_claim_takes_no_later_instance(self, store: Store) -> None:
        peer = await self.sleeper(store)
        request = self.make.request()
        await store.enqueue(self.make.instances(1))
        _, first = await self.hinted_claim(peer, 0, request=request)
        await store.enqueue(self.make.instances(1))
        _, again = await self.hinted_claim(peer, 0, request=request)
        assert first is not None
        assert again is not None
        assert len(again.claims) == 1
        assert again.claims == first.claims
        assert await self.counts(store) == {State.PROCESSING: 1, State.SCHEDULED: 1}

    async def test_a_hinted_claim_is_told_to_watchers(self, store: Store) -> None:
        peer, watcher = await self.sleeper(store), await self.join(await self.open(), "watcher")
        await store.watch_changes(watcher.incarnation, 60)
        (new,) = self.make.instances(1)
        await store.enqueue([new])
        assert await self.hinted(watcher, "change", new.id)
        await self.only_claim(peer)
        assert await self.hinted(watcher, "change", new.id)

    async def test_a_hinted_claim_has_key_and_tags(self, store: Store) -> None:
        peer = await self.sleeper(store)
        await store.enqueue(self.make.instances(1, key="k", tags=("t", "u")))
        claim = await self.only_claim(peer)
        assert (claim.key, claim.tags) == ("k", ("t", "u"))
        assert await peer.end(claim) is Ack.DONE

    async def test_a_hinted_claim_takes_what_fell_due(self, store: Store) -> None:
        peer = await self.sleeper(store)
        delayed, other = self.make.instance(priority=3, delay_us=10_000), self.make.instance(priority=7)
        await store.enqueue([delayed])
        await self.pass_time(0.02)
        await store.enqueue([other])
        _, claimed = await self.hinted_claim(peer, 0)
        assert claimed is not None
        assert [claim.id for claim in claimed.claims] == [delayed.id]
        assert (await self.only_claim(peer)).id == other.id

    async def test_a_hinted_claim_folds_a_long_history(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        peer = await self.join(store)
        for _ in range(MAX_HISTORY):
            await peer.end(await peer.take_one(), Action.RETRY)
        claim = await self.only_claim(peer)
        assert claim.attempts == MAX_HISTORY + 1
        await peer.end(claim)
        record = await self.read(store, claim.id)
        assert len(record.history) <= MAX_HISTORY + 1
        assert sum(entry.count for entry in record.history) == 2 + 2 * MAX_HISTORY + 2

    async def test_a_hinted_claim_takes_the_first_of_several(self, store: Store) -> None:
        peer = await self.sleeper(store)
        late, early = self.make.instance(priority=7), self.make.instance(priority=3)
        await store.enqueue([late, early])
        _, claimed = await self.hinted_claim(peer, 0)
        assert claimed is not None
        assert [claim.id for claim in claimed.claims] == [early.id]
        assert (await self.only_claim(peer)).id == late.id

    async def test_a_hinted_claim_leaves_a_kind_without_room(self, store: Store) -> None:
        peer = await self.sleeper(store)
        await store.enqueue(self.make.instances(1))
        want = peer.want(1, dict.fromkeys(peer.info.kinds, 0), suspects=False)
        _, claimed = await store.claim_on_hint(peer.incarnation, want, request=self.make.request(), timeout=0)
        assert claimed is not None
        assert claimed.claims == ()
        await self.only_claim(peer)

    # -- a blocked event loop ------------------------------------------------------------------------------------------

    async def withdraw(self, peer: Peer, request: str) -> None:
        """Withdraw as the thread of the lease does."""
        liveness = peer.store.liveness()
        await liveness.open()
        try:
            await liveness.withdraw(peer.incarnation, request, timeout=self.patience)
        finally:
            await liveness.close()

    async def test_a_withdrawn_claim_returns_and_wakes_a_peer(self, store: Store) -> None:
        peer = await self.sleeper(store)
        other, watcher = await self.join(await self.open(), "other"), await self.join(store, "watcher", ())
        (new,) = self.make.instances(1)
        await store.enqueue([new])
        request = self.make.request()
        _, claimed = await self.hinted_claim(peer, 0, request=request)
        assert claimed is not None
        assert (await other.claim()).claims == ()
        await store.watch_changes(watcher.incarnation, 60)
        await self.withdraw(peer, request)
        if not self.claims_wait:
            await peer.end(claimed.claims[0], Action.HAND_BACK)
        assert await self.hinted(other, "work")
        assert await self.hinted(watcher, "change", new.id)
        record = await self.read(store, new.id)
        assert (record.state, record.attempts, record.owner) == (State.SCHEDULED, 0, "")
        assert (await other.take_one()).id == new.id
        _, again = await self.hinted_claim(peer, 0, limit=0, request=request)
        assert again is not None
        assert again.claims == ()

    async def test_a_withdrawn_claim_wakes_no_node_that_was_idle_beside_it(self, store: Store) -> None:
        peer = await self.sleeper(store)
        await store.enqueue(self.make.instances(1))
        request = self.make.request()
        _, claimed = await self.hinted_claim(peer, 0, request=request)
        assert claimed is not None
        assert (await peer.claim()).claims == ()
        await self.withdraw(peer, request)
        assert await self.hints(peer) == []

    async def test_work_wakes_no_node_whose_claim_is_withdrawn(self, store: Store) -> None:
        peer = await self.sleeper(store)
        await self.withdraw(peer, self.make.request())
        await store.enqueue(self.make.instances(1))
        if self.claims_wait:
            assert await self.hints(peer) == []
        else:
            assert await self.woken([peer], 1) == [peer.name]
        assert (await peer.renew()).work_due in (True, None)

    async def test_a_withdrawal_takes_no_other_claim(self, store: Store) -> None:
        peer = await self.sleeper(store)
        await store.enqueue(self.make.instances(3))
        requests = [self.make.request() for _ in range(2)]
        for request in requests:
            await self.hinted_claim(peer, 0, request=request)
        claim = await peer.take_one()
        await self.withdraw(peer, requests[0])
        await self.withdraw(peer, self.make.request())
        assert await self.counts(store) == {State.PROCESSING: 3}
        assert await peer.end(claim) is Ack.DONE

    async def test_a_late_withdrawal_takes_no_later_claim_of_the_instance(self, store: Store) -> None:
        peer = await self.sleeper(store)
        await store.enqueue(self.make.instances(1))
        request = self.make.request()
        _, claimed = await self.hinted_claim(peer, 0, request=request)
        assert claimed is not None
        await peer.end(claimed.claims[0], Action.HAND_BACK)
        claim = await peer.take_one()
        await self.withdraw(peer, request)
        assert await peer.end(claim) is Ack.DONE

    async def test_a_withdrawal_of_a_dead_incarnation_changes_nothing(self, store: Store) -> None:
        peer = await self.sleeper(store)
        await store.leave(peer.incarnation)
        await self.withdraw(peer, self.make.request())
        await store.enqueue(self.make.instances(1))
        assert await self.counts(store) == {State.SCHEDULED: 1}
