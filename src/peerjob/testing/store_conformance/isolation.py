"""ISOLATED: a namespace sees, wakes and clears only its own instances."""

from peerjob.model.query import Query
from peerjob.model.record import Ack, Enqueued
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.testing.factories import Peer

from .suite import StoreSuite


class IsolationRules(StoreSuite):
    """Rules of namespaces, also if one name begins with the other."""

    async def neighbours(self, store: Store) -> list[Store]:
        """Stores on namespaces with names similar to that of the test."""
        names = (f"{self.namespace}b", f"{self.namespace}-", f"{self.namespace}.x", self.namespace[:-1])
        return [await self.open(namespace=name) for name in names]

    async def test_nothing_is_seen_from_next_door(self, store: Store) -> None:
        new = self.make.instance(key="k", tags=("t",))
        await store.enqueue([new])
        await self.join(store, "here")
        for neighbour in await self.neighbours(store):
            peer = await self.join(neighbour, "there")
            assert await peer.take() == ()
            assert await neighbour.get([new.id]) == [None]
            for query in (Query(), Query(tag="t"), Query(kind="work"), Query(uuid=new.id)):
                assert await self.found(neighbour, query) == []
            assert await self.counts(neighbour) == {}
            assert [view.info.name for view in await neighbour.nodes()] == ["there"]
            assert await neighbour.cancel([new.id], request=self.make.request()) == [None]
            assert await neighbour.run_now([new.id], request=self.make.request()) == [None]
        assert (await self.read(store, new.id)).state == State.SCHEDULED

    async def test_one_id_and_key_in_each_namespace(self, store: Store) -> None:
        new = self.make.instance(key="k")
        for opened in (store, *await self.neighbours(store)):
            assert await opened.enqueue([new]) == [Enqueued(new.id, True)]

    async def test_a_claim_is_held_in_its_namespace(self, store: Store) -> None:
        new = self.make.instance()
        peer = await self.join(store)
        await store.enqueue([new])
        claim = await peer.take_one()
        for neighbour in await self.neighbours(store):
            await neighbour.enqueue([new])
            await (await self.join(neighbour)).take_one()
            stranger = Peer(store=neighbour, info=peer.info, make=self.make)
            assert await stranger.end(claim) is Ack.LOST
        assert await peer.end(claim) is Ack.DONE

    async def test_work_wakes_no_node_of_another_namespace(self, store: Store) -> None:
        sleepers = [await self.join(neighbour) for neighbour in await self.neighbours(store)]
        for sleeper in sleepers:
            assert await sleeper.take() == ()
        await store.enqueue(self.make.instances(5))
        for sleeper in sleepers:
            assert await self.hints(sleeper) == []

    async def test_the_dead_next_door_are_left_alone(self, store: Store) -> None:
        (neighbour, *_) = await self.neighbours(store)
        await neighbour.enqueue(self.make.instances(1))
        await (await self.join_briefly(neighbour)).take()
        await self.lapse()
        reaper = await self.join(store)
        assert await store.reap(10, reaper=reaper.incarnation) == []
        assert len(await self.reap(await self.join(neighbour))) == 1

    async def test_clear_stays_at_home(self, store: Store) -> None:
        neighbours = await self.neighbours(store)
        for opened in (store, *neighbours):
            await opened.enqueue(self.make.instances(3))
        await store.clear()
        assert await self.counts(store) == {}
        for neighbour in neighbours:
            assert await self.counts(neighbour) == {State.SCHEDULED: 3}
            assert len(await (await self.join(neighbour)).take()) == 3
