"""Shared by the parts about durable bodies: running instances, their steps, and what waits."""

from __future__ import annotations

from typing import Unpack

import pytest

from peerjob.model.durable import SIGNAL_MARK, Need, Step, Wait
from peerjob.model.query import Filter, Query
from peerjob.model.record import Ack, Claim, Enqueued, Held, NewChild, Record, StoreLimits
from peerjob.model.run_now import RunNow, RunNowAnswer
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.store.rules import FLOWS_LAYOUT
from peerjob.testing.factories import InstanceOptions, Peer

from .suite import StoreSuite

HOUR_US = 3_600_000_000
APPROVAL = Wait(signals=("approval",))
NEEDS = Wait(needs=True)
UNFINISHED = (State.SCHEDULED, State.PROCESSING)


class DurableSuite(StoreSuite):
    """Helpers for durable bodies."""

    @pytest.fixture
    async def flows(self, store: Store) -> Store:
        """An empty store whose namespace has the layout of durable bodies."""
        await self.require(store)
        return store

    async def require(self, store: Store) -> None:
        """Raise the layout, as a node or a manager does before its first durable call."""
        await store.require_layout(FLOWS_LAYOUT, "steps")

    async def opened(self, limits: StoreLimits | None = None) -> Store:
        """Another store of the namespace, that has seen the layout."""
        store = await self.open(limits)
        await self.require(store)
        return store

    async def running(self, store: Store, peer: Peer) -> Claim:
        """The claim of a new instance."""
        await store.enqueue(self.make.instances(1))
        return await peer.take_one()

    async def suspended(self, store: Store, peer: Peer, wait: Wait = APPROVAL) -> Claim:
        """A new instance that waits; its last claim."""
        claim = await self.running(store, peer)
        assert await peer.suspend(claim, wait) is Ack.DONE
        return claim

    def child(self, *needs: str | Need, more: bool = False, **options: Unpack[InstanceOptions]) -> NewChild:
        """A child that needs others, by default as "ended"."""
        given = tuple(need if isinstance(need, Need) else Need(need) for need in needs)
        return NewChild(instance=self.make.instance(**options), needs=given, more=more)

    async def spawn(self, peer: Peer, parent: Claim, *children: NewChild) -> list[Enqueued] | None:
        """Add children of a running instance."""
        return await peer.store.spawn(peer.incarnation, Held(parent.id, parent.fence), children)

    async def parent(self, peer: Peer, *children: NewChild) -> Claim:
        """A running instance that has made these children."""
        claim = await self.running(peer.store, peer)
        wanted = [Enqueued(child.instance.id, True) for child in children]
        assert await self.spawn(peer, claim, *children) == wanted
        return claim

    async def state_of(self, store: Store, child: NewChild | Claim) -> State:
        """The state of an instance that must exist."""
        return (await self.read(store, id_of(child))).state

    async def steps(self, store: Store, id: str) -> dict[str, bytes]:
        """All steps and signals of an instance, by stored name."""
        steps: dict[str, bytes] = {}
        cursor: str | None = None
        while True:
            page = await store.steps(id, cursor=cursor)
            assert steps.keys().isdisjoint(step.name for step in page.steps)
            steps |= {step.name: step.value for step in page.steps}
            cursor = page.cursor
            if cursor is None:
                return steps

    async def assert_waits(self, store: Store, id: str) -> Record:
        """Assert that an instance is in no queue, and that no claim takes it."""
        record = await self.read(store, id)
        assert record.state is State.SCHEDULED
        assert record.wait is not None
        assert await self.hurry(store, id) is RunNow.SUSPENDED
        assert await self.check_needs(store) == 0
        return record

    async def assert_queued(self, store: Store, *ids: str) -> None:
        """Assert that exactly these instances are due, and that they do not wait."""
        assert sum((await store.due()).values()) == len(ids)
        for id in ids:
            record = await self.read(store, id)
            assert (record.state, record.wait, record.open) == (State.SCHEDULED, None, False)

    async def hurry(self, store: Store, id: str) -> RunNowAnswer:
        """Make due under a fresh request id."""
        (answer,) = await store.run_now([id], request=self.make.request())
        return answer

    async def remove_all(self, store: Store, *peers: Peer) -> None:
        """End and remove all instances, let the peers leave, and assert that nothing is left."""
        records = [record for id in await self.all_ids(store) if (record := (await store.get([id]))[0]) is not None]
        unfinished = [record.id for record in records if record.state in UNFINISHED]
        for first in range(0, len(unfinished), 100):
            await store.cancel(unfinished[first : first + 100], request=self.make.request())
        for peer in peers:
            await store.leave(peer.incarnation)
        await self.settle(store)
        while await store.clear_instances(Filter()):  # `clear` would hide what an end leaves
            pass
        await store.expire(100)
        await self.assert_nothing_left(store)

    async def all_ids(self, store: Store) -> list[str]:
        """The ids of all instances."""
        return await self.found(store, Query())

    async def check_needs(self, store: Store) -> int:
        """Check all pages of instances that wait for needs; returns how many were mended."""
        mended, cursor = await store.check_needs()
        while cursor is not None:
            more, cursor = await store.check_needs(cursor)
            mended += more
        return mended

    async def settle(self, store: Store) -> None:
        """Follow up all ends."""
        for _ in range(10_000):
            if not await store.settle():
                return
        raise AssertionError("settling does not end")


def id_of(instance: NewChild | Claim) -> str:
    """The id of a child or of a claim."""
    return instance.instance.id if isinstance(instance, NewChild) else instance.id


def needs_of(*children: NewChild) -> tuple[Need, ...]:
    """Needs of children as "ended"."""
    return tuple(Need(child.instance.id) for child in children)


def steps(**values: bytes) -> tuple[Step, ...]:
    """Steps by name."""
    return tuple(Step(name, value) for name, value in values.items())


def signal_step(name: str, value: bytes) -> Step:
    """A step under the stored name of a signal, as a wait writes it that has timed out."""
    return Step(SIGNAL_MARK + name, value)
