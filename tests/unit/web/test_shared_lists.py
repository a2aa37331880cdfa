"""The lists that live views share: when they are read again, and how a search goes on."""

from __future__ import annotations

import pytest

from peerjob import Job, Node, Query, State
from peerjob.testing import drain, running_node
from peerjob.testing.clock import VirtualClock
from peerjob.web.lookups import MAX_SHARED, SHARED_SECONDS, SharedLists, page_of


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


@pytest.mark.parametrize(("rows", "scanned"), [(2, 1_000), (50, 3)])
async def test_a_search_for_an_error_goes_on_where_it_ended(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch, rows: int, scanned: int
) -> None:
    monkeypatch.setattr("peerjob.web.lookups.ROWS", rows)
    monkeypatch.setattr("peerjob.web.lookups.MAX_SCANNED", scanned)

    def fail(why: str) -> None:
        raise ValueError(why)

    async with running_node(Job("fail", fail), clock=clock) as node:
        made = [await node.schedule("fail", ("Full", "empty")[number % 3 == 0]) for number in range(9)]
        await drain(node)
        query, found = Query(state=State.ERROR, limit=3), list[str]()
        for _ in range(9):
            page = await page_of(node, query, "full")
            found += [row.id for row in page]
            if page.cursor is None:
                break
            query = query.at(page.cursor)
        assert found == [one.id for number, one in enumerate(made) if number % 3]
