"""Sends concurrent requests of a node to the store in batches: new instances, and reads of records."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextvars import Context
from typing import Generic, TypeVar
from uuid import UUID

from peerjob.model.errors import RowRefusedError, StoreError, StoreRefusedError, UnknownInstanceError
from peerjob.model.ids import checked_id, is_outbox_id
from peerjob.model.record import MAX_BATCH, MAX_BATCH_BYTES, Enqueued, NewInstance, Record
from peerjob.store.base import Store

Q = TypeVar("Q")
A = TypeVar("A")

MAX_REQUESTS = 4
"""How many batches of one `add_many` call are sent to the store concurrently."""
FIRST_BATCH = 96
"""Instances in the first batch of an iterator, as many as one request to etcd has. The store has it while the next one
is made."""
LEAST_HALVED = 32
"""Fewest requests of a batch that the batcher makes smaller, so that not all callers wait for the same answer."""
MAX_REFUSED = 10_000
"""Most rows of an outbox of which a node remembers why they have no instance."""
MAX_READ = 32
"""Most instances in one read for several callers, who all wait for the largest record."""
READS = 2
"""How many reads of one `find_many` call are sent concurrently: one is decoded while the store has the other."""


class Batcher(Generic[Q, A]):
    """Sends the first request immediately; sends requests that arrive before the answer as batches after the answer.

    `send` answers a batch in its order. `split` makes batches of any number of requests.

    Callers that ask again and again become two halves: one prepares its next requests while the store has those of the
    other. Otherwise the store would wait for all callers, and all callers for the store.

    A batch has requests of several callers, so it is sent in a context of `make_context`, and not in that of a caller.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Q]], Awaitable[Sequence[A]]],
        split: Callable[[Sequence[Q]], Sequence[Sequence[Q]]],
        make_context: Callable[[], Context],
    ) -> None:
        self._send = send
        self._make_context = make_context
        self._split = split
        self._waiting: list[tuple[Q, asyncio.Future[A]]] = []
        self._busy = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, request: Q) -> A:
        """Return the answer to one request; raises what `send` raises for its batch."""
        if self._busy:
            future: asyncio.Future[A] = asyncio.get_running_loop().create_future()
            self._waiting.append((request, future))
            return await future
        self._busy = True
        try:
            return (await self._send([request]))[0]
        finally:
            self._busy = False
            if self._waiting and not self._waiting[0][1].get_loop().is_closed():
                self._start_flush()

    def _start_flush(self) -> None:
        self._busy = True
        task = asyncio.get_running_loop().create_task(self._flush(), context=self._make_context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _flush(self) -> None:
        last = 1
        try:
            while self._waiting:
                batches = self._split([request for request, _ in self._waiting])
                if len(batches) == 1 and len(batches[0]) >= LEAST_HALVED:
                    batches = [batches[0][: (last + len(batches[0]) + 1) // 2]]
                for batch in batches:
                    answered, self._waiting = self._waiting[: len(batch)], self._waiting[len(batch) :]
                    await self._answer(batch, [future for _, future in answered])
                    last = len(batch)
        finally:
            self._busy = False

    async def _answer(self, batch: Sequence[Q], futures: Sequence[asyncio.Future[A]]) -> None:
        try:
            answers = await self._send(batch)
        except Exception as error:  # noqa: BLE001  # each caller of the batch gets the error
            if len(batch) > 1 and (isinstance(error, StoreRefusedError) or not isinstance(error, StoreError)):
                # send each half again, because one bad request must not fail the other requests of the batch
                half = len(batch) // 2
                await self._answer(batch[:half], futures[:half])
                await self._answer(batch[half:], futures[half:])
                return
            for future in futures:
                if not future.done():
                    future.set_exception(error)
        else:
            for future, answer in zip(futures, answers, strict=True):
                if not future.done():
                    future.set_result(answer)


class Enqueuer:
    """Stores instances for a node."""

    def __init__(self, store: Store, node: str, make_context: Callable[[], Context]) -> None:
        self._store = store
        self._node = node
        self.add = Batcher(self._enqueue, _split, make_context).ask
        """Store one instance; returns when the store has the instance."""

    async def add_many(
        self,
        instances: Iterable[NewInstance],
        added: Callable[[int, Sequence[NewInstance], Sequence[Enqueued]], None] | None = None,
    ) -> list[Enqueued]:
        """Store many instances, in batches; returns answers in their order.

        An iterator makes its instances while the store has the batches before; its first batch is small. `added` gets
        the position of the first instance of each batch, the batch and its answers, while the store has the next ones.
        After an error, no further batch is sent, because each one would wait again for a store that is away.
        """
        requests, batches = MAX_REQUESTS, _batches_of(instances, FIRST_BATCH)
        if isinstance(instances, Sequence):
            made = _split(instances)
            requests, batches = min(MAX_REQUESTS, len(made)), iter(made)
        answers: list[Sequence[Enqueued]] = []
        errors: dict[int, Exception] = {}
        taken = 0

        async def send() -> None:
            nonlocal taken
            while not errors and (batch := next(batches, None)):
                number, first = len(answers), taken
                answers.append(())
                taken += len(batch)
                try:
                    answers[number] = await self._enqueue(batch)
                    if added is not None:
                        added(first, batch, answers[number])
                except Exception as error:  # noqa: BLE001  # the batches that are under way end first
                    errors[number] = error  # without a wait: Python can destroy this coroutine by such an error
                else:
                    await asyncio.sleep(0)  # a store in memory answers at once

        for problem in await asyncio.gather(*(send() for _ in range(requests)), return_exceptions=True):
            if problem is not None:
                raise problem
        if errors:
            error = errors[min(errors)]
            if isinstance(error, StoreError) and len(answers) > 1:
                error.is_unsure = True
            raise error
        return list(itertools.chain.from_iterable(answers))

    def _enqueue(self, batch: Sequence[NewInstance]) -> Awaitable[list[Enqueued]]:
        return self._store.enqueue(batch, node=self._node)


def _split(instances: Sequence[NewInstance]) -> Sequence[Sequence[NewInstance]]:
    return list(_batches_of(instances))


def _batches_of(instances: Iterable[NewInstance], most: int = MAX_BATCH) -> Iterator[Sequence[NewInstance]]:
    """Split instances into batches of at most MAX_BATCH instances and MAX_BATCH_BYTES bytes; `most`: in the first."""
    waiting = iter(instances)
    while batch := list(itertools.islice(waiting, most)):
        most = MAX_BATCH
        if sum([len(instance.spec) for instance in batch]) <= MAX_BATCH_BYTES:
            yield batch
        else:
            yield from _split_by_size(batch)


def _split_by_size(instances: Sequence[NewInstance]) -> Iterator[Sequence[NewInstance]]:
    first, size = 0, 0
    for at, instance in enumerate(instances):
        weight = len(instance.spec)
        if at > first and size + weight > MAX_BATCH_BYTES:
            yield instances[first:at]
            first, size = at, 0
        size += weight
    yield instances[first:]


class RecordReader:
    """Reads records for a node."""

    def __init__(self, store: Store, make_context: Callable[[], Context]) -> None:
        self._store = store
        self._make_context = make_context
        self._batcher = Batcher(store.get, _reads_of, make_context)
        self._refused: dict[str, tuple[str, str]] = {}
        self._look_aside: Batcher[str, str | None] | None = None

    def look_aside(self, why_refused: Callable[[Sequence[str]], Awaitable[Sequence[str | None]]] | None) -> None:
        """Let `record` ask why unknown ids of an outbox have no instance; with None, no longer."""
        self._look_aside = None if why_refused is None else Batcher(why_refused, _reads_of, self._make_context)

    def remember(self, refused: Iterable[RowRefusedError]) -> None:
        """Let `record` tell why these ids have no instance."""
        self._refused.update((error.uuid, (error.holder, error.why)) for error in refused)
        while len(self._refused) > MAX_REFUSED:
            del self._refused[next(iter(self._refused))]

    async def record(self, uuid: str | UUID) -> Record:
        """One record; raises UnknownInstanceError, or OptionError for text that is no UUID."""
        id = checked_id(uuid)
        refused = self._refused.get(id)  # before the read, since a user can write the row again
        record = await self.find(id)
        if record is not None:
            self._refused.pop(id, None)  # its row was sent again
            return record
        if refused is None and self._look_aside is not None and is_outbox_id(id):
            why = await self._look_aside.ask(id)
            refused = None if why is None else ("", why)
        raise UnknownInstanceError(id) if refused is None else RowRefusedError(id, *refused)

    async def find(self, uuid: str | UUID) -> Record | None:
        """One record, or None; raises OptionError for text that is no UUID."""
        return await self._batcher.ask(checked_id(uuid))

    async def find_many(self, ids: Sequence[str]) -> dict[str, Record]:
        """The records that the store has of these ids, by id."""
        parts = _reads_of(ids, MAX_BATCH // 2)
        records: dict[str, Record] = {}

        async def read(parts: Sequence[Sequence[str]]) -> None:
            for part in parts:
                records.update((record.id, record) for record in await self._store.get(part) if record is not None)

        reads = await asyncio.gather(*(read(parts[n::READS]) for n in range(READS)), return_exceptions=True)
        for error in reads:
            if error is not None:
                raise error
        return records


def _reads_of(ids: Sequence[str], most: int = MAX_READ) -> list[Sequence[str]]:
    return [ids[at : at + most] for at in range(0, len(ids), most)]
