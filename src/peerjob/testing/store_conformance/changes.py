"""A reader that follows the changes of schedules sees the current schedules, at any time."""

import asyncio
import random  # noqa: TID251  # seeded, so that a failed walk can be repeated
from dataclasses import dataclass, field

import pytest

from peerjob.model.firing import SchedulePage, ScheduleRow
from peerjob.store.base import Store

from .timetable import ScheduleSuite, names_of, nth


@dataclass
class Mirror:
    """The knowledge of a reader that asks at intervals, for pages of any size."""

    store: Store
    chance: random.Random
    revision: int = 0
    rows: dict[str, ScheduleRow] = field(default_factory=dict[str, ScheduleRow])

    async def look(self) -> bool:
        """Read one page; returns whether there are more."""
        page = await self.store.changed_schedules(self.revision, limit=self.chance.randint(1, 4))
        if page.reset:
            self.rows.clear()
        for row in page.rows:
            if row.removed:
                self.rows.pop(row.name, None)
            else:
                self.rows[row.name] = row
        self.revision = page.revision
        return page.more


class ChangeRules(ScheduleSuite):
    """Rules of `changed_schedules`."""

    async def pages(self, store: Store, revision: int, limit: int) -> list[SchedulePage]:
        """All pages from a revision on."""
        pages = [await store.changed_schedules(revision, limit=limit)]
        while pages[-1].more:
            pages.append(await store.changed_schedules(pages[-1].revision, limit=limit))
        assert all(len(page.rows) <= limit for page in pages)
        return pages

    async def test_all_are_told_in_the_order_of_their_revisions(self, store: Store) -> None:
        assert (await store.changed_schedules(0)).rows == ()
        for name in ("c", "a", "b"):
            await self.schedule(store, name)
        page = await store.changed_schedules(0)
        assert names_of(page.rows) == ["c", "a", "b"]
        assert list(page.rows) == await store.get_schedules(["c", "a", "b"])
        assert (page.more, page.reset, page.revision >= page.rows[-1].revision) == (False, False, True)

    async def test_nothing_is_told_twice(self, store: Store) -> None:
        await self.schedule(store)
        page = await store.changed_schedules(0)
        await self.fired(store)
        again = await store.changed_schedules(page.revision)
        assert (again.rows, again.more, again.reset, again.revision) == ((), False, False, page.revision)

    async def test_what_was_written_since_is_told(self, store: Store) -> None:
        a, b, _ = [await self.schedule(store, name) for name in "abc"]
        revision = (await store.changed_schedules(0)).revision
        await self.put(store, b, note="once")
        await self.put(store, await self.row(store, "a"), note="once")
        await self.put(store, await self.row(store, "b"), note="twice")
        await self.fired(store, name="a")
        page = await store.changed_schedules(revision)
        assert [(row.name, row.note, row.next_us) for row in page.rows] == [
            ("a", "once", nth(1)),
            ("b", "twice", nth(0)),
        ]
        assert a.revision < revision < page.rows[0].revision < page.rows[1].revision

    async def test_removals_are_told(self, store: Store) -> None:
        for name in "abc":
            await self.schedule(store, name)
        revision = (await store.changed_schedules(0)).revision
        await store.remove_schedule("b", request=self.make.id())
        page = await store.changed_schedules(revision)
        (gone,) = page.rows
        assert (gone.name, gone.removed, gone.revision > revision) == ("b", True, True)
        assert names_of((await store.changed_schedules(0)).rows) == ["a", "c"]
        assert (await store.changed_schedules(page.revision)).rows == ()

    async def test_what_was_made_anew_is_told_last(self, store: Store) -> None:
        await self.schedule(store, "a")
        revision = (await store.changed_schedules(0)).revision
        await store.remove_schedule("a", request=self.make.id())
        await self.schedule(store, "a", note="new")
        last = (await store.changed_schedules(revision)).rows[-1]
        assert (last.name, last.note, last.removed) == ("a", "new", False)

    @pytest.mark.parametrize("limit", [1, 3, 7])
    async def test_pages_tell_all(self, store: Store, limit: int) -> None:
        for number in range(7):
            await self.schedule(store, str(number))
        pages = await self.pages(store, 0, limit)
        assert [row.name for page in pages for row in page.rows] == [str(number) for number in range(7)]
        assert not any(page.reset for page in pages)

    # some of these pages go on behind the revision at which the load began
    @pytest.mark.parametrize("limit", [1, 2, 3, 5, 100])
    async def test_what_happens_between_the_first_pages_is_told(self, store: Store, limit: int) -> None:
        rows = [await self.schedule(store, str(number)) for number in range(6)]
        first = await store.changed_schedules(0, limit=2)
        assert (names_of(first.rows), first.more) == (["0", "1"], True)
        await store.remove_schedule("0", request=self.make.id())
        await store.remove_schedule("4", request=self.make.id())
        await self.put(store, rows[2], note="changed")
        await self.schedule(store, "new")
        known = {row.name: row for row in first.rows}
        for page in await self.pages(store, first.revision, limit):
            for row in page.rows:
                known[row.name] = row
        assert sorted(name for name, row in known.items() if not row.removed) == ["1", "2", "3", "5", "new"]
        assert known["2"].note == "changed"

    async def test_a_reader_that_missed_too_many_removals_starts_again(self, store: Store) -> None:
        for name in "abcde":
            await self.schedule(store, name)
        revision = (await store.changed_schedules(0)).revision

        async def come_and_go(first: int) -> None:
            for number in range(first, 1001, 20):
                assert await self._put_briefly(store, str(number))

        await self.in_time(asyncio.gather(*map(come_and_go, range(20))))
        page = await store.changed_schedules(revision, limit=3)
        assert (page.reset, page.more, names_of(page.rows)) == (True, True, ["a", "b", "c"])
        rest = await self.pages(store, page.revision, 2)
        assert [row.name for page in rest for row in page.rows if not row.removed] == ["d", "e"]
        assert not any(page.reset for page in rest)
        # a reader that missed only the last few removals continues from its revision, without a reset
        latest = (await self.pages(store, 0, 2))[-1].revision
        await self._put_briefly(store, "last")
        assert [(row.name, row.removed) for row in (await store.changed_schedules(latest)).rows] == [("last", True)]

    async def _put_briefly(self, store: Store, name: str) -> bool:
        await self.schedule(store, name)
        return await store.remove_schedule(name, request=self.make.id())

    @pytest.mark.parametrize("seed", range(3))
    async def test_a_follower_sees_the_current_schedules(self, store: Store, seed: int) -> None:
        chance = random.Random(seed)
        mirrors = [Mirror(store, chance), Mirror(store, chance)]
        there: dict[str, ScheduleRow] = {}
        for _ in range(60):
            name = chance.choice("abcdefgh")
            if name not in there:
                there[name] = await self.schedule(store, name)
            elif chance.random() < 0.4:
                assert await store.remove_schedule(name, request=self.make.id())
                del there[name]
            else:
                row = await self.put(store, there[name], note=str(chance.random()))
                assert row is not None
                there[name] = row
            if chance.random() < 0.4:
                await chance.choice(mirrors).look()
        for mirror in mirrors:
            while await mirror.look():
                pass
            assert mirror.rows == there
