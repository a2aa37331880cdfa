"""Verbs that act on very many instances hold a page of them at a time."""

import tracemalloc
from pathlib import Path

from peerjob import Instance, Job, Node, Query, State
from peerjob.model.ids import IdSource
from peerjob.testing.clock import VirtualClock
from peerjob.testing.helpers import drain, running_node

MANY = 650
FEW = 250
"""Three pages."""
SIZE = 40_000


def big(number: int) -> str:
    return f"{number}" * (SIZE // 4)


def fail(number: int) -> None:
    raise ValueError(number)


BIG, FAIL = Job("big", big), Job("fail", fail)


async def test_a_retry_of_many_reads_a_page_of_results_at_a_time(tmp_path: Path) -> None:
    # a store in memory would share the results with its readers
    async with Node(f"sqlite:///{tmp_path}/jobs.db?sync=normal", jobs=[BIG]) as node:
        await node.schedule_many(BIG.call(number) for number in range(1_000, 1_000 + MANY))
        await node.wait(Query(kind="big"))
        await node.drain()
        tracemalloc.start()
        try:
            made = await node.retry_instances(Query(kind="big"))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(made) == MANY
        assert peak < MANY * SIZE / 2


async def test_pages_of_a_retry_make_each_instance_once_and_in_order(clock: VirtualClock) -> None:
    async with running_node(FAIL, clock=clock) as node:
        await node.schedule_many(FAIL.call(number) for number in range(FEW))
        await drain(node)
        old = [one.uuid async for one in node.iter_instances(Query(kind="fail", limit=1_000))]
        id = IdSource(clock).one()
        made: list[Instance[None]] = []
        async for page in node.retry_pages(Query(kind="fail"), id=id):
            assert len(page) <= 100
            made += page
            await drain(node)  # the next page would find the new instances, which have ended
        assert [one.retry_of for one in made] == old
        due = [one.record.due_us for one in made]
        assert due == sorted(set(due))
        assert await node.retry_instances(Query(kind="fail"), id=id) == made
        assert await node.count(Query(kind="fail")) == 2 * FEW


async def test_a_retry_of_states_that_are_not_final_makes_nothing(clock: VirtualClock) -> None:
    async with running_node(FAIL, clock=clock) as node:
        await node.schedule(FAIL.with_options(after="1h"), 1)
        assert await node.retry_instances(Query(state=State.SCHEDULED)) == []
        assert await node.count() == 1
