"""Reaps: takes claims back from dead incarnations, one step of the store for each instance. Every node does it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from peerjob.model.clock import Clock
from peerjob.model.record import Reaped
from peerjob.store.base import Store

from .batch_size import BatchSize
from .lease import Lease
from .role import BackgroundRole

logger = logging.getLogger("peerjob.cluster")

BATCH = 100


class Reaper(BackgroundRole):
    """Looks for expired leases twice as often as this node renews its own lease, if its own lease is steady."""

    name = "reaper"

    def __init__(
        self,
        *,
        clock: Clock,
        store: Store,
        lease: Lease,
        on_reaped: Callable[[Sequence[Reaped]], None],
    ) -> None:
        super().__init__(clock)
        self._store = store
        self._lease = lease
        self._on_reaped = on_reaped
        self._steps = BatchSize(BATCH)

    async def run(self) -> None:
        while True:
            await self.pause(self._lease.interval / 2)
            while self._lease.may_reap and (reaped := await self._steps.step(self._reap)):
                logger.info(
                    "took back %d instance(s) from %s",
                    len(reaped),
                    ", ".join(sorted({one.node for one in reaped})),
                )
                self._on_reaped(reaped)

    async def _reap(self, limit: int) -> list[Reaped]:
        return await self._store.reap(limit, reaper=self._lease.incarnation)
