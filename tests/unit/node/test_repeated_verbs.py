"""What a repeat of each acting verb does, on another node: the table of docs/guarantees.md."""

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from peerjob import INJECTED, Filter, Instance, Job, KeyLimit, Limit, Manager, Node, Query
from peerjob.model.clock import to_datetime
from peerjob.model.ids import IdSource
from peerjob.remote.wire.rpcs import RPCS
from peerjob.testing.clock import VirtualClock
from support.factories import running_nodes

PAGE = Path(__file__).parents[3] / "docs/guarantees.md"


def add(x: int, y: int, instance: Instance[Any] = INJECTED) -> int:
    instance.log.info("adding")
    return x + y


async def hang() -> None:
    await asyncio.Event().wait()


ADD, HANG = Job("add", add), Job("hang", hang)
LIMITED = Job("limited", add, limits=[Limit("few", concurrency=9), KeyLimit("{x}")])
TICK = ADD.with_options(name="tick", every="1m")


@dataclass(frozen=True, kw_only=True)
class Given:
    """What the verbs act on."""

    ids: list[str]
    """Ids that the caller made."""
    final: str
    running: str
    delayed: str
    start: Any
    """Two minutes before now; the schedule "tick" was paused at the nominal time in between."""


def first(answer: Any) -> Any:
    """The part of an answer that a repeat must have too."""
    if isinstance(answer, list):
        return [first(one) for one in answer]  # pyright: ignore[reportUnknownVariableType]
    return getattr(answer, "id", getattr(answer, "name", answer))


Act = Callable[[Manager, Given], Awaitable[Any]]

SAME: dict[str, Act] = {
    "schedule_as": lambda to, given: to.schedule_as(given.ids[0], ADD.call(3, 4)),
    "run_now": lambda to, given: to.run_now(given.delayed, id=given.ids[4]),
    "retry_instance": lambda to, given: to.retry_instance(given.final, id=given.ids[1]),
    "retry_instances": lambda to, given: to.retry_instances(Query(uuid=given.final), id=given.ids[2]),
    "trigger_schedule": lambda to, given: to.trigger_schedule("tick", id=given.ids[3]),
    "add_schedule": lambda to, _: to.add_schedule(TICK.with_options(name="new").call(1, 2)),
    "pause_schedule": lambda to, _: to.pause_schedule("tick", "a note"),
    "resume_schedule": lambda to, _: to.resume_schedule("paused"),
    "undrain": lambda to, _: to.undrain(node="a"),
    "drain": lambda to, _: to.drain(60, node="b"),
    "resize_workers": lambda to, _: to.resize_workers(3, node="a"),
    "clear": lambda to, _: to.clear(),
    "set_limit": lambda to, _: to.set_limit("few", concurrency=5, rate="9/s", note="a note"),
    "set_key_limit": lambda to, _: to.set_key_limit("limited", concurrency=2),
    "pause_kind": lambda to, _: to.pause_kind("add", "a note"),
    "resume_kind": lambda to, _: to.resume_kind("hang"),
}
"""Verbs whose repeat changes nothing and has the same answer."""
LESS: dict[str, tuple[Act, Any, Any]] = {
    "cancel_instance": (lambda to, given: to.cancel_instance(given.running), True, False),
    "cancel_instances": (lambda to, _: to.cancel_instances(Query(kind="hang")), 2, 0),
    "clear_instances": (lambda to, _: to.clear_instances(Filter()), 1, 0),
    "clear_logs": (lambda to, _: to.clear_logs(Filter()), 1, 0),
    "remove_schedule": (lambda to, _: to.remove_schedule("tick"), True, False),
    "backfill": (lambda to, given: to.backfill("tick", given.start, given.start + timedelta(minutes=2)), 1, 0),
}
"""Verbs whose repeat changes nothing, and whose answer counts what the call itself changed."""
TOLD_ELSEWHERE = {
    *("schedule", "schedule_many", "clear_history", "keep_line", "context.progress", "context.throttle"),
    *("import_namespace", "schedule_flow", "retry_flow", "signal"),
}
"""Verbs of the table that have tests of their own, or that act again."""


async def state_of(node: Node) -> object:
    """All that a verb can change; without what changes by itself."""
    rows = [schedule.row for schedule in await node.schedules()]
    return (
        {one.id: one.record for one in [each async for each in node.iter_instances()]},
        rows,
        [[entry.record for entry in await node.fires(row.name)] for row in rows],
        [(view.info.name, view.info.workers, view.intake) for view in await node.nodes()],
        [view async for view in node.limits()],
    )


@pytest.fixture
async def nodes(clock: VirtualClock) -> AsyncGenerator[tuple[Node, Node, Given]]:
    async with running_nodes(clock, "a", "b", jobs=[ADD, HANG, LIMITED]) as (one, two):
        await one.add_schedule(TICK.call(1, 2))
        await one.add_schedule(TICK.with_options(name="paused").call(1, 2))
        await one.pause_schedule("paused")
        await one.pause_schedule("tick")
        start = to_datetime(clock.time_us())
        await clock.advance("2m")
        final = await one.schedule(ADD, 1, 2)
        await final.wait(30)
        running = await one.schedule(HANG)
        delayed = await one.schedule(HANG.with_options(after="1h"))
        await clock.advance(2)
        ids = IdSource(clock).take(5)
        yield one, two, Given(ids=ids, final=final.id, running=running.id, delayed=delayed.id, start=start)


async def settled(node: Node, clock: VirtualClock) -> object:
    await clock.advance(10)
    return await state_of(node)


@pytest.mark.parametrize("verb", SAME)
async def test_a_repeat_has_the_answer_of_the_first(
    nodes: tuple[Node, Node, Given], clock: VirtualClock, verb: str
) -> None:
    one, two, given = nodes
    if verb == "drain":
        await one.cancel_instance(given.running)
    answer = await SAME[verb](one, given)
    before = await settled(one, clock)
    again = await SAME[verb](two, given)
    assert first(again) == first(answer)
    assert await settled(one, clock) == before


@pytest.mark.parametrize("verb", LESS)
async def test_a_repeat_finds_nothing_left_to_do(
    nodes: tuple[Node, Node, Given], clock: VirtualClock, verb: str
) -> None:
    one, two, given = nodes
    act, *expected = LESS[verb]

    def counted(answer: Any) -> Any:
        return len(answer) if isinstance(answer, list) else getattr(answer, "made", answer)  # pyright: ignore[reportUnknownArgumentType]

    answers = [counted(await act(one, given))]
    before = await settled(one, clock)
    answers.append(counted(await act(two, given)))
    assert answers == expected
    assert await settled(one, clock) == before


def test_the_table_has_each_verb() -> None:
    (section,) = re.findall(r"^## Repeated calls$(.*?)^## ", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    told = {name for cell in cells for name in re.findall(r"`([a-z_.]+)", cell)} - {"instance.log"}
    assert told == SAME.keys() | LESS.keys() | TOLD_ELSEWHERE


def test_each_rpc_that_acts_is_a_verb_of_the_table() -> None:
    verbs = SAME.keys() | LESS.keys() | TOLD_ELSEWHERE
    names = {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower() for name, rpc in RPCS.items() if rpc.acts}
    renamed = {"schedule_job": "schedule", "schedule_jobs": "schedule_many", "put_schedule": "add_schedule"}
    assert {renamed.get(name, name) for name in names} <= verbs
