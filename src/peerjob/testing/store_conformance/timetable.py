"""Shared by the parts about schedules: schedules, fires, and readers of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict, Unpack

import msgspec

from peerjob.model.firing import (
    Fire,
    FireAnswer,
    FireOutcome,
    FireRecord,
    FireStatus,
    Overlap,
    SchedulePut,
    ScheduleRow,
    Term,
)
from peerjob.model.record import NewInstance
from peerjob.model.state import State
from peerjob.store.base import Store

from .suite import StoreSuite

SECOND_US = 1_000_000
START_US = 1_764_000_000_000_000
"""The first nominal time of the test schedules. A store must work with any value."""
MAKES = (FireOutcome.FIRED, FireOutcome.BACKFILLED, FireOutcome.TRIGGERED)


class PutOptions(TypedDict, total=False):
    """Fields of SchedulePut that a test may set."""

    kind: str
    definition: bytes
    next_us: int | None
    paused: bool
    note: str
    account: FireRecord | None
    trimmed_us: int


class FireOptions(TypedDict, total=False):
    """Fields of Fire that a test may set."""

    schedule: str
    revision: int
    request: str
    next_us: int | None
    until_us: int
    count: int
    instance: NewInstance | None
    overlap: Overlap
    queue_limit: int
    reason: str


def nth(number: int) -> int:
    """The nominal time with this number."""
    return START_US + number * SECOND_US


class ScheduleSuite(StoreSuite):
    """Base of the parts about schedules."""

    async def schedule(self, store: Store, name: str = "s", **options: Unpack[PutOptions]) -> ScheduleRow:
        """A new schedule that is next due at the first nominal time; removed after the test."""
        given: PutOptions = {"kind": "work", "definition": b"definition", "next_us": nth(0), **options}
        # the pyright rule is off, since `given` always has kind, definition and next_us
        row = await store.put_schedule(SchedulePut(name=name, **given))  # pyright: ignore[reportArgumentType]
        assert row is not None
        self._cleanup.push_async_callback(store.remove_schedule, name, request=self.make.id())
        return row

    async def row(self, store: Store, name: str = "s") -> ScheduleRow:
        """A schedule that must exist."""
        (row,) = await store.get_schedules([name])
        assert row is not None
        return row

    async def put(self, store: Store, old: ScheduleRow, **options: Unpack[PutOptions]) -> ScheduleRow | None:
        """Write a schedule again, with changed options."""
        return await store.put_schedule(self.again(old, **options))

    def again(self, old: ScheduleRow, **options: Unpack[PutOptions]) -> SchedulePut:
        """A put of an existing schedule, with changed options."""
        put = SchedulePut(
            name=old.name,
            kind=old.kind,
            definition=old.definition,
            next_us=old.next_us,
            paused=old.paused,
            note=old.note,
            expected=old.revision,
            expected_next_us=old.next_us,
        )
        return msgspec.structs.replace(put, **options)

    def a_fire(
        self,
        row: ScheduleRow,
        number: int = 0,
        outcome: FireOutcome = FireOutcome.FIRED,
        **options: Unpack[FireOptions],
    ) -> Fire:
        """A fire of a nominal time, by number, with an instance if the outcome needs one."""
        instance = self.make.instance(kind=row.kind) if outcome in MAKES else None
        fire = Fire(
            schedule=row.name,
            revision=row.revision,
            nominal_us=nth(number),
            outcome=outcome,
            request=self.make.request() if instance is None else instance.id,
            next_us=nth(number + 1) if outcome.advances else None,
            instance=instance,
        )
        return msgspec.structs.replace(fire, **options)

    def stretch(
        self,
        row: ScheduleRow,
        first: int,
        last: int,
        outcome: FireOutcome = FireOutcome.MISSED,
        **options: Unpack[FireOptions],
    ) -> Fire:
        """A fire of several nominal times with one outcome."""
        whole: FireOptions = {"until_us": nth(last), "count": last - first + 1, "next_us": nth(last + 1), **options}
        return self.a_fire(row, first, outcome, **whole)

    async def send(self, store: Store, *fires: Fire, term: Term | None = None, node: str = "") -> list[FireAnswer]:
        """Fire in one call."""
        return await store.fire(fires, term=term, node=node)

    async def done(self, store: Store, *fires: Fire, term: Term | None = None, node: str = "") -> list[FireRecord]:
        """Fire in one call; all fires must be done."""
        answers = await self.send(store, *fires, term=term, node=node)
        return [assert_done(answer) for answer in answers]

    async def fired(
        self,
        store: Store,
        number: int = 0,
        outcome: FireOutcome = FireOutcome.FIRED,
        name: str = "s",
        **options: Unpack[FireOptions],
    ) -> FireRecord:
        """Fire a nominal time of a schedule in its current state; it must be done."""
        row = await self.row(store, name)
        (record,) = await self.done(store, self.a_fire(row, number, outcome, **options))
        return record

    async def refused(self, store: Store, fire: Fire, term: Term | None = None) -> FireStatus:
        """Send a fire that cannot be done; it must change nothing."""
        before = await self.all_of(store, fire.schedule)
        (answer,) = await self.send(store, fire, term=term)
        assert answer.status is not FireStatus.DONE
        assert answer.record is None
        assert await self.all_of(store, fire.schedule) == before
        if fire.instance is not None:
            assert await store.get([fire.instance.id]) == [None]
        return answer.status

    async def all_of(self, store: Store, name: str = "s") -> list[object]:
        """All visible data of a schedule, to compare before and after."""
        return [await store.get_schedules([name]), await self.ledger(store, name), (await store.health()).counts]

    async def ledger(
        self,
        store: Store,
        name: str = "s",
        *,
        after_us: int | None = None,
        before_us: int | None = None,
        limit: int = 100,
    ) -> list[FireRecord]:
        """All pages of a ledger, the latest nominal time first."""
        records: list[FireRecord] = []
        cursor: str | None = None
        while True:
            page = await store.fires(name, after_us=after_us, before_us=before_us, limit=limit, cursor=cursor)
            assert len(page.records) <= limit
            records += page.records
            cursor = page.cursor
            if cursor is None:
                break
        times = [record.nominal_us for record in records]
        assert times == sorted(times, reverse=True)
        return records

    async def numbers(self, store: Store, name: str = "s") -> list[tuple[int, FireOutcome, int]]:
        """A summary of the ledger, the earliest first: number of the nominal time, outcome, count."""
        return [
            ((record.nominal_us - START_US) // SECOND_US, record.outcome, record.count)
            for record in reversed(await self.ledger(store, name))
        ]

    async def cancel(self, store: Store, *ids: str) -> list[State | None]:
        """Cancel under a fresh request id."""
        return await store.cancel(ids, node="operator", request=self.make.request())

    async def held(self, store: Store, name: str = "s") -> tuple[str, tuple[str, ...]]:
        """The holder of a slot, and the waiting instances."""
        row = await self.row(store, name)
        return row.holder, row.parked

    async def parked(self, store: Store, count: int) -> list[str]:
        """Instances of the first times of a new schedule: the first holds its slot, the others wait."""
        records = [await self.fired(store, number, overlap=Overlap.QUEUE, queue_limit=100) for number in range(count)]
        return [record.instance for record in records]

    async def state(self, store: Store, id: str) -> State:
        """The state of an instance that must exist."""
        return (await self.read(store, id)).state


def assert_done(answer: FireAnswer) -> FireRecord:
    """The record of an answer that must be DONE."""
    assert answer.status is FireStatus.DONE, answer
    assert answer.record is not None
    return answer.record


def names_of(rows: Sequence[ScheduleRow | None]) -> list[str]:
    """The names of schedules, in their order."""
    return [row.name for row in rows if row is not None]
