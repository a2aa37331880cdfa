"""Many kinds and priorities: the number of queues changes no answer."""

import pytest

from peerjob.model.query import Query
from peerjob.model.record import Action, NewInstance
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.testing.factories import Peer, outcome

from .suite import StoreSuite, ids_of

MANY = 1_000
SERVED = 5_000
BATCH = 500


class KindRules(StoreSuite):
    """Rules of namespaces with many kinds."""

    async def fill(self, store: Store, batch: list[NewInstance]) -> None:
        for at in range(0, len(batch), BATCH):
            await store.enqueue(batch[at : at + BATCH])

    async def drain(self, peer: Peer, limit: int = BATCH) -> list[str]:
        """Claim and complete until a claim finds nothing; returns the ids in order."""
        ids: list[str] = []
        while claims := await peer.take(limit):
            ids += ids_of(claims)
            await peer.commit(*map(outcome, claims))
        return ids

    @pytest.mark.parametrize(("kinds", "priorities"), [(63, 1), (21, 5), (3, 50), (130, 1)])
    async def test_a_node_goes_on_after_it_found_nothing(self, store: Store, kinds: int, priorities: int) -> None:
        names = [f"kind-{number}" for number in range(kinds)]
        peer = await self.join(store, kinds=names)
        batch = [self.make.instance(kind=name, priority=priority) for priority in range(priorities) for name in names]
        await self.fill(store, batch)
        assert await self.drain(peer) == [new.id for new in batch]
        # all queues are empty now, so the last claim has registered the node as idle
        late = self.make.instance(kind=names[-1], priority=priorities)
        await store.enqueue([late])
        assert await self.hinted(peer, "work")
        assert ids_of(await peer.take()) == [late.id]

    async def test_a_thousand_kinds_wait_at_once(self, store: Store) -> None:
        names = [f"kind-{number}" for number in range(MANY)]
        peer = await self.join(store, kinds=names)
        batch = [self.make.instance(kind=name) for name in names]
        await self.fill(store, batch)
        assert await store.due() == dict.fromkeys(names, 1)
        assert await self.drain(peer, 200) == [new.id for new in batch]
        assert await store.due() == {}
        health = await store.health()
        assert health.counts == {name: {State.COMPLETED: 1} for name in names}
        assert len(await self.found(store, Query(state=State.COMPLETED, limit=400))) == MANY

    async def test_a_node_serves_five_thousand_kinds(self, store: Store) -> None:
        names = [f"shop.orders.tasks.kind_{number}" for number in range(SERVED)]
        peer = await self.join(store, kinds=names)
        (view,) = await store.nodes()
        assert view.info == peer.info
        other = await self.join(store, "other", kinds=("else", names[7]))
        batch = [self.make.instance(kind=name) for name in (names[7], "else", names[-1], names[0])]
        await store.enqueue(batch)
        claims = {claim.id: claim for claim in (*await peer.take(2), *await peer.take())}
        assert sorted(claims) == [batch[0].id, batch[2].id, batch[3].id]
        assert ids_of(await other.take()) == [batch[1].id]
        last = claims[batch[3].id]
        await peer.end(last, Action.RETRY)
        assert ids_of(await peer.take()) == [last.id]
        assert await peer.take() == ()
        assert await other.take() == ()
        await store.enqueue(late := self.make.instances(1, kind=names[2500]))
        assert await self.woken([peer, other], 1) == [peer.name]
        assert ids_of(await peer.take()) == ids_of(late)

    async def test_nodes_with_overlapping_kinds_take_theirs(self, store: Store) -> None:
        names = [f"kind-{number}" for number in range(100)]
        low = await self.join(store, "low", kinds=names[:70])
        high = await self.join(store, "high", kinds=names[35:])
        for peer in (low, high):
            assert await peer.take() == ()
        first = [self.make.instance(kind=name) for name in names]
        await store.enqueue(first)
        assert await self.woken([low, high], 2) == ["low", "high"]
        assert sorted(await self.drain(high)) == [new.id for new in first[35:]]
        every = await self.join(store, "every", kinds=names)
        second = [self.make.instance(kind=name, priority=4) for name in names[::-1]]
        await store.enqueue(second)
        taken = ids_of(await every.take(40))
        rest = await self.drain(low)
        assert len(taken) == 40
        assert sorted((*taken, *rest, *await self.drain(high))) == sorted(new.id for new in (*first[:35], *second))
        assert {new.id for new in first[:35]} <= {*taken, *rest}
        for peer in (low, high, every):
            assert await peer.take() == ()
        late = self.make.instances(1, kind=names[90])
        await store.enqueue(late)
        assert await self.drain(high) == ids_of(late)
