"""Waiting for ends and watching what happens, here and from other nodes."""

import asyncio
import itertools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec import structs

from peerjob import (
    INJECTED,
    Context,
    Event,
    Instance,
    Job,
    JobFailed,
    NodeStateError,
    Query,
    State,
    Store,
    UnknownInstanceError,
)
from peerjob.model.record import MAX_BATCH, Record
from peerjob.node.manager.call_encoder import fresh_record
from peerjob.node.manager.waiters import Waiters
from peerjob.testing import VirtualClock, drain, running_node
from peerjob.testing.factories import Factory
from support.factories import flaky_store, running_nodes, shared_url


async def sleep(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


SLEEP = Job("sleep", sleep)


async def test_every_node_returns_a_result_without_delay(clock: VirtualClock) -> None:
    async with running_nodes(clock, "worker", "web", jobs=SLEEP) as (worker, web):
        web.unregister("sleep")
        instance = await web.schedule(SLEEP, 2)
        assert await clock.run(instance.result()) == 2
        assert clock.elapsed() == pytest.approx(2, abs=0.05)
        assert (await worker.lookup_instance(instance.id)).state is State.COMPLETED


async def test_a_lost_hint_costs_at_most_a_second(clock: VirtualClock) -> None:
    url = shared_url()
    flaky = flaky_store(clock, url)
    flaky.lose_hints()
    async with (
        running_node(SLEEP, clock=clock, store=url),
        running_node(clock=clock, store=flaky.store, workers=0) as web,
    ):
        instance = await web.schedule(SLEEP, 2)
        assert await clock.run(instance.result()) == 2
        assert clock.elapsed() <= 3.2


READ_AGAIN = 1.5
"""Seconds within which a read that failed is repeated; a waiter that only the poll finds takes 2 s."""


@pytest.mark.parametrize("count", [1, MAX_BATCH + 1])
async def test_waiters_whose_first_read_fails_are_read_again_before_the_poll(clock: VirtualClock, count: int) -> None:
    flaky = flaky_store(clock)
    async with running_node(SLEEP, clock=clock, store=flaky.store, workers=1000) as node:
        instances = await node.schedule_many(SLEEP.call(0) for _ in range(count))
        await drain(node)
        await clock.advance(10)
        begun = clock.elapsed()
        flaky.fail("watch_final", times=1)
        assert await clock.run(asyncio.gather(*(one.result() for one in instances))) == [0] * count
        assert clock.elapsed() - begun < READ_AGAIN


async def test_waiters_are_read_again_before_the_poll_if_the_read_after_their_end_fails(clock: VirtualClock) -> None:
    url = shared_url()
    flaky = flaky_store(clock, url)
    async with (
        running_node(SLEEP, clock=clock, store=url),
        running_node(clock=clock, store=flaky.store, workers=0) as web,
    ):
        instance = await web.schedule(SLEEP, 2)
        waiting = asyncio.ensure_future(instance.result())
        await clock.advance(1.5)
        failing = flaky.fail("get_ended", times=1)
        await clock.run(waiting)
        assert failing.met.is_set()
        assert clock.elapsed() < 2 + READ_AGAIN


async def test_waiters_that_a_failed_poll_left_out_are_read_with_the_next_read(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(SLEEP, clock=clock, store=flaky.store) as node:
        instance = await node.schedule(SLEEP.with_options(after="1h"), 1)
        waiting = asyncio.ensure_future(instance.result())
        await clock.advance(0.1)
        failing = flaky.fail("watch_final", times=1)
        while not failing.met.is_set():
            await clock.advance(0.1)
        before = flaky.calls["watch_final"]
        await clock.advance(1.2)
        assert flaky.calls["watch_final"] == before + 1
        waiting.cancel()


async def test_many_may_wait_for_one_and_one_for_many(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(SLEEP, clock=clock, store=flaky.store, workers=1000) as node:
        instances = await node.schedule_many(SLEEP.call(1 + number / 1000) for number in range(1000))
        waits = [one.result() for one in instances] + [instances[0].result() for _ in range(50)]
        results = await clock.run(asyncio.gather(*waits))
        assert results == [1 + number / 1000 for number in range(1000)] + [1.0] * 50
        assert flaky.calls["watch_final"] <= 20


@pytest.mark.parametrize("how", ["cancelled", "late"])
@pytest.mark.parametrize("gone", [gone for size in range(3) for gone in itertools.combinations(range(3), size)])
async def test_waiters_that_give_up_as_the_answer_comes_leave_the_others_theirs(
    clock: VirtualClock, gone: tuple[int, ...], how: str
) -> None:
    (new,) = Factory(clock).instances(1)
    record = structs.replace(fresh_record(new, clock.time_us()), state=State.COMPLETED)

    async def watch_final(incarnation: str, ids: Sequence[str]) -> list[Record]:
        if how == "cancelled":
            for number in gone:
                waits[number].cancel()
        else:
            await asyncio.sleep(1)  # the futures of those that time out are done, and their tasks go on after this one
        return [record]

    waiters = Waiters(clock, cast(Store, SimpleNamespace(watch_final=watch_final)), lambda: "one")
    waits = [
        asyncio.ensure_future(waiters.final(record.id, 1 if how == "late" and number in gone else None))
        for number in range(3)
    ]
    await asyncio.sleep(0)
    waiters.start()
    await clock.run(asyncio.wait(waits), limit=10)
    for number, wait in enumerate(waits):
        if number not in gone:
            assert wait.result() is record
        elif how == "cancelled":
            assert wait.cancelled()
        else:
            assert wait.exception() is None or isinstance(wait.exception(), TimeoutError)
    await clock.run(waiters.stop())


async def test_a_timeout_is_a_timeout_error_and_leaves_nothing_behind(clock: VirtualClock) -> None:
    async with running_node(SLEEP, clock=clock) as node:
        instance = await node.schedule(SLEEP, 60)
        await clock.advance(0.1)
        tasks = len(asyncio.all_tasks())
        for _ in range(20):
            with pytest.raises(TimeoutError, match=instance.id):
                await clock.run(instance.result(timeout="1s"))
            with pytest.raises(TimeoutError, match="1 matching"):
                await clock.run(node.wait(timeout=1))
        assert len(asyncio.all_tasks()) <= tasks + 3
        assert await clock.run(instance.result(timeout=60)) == 60


async def test_waiting_for_a_failed_one_raises_only_where_a_result_is_asked_for(clock: VirtualClock) -> None:
    def fail() -> None:
        raise ValueError("no")

    async with running_node(Job("fail", fail), clock=clock) as node:
        instance = await node.schedule("fail")
        assert (await clock.run(instance.wait())).state is State.TERMINATED
        with pytest.raises(JobFailed, match="no"):
            await instance.result()


async def test_wait_waits_for_what_matches_and_no_longer(clock: VirtualClock) -> None:
    other = Job("other", sleep, tags=["mine"])
    async with running_node(SLEEP, other, clock=clock, workers=50) as node:
        await node.schedule_many(SLEEP.call(60) for _ in range(3))
        await node.schedule_many(other.call(number / 100) for number in range(250))
        await clock.run(node.wait(Query(kind="other")))
        assert clock.elapsed() < 15
        assert await node.count(Query(kind="other", state=State.COMPLETED)) == 250
        await clock.run(node.wait(Query(tag="mine")))
        await clock.run(node.wait())
        assert clock.elapsed() == pytest.approx(60, abs=8)


async def test_wait_waits_for_what_is_before_the_cursor_of_its_query_too(clock: VirtualClock) -> None:
    async with running_node(SLEEP, clock=clock) as node:
        first = await node.schedule(SLEEP, 20)
        await node.schedule(SLEEP, 1)
        page = await node.lookup_instances(Query(limit=1))
        assert [one.id for one in page] == [first.id]
        await clock.run(node.wait(Query(cursor=page.cursor)))
        assert (await first.refresh()).state is State.COMPLETED


async def test_wait_waits_for_the_states_of_its_query_alone(clock: VirtualClock) -> None:
    async with running_node(SLEEP, clock=clock) as node:
        delayed = await node.schedule(SLEEP.with_options(after=60), 1)
        running = await node.schedule(SLEEP, 20)
        await clock.advance(1)

        await clock.run(node.wait(Query(state=State.PROCESSING)))
        assert clock.elapsed() == pytest.approx(20, abs=1)
        assert (await running.refresh()).state is State.COMPLETED
        assert (await delayed.refresh()).state is State.SCHEDULED

        again = await node.schedule(SLEEP, 300)
        await clock.advance(1)
        with pytest.raises(TimeoutError, match="1 matching"):
            await clock.run(node.wait(Query(state=State.SCHEDULED), timeout=1))
        await clock.run(node.wait(Query(state=State.SCHEDULED)))
        assert clock.elapsed() == pytest.approx(61, abs=1)

        # a query for final states alone waits for all that it otherwise matches
        await clock.run(node.wait(Query(state=State.FINAL)))
        assert (await again.refresh()).state is State.COMPLETED


async def test_waiting_for_what_is_unknown_or_removed(clock: VirtualClock) -> None:
    async with running_node(SLEEP, clock=clock) as node:
        with pytest.raises(UnknownInstanceError):
            await clock.run(node.wait_final("01900000-0000-7000-8000-000000000000", timeout=5))
        instance = await node.schedule(SLEEP.with_options(after=60), 1)
        waiting = asyncio.ensure_future(instance.result())
        await clock.advance(1)
        await node.clear()
        with pytest.raises(UnknownInstanceError):
            await clock.run(waiting)


async def test_a_waiter_gets_an_error_when_the_node_stops(clock: VirtualClock) -> None:
    async with running_node(SLEEP, clock=clock) as node:
        instance = await node.schedule(SLEEP.with_options(after=60), 1)
        waiting = [asyncio.ensure_future(work) for work in (instance.result(), node.wait(), collect(node.watch()))]
        await clock.advance(1)
        await clock.run(node.stop())
        for one in waiting:
            with pytest.raises(NodeStateError):
                await clock.run(one, limit=5)


async def test_a_waiter_survives_an_outage_of_the_store(clock: VirtualClock) -> None:
    url = shared_url()
    flaky = flaky_store(clock, url)
    async with (
        running_node(SLEEP, clock=clock, store=url),
        running_node(clock=clock, store=flaky.store, workers=0) as web,
    ):
        instance = await web.schedule(SLEEP, 5)
        waiting = asyncio.ensure_future(instance.result())
        await clock.advance(1)
        flaky.fail()
        await clock.advance(10)
        assert not waiting.done()
        flaky.heal()
        assert await clock.run(waiting) == 5
        assert clock.elapsed() < 14


# -- watching --------------------------------------------------------------------------------------------------------


async def collect(stream: Any, into: list[Event] | None = None) -> None:
    async for event in stream:
        if into is not None:
            into.append(event)


def summary(events: list[Event]) -> list[str]:
    return [one.log.message if one.log else str(one.state) if one.entry else one.what for one in events]


async def test_a_stream_tells_states_lines_and_progress_as_they_come(clock: VirtualClock) -> None:
    async def work(ctx: Context = INJECTED, instance: Instance[Any] = INJECTED) -> None:
        instance.log.info("begins")
        await asyncio.sleep(1)
        ctx.progress(0.5)
        await asyncio.sleep(1)

    job, events = Job("work", work), list[Event]()
    async with running_nodes(clock, "worker", "web", jobs=job) as (_, web):
        watching = asyncio.ensure_future(collect(web.watch(), events))
        await clock.advance(1)
        instance = await web.schedule(job)
        await clock.run(instance.wait())
        await clock.advance(0.01)
        watching.cancel()

        assert summary(events) == ["Created", "Scheduled", "Processing", "begins", "progress", "Completed"]
        assert {one.instance.id for one in events} == {instance.id}


async def test_a_stream_tells_of_what_matches_and_of_nothing_from_before(clock: VirtualClock) -> None:
    async with running_node(SLEEP, Job("other", sleep), clock=clock) as node:
        old = await node.schedule(SLEEP, 1)
        running = await node.schedule(SLEEP, 5)
        await clock.advance(2)
        events, ends = list[Event](), list[Event]()
        watching = [
            asyncio.ensure_future(collect(node.watch(Query(kind="sleep")), events)),
            asyncio.ensure_future(collect(node.watch(Query(state=State.FINAL)), ends)),
        ]
        await clock.advance(1)
        new, other = await node.schedule(SLEEP, 1), await node.schedule("other", 1)
        await clock.advance(10)
        for one in watching:
            one.cancel()

        assert old.id not in {one.instance.id for one in events + ends}
        assert summary([one for one in events if one.instance == running]) == ["Completed"]
        assert summary([one for one in events if one.instance == new]) == [
            "Created",
            "Scheduled",
            "Processing",
            "Completed",
        ]
        assert other.id not in {one.instance.id for one in events}
        assert sorted(one.instance.id for one in ends) == sorted([running.id, new.id, other.id])


async def test_a_stream_goes_on_for_long_and_through_lost_hints(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    events = list[Event]()
    async with running_node(SLEEP, clock=clock, store=flaky.store) as node:
        watching = asyncio.ensure_future(collect(node.watch(), events))
        await clock.advance(60)
        flaky.lose_hints()
        instance = await node.schedule(SLEEP, 3)
        await clock.advance(6)
        assert summary(events) == ["Created", "Scheduled", "Processing", "Completed"]
        flaky.heal()
        await clock.advance(60)
        await node.schedule(SLEEP, 3)
        await drain(node)
        await clock.settle()
        assert len(events) == 8
        watching.cancel()
        assert instance.id == events[0].instance.id


async def test_a_watch_has_every_event_of_a_short_instance(clock: VirtualClock) -> None:
    async def nothing() -> None:
        return

    job, events = Job("nothing", nothing), list[Event]()
    async with running_node(job, clock=clock) as node:
        watching = asyncio.ensure_future(collect(node.watch(), events))
        await clock.advance(1)
        instances = await node.schedule_many(job.call() for _ in range(300))
        await drain(node)
        await clock.advance(3)
        watching.cancel()
        for instance in instances:
            assert summary([one for one in events if one.instance == instance]) == [
                "Created",
                "Scheduled",
                "Processing",
                "Completed",
            ]
