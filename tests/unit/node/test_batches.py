"""Concurrent enqueues and lookups of one node go to the store together."""

import asyncio
from collections.abc import Iterator, Sequence
from contextvars import Context, ContextVar
from typing import Any, cast

import pytest

from peerjob import (
    Job,
    RowRefusedError,
    Store,
    StoreFullError,
    StoreRefusedError,
    StoreUnavailableError,
    UnknownInstanceError,
)
from peerjob.model.clock import SystemClock
from peerjob.model.record import MAX_BATCH, Enqueued, NewInstance, Record
from peerjob.node.body.registry import Registry
from peerjob.node.manager.batches import FIRST_BATCH, MAX_READ, MAX_REQUESTS, Enqueuer, RecordReader
from peerjob.node.manager.call_encoder import fresh_record
from peerjob.node.work.outbox import OutboxRole
from peerjob.testing.factories import Factory

make = Factory(SystemClock())


tenant: ContextVar[str] = ContextVar("tenant", default="none")


class Sender:
    """The one verb that is used; records batches, each of which waits until it is let go."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.nodes: list[str] = []
        self.tenants: list[str] = []
        self.gate = asyncio.Semaphore(0)
        self.error: Exception | None = None
        self.bad = ""
        """The id for which alone there is the error; "" for every id."""

    async def enqueue(self, instances: Sequence[NewInstance], *, node: str = "") -> list[Enqueued]:
        self.batches.append([one.id for one in instances])
        self.nodes.append(node)
        self.tenants.append(tenant.get())
        await self.gate.acquire()
        if self.error is not None and (not self.bad or self.bad in self.batches[-1]):
            raise self.error
        return [Enqueued(one.id, True) for one in instances]


def enqueuer(sender: Sender) -> Enqueuer:
    return Enqueuer(cast(Store, sender), "a", Context)


async def _start(to: Enqueuer, instances: list[NewInstance]) -> list[asyncio.Task[Enqueued]]:
    tasks: list[asyncio.Task[Enqueued]] = []
    for one in instances:
        tasks.append(asyncio.create_task(to.add(one)))
        await asyncio.sleep(0)
    return tasks


async def test_what_comes_while_a_call_is_under_way_goes_together() -> None:
    sender = Sender()
    to = enqueuer(sender)
    instances = make.instances(7)
    tasks = await _start(to, instances)
    assert sender.batches == [[instances[0].id]]
    sender.gate.release()
    sender.gate.release()
    assert [one.id for one in await asyncio.gather(*tasks)] == [new.id for new in instances]
    assert [len(batch) for batch in sender.batches] == [1, 6]
    assert sender.nodes == ["a", "a"]

    sender.gate.release()
    assert (await to.add(make.instances(1)[0])).is_new


async def test_each_caller_hears_of_an_error() -> None:
    sender = Sender()
    tasks = await _start(enqueuer(sender), make.instances(3))
    tasks[1].cancel()
    sender.error = StoreFullError("full")
    for _ in range(2):
        sender.gate.release()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [StoreFullError, asyncio.CancelledError, StoreFullError]


@pytest.mark.parametrize("error", [StoreRefusedError("too large"), UnicodeEncodeError("utf-8", "\udc80", 0, 1, "no")])
async def test_an_instance_that_is_refused_costs_no_other_caller_his_own(error: Exception) -> None:
    sender = Sender()
    instances = make.instances(10)
    sender.error, sender.bad = error, instances[4].id
    tasks = await _start(enqueuer(sender), instances)
    for _ in range(20):
        sender.gate.release()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [index for index, result in enumerate(results) if isinstance(result, Exception)] == [4]
    assert results[4] is error


async def test_batches_are_bounded_by_number_and_bytes() -> None:
    sender = Sender()
    large = [make.instances(1, spec=bytes(900_000))[0] for _ in range(2)]
    tasks = await _start(enqueuer(sender), [*make.instances(1 + MAX_BATCH + 50), *large])
    for _ in range(5):
        sender.gate.release()
    await asyncio.gather(*tasks)
    assert [len(batch) for batch in sender.batches] == [1, MAX_BATCH, 51, 1]


async def test_many_instances_are_made_while_the_store_has_the_batches_before() -> None:
    sender, made = Sender(), list[NewInstance]()

    def instances() -> Iterator[NewInstance]:
        for one in make.instances(10 * MAX_BATCH):
            made.append(one)
            yield one

    async def sent() -> list[int]:
        for _ in range(20):
            await asyncio.sleep(0)
        return [len(batch) for batch in sender.batches]

    adding = asyncio.create_task(enqueuer(sender).add_many(instances()))
    under_way = FIRST_BATCH + (MAX_REQUESTS - 1) * MAX_BATCH
    assert await sent() == [FIRST_BATCH, *[MAX_BATCH] * (MAX_REQUESTS - 1)]
    assert len(made) == under_way
    sender.gate.release()
    assert await sent() == [FIRST_BATCH, *[MAX_BATCH] * MAX_REQUESTS]
    assert len(made) == under_way + MAX_BATCH
    for _ in range(20):
        sender.gate.release()
    assert [answer.id for answer in await adding] == [one.id for one in made]
    assert [id for batch in sender.batches for id in batch] == [one.id for one in made]


async def test_after_an_error_no_further_batch_is_sent() -> None:
    sender = Sender()
    sender.error = StoreUnavailableError("redis://away", "no answer")
    adding = asyncio.create_task(enqueuer(sender).add_many(make.instances(20 * MAX_BATCH)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for _ in range(20):
        sender.gate.release()
    with pytest.raises(StoreUnavailableError) as caught:
        await adding
    assert len(sender.batches) == MAX_REQUESTS
    assert caught.value.is_unsure


def test_a_bulk_call_that_python_destroys_awaits_nothing_more() -> None:
    """A driver can raise an error of its own when Python destroys it after its event loop was closed."""

    class Destroyed(Sender):
        async def enqueue(self, instances: Sequence[NewInstance], *, node: str = "") -> list[Enqueued]:
            try:
                return await super().enqueue(instances, node=node)
            except GeneratorExit:
                raise StoreUnavailableError("redis://away", "the event loop is closed") from None

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _loop, _context: None)  # asyncio tells each lost task
    sender = Destroyed()
    adding = loop.create_task(enqueuer(sender).add_many(make.instances(2)))
    while not sender.batches:
        loop.run_until_complete(asyncio.sleep(0))
    tasks = asyncio.all_tasks(loop)
    loop.close()
    assert len(tasks - {adding}) == 1
    for task in tasks:
        cast(Any, task.get_coro()).close()


async def test_callers_that_ask_again_and_again_take_turns() -> None:
    sender = Sender()
    to = enqueuer(sender)

    async def ask() -> None:
        for one in make.instances(5):
            await to.add(one)

    callers = [asyncio.create_task(ask()) for _ in range(100)]
    while not all(caller.done() for caller in callers):
        sender.gate.release()
        for _ in range(5):  # the callers that have an answer ask again
            await asyncio.sleep(0)
    sizes = [len(batch) for batch in sender.batches]
    assert sum(sizes) == 500
    assert all(49 <= size <= 51 for size in sizes[2:9]), sizes


async def test_a_batch_of_several_callers_has_the_context_of_none_of_them() -> None:
    sender = Sender()
    to = enqueuer(sender)

    async def call(name: str) -> None:
        tenant.set(name)
        await to.add(make.instances(1)[0])

    tasks = [asyncio.create_task(call(name)) for name in ("first", "second", "third")]
    await asyncio.sleep(0)
    sender.gate.release()
    sender.gate.release()
    await asyncio.gather(*tasks)
    assert [len(batch) for batch in sender.batches] == [1, 2]
    assert sender.tenants == ["first", "none"]


class Shelf:
    """The one verb that is used; notes which ids are asked for together, and answers when it is let go."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = {record.id: record for record in records}
        self.asked: list[int] = []
        self.gate = asyncio.Semaphore(0)

    async def get(self, ids: Sequence[str]) -> list[Record | None]:
        self.asked.append(len(ids))
        await self.gate.acquire()
        return [self._records.get(id) for id in ids]


async def test_what_is_looked_up_at_the_same_time_is_looked_up_together() -> None:
    clock = SystemClock()
    records = [fresh_record(new, clock.time_us()) for new in make.instances(2 * MAX_READ)]
    shelf = Shelf(records)
    reader = RecordReader(cast(Store, shelf), Context)
    unknown = make.instances(1)[0].id
    ids = [*(record.id for record in records), unknown, records[0].id]
    tasks = [asyncio.create_task(reader.record(id)) for id in ids]
    await asyncio.sleep(0)  # all have asked
    for _ in range(4):
        shelf.gate.release()

    found = await asyncio.gather(*tasks, return_exceptions=True)

    assert found[:-2] == records
    assert isinstance(found[-2], UnknownInstanceError)
    assert found[-1] == records[0]
    assert shelf.asked == [1, MAX_READ, MAX_READ, 1]


async def test_a_refused_row_with_an_instance_is_not_told_after_its_removal() -> None:
    record = fresh_record(make.instance(), 0)
    answers: list[list[Record | None]] = [[None], [record], [None]]

    class Answering:
        async def get(self, ids: Sequence[str]) -> list[Record | None]:
            return answers.pop(0)

    reader = RecordReader(cast(Store, Answering()), Context)
    reader.remember([RowRefusedError(record.id, "", "its row is bad")])
    with pytest.raises(RowRefusedError, match="its row is bad"):
        await reader.record(record.id)
    assert await reader.record(record.id) == record
    with pytest.raises(UnknownInstanceError, match="removed by retention"):
        await reader.record(record.id)


async def test_many_records_are_read_in_two_calls_at_a_time() -> None:
    clock = SystemClock()
    records = [fresh_record(new, clock.time_us()) for new in make.instances(MAX_BATCH + 1)]
    shelf = Shelf(records)
    task = asyncio.create_task(RecordReader(cast(Store, shelf), Context).find_many([record.id for record in records]))
    for _ in range(5):
        await asyncio.sleep(0)
    assert shelf.asked == [MAX_BATCH // 2, MAX_BATCH // 2]
    for _ in range(3):
        shelf.gate.release()

    assert await task == {record.id: record for record in records}
    assert shelf.asked == [MAX_BATCH // 2, MAX_BATCH // 2, 1]


@pytest.mark.parametrize("batches", [1, 2])
async def test_an_error_of_one_batch_is_unsure_if_there_are_others(batches: int) -> None:
    sender = Sender()
    sender.gate.release()
    sender.gate.release()
    instances = make.instances(MAX_BATCH * batches)
    sender.error, sender.bad = StoreFullError("full"), instances[-1].id
    with pytest.raises(StoreFullError) as caught:
        await enqueuer(sender).add_many(instances)
    assert caught.value.is_unsure is (batches == 2)


async def test_after_a_part_of_an_outbox_may_be_stored_a_full_store_is_unsure() -> None:
    instances = make.instances(MAX_BATCH + 1)
    batches: list[int] = []

    class Filling:
        """Refuses one instance of the first batch, adds its first half, and is full from then on."""

        async def enqueue(self, instances: Sequence[NewInstance], *, node: str = "") -> list[Enqueued]:
            batches.append(len(instances))
            if len(batches) == 1:
                raise StoreRefusedError("one of them is bad")
            if len(batches) > 2:
                raise StoreFullError("full")
            return [Enqueued(one.id, True) for one in instances]

    registry = Registry()
    registry.add(Job(instances[0].kind, str))
    to = Enqueuer(cast(Store, Filling()), "a", Context)
    nothing: Any = None
    role = OutboxRole(SystemClock(), nothing, registry, to, nothing, nothing, nothing, lambda kind: True)
    with pytest.raises(StoreFullError) as caught:
        await role.send(instances)
    assert batches == [MAX_BATCH, MAX_BATCH // 2, MAX_BATCH // 2 + 1]
    assert caught.value.is_unsure
