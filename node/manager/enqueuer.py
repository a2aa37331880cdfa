"""Stores new instances; concurrent calls share requests to the store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from peerjob.model.record import MAX_BATCH, MAX_BATCH_BYTES, Enqueued, NewInstance
from peerjob.store.base import Store

from .batcher import Batcher

MAX_REQUESTS = 4
"""Batches of one bulk that are sent at a time."""


class Enqueuer:
    """Stores instances for a node."""

    def __init__(self, store: Store, node: str) -> None:
        self._store = store
        self._node = node
        self.add = Batcher(self._enqueue, _batches).ask
        """Store one instance; returns once the store has it."""

    async def add_many(self, instances: Sequence[NewInstance]) -> list[Enqueued]:
        """Store many instances, in batches; returns answers in their order."""
        limit = asyncio.Semaphore(MAX_REQUESTS)

        async def enqueue(batch: Sequence[NewInstance]) -> list[Enqueued]:
            async with limit:
                return await self._enqueue(batch)

        answers = await asyncio.gather(*map(enqueue, _batches(instances)), return_exceptions=True)
        results: list[Enqueued] = []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            results += answer
        return results

    async def _enqueue(self, batch: Sequence[NewInstance]) -> list[Enqueued]:
        return await self._store.enqueue(batch, node=self._node)


def _batches(instances: Sequence[NewInstance]) -> list[list[NewInstance]]:
    """Split by number and by bytes."""
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
