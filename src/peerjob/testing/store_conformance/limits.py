"""Instances with texts of maximum length: every command takes as many of them as of others."""

import logging
from datetime import UTC, datetime

import pytest

from peerjob.model.clock import to_us
from peerjob.model.durations import MAX_SECONDS, to_micros
from peerjob.model.firing import FireOutcome, Overlap
from peerjob.model.limits import MAX_KEY, MAX_KIND, MAX_TAG, MAX_TAGS
from peerjob.model.query import Filter, Query
from peerjob.model.record import LAST_MOMENT_US, MAX_BATCH_BYTES, Action, NewInstance
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.testing.factories import outcome

from .suite import ids_of
from .timetable import ScheduleSuite

WIDE_CHARACTER = "\U0001f600"
"""A character of four bytes in UTF-8. In a key of etcd, the escaped character takes twelve bytes."""


class LimitRules(ScheduleSuite):
    """Rules of long texts, and of many of them."""

    def large(self, number: int, tags: int, kind: str = "") -> NewInstance:
        """An instance with the most bytes besides its arguments."""
        return self.make.instance(
            kind=kind or WIDE_CHARACTER * MAX_KIND,
            key=f"{number:04}" + WIDE_CHARACTER * (MAX_KEY - 4),
            tags=tuple(f"{tag:02}" + WIDE_CHARACTER * (MAX_TAG - 2) for tag in range(tags)),
        )

    @pytest.mark.parametrize(("count", "tags"), [(20, MAX_TAGS), (60, 12), (90, 0)])
    async def test_long_texts_go_through_every_verb(self, store: Store, count: int, tags: int) -> None:
        batch = [self.large(number, tags) for number in range(count)]
        ids = [new.id for new in batch]
        assert all(answer.is_new for answer in await store.enqueue(batch))
        assert [answer.is_new for answer in await store.enqueue([self.large(0, tags)])] == [False]
        peer = await self.join(store, kinds=(batch[0].kind,))
        for action in (Action.RETRY, Action.HAND_BACK):
            claims = await peer.take()
            assert sorted(ids_of(claims)) == ids
            await peer.commit(*(outcome(claim, action) for claim in claims))
        if tags:
            assert await self.found(store, Query(tag=batch[0].tags[-1], limit=count)) == ids
        claims = await peer.take(count // 2)
        await peer.commit(*map(outcome, claims))
        await store.cancel(ids, request=self.make.request())
        counts = {State.COMPLETED: count // 2, State.CANCELLED: count - count // 2}
        assert await self.counts(store, batch[0].kind) == counts
        assert await store.clear_instances(Filter()) == count

    async def test_no_value_about_long_kinds_counts_as_damaged(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        kinds = [f"{number:04}" + WIDE_CHARACTER * (MAX_KIND - 4) for number in range(400)]
        peer = await self.join(store, kinds=kinds)
        batch = [self.make.instance(kind=kind) for kind in kinds[::8]]
        for new in batch:
            await store.enqueue([new])
        claims = await peer.take(len(batch))
        while len(claims) < len(batch):
            claims += await peer.take(len(batch))
        assert {claim.id for claim in claims} == {new.id for new in batch}
        await peer.commit(*map(outcome, claims))
        assert not await peer.take()
        assert (await store.health()).undecodable == 0
        assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []

    async def test_a_claim_ends_before_its_limit_if_arguments_are_large(self, store: Store) -> None:
        batch = [self.make.instance(spec=bytes(MAX_BATCH_BYTES * 3 // 10)) for _ in range(5)]
        for new in batch:
            await store.enqueue([new])
        peer, other = await self.join(store), await self.join(store, "other")
        whole = self.make.instance(spec=bytes(MAX_BATCH_BYTES - 1), priority=9)
        await store.enqueue([whole])
        claims = [await peer.take(10), await other.take(10), await peer.take(10)]
        assert [len(part) for part in claims] == [3, 2, 1]
        assert {claim.id for part in claims for claim in part} == {whole.id, *(new.id for new in batch)}

    async def test_large_arguments_of_a_kind_without_room_end_no_claim(self, store: Store) -> None:
        large = self.make.instances(2, kind="other", spec=bytes(MAX_BATCH_BYTES * 6 // 10), priority=1)
        small = self.make.instances(3, priority=2)
        await store.enqueue([*large, *small])
        peer = await self.join(store, kinds=("work", "other"))
        claimed = await peer.claim(peer.want(10, {"other": 1, "work": 5}))
        assert [claim.id for claim in claimed.claims] == [large[0].id, *(new.id for new in small)]

    async def test_the_longest_delay_loses_nothing(self, store: Store) -> None:
        far_us = to_micros("365000d", "delay")
        late = self.make.instance(delay_us=far_us)
        retried, snoozed = self.make.instances(2)
        await store.enqueue([late, retried, snoozed])
        peer = await self.join(store)
        first, second = await peer.take(2)
        await peer.commit(
            outcome(first, Action.RETRY, delay_us=far_us), outcome(second, Action.SNOOZE, delay_us=far_us)
        )
        for record in await store.get([late.id, retried.id, snoozed.id]):
            assert record is not None
            assert record.state is State.SCHEDULED
            assert record.due_us > to_us(datetime(2255, 1, 1, tzinfo=UTC))
        assert (await store.health()).undecodable == 0
        assert not await peer.take()
        states = await store.cancel([late.id, retried.id, snoozed.id], request=self.make.request())
        assert states == [State.SCHEDULED] * 3

    async def test_a_time_after_the_last_date_loses_nothing(self, store: Store) -> None:
        late = self.make.instance(due_us=LAST_MOMENT_US + to_micros("1000d"))
        later = self.make.instance(delay_us=LAST_MOMENT_US)
        retried, snoozed = self.make.instances(2)
        await store.enqueue([late, later, retried, snoozed])
        peer = await self.join(store)
        first, second = await peer.take(2)
        await peer.commit(
            outcome(first, Action.RETRY, delay_us=LAST_MOMENT_US),
            outcome(second, Action.SNOOZE, delay_us=LAST_MOMENT_US),
        )
        for record in await store.get([late.id, later.id, retried.id, snoozed.id]):
            assert record is not None
            assert record.state is State.SCHEDULED
            assert to_us(datetime(2255, 1, 1, tzinfo=UTC)) < record.due_us <= LAST_MOMENT_US
        assert (await store.health()).undecodable == 0

    async def test_the_longest_retention_keeps_the_instance(self, store: Store) -> None:
        longest_us = to_micros(MAX_SECONDS, "retention")
        (new,) = self.make.instances(1, retention_us=longest_us)
        await store.enqueue([new])
        peer = await self.join(store)
        for state, action in ((State.SCHEDULED, Action.RETRY), (State.COMPLETED, Action.COMPLETE)):
            await peer.end(await peer.take_one(), action)
            (record,) = await store.get([new.id])
            assert record is not None
            assert (record.state, record.retention_us) == (state, longest_us)
        assert await store.expire(100) == 0
        assert (await store.health()).undecodable == 0

    async def test_schedules_fire_instances_with_long_texts(self, store: Store) -> None:
        await self.schedule(store)
        for n in range(7):
            record = await self.fired(store, n, overlap=Overlap.QUEUE, queue_limit=9, instance=self.large(n, MAX_TAGS))
            assert record.outcome is FireOutcome.FIRED
        record = await self.fired(store, 7, overlap=Overlap.REPLACE, instance=self.large(7, MAX_TAGS))
        assert record.outcome is FireOutcome.FIRED
        row = await self.row(store)
        fires = [self.a_fire(row, n, FireOutcome.TRIGGERED, instance=self.large(n, 30)) for n in range(8, 14)]
        assert len({record.instance for record in await self.done(store, *fires)}) == 6
        assert await self.counts(store, WIDE_CHARACTER * MAX_KIND) == {State.CANCELLED: 7, State.SCHEDULED: 7}
