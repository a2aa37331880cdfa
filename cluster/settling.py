"""Follows up ends of instances: what they were needed for goes on, and what is left of their children is cancelled.

The command that ends an instance does it for the first ones. The store hints the rest to one node. The answer to each
renewal tells all nodes of it, so a peer goes on if that node dies. Every node does it.
"""

from __future__ import annotations

import asyncio
import math

from peerjob.model.clock import Clock
from peerjob.model.durable import MAX_SETTLED
from peerjob.store.base import Store

from .batch_size import BatchSize
from .lease import Lease
from .role import BackgroundRole, wait_set

SPREAD = 0.4
"""Most intervals of renewals by which a node waits for the node that has the hint."""


class SettlingRole(BackgroundRole):
    """Calls `Store.settle` after a hint, or after a renewal that told of ends, until nothing is left."""

    name = "settler"

    def __init__(self, *, clock: Clock, store: Store, lease: Lease) -> None:
        super().__init__(clock)
        self._store = store
        self._lease = lease
        self._steps = BatchSize(MAX_SETTLED)
        self._due_at = math.inf
        self._planned = asyncio.Event()

    def soon(self) -> None:
        """Settle now: a hint has come."""
        self._plan(0.0)

    def renewed(self) -> None:
        """Settle soon: there is something to settle, and perhaps another node has the hint."""
        self._plan(self.clock.elapsed() + self.clock.random.uniform(0, SPREAD * self._lease.interval))

    def _plan(self, due_at: float) -> None:
        self._due_at = min(self._due_at, due_at)
        self._planned.set()

    async def run(self) -> None:
        while True:
            while (left := self._due_at - self.clock.elapsed()) > 0:
                self._planned.clear()
                if left == math.inf:
                    self.watchdog.beat()
                    await self._planned.wait()
                else:
                    await wait_set(self._planned, left)
            self._due_at = math.inf
            while self._lease.trusted and await self._steps.step(self._store.settle):
                pass
