"""What the leader checks besides expired instances."""

import asyncio
from typing import Any

import pytest

from peerjob.cluster.retention import CHECKING, PERIOD, RetentionRole
from peerjob.testing.clock import VirtualClock


class Pages:
    """A store with a number of pages for one of the checks, each of which takes time."""

    def __init__(self, clock: VirtualClock, pages: int, seconds: float, what: str = "limits") -> None:
        self._clock = clock
        self._what = what
        self._pages = pages
        self._seconds = seconds
        self.read: list[tuple[float, int]] = []

    async def expire(self, limit: int) -> int:
        return 0

    async def check_limits(self, cursor: str | None = None) -> tuple[int, str | None]:
        return await self._page("limits", cursor)

    async def check_needs(self, cursor: str | None = None) -> tuple[int, str | None]:
        return await self._page("needs", cursor)

    async def _page(self, what: str, cursor: str | None) -> tuple[int, str | None]:
        if what != self._what:
            return 0, None
        at = int(cursor or 0)
        self.read.append((self._clock.elapsed(), at))
        await asyncio.sleep(self._seconds)
        return 0, None if len(self.read) % self._pages == 0 else str(at + 1)


@pytest.mark.parametrize("what", ["limits", "needs"])
@pytest.mark.parametrize(
    ("seconds", "each_search"), [(0.0, [20]), (CHECKING / 4, [4, 4, 4, 4, 4]), (CHECKING * 2, [1] * 20)]
)
async def test_the_leader_checks_pages_for_a_short_time(
    clock: VirtualClock, seconds: float, each_search: list[int], what: str
) -> None:
    store: Any = Pages(clock, 20, seconds, what)
    role = RetentionRole(clock=clock, store=store, is_leader=lambda: True)
    role.start()
    while len(store.read) < 20:
        await clock.advance(PERIOD / 10)
    await clock.run(role.stop())
    assert [at for _, at in store.read[:20]] == list(range(20))
    searches: list[int] = []
    before = -PERIOD
    for began, _ in store.read[:20]:
        if began - before >= PERIOD / 2:
            searches.append(0)
        searches[-1] += 1
        before = began
    assert searches == each_search


async def test_a_node_that_leads_no_more_checks_no_further_page(clock: VirtualClock) -> None:
    store: Any = Pages(clock, 20, 0)
    role = RetentionRole(clock=clock, store=store, is_leader=lambda: len(store.read) < 3)
    role.start()
    await clock.advance(10 * PERIOD)
    await clock.run(role.stop())
    assert len(store.read) == 3


async def test_a_node_that_becomes_the_leader_searches_soon(clock: VirtualClock) -> None:
    store: Any = Pages(clock, 1, 0)
    leads_from = clock.elapsed() + 2 * PERIOD
    role = RetentionRole(clock=clock, store=store, is_leader=lambda: clock.elapsed() >= leads_from)
    role.start()
    await clock.advance(2 * PERIOD)
    assert store.read == []
    await clock.advance(2 * PERIOD)
    await clock.run(role.stop())
    assert store.read
