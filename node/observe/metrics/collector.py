"""Makes samples for Prometheus of the events, the state of the node, and the state of the namespace."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from heapq import nlargest
from typing import Any, cast

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from peerjob.handles.stats import Stats
from peerjob.model.arguments import typed
from peerjob.model.child_tasks import AsyncClosing
from peerjob.model.errors import NodeStateError, StoreError
from peerjob.model.query import Query
from peerjob.model.state import State
from peerjob.model.stored_limit import LimitView
from peerjob.node.node import Node
from peerjob.node.work.outbox import OutboxState
from peerjob.store.per_loop import PerLoop
from peerjob.version import __version__

from . import catalogue
from .event_counts import MAX_LABELS, OTHERS, EventCounts, Histogram

logger = logging.getLogger("peerjob.metrics")

MAX_AGE = 1.0
"""Seconds for which one read of the state of the namespace is used for all scrapes."""
READ_TIMEOUT = 3.0
"""Seconds that a scrape waits for the store; after this time, the scrape leaves out the namespace."""
MAX_AGES = 100
"""Most kinds for which a scrape reads the age of the queue."""
MAX_OLDEST = 10
"""How many of the oldest queued instances of a kind are read, to find the age of the queue."""

Row = tuple[Sequence[str], float | Histogram]
NO_LABELS: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class MetricsView:
    """The state of the namespace, as the store has it; `ages` is in seconds, by kind."""

    stats: Stats
    ages: dict[str, float] = field(default_factory=dict[str, float])
    limits: tuple[LimitView, ...] = ()
    """The shared limits. Keys would be too many series."""


class Metrics(Collector):
    """The metrics of one node from now on, over its stops and starts.

    `compat` adds go-job's names for metrics that both have. An application can export `registry` itself, with the
    samples of the namespace from the last `refresh`.
    """

    @typed
    def __init__(self, node: Node, *, compat: bool = False) -> None:
        self.node = node
        self._compat = compat
        self._events = EventCounts()
        self._view: MetricsView | None = None
        self._outbox: OutboxState | None = None
        self._read_at: float | None = None
        self._reading = PerLoop(asyncio.Lock)
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        node.observe(self._events)

    async def exposition(self, accept: str = "") -> tuple[str, bytes]:
        """Answer a scrape: (content type, text), in the format of an Accept header."""
        await self.refresh()
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version in the Accept header is not a number
            encode, content_type = choose_encoder("")
        return content_type, encode(self.registry)

    async def refresh(self) -> None:
        """Read the namespace, unless this was done less than a second ago; does not raise if the store is away."""
        async with self._reading():
            now = self.node.clock.elapsed()
            if self._read_at is not None and now - self._read_at < MAX_AGE:
                return
            try:
                async with asyncio.timeout(READ_TIMEOUT):
                    self._view = await self._read()
            except (StoreError, TimeoutError, NodeStateError) as error:
                logger.debug("the namespace cannot be read for a scrape: %r", error)
                self._view = None
            self._outbox = await self._read_outbox()
            self._read_at = now

    async def _read_outbox(self) -> OutboxState | None:
        if self.node.outbox is None:
            return None
        try:
            async with asyncio.timeout(READ_TIMEOUT):
                return await self.node.outbox.state()
        except Exception as error:  # noqa: BLE001  # each library has its own errors of a database
            logger.debug("the outbox cannot be read for a scrape: %r", error)
            return None

    async def _read(self) -> MetricsView:
        stats = await self.node.stats()
        now_us = self.node.clock.time_us() - round(self.node.vitals().ahead * 1_000_000)
        ages: dict[str, float] = {}
        for kind in [kind for kind in sorted(stats.counts) if stats.total(State.SCHEDULED, kind)][:MAX_AGES]:
            oldest = await self.node.lookup_instances(Query(kind=kind, state=State.SCHEDULED, limit=MAX_OLDEST))
            due_us = min((instance.record.due_us for instance in oldest), default=now_us)
            ages[kind] = max(0, now_us - due_us) / 1_000_000
        return MetricsView(stats=stats, ages=ages, limits=await self._shared_limits())

    async def _shared_limits(self) -> tuple[LimitView, ...]:
        """The first shared limits. The views of kinds come behind them, and there can be thousands."""
        views: list[LimitView] = []
        async with AsyncClosing(cast("Any", self.node.limits())) as opened:
            async for view in opened:
                if not view.name or len(views) == MAX_LABELS:
                    break
                views.append(view)
        return tuple(views)

    # -- called by the registry ---------------------------------------------------------------------------------------

    def describe(self) -> Iterator[Metric]:
        """Return nothing, so that the registry does not collect samples when the collector is registered."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        """Return every metric with its samples."""
        for metric, rows in (
            *self._event_rows(),
            *self._node_rows(),
            *self._namespace_rows(),
            *self._outbox_rows(),
        ):
            for name in (metric.name, metric.compat) if self._compat and metric.compat else (metric.name,):
                yield _family(metric, name, rows)

    def _event_rows(self) -> Iterator[tuple[catalogue.Metric, list[Row]]]:
        events = self._events
        for job in self.node.jobs():
            # make the counts before the first event: Prometheus shows an increase only if the series begins at 0
            events.kinds[job.kind]
        kinds = sorted(events.kinds.items())
        for attribute, metric in catalogue.KIND_COUNTERS.items():
            yield metric, [((kind,), getattr(counts, attribute)) for kind, counts in kinds]
        yield catalogue.DURATION, [((kind,), counts.duration) for kind, counts in kinds]
        yield catalogue.WAIT, [((kind,), counts.wait) for kind, counts in kinds]
        yield catalogue.CLAIM, [(NO_LABELS, events.claim)]
        yield catalogue.COMMIT, [(NO_LABELS, events.commit)]
        yield catalogue.STORE, [((verb,), times) for verb, times in events.store.items() if not times.empty]
        yield (
            catalogue.FIRES,
            [
                ((schedule, outcome.value), count)
                for schedule, outcomes in sorted(events.fires.items())
                for outcome, count in sorted(outcomes.items())
            ],
        )
        yield catalogue.FIRE_DELAY, [(NO_LABELS, events.fire_delay)]

    def _node_rows(self) -> Iterator[tuple[catalogue.Metric, list[Row]]]:
        node = self.node
        yield catalogue.RUNNING, [(NO_LABELS, int(node.running))]
        yield catalogue.REGISTERED, [(NO_LABELS, len(node.jobs()))]
        if not node.running:
            return
        stats = node.vitals()
        yield catalogue.INFO, [((node.name, node.namespace, __version__, node.capabilities.engine), 1)]
        yield catalogue.WORKERS, [(NO_LABELS, stats.workers)]
        yield catalogue.BUSY, [(NO_LABELS, stats.busy)]
        yield catalogue.STUCK, [(NO_LABELS, stats.stuck)]
        yield catalogue.INTAKE, [((state,), int(state == stats.intake)) for state in ("active", "draining", "drained")]
        yield catalogue.HELD, [(NO_LABELS, stats.held)]
        yield catalogue.LEASE_AGE, [(NO_LABELS, stats.lease_age)]
        yield catalogue.TRUSTED, [(NO_LABELS, int(stats.trusted))]
        yield catalogue.AHEAD, [(NO_LABELS, stats.ahead)]
        yield catalogue.LEADER, [(NO_LABELS, int(stats.leads))]
        yield catalogue.TERM, [(NO_LABELS, stats.term)]
        yield catalogue.ERRORS, [((role,), count) for role, count in sorted(stats.failures.items())]

    def _namespace_rows(self) -> Iterator[tuple[catalogue.Metric, list[Row]]]:
        view = self._view
        yield catalogue.STORE_UP, [(NO_LABELS, int(view is not None))]
        if view is None:
            return
        stats = view.stats
        queued = {kind: stats.total(State.SCHEDULED, kind) for kind in stats.counts}
        processing = {kind: stats.total(State.PROCESSING, kind) for kind in stats.counts}
        shown = set(nlargest(MAX_LABELS, stats.counts, key=lambda kind: (queued[kind] + processing[kind], kind)))
        yield catalogue.QUEUED, _by_kind(queued, shown)
        yield catalogue.PROCESSING, _by_kind(processing, shown)
        yield catalogue.UNSERVED, _by_kind(stats.unserved, shown)
        yield catalogue.QUEUE_AGE, [((kind,), seconds) for kind, seconds in view.ages.items()]
        yield catalogue.DELAYED, [(NO_LABELS, stats.delayed)]
        yield catalogue.NODES, [(NO_LABELS, stats.nodes)]
        yield catalogue.SETTLING, [(NO_LABELS, stats.settling)]
        yield catalogue.UNDECODABLE, [(NO_LABELS, stats.undecodable)]
        yield catalogue.LIMIT_RUNNING, [((view.name,), view.running) for view in view.limits]
        yield catalogue.LIMIT_CONCURRENCY, _known((view.name, view.concurrency) for view in view.limits)
        yield catalogue.LIMIT_WAITING, [((view.name,), view.waiting) for view in view.limits]
        yield catalogue.LIMIT_REMAINING, _known((view.name, view.remaining) for view in view.limits)

    def _outbox_rows(self) -> Iterator[tuple[catalogue.Metric, list[Row]]]:
        state = self._outbox
        if state is None:
            return
        labels = (state.table,)
        yield catalogue.OUTBOX_ROWS, [(labels, state.rows)]
        yield catalogue.OUTBOX_AGE, [(labels, state.oldest)]
        yield catalogue.OUTBOX_REFUSED, [(labels, state.refused)]
        yield catalogue.INBOX, [(labels, state.inbox)]


def _known(numbers: Iterable[tuple[str, int | None]]) -> list[Row]:
    return [((name,), number) for name, number in numbers if number is not None]


def _by_kind(numbers: Mapping[str, int], shown: Set[str]) -> list[Row]:
    """Make a row for each kind that is shown, and one for the sum of the other kinds, if there are any."""
    rows: list[Row] = [((kind,), numbers[kind]) for kind in sorted(numbers.keys() & shown)]
    others = numbers.keys() - shown
    return [*rows, ((OTHERS,), sum(numbers[kind] for kind in others))] if others else rows


def _family(metric: catalogue.Metric, name: str, rows: list[Row]) -> Metric:
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
