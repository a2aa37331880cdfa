"""Each verb that takes criteria heeds each of them: alone and in pairs, at a node and through a client."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from peerjob import INJECTED, Client, Filter, Instance, Job, Level, Manager, Query, State
from peerjob.model.clock import to_us
from peerjob.model.ids import hashed_id
from support.rpc import served
from support.waiting import until

NOON = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=12)
HOUR = timedelta(hours=1)


def work(ends: str, instance: Instance[Any] = INJECTED) -> None:
    instance.log.info("one")
    instance.log.warning("two")
    if ends == "bad":
        raise ValueError(ends)


JOBS = {kind: Job(kind, work) for kind in ("mail", "film")}


@dataclass(frozen=True)
class Made:
    """What a test knows of an instance."""

    id: str
    kind: str
    tag: str
    state: State
    at: datetime


def matches(made: Made, criteria: dict[str, Any]) -> bool:
    """The meaning of the criteria, one plain comparison for each."""
    plain: dict[str, Callable[[Any], bool]] = {
        "kind": lambda kind: made.kind == kind,
        "tag": lambda tag: made.tag == tag,
        "state": lambda state: bool(made.state & state),
        "uuid": lambda uuid: made.id == uuid,
        "after": lambda after: made.at >= after,
        "before": lambda before: made.at < before,
        "older_than": lambda age: made.at < datetime.now(UTC) - age,
    }
    return all(plain[name](value) for name, value in criteria.items())


def subsets(criteria: Sequence[tuple[str, Any]], most: int) -> list[dict[str, Any]]:
    """Up to so many of the criteria together, with one value for each name."""
    chosen = [one for size in range(most + 1) for one in itertools.combinations(criteria, size)]
    return [dict(one) for one in chosen if len({name for name, _ in one}) == len(one)]


QUERIES = subsets(
    [
        ("kind", "mail"),
        ("tag", "red"),
        ("state", State.FINAL),
        ("state", State.SCHEDULED),
        ("after", NOON + 2 * HOUR),
        ("before", NOON + 5 * HOUR),
        ("uuid", "the fourth"),
    ],
    2,
)
FILTERS = subsets(
    [
        ("after", NOON + 2 * HOUR),
        ("before", NOON + 5 * HOUR),
        ("older_than", timedelta(hours=8, minutes=30)),
        ("older_than", timedelta(hours=5, minutes=30)),
    ],
    3,
)


@pytest.fixture(params=["node", "client"])
async def manager(request: pytest.FixtureRequest) -> AsyncIterator[Manager]:
    async with contextlib.AsyncExitStack() as stack:
        node, server = await stack.enter_async_context(served(*JOBS.values(), workers=8))
        yield node if request.param == "node" else await stack.enter_async_context(Client(server.target))


async def make(manager: Manager) -> list[Made]:
    """Eight instances an hour apart: of each pair of kind and tag, one waits and one is final."""
    made: list[Made] = []
    salt = uuid4()  # an id that was removed is not taken again
    for number, (waits, tag, kind) in enumerate(itertools.product((False, True), ("red", "blue"), JOBS)):
        at = NOON + number * HOUR
        ends = "bad" if number % 2 else "good"
        call = JOBS[kind].with_options(tags=[tag], after="1d" if waits else 0).call(ends)
        instance = await manager.schedule_as(hashed_id(to_us(at), f"{salt} {number}"), call)
        if not waits:
            await instance.wait(10)
        made.append(Made(instance.id, kind, tag, instance.state, at))
    assert len({one.state for one in made}) == 3
    return made


def queries(made: Sequence[Made]) -> list[dict[str, Any]]:
    return [criteria | ({"uuid": made[3].id} if "uuid" in criteria else {}) for criteria in QUERIES]


def ids(made: Sequence[Made], criteria: dict[str, Any], states: State = State.ALL) -> list[str]:
    return [one.id for one in made if matches(one, criteria) and one.state & states]


async def test_verbs_that_read(manager: Manager) -> None:
    made = await make(manager)
    for criteria in queries(made):
        query, expected = Query(**criteria), ids(made, criteria)
        assert [one.id for one in await manager.lookup_instances(query)] == expected, criteria
        assert [one.id async for one in manager.iter_instances(query)] == expected, criteria
        assert await manager.count(query) == len(expected), criteria
        lines = [(str(line.uuid), line.message) for line in await manager.lookup_logs(query)]
        of_logs = ids(made, criteria, State.FINAL)
        assert lines == [(id, text) for id in of_logs for text in ("one", "two")], criteria
        warned = await manager.lookup_logs(Query(**criteria, level=Level.WARN))
        assert [str(line.uuid) for line in warned] == of_logs, criteria
        of_history = {name: value for name, value in criteria.items() if name != "state"}
        states = criteria.get("state", State.ALL)
        told = await manager.lookup_history(query)
        assert sorted({str(entry.uuid) for entry in told}) == [
            id for id in ids(made, of_history) if states & State.SCHEDULED or id in ids(made, of_history, states)
        ], criteria
        assert {entry.state & states for entry in told} <= set(State.ALL), criteria


async def test_waits(manager: Manager) -> None:
    made = await make(manager)
    for criteria in queries(made):
        others = {name: value for name, value in criteria.items() if value is not State.FINAL}
        if ids(made, others, State.ACTIVE):
            with pytest.raises(TimeoutError, match="matching"):
                await manager.wait(Query(**criteria), 0.01)
        else:
            await manager.wait(Query(**criteria), 10)


async def test_watches(manager: Manager) -> None:
    made = await make(manager)
    chosen = [criteria for criteria in queries(made) if "state" not in criteria]
    begun, seen = asyncio.Semaphore(0), [set[str]() for _ in chosen]

    async def watch(criteria: dict[str, Any], found: set[str]) -> None:
        async def begins() -> None:
            begun.release()

        async for event in manager.watch(Query(**criteria), on_begin=begins):
            if event.state is State.CANCELLED:
                found.add(event.instance.id)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(watch(criteria, found)) for criteria, found in zip(chosen, seen, strict=True)]
        for _ in tasks:
            await begun.acquire()
        await manager.cancel_instances(Query.all())
        await until(lambda: seen == [{*ids(made, criteria, State.ACTIVE)} for criteria in chosen])
        for task in tasks:
            task.cancel()


@pytest.mark.long("each query has a store of its own")
@pytest.mark.parametrize("verb", ["cancel_instances", "retry_instances"])
async def test_verbs_that_act(manager: Manager, verb: str) -> None:
    for number in range(len(QUERIES)):
        await manager.clear()
        made = await make(manager)
        criteria = queries(made)[number]
        acted: Sequence[Instance[Any]] = await getattr(manager, verb)(Query(**criteria))
        if verb == "cancel_instances":
            expected = ids(made, criteria, State.ACTIVE)
            assert [one.id for one in acted] == expected, criteria
            left = [one.id for one in await manager.lookup_instances(Query(state=State.SCHEDULED))]
            assert left == [one.id for one in made if one.state is State.SCHEDULED and one.id not in expected]
        else:
            expected = ids(made, criteria, State.FINAL)
            assert [str(one.retry_of) for one in acted] == expected, criteria


async def test_clears(manager: Manager) -> None:
    for criteria in FILTERS:
        await manager.clear()
        made = await make(manager)
        filter, expected = Filter(**criteria), ids(made, criteria, State.FINAL)
        await manager.clear_logs(filter)
        logged = {str(line.uuid) for line in await manager.lookup_logs()}
        assert logged == {*ids(made, {}, State.FINAL)} - {*expected}, criteria
        await manager.clear_history(filter)
        whole = [one.id for one in await manager.lookup_instances() if len(one.record.history) > 2]
        assert whole == [id for id in ids(made, {}, State.FINAL) if id not in expected], criteria
        assert await manager.clear_instances(filter) == len(expected), criteria
        assert [one.id for one in await manager.lookup_instances()] == [
            one.id for one in made if one.id not in expected
        ], criteria
