"""Only a caller that knows the current schedule can write it."""

import asyncio

import msgspec
import pytest

from peerjob.model.firing import MAX_SCHEDULES, FireOutcome, FireRecord, FireStatus, Overlap
from peerjob.store.base import Store

from .timetable import ScheduleSuite, names_of, nth

NAMES = ("a", "a/b", "a b", "ü", "100 %", "*", "a" * 200)


class ScheduleRules(ScheduleSuite):
    """Rules of `put_schedule`, `remove_schedule` and `get_schedules`."""

    async def test_a_schedule_is_as_it_was_put(self, store: Store) -> None:
        row = await self.schedule(store, definition=b"\x00\xff", note="why", paused=True)
        assert row == await self.row(store)
        assert (row.name, row.kind, row.definition) == ("s", "work", b"\x00\xff")
        assert (row.next_us, row.paused, row.note) == (nth(0), True, "why")
        assert (row.last_us, row.trimmed_us, row.holder, row.parked, row.removed) == (0, 0, "", (), False)
        assert row.created_us == row.updated_us > 0
        assert row.revision > 0

    async def test_a_schedule_may_have_no_next_time(self, store: Store) -> None:
        row = await self.schedule(store, next_us=None)
        assert row.next_us is None
        changed = await self.put(store, row, next_us=nth(3))
        assert changed is not None
        assert changed.next_us == nth(3)

    async def test_any_text_is_a_name(self, store: Store) -> None:
        for number, name in enumerate(NAMES):
            await self.schedule(store, name, definition=name.encode(), next_us=nth(number))
        assert [(await self.row(store, name)).definition.decode() for name in NAMES] == list(NAMES)
        assert set(names_of((await store.changed_schedules(0)).rows)) == set(NAMES)
        for number, name in enumerate(NAMES):
            await self.fired(store, number, name=name)
            assert len(await self.ledger(store, name)) == 1

    async def test_schedules_are_read_in_the_order_of_the_names(self, store: Store) -> None:
        for name in ("b", "a", "c"):
            await self.schedule(store, name)
        rows = await store.get_schedules(["c", "nobody", "a", "b", "a"])
        assert [None if row is None else row.name for row in rows] == ["c", None, "a", "b", "a"]
        assert await store.get_schedules([]) == []
        assert await store.get_schedules(["x"] * MAX_SCHEDULES) == [None] * MAX_SCHEDULES
        with pytest.raises(ValueError, match=str(MAX_SCHEDULES)):
            await store.get_schedules(["x"] * (MAX_SCHEDULES + 1))

    # -- put with the expected revision

    async def test_what_is_there_is_not_overwritten_unseen(self, store: Store) -> None:
        row = await self.schedule(store)
        new = msgspec.structs.replace(self.again(row, definition=b"other"), expected=0)
        assert await store.put_schedule(new) is None
        assert await self.row(store) == row

    async def test_what_changed_is_not_overwritten(self, store: Store) -> None:
        old = await self.schedule(store)
        row = await self.put(store, old, definition=b"second")
        assert row is not None
        assert await self.put(store, old, definition=b"third") is None
        later = msgspec.structs.replace(self.again(row, definition=b"third"), expected=row.revision + 1)
        assert await store.put_schedule(later) is None
        assert await self.row(store) == row

    async def test_what_was_fired_is_not_overwritten(self, store: Store) -> None:
        row = await self.schedule(store)
        await self.fired(store)
        assert await self.put(store, row, definition=b"other") is None
        assert (await self.row(store)).next_us == nth(1)

    async def test_what_is_gone_is_not_changed(self, store: Store) -> None:
        row = await self.schedule(store)
        assert await store.remove_schedule("s", request=self.make.id())
        assert await self.put(store, row, definition=b"other") is None
        assert await store.get_schedules(["s"]) == [None]

    async def test_a_put_changes_what_it_says_and_keeps_the_rest(self, store: Store) -> None:
        await self.schedule(store)
        record = await self.fired(store, overlap=Overlap.SKIP)
        old = await self.row(store)
        row = await self.put(store, old, kind="other", definition=b"new", next_us=nth(9), note="n")
        assert row == await self.row(store)
        assert row is not None
        assert row.revision > old.revision
        assert row.updated_us >= old.updated_us
        assert row == msgspec.structs.replace(
            old,
            kind="other",
            definition=b"new",
            next_us=nth(9),
            note="n",
            revision=row.revision,
            updated_us=row.updated_us,
        )
        assert (row.last_us, row.holder) == (nth(0), record.instance)
        assert [record.instance for record in await self.ledger(store)] == [record.instance]

    async def test_a_put_accounts_for_what_it_steps_over(self, store: Store) -> None:
        row = await self.schedule(store, paused=True)
        pause = FireRecord(
            nominal_us=nth(0), until_us=nth(9), count=10, outcome=FireOutcome.PAUSED, node="n", request="r"
        )
        resumed = await self.put(store, row, paused=False, next_us=nth(10), account=pause)
        assert resumed is not None
        assert (resumed.last_us, resumed.next_us) == (nth(9), nth(10))
        (record,) = await self.ledger(store)
        assert record.at_us > 0
        assert msgspec.structs.replace(record, at_us=0) == pause

    async def test_the_same_put_twice_changes_nothing_twice(self, store: Store) -> None:
        row = await self.schedule(store, paused=True)
        pause = FireRecord(nominal_us=nth(0), outcome=FireOutcome.PAUSED, request="r")
        put = self.again(row, paused=False, next_us=nth(1), account=pause)
        assert await store.put_schedule(put) is not None
        before = await self.all_of(store)
        assert await store.put_schedule(put) in (None, await self.row(store))
        assert await self.all_of(store) == before

    async def test_of_two_at_once_one_is_as_expected(self, store: Store) -> None:
        other = await self.open()
        row = await self.schedule(store)
        for number in range(10):
            rows = await self.in_time(
                asyncio.gather(
                    self.put(store, row, definition=b"one %d" % number),
                    self.put(other, row, definition=b"two %d" % number),
                )
            )
            (row,) = [written for written in rows if written is not None]
            assert await self.row(store) == row

    async def test_a_fire_and_a_put_at_once_have_one_winner(self, store: Store) -> None:
        other = await self.open()
        row = await self.schedule(store)
        for number in range(10):
            (answer,), written = await self.in_time(
                asyncio.gather(
                    self.send(store, self.a_fire(row, number)),
                    self.put(other, row, next_us=nth(number + 1), definition=b"%d" % number),
                )
            )
            assert (answer.status, written is None) in ((FireStatus.DONE, True), (FireStatus.STALE, False))
            row = await self.row(store)
            assert row.next_us == nth(number + 1)

    async def test_many_are_put_at_once(self, store: Store) -> None:
        other = await self.open()
        rows = await self.in_time(
            asyncio.gather(*(self.schedule((store, other)[number % 2], str(number)) for number in range(30)))
        )
        assert len({row.revision for row in rows}) == 30

    async def test_every_node_hears_of_a_put_and_a_removal(self, store: Store) -> None:
        peers = [await self.join(store, "one"), await self.join(store, "two", ())]
        for peer in peers:
            await self.hints(peer)
        await self.schedule(store, "a/ü")
        for peer in peers:
            assert await self.hinted(peer, "schedule")
        await store.remove_schedule("a/ü", request=self.make.id())
        for peer in peers:
            assert await self.hinted(peer, "schedule")

    # -- removal of schedules

    async def test_a_removed_schedule_is_gone(self, store: Store) -> None:
        row = await self.schedule(store)
        await self.fired(store)
        assert await store.remove_schedule("s", request=self.make.id())
        assert await store.get_schedules(["s"]) == [None]
        assert await self.ledger(store) == []
        assert not await store.remove_schedule("s", request=self.make.id())
        assert await self.refused(store, self.a_fire(row, 1)) is FireStatus.STALE

    async def test_a_removal_that_is_asked_for_again_is_answered_as_before_and_removes_nothing_more(
        self, store: Store
    ) -> None:
        await self.schedule(store)
        request = self.make.id()
        assert await store.remove_schedule("s", request=request)
        other = await self.open()
        assert await other.remove_schedule("s", request=request)
        row = await self.schedule(store)
        assert await store.remove_schedule("s", request=request)
        assert await self.row(store) == row

    async def test_many_are_put_and_removed_at_once(self, store: Store) -> None:
        names = [str(number) for number in range(100)]
        rows = await self.in_time(asyncio.gather(*(self.schedule(store, name) for name in names)))
        revisions = [row.revision for row in rows]
        assert len(set(revisions)) == len(names)
        page = await store.changed_schedules(0, limit=500)
        assert {(row.name, row.revision) for row in page.rows} == {(row.name, row.revision) for row in rows}
        removing = [store.remove_schedule(name, request=self.make.id()) for name in names[:70] + names[:10]]
        removed = await self.in_time(asyncio.gather(*removing))
        assert sorted(removed) == [False] * 10 + [True] * 70
        page = await store.changed_schedules(page.revision, limit=500)
        assert {row.name for row in page.rows if row.removed} == set(names[:70])
        assert {row.name for row in (await store.changed_schedules(0, limit=500)).rows} == set(names[70:])

    async def test_only_what_is_expected_is_removed(self, store: Store) -> None:
        row = await self.schedule(store)
        assert not await store.remove_schedule("s", expected=row.revision + 1, request=self.make.id())
        assert await self.row(store) == row
        await self.fired(store)
        assert await store.remove_schedule("s", expected=row.revision, request=self.make.id())
        assert not await store.remove_schedule("s", expected=row.revision, request=self.make.id())

    async def test_a_new_schedule_has_nothing_of_an_old_one_of_its_name(self, store: Store) -> None:
        old = await self.schedule(store)
        await self.fired(store)
        await self.fired(store, 1, FireOutcome.MISSED)
        await store.remove_schedule("s", request=self.make.id())
        row = await self.schedule(store)
        assert row.revision > old.revision
        assert (row.last_us, row.trimmed_us) == (0, 0)
        assert row.created_us >= old.created_us
        assert await self.ledger(store) == []
        await self.fired(store, 0)
        assert [record.nominal_us for record in await self.ledger(store)] == [nth(0)]

    async def test_instances_outlive_their_schedule(self, store: Store) -> None:
        await self.schedule(store)
        record = await self.fired(store)
        await store.remove_schedule("s", request=self.make.id())
        peer = await self.join(store)
        assert (await peer.take_one()).id == record.instance

    async def test_clearing_keeps_schedules_and_what_became_of_their_times(self, store: Store) -> None:
        await self.schedule(store)
        for number in range(3):
            await self.fired(store, number, overlap=Overlap.QUEUE)
        old, ledger = await self.row(store), await self.ledger(store)
        await store.clear()
        row = await self.row(store)
        assert row == msgspec.structs.replace(old, holder="", parked=())
        assert await self.ledger(store) == ledger
        record = await self.fired(store, 3, overlap=Overlap.SKIP)
        assert (await self.row(store)).holder == record.instance

    async def test_namespaces_have_schedules_of_their_own(self, store: Store) -> None:
        other = await self.open(namespace=f"{self.namespace}-b")
        row = await self.schedule(store, definition=b"one")
        assert await other.get_schedules(["s"]) == [None]
        assert (await other.changed_schedules(0)).rows == ()
        await self.schedule(other, definition=b"two")
        await self.fired(other)
        assert await self.row(store) == row
        assert await self.ledger(store) == []
