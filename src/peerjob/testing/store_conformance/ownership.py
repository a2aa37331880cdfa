"""ONE-OWNER: only the holder of the claim changes the instance."""

import asyncio
import random  # noqa: TID251  # seeded, so that a failed walk can be repeated
from collections import Counter

import pytest

from peerjob.model.query import Filter
from peerjob.model.record import Ack, Action, Claim, Outcome
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.testing.factories import Peer, outcome

from .suite import PLAIN_ACTIONS, StoreSuite


class OwnershipRules(StoreSuite):
    """Rules of fences and incarnations, one at a time and under contention."""

    def loud(self, id: str, fence: int, action: Action) -> Outcome:
        """An outcome whose effect would be visible."""
        return Outcome(
            id=id,
            fence=fence,
            action=action,
            result=b"stale",
            error=b"stale",
            progress=b"stale",
            started=True,
            note="stale",
            logs=(self.make.line("stale"),),
        )

    async def assert_lost(self, peer: Peer, id: str, fence: int) -> None:
        """Assert that no outcome of a peer with this fence has an effect."""
        store = peer.store
        before = await self.everything(store, id), await self.counts(store)
        for action in PLAIN_ACTIONS:
            assert await peer.commit(self.loud(id, fence, action)) == [Ack.LOST], action
        assert await peer.commit(Outcome(id=id, fence=fence, action=Action.COMPLETE)) == [Ack.LOST]
        assert (await self.everything(store, id), await self.counts(store)) == before

    async def test_a_wrong_fence_is_lost(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        peer = await self.join(store)
        claim = await peer.take_one()
        for fence in (0, -1, claim.fence - 1, claim.fence + 1):
            await self.assert_lost(peer, claim.id, fence)
        assert await peer.end(claim) is Ack.DONE

    async def test_of_two_ends_in_one_commit_the_second_is_lost(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        peer = await self.join(store)
        claim = await peer.take_one()
        ends = [outcome(claim, result=result) for result in (b"first", b"second")]
        assert await peer.commit(*ends) == [Ack.DONE, Ack.LOST]
        assert (await self.read(store, claim.id)).result == b"first"

    async def test_a_wrong_incarnation_is_lost(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        owner, thief = await self.join(store, "same name"), await self.join(store, "same name")
        claim = await owner.take_one()
        await self.assert_lost(thief, claim.id, claim.fence)
        assert await owner.end(claim) is Ack.DONE

    async def test_an_unknown_incarnation_owns_nothing(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        claim = await (await self.join(store)).take_one()
        stranger = Peer(store=store, info=self.make.node("stranger"), make=self.make)
        await self.assert_lost(stranger, claim.id, claim.fence)

    async def test_a_queued_instance_has_no_owner(self, store: Store) -> None:
        (new,) = self.make.instances(1)
        await store.enqueue([new])
        await self.assert_lost(await self.join(store), new.id, 0)

    @pytest.mark.parametrize("action", [Action.RETRY, Action.SNOOZE, Action.HAND_BACK])
    async def test_what_was_given_back_is_lost(self, store: Store, action: Action) -> None:
        await store.enqueue(self.make.instances(1))
        peer = await self.join(store)
        claim = await peer.take_one()
        await peer.end(claim, action)
        await self.assert_lost(peer, claim.id, claim.fence)

    async def test_an_earlier_claim_of_ones_own_is_lost(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        peer = await self.join(store)
        old = await peer.take_one()
        await peer.end(old, Action.HAND_BACK)
        new = await peer.take_one()
        await self.assert_lost(peer, old.id, old.fence)
        assert await peer.end(new) is Ack.DONE

    async def test_what_another_claimed_since_is_lost(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        late, prompt = await self.join_briefly(store), await self.join(store)
        old = await late.take_one()
        await self.reap(prompt)
        new = await prompt.take_one()
        assert new.fence > old.fence
        await self.assert_lost(late, old.id, old.fence)
        await prompt.end(new, result=b"the accepted one")
        await self.assert_lost(late, old.id, old.fence)
        assert (await self.read(store, old.id)).result == b"the accepted one"

    async def test_what_is_not_there_is_lost(self, store: Store) -> None:
        peer = await self.join(store)
        await store.enqueue(self.make.instances(1))
        claim = await peer.take_one()
        await peer.end(claim)
        await store.clear_instances(Filter())
        gone = [self.loud(id, claim.fence, Action.COMPLETE) for id in (claim.id, self.make.id())]
        assert await peer.commit(*gone) == [Ack.LOST, Ack.LOST]
        assert await store.get([claim.id]) == [None]
        assert await self.counts(store) == {}

    async def test_lost_ones_do_not_disturb_a_batch(self, store: Store) -> None:
        await store.enqueue(self.make.instances(4))
        peer, other = await self.join(store), await self.join(store)
        mine, theirs = await peer.take(2), await other.take(2)
        acks = await peer.commit(
            outcome(theirs[0]), outcome(mine[0]), outcome(theirs[1], Action.RETRY), outcome(mine[1])
        )
        assert acks == [Ack.LOST, Ack.DONE, Ack.LOST, Ack.DONE]
        assert await self.counts(store) == {State.COMPLETED: 2, State.PROCESSING: 2}
        assert await other.commit(*map(outcome, theirs)) == [Ack.DONE, Ack.DONE]

    async def test_a_fence_only_grows(self, store: Store) -> None:
        await store.enqueue(self.make.instances(3))
        peers = [await self.join(store, name) for name in "abc"]
        last: dict[str, int] = {}
        for turn in range(12):
            peer = peers[turn % 3]
            claims = await peer.take()
            for claim in claims:
                assert claim.fence > last.get(claim.id, 0)
                last[claim.id] = claim.fence
            await peer.commit(*(outcome(claim, Action.HAND_BACK) for claim in claims))

    # -- several peers at the same time

    async def test_no_two_peers_get_the_same_instance(self, store: Store) -> None:
        batch = self.make.instances(200)
        await store.enqueue(batch)
        stores = [store, await self.open(), await self.open()]
        peers = [await self.join(stores[number % 3], f"peer {number}") for number in range(6)]

        async def grab(peer: Peer) -> list[Claim]:
            got: list[Claim] = []
            while claims := await peer.take(7):
                got += claims
            return got

        shares = await self.in_time(asyncio.gather(*map(grab, peers)))
        assert Counter(claim.id for share in shares for claim in share) == Counter(new.id for new in batch)
        for peer, share in zip(peers, shares, strict=True):
            for record in await store.get([claim.id for claim in share]):
                assert record is not None
                assert record.owner == peer.incarnation

    async def test_each_instance_completes_once(self, store: Store) -> None:
        """Each instance ends once, although peers hand back, retry, cancel and repeat stale claims."""
        batch = self.make.instances(60)
        stores = [store, await self.open(), await self.open()]
        peers = [await self.join(stores[number], f"peer {number}") for number in range(3)]
        accepted: Counter[str] = Counter()

        async def work(peer: Peer, chance: random.Random) -> None:
            stale: list[Outcome] = []
            while sum(accepted.values()) < len(batch):
                claims = await peer.take(chance.randint(1, 5))
                outcomes = [
                    outcome(
                        claim,
                        chance.choice((Action.COMPLETE, Action.HAND_BACK, Action.RETRY, Action.SNOOZE)),
                    )
                    for claim in claims
                ]
                acks = await peer.commit(*stale, *outcomes)
                assert acks[: len(stale)] == [Ack.LOST] * len(stale)
                assert acks[len(stale) :] == [Ack.DONE] * len(outcomes)
                accepted.update(outcome.id for outcome in outcomes if outcome.action is Action.COMPLETE)
                stale = outcomes[:2]
                if not claims:
                    await asyncio.sleep(0)

        await store.enqueue(batch)
        seeds = range(len(peers))
        await self.in_time(
            asyncio.gather(*(work(peer, random.Random(seed)) for peer, seed in zip(peers, seeds, strict=True)))
        )
        assert accepted == Counter(new.id for new in batch)
        for new in batch:
            assert (await self.read(store, new.id)).state == State.COMPLETED
