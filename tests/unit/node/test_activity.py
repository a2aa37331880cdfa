"""The activity of the last hour: what nodes count, what they write, and what callers read."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from peerjob import Activity, Client, Job, Node, OptionError
from peerjob.model.activity_sample import MAX_SAMPLED_KINDS, SLOT_US, ActivityRow, ActivitySample
from peerjob.model.clock import CorrectedTime
from peerjob.node.manager.activity import ActivityReader
from peerjob.node.observe.activity import MAX_COUNTED, ActivityCounts
from peerjob.testing.clock import VirtualClock
from peerjob.testing.helpers import advance, drain, running_node
from support.ending_jobs import FAIL, RETRY, SLEEP, SLOW, sleep
from support.factories import flaky_store, memory_store, running_nodes, shared_url
from support.rpc import served

SHOWN_AFTER = 15
"""Seconds after which a slot of 10 s is over, and shown."""


def sums(activity: Activity, kind: str) -> tuple[int, int, int, int, int]:
    """Of one kind: started, completed, failed, retried, cancelled."""
    found = activity.kinds[kind]
    return (
        sum(found.started),
        sum(found.completed),
        sum(found.failed),
        sum(found.retried),
        sum(found.cancelled),
    )


async def slot_begins(node: Node) -> None:
    """Let time pass until the next slot begins."""
    await advance(node, (SLOT_US - node.clock.time_us() % SLOT_US) / 1_000_000)


async def test_each_run_is_counted_as_what_it_was(clock: VirtualClock) -> None:
    async with running_node(SLEEP, FAIL, RETRY, SLOW, clock=clock) as node:
        await node.schedule_many([SLEEP.call(1), SLEEP.call(2), FAIL.call(), RETRY.call(), SLOW.call(5)])
        running = await node.schedule(SLEEP, 50)
        await advance(node, 3)
        await running.cancel()
        await drain(node)
        await advance(node, SHOWN_AFTER)
        activity = await node.activity()

    assert sums(activity, "sleep") == (3, 2, 0, 0, 1)
    assert sums(activity, "fail") == (1, 0, 1, 0, 0)
    assert sums(activity, "retry") == (3, 0, 1, 2, 0)
    assert sums(activity, "slow") == (1, 0, 1, 0, 0)
    assert sum(activity.total.completed) == 2
    assert sum(activity.others.started) == 0
    durations = activity.kinds["sleep"].durations
    assert durations.total == 3
    assert durations.quantile(0) == 0.5, "the run of 1 s is in the bucket up to 1 s"
    assert activity.kinds["slow"].durations.total == 1
    assert activity.kinds["retry"].waits.total == 3


async def test_counts_are_in_the_step_in_which_they_happened(clock: VirtualClock) -> None:
    async with running_node(SLEEP, clock=clock) as node:
        await slot_begins(node)
        began = node.clock.time_us()
        for at, count in ((1, 3), (9.5, 2), (21, 5)):
            await advance(node, at - (node.clock.time_us() - began) / 1_000_000)
            await node.schedule_many(SLEEP.call(0.1) for _ in range(count))
        await advance(node, 5 + SHOWN_AFTER)
        activity = await node.activity(1)

    assert activity.step == timedelta(seconds=10)
    assert activity.times[0] == activity.start
    assert len(activity.times) == len(activity.kinds["sleep"].completed) == 6
    assert activity.kinds["sleep"].started[-3:] == (5, 0, 5)
    assert activity.kinds["sleep"].completed[-3:] == (5, 0, 5)
    assert activity.start.timestamp() * 1_000_000 == began - 3 * SLOT_US


async def test_all_nodes_and_clients_see_the_sum_and_so_does_a_node_that_starts_later(clock: VirtualClock) -> None:
    url = shared_url()
    async with running_nodes(clock, "a", "b", jobs=SLEEP, store=url, workers=1) as (first, second):
        await first.schedule_many(SLEEP.call(1) for _ in range(6))
        await drain(first)
        await advance(first, SHOWN_AFTER)
        seen = await first.activity()
        assert sums(seen, "sleep")[:2] == (6, 6)
        assert await second.activity() == seen
    async with running_node(SLEEP, clock=clock, store=url) as restarted:
        assert (await restarted.activity()).total.completed == seen.total.completed


async def test_a_client_gets_what_its_node_has() -> None:
    async with served(SLEEP, FAIL) as (node, server), Client(server.target) as client:
        assert await client.activity(1) == await node.activity(1)
        await (await client.schedule(SLEEP, 0)).wait()
        await node.stop()
        await node.start()
        stored = await node.activity()
        assert stored.times == (await client.activity()).times


async def test_a_stopping_node_writes_what_it_has_counted(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(SLEEP, clock=clock, store=flaky.store) as node:
        await node.schedule(SLEEP, 0.1)
        await drain(node)
        assert flaky.calls["add_activity"] == 0
    assert flaky.calls["add_activity"] == 1


async def test_an_idle_node_writes_nothing_and_a_busy_one_writes_once_a_slot(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(SLEEP, clock=clock, store=flaky.store) as node:
        await advance(node, 600)
        assert flaky.calls["add_activity"] == 0
        await slot_begins(node)
        for _ in range(6):
            await node.schedule_many(SLEEP.call(0.1) for _ in range(20))
            await advance(node, 10)
        await advance(node, 600)
        assert flaky.calls["add_activity"] == 6
    assert flaky.calls["add_activity"] == 6


async def test_samples_wait_while_the_store_is_away_and_are_written_to_their_slots(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(SLEEP, clock=clock, store=flaky.store) as node:
        await slot_begins(node)
        flaky.fail("add_activity")
        for _ in range(2):
            await node.schedule(SLEEP, 0.1)
            await advance(node, 10)
        await advance(node, 20)
        flaky.heal()
        await advance(node, 10)
        assert (await node.activity(1)).kinds["sleep"].completed[-4:] == (1, 1, 0, 0)


async def test_any_number_of_callers_read_the_store_once_a_step(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(SLEEP, clock=clock, store=flaky.store) as node:
        await slot_begins(node)
        await advance(node, 5.5)
        first, second = await asyncio.gather(node.activity(), node.activity())
        assert first is second
        await advance(node, 9)
        assert await node.activity() is first
        assert flaky.calls["activity"] == 1
        await advance(node, 1)
        assert (await node.activity()).start == first.start + first.step
        assert flaky.calls["activity"] == 2


@pytest.mark.parametrize("minutes", [0, 61, True, 1.5, "5"])
async def test_minutes_that_are_none_are_refused(minutes: Any) -> None:
    async with served(SLEEP) as (node, server), Client(server.target) as client:
        for manager in (node, client):
            with pytest.raises(OptionError, match="minutes: expected a number from 1 to 60"):
                await manager.activity(minutes)


async def test_kinds_beyond_the_busiest_are_counted_together(clock: VirtualClock) -> None:
    jobs = [Job(f"kind-{number:03d}", sleep) for number in range(MAX_SAMPLED_KINDS + 5)]
    async with running_node(*jobs, clock=clock, workers=50) as node:
        await slot_begins(node)
        await node.schedule_many(job.call(0.1) for job in reversed(jobs))
        await node.schedule_many(jobs[-1].call(0.1) for _ in range(3))
        await advance(node, 9)
        await advance(node, SHOWN_AFTER)
        activity = await node.activity(1)

    assert list(activity.kinds) == [*(job.kind for job in jobs[: MAX_SAMPLED_KINDS - 1]), jobs[-1].kind]
    assert sum(activity.others.completed) == 5
    assert sum(activity.total.completed) == len(jobs) + 3


async def test_an_answer_has_a_bounded_number_of_kinds(clock: VirtualClock) -> None:
    store = memory_store(clock)
    async with running_node(SLEEP, clock=clock, store=store) as node:
        slot = node.clock.time_us() // SLOT_US
        for number in range(2):
            rows = {f"kind-{one:03d}": ActivityRow(1 + number) for one in range(150 * number, 150 * number + 150)}
            await store.add_activity(ActivitySample(slot - 5 + number, rows))
        activity = await node.activity(2)
        assert list(activity.kinds) == [f"kind-{one:03d}" for one in (*range(50), *range(150, 300))]
        assert sum(activity.others.started) == 100
        assert sum(activity.total.started) == 150 + 2 * 150


def test_a_node_counts_a_bounded_number_of_kinds() -> None:
    counts = ActivityCounts()
    for number in range(MAX_COUNTED + 10):
        counts.cancelled(f"kind-{number}")
    rows = counts.take()
    assert len(rows) == MAX_COUNTED + 1
    assert rows[""].cancelled == 10
    assert not counts.counted.is_set()


async def test_each_count_of_all_nodes_has_its_own_place(clock: VirtualClock) -> None:
    store = memory_store(clock)
    await store.open()
    first = clock.time_us() // SLOT_US - 2
    rows = [ActivityRow(1, 2, 3, 4, 5, (6,), (7, 8)), ActivityRow(10, 20, 30, 40, 50, (60, 61), (70,))]
    for step, row in enumerate(rows):
        await store.add_activity(ActivitySample(first + step, {"work": row}))
    time = CorrectedTime(clock)
    time.correct(0)
    await clock.advance(SHOWN_AFTER)
    activity = await ActivityReader(store, time).read(60)
    found = activity.kinds["work"]
    for name, counts in {
        "started": [1, 10],
        "completed": [2, 20],
        "failed": [3, 30],
        "retried": [4, 40],
        "cancelled": [5, 50],
    }.items():
        assert [count for count in getattr(found, name) if count] == counts, name
        assert getattr(activity.total, name) == getattr(found, name)
    assert found.durations.counts[:3] == (66, 61, 0)
    assert found.waits.counts[:3] == (77, 8, 0)
    await store.close()
