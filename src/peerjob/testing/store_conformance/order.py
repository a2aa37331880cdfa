"""ORDER: lowest priority number first, then due time, then id."""

import random  # noqa: TID251  # seeded, so that a failed walk can be repeated

import pytest

from peerjob.model.record import Action
from peerjob.store.base import Store

from .suite import StoreSuite, ids_of


class OrderRules(StoreSuite):
    """Rules of the order in which one claiming node gets due instances."""

    async def test_the_lowest_priority_number_comes_first(self, store: Store) -> None:
        batch = [self.make.instance(priority=priority) for priority in (5, -7, 0, 1000, -1, 6)]
        await store.enqueue(batch)
        peer = await self.join(store)
        assert [claim.priority for claim in await peer.take()] == [-7, -1, 0, 5, 6, 1000]

    async def test_equal_priorities_go_by_due_time(self, store: Store) -> None:
        peer = await self.join(store)
        now = peer.joined_us
        ages = (1, 3_600_000_000, 5, 86_400_000_000, now - 1, 10)
        await store.enqueue([self.make.instance(due_us=now - age) for age in ages])
        assert [now - claim.due_us for claim in await peer.take()] == sorted(ages, reverse=True)

    async def test_equal_due_times_go_by_id(self, store: Store) -> None:
        peer = await self.join(store)
        batch = self.make.instances(9, due_us=peer.joined_us - 1)
        await store.enqueue(batch[6:])
        await store.enqueue(batch[:3][::-1])
        await store.enqueue([batch[5], batch[3], batch[4]])
        assert ids_of(await peer.take()) == [new.id for new in batch]

    async def test_equal_ones_come_as_they_went(self, store: Store) -> None:
        sent: list[str] = []
        for size in (1, 7, 1, 20, 3):
            batch = self.make.instances(size)
            await store.enqueue(batch)
            sent += [new.id for new in batch]
        peer = await self.join(store)
        assert ids_of([*await peer.take(5), *await peer.take(11), *await peer.take()]) == sent

    async def test_the_order_goes_across_kinds(self, store: Store) -> None:
        peer = await self.join(store, kinds=("a", "b", "c"))
        base = peer.joined_us - 1000
        wanted = [("b", 1, 9), ("a", 2, 1), ("c", 2, 2), ("b", 2, 3), ("a", 2, 4), ("c", 3, 0)]
        batch = [self.make.instance(kind=kind, priority=priority, due_us=base + due) for kind, priority, due in wanted]
        await store.enqueue(batch[::-1])
        assert ids_of([*await peer.take(2), *await peer.take(2), *await peer.take(2)]) == [new.id for new in batch]

    async def test_many_kinds_are_one_queue(self, store: Store) -> None:
        kinds = [f"kind {number}" for number in range(150)]
        batch = [self.make.instance(kind=kind) for kind in (*kinds, *kinds[::-1])]
        await store.enqueue(batch)
        peer = await self.join(store, kinds=kinds)
        assert ids_of([*await peer.take(7), *await peer.take()]) == [new.id for new in batch]

    async def test_a_kind_at_its_limit_lets_others_pass(self, store: Store) -> None:
        peer = await self.join(store, kinds=("a", "b"))
        urgent = self.make.instances(4, kind="a", priority=0)
        other = self.make.instances(3, kind="b", priority=9)
        await store.enqueue([*other, *urgent])
        claimed = await peer.claim(peer.want(4, {"a": 2, "b": 10}))
        assert ids_of(claimed.claims) == [new.id for new in (*urgent[:2], *other[:2])]

    async def test_a_due_time_before_1970_is_due(self, store: Store) -> None:
        ancient = self.make.instance(due_us=-1)
        await store.enqueue([ancient])
        peer = await self.join(store)
        assert ids_of(await peer.take()) == [ancient.id]

    async def test_far_future_instances_delay_no_other(self, store: Store) -> None:
        peer = await self.join(store)
        far = self.make.instances(300, priority=-100, due_us=peer.joined_us + 10**15)
        due = self.make.instances(3, priority=100)
        await store.enqueue(far)
        await store.enqueue(due)
        assert ids_of(await peer.take(2)) == [new.id for new in due[:2]]
        assert ids_of(await peer.take(2)) == [due[2].id]

    async def test_a_delayed_one_takes_the_place_of_its_due_time(self, store: Store) -> None:
        delayed = self.make.instance(delay_us=30_000)
        urgent = self.make.instance(delay_us=60_000, priority=1)
        early, late = self.make.instances(2)
        await store.enqueue([urgent, delayed, early])
        await self.pass_time(0.1)
        await store.enqueue([late])
        peer = await self.join(store)
        assert ids_of(await peer.take()) == [urgent.id, early.id, delayed.id, late.id]

    async def test_more_than_a_thousand_fall_due_at_once(self, store: Store) -> None:
        peer = await self.join(store)
        due_us = peer.joined_us + 400_000
        batch = [self.make.instance(due_us=due_us + number % 3) for number in range(1250)]
        for first in range(0, len(batch), 500):
            await store.enqueue(batch[first : first + 500])
        await self.pass_time(0.5)
        got: list[str] = []
        while claims := await peer.take():
            got += ids_of(claims)
        assert got == [new.id for new in sorted(batch, key=lambda new: (new.due_us, new.id))]

    async def test_what_is_handed_back_takes_its_old_place(self, store: Store) -> None:
        peer = await self.join(store)
        batch = self.make.instances(5)
        await store.enqueue(batch)
        first, second = await peer.take(2)
        await peer.end(second, Action.HAND_BACK)
        await peer.end(first, Action.HAND_BACK)
        assert ids_of(await peer.take()) == [new.id for new in batch]

    async def test_what_is_retried_goes_behind_what_was_due(self, store: Store) -> None:
        peer = await self.join(store)
        batch = self.make.instances(3)
        await store.enqueue(batch)
        await self.pass_time(0.001)
        await peer.end(await peer.take_one(), Action.RETRY)
        assert ids_of(await peer.take()) == [batch[1].id, batch[2].id, batch[0].id]

    @pytest.mark.parametrize("seed", range(3))
    async def test_any_mixture_comes_in_order(self, store: Store, seed: int) -> None:
        chance = random.Random(seed)
        peer = await self.join(store, kinds=("a", "b", "c"))
        batch = [
            self.make.instance(
                kind=chance.choice("abc"),
                priority=chance.choice((-(2**31), -5, -1, 0, 1, 5, 2**31 - 1)),
                due_us=peer.joined_us - chance.choice((0, 1, 1, 999, 1_000_000, 10**12)),
            )
            for _ in range(120)
        ]
        wanted = sorted(batch, key=lambda new: (new.priority, new.due_us, new.id))
        chance.shuffle(batch)
        while batch:
            size = chance.randint(1, 50)
            await store.enqueue(batch[:size])
            batch = batch[size:]
        got: list[str] = []
        while claims := await peer.take(chance.randint(1, 30)):
            got += ids_of(claims)
        assert got == [new.id for new in wanted]
