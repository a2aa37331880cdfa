"""Nodes: their load, what each of their workers runs, and the forms that drain and resize them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from peerjob.handles.instance import Instance
from peerjob.handles.manager import Manager
from peerjob.model.printable import counted
from peerjob.model.query import Query
from peerjob.model.record import NodeView
from peerjob.model.rights import Role
from peerjob.model.state import State
from peerjob.web.page import action, page
from peerjob.web.visit import Done, Shown, Visit

MAX_RUNS = 1_000
"""Running instances that the page reads."""
SHOWN_RUNS = 20
"""Running instances that the page shows of a node."""
LATE = 0.5
"""The share of the time of a lease after which a node that did not renew is shown as late."""
OUTBOX_PATIENCE = 2.0
"""Seconds that the page waits for the database of an outbox, which is less than it waits for the store."""
BEGUN = 0.2
"""Seconds that a drain may take before the page answers. It goes on, and the page shows how far it is."""


@dataclass(frozen=True, kw_only=True)
class NodeLine:
    """A node with what it runs."""

    view: NodeView
    leads: bool
    runs: Sequence[tuple[Instance[Any], datetime | None]]
    """The first running instances, those that run longest first, with the begin of each."""
    running: int
    """Running instances; the row in the store is up to a second old."""

    @property
    def load(self) -> float:
        """Share of busy workers, at most 1."""
        workers = self.view.info.workers
        return min(1.0, self.running / workers) if workers else 0.0

    @property
    def clock(self) -> str:
        """By how much the clock of the node is off."""
        ahead = self.view.info.ahead_us / 1_000_000
        return f"{ahead:+.2f} s" if ahead else "right"

    @property
    def late(self) -> bool:
        """Whether the node has not renewed its lease for so long that its peers may soon take over."""
        ttl_us = self.view.expires_us - self.view.renewed_us
        return ttl_us > 0 and self.view.age_us > ttl_us * LATE


@dataclass(frozen=True, kw_only=True)
class OutboxRows:
    """The rows of an outbox, or the name of the error that their database raised."""

    state: Any
    problem: str


async def nodes(visit: Visit) -> Shown:
    """The live nodes."""
    running = Query(state=State.PROCESSING, limit=MAX_RUNS)
    views, leader, runs, outbox = await asyncio.gather(
        visit.manager.nodes(),
        visit.manager.leader(),
        visit.manager.lookup_instances(running),
        _read_outbox(visit.manager),
    )
    by_owner: dict[str, list[tuple[Instance[Any], datetime | None]]] = {}
    for worker in runs:
        by_owner.setdefault(worker.record.owner, []).append((worker, worker.processed_at))
    rows: list[NodeLine] = []
    for view in sorted(views, key=lambda node: (node.name, node.info.incarnation)):
        own = sorted(by_owner.get(view.info.incarnation, []), key=lambda run: run[1] or visit.now)
        rows.append(
            NodeLine(
                view=view,
                leads=leader is not None and leader.incarnation == view.info.incarnation,
                runs=own[:SHOWN_RUNS],
                running=len(own) if runs.cursor is None else max(len(own), view.running),
            )
        )
    return Shown("nodes.html", rows=rows, leader=leader, cut=runs.cursor is not None, outbox=outbox)


async def _read_outbox(manager: Manager) -> OutboxRows | None:
    """The outbox of the node that serves the page; a client has none, nor have rights that are limited to kinds."""
    relay = getattr(manager, "outbox", None)
    if relay is None:
        return None
    try:
        async with asyncio.timeout(OUTBOX_PATIENCE):
            return OutboxRows(state=await relay.state(), problem="")
    except Exception as error:  # noqa: BLE001  # each library has its own errors of a database
        # the text of such an error can have the address of the database
        return OutboxRows(state=None, problem=type(error).__name__)


def _node(visit: Visit) -> str:
    node = visit.need("node")
    visit.act.criteria = f"node={node}"
    return node


async def drain(visit: Visit) -> Done:
    """Let a node take no more work."""
    node = _node(visit)
    try:
        await visit.manager.drain(BEGUN, node=node)
    except TimeoutError:
        return _back(visit, "The node drains: it takes no more work, and its running jobs continue to their end.")
    return _back(visit, "The node is drained.")


async def undrain(visit: Visit) -> Done:
    """Let a node take work again."""
    await visit.manager.undrain(node=_node(visit))
    return _back(visit, "The node takes work again.")


async def resize(visit: Visit) -> Done:
    """Change the number of workers of a node."""
    node = _node(visit)
    visit.need("workers")
    workers = visit.number("workers") or 0
    visit.act.criteria += f" workers={workers}"
    await visit.manager.resize_workers(workers, node=node)
    return _back(visit, f"The node has {counted(workers, 'worker')}.")


def _back(visit: Visit, notice: str) -> Done:
    return Done(to=visit.url("/nodes"), notice=notice)


ROUTES = (
    page("/nodes", nodes, title="Nodes"),
    action("/nodes/drain", drain, role=Role.ADMIN, verb="Drain"),
    action("/nodes/undrain", undrain, role=Role.ADMIN, verb="Undrain"),
    action("/nodes/resize", resize, role=Role.ADMIN, verb="ResizeWorkers"),
)
