"""BOUNDED: retention removes final instances with all their data, and nothing else."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from peerjob.model.clock import to_datetime
from peerjob.model.query import Filter, Query
from peerjob.model.record import Ack, Action, Enqueued, NewInstance, Page, StoreLimits
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.testing.factories import Peer, outcome

from .suite import StoreSuite, ids_of

SOON = 200_000
"""Microseconds that are short enough for a test to wait."""


class RetentionRules(StoreSuite):
    """Rules of `expire` and of the clear commands."""

    async def finish(self, peer: Peer, *batch: NewInstance, lines: int = 1) -> None:
        """Enqueue instances and complete them, each with a number of log lines."""
        await peer.store.enqueue(batch)
        claims = await peer.take()
        logs = tuple(self.make.line("line") for _ in range(lines))
        assert await peer.commit(*(outcome(claim, logs=logs) for claim in claims)) == [Ack.DONE] * len(batch)

    async def expire_all(self, store: Store) -> int:
        """Expire until nothing is left to remove."""
        total = 0
        while removed := await store.expire(100):
            total += removed
        return total

    async def assert_gone(self, store: Store, *batch: NewInstance) -> None:
        """Assert that no data of these instances is visible any more."""
        for new in batch:
            assert await store.get([new.id]) == [None]
            assert await self.lines(store, new.id) == ()
            for query in (Query(), Query(kind=new.kind), Query(uuid=new.id), Query(state="Final")):
                assert new.id not in await self.found(store, query)
            for tag in new.tags:
                assert new.id not in await self.found(store, Query(tag=tag))

    async def crowd(self, store: Store) -> tuple[list[NewInstance], list[NewInstance]]:
        """Three final instances, and four others; each with a tag, a key and, if it ran, a log line."""
        peer = await self.join(store)
        final = [self.make.instance(tags=("t",), key=f"final {number}") for number in range(3)]
        await self.finish(peer, *final)
        active = [
            self.make.instance(tags=("t",), key="active 0"),
            self.make.instance(tags=("t",), key="active 1", delay_us=60_000_000),
            self.make.instance(tags=("t",), key="active 2", priority=0),
            self.make.instance(tags=("t",), key="active 3", priority=1),
        ]
        await store.enqueue(active)
        running, retried = await peer.take(2)
        await peer.report(running, progress=b"half", logs=(self.make.line("line"),))
        await peer.end(retried, Action.RETRY, delay_us=60_000_000, logs=(self.make.line("line"),))
        return final, active

    # -- removal by age

    async def test_an_instance_is_removed_when_its_time_is_over(self, store: Store) -> None:
        peer = await self.join(store)
        short = self.make.instance(retention_us=SOON, tags=("t",), key="k")
        long = self.make.instance(retention_us=60_000_000, tags=("t",))
        default = self.make.instance(tags=("t",))
        await self.finish(peer, short, long, default)
        await self.pass_time(0.25)
        assert await self.expire_all(store) == 1
        await self.assert_gone(store, short)
        assert await self.found(store, Query(tag="t")) == [long.id, default.id]
        assert await self.counts(store) == {State.COMPLETED: 2}

    async def test_nothing_is_removed_before_its_time(self, store: Store) -> None:
        peer = await self.join(store)
        await self.finish(peer, *self.make.instances(3, retention_us=60_000_000))
        await self.finish(peer, *self.make.instances(3))
        assert await store.expire(100) == 0
        assert await self.counts(store) == {State.COMPLETED: 6}

    async def test_the_store_has_a_default(self, store: Store) -> None:
        brief = await self.open(StoreLimits(retention_us=SOON))
        peer = await self.join(brief)
        default = self.make.instance()
        long = self.make.instance(retention_us=60_000_000)
        await self.finish(peer, default, long)
        await self.pass_time(0.25)
        assert await self.expire_all(brief) == 1
        await self.assert_gone(brief, default)

    @pytest.mark.parametrize("ending", [Action.COMPLETE, Action.TERMINATE, Action.TIME_OUT, Action.CANCEL, None])
    async def test_every_final_state_is_removed(self, store: Store, ending: Action | None) -> None:
        (new,) = self.make.instances(1, retention_us=SOON, tags=("t",))
        await store.enqueue([new])
        if ending is None:
            await store.cancel([new.id], request=self.make.request())
        else:
            peer = await self.join(store)
            await peer.end(await peer.take_one(), ending)
        await self.pass_time(0.25)
        assert await self.expire_all(store) == 1
        await self.assert_gone(store, new)
        assert await self.counts(store) == {}
        for query in (Query(tag="t", limit=1), Query(kind="work", limit=1), Query(state="Final", limit=1)):
            assert await store.lookup(query) == Page((), None)

    @pytest.mark.parametrize("way", ["expire", "many", "clear_instances", "clear"])
    async def test_an_enqueue_that_comes_again_after_the_removal_makes_nothing(self, store: Store, way: str) -> None:
        """The first answer was lost, but a peer ran the job: it must not run twice."""
        if way == "many":
            store = await self.open(StoreLimits(max_final_per_kind=1))
        peer = await self.join(store)
        kept_us = SOON if way == "expire" else None
        plain = self.make.instance(retention_us=kept_us)
        keyed = self.make.instance(retention_us=kept_us, tags=("t",), key="k")
        lines = (self.make.line("one"), self.make.line("two"))
        for new in (plain, keyed):
            await store.enqueue([new])
            await peer.end(await peer.take_one(), result=b"first", progress=b"first", logs=lines)
        match way:
            case "expire":
                await self.pass_time(0.25)
                await self.expire_all(store)
            case "many":
                await self.finish(peer, self.make.instance())
                await self.finish(peer, self.make.instance())
                await self.expire_all(store)
            case "clear_instances":
                await store.clear_instances(Filter())
            case _:
                await store.clear()
        await self.assert_gone(store, plain, keyed)
        before = await self.counts(store)

        assert await store.enqueue([plain]) == [Enqueued(plain.id, True, repeated=True)]
        assert await store.enqueue([keyed]) == [Enqueued(keyed.id, True, repeated=True)]
        another = self.make.instance(key="k")
        assert await store.enqueue([keyed, another, plain]) == [
            Enqueued(keyed.id, True, repeated=True),
            Enqueued(another.id, True),
            Enqueued(plain.id, True, repeated=True),
        ]
        assert [claim.id for claim in await peer.take()] == [another.id]
        await self.assert_gone(store, plain, keyed)
        assert await store.cancel([plain.id], request=self.make.request()) == [None]
        assert await store.watch_final(peer.incarnation, [plain.id]) == [None]
        assert (await self.counts(store)).get(State.COMPLETED) == before.get(State.COMPLETED)
        assert (await store.health()).undecodable == 0
        # nothing is left to remove, and `clear` must still return
        await store.clear()
        await self.assert_gone(store, plain, keyed)

    async def test_the_time_counts_from_the_end(self, store: Store) -> None:
        peer = await self.join(store)
        long_ago = self.clock.time_us() - 86_400_000_000
        old = self.make.instance(id=self.make.id(long_ago), due_us=long_ago, retention_us=60_000_000)
        await self.finish(peer, old)
        assert await self.expire_all(store) == 0

    async def test_what_is_not_final_never_leaves(self, store: Store) -> None:
        brief = await self.open(StoreLimits(retention_us=SOON, max_final_per_kind=1))
        final, active = await self.crowd(brief)
        await self.pass_time(0.25)
        await self.expire_all(brief)
        await self.assert_gone(brief, *final)
        assert await self.found(brief, Query(tag="t")) == [new.id for new in active]

    @pytest.mark.parametrize("way", ["expire", "clear"])
    async def test_what_was_cancelled_is_held_until_its_body_ends(self, store: Store, way: str) -> None:
        first, second, third = self.make.instances(3, key="k", retention_us=SOON)
        await store.enqueue([first])
        peer = await self.join(store)
        claim = await peer.take_one()
        await store.cancel([first.id], request=self.make.request())
        await self.pass_time(0.25)

        async def remove() -> None:
            if way == "clear":
                await store.clear_instances(Filter())
            await self.expire_all(store)

        await remove()
        assert await store.enqueue([second]) == [Enqueued(first.id, False)]
        assert (await peer.renew(claim)).cancelled == (first.id,)
        assert await peer.report(claim, progress=b"half") is Ack.CANCELLED
        assert await peer.end(claim, Action.RELEASE) is Ack.CANCELLED
        await self.pass_time(0.25)
        await remove()
        await self.assert_gone(store, first)
        assert await store.enqueue([third]) == [Enqueued(third.id, True)]

    async def test_expire_is_bounded(self, store: Store) -> None:
        peer = await self.join(store)
        await self.finish(peer, *self.make.instances(10, retention_us=SOON))
        await self.pass_time(0.25)
        assert await store.expire(3) == 3
        assert await self.counts(store) == {State.COMPLETED: 7}
        assert await self.expire_all(store) == 7

    async def test_commits_remove_up_to_twice_what_they_add(self, store: Store) -> None:
        peer = await self.join(store)
        await self.finish(peer, *self.make.instances(9, retention_us=SOON))
        await self.pass_time(0.25)
        left = 9
        for added in range(1, 10):
            await self.finish(peer, *self.make.instances(1))
            now_left = (await self.counts(store))[State.COMPLETED] - added
            assert left - 2 <= now_left <= left
            left = now_left
        assert left == 0

    @pytest.mark.parametrize(("ended", "lines"), [(1, 1), (1, 0), (3, 0)])
    async def test_commits_catch_up_with_what_has_expired(self, store: Store, ended: int, lines: int) -> None:
        """Each commit removes more than it adds, whether it ends one instance or several of a kind."""
        peer = await self.join(store)
        await self.finish(peer, *self.make.instances(12, retention_us=SOON))
        await self.pass_time(0.25)
        for commits in range(1, 12 // (2 * ended) + 1):
            await self.finish(peer, *self.make.instances(ended), lines=lines)
            assert await self.counts(store) == {State.COMPLETED: 12 - commits * ended}

    @pytest.mark.parametrize(("ended", "lines"), [(1, 1), (1, 0), (3, 0)])
    async def test_commits_catch_up_with_too_many_of_a_kind(self, store: Store, ended: int, lines: int) -> None:
        peer = await self.join(store)
        await self.finish(peer, *self.make.instances(12))
        few = await self.open(StoreLimits(max_final_per_kind=2))
        other = await self.join(few)
        for commits in range(1, 3):
            await self.finish(other, *self.make.instances(ended), lines=lines)
            assert await self.counts(store) == {State.COMPLETED: 12 - commits * ended}

    # -- removal above the number of final instances

    async def test_only_so_many_are_kept_per_kind(self, store: Store) -> None:
        few = await self.open(StoreLimits(max_final_per_kind=5))
        peer = await self.join(few, kinds=("work", "other"))
        batch = self.make.instances(12)
        for new in batch:
            await self.finish(peer, new)
        others = self.make.instances(4, kind="other")
        await self.finish(peer, *others)
        await self.expire_all(few)
        assert await self.found(few, Query(kind="work")) == [new.id for new in batch[-5:]]
        assert await self.found(few, Query(kind="other")) == [new.id for new in others]
        await self.assert_gone(few, *batch[:-5])

    async def test_what_has_expired_does_not_count_as_too_many(self, store: Store) -> None:
        few = await self.open(StoreLimits(max_final_per_kind=2))
        peer = await self.join(few)
        kept, later = self.make.instances(2)
        await self.finish(peer, kept, self.make.instance(retention_us=SOON))
        await self.pass_time(0.25)
        await self.finish(peer, later)
        await self.expire_all(few)
        assert await self.found(few, Query()) == [kept.id, later.id]

    # -- removal on request

    async def test_clear_instances_takes_the_final_ones(self, store: Store) -> None:
        final, active = await self.crowd(store)
        before = await self.everything(store, *(new.id for new in active))
        assert await store.clear_instances(Filter()) == 3
        assert await store.clear_instances(Filter()) == 0
        await self.assert_gone(store, *final)
        assert await self.everything(store, *(new.id for new in active)) == before
        assert await self.counts(store) == {State.SCHEDULED: 3, State.PROCESSING: 1}
        again = [self.make.instance(key=new.key) for new in active]
        assert await store.enqueue(again) == [Enqueued(new.id, False) for new in active]

    async def test_clear_instances_is_bounded(self, store: Store) -> None:
        await self.finish(await self.join(store), *self.make.instances(10))
        removed = [await store.clear_instances(Filter(), limit=4) for _ in range(3)]
        assert all(count <= 4 for count in removed)
        while count := await store.clear_instances(Filter(), limit=4):
            removed.append(count)
        assert sum(removed) == 10

    async def test_clear_instances_goes_past_what_cannot_go(self, store: Store) -> None:
        """Cancelled instances whose bodies still run stay, and may fill more than one page."""
        peer = await self.join(store)
        batch = self.make.instances(620)
        for part in (batch[:500], batch[500:]):
            await store.enqueue(part)
        running = ids_of([*await peer.take(500), *await peer.take(100)])
        for at in range(0, 620, 310):
            await store.cancel([new.id for new in batch[at : at + 310]], request=self.make.request())
        removed = 0
        while count := await store.clear_instances(Filter(), limit=15):
            removed += count
        assert (removed, len(running)) == (20, 600)
        assert await self.counts(store) == {State.CANCELLED: 600}

    async def test_clear_instances_by_time(self, store: Store) -> None:
        now = self.clock.time_us() // 1000 * 1000
        hour = 3_600_000_000
        old, middle, young = (self.make.instance(id=self.make.id(now - hours * hour)) for hours in (3, 2, 1))
        await self.finish(await self.join(store), young, old, middle)

        async def clear(which: Filter) -> int:
            total = 0
            while removed := await store.clear_instances(which):
                total += removed
            return total

        two_hours_ago = to_datetime(now - 2 * hour)
        assert await clear(Filter(before=to_datetime(now - 3 * hour))) == 0
        assert await clear(Filter(older_than="4h")) == 0
        assert await clear(Filter(older_than="150m")) == 1
        assert await self.found(store, Query()) == [middle.id, young.id]
        assert await clear(Filter(after=two_hours_ago, before=to_datetime(now - hour))) == 1
        assert await self.found(store, Query()) == [young.id]
        assert await clear(Filter(after=to_datetime(now))) == 0
        assert await clear(Filter(after=two_hours_ago)) == 1

    async def test_clear_history_keeps_the_last_entry(self, store: Store) -> None:
        final, active = await self.crowd(store)
        before = await self.everything(store, *(new.id for new in active))
        last = [(await self.read(store, new.id)).history[-1] for new in final]
        cleared, cursor = await store.clear_history(Filter())
        while cursor is not None:
            count, cursor = await store.clear_history(Filter(), cursor=cursor)
            cleared += count
        assert cleared >= 3
        for new, entry in zip(final, last, strict=True):
            (record,) = await store.get([new.id])
            assert record is not None
            assert len(record.history) == 1
            (kept,) = record.history
            assert (kept.state, kept.at_us) == (entry.state, entry.at_us)
        assert await self.everything(store, *(new.id for new in active)) == before

    async def test_clear_logs_takes_those_of_final_instances(self, store: Store) -> None:
        final, active = await self.crowd(store)
        before = await self.everything(store, *(new.id for new in active))
        cleared, cursor = await store.clear_logs(Filter())
        while cursor is not None:
            count, cursor = await store.clear_logs(Filter(), cursor=cursor)
            cleared += count
        assert cleared >= 3
        for new in final:
            page = await store.logs(new.id)
            assert (page.lines, page.dropped) == ((), 0)
            assert (await self.read(store, new.id)).state == State.COMPLETED
        assert await self.everything(store, *(new.id for new in active)) == before

    async def test_clear_logs_leaves_no_number_of_dropped_lines(self, store: Store) -> None:
        few = await self.open(StoreLimits(max_log_lines=2))
        peer = await self.join(few)
        (new,) = self.make.instances(1)
        await few.enqueue([new])
        claim = await peer.take_one()
        await peer.end(claim, logs=tuple(map(self.make.line, "abc")))
        assert (await few.logs(new.id)).dropped == 1
        await few.clear_logs(Filter())
        page = await few.logs(new.id)
        assert (page.lines, page.dropped) == ((), 0)

    async def test_clear_by_time_spares_the_rest(self, store: Store) -> None:
        now = self.clock.time_us() // 1000 * 1000
        old, young = (self.make.instance(id=self.make.id(now - hours * 3_600_000_000)) for hours in (3, 1))
        await self.finish(await self.join(store), old, young)
        for clear in (store.clear_logs, store.clear_history):
            _, cursor = await clear(Filter(older_than="2h"))
            while cursor is not None:
                _, cursor = await clear(Filter(older_than="2h"), cursor=cursor)
        assert await self.lines(store, old.id) == ()
        assert len(await self.lines(store, young.id)) == 1
        assert len((await self.read(store, young.id)).history) == 4

    async def test_each_clear_heeds_each_bound(self, store: Store) -> None:
        hour, peer = 3_600_000_000, await self.join(store)
        now = self.clock.time_us() // 1000 * 1000
        times = [now - number * hour for number in (4, 3, 2, 1)]
        bounds: list[tuple[str, Any, Callable[[int], bool]]] = [
            ("after", to_datetime(times[1]), lambda at: at >= times[1]),
            ("before", to_datetime(times[3]), lambda at: at < times[3]),
            ("older_than", "150m", lambda at: at < now - 2.5 * hour),
        ]
        for chosen in (combination for size in (1, 2, 3) for combination in itertools.combinations(bounds, size)):
            batch = [self.make.instance(id=self.make.id(at)) for at in times]
            await self.finish(peer, *batch)
            filter = Filter(**{name: value for name, value, _ in chosen})
            cleared = [new.id for new, at in zip(batch, times, strict=True) if all(test(at) for _, _, test in chosen)]
            for clear in (store.clear_logs, store.clear_history):
                _, cursor = await clear(filter)
                while cursor is not None:
                    _, cursor = await clear(filter, cursor=cursor)
            for new in batch:
                assert bool(await self.lines(store, new.id)) == (new.id not in cleared)
                assert (len((await self.read(store, new.id)).history) > 1) == (new.id not in cleared)
            while await store.clear_instances(filter):
                pass
            assert await self.found(store, Query()) == [new.id for new in batch if new.id not in cleared]
            while await store.clear_instances(Filter()):
                pass

    async def test_clear_leaves_no_claim_of_a_cancelled_instance(self, store: Store) -> None:
        """Its body still runs, and its node may die before it knows."""
        await store.enqueue(self.make.instances(2))
        peer = await self.join(store, "holder")
        first, second = await peer.take()
        await store.cancel([first.id, second.id], request=self.make.request())
        await store.clear()
        renewed = await peer.renew()
        assert (renewed.held, renewed.cancelled) == (None, ())
        assert await peer.end(first, Action.RELEASE) is Ack.LOST
        assert await store.leave(peer.incarnation) == 0
        assert (await store.health()).undecodable == 0

    async def test_clear_removes_all_but_the_nodes(self, store: Store) -> None:
        final, active = await self.crowd(store)
        peer = await self.join(store, "holder")
        claim = await peer.take_one()
        await store.clear()

        await self.assert_gone(store, *final, *active)
        assert await self.found(store, Query()) == []
        health = await store.health()
        assert not any(any(of_kind.values()) for of_kind in health.counts.values())
        assert (health.delayed, health.nodes) == (0, 2)
        assert await peer.end(claim) is Ack.LOST
        assert (await peer.renew()).held is None
        claimed = await peer.claim()
        assert (claimed.claims, claimed.dead, claimed.next_due_us) == ((), False, None)

        again = [self.make.instance(key=new.key) for new in (*final, *active)]
        assert await store.enqueue(again) == [Enqueued(new.id, True) for new in again]
        assert len(await peer.take()) == len(again)
