"""The lists that live views share: when they are read again."""

from __future__ import annotations

from peerjob import Job, Node, Query
from peerjob.testing.clock import VirtualClock
from peerjob.web.lookups import MAX_SHARED, SHARED_SECONDS, SharedLists


async def test_a_list_is_read_again_when_a_count_has_changed_and_after_some_seconds(clock: VirtualClock) -> None:
    job = Job("work", str)
    async with Node("memory://", jobs=job, workers=0, clock=clock) as node:
        lists, query = SharedLists(node), Query(kind="work")

        async def shown(counts: object = 1) -> int:
            return len(await lists.page(query, counts))

        assert await shown() == 0
        await node.schedule("work", 1)
        assert await shown() == 0
        assert await shown(2) == 1
        await node.schedule("work", 2)
        assert await shown(2) == 1
        await clock.advance(SHARED_SECONDS)
        assert await shown(2) == 2


async def test_many_lists_are_shared_at_once_and_each_has_its_own_rows(clock: VirtualClock) -> None:
    async with Node("memory://", jobs=[Job("work", str), Job("other", str)], workers=0, clock=clock) as node:
        lists = SharedLists(node)
        await node.schedule("work", 1)
        for number in range(MAX_SHARED):
            assert len(await lists.page(Query(kind="work" if number == 0 else "other", limit=number + 1), 1)) == (
                number == 0
            )
        await node.schedule("work", 2)
        assert len(await lists.page(Query(kind="work", limit=1), 1)) == 1
