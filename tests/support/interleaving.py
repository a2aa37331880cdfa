"""A verb of the key-value engine, with another call between two of its requests, or cut off at one of them."""

import itertools
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from typing import TypeVar

from peerjob.model.clock import Clock
from peerjob.model.errors import StoreUnavailableError
from peerjob.model.firing import Fire, FireOutcome, FireStatus, Overlap, SchedulePut, ScheduleRow, Term
from peerjob.model.record import Ack, NewInstance, Record, StoreLimits
from peerjob.model.state import ARROWS, State
from peerjob.store.kv.format.base import Applied, Compare, Entry, Found, Range, Transaction
from peerjob.store.kv.store import KVStore
from peerjob.store.memory.data import MemoryData
from peerjob.store.memory.driver import MemoryKeyValue
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import LONG_TTL_US, Factory, Peer, outcome
from support.counted import assert_counted
from support.leftovers import leftovers_of

Answer = TypeVar("Answer")
Call = Callable[[], Awaitable[object]]
SECOND_US = 1_000_000


class Interrupted(MemoryKeyValue):
    """The memory driver, which awaits another call before one of its requests."""

    def __init__(self, data: MemoryData, clock: Clock) -> None:
        super().__init__(data, clock)
        self._left = 0
        self._intruder: Call | None = None
        self._dies: str = ""

    def let_in(self, intruder: Call, before: int) -> None:
        """Await the intruder before the request of this number, counted from 0."""
        self._left, self._intruder = before, intruder

    def die(self, at: int, *, applied: bool) -> None:
        """Raise at the request of this number, and at each later one; the server applies that one, or does not."""
        self._left, self._dies = at, "after" if applied else "before"

    def live(self) -> bool:
        """Answer again; returns whether a request has raised."""
        died, self._dies = self.died, ""
        return died

    @property
    def died(self) -> bool:
        """Whether a request has raised."""
        return self._dies == "dead"

    @property
    def waits(self) -> bool:
        """Whether the intruder has not run yet."""
        return self._intruder is not None

    async def get(self, keys: Sequence[str]) -> list[Entry | None]:
        await self._request()
        return self._answered(await super().get(keys))

    async def read(self, ranges: Sequence[Range]) -> list[Found]:
        await self._request()
        return self._answered(await super().read(ranges))

    async def txn(
        self, transactions: Sequence[Transaction], also: Transaction | None = None, guards: Sequence[Compare] = ()
    ) -> Applied:
        await self._request()
        return self._answered(await super().txn(transactions, also, guards))

    async def grant(self, ttl_us: int) -> int:
        await self._request()
        return await super().grant(ttl_us)

    async def keepalive(self, lease: int) -> bool:
        await self._request()
        return await super().keepalive(lease)

    def _answered(self, answer: Answer) -> Answer:
        if self._dies == "now":
            self._dies = "dead"
            raise StoreUnavailableError("memory://", "the answer is lost")
        return answer

    async def _request(self) -> None:
        if self._dies == "dead" or (self._dies == "before" and self._left == 0):
            self._dies = "dead"
            raise StoreUnavailableError("memory://", "the request is lost")
        if self._dies == "after" and self._left == 0:
            self._dies = "now"
        intruder = self._intruder
        if intruder is not None and self._left == 0:
            self._intruder = None
            await intruder()
        self._left -= 1


class Scene:
    """A namespace with a store whose requests are interrupted, another store, and the ids that both have added."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.make = Factory(clock)
        self.data = MemoryData()
        self.kv = Interrupted(self.data, clock)
        self.store = self._open(self.kv)
        self.other = self._open(MemoryKeyValue(self.data, clock))
        self.ids: list[str] = []
        self.cancelled: set[str] = set()

    def open(self) -> KVStore:
        """Another store of the namespace."""
        return self._open(MemoryKeyValue(self.data, self.clock))

    def _open(self, kv: MemoryKeyValue) -> KVStore:
        return KVStore(kv, url="memory://", namespace="n", clock=self.clock, limits=StoreLimits(), retry_for=0)

    async def join(self, store: KVStore, name: str = "node", ttl_us: int = LONG_TTL_US) -> Peer:
        return await Peer(store=store, info=self.make.node(name), make=self.make).join(ttl_us)

    async def add(self, store: KVStore, *instances: NewInstance) -> list[bool]:
        """Enqueue; the answer is whether each instance was new."""
        answers = await store.enqueue(instances)
        self.ids += [answer.id for answer in answers if answer.is_new]
        return [answer.is_new for answer in answers]

    async def cancel(self, store: KVStore, id: str) -> None:
        (was,) = await store.cancel([id], request=self.make.request())
        if was is not None and not was.is_final:
            self.cancelled.add(id)

    async def reap(self, reaper: Peer) -> None:
        while await reaper.store.reap(100, reaper=reaper.incarnation):
            pass

    async def schedule(self, store: KVStore, name: str = "s") -> ScheduleRow:
        put = SchedulePut(name=name, kind="work", definition=b"", next_us=self.clock.time_us())
        row = await store.put_schedule(put)
        assert row is not None
        return row

    async def fire(
        self, store: KVStore, row: ScheduleRow, *, overlap: Overlap = Overlap.QUEUE, term: Term | None = None
    ) -> FireStatus:
        """Fire the next time of a schedule, as given by a row."""
        assert row.next_us is not None
        new = self.make.instance()
        fire = Fire(
            schedule=row.name,
            revision=row.revision,
            nominal_us=row.next_us,
            outcome=FireOutcome.FIRED,
            request=new.id,
            next_us=row.next_us + SECOND_US,
            instance=new,
            overlap=overlap,
            queue_limit=5,
        )
        (answer,) = await store.fire([fire], term=term)
        if answer.record is not None and answer.record.instance == new.id:
            self.ids.append(new.id)
        return answer.status

    async def row(self) -> ScheduleRow:
        (row,) = await self.other.get_schedules(["s"])
        assert row is not None
        return row

    async def end(self) -> None:
        """Complete all instances on a new node; check that none is lost or doubled, and that no keys are left."""
        await self.clock.advance(30)
        last = await self.join(self._open(MemoryKeyValue(self.data, self.clock)), "last")
        for view in await last.store.nodes():
            if view.info.incarnation != last.incarnation:
                await last.store.leave(view.info.incarnation)
        await self.reap(last)
        while claims := await last.take():
            assert await last.commit(*map(outcome, claims)) == [Ack.DONE] * len(claims)
        for id, record in zip(self.ids, await last.store.get(self.ids), strict=True):
            if record is not None:
                assert_over(record, cancelled=id in self.cancelled)
        assert_counted(self.data, "n")
        await last.store.leave(last.incarnation)
        await last.store.remove_schedule("s", request=self.make.request())
        await last.store.clear()
        assert await leftovers_of(last.store) == []


def assert_over(record: Record, *, cancelled: bool) -> None:
    """Check that an instance is final, has a legal history and no owner."""
    assert record.state is State.CANCELLED if cancelled else record.state.is_final, record
    assert record.owner == "" or record.state is State.COMPLETED, record
    assert all(after.state in ARROWS[before.state] for before, after in pairwise(record.history)), record.history
    assert all(before.at_us <= after.at_us for before, after in pairwise(record.history)), record.history
    assert sum(one.state.is_final for one in record.history) == 1, record.history


Verb = Callable[[Scene], Awaitable[tuple[Call, Call, Call]]]


async def everywhere(clock: VirtualClock, prepare: Verb) -> None:
    """Run a verb with its intruder before each of its requests; `prepare` returns verb, intruder and a check."""
    for before in itertools.count():
        scene = Scene(clock)
        verb, intruder, check = await prepare(scene)
        scene.kv.let_in(intruder, before)
        await verb()
        if scene.kv.waits:
            assert before > 1, "the verb makes no requests"
            return
        await check()
        await scene.end()


async def nothing() -> None:
    """No further check: `Scene.end` checks what all tests have in common."""
