"""The overview: totals, the last hour, the kinds, the nodes, and warnings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from starlette.responses import Response

from peerjob.model.activity import Activity, KindActivity
from peerjob.model.ages import span
from peerjob.model.clock import to_datetime
from peerjob.model.record import NodeView
from peerjob.model.state import State
from peerjob.web.links import Links
from peerjob.web.live import Parts, changed_parts, live, shared_parts
from peerjob.web.page import page
from peerjob.web.samples import MAX_OLDEST, Sample
from peerjob.web.visit import Shown, Visit

MAX_KINDS = 100
"""The most kinds of the table; the others are on the page of the kinds."""
MAX_UNSERVED = 20
"""The most kinds without a node that are warned of one by one."""
FAILED = State.TERMINATED | State.TIMED_OUT


@dataclass(frozen=True, kw_only=True)
class KindSummary:
    """One kind in the table."""

    kind: str
    waiting: int
    running: int
    failed: int
    """Failures of the last hour."""
    unserved: bool
    oldest: str
    activity: KindActivity


async def overview(visit: Visit) -> Shown:
    """The page."""
    sample = await visit.served.samples.current()
    return Shown("overview.html", sample=sample, parts=_parts(visit, sample))


async def live_overview(visit: Visit) -> Response:
    """The live view of the page."""

    async def render(sample: Sample) -> Parts:
        return _parts(visit, sample)

    return live(visit, changed_parts(visit, render))


def _parts(visit: Visit, sample: Sample) -> Parts:
    def render(links: Links, sample: Sample) -> Parts:
        now = to_datetime(sample.at_us) if sample.at_us else visit.now
        rows = kind_rows(sample, now)
        text = visit.templates.text
        return {
            "tiles": text("tiles.html", now=now, visit=links, tiles=_tiles(sample, now), sample=sample),
            "kinds": text(
                "kinds_table.html", now=now, visit=links, rows=rows[:MAX_KINDS], more=max(0, len(rows) - MAX_KINDS)
            ),
            "nodes": text("nodes_list.html", now=now, visit=links, sample=sample, warnings=list(warnings(sample))),
            "activity": _series(sample.activity),
        }

    return shared_parts(visit, "overview", sample, render)


def _tiles(sample: Sample, now: datetime) -> list[tuple[str, str, str, bool]]:
    """Title, value, and link of each tile, and whether it is alarming."""
    stats, activity = sample.stats, sample.activity
    failed = 0 if activity is None else sum(activity.total.failed)
    queued = stats.total(State.SCHEDULED)
    waits = [now - instance.due_at for instance in sample.oldest if instance.due_at <= now]
    waiting = [
        ("Queued", f"{max(0, queued - stats.delayed):,}", "Scheduled", False),
        ("Delayed", f"{stats.delayed:,}", "Scheduled", False),
    ]
    return [
        ("Running", f"{stats.total(State.PROCESSING):,}", "Processing", False),
        *(waiting if sample.all_kinds else [("Queued or delayed", f"{queued:,}", "Scheduled", False)]),
        ("Failed in the last hour", f"{failed:,}", "Terminated", failed > 0),
        ("Oldest wait", span(max(waits)) if waits else "–", "Scheduled", False),
    ]


def kind_rows(sample: Sample, now: datetime) -> list[KindSummary]:
    """The kinds that have instances, are run by a node or were active, the busiest first."""
    stats, activity = sample.stats, sample.activity
    active: Mapping[str, KindActivity] = {} if activity is None else activity.kinds
    known = {kind for node in sample.nodes for kind in node.info.kinds}
    rows = [
        KindSummary(
            kind=kind,
            waiting=stats.total(State.SCHEDULED, kind),
            running=stats.total(State.PROCESSING, kind),
            failed=sum(active[kind].failed) if kind in active else 0,
            unserved=kind in stats.unserved,
            oldest=_oldest(sample, kind, now) if stats.total(State.SCHEDULED, kind) else "–",
            activity=active.get(kind, KindActivity()),
        )
        for kind in stats.counts.keys() | active.keys() | known
    ]
    return sorted(
        rows,
        key=lambda row: (not row.unserved, -row.running - row.waiting, -sum(row.activity.started), row.kind),
    )


def _oldest(sample: Sample, kind: str, now: datetime) -> str:
    """The longest wait of a kind. If only other kinds are among the oldest, it is shorter than theirs."""
    waits = [now - instance.due_at for instance in sample.oldest if instance.kind == kind and instance.due_at <= now]
    if waits:
        return span(max(waits))
    seen = [instance for instance in sample.oldest if instance.kind == kind]
    if len(sample.oldest) < MAX_OLDEST or kind in sample.without_wait:
        return "–"
    if len(seen) == sample.stats.total(State.SCHEDULED, kind):
        return "–"  # all of them are delayed
    return f"< {span(max(timedelta(), now - sample.oldest[MAX_OLDEST - 1].created_at))}"


def warnings(sample: Sample) -> Iterator[str]:
    """What a person should look at."""
    stats = sample.stats
    if sample.at_us and not stats.nodes:
        yield "No node is live: nothing runs."
    elif sample.at_us and sample.leader is None:
        yield "No leader is known: schedules do not fire until there is one."
    unserved = sorted(stats.unserved.items())
    for kind, count in unserved[:MAX_UNSERVED]:
        yield f"No live node runs the kind {kind}: {count:,} wait."
    if further := unserved[MAX_UNSERVED:]:
        yield f"No live node runs {len(further):,} further kinds: {sum(count for _, count in further):,} wait."
    if stats.undecodable:
        yield f"{stats.undecodable:,} record(s) cannot be read, and were set aside."
    versions = sorted({node.info.version for node in sample.nodes})
    if len(versions) > 1:
        yield f"The nodes run different releases: {', '.join(versions)}."
    yield from (f"Node {node.name} is {node.intake}." for node in sample.nodes if is_closed(node))


def is_closed(node: NodeView) -> bool:
    """Whether a node takes no work."""
    return node.intake not in ("", "active")


def _series(activity: Activity | None) -> str:
    """The last hour for the chart, as JSON: times, completed and failed."""
    if activity is None:
        return "[]"
    total = activity.total
    times = [round(moment.timestamp()) for moment in activity.times]
    return json.dumps([times, total.completed, total.failed], separators=(",", ":"))


ROUTES = (
    page("/", overview, title="Overview"),
    page("/live/overview", live_overview),
)
