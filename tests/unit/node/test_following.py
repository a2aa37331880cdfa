"""`watch` of one instance: the present state, then each change, then the end; no gap, and nothing twice."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace

from peerjob import (
    PLACEHOLDER,
    Client,
    Context,
    Event,
    Filter,
    Instance,
    Job,
    Manager,
    Node,
    NodeStateError,
    State,
    StoreUnavailableError,
    UnknownInstanceError,
)
from peerjob.model.record import Record
from peerjob.node.manager.followers import Followers
from peerjob.testing import VirtualClock, blocking_node, drain, running_node
from peerjob.testing.factories import Factory
from support.factories import flaky_store, lines_of, memory_store, running_nodes, shared_url, states_of
from support.rpc import served

UNKNOWN_ID = "01900000-0000-7000-8000-000000000000"


async def talk(lines: int, pause: float, context: Context = PLACEHOLDER, instance: Instance[Any] = PLACEHOLDER) -> None:
    for number in range(lines):
        instance.log.info("attempt %d line %d", context.attempt, number)
        context.progress((number + 1) / lines, f"at {number}")
        await asyncio.sleep(pause)
    if context.attempt == 1:
        raise ValueError("once")
    instance.log.info("last")


TALK = Job("talk", talk, max_retries=1, backoff="2s")


class Reader:
    """What one watch yielded."""

    def __init__(self, instance: Instance[Any]) -> None:
        self.instance = instance
        self.events: list[Event] = []
        self.task = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        async for event in self.instance.watch():
            self.events.append(event)

    @property
    def states(self) -> list[str]:
        return [str(event.state) for event in self.events if event.what == "state"]

    @property
    def lines(self) -> list[str]:
        return [event.log.message for event in self.events if event.log is not None]


async def test_each_reader_gets_the_present_state_and_then_all_the_rest(clock: VirtualClock) -> None:
    async with running_nodes(clock, "works", "looks", jobs=[TALK]) as (works, looks):
        # a node that waits for work would claim the instance before the first reader begins
        made = await works.schedule(TALK.with_options(after=0.3), 5, 0.7)
        readers: list[Reader] = []
        while not readers or not readers[-1].instance.state.is_final:
            readers.append(Reader(await looks.lookup_instance(made.id)))
            await clock.advance(0.23)
        await drain(looks)
        readers.append(Reader(await looks.lookup_instance(made.id)))
        await clock.run(asyncio.gather(*(reader.task for reader in readers)))
        history, lines = await states_of(made), await lines_of(made)
        assert history.count("Processing") == 2
        begins: set[int] = set()
        for reader in readers:
            assert reader.events[0].entry is not None
            assert reader.events[0].state == reader.events[0].instance.state
            assert reader.states == history[len(history) - len(reader.states) :]
            assert reader.lines == lines
            assert reader.instance.state is State.COMPLETED
            begins.add(len(reader.states))
        assert begins == {1, 2, 3, 4, 5}, "a reader began in each state"
        texts = [one.instance.progress.message for one in readers[0].events if one.instance.progress is not None]
        assert sorted(set(texts)) == [f"at {number}" for number in range(5)]


async def test_a_reader_polls_when_hints_are_lost_and_reads_nothing_after_its_end(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    flaky.lose_hints()
    async with running_node(TALK, clock=clock, store=flaky.store) as node:
        reader = Reader(await node.schedule(TALK, 2, 1))
        await drain(node)
        await clock.advance(3)
        await reader.task
        assert reader.states[-2:] == ["Processing", "Completed"]
        assert len(reader.lines) == 5
        await clock.advance(5)
        flaky.calls.clear()
        await clock.advance(10)
        assert flaky.calls["get"] == flaky.calls["logs"] == flaky.calls["watch_changes"] == 0


async def test_a_change_while_a_reader_asks_for_hints_is_seen_at_once(clock: VirtualClock) -> None:
    store, make = memory_store(clock), Factory(clock)
    await store.open()
    one = make.instance(delay_us=60_000_000)
    await store.enqueue([one])

    async def read(id: str) -> Record:
        (record,) = await store.get([id])
        assert record is not None
        return record

    async def cancel() -> None:
        await store.cancel([one.id], request="once")

    async def states() -> list[State]:
        reader = Followers(clock=clock, store=store, read=read, ask_for_hints=cancel)
        return [update.record.state async for update in reader.updates(one.id)]

    began = clock.elapsed()
    assert await clock.run(states()) == [State.CANCELLED]
    assert clock.elapsed() == began
    await store.close()


async def test_a_reader_hears_of_a_change_before_it_would_look_again(clock: VirtualClock) -> None:
    async with running_node(TALK, clock=clock) as node:
        for after in (1.5, 2.5):  # a reader without hints looks at about each whole second
            reader = Reader(await node.schedule(TALK.with_options(after=after, max_retries=0), 1, 0))
            await clock.advance(after + 0.05)
            assert reader.task.done()
            assert reader.states[-1] == "Terminated"


async def test_a_reader_whose_history_was_cleared_meanwhile_still_gets_the_end(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    flaky.lose_hints()
    async with running_node(TALK, clock=clock, store=flaky.store) as node:
        reader = Reader(await node.schedule(TALK.with_options(after=0.3, max_retries=0), 1, 0))
        await clock.advance(0.1)
        await drain(node)
        await node.clear_history(Filter())
        await clock.advance(2)
        assert reader.states == ["Scheduled", "Terminated"]
        assert reader.task.done()


async def test_a_slow_reader_delays_only_itself_and_misses_no_line(clock: VirtualClock) -> None:
    async with running_node(TALK, clock=clock) as node:
        made = await node.schedule(TALK, 50, 0.01)
        events = made.watch()
        seen = [await clock.run(anext(events))]
        await drain(node)
        seen += [event async for event in _timed(clock, events)]
        assert [event.log.message for event in seen if event.log is not None] == await lines_of(made)
        assert str(seen[-1].state) == "Completed"


async def _timed(clock: VirtualClock, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    with contextlib.suppress(StopAsyncIteration):
        while True:
            yield await clock.run(anext(events))


async def test_a_reader_of_a_final_instance_gets_its_state_and_its_lines(clock: VirtualClock) -> None:
    async with running_node(TALK, clock=clock) as node:
        made = await node.schedule(TALK, 1, 0)
        await drain(node)
        first, *rest = [event async for event in _timed(clock, made.watch())]
        assert (first.what, first.state) == ("state", State.COMPLETED)
        assert {event.what for event in rest} == {"log"}
        assert first.to_dict()["entry"]["state"] == "Completed"
        await node.clear_history(Filter())
        await node.clear_logs(Filter())
        assert len([event async for event in _timed(clock, made.watch())]) == 1


async def test_a_reader_of_a_missing_or_removed_instance_gets_an_error(clock: VirtualClock) -> None:
    async with running_node(TALK, clock=clock) as node:
        with pytest.raises(UnknownInstanceError):
            await clock.run(anext(node.watch_instance(UNKNOWN_ID)))
        reader = Reader(await node.schedule(TALK.with_options(retention=0), 1, 0))
        await clock.advance(0.1)
        await node.clear()
        await clock.advance(2)
        with pytest.raises(UnknownInstanceError):
            await reader.task


async def test_a_reader_ends_with_its_node(clock: VirtualClock) -> None:
    async with running_node(TALK, clock=clock) as node:
        reader = Reader(await node.schedule(TALK.with_options(after="1h"), 1, 0))
        await clock.advance(1)
        assert reader.states == ["Scheduled"]
        await clock.run(node.stop())
        with pytest.raises(NodeStateError, match="stopped"):
            await reader.task
        with pytest.raises(NodeStateError):
            await anext(reader.instance.watch())


async def test_a_reader_ends_when_the_store_is_lost_and_a_new_one_begins_anew(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(TALK, clock=clock, store=flaky.store) as node:
        made = await node.schedule(TALK.with_options(after="1h"), 1, 0)
        reader = Reader(made)
        await clock.advance(1)
        flaky.fail("get")
        await clock.advance(2)
        with pytest.raises(StoreUnavailableError):
            await reader.task
        flaky.heal()
        assert (await clock.run(anext(made.watch()))).state is State.SCHEDULED


def test_a_blocking_reader_gets_the_same() -> None:
    with blocking_node(TALK) as manager:
        made = manager.schedule(TALK, 2, 1)
        events = list(made.watch())
        assert events[0].what == "state"
        assert events[-1].state is made.state is State.COMPLETED
        assert [event.log.message for event in events if event.log is not None] == [
            line.message for line in made.logs()
        ]
        assert [event.state for event in manager.watch_instance(made.id) if event.what == "state"] == [made.state]


class Held:
    """A job that logs a line on each request of the test."""

    def __init__(self) -> None:
        self.steps = asyncio.Semaphore(0)
        self.job = Job("held", self.run)

    async def run(self, lines: int, instance: Instance[Any] = PLACEHOLDER) -> None:
        for number in range(lines):
            await self.steps.acquire()
            instance.log.info("line %d", number)


async def _until(events: AsyncIterator[Event], message: str) -> list[Event]:
    seen: list[Event] = []
    async for event in events:
        seen.append(event)
        if event.log is not None and event.log.message == message:
            break
    return seen


@pytest.mark.parametrize("who", ["client", "node"])
async def test_a_watch_over_the_network_is_the_same(who: str) -> None:
    held = Held()
    async with served(held.job) as (node, server), Client(f"127.0.0.1:{server.port}") as client:
        manager: Manager = client if who == "client" else node
        made = await manager.schedule("held", 3)
        async with asyncio.timeout(60):
            with pytest.raises(UnknownInstanceError):
                await anext(manager.watch_instance(UNKNOWN_ID))
            for _ in range(3):
                held.steps.release()
            events = [event async for event in made.watch()]
        assert events[0].what == "state"
        assert [event.log.message for event in events if event.log is not None] == [f"line {n}" for n in range(3)]
        assert events[-1].state is made.state is State.COMPLETED


async def test_a_watch_goes_on_at_another_node_without_a_gap_or_a_repetition() -> None:
    held, store = Held(), shared_url()
    async with (
        served(held.job, store=store) as (works, last),
        served(store=store, workers=0) as (_, first),
        Client(f"127.0.0.1:{first.port},127.0.0.1:{last.port}") as client,
        asyncio.timeout(60),
    ):
        made = await client.schedule("held", 6)
        for _ in range(3):
            held.steps.release()
        events = made.watch()
        seen = await _until(events, "line 1")
        await first.stop()
        for _ in range(3):
            held.steps.release()
        seen += [event async for event in events]
        assert [event.log.message for event in seen if event.log is not None] == [f"line {n}" for n in range(6)]
        states = [str(event.state) for event in seen if event.what == "state"]
        assert states == (await states_of(made))[-len(states) :]
        assert isinstance(works, Node)


async def test_a_reader_gets_the_end_although_the_store_has_lost_entries(clock: VirtualClock) -> None:
    """As after a failover to a replica that lacked the last second of writes."""
    store, make = memory_store(clock), Factory(clock)
    await store.open()
    one = make.instance(delay_us=60_000_000)
    await store.enqueue([one])
    (before,) = await store.get([one.id])
    assert before is not None
    end = replace(before.history[-1], state=State.CANCELLED)
    records = iter([before, replace(before, state=State.CANCELLED, history=(end,))])

    async def read(_: str) -> Record:
        return next(records)

    async def ask() -> None: ...

    async def states() -> list[State]:
        reader = Followers(clock=clock, store=store, read=read, ask_for_hints=ask)
        return [update.record.state async for update in reader.updates(one.id)]

    assert await clock.run(states()) == [State.SCHEDULED, State.CANCELLED]
    await store.close()
