"""Rates, throttled limits, and paused kinds."""

from itertools import pairwise

from peerjob.model.record import Action
from peerjob.store.base import Store
from peerjob.testing.factories import outcome

from .limit_suite import LimitSuite
from .suite import ids_of


class RateRules(LimitSuite):
    """Rules of limits that time opens, and of pauses."""

    async def test_a_rate_allows_its_burst_at_once(self, store: Store) -> None:
        await self.limit(store, rate="1/h", burst=3)
        await store.enqueue(self.make.instances(5))
        peer = await self.join(store)
        assert len(await peer.take(2)) == 2
        assert (await self.limit_view(store)).remaining == 1
        assert len(await peer.take()) == 1
        assert await peer.take() == ()
        view = await self.limit_view(store)
        assert (view.rate, view.burst, view.remaining, view.concurrency) == ("1/h", 3, 0, None)
        assert view.opens_us > (await peer.claim()).now_us + 3_000_000_000

    async def test_a_rate_allows_more_as_time_passes(self, store: Store) -> None:
        await self.limit(store, rate="2/s", burst=1)
        await store.enqueue(self.make.instances(3))
        peer = await self.join(store)
        claims = [await peer.take_one()]
        while len(claims) < 3:
            claimed = await peer.claim()
            if claimed.claims == ():
                assert claimed.next_due_us is not None
                assert claims[-1].at_us < claimed.next_due_us <= claimed.now_us + 500_000
                await self.pass_time((claimed.next_due_us - claimed.now_us) / 1_000_000 + 0.002)
            claims += claimed.claims
        assert all(later.at_us - earlier.at_us >= 500_000 for earlier, later in pairwise(claims))

    async def test_an_end_gives_nothing_back(self, store: Store) -> None:
        await self.limit(store, rate="1/h", burst=2)
        await store.enqueue(self.make.instances(3))
        peer = await self.join(store)
        first, second = await peer.take()
        await peer.end(first)
        await peer.end(second, Action.HAND_BACK)
        assert await peer.take() == ()

    async def test_a_repeated_claim_uses_nothing(self, store: Store) -> None:
        await self.limit(store, rate="1/h", burst=2)
        await store.enqueue(self.make.instances(3))
        peer = await self.join(store)
        request = self.make.request()
        for _ in range(3):
            assert len((await peer.claim(peer.want(1), request=request)).claims) == 1
        assert len(await peer.take()) == 1

    async def test_kinds_share_a_rate(self, store: Store) -> None:
        await self.limit(store, "a", "b", rate="1/h", burst=3)
        await store.enqueue([*self.make.instances(2, kind="a"), *self.make.instances(2, kind="b")])
        peer = await self.join(store, kinds=("a", "b"))
        assert len(await self.took(peer)) == 3

    async def test_a_limit_with_both_needs_both(self, store: Store) -> None:
        await self.limit(store, concurrency=1, rate="1/h", burst=2)
        await store.enqueue(self.make.instances(4))
        peer = await self.join(store)
        claim = await peer.take_one()
        claimed = await peer.claim()
        assert (claimed.claims, claimed.next_due_us) == ((), None), "an end opens the limit, not time"
        await peer.end(claim)
        claim = await peer.take_one()
        await peer.end(claim)
        assert await peer.take() == ()

    async def test_one_node_learns_when_a_rate_opens(self, store: Store) -> None:
        await self.limit(store, rate="1/h", burst=1)
        await store.enqueue(self.make.instances(3))
        peer, *others = [await self.join(store, f"node {number}") for number in range(4)]
        await peer.take(1)
        answers = [await other.claim() for other in others]
        assert all(answer.claims == () for answer in answers)
        told = [answer.next_due_us is not None for answer in answers]
        assert told.count(True) == 1, "the others sleep"
        waiting = others[told.index(True)]
        assert (await waiting.claim()).next_due_us is not None, "the same node learns it again"
        for other in others:
            await self.hints(other)
        await store.enqueue(self.make.instances(2))
        assert await self.woken(others) == []
        if self.renewals_tell:
            assert not any([(await other.renew()).work_due for other in others])
        await store.leave(waiting.incarnation)
        rest = [other for other in others if other is not waiting]
        assert [(await other.claim()).next_due_us is not None for other in rest] == [True, False]

    async def test_an_enqueue_wakes_a_node_that_then_learns_when_a_rate_opens(self, store: Store) -> None:
        await self.limit(store, rate="1/h", burst=1)
        await store.enqueue(self.make.instances(1))
        peer = await self.join(store)
        await peer.end(await peer.take_one())
        sleepers = [await self.join(store, f"sleeper {number}") for number in range(2)]
        for sleeper in sleepers:
            claimed = await sleeper.claim()
            assert (claimed.claims, claimed.next_due_us) == ((), None), "nothing waits for the rate"
            await self.hints(sleeper)
        await store.enqueue([self.make.instance()])
        (name,) = await self.woken(sleepers, 1)
        (woken,) = [sleeper for sleeper in sleepers if sleeper.name == name]
        assert (await woken.claim()).next_due_us is not None
        await store.enqueue([self.make.instance()])
        assert await self.woken(sleepers) == []

    async def test_a_node_that_becomes_busy_leaves_the_moment_of_a_rate_to_another(self, store: Store) -> None:
        await self.limit(store, rate="1/h", burst=1)
        await store.enqueue(self.make.instances(2))
        knows = await self.join(store, "knows", kinds=("work", "free"))
        await knows.end(await knows.take_one())
        assert (await knows.claim()).next_due_us is not None
        other = await self.join(store, "other")
        assert (await other.claim()).next_due_us is None
        await self.hints(other)
        await store.enqueue(self.make.instances(1, kind="free"))
        assert len(await knows.take(1)) == 1
        assert await self.woken([other], 1) == ["other"]
        assert (await other.claim()).next_due_us is not None

    async def test_an_earlier_delayed_instance_comes_first(self, store: Store) -> None:
        await self.limit(store, rate="1/h", burst=1)
        await store.enqueue(self.make.instances(2))
        peer = await self.join(store)
        await peer.take()
        delayed = self.make.instance(delay_us=60_000_000)
        await store.enqueue([delayed])
        assert (await peer.claim()).next_due_us == (await self.read(store, delayed.id)).due_us

    async def test_a_faster_rate_opens_at_once(self, store: Store) -> None:
        await self.limit(store, rate="1/h", burst=1)
        await store.enqueue(self.make.instances(3))
        peer = await self.join(store)
        await peer.take()
        await peer.claim()
        await self.hints(peer)
        await self.set_limit(store, period_us=1_000, burst=5_000_000)
        assert await self.woken([peer], 1) == ["node"]
        assert len(await self.took(peer)) == 2

    async def test_what_a_slower_rate_gave_does_not_keep_a_limit_closed(self, store: Store) -> None:
        await self.limit(store, rate="1/h", burst=3)
        await store.enqueue(self.make.instances(6))
        peer = await self.join(store)
        assert len(await peer.take()) == 3
        assert (await peer.claim()).claims == ()
        await self.hints(peer)
        began = self.clock.elapsed()
        await self.set_limit(store, period_us=100_000, burst=3)
        remaining = (await self.limit_view(store)).remaining
        assert remaining == 1 or self.paused(began, 0.1)
        assert await self.woken([peer], 1) == ["node"]
        began = self.clock.elapsed()
        first = await peer.take_one()
        claimed = await peer.claim()
        if claimed.claims == ():
            assert claimed.next_due_us is not None
            assert first.at_us < claimed.next_due_us <= claimed.now_us + 100_000
            await self.pass_time(0.11)
            assert len(await peer.take()) >= 1
        else:
            assert self.paused(began, 0.1)

    async def test_a_throttled_limit_gives_no_claims(self, store: Store) -> None:
        await self.limit(store, concurrency=3)
        await store.enqueue(self.make.instances(4))
        peer = await self.join(store)
        claim = await peer.take_one()
        assert await store.throttle("shared", 60_000_000)
        claimed = await peer.claim()
        assert claimed.claims == ()
        opens_us = (await self.limit_view(store)).opens_us
        assert claimed.next_due_us == opens_us
        assert await store.throttle("shared", 1_000_000)
        assert (await self.limit_view(store)).opens_us == opens_us, "a shorter time changes nothing"
        await peer.end(claim)
        assert await peer.take() == ()
        await self.hints(peer)
        assert await store.throttle("shared", 0, shorten=True)
        assert await self.woken([peer], 1) == ["node"]
        assert len(await peer.take()) == 3
        assert (await self.limit_view(store)).opens_us == 0

    async def test_a_throttled_limit_opens_by_itself(self, store: Store) -> None:
        await self.limit(store, concurrency=3)
        await store.enqueue(self.make.instances(2))
        peer = await self.join(store)
        began = self.clock.elapsed()
        await store.throttle("shared", 300_000)
        while (claimed := await peer.claim()).claims:
            assert self.paused(began, 0.3)
            await peer.commit(*(outcome(claim, Action.HAND_BACK) for claim in claimed.claims))
            began = self.clock.elapsed()
            await store.throttle("shared", 300_000)
        assert claimed.next_due_us is not None
        await self.pass_time((claimed.next_due_us - claimed.now_us) / 1_000_000 + 0.002)
        if self.renewals_tell:
            assert (await peer.renew()).work_due is True
        assert len(await peer.take()) == 2

    async def test_a_throttle_of_any_time_outlives_a_setting(self, store: Store) -> None:
        await self.limit(store, concurrency=3)
        await store.enqueue(self.make.instances(1))
        peer = await self.join(store)
        assert await store.throttle("shared", 1_000 * 366 * 86_400_000_000)
        await self.set_limit(store, concurrency=2)
        assert await peer.take() == ()

    async def test_only_a_limit_with_kinds_can_be_throttled(self, store: Store) -> None:
        assert not await store.throttle("unknown", 60_000_000)
        await self.limit(store, concurrency=1)
        assert await store.throttle("shared", 60_000_000)
        await self.set_limit(store, concurrency=2)
        await self.unlimit(store)
        assert not await store.throttle("shared", 60_000_000)

    async def test_claims_pass_over_a_paused_kind(self, store: Store) -> None:
        paused, free = self.make.instances(2, kind="paused"), self.make.instances(2, kind="free")
        await store.enqueue([paused[0], *free])
        peer = await self.join(store, kinds=("paused", "free"))
        claim, *_ = await peer.take(1)
        assert claim.id == paused[0].id
        await store.pause_kind("paused", True, "migration")
        await store.pause_kind("paused", True, "the migration")
        await store.enqueue([paused[1]])
        assert ids_of(await peer.take()) == ids_of(free)
        await peer.commit(outcome(claim))
        assert await peer.take() == ()
        await self.hints(peer)
        await store.enqueue([self.make.instance(kind="paused")])
        assert await self.woken([peer]) == []
        if self.renewals_tell:
            assert (await peer.renew()).work_due is False
        (view,) = await self.views(store)
        assert (view.kinds, view.paused, view.note, view.remaining) == (("paused",), True, "the migration", 0)
        assert (view.name, view.waiting) == ("", 2)
        await store.pause_kind("paused", False)
        assert await self.woken([peer], 1) == ["node"]
        assert len(await peer.take()) == 2
        assert await self.views(store) == []

    async def test_a_suspect_of_a_paused_kind_is_passed_over(self, store: Store) -> None:
        await store.pause_kind("paused", True)
        suspect, free = self.make.instance(kind="paused", losses=2), self.make.instance(kind="free")
        await store.enqueue([suspect, free])
        peer = await self.join(store, kinds=("paused", "free"))
        assert ids_of(await peer.take()) == [free.id]

    async def test_a_paused_kind_holds_no_place_of_its_limit(self, store: Store) -> None:
        await self.limit(store, "a", "b", concurrency=1)
        await store.pause_kind("a", True)
        first, second = self.make.instance(kind="a"), self.make.instance(kind="b")
        await store.enqueue([first, second])
        peer = await self.join(store, kinds=("a", "b"))
        assert ids_of(await peer.take()) == [second.id]

    async def test_hinted_claims_keep_limits(self, store: Store) -> None:
        await self.limit(store, concurrency=1)
        await store.pause_kind("paused", True)
        await store.enqueue([*self.make.instances(2), self.make.instance(kind="paused")])
        peer = await self.join(store, kinds=("work", "paused"))
        for expected in (1, 0):
            _, claimed = await self.in_time(
                store.claim_on_hint(peer.incarnation, peer.want(), request=self.make.request(), timeout=0)
            )
            assert claimed is not None
            assert len(claimed.claims) == expected
