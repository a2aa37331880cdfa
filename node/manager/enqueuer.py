"""Instances on their way into the store: one at once, many concurrent ones together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from peerjob.model.record import MAX_BATCH, MAX_BATCH_BYTES, Enqueued, NewInstance
from peerjob.store.base import Store

from .batcher import Batcher

IN_FLIGHT = 4
"""Bulk batches under way at a time."""


class Enqueuer:
    """Stores instances for a node; concurrent `add` calls go together."""

    def __init__(self, store: Store, node: str) -> None:
        self._store = store
        self._node = node
        self._batcher = Batcher(self._enqueue, _batches)

    async def add(self, instance: NewInstance) -> Enqueued:
        """Store one instance; returns once the store has it."""
        return await self._batcher.ask(instance)

    async def add_many(self, instances: Sequence[NewInstance]) -> list[Enqueued]:
        """Store many, in batches of which a few are under way at a time; answers in their order."""
        batches = list(_batches(instances))
        limit = asyncio.Semaphore(IN_FLIGHT)

        async def store(batch: Sequence[NewInstance]) -> list[Enqueued]:
            async with limit:
                return await self._enqueue(batch)

        answers = await asyncio.gather(*map(store, batches), return_exceptions=True)
        results: list[Enqueued] = []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            results += answer
        return results

    async def _enqueue(self, batch: Sequence[NewInstance]) -> list[Enqueued]:
        return await self._store.enqueue(batch, node=self._node)


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
