"""What many streams cost together, and how a stream begins, lags and ends beside others."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from peerjob import Event, Job, NodeStateError, Query, State, StoreError
from peerjob.node.manager.watchers import MAX_WAITING
from peerjob.testing import VirtualClock, drain, running_node
from support.factories import flaky_store

READS = ("get", "lookup", "logs", "watch_changes")


async def sleep(seconds: float) -> None:
    await asyncio.sleep(seconds)


async def nothing() -> None:
    return


SLEEP, NOTHING = Job("sleep", sleep), Job("nothing", nothing)


class EventStreams:
    """Streams whose events are read as soon as they come."""

    def __init__(self, clock: VirtualClock, manager: Any) -> None:
        self._clock = clock
        self._manager = manager
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self, *queries: Query) -> list[list[Event]]:
        """The events of new streams, after all of them have begun."""
        into = [list[Event]() for _ in queries]
        begun = asyncio.Semaphore(0)

        async def read(query: Query, events: list[Event]) -> None:
            async def begin() -> None:
                begun.release()

            async for event in self._manager.watch(query, on_begin=begin):
                events.append(event)  # noqa: PERF401  # each as it comes

        self._tasks += [asyncio.ensure_future(read(*pair)) for pair in zip(queries, into, strict=True)]
        for _ in queries:
            await self._clock.run(begun.acquire())
        return into

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def watching(clock: VirtualClock, manager: Any) -> AsyncGenerator[EventStreams]:
    made = EventStreams(clock, manager)
    try:
        yield made
    finally:
        await made.close()


def summary(events: list[Event], *, of: str | None = None) -> list[str]:
    return [str(one.state) for one in events if one.entry is not None and of in (None, one.instance.id)]


async def test_many_streams_read_as_much_as_one(clock: VirtualClock) -> None:
    reads: list[int] = []
    for count in (1, 200):
        flaky = flaky_store(clock)
        async with running_node(SLEEP, clock=clock, store=flaky.store) as node, watching(clock, node) as streams:
            events = await streams.open(*[Query(kind="sleep")] * count)
            flaky.calls.clear()
            await node.schedule(SLEEP, 1)
            await drain(node)
            await clock.advance(0.1)
            reads.append(sum(flaky.calls[verb] for verb in READS))
            for one in events:
                assert summary(one) == ["Created", "Scheduled", "Processing", "Completed"]
    assert reads[1] <= reads[0] + 3  # a poll may come in between


async def test_streams_that_are_opened_and_left_register_once_in_a_while(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(clock=clock, store=flaky.store) as node:
        for _ in range(100):
            async with watching(clock, node) as streams:
                await streams.open(Query())
        assert flaky.calls["watch_changes"] <= 1 + clock.elapsed() / 3


async def test_what_is_final_is_not_read_again(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(NOTHING, clock=clock, store=flaky.store) as node, watching(clock, node) as streams:
        (events,) = await streams.open(Query())
        instances = await node.schedule_many(NOTHING.call() for _ in range(50))
        await drain(node)
        await clock.advance(2)
        assert summary(events).count("Completed") == 50
        await streams.open(Query(uuid=instances[0].id))
        flaky.calls.clear()
        await clock.advance(10)
        assert (flaky.calls["get"], flaky.calls["logs"]) == (0, 0)
        assert flaky.calls["lookup"] > 5


async def test_nothing_is_read_after_the_last_watch_ended(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(NOTHING, clock=clock, store=flaky.store) as node:
        async with watching(clock, node) as streams:
            await streams.open(Query())
        await clock.advance(2)
        flaky.calls.clear()
        await node.schedule(NOTHING)
        await drain(node)
        await clock.advance(30)
        assert flaky.calls["watch_changes"] == flaky.calls["logs"] == 0


async def test_each_stream_begins_at_its_own_time(clock: VirtualClock) -> None:
    async with running_node(SLEEP, clock=clock) as node, watching(clock, node) as streams:
        (early,) = await streams.open(Query(kind="sleep"))
        instance = await node.schedule(SLEEP, 5)
        await clock.advance(1)
        late, of_another = await streams.open(Query(uuid=instance.id), Query(kind="other"))
        await drain(node)
        await clock.advance(1)
        assert summary(early) == ["Created", "Scheduled", "Processing", "Completed"]
        assert summary(late) == ["Completed"]
        assert summary(of_another) == []


async def test_many_instances_that_are_watched_singly_are_read_together(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(SLEEP, clock=clock, store=flaky.store) as node, watching(clock, node) as streams:
        instances = await node.schedule_many(SLEEP.call(20) for _ in range(50))
        events = await streams.open(*(Query(uuid=one.id) for one in instances))
        flaky.calls.clear()
        await clock.advance(5)
        assert flaky.calls["lookup"] == 0
        assert flaky.calls["get"] < 10
        await drain(node)
        await clock.advance(2)
        for instance, one in zip(instances, events, strict=True):
            assert summary(one, of=instance.id)[-1] == "Completed"
            assert {event.instance.id for event in one} == {instance.id}


async def test_a_late_line_of_an_old_instance_reaches_no_watch(clock: VirtualClock) -> None:
    async with running_node(SLEEP, clock=clock) as node, watching(clock, node) as streams:
        instance = await node.schedule(SLEEP, 1)
        await drain(node)
        await clock.advance(5)
        (everything,) = await streams.open(Query())
        (single,) = await streams.open(Query(uuid=instance.id))
        await clock.advance(5)
        assert everything == single == []


async def test_a_stream_that_another_left_behind_tells_on(clock: VirtualClock) -> None:
    async with running_node(SLEEP, clock=clock) as node, watching(clock, node) as stay:
        (events,) = await stay.open(Query(kind="sleep"))
        async with watching(clock, node) as leave:
            await leave.open(Query())
            instance = await node.schedule(SLEEP, 5)
            await clock.advance(1)
        await drain(node)
        await clock.advance(1)
        assert summary(events, of=instance.id) == ["Created", "Scheduled", "Processing", "Completed"]


async def test_a_stream_that_begins_as_the_last_one_ends_tells_nothing_from_before(clock: VirtualClock) -> None:
    async with running_node(SLEEP, NOTHING, clock=clock) as node:
        async with watching(clock, node) as leave:
            await leave.open(Query())
            await node.schedule(SLEEP, 5)
            await clock.advance(1)
        async with watching(clock, node) as streams:
            (events,) = await streams.open(Query())
            await drain(node)
            await clock.advance(1)
            assert summary(events) == ["Completed"]


async def test_a_watch_that_begins_during_a_stop_gets_an_error(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(clock=clock, store=flaky.store) as node:
        stall = flaky.stall("watch_changes")
        beginning = asyncio.ensure_future(anext(node.watch()))
        await clock.run(stall.met.wait())
        await clock.run(node.stop())
        with pytest.raises(NodeStateError):
            await clock.run(beginning)


async def test_a_slow_reader_gets_an_error_and_delays_no_other(clock: VirtualClock) -> None:
    count = MAX_WAITING // 4 + 1
    async with running_node(NOTHING, clock=clock, workers=100) as node, watching(clock, node) as streams:
        (events,) = await streams.open(Query(state=State.FINAL))
        slow = node.watch()
        first = asyncio.ensure_future(anext(slow))
        await clock.advance(1)
        await node.schedule(NOTHING)
        await clock.run(first)
        await node.schedule_many(NOTHING.call() for _ in range(count))
        await drain(node)
        await clock.advance(2)
        assert len(events) == count + 1
        with pytest.raises(NodeStateError, match="behind"):
            async for _ in slow:
                pass


async def test_a_stream_survives_an_outage_and_a_new_one_gets_an_error(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(SLEEP, clock=clock, store=flaky.store) as node, watching(clock, node) as streams:
        (events,) = await streams.open(Query())
        instance = await node.schedule(SLEEP, 5)
        await clock.advance(1)
        flaky.fail("lookup", "get", "watch_changes")
        with pytest.raises(StoreError):
            await clock.run(anext(node.watch()))
        await clock.advance(10)
        flaky.heal()
        await clock.advance(3)
        assert summary(events, of=instance.id) == ["Created", "Scheduled", "Processing", "Completed"]


async def test_an_instance_that_came_and_ended_during_an_outage_is_told(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(NOTHING, clock=clock, store=flaky.store) as node, watching(clock, node) as streams:
        (events,) = await streams.open(Query())
        flaky.fail("get", times=None)
        instance = await node.schedule(NOTHING)
        await clock.advance(3)
        assert events == []
        flaky.heal()
        await clock.advance(3)
        assert summary(events, of=instance.id) == ["Created", "Scheduled", "Processing", "Completed"]
