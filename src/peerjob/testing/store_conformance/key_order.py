"""The order in which instances of a key pass, and their order in the queue after that."""

import pytest

from peerjob.model.durable import Need
from peerjob.model.record import Action, Held, NewChild
from peerjob.model.restored import Restored
from peerjob.store.base import Store
from peerjob.store.rules import FLOWS_LAYOUT
from peerjob.testing.factories import outcome

from .limit_suite import LimitSuite
from .suite import ids_of


class KeyOrderRules(LimitSuite):
    """Rules of the order of the instances of a key."""

    async def test_keys_take_turns(self, store: Store) -> None:
        await self.limit_keys(store)
        a, b = self.keyed(4), self.keyed(2, "b")
        await store.enqueue([*a, *b])
        ids = await self.drained(await self.join(store))
        assert ids == [a[0].id, b[0].id, a[1].id, b[1].id, a[2].id, a[3].id]

    async def test_one_that_waited_comes_behind_what_is_there(self, store: Store) -> None:
        await self.limit_keys(store)
        a = self.keyed(2)
        others = self.make.instances(3)
        await store.enqueue([*a, *others])
        peer = await self.join(store)
        assert await self.drained(peer) == [a[0].id, *ids_of(others), a[1].id]
        record = await self.read(store, a[1].id)
        assert record.due_us == (await self.read(store, a[0].id)).due_us, "its due time stays"

    async def test_a_repeated_claim_has_one_that_waited_at_the_same_place(self, store: Store) -> None:
        await self.limit_keys(store)
        first, waiting = self.keyed(2, due_us=1_000_000)
        (other,) = self.make.instances(1)
        await store.enqueue([first, waiting, other])
        peer, request = await self.join(store), self.make.request()
        claim = await peer.take_one()
        await self.pass_time(0.001)
        await peer.end(claim)
        claimed = await peer.claim(peer.want(), request=request)
        assert ids_of(claimed.claims) == [other.id, waiting.id]
        assert (await peer.claim(peer.want(), request=request)).claims == claimed.claims

    async def test_one_that_passes_at_once_keeps_its_due_time(self, store: Store) -> None:
        await self.limit_keys(store)
        (other,) = self.make.instances(1)
        (early,) = self.keyed(1, due_us=1_000_000)
        await store.enqueue([other])
        await self.pass_time(0.001)
        await store.enqueue([early])
        assert await self.drained(await self.join(store)) == [early.id, other.id]

    async def test_waiting_instances_pass_by_priority_then_due_time_then_id(self, store: Store) -> None:
        await self.limit_keys(store)
        peer = await self.join(store)
        await store.enqueue(self.keyed(1, priority=0))
        claim = await peer.take_one()
        late, same = self.keyed(2, priority=5, due_us=2_000_000)
        (early,) = self.keyed(1, priority=5, due_us=1_000_000)
        (urgent,) = self.keyed(1, priority=1)
        for new in (same, late, early, urgent):
            await store.enqueue([new])
        await peer.end(claim)
        assert await self.drained(peer) == [urgent.id, early.id, late.id, same.id]

    async def test_the_best_of_a_batch_passes(self, store: Store) -> None:
        await self.limit_keys(store)
        low, high, middle = (self.keyed(1, priority=priority)[0] for priority in (7, 1, 4))
        await store.enqueue([low, high, middle])
        assert await self.drained(await self.join(store)) == [high.id, middle.id, low.id]

    async def test_the_best_of_a_large_batch_passes(self, store: Store) -> None:
        await self.limit_keys(store, 2)
        late = self.keyed(100, concurrency=2)
        early = self.keyed(2, concurrency=2, due_us=1_000_000)
        await store.enqueue([*late, *early])
        assert set(await store.key_holders("work", "a")) == set(ids_of(early))

    async def test_the_best_of_many_children_pass(self, store: Store) -> None:
        await self.limit_keys(store, 2)
        await store.require_layout(FLOWS_LAYOUT, "steps")
        peer = await self.join(store)
        await store.enqueue(self.make.instances(1))
        parent = await peer.take_one()
        late = self.keyed(100, concurrency=2)
        early = self.keyed(2, concurrency=2, due_us=1_000_000)
        children = [NewChild(instance=new) for new in (*late, *early)]
        await store.spawn(peer.incarnation, Held(parent.id, parent.fence), children)
        assert set(await store.key_holders("work", "a")) == set(ids_of(early))

    @pytest.mark.parametrize("parts", ["", "closed later", "waits", "needs one that is over"])
    async def test_only_a_child_that_enters_its_queue_at_once_brings_its_concurrency(
        self, store: Store, parts: str
    ) -> None:
        await self.limit_keys(store, 2)
        await store.require_layout(FLOWS_LAYOUT, "steps")
        peer = await self.join(store)
        await store.enqueue(self.make.instances(1))
        parent = await peer.take_one()
        await store.enqueue(self.keyed(1, concurrency=3))
        await peer.take_one()
        needed, child = self.make.instance(), self.keyed(1, concurrency=2)[0]
        held = Held(parent.id, parent.fence)
        await store.spawn(peer.incarnation, held, [NewChild(instance=needed)])
        if parts == "needs one that is over":
            await peer.end(await peer.take_one())
        needs = (Need(id=needed.id),) if "need" in parts or parts == "waits" else ()
        children = [NewChild(instance=child, needs=needs, more=parts == "closed later")]
        await store.spawn(peer.incarnation, held, children)
        if parts == "closed later":
            await store.spawn(peer.incarnation, held, [NewChild(instance=child)])
        concurrency = (await self.keys(store))["a"].concurrency
        assert concurrency == (3 if parts else 2)

    async def test_one_that_is_moved_in_parts_keeps_the_concurrency_of_its_key(self, store: Store) -> None:
        await self.limit_keys(store, 2)
        await store.require_layout(FLOWS_LAYOUT, "steps")
        await store.enqueue(self.keyed(1, concurrency=2))
        (new,) = self.keyed(1, due_us=1_000_000)
        for is_open in (True, False):
            await store.restore([Restored(instance=new, open=is_open)])
        (view,) = (await store.key_limits("work")).views
        assert (view.concurrency, view.admitted) == (2, 2)

    async def test_a_better_priority_changes_places_with_the_last_admitted(self, store: Store) -> None:
        await self.limit_keys(store)
        (low,) = self.keyed(1, priority=5)
        (high,) = self.keyed(1, priority=1)
        await store.enqueue([low])
        await store.enqueue([high])
        assert await self.counts_of(store) == (1, 1)
        assert await store.key_holders("work", "a") == [high.id]
        (other,) = self.make.instances(1, priority=5)
        await store.enqueue([other])
        assert await self.drained(await self.join(store)) == [high.id, other.id, low.id]

    async def test_an_equal_priority_changes_nothing(self, store: Store) -> None:
        await self.limit_keys(store)
        first, second = self.keyed(2)
        (early,) = self.keyed(1, due_us=1_000_000)
        await store.enqueue([first, second])
        await store.enqueue([early])
        assert await store.key_holders("work", "a") == [first.id]
        assert await self.drained(await self.join(store)) == [first.id, early.id, second.id]

    async def test_a_better_priority_changes_places_with_one_that_waited(self, store: Store) -> None:
        await self.limit_keys(store, 2)
        lows = self.keyed(3, priority=5, concurrency=2)
        (high,) = self.keyed(1, priority=1, concurrency=2)
        await store.enqueue(lows)
        peer = await self.join(store)
        claims = await peer.take()
        await peer.end(claims[1])
        assert set(await store.key_holders("work", "a")) == {lows[0].id, lows[2].id}
        await store.enqueue([high])
        assert set(await store.key_holders("work", "a")) == {lows[0].id, high.id}

    async def test_a_claimed_instance_keeps_its_place(self, store: Store) -> None:
        await self.limit_keys(store)
        (low,) = self.keyed(1, priority=5)
        (high,) = self.keyed(1, priority=1)
        await store.enqueue([low])
        peer = await self.join(store)
        claim = await peer.take_one()
        await store.enqueue([high])
        assert await peer.take() == ()
        assert await store.key_holders("work", "a") == [low.id]
        await peer.end(claim)
        assert (await peer.take_one()).id == high.id

    async def test_one_place_of_a_wide_key_follows_the_priority(self, store: Store) -> None:
        await self.limit_keys(store)
        low = self.keyed(3, concurrency=2, priority=5)
        high = self.keyed(2, concurrency=2, priority=1)
        await store.enqueue(low)
        for new in high:
            await store.enqueue([new])
        assert await self.counts_of(store) == (2, 3)
        peer = await self.join(store)
        first, _ = await peer.take()
        assert first.id == high[0].id
        await peer.end(first)
        assert (await peer.take_one()).id == high[1].id

    async def test_the_worst_of_a_batch_gives_its_place_away(self, store: Store) -> None:
        await self.limit_keys(store)
        low, high, middle = (self.keyed(1, concurrency=2, priority=priority)[0] for priority in (7, 1, 4))
        await store.enqueue([low, high])
        await store.enqueue([middle])
        peer = await self.join(store)
        assert ids_of(await peer.take()) == [high.id, middle.id]

    async def test_the_last_of_a_batch_that_filled_its_key_gives_its_place_away(self, store: Store) -> None:
        await self.limit_keys(store, 6)
        low = self.keyed(6, concurrency=6, priority=5)
        (high,) = self.keyed(1, concurrency=6, priority=1)
        await store.enqueue(low)
        await store.enqueue([high])
        assert await self.drained(await self.join(store)) == [high.id, *ids_of(low)]

    async def test_a_key_that_was_lowered_from_far_above_follows_the_priority(self, store: Store) -> None:
        await self.limit_keys(store, 20)
        low = self.keyed(3, concurrency=20, priority=5)
        (high,) = self.keyed(1, priority=1)
        await store.enqueue(low)
        await store.enqueue([high])
        assert await self.counts_of(store) == (3, 1)
        assert await self.drained(await self.join(store)) == [high.id, *ids_of(low)]

    async def test_a_handed_back_instance_is_first_in_line(self, store: Store) -> None:
        await self.limit_keys(store)
        first, second = self.keyed(2)
        (other,) = self.make.instances(1)
        await store.enqueue([first, second, other])
        peer = await self.join(store)
        claim = await peer.take_one()
        await peer.end(claim, Action.HAND_BACK)
        assert await self.drained(peer) == [first.id, other.id, second.id]

    async def test_a_better_priority_comes_before_a_handed_back_instance(self, store: Store) -> None:
        await self.limit_keys(store)
        (low,) = self.keyed(1, priority=5)
        (high,) = self.keyed(1, priority=1)
        await store.enqueue([low])
        peer = await self.join(store)
        claim = await peer.take_one()
        await store.enqueue([high])
        await peer.end(claim, Action.HAND_BACK)
        assert await store.key_holders("work", "a") == [high.id]
        assert await self.drained(peer) == [high.id, low.id]

    async def test_a_retry_comes_behind_those_that_waited(self, store: Store) -> None:
        await self.limit_keys(store)
        first, second, third = self.keyed(3)
        await store.enqueue([first, second, third])
        peer = await self.join(store)
        claim = await peer.take_one()
        await self.pass_time(0.001)
        await peer.end(claim, Action.RETRY)
        assert await self.counts_of(store) == (1, 2)
        assert await self.drained(peer) == [second.id, third.id, first.id]

    @pytest.mark.parametrize("waits", [False, True])
    async def test_a_suspect_that_passes_is_claimed_alone(self, store: Store, waits: bool) -> None:
        await self.limit_keys(store)
        first, other = self.keyed(int(waits)), self.make.instances(1, priority=9)
        (suspect,) = self.keyed(1, losses=2)
        await store.enqueue([*first, suspect])
        (key,) = await store.limit_keys([suspect.id])
        assert key is not None
        assert key.waiting == waits
        peer = await self.join(store)
        await peer.commit(*[outcome(claim) for claim in await peer.take(int(waits))])
        await store.enqueue(other)
        assert ids_of((await peer.claim(peer.want(suspects=False))).claims) == ids_of(other)
        (claim,) = await peer.take()
        assert (claim.id, claim.suspect) == (suspect.id, True)
