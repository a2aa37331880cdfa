"""Calls of threads without an event loop: what follows an attempt on the store that has failed."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Sequence
from uuid import UUID

import pytest

from peerjob import Instance, Job, Node, StoreUnavailableError, UnknownInstanceError
from peerjob.model.clock import SystemClock
from peerjob.model.record import Enqueued, NewInstance, Record
from peerjob.testing import running_node

WORK = Job("work", lambda number=0: number)


class Away:
    """Direct calls to a store that does not answer them."""

    def __init__(self, retry_for: float) -> None:
        self.retry_for = retry_for
        self.calls: list[str] = []

    def enqueue(self, instances: Sequence[NewInstance], *, node: str = "") -> list[Enqueued]:
        self.calls.append("enqueue")
        raise StoreUnavailableError("store", "away")

    def get(self, ids: Sequence[str]) -> list[Record | None]:
        self.calls.append("get")
        raise StoreUnavailableError("store", "away")


class Answering(Away):
    """Direct calls to a store that has no record."""

    def get(self, ids: Sequence[str]) -> list[Record | None]:
        self.calls.append("get")
        return [None]


class Storing(Away):
    """Direct calls to a store that stores each instance."""

    def __init__(self, retry_for: float) -> None:
        super().__init__(retry_for)
        self.stored: list[NewInstance] = []

    def enqueue(self, instances: Sequence[NewInstance], *, node: str = "") -> list[Enqueued]:
        self.stored += instances
        return [Enqueued(new.id, True) for new in instances]


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    async with running_node(WORK, clock=SystemClock(), workers=0) as node:
        yield node


def use(node: Node, calls: Away) -> Away:
    node._need_runtime().direct_calls = calls  # pyright: ignore[reportPrivateUsage]
    return calls


async def test_an_attempt_that_has_failed_soon_is_repeated_on_the_event_loop(node: Node) -> None:
    made = await node.schedule(WORK, 1)
    away = use(node, Away(retry_for=600))
    again = node.schedule_directly(WORK, (2,), {})
    assert inspect.isawaitable(again)
    assert (await again).args == (2,)
    assert await node.count() == 2
    assert node.lookup_directly(made.id, WORK) is None
    assert away.calls == ["enqueue", "get"]


async def test_a_caller_that_needs_only_the_id_has_its_attempt_repeated_too(node: Node) -> None:
    await node.schedule(WORK, 1)
    away = use(node, Away(retry_for=600))
    again = node.store_directly(WORK.call(2))
    assert inspect.isawaitable(again)
    assert (await again).args == (2,)
    assert await node.count() == 2
    assert away.calls == ["enqueue"]


async def test_a_call_that_is_stored_at_once_gives_its_id(node: Node) -> None:
    await node.schedule(WORK, 1)
    storing = Storing(retry_for=600)
    use(node, storing)
    id = node.store_directly(WORK.call(2))
    made = node.schedule_directly(WORK, (3,), {})
    assert isinstance(made, Instance)
    assert [id, made.id] == [new.id for new in storing.stored]
    assert made.args == (3,)


async def test_an_attempt_that_took_the_whole_time_of_a_call_raises(node: Node) -> None:
    made = await node.schedule(WORK, 1)
    use(node, Away(retry_for=-1))
    with pytest.raises(StoreUnavailableError, match="away"):
        node.schedule_directly(WORK, (2,), {})
    with pytest.raises(StoreUnavailableError, match="away"):
        node.lookup_directly(made.id, WORK)
    assert await node.count() == 1


async def test_a_lookup_without_a_record_names_the_id(node: Node) -> None:
    use(node, Answering(retry_for=600))
    made = await node.schedule(WORK, 1)
    with pytest.raises(UnknownInstanceError, match=made.id):
        node.lookup_directly(UUID(made.id))


async def test_what_a_direct_call_cannot_do_is_left_to_the_event_loop(node: Node) -> None:
    away = use(node, Away(retry_for=-1))
    watched = Job("watched", lambda: 1, on_state_change=lambda _instance, _state: None)
    node.register(watched)
    for work in (node.schedule_directly(watched, (), {}), node.schedule_directly("work", (3,), {})):
        assert inspect.isawaitable(work)
        await work
    assert node.lookup_directly(7) is None
    assert node.lookup_directly("x", "work") is None
    assert away.calls == []
    assert await node.count() == 2
