"""All metrics: name, type, help, labels, and the name in go-job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric; the series of a histogram end in `_bucket`, `_sum` and `_count`."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    compat: str = ""
    """The name of the same metric in go-job; "" if go-job has no such metric."""


def _gauge(name: str, help: str, *labels: str, compat: str = "") -> Metric:
    return Metric(name=name, type="gauge", help=help, labels=labels, compat=compat)


def _counter(name: str, help: str, *labels: str, compat: str = "") -> Metric:
    return Metric(name=name, type="counter", help=help, labels=labels, compat=compat)


def _histogram(name: str, help: str, *labels: str, compat: str = "") -> Metric:
    return Metric(name=name, type="histogram", help=help, labels=labels, compat=compat)


def _kind_counter(event: str, help: str, *, in_go_job: bool = False) -> Metric:
    return _counter(f"peerjob_{event}_total", help, "kind", compat=f"go_job_{event}_total" if in_go_job else "")


# -- events on this node
KIND_COUNTERS = {
    "executed": _kind_counter("executed", "Bodies that ran here and ended.", in_go_job=True),
    "completed": _kind_counter("completed", "Instances that became Completed here.", in_go_job=True),
    "terminated": _kind_counter(
        "terminated", "Instances that became Terminated here, or that this node ended as poison.", in_go_job=True
    ),
    "canceled": _kind_counter(
        "canceled", "Instances that were cancelled through this node, or cancelled themselves here.", in_go_job=True
    ),
    "timedout": _kind_counter("timedout", "Instances that became TimedOut here.", in_go_job=True),
    "retried": _kind_counter("retried", "Attempts that failed here and are retried."),
    "returned": _kind_counter("returned", "Claims that were handed back or snoozed; no attempt is counted."),
    "lost": _kind_counter("lost", "Bodies that ended after another node had taken the instance over."),
    "reaped": _kind_counter("reaped", "Claims that this node took back from dead peers."),
}
"""Attribute of `KindCounts` → the metric that shows the attribute."""
DURATION = _histogram("peerjob_duration_seconds", "Run time of bodies.", "kind", compat="go_job_duration_seconds")
WAIT = _histogram("peerjob_wait_seconds", "Time from due to claimed.", "kind")
CLAIM = _histogram(
    "peerjob_claim_seconds", "Time of round trips to the store that claimed, without the claims that wait with a hint."
)
COMMIT = _histogram("peerjob_commit_seconds", "Time of round trips to the store that committed.")
STORE = _histogram("peerjob_store_seconds", "Time of calls to the store, with retries.", "verb")
FIRES = _counter("peerjob_fires_total", "Nominal times that this node recorded as leader.", "schedule", "outcome")
FIRE_DELAY = _histogram("peerjob_fire_delay_seconds", "Time from the nominal time to its record, for times that fired.")
ERRORS = _counter(
    "peerjob_errors_total",
    "Errors of the node's background roles: the store or the coordinator did not answer.",
    "role",
)

# -- the state of this node
INFO = _gauge("peerjob_node_info", "Always 1; the labels describe the node.", "node", "namespace", "version", "engine")
REGISTERED = _gauge("peerjob_registered", "Kinds registered here.", compat="go_job_registered")
RUNNING = _gauge("peerjob_node_up", "Whether the node is started (1) or not (0).")
WORKERS = _gauge("peerjob_workers", "Workers of this node.", compat="go_job_workers")
BUSY = _gauge("peerjob_workers_busy", "Workers that run an instance.")
STUCK = _gauge(
    "peerjob_workers_stuck",
    "Workers that a body still occupies 5 s after it was told to end, or that processors occupy for over 5 s.",
)
INTAKE = _gauge(
    "peerjob_node_intake",
    "1 for the present state of the node: active, draining or drained; 0 for the others.",
    "state",
)
HELD = _gauge("peerjob_claims_held", "Claims that wait here for a worker.")
LEASE_AGE = _gauge("peerjob_lease_age_seconds", "Time since the store last answered a renewal.")
TRUSTED = _gauge("peerjob_lease_trusted", "Whether the node trusts its lease (1) and so may start work.")
AHEAD = _gauge("peerjob_clock_ahead_seconds", "How far this node's clock is ahead of the store's clock.")
LEADER = _gauge("peerjob_leader", "Whether this node leads (1) and so fires the schedules.")
TERM = _gauge("peerjob_term", "Number of the current leader's term; 0 if none is known.")

# -- the state of the namespace: every node shows the same values
STORE_UP = _gauge("peerjob_store_up", "Whether the store answered this scrape (1).")
QUEUED = _gauge(
    "peerjob_queued", "Instances that are Scheduled: due, delayed or parked.", "kind", compat="go_job_queued"
)
PROCESSING = _gauge("peerjob_processing", "Instances that are Processing, on all nodes.", "kind")
UNSERVED = _gauge("peerjob_unserved", "Queued instances that no live node can run.", "kind")
QUEUE_AGE = _gauge(
    "peerjob_queue_age_seconds", "Time since due of the longest waiting of the ten oldest queued instances.", "kind"
)
DELAYED = _gauge("peerjob_delayed", "Instances that are not due yet.")
NODES = _gauge("peerjob_nodes", "Live nodes.")
LIMIT_RUNNING = _gauge("peerjob_limit_running", "Claims that a shared limit counts, on all nodes.", "limit")
LIMIT_CONCURRENCY = _gauge("peerjob_limit_concurrency", "The most claims of a shared limit at a time.", "limit")
LIMIT_WAITING = _gauge("peerjob_limit_waiting", "Queued instances of the kinds of a shared limit.", "limit")
LIMIT_REMAINING = _gauge("peerjob_limit_remaining", "How many more claims a shared limit allows now.", "limit")
SETTLING = _gauge("peerjob_settling", "Ends of instances whose effects on children and waits are still to come.")
UNDECODABLE = _gauge("peerjob_undecodable", "Records that were set aside because they cannot be read.")

# -- the database of a node with an outbox
OUTBOX_ROWS = _gauge("peerjob_outbox_rows", "Rows that wait for a relay, up to 100,000.", "table")
OUTBOX_AGE = _gauge("peerjob_outbox_age_seconds", "Age of the oldest row that waits for a relay.", "table")
OUTBOX_REFUSED = _gauge("peerjob_outbox_refused", "Rows that were kept aside because they cannot be sent.", "table")
INBOX = _gauge("peerjob_inbox_instances", "Instances of which the inbox keeps values, up to 100,000.", "table")

ALL = (*KIND_COUNTERS.values(), *(value for value in list(globals().values()) if isinstance(value, Metric)))
