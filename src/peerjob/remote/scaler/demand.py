"""How much there is to be done: what waits and what runs, read at most once a second however often somebody asks."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from peerjob.handles.manager import Stats
from peerjob.model.state import State
from peerjob.node.node import Node

from .metadata import Trigger

FRESH = 1.0
"""Seconds for which what was read is told again."""
READ_TIMEOUT = 3.0
"""Most seconds for the store to answer; KEDA would rather hear of it than wait."""


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What there is to be done in a namespace, by kind."""

    due: dict[str, int]
    stats: Stats

    def jobs(self, trigger: Trigger) -> int:
        """Jobs that count for a trigger: those that run on any node, and those that could."""
        kinds = trigger.kinds or (None,)
        if trigger.include_delayed:
            return sum(self.stats.total(State.ACTIVE, kind) for kind in kinds)
        waiting = sum(self.due.values()) if not trigger.kinds else sum(self.due.get(kind, 0) for kind in trigger.kinds)
        return waiting + sum(self.stats.total(State.PROCESSING, kind) for kind in kinds)


class DemandReader:
    """Reads the demand of a node's namespace."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._reading = asyncio.Lock()
        self._read: Demand | None = None
        self._read_at = 0.0

    async def read(self) -> Demand:
        """The demand of a second ago at most; raises StoreError, NodeStateError, or TimeoutError."""
        async with self._reading:
            if self._read is None or self._node.clock.elapsed() - self._read_at >= FRESH:
                async with asyncio.timeout(READ_TIMEOUT):
                    # in this order: what is claimed in between is counted twice for a moment, rather than not at all
                    due = await self._node.due()
                    self._read = Demand(due=due, stats=await self._node.stats())
                self._read_at = self._node.clock.elapsed()
            return self._read
