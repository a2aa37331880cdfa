"""Key limits: of each key, so many instances are in the queue or claimed, and the others wait in no queue."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from peerjob.model.firing import FireOutcome, Overlap
from peerjob.model.record import Ack, Action
from peerjob.model.run_now import RunNow
from peerjob.model.state import State
from peerjob.model.stored_limit import MAX_HOLDERS
from peerjob.store.base import Store
from peerjob.testing.factories import outcome

from .limit_suite import LimitSuite
from .suite import PLAIN_ACTIONS, ids_of
from .timetable import ScheduleSuite


class KeyLimitRules(LimitSuite, ScheduleSuite):
    """Rules of the count of a key: when an instance takes a place, and when it frees it."""

    async def test_a_key_has_so_many_instances_in_the_queue(self, store: Store) -> None:
        await self.limit_keys(store)
        limited, other = self.keyed(5, concurrency=2), self.keyed(1, "b")
        bare = self.make.instances(3)
        await store.enqueue([*limited, *other, *bare])
        views = await self.keys(store)
        assert {key: (view.concurrency, view.admitted, view.waiting) for key, view in views.items()} == {
            "": (None, 3, 0),
            "a": (2, 2, 3),
            "b": (1, 1, 0),
        }
        assert await store.due(["work"]) == {"work": 6}
        health = await store.health()
        assert (health.delayed, health.counts["work"]) == (0, {State.SCHEDULED: 9})
        peer = await self.join(store)
        claims = await self.took(peer)
        assert ids_of(claims) == [*ids_of(limited[:2]), *ids_of(other), *ids_of(bare)]
        assert await self.counts_of(store) == (2, 3)
        assert await self.counts_of(store, "b") == (1, 0)

    @pytest.mark.parametrize("way", ["enqueue", "fire"])
    async def test_a_key_counts_although_no_node_has_published_a_limit(self, store: Store, way: str) -> None:
        """As when a web application schedules before the first node with workers starts."""
        first, second = self.keyed(2)
        if way == "enqueue":
            await store.enqueue([first])
        else:
            await self.schedule(store)
            await self.fired(store, instance=first)
        await store.enqueue([second])
        assert await self.counts_of(store) == (1, 1)
        peer = await self.join(store)
        assert await self.drained(peer) == [first.id, second.id]
        assert await self.keys(store) == {}

    async def test_each_kind_has_its_own_keys(self, store: Store) -> None:
        await self.limit_keys(store)
        await self.limit_keys(store, kind="other")
        await store.enqueue([*self.keyed(2), *self.keyed(2, kind="other")])
        peer = await self.join(store, kinds=("work", "other"))
        assert len(await self.took(peer)) == 2
        assert await self.counts_of(store, kind="other") == (1, 1)

    @pytest.mark.parametrize(
        "ending",
        [
            *(action.value for action in PLAIN_ACTIONS if action not in (Action.REPORT, Action.RELEASE)),
            "leave",
            "die",
            "poison",
            "cancel, release",
            "cancel, leave",
            "cancel, die",
        ],
    )
    async def test_the_next_instance_of_the_key_goes_after(self, store: Store, ending: str) -> None:
        await self.limit_keys(store)
        first, second, third = self.keyed(3, max_crashes=0 if ending == "poison" else 10)
        await store.enqueue([first, second, third])
        peer, sleeper = await self.join(store), await self.join(store, "sleeper")
        claim = await peer.take_one()
        await sleeper.claim()
        await self.hints(sleeper)
        if ending.startswith("cancel, "):
            assert await self.cancel(store, claim.id) == [State.PROCESSING]
            assert await self.counts_of(store) == (1, 2), "the body of a cancelled instance keeps its place"
            assert await store.key_holders("work", "a") == [claim.id]
        match ending.removeprefix("cancel, "):
            case "leave":
                await store.leave(peer.incarnation)
            case "die" | "poison":
                if not ending.startswith("cancel"):
                    await peer.report(claim, started=True)
                await store.join(peer.info, ttl_us=round(self.short_ttl * 1_000_000))
                await self.reap(await self.join(store, "reaper", ()))
            case action:
                await peer.end(claim, Action(action), delay_us=60_000_000)
        assert await self.woken([sleeper], 1) == ["sleeper"]
        comes_back = ending in ("hand_back", "leave", "die")
        assert await self.counts_of(store) == ((1, 2) if comes_back else (1, 1))
        assert (await sleeper.take_one()).id == (first.id if comes_back else second.id)
        assert await sleeper.take() == ()

    async def test_a_turn_ends_and_claims_the_next(self, store: Store) -> None:
        await self.limit_keys(store)
        batch = [*self.keyed(3), *self.keyed(3, "b")]
        await store.enqueue(batch)
        peer, sleeper = await self.join(store), await self.join(store, "sleeper")
        claims = await peer.take()
        await sleeper.claim()
        await self.hints(sleeper)
        for expected in (batch[1::3], batch[2::3], []):
            _, claimed = await store.turn(
                peer.incarnation, [outcome(claim) for claim in claims], peer.want(), request=self.make.request()
            )
            claims = claimed.claims
            assert sorted(ids_of(claims)) == ids_of(expected)
        assert await self.woken([sleeper]) == [], "what passed is claimed"
        assert await self.keys(store) == {}

    @pytest.mark.parametrize("wants", [True, False])
    async def test_a_turn_wakes_a_node_for_what_passes_and_is_left(self, store: Store, wants: bool) -> None:
        """Also if the claim of the turn does not want that kind."""
        await self.limit_keys(store)
        await store.enqueue([*self.keyed(2), *self.keyed(2, "b")])
        peer, sleeper = await self.join(store, kinds=("work", "other")), await self.join(store, "sleeper")
        outcomes = [outcome(claim) for claim in await peer.take()]
        await sleeper.claim()
        await self.hints(sleeper)
        want = peer.want(1, kinds=None if wants else {"other": 1})
        _, claimed = await store.turn(peer.incarnation, outcomes, want, request=self.make.request())
        assert len(claimed.claims) == wants
        assert await self.woken([sleeper], 1) == ["sleeper"]

    async def test_two_ends_of_one_request_let_two_go(self, store: Store) -> None:
        await self.limit_keys(store)
        batch = self.keyed(5, concurrency=2)
        await store.enqueue(batch)
        peer = await self.join(store)
        request = self.make.request()
        outcomes = [outcome(claim) for claim in await peer.take()]
        for _ in range(2):
            assert await peer.commit(*outcomes, request=request) == [Ack.DONE] * 2
            assert await self.counts_of(store) == (2, 1)
        assert ids_of(await self.took(peer)) == ids_of(batch[2:4])

    async def test_a_repeated_enqueue_counts_once(self, store: Store) -> None:
        await self.limit_keys(store)
        batch = self.keyed(3)
        unique, same = self.unique(), self.unique()
        for _ in range(3):
            await store.enqueue([*batch, unique])
            await store.enqueue([same])
        assert await self.counts_of(store) == (1, 2)
        assert await self.counts_of(store, "b") == (1, 0)

    async def test_a_repeated_enqueue_beside_one_that_waits_counts_once(self, store: Store) -> None:
        """Also if the later one has brought another concurrency."""
        await self.limit_keys(store)
        await self.set_key_limit(store, 1)
        (first,), (second,) = self.keyed(1), self.keyed(1, concurrency=2)
        for new in (first, second, first):
            await store.enqueue([new])
        assert await self.counts_of(store) == (1, 1)
        assert await self.drained(await self.join(store)) == [first.id, second.id]

    async def test_a_delayed_instance_holds_nothing(self, store: Store) -> None:
        await self.limit_keys(store)
        (delayed,) = self.keyed(1, delay_us=300_000)
        (first,) = self.keyed(1)
        began = self.clock.elapsed()
        await store.enqueue([delayed, first])
        seen = (await self.counts_of(store), (await store.health()).delayed)
        assert seen == ((1, 0), 1) or self.paused(began, 0.3)
        assert (await store.limit_keys([delayed.id]))[0] is not None
        peer = await self.join(store)
        claim = await peer.take_one()
        assert claim.id == first.id
        await self.pass_time(0.31)
        assert await peer.take() == ()
        assert await self.counts_of(store) == (1, 1)
        assert (await store.health()).delayed == 0
        assert await store.due(["work"]) == {}
        if self.renewals_tell:
            assert (await peer.renew(claim)).work_due is False
        await peer.end(claim)
        assert (await peer.take_one()).id == delayed.id

    async def test_delayed_instances_that_fall_due_together_pass_once_each(self, store: Store) -> None:
        await self.limit_keys(store)
        batch = [*self.keyed(4, delay_us=200_000), *self.keyed(2, "b", delay_us=200_000)]
        await store.enqueue(batch)
        await self.pass_time(0.21)
        peer = await self.join(store)
        assert ids_of(await self.took(peer)) == [batch[0].id, batch[4].id]
        assert await self.counts_of(store) == (1, 3)

    async def test_run_now_comes_to_the_gate(self, store: Store) -> None:
        await self.limit_keys(store)
        (delayed,) = self.keyed(1, delay_us=60_000_000)
        await store.enqueue([delayed, *self.keyed(1)])
        assert await store.run_now([delayed.id], request=self.make.request()) == [RunNow.DUE_NOW]
        assert await self.counts_of(store) == (1, 1)
        assert await store.run_now([delayed.id], request=self.make.request()) == [RunNow.WAS_DUE]
        assert await self.counts_of(store) == (1, 1)

    @pytest.mark.parametrize("which", ["waiter", "queued", "both", "all", "claimed and waiter"])
    async def test_a_cancel_lets_the_right_one_go(self, store: Store, which: str) -> None:
        await self.limit_keys(store)
        batch = self.keyed(4)
        await store.enqueue(batch)
        peer = await self.join(store)
        ids = [new.id for new in batch]
        if which == "claimed and waiter":
            claim = await peer.take_one()
            await self.cancel(store, ids[0], ids[1])
            assert await self.counts_of(store) == (1, 2)
            assert await peer.take() == ()
            await peer.end(claim, Action.RELEASE)
            expected = ids[2:]
        else:
            gone = {"waiter": ids[1:2], "queued": ids[:1], "both": ids[:2], "all": ids}[which]
            request = self.make.request()
            for _ in range(2):
                assert await store.cancel(gone, request=request) == [State.SCHEDULED] * len(gone)
            expected = [id for id in ids if id not in gone]
        assert await self.counts_of(store) == ((1, len(expected) - 1) if expected else (0, 0))
        assert await self.drained(peer) == expected
        assert await self.keys(store) == {}

    async def test_a_waiting_instance_wakes_no_node(self, store: Store) -> None:
        await self.limit_keys(store)
        await store.enqueue(self.keyed(1))
        peer = await self.join(store)
        claim = await peer.take_one()
        await peer.claim()
        await self.hints(peer)
        await store.enqueue(self.keyed(3))
        assert await self.woken([peer]) == []
        if self.renewals_tell:
            assert (await peer.renew(claim)).work_due is False
        await store.enqueue(self.keyed(1, "b"))
        assert await self.woken([peer], 1) == ["node"]

    async def test_the_last_concurrency_holds_while_instances_wait(self, store: Store) -> None:
        await self.limit_keys(store)
        await store.enqueue(self.keyed(4, concurrency=2))
        await store.enqueue(self.keyed(1))
        peer = await self.join(store)
        for claim in await peer.take():
            await peer.end(claim)
        assert await self.counts_of(store) == (1, 2)

    async def test_a_batch_keeps_the_set_concurrency(self, store: Store) -> None:
        await self.limit_keys(store, 20)
        assert await self.set_key_limit(store, 2)
        await store.enqueue(self.keyed(8, concurrency=20))
        assert await self.counts_of(store) == (2, 6)

    async def test_more_concurrency_of_the_kind_lets_more_go_at_once(self, store: Store) -> None:
        await self.limit_keys(store)
        await store.enqueue([*self.keyed(5), *self.keyed(3, "b")])
        peer = await self.join(store)
        assert len(await self.took(peer)) == 2
        await self.hints(peer)
        assert await self.set_key_limit(store, 3)
        assert await self.woken([peer], 1) == ["node"]
        assert await self.counts_of(store) == (3, 2)
        assert len(await self.took(peer)) == 4
        (view,) = await self.views(store, "work")
        assert (view.kinds, view.name, view.concurrency, view.source) == (("work",), "", 3, "setting")
        assert await self.set_key_limit(store)
        assert await self.counts_of(store) == (3, 2)
        (view,) = await self.views(store, "work")
        assert (view.concurrency, view.source) == (1, "code")

    async def test_less_concurrency_takes_nothing_back(self, store: Store) -> None:
        await self.limit_keys(store, 3)
        await store.enqueue(self.keyed(5, concurrency=3))
        peer = await self.join(store)
        claims = await self.took(peer)
        assert await self.set_key_limit(store, 1)
        for claim, left in zip(claims, ((2, 2), (1, 2), (1, 1)), strict=True):
            await peer.end(claim)
            assert await self.counts_of(store) == left

    async def test_the_concurrency_of_the_last_enqueue_counts(self, store: Store) -> None:
        await self.limit_keys(store)
        await store.enqueue(self.keyed(2))
        await store.enqueue(self.keyed(1, concurrency=3))
        assert await self.counts_of(store) == (3, 0)
        await store.enqueue(self.keyed(1))
        assert await self.counts_of(store) == (3, 1)
        peer = await self.join(store)
        for left in ((2, 1), (1, 1), (1, 0)):
            await peer.end(await peer.take_one())
            assert await self.counts_of(store) == left

    @pytest.mark.parametrize("refused", ["its unique key is taken", "its unique key comes before it", "it repeats"])
    async def test_a_refused_instance_brings_no_concurrency(self, store: Store, refused: str) -> None:
        await self.limit_keys(store)
        holder = replace(self.keyed(1)[0], key="unique")
        await store.enqueue([holder])
        first, second = self.keyed(2, concurrency=2)
        (other,) = self.keyed(1, concurrency=4)
        batch = {
            "its unique key is taken": [first, second, replace(other, key="unique")],
            "its unique key comes before it": [replace(first, key="new"), second, replace(other, key="new")],
            "it repeats": [first, second, replace(other, id=holder.id)],
        }[refused]
        await store.enqueue(batch)
        assert (await self.keys(store))["a"].concurrency == 2
        assert await self.counts_of(store) == (2, 1)

    async def test_a_returning_instance_keeps_the_concurrency_of_its_key(self, store: Store) -> None:
        await self.limit_keys(store)
        await store.enqueue(self.keyed(3, concurrency=3))
        await store.enqueue(self.keyed(1, concurrency=1))
        began = self.clock.elapsed()
        await store.enqueue(self.keyed(1, concurrency=3, delay_us=200_000))
        peer = await self.join(store)
        claim = await peer.take_one()
        await peer.end(claim, Action.HAND_BACK)
        assert await self.counts_of(store) == (2, 2) or self.paused(began, 0.2)
        await self.pass_time(0.21)
        await peer.take(1)
        assert await self.counts_of(store) == (2, 3)

    @pytest.mark.parametrize("way", ["clear", "clear claimed", "end", "cancel", "cancel late"])
    async def test_nothing_stays_of_a_key_without_instances(self, store: Store, way: str) -> None:
        """Nor the concurrency that the last enqueue has set."""
        await self.limit_keys(store)
        first, second = self.keyed(1, concurrency=3), self.keyed(1)
        await store.enqueue([*first, *second])
        peer = await self.join(store)
        if way == "clear claimed":
            await peer.take_one()
            await store.clear()
        elif way == "end":
            assert await self.drained(peer) == ids_of([*first, *second])
        elif way == "cancel":
            await self.cancel(store, *ids_of([*second, *first]))
        elif way == "cancel late":
            claim = await peer.take_one()
            await self.cancel(store, *ids_of(second))
            await peer.end(claim)
        await store.leave(peer.incarnation)
        await store.clear()
        await store.expire(100)
        await self.unlimit(store)
        await self.assert_nothing_left(store)

    @pytest.mark.parametrize("together", [False, True])
    async def test_a_key_without_instances_has_no_concurrency(self, store: Store, together: bool) -> None:
        """So one that was delayed brings its own, also in the turn that ends the last instance of the key."""
        await self.limit_keys(store)
        await store.enqueue([*self.keyed(1), *self.keyed(1, concurrency=3)])
        peer = await self.join(store)
        outcomes = [outcome(claim) for claim in await peer.take(2)]
        assert len(outcomes) == 2
        # after that claim, since a claim moves delayed instances that are due after a stall
        await store.enqueue(self.keyed(2, concurrency=2, delay_us=200_000))
        if not together:
            await peer.commit(*outcomes)
            outcomes = []
        await self.pass_time(0.21)
        await store.turn(peer.incarnation, outcomes, peer.want(1), request=self.make.request())
        assert (await self.keys(store))["a"].concurrency == 2

    async def test_many_waiting_keys_open_together(self, store: Store) -> None:
        await self.limit_keys(store)
        keys = [f"key {number:04}" for number in range(60)]
        for at in range(0, 60, 20):
            await store.enqueue([new for key in keys[at : at + 20] for new in self.keyed(2, key)])
        assert sum(view.waiting for view in (await self.keys(store)).values()) == 60
        await self.set_key_limit(store, 2)
        assert sum(view.admitted for view in (await self.keys(store)).values()) == 120
        assert await self.check_all(store) == 0

    async def test_an_instance_waits_for_its_slot_first(self, store: Store) -> None:
        await self.limit_keys(store)
        await self.schedule(store)
        (first,) = self.keyed(1)
        (second,) = self.keyed(1)
        await self.fired(store, overlap=Overlap.QUEUE, instance=first)
        assert (await self.fired(store, 1, overlap=Overlap.QUEUE, instance=second)).parked
        assert await self.counts_of(store) == (1, 0)
        peer = await self.join(store)
        claim = await peer.take_one()
        (between,) = self.keyed(1)
        await store.enqueue([between])
        assert await self.counts_of(store) == (1, 1)
        await peer.end(claim)
        assert await self.held(store) == (second.id, ())
        assert await self.counts_of(store) == (1, 1), "second has the slot, and is earlier than the one between"
        assert await self.drained(peer) == [second.id, between.id]
        assert await self.held(store) == ("", ())
        assert await self.keys(store) == {}

    async def test_a_fire_comes_to_the_gate(self, store: Store) -> None:
        await self.limit_keys(store)
        await self.schedule(store)
        await store.enqueue(self.keyed(1))
        (new,) = self.keyed(1)
        assert (await self.fired(store, instance=new)).outcome is FireOutcome.FIRED
        assert await self.counts_of(store) == (1, 1)

    async def test_a_fire_replaces_the_last_instance_of_a_key(self, store: Store) -> None:
        await self.schedule(store)
        instances = [self.keyed(1, concurrency=concurrency)[0] for concurrency in (3, 2, 4)]
        await self.fired(store, instance=instances[0], overlap=Overlap.REPLACE)
        await store.enqueue([instances[1]])
        await self.cancel(store, instances[1].id)
        record = await self.fired(store, 1, instance=instances[2], overlap=Overlap.REPLACE)
        assert record.cancelled == instances[0].id
        more = self.keyed(4, concurrency=4)
        await store.enqueue(more)
        assert await self.counts_of(store) == (4, 1)
        peer = await self.join(store)
        assert await self.drained(peer) == [instances[2].id, *ids_of(more)]

    async def test_a_fire_takes_a_place_from_another_before_the_next_fire_of_its_call(self, store: Store) -> None:
        await self.limit_keys(store)
        row = await self.schedule(store)
        (first,), (second,) = self.keyed(1, priority=9), self.keyed(1, "b", priority=9)
        await store.enqueue([first, second])
        await self.pass_time(0.01)
        (better,) = self.keyed(1)
        fires = [self.a_fire(row, instance=better, overlap=Overlap.SKIP), self.a_fire(row, 1, overlap=Overlap.REPLACE)]
        _, record = await self.done(store, *fires)
        assert record.cancelled == better.id
        peer = await self.join(store)
        assert await self.drained(peer) == [record.instance, second.id, first.id]

    async def test_a_key_and_a_shared_limit_both_count(self, store: Store) -> None:
        await self.limit(store, concurrency=2)
        await store.pause_kind("unused", True)
        await store.enqueue([new for key in "abcd" for new in self.keyed(2, key)])
        assert (await self.limit_view(store)).waiting == 4
        peer = await self.join(store)
        ids: list[str] = []
        while claims := await self.took(peer):
            assert len(claims) <= 2
            ids += ids_of(claims)
            await peer.commit(*map(outcome, claims))
        assert len(set(ids)) == 8

    async def test_the_views_of_keys(self, store: Store) -> None:
        await self.limit_keys(store)
        keys = ["", "host/a", "host/b", "tenant/1", "tenant/" + "\U0001f600" * 190]
        for key in keys[1:]:
            await store.enqueue(self.keyed(1, key))
        await store.enqueue(self.keyed(MAX_HOLDERS + 2, "host/a", MAX_HOLDERS + 2))
        await store.enqueue(self.keyed(1, "host/a", 1))
        (bare,) = self.make.instances(1, delay_us=60_000_000)
        await store.enqueue([bare, *self.keyed(2, "later", delay_us=60_000_000)])
        assert sorted(await self.keys(store)) == sorted(keys)
        assert (await self.keys(store))[""].admitted == 1
        assert sorted(await self.keys(store, prefix="host/")) == ["host/a", "host/b"]
        assert list(await self.keys(store, waiting_only=True)) == ["host/a"]
        assert await self.keys(store, "unknown") == {}
        assert len(await store.key_holders("work", "host/a")) == MAX_HOLDERS
        assert await store.key_holders("work", "unknown") == []
        (waiter,) = self.keyed(1, "host/b", 1)
        await store.enqueue([waiter])
        (holder,) = await store.key_holders("work", "host/b")
        waiting, admitted, no_key, unknown = await store.limit_keys([waiter.id, holder, bare.id, self.make.id()])
        assert waiting is not None
        assert (waiting.key, waiting.concurrency, waiting.waiting) == ("host/b", 1, True)
        assert admitted is not None
        assert (admitted.key, admitted.waiting) == ("host/b", False)
        assert (no_key, unknown) == (None, None)

    async def test_nothing_is_left_of_keys(self, store: Store) -> None:
        await self.limit_keys(store)
        peer = await self.join(store)
        await store.enqueue([*self.keyed(4, retention_us=0), *self.keyed(2, "b", delay_us=60_000_000)])
        await peer.end(await peer.take_one())
        await peer.end(await peer.take_one(), Action.SNOOZE, delay_us=60_000_000)
        await store.clear()
        assert await self.keys(store) == {}
        await store.enqueue(self.keyed(2, retention_us=0))
        assert await self.counts_of(store) == (1, 1)
        assert len(await self.drained(peer)) == 2
        await self.unlimit(store)
        await store.leave(peer.incarnation)
        await self.pass_time(0.01)
        for _ in range(3):
            await store.expire(10)
        assert await self.check_all(store) == 0
        await self.assert_nothing_left(store)
