"""Instances on their way into the store: one at once, many concurrent ones together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from peerjob.record import MAX_BATCH, MAX_BATCH_BYTES, Enqueued, NewInstance
from peerjob.store.base import Store

IN_FLIGHT = 4
"""Bulk batches under way at a time."""


class Intake:
    """Groups concurrent `add` calls into batches: the first goes at once, those that come meanwhile go together."""

    def __init__(self, store: Store, node: str) -> None:
        self._store = store
        self._node = node
        self._waiting: list[tuple[NewInstance, asyncio.Future[Enqueued]]] = []
        self._busy = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def add(self, instance: NewInstance) -> Enqueued:
        """Store one instance; returns once the store has it."""
        if self._busy:
            future: asyncio.Future[Enqueued] = asyncio.get_running_loop().create_future()
            self._waiting.append((instance, future))
            return await future
        self._busy = True
        try:
            return (await self._store.enqueue([instance], node=self._node))[0]
        finally:
            self._busy = False
            if self._waiting:
                self._start_flush()

    async def add_many(self, instances: Sequence[NewInstance]) -> list[Enqueued]:
        """Store many, in batches of which a few are under way at a time; answers in their order."""
        batches = list(_batches(instances))
        limit = asyncio.Semaphore(IN_FLIGHT)

        async def store(batch: Sequence[NewInstance]) -> list[Enqueued]:
            async with limit:
                return await self._store.enqueue(batch, node=self._node)

        answers = await asyncio.gather(*map(store, batches), return_exceptions=True)
        results: list[Enqueued] = []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            results += answer
        return results

    def _start_flush(self) -> None:
        self._busy = True
        task = asyncio.get_running_loop().create_task(self._flush())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _flush(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                await self._send(batch)
        finally:
            self._busy = False

    async def _send(self, batch: list[tuple[NewInstance, asyncio.Future[Enqueued]]]) -> None:
        for part in _batches([instance for instance, _ in batch]):
            futures, batch = batch[: len(part)], batch[len(part) :]
            try:
                answers = await self._store.enqueue(part, node=self._node)
            except Exception as error:  # noqa: BLE001  # each caller gets it
                for _, future in futures:
                    if not future.done():
                        future.set_exception(error)
            else:
                for (_, future), answer in zip(futures, answers, strict=True):
                    if not future.done():
                        future.set_result(answer)


def _batches(instances: Sequence[NewInstance]) -> list[list[NewInstance]]:
    """Cut by number and by bytes."""
    batches: list[list[NewInstance]] = []
    size = MAX_BATCH_BYTES
    for instance in instances:
        weight = len(instance.spec)
        if not batches or len(batches[-1]) >= MAX_BATCH or size + weight > MAX_BATCH_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(instance)
        size += weight
    return batches
