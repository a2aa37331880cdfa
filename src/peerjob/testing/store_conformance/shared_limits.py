"""Shared limits: a claim passes over the kinds whose limit has no claims left."""

import pytest

from peerjob.model.errors import LayoutError, OptionError
from peerjob.model.record import Action, Claim
from peerjob.model.stored_limit import MAX_LIMIT_KINDS, KindLimits, LimitNumbers, LimitSetting, SharedLimit
from peerjob.store.base import Store
from peerjob.testing.factories import Peer, outcome

from .limit_suite import LimitSuite
from .suite import PLAIN_ACTIONS, ids_of

Numbers = tuple[int, int, int]


class SharedLimitRules(LimitSuite):
    """Rules of the concurrency of shared limits."""

    async def test_a_claim_gives_no_more_than_the_concurrency(self, store: Store) -> None:
        await self.limit(store, concurrency=3)
        batch = self.make.instances(5)
        await store.enqueue(batch)
        peer = await self.join(store)
        claims = await peer.take()
        assert ids_of(claims) == ids_of(batch[:3])
        assert await peer.take() == ()
        await peer.end(claims[1])
        assert ids_of(await peer.take()) == [batch[3].id]
        assert await peer.take() == ()

    async def test_kinds_share_a_limit(self, store: Store) -> None:
        await self.limit(store, "a", "b", concurrency=3)
        await store.enqueue([*self.make.instances(3, kind="a"), *self.make.instances(3, kind="b")])
        single, both = await self.join(store, "single", ("a",)), await self.join(store, "both", ("a", "b"))
        assert len(await single.take(2)) == 2
        (claim,) = await both.take()
        assert await self.took(single) == []
        view = await self.limit_view(store)
        assert (view.kinds, view.concurrency, view.running, view.waiting) == (("a", "b"), 3, 3, 3)
        assert view.remaining == 0
        await both.end(claim)
        assert len(await self.took(both)) == 1

    async def test_kinds_without_the_limit_go_on(self, store: Store) -> None:
        await self.limit(store, concurrency=1)
        first, second = self.make.instances(2)
        free = self.make.instances(3, kind="free")
        await store.enqueue([first, second, *free])
        peer = await self.join(store, kinds=("work", "free"))
        assert ids_of(await peer.take()) == [first.id, *ids_of(free)]
        assert await peer.take() == ()

    async def test_a_kind_with_two_limits_needs_both(self, store: Store) -> None:
        narrow = SharedLimit(name="narrow", numbers=LimitNumbers(concurrency=1))
        wide = SharedLimit(name="wide", numbers=LimitNumbers(concurrency=2))
        await store.publish_limits(
            [
                KindLimits(kind="both", shared=(narrow, wide)),
                KindLimits(kind="one", shared=(wide,)),
            ]
        )
        both, ones = self.make.instances(2, kind="both"), self.make.instances(3, kind="one")
        await store.enqueue([*both, *ones])
        peer = await self.join(store, kinds=("both", "one"))
        assert ids_of(await peer.take()) == [both[0].id, ones[0].id]
        assert {view.name: view.running for view in await self.views(store, "both")} == {"narrow": 1, "wide": 2}
        assert [view.name for view in await self.views(store, "one")] == ["wide"]

    @pytest.mark.parametrize("rate", [None, "1/day"])
    async def test_a_claim_of_many_kinds_has_the_limits_of_each(self, store: Store, rate: str | None) -> None:
        """More limits than a server compares in one transaction."""
        kinds = [f"kind {number:03}" for number in range(140)]
        for kind in kinds:
            await self.limit(store, kind, name=kind, concurrency=None if rate else 1, rate=rate)
        await store.enqueue([self.make.instance(kind=kind) for kind in kinds for _ in range(2)])
        peer = await self.join(store, kinds=kinds)
        assert sorted(claim.kind for claim in await self.took(peer, 500)) == kinds

    async def test_the_order_is_that_of_the_queue(self, store: Store) -> None:
        await self.limit(store, "a", "b", concurrency=2)
        late, soon = self.make.instance(kind="a", priority=5), self.make.instance(kind="b", priority=1)
        last = self.make.instance(kind="a", priority=9)
        await store.enqueue([late, last, soon])
        peer = await self.join(store, kinds=("a", "b"))
        assert ids_of(await peer.take()) == [soon.id, late.id]

    async def _end_claim(self, peer: Peer, claim: Claim, ending: str) -> None:
        store = peer.store
        if ending.startswith("cancel, "):
            await store.cancel([claim.id], request=self.make.request())
            claimed = await peer.claim(peer.want(idle=False))
            assert claimed.claims == (), "the body of a cancelled instance counts until it ends"
            assert (await self.limit_view(store)).running == 1
        match ending.removeprefix("cancel, "):
            case "leave":
                await store.leave(peer.incarnation)
            case "die":
                await store.join(peer.info, ttl_us=round(self.short_ttl * 1_000_000))
                await self.reap(await self.join(store, "reaper", ()))
            case action:
                await peer.end(claim, Action(action), delay_us=60_000_000)

    @pytest.mark.parametrize(
        "ending",
        [
            *(action.value for action in PLAIN_ACTIONS if action not in (Action.REPORT, Action.RELEASE)),
            "leave",
            "die",
            "cancel, release",
            "cancel, leave",
            "cancel, die",
        ],
    )
    async def test_one_more_may_go_after(self, store: Store, ending: str) -> None:
        await self.limit(store, concurrency=1)
        first, second = self.make.instances(2)
        await store.enqueue([first, second])
        peer = await self.join(store)
        claim = await peer.take_one()
        other = await self.join(store, "other")
        assert (await other.claim()).claims == ()
        await self.hints(other)
        await self._end_claim(peer, claim, ending)
        assert await self.woken([other], 1) == ["other"]
        assert len(await other.take()) == 1
        assert await other.take() == ()
        assert (await self.limit_view(store)).running == 1

    async def test_a_turn_ends_and_claims_within_the_limit(self, store: Store) -> None:
        await self.limit(store, concurrency=2)
        await store.enqueue(self.make.instances(6))
        peer, sleeper = await self.join(store), await self.join(store, "sleeper")
        claims = await peer.take()
        await sleeper.claim()
        for _ in range(2):
            request, outcomes = self.make.request(), [outcome(claim) for claim in claims]
            _, claimed = await store.turn(peer.incarnation, outcomes, peer.want(), request=request)
            _, repeated = await store.turn(peer.incarnation, outcomes, peer.want(), request=request)
            assert ids_of(repeated.claims) == ids_of(claimed.claims)
            assert len(claimed.claims) == 2
            claims = claimed.claims
        assert await self.woken([sleeper]) == [], "the turn itself claimed what became free"

    @pytest.mark.parametrize(
        ("left", "taken", "kinds"),
        [("other", 0, None), ("other", 1, None), ("work", 1, None), ("work", 0, {"free": 1})],
    )
    async def test_a_turn_wakes_a_node_for_the_room_that_it_leaves(
        self, store: Store, left: str, taken: int, kinds: dict[str, int] | None
    ) -> None:
        """Although the claim of the turn takes other work up to its limit, or nothing, or wants none of it."""
        await self.limit(store, "work", "other", concurrency=1)
        peer = await self.join(store, kinds=("work", "free"))
        sleeper = await self.join(store, "sleeper", kinds=(left,))
        await store.enqueue(self.make.instances(1))
        held = await peer.take_one()
        await store.enqueue([*self.make.instances(2 * taken, kind="free"), self.make.instance(kind=left)])
        await sleeper.claim()
        await self.hints(sleeper)
        want = peer.want(1, kinds)
        _, claimed = await store.turn(peer.incarnation, [outcome(held)], want, request=self.make.request())
        assert len(claimed.claims) == taken
        assert await self.woken([sleeper], 1) == ["sleeper"]
        assert len(await sleeper.take()) == 1

    async def test_a_repeated_claim_counts_once(self, store: Store) -> None:
        await self.limit(store, concurrency=2)
        await store.enqueue(self.make.instances(3))
        peer = await self.join(store)
        request = self.make.request()
        first = await peer.claim(peer.want(1), request=request)
        assert ids_of((await peer.claim(peer.want(1), request=request)).claims) == ids_of(first.claims)
        assert len(await self.took(peer)) == 1

    async def test_a_suspect_of_a_full_limit_is_passed_over(self, store: Store) -> None:
        await self.limit(store, concurrency=1)
        holder, suspect = self.make.instance(), self.make.instance(losses=2)
        free = self.make.instance(kind="free")
        peer = await self.join(store, kinds=("work", "free"))
        await store.enqueue([holder])
        claim = await peer.take_one()
        await store.enqueue([suspect, free])
        assert (ids_of(await peer.take()), (await self.limit_view(store)).waiting) == ([free.id], 1)
        await peer.end(claim)
        assert ids_of(await peer.take()) == [suspect.id]

    async def test_an_enqueue_to_a_full_limit_wakes_no_node(self, store: Store) -> None:
        await self.limit(store, concurrency=1)
        await store.enqueue(self.make.instances(2))
        peer, sleeper = await self.join(store), await self.join(store, "sleeper")
        claim = await peer.take_one()
        await sleeper.claim()
        await self.hints(sleeper)
        await store.enqueue(self.make.instances(3))
        assert await self.woken([sleeper]) == []
        if self.renewals_tell:
            assert (await sleeper.renew()).work_due is False
        await peer.end(claim)
        assert await self.woken([sleeper], 1) == ["sleeper"]

    async def test_room_in_a_limit_wakes_a_node_that_runs_what_is_queued(self, store: Store) -> None:
        await self.limit(store, "work", "other", concurrency=1)
        await store.enqueue(self.make.instances(2))
        peer = await self.join(store)
        claim = await peer.take_one()
        sleepers = [
            await self.join(store, name, kinds=(kind,)) for name, kind in [("first", "other"), ("second", "work")]
        ]
        for sleeper in sleepers:
            await sleeper.claim()
            await self.hints(sleeper)
        await peer.end(claim)
        assert await self.woken(sleepers, 1) == ["second"]

    async def test_no_more_nodes_wake_than_the_limit_lets_go(self, store: Store) -> None:
        await self.limit(store, concurrency=2)
        await store.enqueue(self.make.instances(10))
        peer = await self.join(store)
        claims = await peer.take()
        sleepers = [await self.join(store, f"sleeper {number}") for number in range(4)]
        for sleeper in sleepers:
            await sleeper.claim()
            await self.hints(sleeper)
        await peer.commit(*map(outcome, claims))
        assert len(await self.woken(sleepers, 1)) <= 2

    async def test_a_kind_without_idle_nodes_leaves_the_room_to_others(self, store: Store) -> None:
        await self.limit(store, "a", "b", concurrency=2)
        sleepers = [await self.join(store, kind, (kind,)) for kind in ("a", "b")]
        for sleeper in sleepers:
            assert await sleeper.take() == ()
        await store.enqueue([*self.make.instances(3, kind="a"), *self.make.instances(1, kind="b")])
        assert await self.woken(sleepers, 2) == ["a", "b"]

    async def test_a_node_that_can_run_two_kinds_of_a_limit_takes_room_for_one(self, store: Store) -> None:
        await self.limit(store, "a", "b", "c", concurrency=2)
        sleepers = [await self.join(store, "both", ("a", "b")), await self.join(store, "other", ("c",))]
        for sleeper in sleepers:
            assert await sleeper.take() == ()
        await store.enqueue([self.make.instance(kind=kind) for kind in ("a", "b", "c")])
        assert await self.woken(sleepers, 2) == ["both", "other"]

    async def test_more_concurrency_lets_more_go_at_once(self, store: Store) -> None:
        await self.limit(store, concurrency=1)
        await store.enqueue(self.make.instances(5))
        peer, sleeper = await self.join(store), await self.join(store, "sleeper")
        assert len(await peer.take()) == 1
        await sleeper.claim()
        await self.hints(sleeper)
        assert await self.set_limit(store, concurrency=3, note="more")
        assert await self.woken([sleeper], 1) == ["sleeper"]
        assert len(await self.took(sleeper)) == 2
        view = await self.limit_view(store)
        assert (view.concurrency, view.running, view.note, view.source) == (3, 3, "more", "setting")

    async def test_less_concurrency_ends_nothing(self, store: Store) -> None:
        await self.limit(store, concurrency=3)
        await store.enqueue(self.make.instances(5))
        peer = await self.join(store)
        claims = await peer.take()
        assert await self.set_limit(store, concurrency=1)
        view = await self.limit_view(store)
        assert (view.running, view.remaining) == (3, 0)
        for claim in claims[:2]:
            await peer.end(claim)
            assert await peer.take() == ()
        await peer.end(claims[2])
        assert len(await peer.take()) == 1

    async def test_a_setting_is_stronger_than_the_code_until_it_is_removed(self, store: Store) -> None:
        await self.limit(store, concurrency=1, rate="10/min")
        assert await self.set_limit(store, concurrency=2)
        await self.limit(store, concurrency=4, rate="20/min")
        view = await self.limit_view(store)
        assert (view.concurrency, view.rate, view.source) == (2, "20/min", "setting")
        assert await self.set_limit(store)
        view = await self.limit_view(store)
        assert (view.concurrency, view.rate, view.source, view.note) == (4, "20/min", "code", "")
        assert not await self.set_limit(store), "there is no setting to remove"

    @pytest.mark.parametrize(
        ("given", "counted"),
        [
            ((2, 0, 0), (2, 1_000_000, 4)),
            ((0, 0, 6), (3, 1_000_000, 6)),
            ((0, 7_000_000, 5), (3, 7_000_000, 5)),
            ((2, 7_000_000, 5), (2, 7_000_000, 5)),
        ],
    )
    async def test_each_number_stays_as_it_was_given(self, store: Store, given: Numbers, counted: Numbers) -> None:
        """Each change of a limit reads its other numbers and writes them again."""
        code = 3, 1_000_000, 4
        setting = LimitNumbers(concurrency=given[0], period_us=given[1], burst=given[2])

        async def assert_counts(numbers: Numbers) -> None:
            view = await self.limit_view(store)
            assert (view.concurrency, view.period_us, view.burst) == numbers

        await self.limit(store, concurrency=3, rate="1/s", burst=4)
        await assert_counts(code)
        assert await store.set_limit(LimitSetting(name="shared", numbers=setting))
        await assert_counts(counted)
        await self.limit(store, "other", concurrency=3, rate="1/s", burst=4)
        await assert_counts(counted)
        await self.unlimit(store, "other")
        await assert_counts(counted)
        assert await self.set_limit(store)
        await assert_counts(code)

    async def test_a_setting_needs_a_limit(self, store: Store) -> None:
        assert not await self.set_limit(store, "unknown", concurrency=1)
        assert not await self.set_key_limit(store, 1)
        assert await self.views(store) == []

    async def test_a_publication_without_limits_removes_them(self, store: Store) -> None:
        await self.limit(store, "a", "b", concurrency=1)
        await store.enqueue(self.make.instances(3, kind="a"))
        peer, sleeper = await self.join(store, kinds=("a",)), await self.join(store, "sleeper", ("a",))
        await peer.take()
        await sleeper.claim()
        await self.hints(sleeper)
        await self.unlimit(store, "a")
        assert await self.woken([sleeper], 1) == ["sleeper"]
        assert len(await self.took(sleeper)) == 2
        assert (await self.limit_view(store)).kinds == ("b",)
        await self.unlimit(store, "b")
        assert await self.views(store) == []

    async def test_the_last_publication_of_a_kind_counts(self, store: Store) -> None:
        await self.limit(store, "a", name="old", concurrency=1)
        await self.limit(store, "a", name="new", concurrency=2)
        assert [view.name for view in await self.views(store)] == ["new"]
        await store.enqueue(self.make.instances(3, kind="a"))
        assert len(await self.took(await self.join(store, kinds=("a",)))) == 2

    async def test_a_setting_outlives_the_kinds(self, store: Store) -> None:
        await self.limit(store, concurrency=1)
        await self.set_limit(store, concurrency=2)
        await self.unlimit(store)
        assert (await self.limit_view(store)).kinds == ()
        await self.limit(store, concurrency=1)
        assert (await self.limit_view(store)).concurrency == 2
        await self.unlimit(store)
        assert await self.set_limit(store)
        assert await self.views(store) == []

    async def test_a_limit_has_a_limited_number_of_kinds(self, store: Store) -> None:
        kinds = [f"kind {number:02}" for number in range(MAX_LIMIT_KINDS)]
        await self.limit(store, *kinds, concurrency=1)
        await self.limit(store, *kinds, concurrency=2)
        with pytest.raises(OptionError):
            await self.limit(store, "another", concurrency=3)
        view = await self.limit_view(store)
        assert (view.kinds, view.concurrency) == (tuple(kinds), 2)
        await self.unlimit(store, kinds[0])
        await self.limit(store, "another", concurrency=3)

    async def test_a_concurrency_above_the_capabilities_is_refused(self, store: Store) -> None:
        most = store.capabilities.limits.max_concurrency
        await self.limit(store, concurrency=most)
        if most < 1_000_000:
            with pytest.raises(OptionError, match="concurrency of limit 'shared'"):
                await self.limit(store, concurrency=most + 1)
            with pytest.raises(OptionError, match="concurrency of limit 'shared'"):
                await self.set_limit(store, concurrency=most + 1)
            with pytest.raises(OptionError, match="concurrency of the key limit of kind 'work'"):
                await store.publish_limits([KindLimits(kind="work", key_concurrency=most + 1)])
        assert (await self.limit_view(store)).concurrency == most

    async def test_a_limit_needs_nodes_that_read_its_layout(self, store: Store) -> None:
        older = await self.join(store, "older")
        await store.join(self.older(older), ttl_us=60_000_000)
        with pytest.raises(LayoutError) as refused:
            await self.limit(store, concurrency=1)
        assert refused.value.nodes == ("older",)
        with pytest.raises(LayoutError):
            await store.pause_kind("work", True)
        await self.unlimit(store)
        assert await self.views(store) == []
        await store.enqueue(self.make.instances(2))
        assert len(await self.took(older)) == 2
        await store.leave(older.incarnation)
        await self.limit(store, concurrency=1)
        assert (await self.limit_view(store)).concurrency == 1

    async def test_nothing_is_left_when_limits_are_gone(self, store: Store) -> None:
        await self.limit(store, "work", "other", concurrency=1, rate="100/s", burst=10)
        await self.set_limit(store, concurrency=2)
        await store.pause_kind("other", True, "note")
        await store.enqueue([*self.make.instances(2, retention_us=0)])
        peer = await self.join(store)
        for claim in await peer.take():
            await peer.end(claim)
        await store.throttle("shared", 60_000_000)
        await self.unlimit(store, "work", "other")
        await self.set_limit(store)
        await store.pause_kind("other", False)
        assert await self.check_all(store) == 0
        await store.leave(peer.incarnation)
        for _ in range(3):
            await store.expire(10)
        await self.assert_nothing_left(store)
