"""HINTS: the answer to a renewal tells an idle node of work whose hint was lost, and of dead peers.

A store may leave both out (None). Its nodes then ask each second.
"""

from __future__ import annotations

from peerjob.model.durable import FLOW_KIND
from peerjob.model.record import Renewed
from peerjob.store.base import Store
from peerjob.store.rules import FLOWS_LAYOUT
from peerjob.testing.factories import Peer

from .suite import StoreSuite


class IdleRules(StoreSuite):
    """Rules of `Renewed.work_due` and `Renewed.reap_in_us`."""

    async def _waiting(self, store: Store, kinds: tuple[str, ...] = ("work",)) -> Peer:
        """A peer that found nothing to claim; the store tells it that no work is due."""
        peer = await self.join(store, "waiting", kinds)
        assert (await peer.claim()).claims == ()
        self._tells(await peer.renew(), due=False)
        return peer

    def _tells(self, renewed: Renewed, *, due: bool) -> None:
        assert renewed.work_due is due or (renewed.work_due is None and not self.renewals_tell)

    # -- work

    async def test_a_renewal_tells_of_work_that_another_node_was_woken_for(self, store: Store) -> None:
        woken = await self.join(await self.open(), "woken")
        await woken.claim()
        peer = await self._waiting(store)
        await store.enqueue(self.make.instances(2, delay_us=50_000))
        await self.pass_time(0.1)
        self._tells(await peer.renew(), due=True)

    async def test_a_renewal_tells_a_node_whose_hint_was_lost(self, store: Store) -> None:
        peer = await self._waiting(store)
        await store.enqueue(self.make.instances(1))
        self._tells(await peer.renew(), due=True)
        await (await self.join(await self.open(), "other")).take_one()
        # the hint has removed the registration, so the node must claim to be woken again
        self._tells(await peer.renew(), due=True)
        await peer.take()
        self._tells(await peer.renew(), due=False)

    async def test_a_renewal_tells_a_node_that_never_claimed_to_claim(self, store: Store) -> None:
        peer = await self.join(store)
        assert (await peer.renew()).work_due in (True, None)

    async def test_nodes_that_wait_learn_of_the_first_flow(self, store: Store) -> None:
        kinds = ("work", FLOW_KIND)
        peers = [await self._waiting(store, kinds), await self._waiting(await self.open(), kinds)]
        maker = await self.open()
        await maker.require_layout(FLOWS_LAYOUT, "flows")
        await maker.enqueue(self.make.instances(1, kind=FLOW_KIND))
        for peer in peers:
            self._tells(await peer.renew(), due=True)
        assert (await peers[1].take_one()).kind == FLOW_KIND
        assert await peers[0].take() == ()
        self._tells(await peers[0].renew(), due=False)

    async def test_work_of_other_kinds_is_not_due(self, store: Store) -> None:
        peer = await self._waiting(store)
        await store.enqueue(self.make.instances(3, kind="other"))
        self._tells(await peer.renew(), due=False)

    async def test_a_renewal_tells_of_each_of_many_kinds(self, store: Store) -> None:
        kinds = tuple(f"kind {number}" for number in range(40))
        peer = await self._waiting(store, kinds)
        for kind in (kinds[0], kinds[-1]):
            await store.enqueue(self.make.instances(1, kind=kind))
            self._tells(await peer.renew(), due=True)
            assert len(await peer.take()) == 1
            await peer.take()
            self._tells(await peer.renew(), due=False)

    async def test_a_renewal_tells_of_kinds_for_which_the_last_claim_had_no_room(self, store: Store) -> None:
        peer = await self.join(store, "waiting", ("full", "free"))
        assert (await peer.claim(peer.want(kinds={"full": 0, "free": 5}))).claims == ()
        await store.enqueue(self.make.instances(1, kind="full"))
        assert (await peer.renew()).work_due in (True, None)

    async def test_a_renewal_tells_of_a_suspect_that_the_last_claim_did_not_want(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        for _ in range(2):
            mortal = await self.join_briefly(store)
            await mortal.take_one()
            assert len(await self.reap(await self.join(await self.open(), "reaper"))) == 1
        peer = await self.join(store, "waiting")
        assert (await peer.claim(peer.want(suspects=False))).claims == ()
        assert (await peer.renew()).work_due in (True, None)

    # -- dead peers

    async def test_a_renewal_tells_when_a_lease_of_a_peer_can_end(self, store: Store) -> None:
        peer = await self.join(store)
        assert (await peer.renew()).reap_in_us != 0
        mortal = await self.join_briefly(await self.open())
        await store.enqueue(self.make.instances(2))
        await mortal.take(2)
        await self.lapse()
        reap_in_us = (await peer.renew()).reap_in_us
        for _ in range(50):
            if not reap_in_us:
                break
            await self.pass_time(self.short_ttl / 5)
            reap_in_us = (await peer.renew()).reap_in_us
        assert reap_in_us == 0 or (reap_in_us is None and not self.renewals_tell)
        assert len(await self.reap(peer, limit=1)) == 1
        assert (await peer.renew()).reap_in_us in (0, None)
        while await store.reap(100, reaper=peer.incarnation):
            pass
        assert (await peer.renew()).reap_in_us != 0
