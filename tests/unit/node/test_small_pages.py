"""A store may give pages as small as it likes, and keys in any order: each verb and role of a node has all of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from peerjob import INJECTED, Context, Filter, FireOutcome, Instance, Job, KeyLimit, Limit, Node, Query, State
from peerjob.handles.observing import observe
from peerjob.model.clock import to_datetime
from peerjob.model.durable import StepPage
from peerjob.model.firing import SchedulePage
from peerjob.model.record import LogPage, Page
from peerjob.model.stored_limit import KeyLimitPage, LimitPage
from peerjob.testing import VirtualClock, drain, running_node
from support.factories import memory_store, shared_url
from support.flaky import FlakyStore

SMALL = 2
"""Most rows of a page."""


class SmallPages(FlakyStore):
    """A store whose pages are small. The keys of a limit come in the reverse of their order."""

    async def lookup(self, query: Query) -> Page:
        return await self.inner.lookup(replace(query, limit=min(query.limit, SMALL)))

    async def logs(self, id: str, *, cursor: str | None = None, limit: int = SMALL) -> LogPage:
        return await self.inner.logs(id, cursor=cursor, limit=SMALL)

    async def changed_schedules(self, revision: int, *, limit: int = SMALL) -> SchedulePage:
        return await self.inner.changed_schedules(revision, limit=SMALL)

    async def limits(self, *, kind: str | None = None, cursor: str | None = None, limit: int = SMALL) -> LimitPage:
        return await self.inner.limits(kind=kind, cursor=cursor, limit=SMALL)

    async def clear_instances(self, filter: Filter, *, limit: int = SMALL) -> int:
        return await self.inner.clear_instances(filter, limit=SMALL)

    async def key_limits(
        self, kind: str, *, prefix: str = "", waiting_only: bool = False, cursor: str | None = None, limit: int = SMALL
    ) -> KeyLimitPage:
        whole = await self.inner.key_limits(kind, prefix=prefix, waiting_only=waiting_only)
        assert whole.cursor is None
        views, after = part_of(whole.views[::-1], cursor)
        return KeyLimitPage(tuple(views), after)

    async def steps(self, id: str, *, cursor: str | None = None) -> StepPage:
        whole = await self.inner.steps(id)
        assert whole.cursor is None
        steps, after = part_of(whole.steps, cursor)
        return StepPage(tuple(steps), after)


def part_of(rows: Sequence[Any], cursor: str | None) -> tuple[Sequence[Any], str | None]:
    """A page of all rows; its cursor is a number."""
    at = int(cursor or 0)
    return rows[at : at + SMALL], str(at + SMALL) if at + SMALL < len(rows) else None


async def work(name: str, seconds: float = 0.0, context: Context = INJECTED) -> str:
    for number in range(5):
        context.log_line(logging.INFO, f"{name} {number}")
        await context.step(f"step {number}", int, number)
    await asyncio.sleep(seconds)
    return name


WORK = Job("work", work, tags=["t"], limits=[KeyLimit("{name}", concurrency=1), Limit("api", concurrency=50)])
OTHERS = [Job(f"other {number}", work, limits=[Limit(f"limit {number}", concurrency=9)]) for number in range(5)]
NAMES = ["t", "t1", "t10", "t11", "t12", "t2", "u"]
"""Keys of which the first one is the beginning of others."""


async def lines(node: Node, one: Instance[Any]) -> object:
    return [line.message async for line in node.iter_logs(one.id)]


async def names(node: Node, one: Instance[Any]) -> object:
    return [schedule.name for schedule in await node.schedules()]


async def found(node: Node, one: Instance[Any]) -> object:
    return [each.id for each in await node.lookup_instances(Query(tag="t", limit=100))]


async def walked(node: Node, one: Instance[Any]) -> object:
    return [each.id async for each in node.iter_instances(Query(order="desc", limit=100))]


async def counted(node: Node, one: Instance[Any]) -> object:
    return await node.count(Query(tag="t"))


async def past(node: Node, one: Instance[Any]) -> object:
    return [(entry.instance_id, entry.state) for entry in await node.lookup_history(Query(kind="work"))]


async def all_lines(node: Node, one: Instance[Any]) -> object:
    return [(entry.instance_id, entry.message) for entry in await node.lookup_logs(Query(kind="work"))]


async def kept(node: Node, one: Instance[Any]) -> object:
    return await node.steps(one)


async def limits(node: Node, one: Instance[Any]) -> object:
    return [view async for view in node.limits()]


async def keys(node: Node, one: Instance[Any]) -> object:
    return sorted([view async for view in node.key_limits("work")], key=lambda view: view.key)


async def waits_for(node: Node, one: Instance[Any]) -> object:
    now = to_datetime(node.clock.time_us())
    return (await observe(node, await node.lookup_instance(one.id), now)).limits


READS = (names, found, walked, counted, past, all_lines, lines, kept, limits, keys, waits_for)


def small_pages(clock: VirtualClock, url: str) -> SmallPages:
    return SmallPages(memory_store(clock, url))


@pytest.mark.parametrize("read", READS, ids=lambda read: read.__name__)
async def test_a_node_reads_all_pages(
    clock: VirtualClock, read: Callable[[Node, Instance[Any]], Awaitable[object]]
) -> None:
    url = shared_url()
    async with (
        running_node(WORK, *OTHERS, store=url, clock=clock, workers=50) as node,
        running_node(store=small_pages(clock, url).store, clock=clock, workers=0) as reader,
    ):
        for number in range(7):
            await node.add_schedule(WORK.with_options(every="1h", name=f"schedule {number}"), "x")
        running = [await node.schedule(WORK, name, 60.0) for name in NAMES]
        waiting = [await node.schedule(WORK, name) for name in NAMES]
        await clock.advance(2)
        one = waiting[0] if read is waits_for else running[0]
        whole = await read(node, one)
        assert whole
        assert await read(reader, one) == whole
        await node.cancel_instances(Query.all())


async def cleared(node: Node) -> int:
    return await node.clear_instances()


async def cancelled(node: Node) -> int:
    return len(await node.cancel_instances(Query(tag="t")))


async def repeated(node: Node) -> int:
    return len(await node.retry_instances(Query(tag="t")))


@pytest.mark.parametrize(
    ("act", "seconds"), [(cleared, 0.0), (repeated, 0.0), (cancelled, 60.0)], ids=["clear", "retry", "cancel"]
)
async def test_a_node_acts_on_all_pages(
    clock: VirtualClock, act: Callable[[Node], Awaitable[int]], seconds: float
) -> None:
    async with running_node(WORK, store=small_pages(clock, shared_url()).store, clock=clock, workers=20) as node:
        for name in NAMES:
            await node.schedule(WORK, name, seconds)
        await clock.advance(2)
        assert await act(node) == len(NAMES)
        await drain(node)


async def test_a_wait_and_a_stream_have_all_pages(clock: VirtualClock) -> None:
    """Also where no hint comes: the polls read the active instances."""
    url = shared_url()
    small = small_pages(clock, url)
    small.lose_hints()
    ended = set[str]()
    async with (
        running_node(WORK, store=url, clock=clock, workers=20) as node,
        running_node(store=small.store, clock=clock, workers=0) as reader,
    ):

        async def read() -> None:
            async for event in reader.watch(Query(tag="t")):
                ended.update({event.instance.id} if event.state.is_final else ())

        reading = asyncio.ensure_future(read())
        await clock.advance(1)
        made = [await node.schedule(WORK, name, 5.0) for name in NAMES]
        await clock.advance(2)
        await clock.run(reader.wait(Query(tag="t")))
        assert [(await one.refresh()).state for one in made] == [State.COMPLETED] * len(NAMES)
        await clock.advance(3)
        assert ended == {one.id for one in made}
        reading.cancel()


async def test_a_leader_fires_the_schedules_of_all_pages(clock: VirtualClock) -> None:
    async with running_node(WORK, store=small_pages(clock, shared_url()).store, clock=clock) as node:
        made = [
            await node.add_schedule(WORK.with_options(every="10s", name=f"schedule {number}"), "x")
            for number in range(7)
        ]
        await clock.advance(15)
        assert [[entry.outcome for entry in await one.fires()] for one in made] == [[FireOutcome.FIRED]] * len(made)


async def test_what_was_removed_stays_so_if_other_changes_fill_the_first_page(clock: VirtualClock) -> None:
    url = shared_url()
    async with (
        running_node(store=url, clock=clock, name="peer", workers=0) as peer,
        running_node(Job("tick", str, every="1h"), store=small_pages(clock, url).store, clock=clock) as node,
    ):
        await clock.advance(1)
        for number in range(5):
            await peer.add_schedule(Job("tick", every="1h", name=f"schedule {number}"))
        assert await peer.remove_schedule("tick")
        before = node.incarnation
        store = memory_store(clock, url)
        await store.open()
        await store.leave(before)
        await clock.advance(10)
        assert node.incarnation != before
        assert "tick" not in [schedule.name for schedule in await node.schedules()]
        await store.close()
