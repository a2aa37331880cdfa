"""One shared sample of a cluster: all pages and all live views of a process read the cluster through it.

The sample is taken once a second while a live view is open, and otherwise when a page needs it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextvars import Context
from dataclasses import dataclass, field, replace
from typing import Any

from peerjob.handles.instance import Instance
from peerjob.handles.manager import Manager
from peerjob.handles.scoped_manager import ScopedManager
from peerjob.handles.stats import Stats
from peerjob.model.activity import Activity
from peerjob.model.child_tasks import cancel
from peerjob.model.clock import to_us
from peerjob.model.errors import PeerjobError
from peerjob.model.firing import Leader
from peerjob.model.query import Query
from peerjob.model.record import NodeView
from peerjob.model.state import State

from .patience import PATIENCE, describe_absence

logger = logging.getLogger("peerjob.web")

INTERVAL = 1.2
"""Seconds between two samples of the counts while a live view is open. One costs two calls of the store."""
NODES_INTERVAL = 10.0
"""Seconds between two reads of the nodes, unless their number changes."""
ACTIVITY_INTERVAL = 10.0
"""Seconds between two reads of the activity and of the oldest: nodes add to the activity every ten seconds."""
GONE_US = 120_000_000
"""Microseconds for which a node that has left is shown."""
MAX_GONE = 20
MAX_OLDEST = 20
"""How many of the oldest waiting instances are read."""
MAX_DELAYED_KINDS = 5
"""The most kinds whose oldest instances are read by themselves, every ten seconds: those that may wait for a time."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The state of a cluster at one moment."""

    at_us: int = 0
    """When the counts were read; 0 if they were never read."""
    stats: Stats = field(default_factory=Stats)
    nodes: tuple[NodeView, ...] = ()
    gone: tuple[tuple[NodeView, int], ...] = ()
    """Nodes that were live a short time ago, and when they were missed, in microseconds."""
    leader: Leader | None = None
    activity: Activity | None = None
    oldest: tuple[Instance[Any], ...] = ()
    """Waiting instances, the oldest by creation first."""
    without_wait: frozenset[str] = frozenset()
    """Kinds whose first instances are all delayed, as far as they are not among the oldest."""
    all_kinds: bool = True
    """Whether it is about all kinds, so that the number of delayed instances is known."""
    absence: str = ""
    """Why the latest read failed; "" if it did not."""
    version: int = 0


class Samples:
    """Takes samples of one cluster, for all its readers."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self.latest = Sample(all_kinds=not isinstance(manager, ScopedManager))
        self._taken = float("-inf")
        self._nodes_taken = float("-inf")
        self._activity_taken = float("-inf")
        self._taking: asyncio.Task[None] | None = None
        self._loop_task: asyncio.Task[None] | None = None
        self._readers = 0
        self._changed = asyncio.Event()

    async def current(self) -> Sample:
        """A sample of the last second, or the last one of all if the cluster cannot be read now."""
        if self._manager.clock.elapsed() - self._taken >= INTERVAL:
            await self._take()
        return self.latest

    async def follow(self) -> AsyncGenerator[Sample]:
        """Yield the present sample, then each new one."""
        self._readers += 1
        if self._loop_task is None:
            self._loop_task = asyncio.get_running_loop().create_task(
                self._run(), name="peerjob-web-samples", context=Context()
            )
        try:
            yield await self.current()
            while True:
                await self._changed.wait()
                yield self.latest
        finally:
            self._readers -= 1
            self._end_without_readers()

    def _end_without_readers(self) -> None:
        if not self._readers and self._loop_task is not None:
            cancel(self._loop_task)
            self._loop_task = None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            await self._take()

    async def _take(self) -> None:
        # readers that come at the same time share one read; a reader that leaves does not end the read of the others
        if self._taking is None or self._taking.done():
            self._taking = asyncio.get_running_loop().create_task(
                self._read(), name="peerjob-web-sample", context=Context()
            )
        await asyncio.shield(self._taking)

    async def _read_oldest(self, stats: Stats) -> tuple[tuple[Instance[Any], ...], frozenset[str]]:
        """The oldest waiting instances of all kinds, then those of some kinds that are not among them."""
        query, without_wait = Query(state=State.SCHEDULED, limit=MAX_OLDEST), set[str]()
        instances = list(await self._manager.lookup_instances(query))
        if len(instances) == MAX_OLDEST:
            now_us = self._manager.clock.time_us()
            for kind in may_all_be_delayed(stats, instances, now_us)[:MAX_DELAYED_KINDS]:
                own = await self._manager.lookup_instances(replace(query, kind=kind))
                due = [instance for instance in own if to_us(instance.due_at) <= now_us]
                instances += due[:1]
                if not due:
                    without_wait.add(kind)
        return tuple(instances), frozenset(without_wait)

    async def _read(self) -> None:
        clock, changes = self._manager.clock, dict[str, Any](absence="")
        try:
            async with asyncio.timeout(PATIENCE):
                stats = await self._manager.stats()
                now = clock.elapsed()
                changes |= {"stats": stats, "at_us": clock.time_us()}
                if now - self._nodes_taken >= NODES_INTERVAL or stats.nodes != len(self.latest.nodes):
                    changes["nodes"] = nodes = tuple(await self._manager.nodes())
                    changes["gone"] = gone_nodes(self.latest, nodes, clock.time_us())
                    changes["leader"] = await self._manager.leader()
                    self._nodes_taken = now
                if now - self._activity_taken >= ACTIVITY_INTERVAL:
                    changes["activity"] = await self._manager.activity()
                    changes["oldest"], changes["without_wait"] = await self._read_oldest(stats)
                    self._activity_taken = now
        except (PeerjobError, TimeoutError) as error:
            changes["absence"] = describe_absence(error)
            if not self.latest.absence:
                logger.warning("the dashboard shows old values: %s", changes["absence"])
        except Exception as error:
            # a defect must not end the live views for good: they show old values, and the next sample tries again
            changes["absence"] = f"The cluster cannot be read: {type(error).__name__}. The log of the server says more."
            if changes["absence"] != self.latest.absence:
                logger.exception("the dashboard cannot read the cluster; it shows old values, and tries again")
        self._taken = clock.elapsed()
        self.latest = replace(self.latest, **changes, version=self.latest.version + 1)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def may_all_be_delayed(stats: Stats, oldest: Sequence[Instance[Any]], now_us: int) -> list[str]:
    """The kinds that can have only delayed instances, by the counts and the oldest instances of all kinds."""
    seen = Counter(instance.kind for instance in oldest)
    waits = {instance.kind for instance in oldest if to_us(instance.due_at) <= now_us}
    counts = {kind: stats.total(State.SCHEDULED, kind) for kind in stats.counts}
    return sorted(kind for kind, count in counts.items() if seen[kind] < count <= stats.delayed and kind not in waits)


def gone_nodes(before: Sample, nodes: Sequence[NodeView], now_us: int) -> tuple[tuple[NodeView, int], ...]:
    """The nodes that left lately, by kill or by stop, the latest first; a node that came back is not among them."""
    live = {node.name for node in nodes}
    known = [(node, now_us) for node in before.nodes] + list(before.gone)
    return tuple((node, at_us) for node, at_us in known if node.name not in live and now_us - at_us < GONE_US)[
        :MAX_GONE
    ]
