"""NO-LOSS: a claim is valid until it is taken back, which happens when its holder is gone."""

import asyncio
from collections import Counter

import pytest

from peerjob.model.query import Query
from peerjob.model.record import Ack, Action, Held, NodeInfo, Reaped, Renewed
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.testing.factories import LONG_TTL_US, outcome

from .suite import StoreSuite, ids_of, states


class LivenessRules(StoreSuite):
    """Rules of `join`, `renew`, `leave`, `reap` and `nodes`."""

    async def test_nodes_lists_joined_nodes(self, store: Store) -> None:
        zeta = await self.join(store, "zeta", ("mail", "töne"))
        alpha = await self.join(store, "alpha")
        first, second = await store.nodes()
        assert (first.info, second.info) == (alpha.info, zeta.info)
        assert first.expires_us == first.renewed_us + LONG_TTL_US
        assert (await store.health()).nodes == 2

    async def test_nodes_shows_how_much_they_run(self, store: Store) -> None:
        await store.enqueue(self.make.instances(3))
        peer, idle = await self.join(store, "a"), await self.join(store, "b")
        held = await peer.take(2)
        await peer.renew(*held)
        await idle.renew()
        assert [view.running for view in await store.nodes()] == [2, 0]

    async def test_joining_again_updates_what_is_shown(self, store: Store) -> None:
        peer = await self.join(store, "node", ("a",))
        peer.info = NodeInfo(name="node", incarnation=peer.incarnation, kinds=("a", "b"), workers=3)
        await peer.join()
        (view,) = await store.nodes()
        assert view.info == peer.info

    async def test_joining_again_keeps_what_is_shown_as_running(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        peer = await self.join(store)
        await peer.renew(await peer.take_one())
        await peer.join()
        assert [view.running for view in await store.nodes()] == [1]

    async def test_joining_after_the_lease_shows_nothing_as_running(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        peer = await self.join_briefly(store)
        await peer.renew(await peer.take_one(), ttl_us=round(self.short_ttl * 1_000_000))
        await self.lapse()
        while await store.nodes():
            await self.pass_time(self.short_ttl / 5)
        await peer.join()
        assert [view.running for view in await store.nodes()] == [0]

    async def test_two_nodes_of_one_name_are_two(self, store: Store) -> None:
        peers = [await self.join(store, "same"), await self.join(store, "same")]
        assert {view.info.incarnation for view in await store.nodes()} == {peer.incarnation for peer in peers}

    # -- renewals

    async def test_a_renewal_that_agrees_lists_nothing(self, store: Store) -> None:
        await store.enqueue(self.make.instances(3))
        peer = await self.join(store)
        assert (await peer.renew()).held is None
        claims = await peer.take()
        renewed = await peer.renew(*claims)
        assert (renewed.dead, renewed.held, renewed.cancelled) == (False, None, ())
        assert renewed.now_us >= peer.joined_us
        await peer.end(claims[0])
        assert (await peer.renew(*claims[1:])).held is None

    async def test_a_clock_that_is_right_is_not_ahead(self, store: Store) -> None:
        peers = [await self.join(store, name) for name in ("one", "two", "three")]
        began = self.clock.elapsed()
        for _ in range(2):
            renewals = [await peer.renew() for peer in peers]
            await self.pass_time(0.01)
            # slow answers make the comparison of clocks less exact: widen the bound by the time that the renewals took
            blur_us = (self.clock.elapsed() - began) * 1_000_000
            assert all(abs(renewed.ahead_us) < 500_000 + blur_us for renewed in renewals)

    async def test_a_renewal_that_disagrees_lists_what_is_held(self, store: Store) -> None:
        await store.enqueue(self.make.instances(4))
        peer, other = await self.join(store), await self.join(store)
        mine, theirs = await peer.take(3), await other.take_one()
        held = {Held(claim.id, claim.fence) for claim in mine}
        for believed in (mine[:2], (), (*mine, theirs), (*mine[:2], theirs)):
            renewed = await peer.renew(*believed)
            assert renewed.held is not None
            assert set(renewed.held) == held
            assert len(renewed.held) == 3

    async def test_a_renewal_extends_the_lease(self, store: Store) -> None:
        peer = await self.join_briefly(store)
        await peer.renew(ttl_us=LONG_TTL_US)
        await self.lapse()
        reaper = await self.join(store)
        assert await store.reap(10, reaper=reaper.incarnation) == []
        (view,) = [view for view in await store.nodes() if view.info == peer.info]
        assert view.expires_us == view.renewed_us + LONG_TTL_US

    async def test_a_stranger_cannot_renew(self, store: Store) -> None:
        peer = await self.join(store)
        await store.leave(peer.incarnation)
        assert (await peer.renew()).dead
        assert await store.nodes() == []

    async def test_a_lapsed_lease_can_be_renewed_until_it_is_reaped(self, store: Store) -> None:
        await store.enqueue(self.make.instances(2))
        peer, reaper = await self.join_briefly(store), await self.join(store)
        claim = await peer.take_one()
        await self.lapse()
        assert not (await peer.renew(claim)).dead
        assert await store.reap(10, reaper=reaper.incarnation) == []
        assert await peer.end(claim) is Ack.DONE
        assert len(await peer.take()) == 1

    async def test_a_lapsed_holder_can_commit_and_claim_until_it_is_reaped(self, store: Store) -> None:
        await store.enqueue(self.make.instances(2))
        peer = await self.join_briefly(store)
        claim = await peer.take_one()
        await self.lapse()
        assert await peer.end(claim) is Ack.DONE
        assert len(await peer.take()) == 1

    async def test_the_lease_is_renewed_from_another_thread(self, store: Store) -> None:
        peer = await self.join_briefly(store)
        liveness = store.liveness()

        async def renew() -> Renewed:
            await liveness.open()
            try:
                return await liveness.renew(peer.incarnation, ttl_us=LONG_TTL_US, running=0, count=0, fences_digest=0)
            finally:
                await liveness.close()

        renewed = await asyncio.to_thread(asyncio.run, renew())  # noqa: TID251  # the test needs the lease of another thread
        assert (renewed.dead, renewed.held) == (False, None)
        await self.lapse()
        reaper = await self.join(store)
        assert await store.reap(10, reaper=reaper.incarnation) == []

    # -- reaping

    async def test_the_living_are_not_reaped(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        peer, reaper = await self.join(store), await self.join(store)
        claim = await peer.take_one()
        assert await store.reap(10, reaper=reaper.incarnation) == []
        assert await peer.end(claim) is Ack.DONE

    async def test_a_reaper_with_an_expired_lease_takes_nothing_back(self, store: Store) -> None:
        """The outage that let the reaper's lease expire may also have kept live peers from renewing theirs."""
        await store.enqueue(self.make.instances(1))
        dead, reaper = await self.join_briefly(store, "dead"), await self.join_briefly(store, "reaper")
        claim = await dead.take_one()
        while await store.nodes():
            await self.lapse()
        assert await store.reap(10, reaper=reaper.incarnation) == []
        assert await store.reap(10, reaper=self.make.id()) == []
        assert await dead.end(claim, Action.HAND_BACK) is Ack.DONE

        assert len(await dead.take()) == 1
        assert not (await reaper.renew()).dead
        assert len(await self.reap(reaper)) == 1

    async def test_claims_of_the_dead_are_taken_back(self, store: Store) -> None:
        new = self.make.instance(key="k", due_us=(await self.join(store)).joined_us - 5_000_000)
        await store.enqueue([new])
        dead, reaper = await self.join_briefly(store, "dead"), await self.join(store, "reaper")
        claim = await dead.take_one()

        assert await self.reap(reaper) == [Reaped(id=new.id, kind="work", state=State.SCHEDULED, node="dead")]
        record = await self.read(store, new.id)
        assert (record.state, record.owner) == (State.SCHEDULED, "")
        assert (record.attempts, record.crashes, record.losses) == (0, 0, 1)
        assert record.due_us == new.due_us
        assert states(record)[2:] == [State.PROCESSING, State.SCHEDULED]
        assert record.history[-1].node == "reaper"
        again = await reaper.take_one()
        assert (again.id, again.attempts, again.losses) == (new.id, 1, 1)
        assert again.fence > claim.fence
        assert await store.reap(10, reaper=reaper.incarnation) == []

    async def test_the_dead_stay_dead(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        dead, reaper = await self.join_briefly(store, "dead"), await self.join(store, "reaper")
        claim = await dead.take_one()
        await self.reap(reaper)

        claimed = await dead.claim()
        assert (claimed.dead, claimed.claims) == (True, ())
        assert await dead.end(claim) is Ack.LOST
        assert (await dead.renew(claim)).dead
        acks, claimed = await store.turn(dead.incarnation, [outcome(claim)], dead.want(), request=self.make.request())
        assert (acks, claimed.dead, claimed.claims) == ([Ack.LOST], True, ())
        assert [view.info.name for view in await store.nodes()] == ["reaper"]
        assert await self.counts(store) == {State.SCHEDULED: 1}

    @pytest.mark.parametrize("way", ["reap", "leave"])
    async def test_a_join_that_comes_late_brings_nothing_back(self, store: Store, way: str) -> None:
        """The call was repeated or delayed; meanwhile all claims were taken back and the incarnation was forgotten."""
        await store.enqueue(self.make.instances(1))
        reaper, mortal = await self.join(store, "reaper"), await self.join_briefly(store)
        await mortal.take_one()
        if way == "reap":
            await self.reap_all(reaper)
        else:
            await store.leave(mortal.incarnation)
        await mortal.join()
        assert (await mortal.renew()).dead
        assert (await mortal.claim()).dead
        assert [view.info.name for view in await store.nodes()] == ["reaper"]
        assert len(await reaper.take()) == 1

    async def test_what_is_taken_back_keeps_its_place(self, store: Store) -> None:
        batch = self.make.instances(5)
        await store.enqueue(batch)
        dead, reaper = await self.join_briefly(store), await self.join(store)
        await dead.take(3)
        await self.reap(reaper)
        assert ids_of(await reaper.take()) == [new.id for new in batch]

    async def test_reaping_is_bounded_and_can_be_continued_by_another(self, store: Store) -> None:
        batch = self.make.instances(7)
        await store.enqueue(batch)
        dead = await self.join_briefly(store)
        peer, two = await self.join(store), await self.join(store)
        await dead.take()
        first = await self.reap(peer, limit=3)
        second = await store.reap(3, reaper=two.incarnation)
        third = await store.reap(3, reaper=peer.incarnation)
        assert [len(first), len(second), len(third)] == [3, 3, 1]
        assert {*ids_of(first), *ids_of(second), *ids_of(third)} == {new.id for new in batch}
        assert await store.reap(3, reaper=two.incarnation) == []
        assert {(await self.read(store, new.id)).losses for new in batch} == {1}

    async def test_the_limit_of_a_reap_is_for_all_dead_nodes_together(self, store: Store) -> None:
        await store.enqueue(self.make.instances(6))
        for number in range(3):
            await (await self.join_briefly(store, f"dead {number}")).take(2)
        reaper = await self.join(store)
        await self.lapse()
        taken: list[int] = []
        while sum(taken) < 6:  # a server may end expired leases late and one after the other
            taken.append(len(await store.reap(3, reaper=reaper.incarnation)))
            if not taken[-1]:
                await self.lapse()
        assert max(taken) <= 3

    async def test_the_dead_lose_all_at_once_but_the_reaping_takes_time(self, store: Store) -> None:
        await store.enqueue(self.make.instances(2))
        dead, reaper = await self.join_briefly(store), await self.join(store)
        claims = await dead.take()
        await self.reap(reaper, limit=1)
        assert (await dead.claim()).dead
        assert (await dead.renew(*claims)).dead
        await store.reap(1, reaper=reaper.incarnation)
        assert await dead.commit(*map(outcome, claims)) == [Ack.LOST, Ack.LOST]

    async def test_several_dead_are_reaped_by_several(self, store: Store) -> None:
        batch = self.make.instances(30)
        await store.enqueue(batch)
        for number in range(3):
            await (await self.join_briefly(store, f"dead {number}")).take(10)
        stores = [store, await self.open()]
        reapers = [await self.join(store) for store in stores]
        await self.lapse()
        # a server may end expired leases late and one after the other
        while len(await store.nodes()) > len(reapers):
            await self.lapse()

        async def reap(number: int) -> list[str]:
            got: list[str] = []
            while reaped := await stores[number].reap(4, reaper=reapers[number].incarnation):
                got += ids_of(reaped)
            return got

        shares = await self.in_time(asyncio.gather(reap(0), reap(1)))
        assert Counter(shares[0] + shares[1]) == Counter(new.id for new in batch)
        for record in await store.get([new.id for new in batch]):
            assert record is not None
            assert (record.state, record.losses, record.crashes) == (State.SCHEDULED, 1, 0)

    async def test_nothing_is_lost_when_every_peer_dies(self, store: Store) -> None:
        batch = self.make.instances(12)
        await store.enqueue(batch)
        for action in (Action.COMPLETE, Action.RETRY, Action.REPORT):
            mortal = await self.join_briefly(store)
            claims = await mortal.take(4)
            await mortal.commit(*(outcome(claim, action) for claim in claims[:2]))
        reaper = await self.join(store)
        while len(await store.nodes()) > 1:  # a server may end expired leases late and one after the other
            await self.lapse()
        await self.reap_all(reaper)
        while claims := await reaper.take():
            await reaper.commit(*map(outcome, claims))
        assert await self.found(store, Query(state=State.COMPLETED)) == [new.id for new in batch]

    # -- leaving

    @pytest.mark.parametrize("started", [False, True])
    async def test_leaving_hands_back_without_a_count(self, store: Store, started: bool) -> None:
        batch = self.make.instances(3)
        await store.enqueue(batch)
        peer, other = await self.join(store, "leaver"), await self.join(store, "other")
        claims = await peer.take(2)
        if started:
            await peer.report(claims[0], started=True)

        assert await store.leave(peer.incarnation) == 2
        for claim in claims:
            record = await self.read(store, claim.id)
            assert (record.state, record.owner) == (State.SCHEDULED, "")
            assert (record.attempts, record.crashes, record.losses) == (0, 0, 0)
            assert record.due_us == claim.due_us
        assert ids_of(await other.take()) == [new.id for new in batch]
        assert await peer.commit(*map(outcome, claims)) == [Ack.LOST, Ack.LOST]
        assert (await peer.claim()).dead
        assert [view.info.name for view in await store.nodes()] == ["other"]

    async def test_leaving_twice_does_nothing(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        peer = await self.join(store)
        await peer.take()
        assert await store.leave(peer.incarnation) == 1
        assert await store.leave(peer.incarnation) == 0
        assert await store.leave(self.make.id()) == 0

    async def test_leaving_without_claims(self, store: Store) -> None:
        peer = await self.join(store)
        assert await store.leave(peer.incarnation) == 0
        assert await store.nodes() == []
        assert (await store.health()).nodes == 0
