"""Two releases on one namespace: what the later one adds to a record is kept by each transition of this one."""

import random  # a walk that a seed repeats
from dataclasses import dataclass

import pytest

from peerjob.model.query import Filter
from peerjob.model.record import Ack, Action, StoreLimits
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.testing.factories import outcome
from peerjob.testing.store_conformance.suite import StoreSuite
from peerjob.testing.store_conformance.walk import STEPS, Walk
from support.builds import kept, written


@dataclass
class MixedWalk(Walk):
    """A walk each of whose steps is made by one of two releases; instances come from the later one."""

    later: Store | None = None

    async def step(self) -> None:
        assert self.later is not None
        ours = self.store
        self.store = self.chance.choice((ours, self.later))
        try:
            await super().step()
        finally:
            self.store = ours

    async def enqueue(self) -> None:
        assert self.later is not None
        ours, self.store = self.store, self.later
        try:
            await super().enqueue()
        finally:
            self.store = ours

    async def compare(self) -> None:
        await super().compare()
        for id in self.model:
            assert await kept(self.store, id) == written(self.store), self.model[id].history


class TwoBuilds(StoreSuite):
    """Rules of a rolling upgrade."""

    def make_later(self, namespace: str, limits: StoreLimits) -> Store:
        """A store of the later release."""
        raise NotImplementedError

    async def open_later(self) -> Store:
        store = self.make_later(self.namespace, StoreLimits())
        await store.open()
        self._cleanup.push_async_callback(store.close)
        return store

    @pytest.mark.parametrize("seed", range(4))
    async def test_a_walk_of_two_releases_loses_nothing(self, store: Store, seed: int) -> None:
        later = await self.open_later()
        first = await self.join(store)
        walk = MixedWalk(self, store, random.Random(seed), first.joined_us, later=later)
        for _ in range(2):
            await walk.join()
        walk.store = later
        for _ in range(2):
            await walk.join()
        walk.store = store
        for number in range(STEPS):
            await walk.step()
            if number % 20 == 19:
                await walk.compare()

    async def test_every_transition_keeps_what_a_later_release_added(self, store: Store) -> None:
        later = await self.open_later()
        batch = self.make.instances(6, key=None, tags=("t",), max_crashes=0)
        keyed = self.make.instance(key="k", tags=("t",))
        await later.enqueue([*batch, keyed])
        peer = await self.join(store)
        mortal = await self.join_briefly(store)

        async def assert_kept() -> None:
            for one in (*batch, keyed):
                assert await kept(store, one.id) == written(store)

        await assert_kept()
        first, second, third, fourth = await peer.take(4)
        line = self.make.line("line")
        await peer.report(first, started=True, progress=b"half", logs=(line,))
        await assert_kept()
        assert (
            await peer.commit(
                outcome(first, Action.RETRY, error=b"e"),
                outcome(second, Action.SNOOZE, delay_us=60_000_000),
                outcome(third, Action.HAND_BACK),
                outcome(fourth, result=b"r" * 2000, logs=(line,)),
            )
            == [Ack.DONE] * 4
        )
        await assert_kept()
        for claim in await mortal.take():
            await mortal.report(claim, started=True)
        await self.reap_all(peer)
        assert State.TERMINATED in await self.counts(store)
        await assert_kept()
        await store.cancel([second.id], request=self.make.request())
        await store.clear_history(Filter())
        await store.clear_logs(Filter())
        await assert_kept()
