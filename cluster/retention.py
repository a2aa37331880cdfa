"""Deletes final instances whose retention is over. Commits delete them too, but only while instances end."""

from __future__ import annotations

from peerjob.model.clock import Clock
from peerjob.store.base import Store

from .batch_size import BatchSize
from .role import BackgroundRole

PERIOD = 30.0
BATCH = 500


class RetentionRole(BackgroundRole):
    """Deletes in steps of limited size, about every half minute."""

    name = "retention"

    def __init__(self, *, clock: Clock, store: Store) -> None:
        super().__init__(clock)
        self._store = store
        self._steps = BatchSize(BATCH)

    async def run(self) -> None:
        while True:
            await self.pause(PERIOD, jitter=0.5)
            while await self._steps.step(self._filled):
                pass

    async def _filled(self, limit: int) -> bool:
        """Delete up to `limit` instances; True if more may be left."""
        return await self._store.expire(limit) == limit
