"""Brings together what was counted, how the node is, and how the namespace is, in the form of Prometheus."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from heapq import nlargest

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from peerjob.handles.manager import Stats
from peerjob.model.errors import NodeStateError, StoreError
from peerjob.model.query import Query
from peerjob.model.state import State
from peerjob.node.node import Node
from peerjob.version import __version__

from . import catalogue as of
from .tallies import MAX_LABELS, OTHERS, Histogram, KindCounts, Tallies

logger = logging.getLogger("peerjob.metrics")

FRESH = 1.0
"""Seconds for which what was read of the namespace is told again, however often somebody scrapes."""
READ_TIMEOUT = 3.0
"""Most seconds that a scrape waits for the store."""
MAX_AGES = 100
"""Most kinds whose queue's age is asked for."""
MAX_OLDEST = 10
"""How many of the oldest queued are looked at for a queue's age."""

Row = tuple[Sequence[str], float | Histogram]
ALONE: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class MetricsView:
    """The namespace, as the store tells; `ages` is in seconds, by kind."""

    stats: Stats
    ages: dict[str, float] = field(default_factory=dict[str, float])


class Metrics(Collector):
    """The metrics of one node, from now on; the node need not be running, and may be stopped and started.

    `compat` adds go-job's names for what both have. `registry` may be shown by an application's own exposition; it then
    tells the namespace as it was at the last `refresh`.
    """

    def __init__(self, node: Node, *, compat: bool = False) -> None:
        self.node = node
        self._compat = compat
        self._tallies = Tallies()
        self._view: MetricsView | None = None
        self._read_at: float | None = None
        self._reading = asyncio.Lock()
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        node.observe(self._tallies)

    async def exposition(self, accept: str = "") -> tuple[str, bytes]:
        """(content type, text) of a scrape, in the format that an Accept header asks for."""
        await self.refresh()
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is no number
            encode, content_type = choose_encoder("")
        return content_type, encode(self.registry)

    async def refresh(self) -> None:
        """Read the namespace, unless that was done less than a second ago; never raises for a store that is away."""
        async with self._reading:
            now = self.node.clock.elapsed()
            if self._read_at is not None and now - self._read_at < FRESH:
                return
            try:
                async with asyncio.timeout(READ_TIMEOUT):
                    self._view = await self._read()
            except (StoreError, TimeoutError, NodeStateError) as error:
                logger.debug("the namespace cannot be read for a scrape: %r", error)
                self._view = None
            self._read_at = now

    async def _read(self) -> MetricsView:
        stats = await self.node.stats()
        now_us = self.node.clock.time_us() - round(self.node.vitals().ahead * 1_000_000)
        ages: dict[str, float] = {}
        for kind in [kind for kind in sorted(stats.counts) if stats.total(State.SCHEDULED, kind)][:MAX_AGES]:
            oldest = await self.node.lookup_instances(Query(kind=kind, state=State.SCHEDULED, limit=MAX_OLDEST))
            due_us = min((one.record.due_us for one in oldest), default=now_us)
            ages[kind] = max(0, now_us - due_us) / 1_000_000
        return MetricsView(stats=stats, ages=ages)

    # -- what Prometheus is told --------------------------------------------------------------------------------------

    def describe(self) -> Iterator[Metric]:
        """Nothing, so that registering asks for no sample."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        """Every metric with its samples; called by the registry."""
        for metric, rows in (*self._happened(), *self._present(), *self._shared()):
            for name in (metric.name, metric.compat) if self._compat and metric.compat else (metric.name,):
                yield _family(metric, name, rows)

    def _happened(self) -> Iterator[tuple[of.Metric, list[Row]]]:
        tallies = self._tallies
        for job in self.node.jobs():
            tallies.kinds[job.kind]  # a series that begins at 0 shows its first event as an increase
        kinds = sorted(tallies.kinds.items())
        for metric, attribute in KIND_COUNTERS.items():
            yield metric, [((kind,), getattr(tally, attribute)) for kind, tally in kinds]
        yield of.DURATION, [((kind,), tally.duration) for kind, tally in kinds]
        yield of.WAIT, [((kind,), tally.wait) for kind, tally in kinds]
        yield of.CLAIM, [(ALONE, tallies.claim)]
        yield of.COMMIT, [(ALONE, tallies.commit)]
        yield (
            of.FIRES,
            [
                ((schedule, outcome.value), count)
                for schedule, outcomes in sorted(tallies.fires.items())
                for outcome, count in sorted(outcomes.items())
            ],
        )
        yield of.FIRE_DELAY, [(ALONE, tallies.fire_delay)]

    def _present(self) -> Iterator[tuple[of.Metric, list[Row]]]:
        node = self.node
        yield of.RUNNING, [(ALONE, int(node.running))]
        yield of.REGISTERED, [(ALONE, len(node.jobs()))]
        if not node.running:
            return
        stats = node.vitals()
        yield of.INFO, [((node.name, node.namespace, __version__, node.capabilities.engine), 1)]
        yield of.WORKERS, [(ALONE, stats.workers)]
        yield of.BUSY, [(ALONE, stats.busy)]
        yield of.STUCK, [(ALONE, stats.stuck)]
        yield of.HELD, [(ALONE, stats.held)]
        yield of.LEASE_AGE, [(ALONE, stats.lease_age)]
        yield of.TRUSTED, [(ALONE, int(stats.trusted))]
        yield of.AHEAD, [(ALONE, stats.ahead)]
        yield of.LEADER, [(ALONE, int(stats.leads))]
        yield of.TERM, [(ALONE, stats.term)]
        yield of.ERRORS, [((role,), count) for role, count in sorted(stats.failures.items())]

    def _shared(self) -> Iterator[tuple[of.Metric, list[Row]]]:
        view = self._view
        yield of.STORE_UP, [(ALONE, int(view is not None))]
        if view is None:
            return
        stats = view.stats
        queued = {kind: stats.total(State.SCHEDULED, kind) for kind in stats.counts}
        processing = {kind: stats.total(State.PROCESSING, kind) for kind in stats.counts}
        shown = set(nlargest(MAX_LABELS, stats.counts, key=lambda kind: (queued[kind] + processing[kind], kind)))
        yield of.QUEUED, _by_kind(queued, shown)
        yield of.PROCESSING, _by_kind(processing, shown)
        yield of.UNSERVED, _by_kind(stats.unserved, shown)
        yield of.QUEUE_AGE, [((kind,), seconds) for kind, seconds in view.ages.items()]
        yield of.DELAYED, [(ALONE, stats.delayed)]
        yield of.NODES, [(ALONE, stats.nodes)]
        yield of.UNDECODABLE, [(ALONE, stats.undecodable)]


KIND_COUNTERS: dict[of.Metric, str] = {
    of.EXECUTED: "executed",
    of.COMPLETED: "completed",
    of.TERMINATED: "terminated",
    of.CANCELED: "canceled",
    of.TIMEDOUT: "timedout",
    of.RETRIED: "retried",
    of.RETURNED: "returned",
    of.LOST: "lost",
    of.REAPED: "reaped",
}
assert set(KIND_COUNTERS.values()) <= set(KindCounts.__slots__)


def _by_kind(numbers: Mapping[str, int], shown: Set[str]) -> list[Row]:
    """A series for each kind that is shown, and one for the sum of the others, if there are any."""
    rows: list[Row] = [((kind,), numbers[kind]) for kind in sorted(numbers.keys() & shown)]
    others = numbers.keys() - shown
    return [*rows, ((OTHERS,), sum(numbers[kind] for kind in others))] if others else rows


def _family(metric: of.Metric, name: str, rows: list[Row]) -> Metric:
    if metric.type == "histogram":
        histogram = HistogramMetricFamily(name, metric.help, labels=metric.labels)
        for labels, value in rows:
            if isinstance(value, Histogram):
                histogram.add_metric(labels, value.buckets(), value.sum)
        return histogram
    family = (CounterMetricFamily if metric.type == "counter" else GaugeMetricFamily)(
        name, metric.help, labels=metric.labels
    )
    for labels, value in rows:
        if not isinstance(value, Histogram):
            family.add_metric(labels, value)
    return family
