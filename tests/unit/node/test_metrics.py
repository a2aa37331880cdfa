"""The metrics of a node: its counts, its state, and the state of the namespace."""

import asyncio
import re
from pathlib import Path

import pytest

from peerjob import Job, Limit, Metrics, Query
from peerjob.model.activity_sample import ActivityRow
from peerjob.model.firing import Fire, FireOutcome, FireRecord
from peerjob.model.record import Ack, Action, Claim, Outcome
from peerjob.node.observe.activity import ActivityCounts
from peerjob.node.observe.metrics import catalogue
from peerjob.node.observe.metrics.event_counts import MAX_LABELS, OTHERS, EventCounts, Histogram
from peerjob.node.work.outbox import OutboxState, RelayNode
from peerjob.node.work.run import Run
from peerjob.testing.clock import VirtualClock
from peerjob.testing.helpers import advance, drain, running_node
from support.ending_jobs import FAIL, RETRY, SLEEP, SLOW
from support.factories import flaky_store, running_nodes, shared_url
from support.scrapes import scrape, series_of

DOCUMENT = Path(__file__).parents[3] / "docs" / "metrics.md"


async def test_each_end_is_counted_as_what_it_was(clock: VirtualClock) -> None:
    async with running_node(SLEEP, FAIL, RETRY, SLOW, clock=clock) as node:
        metrics = Metrics(node)
        await node.schedule_many([SLEEP.call(1), SLEEP.call(2), FAIL.call(), RETRY.call(), SLOW.call(5)])
        await drain(node)
        scraped = await scrape(metrics)

    assert scraped["peerjob_executed_total"] == {("sleep",): 2, ("fail",): 1, ("retry",): 3, ("slow",): 1}
    for name, count in {
        "completed": {"sleep": 2},
        "terminated": {"fail": 1, "retry": 1},
        "timedout": {"slow": 1},
        "retried": {"retry": 2},
        "canceled": {},
        "returned": {},
        "lost": {},
        "reaped": {},
    }.items():
        found = {kind: value for (kind,), value in scraped[f"peerjob_{name}_total"].items() if value}
        assert (name, found) == (name, count)


async def test_cancelling_counts_once_whether_it_waits_or_runs(clock: VirtualClock) -> None:
    async with running_node(SLEEP, clock=clock, workers=1) as node:
        metrics = Metrics(node)
        running = await node.schedule(SLEEP, 100)
        await advance(node, 1)
        waiting = await node.schedule(SLEEP, 100)
        assert await waiting.cancel()
        assert await running.cancel()
        await drain(node)
        scraped = await scrape(metrics)

    assert scraped["peerjob_canceled_total"] == {("sleep",): 2}
    assert scraped["peerjob_executed_total"] == {("sleep",): 1}


async def test_histograms_have_run_and_wait_times(clock: VirtualClock) -> None:
    async with running_node(SLEEP, clock=clock, workers=1) as node:
        metrics = Metrics(node)
        await node.schedule_many([SLEEP.call(2), SLEEP.call(3)])
        await drain(node)
        scraped = await scrape(metrics)

    assert scraped["peerjob_duration_seconds_sum"]["sleep",] == pytest.approx(5, abs=0.01)
    assert scraped["peerjob_duration_seconds_count"]["sleep",] == 2
    buckets = scraped["peerjob_duration_seconds_bucket"]
    assert (buckets["sleep", "1.0"], buckets["sleep", "5.0"], buckets["sleep", "+Inf"]) == (0, 2, 2)
    assert scraped["peerjob_wait_seconds_sum"]["sleep",] == pytest.approx(2, abs=0.2)


async def test_a_value_on_a_bound_falls_under_it() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 2.5):
        histogram.observe(value)

    assert histogram.buckets() == [("1.0", 2), ("2.0", 4), ("+Inf", 5)]
    assert histogram.sum == 7.5


async def test_a_slow_store_shows_in_the_round_trips(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(SLEEP, clock=clock, store=flaky.store) as node:
        metrics = Metrics(node)
        flaky.slow(0.3, "turn")
        await node.schedule(SLEEP, 1)
        await drain(node)
        await clock.advance(node.lease_ttl)
        scraped = await scrape(metrics)

    turns = scraped["peerjob_store_seconds_count"]["turn",]
    assert scraped["peerjob_store_seconds_sum"]["turn",] == pytest.approx(0.3 * turns, rel=0.01)
    assert scraped["peerjob_store_seconds_sum"]["enqueue",] == 0
    assert {"renew", "enqueue", "turn"} <= {verb for (verb,) in scraped["peerjob_store_seconds_count"]}
    for verb in ("claim", "commit"):
        least = 0.3 * scraped[f"peerjob_{verb}_seconds_count"][()]
        assert scraped[f"peerjob_{verb}_seconds_sum"][()] == pytest.approx(least, rel=0.01)
        assert least > 0


async def test_the_queue_of_each_kind_has_its_age(clock: VirtualClock) -> None:
    async with running_node(SLEEP, clock=clock, workers=1, allow_unknown=True) as node:
        metrics = Metrics(node)
        await node.schedule_many(SLEEP.call(100) for _ in range(3))
        await node.schedule("unknown")
        await advance(node, 10)
        await node.schedule(SLEEP.with_options(after=60), 1)
        scraped = await scrape(metrics)
        await node.cancel_instances(Query.all())

    assert scraped["peerjob_queued"] == {("sleep",): 3, ("unknown",): 1}
    assert scraped["peerjob_processing"] == {("sleep",): 1, ("unknown",): 0}
    assert scraped["peerjob_unserved"] == {("unknown",): 1}
    assert scraped["peerjob_delayed"] == {(): 1}
    assert scraped["peerjob_queue_age_seconds"]["sleep",] == pytest.approx(10, abs=0.1)
    assert scraped["peerjob_queue_age_seconds"]["unknown",] == pytest.approx(10, abs=0.1)


async def test_what_is_not_due_yet_has_no_age(clock: VirtualClock) -> None:
    async with running_node(SLEEP, clock=clock) as node:
        metrics = Metrics(node)
        await node.schedule(SLEEP.with_options(after=60), 1)
        await advance(node, 10)
        scraped = await scrape(metrics)

    assert scraped["peerjob_queue_age_seconds"] == {("sleep",): 0}


async def test_many_kinds_are_not_all_asked_for_their_age(clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peerjob.node.observe.metrics.collector.MAX_AGES", 2)
    async with running_node(clock=clock, allow_unknown=True) as node:
        for kind in ("c", "a", "b"):
            await node.schedule(kind)
        scraped = await scrape(Metrics(node))

    assert scraped["peerjob_queued"].keys() == {("a",), ("b",), ("c",)}
    assert scraped["peerjob_queue_age_seconds"].keys() == {("a",), ("b",)}


async def test_a_gauge_tells_so_many_kinds_apart_and_sums_the_others(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peerjob.node.observe.metrics.collector.MAX_LABELS", 2)
    async with running_node(workers=0, clock=clock) as node:
        metrics = Metrics(node)
        for kind, count in (("a", 1), ("b", 4), ("c", 3), ("d", 2)):
            for _ in range(count):
                await node.schedule(kind, allow_unknown=True)
        samples = await scrape(metrics)
        for gauge in ("peerjob_queued", "peerjob_unserved"):
            assert samples[gauge] == {("b",): 4, ("c",): 3, (OTHERS,): 3}


async def test_a_node_tells_how_it_is(clock: VirtualClock) -> None:
    async with running_node(SLEEP, FAIL, clock=clock, workers=3, name="one") as node:
        metrics = Metrics(node)
        await node.schedule(SLEEP, 100)
        await advance(node, 5)
        scraped = await scrape(metrics)
        await node.cancel_instances(Query.all())

    assert scraped["peerjob_registered"] == {(): 2}
    assert scraped["peerjob_workers"] == {(): 3}
    assert scraped["peerjob_workers_busy"] == {(): 1}
    assert scraped["peerjob_workers_stuck"] == {(): 0}
    assert scraped["peerjob_leader"] == {(): 1}
    assert scraped["peerjob_term"][()] >= 1
    assert scraped["peerjob_nodes"] == {(): 1}
    assert scraped["peerjob_lease_trusted"] == {(): 1}
    assert scraped["peerjob_lease_age_seconds"][()] <= 1.1
    assert scraped["peerjob_node_up"] == {(): 1}
    ((engine, namespace, name, _),) = scraped["peerjob_node_info"]
    assert (engine, namespace, name) == ("memory", "default", "one")


async def test_an_unreachable_store_is_shown_and_its_errors_are_counted(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(SLEEP, clock=clock, store=flaky.store) as node:
        metrics = Metrics(node)
        before = await scrape(metrics)
        flaky.fail()
        await advance(node, 6)
        during = await scrape(metrics)
        flaky.heal()
        await advance(node, 6)
        after = await scrape(metrics)

    assert before["peerjob_store_up"] == after["peerjob_store_up"] == {(): 1}
    assert before["peerjob_errors_total"]["lease",] == 0
    assert during["peerjob_store_up"] == {(): 0}
    assert "peerjob_nodes" not in during
    assert during["peerjob_lease_age_seconds"][()] > 5
    assert during["peerjob_lease_trusted"] == {(): 0}
    assert during["peerjob_errors_total"]["lease",] > 2
    assert during["peerjob_errors_total"]["claim loop",] > 2
    assert after["peerjob_lease_trusted"] == {(): 1}


async def test_a_store_that_stalls_holds_a_scrape_up_for_seconds_at_most(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(SLEEP, clock=clock, store=flaky.store) as node:
        metrics = Metrics(node)
        flaky.stall("health")
        scraped = await clock.run(scrape(metrics), 4)
        flaky.heal()

    assert scraped["peerjob_store_up"] == {(): 0}
    assert scraped["peerjob_workers"] == {(): 10}


async def test_many_scrapes_read_the_store_once_a_second(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(SLEEP, clock=clock, store=flaky.store) as node:
        metrics = Metrics(node)
        flaky.calls.clear()
        await asyncio.gather(*(scrape(metrics) for _ in range(20)))
        once = flaky.calls["health"]
        await advance(node, 1.5)
        await scrape(metrics)

    assert (once, flaky.calls["health"]) == (1, 2)


async def test_fires_are_counted_by_what_became_of_them(clock: VirtualClock) -> None:
    async with running_node(SLEEP, clock=clock) as node:
        metrics = Metrics(node)
        await node.add_schedule(SLEEP.with_options(every="10s", overlap="skip", name="often"), 15)
        await advance(node, 61)
        scraped = await scrape(metrics)

    fired = scraped["peerjob_fires_total"]["fired", "often"]
    skipped = scraped["peerjob_fires_total"]["skipped", "often"]
    assert (fired, skipped) == (3, 3)
    assert scraped["peerjob_fire_delay_seconds_count"] == {(): fired}


async def test_what_is_taken_back_from_a_dead_peer_is_counted(clock: VirtualClock) -> None:
    url = shared_url()
    flaky = flaky_store(clock, url)
    async with running_node(SLEEP, clock=clock, store=url, name="heir", workers=0) as heir:
        metrics = Metrics(heir)
        async with running_node(SLEEP, clock=clock, store=flaky.store, name="lost") as lost:
            await heir.schedule_many(SLEEP.call(1000) for _ in range(2))
            await advance(lost, 1)
            flaky.fail()
            await advance(lost, 15)
            scraped = await scrape(metrics)
            flaky.heal()

    assert scraped["peerjob_reaped_total"] == {("sleep",): 2}


async def test_old_names_are_added_when_they_are_asked_for(clock: VirtualClock) -> None:
    async with running_node(SLEEP, clock=clock) as node:
        plain, both = Metrics(node), Metrics(node, compat=True)
        await node.schedule(SLEEP, 2)
        await drain(node)
        without, scraped = await scrape(plain), await scrape(both)

    assert not [name for name in without if name.startswith("go_job_")]
    old = {name: values for name, values in scraped.items() if name.startswith("go_job_")}
    assert set(old) == {
        "go_job_registered",
        "go_job_workers",
        "go_job_queued",
        "go_job_executed_total",
        "go_job_completed_total",
        "go_job_terminated_total",
        "go_job_canceled_total",
        "go_job_timedout_total",
        "go_job_duration_seconds_bucket",
        "go_job_duration_seconds_sum",
        "go_job_duration_seconds_count",
    }
    for name, values in old.items():
        assert scraped[name.replace("go_job_", "peerjob_")] == values


async def test_nodes_of_one_process_do_not_mix(clock: VirtualClock) -> None:
    async with running_nodes(clock, "busy", "idle", jobs=SLEEP) as (busy, idle):
        await idle.drain()
        ours, theirs = Metrics(busy), Metrics(idle)
        await idle.schedule(SLEEP, 1)
        await drain(busy)
        here, there = await scrape(ours), await scrape(theirs)

    assert here["peerjob_completed_total"] == {("sleep",): 1}
    assert there["peerjob_completed_total"] == {("sleep",): 0}
    assert here["peerjob_nodes"] == there["peerjob_nodes"] == {(): 2}


async def test_a_stopped_node_still_tells_what_it_counted(clock: VirtualClock) -> None:
    async with running_node(SLEEP, clock=clock) as node:
        metrics = Metrics(node)
        await node.schedule(SLEEP, 1)
        await drain(node)
    scraped = await scrape(metrics)

    assert scraped["peerjob_completed_total"] == {("sleep",): 1}
    assert scraped["peerjob_node_up"] == {(): 0}
    assert "peerjob_workers" not in scraped


async def test_names_that_users_choose_do_not_grow_the_metrics_without_end() -> None:
    counts = EventCounts()
    for n in range(MAX_LABELS + 50):
        counts.cancelled(f"kind-{n}")
        fire = Fire(
            schedule=f"schedule-{n}", revision=1, nominal_us=0, outcome=FireOutcome.MISSED, request="", next_us=1
        )
        counts.fired(fire, FireRecord(nominal_us=0, outcome=FireOutcome.MISSED, count=2))

    assert len(counts.kinds) == len(counts.fires) == MAX_LABELS + 1
    assert counts.kinds[OTHERS].canceled == 50
    assert counts.fires[OTHERS] == {FireOutcome.MISSED: 100}


class Idle:
    """The relay of an outbox with seven rows."""

    async def run(self, node: RelayNode) -> None:
        await asyncio.Event().wait()

    async def state(self) -> OutboxState:
        return OutboxState(table="peerjob_outbox", rows=7, oldest=1.5, refused=2, inbox=3)


async def test_a_scrape_has_exactly_the_metrics_of_the_catalogue(clock: VirtualClock) -> None:
    limited = Job("limited", lambda: None, limits=[Limit("few", concurrency=1)])
    async with running_node(SLEEP, limited, clock=clock, allow_unknown=True, outbox=Idle()) as node:
        metrics = Metrics(node, compat=True)
        await node.add_schedule(SLEEP.with_options(every="10s", name="often"), 1)
        await node.schedule("unknown")
        await advance(node, 15)
        scraped = await scrape(metrics)
        await node.cancel_instances(Query.all())

    expected = {name for metric in catalogue.ALL for name in series_of(metric)}
    assert {name for name in scraped if not name.startswith("process_")} == expected


def test_the_document_tells_every_metric() -> None:
    row = r"^\| `(peerjob_\w+)(?:\{([\w, ]+)\})?` \| (\w+) \| (.+?) \| (?:`(\w+)`)? ?\|$"
    rows = re.findall(row, DOCUMENT.read_text(), re.MULTILINE)

    assert [(name, tuple(labels.split(", ")) if labels else (), *rest) for name, labels, *rest in rows] == [
        (metric.name, metric.labels, metric.type, metric.help, metric.compat) for metric in catalogue.ALL
    ]


COUNTED: dict[Action, tuple[str, str]] = {
    Action.COMPLETE: ("completed", "completed"),
    Action.TERMINATE: ("terminated", "failed"),
    Action.TIME_OUT: ("timedout", "failed"),
    Action.CANCEL: ("canceled", "cancelled"),
    Action.RETRY: ("retried", "retried"),
    Action.SNOOZE: ("returned", ""),
    Action.HAND_BACK: ("returned", ""),
    Action.SUSPEND: ("returned", ""),
    Action.RELEASE: ("", ""),
    Action.REPORT: ("", ""),
}
"""What the metrics count for an outcome that was committed, and what the activity counts."""


@pytest.mark.parametrize("ran", [False, True])
@pytest.mark.parametrize("ack", Ack)
@pytest.mark.parametrize("action", Action)
def test_each_outcome_moves_the_counts_that_it_should(action: Action, ack: Ack, ran: bool) -> None:
    claim = Claim(id="i", kind="k", fence=1, spec=b"", priority=0, due_us=0, attempts=1, crashes=0, losses=0, at_us=0)
    run = Run(claim, "first", 0.0, seconds=0.5 if ran else None)
    metrics, activity = EventCounts(), ActivityCounts()
    for observer in (metrics, activity):
        observer.round_ended(0.1, [(run, Outcome(id="i", fence=1, action=action))], [ack], [])

    is_end = action is not Action.REPORT
    counted, shown = COUNTED[action] if ack is Ack.DONE else ("lost" if ack is Ack.LOST and is_end else "", "")
    moved = {name: getattr(metrics.kinds["k"], name) for name in catalogue.KIND_COUNTERS}
    assert {name: count for name, count in moved.items() if count} == dict.fromkeys(
        filter(None, (counted, "executed" if ran and is_end else "")), 1
    )
    row = activity.take().get("k", ActivityRow())
    names = ("started", "completed", "failed", "retried", "cancelled")
    assert {name: getattr(row, name) for name in names} == dict.fromkeys(names, 0) | ({shown: 1} if shown else {})
    assert sum(row.durations) == int(ran and is_end)
