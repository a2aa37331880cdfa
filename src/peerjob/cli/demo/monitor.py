"""What goes on in the cluster, as pictures for a view, all of it asked of a manager's public verbs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from peerjob import Clock, Instance, Manager, NodeView, Query, State, Stats

from . import workload
from .cluster import Cluster

RATE_OVER = 2.0
"""Seconds over which the rate is taken."""

Status = Literal["starting", "alive", "killed", "silent"]


@dataclass(frozen=True, kw_only=True)
class NodeFigures:
    """One node. `heartbeat` is the age of its last renewal in seconds, None when the store does not know it."""

    name: str
    pid: int
    workers: int
    running: int
    heartbeat: float | None
    status: Status


@dataclass(frozen=True, kw_only=True)
class KindFigures:
    """Instances of one kind by what they are doing; `waiting` has the delayed ones too."""

    kind: str
    waiting: int
    running: int
    completed: int
    failed: int


@dataclass(frozen=True, kw_only=True)
class Picture:
    """The cluster at one moment, `elapsed` seconds after the start of the demo."""

    elapsed: float
    nodes: tuple[NodeFigures, ...]
    kinds: tuple[KindFigures, ...]
    total: int
    active: int
    rate: float
    """Instances that became final, per second."""

    @property
    def final(self) -> int:
        return self.total - self.active

    @property
    def alive(self) -> int:
        """Nodes that work."""
        return sum(node.status == "alive" for node in self.nodes)

    def kind(self, kind: str) -> KindFigures:
        return next(row for row in self.kinds if row.kind == kind)


class Monitor:
    """Takes pictures, and remembers what a picture needs of the ones before."""

    def __init__(
        self, manager: Manager, *, clock: Clock, elapsed: Callable[[], float], cluster: Cluster, workers: int
    ) -> None:
        self._manager = manager
        self._clock = clock
        self._elapsed = elapsed
        self._cluster = cluster
        self._workers = workers
        self._finals: deque[tuple[float, int]] = deque([(0.0, 0)])
        self._skew_us: int | None = None
        self._seen: dict[str, NodeView] = {}

    async def look(self) -> Picture:
        stats = await self._manager.stats()
        views = {view.info.name: view for view in await self._manager.nodes() if view.info.workers}
        elapsed = self._elapsed()
        return Picture(
            elapsed=elapsed,
            nodes=self._rows(views),
            kinds=tuple(_kind_row(stats, job.kind) for job in workload.JOBS),
            total=stats.total(),
            active=stats.total(State.ACTIVE),
            rate=self._rate(elapsed, stats.total(State.FINAL)),
        )

    def _rows(self, views: Mapping[str, NodeView]) -> tuple[NodeFigures, ...]:
        now = self._clock.time_us()
        for view in views.values():
            # the store may have a clock of its own; a renewal is never younger than zero
            age = now - view.renewed_us
            self._skew_us = age if self._skew_us is None else min(self._skew_us, age)
        self._seen |= views
        names = list(self._cluster.pids) or list(views)
        return tuple(self._row(name, views.get(name), now - (self._skew_us or 0)) for name in names)

    def _row(self, name: str, view: NodeView | None, now_us: int) -> NodeFigures:
        killed = name == self._cluster.killed
        last = view or self._seen.get(name)
        status: Status = "killed" if killed else "alive" if view else "silent" if last else "starting"
        return NodeFigures(
            name=name,
            pid=self._cluster.pids.get(name, last.info.pid if last else 0),
            workers=last.info.workers if last else self._workers,
            running=view.running if view else 0,
            heartbeat=(now_us - last.renewed_us) / 1_000_000 if last else None,
            status=status,
        )

    def _rate(self, elapsed: float, final: int) -> float:
        self._finals.append((elapsed, final))
        while len(self._finals) > 2 and elapsed - self._finals[0][0] > RATE_OVER:
            self._finals.popleft()
        (since, before), (now, after) = self._finals[0], self._finals[-1]
        return (after - before) / max(now - since, 0.001)

    async def slow_by_node(self) -> dict[str, int]:
        """Name of a node → slow jobs whose bodies run there at this moment."""
        found: dict[str, int] = {}
        async for one in self._manager.iter_instances(Query(kind=workload.slow.kind, state=State.PROCESSING)):
            if one.progress is not None and one.node is not None:
                found[one.node] = found.get(one.node, 0) + 1
        return found

    async def tell_events(self, tell: Callable[[str], None]) -> None:
        """Tell what happens to the watched jobs, until cancelled."""
        async for event in self._manager.watch(Query(tag=workload.WATCHED)):
            if event.entry is not None:
                text = _event_text(event.instance, event.entry.state, event.entry.node, event.entry.note)
                if text:
                    tell(text)


def _kind_row(stats: Stats, kind: str) -> KindFigures:
    return KindFigures(
        kind=kind,
        waiting=stats.total(State.SCHEDULED, kind),
        running=stats.total(State.PROCESSING, kind),
        completed=stats.total(State.COMPLETED, kind),
        failed=stats.total(State.ERROR, kind),
    )


def _event_text(instance: Instance[Any], state: State, node: str, note: str) -> str:
    """One line about a change, or "" for what everybody expects."""
    name = workload.name_of(instance.kind, instance.args)
    match state:
        case State.SCHEDULED if note:
            return f"{name}: {note}"
        case State.PROCESSING if instance.kind == workload.slow.kind:
            again = " again" if instance.crashes + instance.losses else ""
            return f"{name} runs{again} on {node}"
        case State.COMPLETED:
            return f"{name} completed on {node}"
        case State.TERMINATED | State.TIMED_OUT | State.CANCELLED:
            return f"{name} ended as {state} on {node}: {note or instance.error}"
        case _:
            return ""
