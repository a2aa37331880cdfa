"""The demand: the numbers of jobs that wait and run. They are read at most once a second."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from peerjob.handles.stats import Stats
from peerjob.model.state import State
from peerjob.model.stored_limit import LimitView
from peerjob.node.node import Node
from peerjob.store.per_loop import PerLoop

from .metadata import Trigger

FRESH = 1.0
"""Seconds for which one read of the store answers all requests of KEDA."""
READ_TIMEOUT = 3.0
"""Seconds for the store to answer. After this time KEDA gets an error, which KEDA handles better than a wait."""


@dataclass(frozen=True, kw_only=True)
class Demand:
    """The jobs of a namespace that wait and run, by kind."""

    due: dict[str, int]
    stats: Stats
    limits: tuple[LimitView, ...] = ()

    def jobs(self, trigger: Trigger) -> int:
        """The jobs that count for a trigger: those that run on any node, and those that are due."""
        kinds = trigger.kinds or (None,)
        if trigger.include_delayed:
            return sum(self.stats.total(State.ACTIVE, kind) for kind in kinds)
        due = self.due if not trigger.kinds else {kind: self.due.get(kind, 0) for kind in trigger.kinds}
        waiting = sum(self._startable(due).values())
        return waiting + sum(self.stats.total(State.PROCESSING, kind) for kind in kinds)

    def _startable(self, due: dict[str, int]) -> dict[str, int]:
        """The due jobs without those that a paused kind or a limit without room holds back: more nodes start none."""
        startable = dict(due)
        for view in self.limits:
            remaining = 0 if view.paused else view.remaining
            if remaining is None:
                continue
            for kind in view.kinds:
                startable[kind] = min(startable.get(kind, 0), remaining)
                remaining -= startable[kind]
        return startable


class DemandReader:
    """Reads the demand of a node's namespace."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._reading = PerLoop(asyncio.Lock)
        self._read: Demand | None = None
        self._read_at = 0.0

    async def read(self) -> Demand:
        """The demand, at most a second old; raises StoreError, NodeStateError, or TimeoutError."""
        async with self._reading():
            if self._read is None or self._node.clock.elapsed() - self._read_at >= FRESH:
                async with asyncio.timeout(READ_TIMEOUT):
                    # due jobs are read first: a job that is claimed between the two reads counts twice, not zero times
                    due = await self._node.due()
                    limits = tuple([view async for view in self._node.limits()])
                    self._read = Demand(due=due, stats=await self._node.stats(), limits=limits)
                self._read_at = self._node.clock.elapsed()
            return self._read
