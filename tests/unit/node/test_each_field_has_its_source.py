"""Each field of what a node shows comes from its own source: each source has a value that no other one has."""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta
from typing import Any

import pytest

from peerjob import Job, Metrics, RegisteredJob
from peerjob.node.observe.metrics import catalogue
from peerjob.node.observe.node_stats import NodeStats
from peerjob.testing import VirtualClock, running_node
from support.factories import shared_url

OPTIONS: dict[str, Any] = {
    "description": "what it does",
    "priority": 3,
    "max_retries": 7,
    "max_crashes": 9,
    "timeout": 11,
    "version": 13,
    "timezone": "Europe/Berlin",
    "tags": ("one", "two"),
}
SHOWN: dict[str, Any] = {
    "kind": "work",
    "description": "what it does",
    "priority": 3,
    "max_retries": 7,
    "timeout": timedelta(seconds=11),
    "timezone": "Europe/Berlin",
    "tags": ("one", "two"),
    "version": 13,
    "signature": "(number: int = …)",
    "nodes": ("runs it",),
    "node_count": 1,
}
"""What each node shows of the job, whether it runs the job or not."""
BY_NODE = {"registered_at", "aliases", "schedule_at", "runs_here", "json_schema"}
"""What only a node that runs the job shows, or only a call with `schemas`."""


def work(number: int = 1) -> None: ...


@pytest.mark.parametrize(
    ("given", "cron", "every"),
    [({"cron": "5 4 * * *"}, "5 4 * * *", None), ({"every": 17, "timezone": "UTC"}, None, timedelta(seconds=17))],
)
async def test_a_registered_job(clock: VirtualClock, given: dict[str, Any], cron: str, every: timedelta) -> None:
    job = Job("work", work, aliases=["former"], **OPTIONS | given)
    expected = SHOWN | {"cron": cron, "every": every, "timezone": given.get("timezone", "Europe/Berlin")}
    assert expected.keys() | BY_NODE == {one.name for one in fields(RegisteredJob)}
    url = shared_url()
    async with (
        running_node(job, store=url, clock=clock, name="runs it") as node,
        running_node(store=url, clock=clock, name="gateway", workers=0) as gateway,
    ):
        await clock.advance(2)
        (own,) = await node.registered_jobs("work")
        (other,) = await gateway.registered_jobs("work")
    assert {name: getattr(own, name) for name in expected} == expected
    assert {name: getattr(other, name) for name in expected} == expected
    assert (own.aliases, own.runs_here, other.runs_here) == (("former",), True, False)


STATS: dict[catalogue.Metric, str] = {
    catalogue.WORKERS: "workers",
    catalogue.BUSY: "busy",
    catalogue.STUCK: "stuck",
    catalogue.HELD: "held",
    catalogue.LEASE_AGE: "lease_age",
    catalogue.TRUSTED: "trusted",
    catalogue.AHEAD: "ahead",
    catalogue.LEADER: "leads",
    catalogue.TERM: "term",
}
LABELLED = {"intake", "failures"}
"""Fields whose values are labels."""


async def test_a_metric_of_the_node(clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {*STATS.values()} | LABELLED == {one.name for one in fields(NodeStats)}
    counts: dict[str, Any] = {"workers": 3, "busy": 5, "stuck": 7, "held": 9, "term": 11}
    async with running_node(clock=clock) as node:
        metrics = Metrics(node)
        for trusted in (True, False):
            stats = NodeStats(**counts, lease_age=1.5, ahead=2.5, intake="active", trusted=trusted, leads=not trusted)
            monkeypatch.setattr(node, "vitals", lambda stats=stats: stats)
            found = {one.name: one.samples[0].value for one in metrics.registry.collect() if one.samples}
            for metric, name in STATS.items():
                assert found[metric.name] == float(getattr(stats, name)), name
