"""BOUNDED: nothing stays of nodes that died or left, nor of kinds that are forgotten."""

from __future__ import annotations

import pytest

from peerjob.model.published import KindDescriptor
from peerjob.model.query import Filter, Query
from peerjob.model.record import Action, Instruction, StoreLimits
from peerjob.store.base import Store
from peerjob.testing.factories import Peer

from .suite import StoreSuite


class ResidueRules(StoreSuite):
    """Rules of the data that belongs to a node or to a kind."""

    async def lived(self, store: Store, peer: Peer, others: Peer) -> None:
        """Let a peer leave data of each sort: claims, an idle registration, hints, watches, an instruction, kinds."""
        kind = peer.info.kinds[0]
        await store.publish_kinds(list(peer.info.kinds))
        await store.instruct(peer.incarnation, Instruction(self.make.request(), drain=False))
        held = self.make.instances(4, kind=kind, max_crashes=10)
        (late,) = self.make.instances(1, kind=kind, delay_us=3_600_000_000, key="late")
        await store.enqueue([*held, late])
        claims = await peer.take()
        await peer.report(claims[0], started=True, progress=b"half", logs=(self.make.line("line"),))
        await peer.end(claims[1], Action.RETRY, delay_us=3_600_000_000)
        await peer.end(claims[2])
        await store.watch_final(peer.incarnation, [late.id, claims[0].id])
        await store.watch_final(others.incarnation, [claims[0].id])
        await store.watch_changes(peer.incarnation, 600)
        await peer.renew(*claims)
        # not by the renewal: it gives up in a part of the lease, which the machine may stand still for
        await store.join(peer.info, ttl_us=round(self.short_ttl * 1_000_000))
        for _ in range(2):  # both are idle
            await others.claim(others.want(kinds={kind: 5}))
            await peer.take()
        await store.enqueue(self.make.instances(1, kind=kind))
        await store.cancel([claims[3].id], request=self.make.request())

    async def ended(self, store: Store, *peers: Peer) -> None:
        """Let the peers leave, end each instance, and remove the final ones: `clear` would hide what an end leaves."""
        for peer in peers:
            await store.leave(peer.incarnation)
        await store.cancel(await self.found(store, Query()), request=self.make.request())
        while await store.clear_instances(Filter()):
            pass
        await store.expire(100)

    @pytest.mark.parametrize("way", ["died", "left", "died and left"])
    async def test_nothing_is_left_of_a_node(self, store: Store, way: str) -> None:
        kinds = ("work", "rare")
        stays = await self.join(store, "stays", kinds)
        goes = await self.join_briefly(store, "goes", kinds)
        await self.lived(store, goes, stays)
        if way == "died":
            await self.reap_all(stays)
        elif way == "left":
            await store.leave(goes.incarnation)
        else:
            await self.reap(stays, limit=1)
            await store.leave(goes.incarnation)
            await store.reap(100, reaper=stays.incarnation)
        await store.cancel(await self.found(store, Query()), request=self.make.request())
        assert list(await self.traces(store, goes)) == []
        await self.ended(store, stays)
        assert list(await self.traces(store, goes, stays)) == []
        await self.assert_nothing_left(store)

    async def test_the_descriptors_of_a_kind_are_forgotten_with_it(self, store: Store) -> None:
        brief = await self.open(StoreLimits(kinds_kept_us=2_000_000))
        await brief.publish_descriptors([KindDescriptor(kind="old", digest=bytes(7) + b"1", body=b"body")])
        for _ in range(200):
            await self.pass_time(0.25)
            await brief.publish_kinds(["used"])
            if await brief.published_kinds(["old"]) == [False]:
                break
        assert await brief.descriptors(["old"]) == [()]
        await self.assert_nothing_left(brief)

    @pytest.mark.parametrize("kinds", [("work", "rare"), ("work", *(f"kind-{number}" for number in range(60)))])
    async def test_kinds_that_a_later_node_uses_are_not_forgotten(self, store: Store, kinds: tuple[str, ...]) -> None:
        first = await self.join(store, "first", kinds)
        assert (await first.claim()).claims == ()
        await store.leave(first.incarnation)
        second = await self.join(store, "second", kinds)
        assert (await second.claim()).claims == ()
        for _ in range(3):
            await store.expire(10)
        await store.enqueue(late := self.make.instances(1))
        assert await self.hinted(second, "work")
        assert [claim.id for claim in await second.take()] == [new.id for new in late]

    async def test_a_node_that_claimed_work_for_another_is_not_idle(self, store: Store) -> None:
        """The claim took its registration: new work sends it no hint, so a renewal says that it must claim."""
        first, second = await self.join(store, "first"), await self.join(await self.open(), "second")
        for peer in (first, second):
            assert (await peer.claim()).claims == ()
        await store.enqueue(self.make.instances(1))
        woken = await self.woken([first, second], 1)
        (other,) = [peer for peer in (first, second) if peer.name not in woken]
        want = other.want(1, suspects=False)
        _, claimed = await other.store.claim_on_hint(other.incarnation, want, request=self.make.request(), timeout=0)
        assert claimed is not None
        assert len(claimed.claims) == 1
        assert (await other.renew(*claimed.claims)).work_due in (True, None)
        stays = await self.join(store, "stays")
        await stays.claim()
        await self.ended(store, first, second)
        assert list(await self.traces(store, first, second)) == []

    @pytest.mark.parametrize("end", ["leave", "reap"])
    async def test_work_that_comes_back_wakes_a_node_that_can_run_it(self, store: Store, end: str) -> None:
        """Not the node that gave it back, which was idle beside its claims."""
        for number in range(6):
            join = self.join if end == "leave" else self.join_briefly
            holder = await join(store, f"holder {number}")
            other = await self.join(await self.open(), f"other {number}")
            await store.enqueue(self.make.instances(1))
            request = self.make.request()
            want = holder.want(1, suspects=False)
            _, claimed = await store.claim_on_hint(holder.incarnation, want, request=request, timeout=0)
            assert claimed is not None
            (claim,) = claimed.claims
            for peer in (holder, other):
                assert (await peer.claim()).claims == ()
            if end == "leave":
                assert await store.leave(holder.incarnation) == 1
            else:
                reaper = await self.join(store, f"reaper {number}", ("other",))
                assert len(await self.reap_all(reaper)) == 1
            assert await self.hinted(other, "work")
            assert (await other.take_one()).id == claim.id
            await other.store.leave(other.incarnation)
            await store.clear()
