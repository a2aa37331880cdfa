"""What a node does for the relay of an outbox, and what it does when the relay has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import pytest

from peerjob import Instance, Job, State, UnknownInstanceError
from peerjob.model.ids import OutboxIdSource
from peerjob.node.work.outbox import LOOK_ASIDE, OutboxState, RelayNode
from peerjob.testing import VirtualClock, running_node
from peerjob.testing.factories import Factory

Step = Callable[[RelayNode], Awaitable[None]]


class Steps:
    """A relay whose runs are the steps, one after another; the last one goes on."""

    def __init__(self, *steps: Step) -> None:
        self._steps = list(steps)
        self.ended = asyncio.Event()

    async def run(self, node: RelayNode) -> None:
        if self._steps:
            await self._steps.pop(0)(node)
        self.ended.set()
        await asyncio.Event().wait()

    async def state(self) -> OutboxState:
        return OutboxState(table="outbox", rows=0, oldest=0, refused=0, inbox=0)


async def test_a_row_that_is_sent_again_calls_no_processors_again(clock: VirtualClock) -> None:
    told: list[State] = []

    def tell(_: Instance[None], state: State) -> None:
        told.append(state)

    async def send_twice(node: RelayNode) -> None:
        row = Factory(clock).instance(kind="work")
        assert [await node.send([row]) for _ in range(2)] == [[None], [None]]

    relay = Steps(send_twice)
    async with running_node(Job("work", str, on_state_change=tell), clock=clock, workers=0, outbox=relay):
        await clock.run(relay.ended.wait())
        await clock.advance(1)
    assert told == [State.CREATED, State.SCHEDULED]


async def test_a_relay_that_has_ended_is_not_asked_why_a_row_has_no_instance(clock: VirtualClock) -> None:
    asked: list[str] = []

    async def refusals(ids: Sequence[str]) -> Mapping[str, str]:
        asked.extend(ids)
        return {}

    async def end(node: RelayNode) -> None:
        node.look_aside(refusals)
        raise ConnectionError

    relay = Steps(end)
    async with running_node(clock=clock, workers=0, outbox=relay) as node:
        await clock.run(relay.ended.wait())
        with pytest.raises(UnknownInstanceError):
            await node.lookup_instance(OutboxIdSource(clock).one())
    assert asked == []


async def test_a_question_to_a_relay_ends_with_the_relay(clock: VirtualClock) -> None:
    asked, given_up = asyncio.Event(), asyncio.Event()

    async def refusals(ids: Sequence[str]) -> Mapping[str, str]:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()
        return {}

    async def end(node: RelayNode) -> None:
        node.look_aside(refusals)
        await asked.wait()
        raise ConnectionError

    relay = Steps(end)
    async with running_node(clock=clock, workers=0, outbox=relay) as node:
        looking = asyncio.ensure_future(node.lookup_instance(OutboxIdSource(clock).one()))
        await clock.run(given_up.wait())
        with pytest.raises(UnknownInstanceError):
            await looking


async def test_a_relay_that_has_not_answered_is_asked_no_further_question(clock: VirtualClock) -> None:
    asked: list[str] = []

    async def refusals(ids: Sequence[str]) -> Mapping[str, str]:
        asked.extend(ids)
        await asyncio.Event().wait()
        return {}

    async def relay(node: RelayNode) -> None:
        node.look_aside(refusals)
        await asyncio.Event().wait()

    first, *others = (OutboxIdSource(clock).one() for _ in range(3))
    async with running_node(clock=clock, workers=0, outbox=Steps(relay)) as node:
        for id in (first, *others):
            looking = asyncio.ensure_future(node.lookup_instance(id))
            await clock.advance(LOOK_ASIDE)
            with pytest.raises(UnknownInstanceError):
                await looking
    assert asked == [first]
