"""A node whose clock is wrong tells the same times and ages as any other node, and acts at the same times."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from peerjob import Job, Metrics, Node, Query, State
from peerjob.model.clock import to_datetime
from peerjob.testing import TestCluster
from support.scrapes import scrape

NEAR = 3.0
"""Seconds by which two answers may differ. The clock is wrong by ten times as much."""


def tick() -> None: ...


def fail() -> None:
    raise ValueError("broken")


TICK, FAIL, LATER = Job("tick", tick), Job("fail", fail), Job("later")
Seconds = Callable[[Node, float], Awaitable[float]]


async def age_of_nodes(node: Node, now: float) -> float:
    return max(view.age_us for view in await node.nodes()) / 1_000_000


async def age_of_a_queue(node: Node, now: float) -> float:
    return (await scrape(Metrics(node)))["peerjob_queue_age_seconds"]["later",]


async def next_time_of_a_paused_schedule(node: Node, now: float) -> float:
    return (await node.next_fires("paused", 1))[0].timestamp() - now


async def end_of_a_pause_that_lasts(node: Node, now: float) -> float:
    record = (await node.fires("paused"))[0].record
    return record.until_us / 1_000_000 - now


async def first_time_of_a_new_schedule(node: Node, now: float) -> float:
    added = await node.add_schedule(TICK.with_options(every="1h", name=f"of {node.name}"))
    assert added.next_at is not None
    return added.next_at.timestamp() - now


async def first_time_of_a_resumed_schedule(node: Node, now: float) -> float:
    await node.pause_schedule("paused")
    resumed = await node.resume_schedule("paused")
    await node.pause_schedule("paused")
    assert resumed.next_at is not None
    return resumed.next_at.timestamp() - now


async def time_of_a_trigger(node: Node, now: float) -> float:
    made = await node.trigger_schedule("paused")
    assert made is not None
    assert made.nominal_at is not None
    return made.nominal_at.timestamp() - now


async def end_of_a_backfill(node: Node, now: float) -> float:
    begin = to_datetime(round(now * 1_000_000)) - timedelta(seconds=60)
    name = f"hourly of {node.name}"
    await node.add_schedule(TICK.with_options(every="1s", name=name))
    await node.pause_schedule(name)
    counts = await node.backfill(name, begin, begin + timedelta(hours=1))
    return counts.made


async def due_time_of_a_retry(node: Node, now: float) -> float:
    (made,) = await node.retry_instances(Query(kind="fail", state=State.TERMINATED))
    due = made.record.due_us / 1_000_000 - now
    await node.cancel_instance(made.id)
    return due


ANSWERS: tuple[Seconds, ...] = (
    age_of_nodes,
    age_of_a_queue,
    next_time_of_a_paused_schedule,
    end_of_a_pause_that_lasts,
    first_time_of_a_new_schedule,
    first_time_of_a_resumed_schedule,
    time_of_a_trigger,
    due_time_of_a_retry,
)


@pytest.mark.parametrize("by", ["-30s", "30s"])
@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.__name__)
async def test_the_clock_of_a_node_is_in_no_answer(answer: Seconds, by: str) -> None:
    async with TestCluster(nodes=3, jobs=[TICK, FAIL]) as cluster:
        await cluster.skew("node-2", by)
        await cluster.advance(10)
        first, wrong, _ = cluster.nodes
        assert wrong.name == "node-2"
        await first.add_schedule(TICK.with_options(every="1s", overlap="allow", name="paused"))
        await first.pause_schedule("paused")
        await first.schedule(FAIL)
        await first.schedule(LATER)
        await cluster.advance(20)
        answers: list[Any] = [await answer(node, cluster.clock.time_us() / 1_000_000) for node in (first, wrong)]
        assert abs(answers[0] - answers[1]) <= NEAR, answers
