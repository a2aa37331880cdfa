"""Every metric there is: its name, what it means, and by what it is told apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric; a histogram's series end in `_bucket`, `_sum` and `_count`."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    compat: str = ""
    """Its name in go-job; "" for none."""

    @property
    def series(self) -> tuple[str, ...]:
        """The names under which it can be queried."""
        names = (self.name, self.compat) if self.compat else (self.name,)
        if self.type != "histogram":
            return names
        return tuple(name + ending for name in names for ending in ("_bucket", "_sum", "_count"))


def _gauge(name: str, help: str, *labels: str, compat: str = "") -> Metric:
    return Metric(name=name, type="gauge", help=help, labels=labels, compat=compat)


def _counter(name: str, help: str, *labels: str, compat: str = "") -> Metric:
    return Metric(name=name, type="counter", help=help, labels=labels, compat=compat)


def _histogram(name: str, help: str, *labels: str, compat: str = "") -> Metric:
    return Metric(name=name, type="histogram", help=help, labels=labels, compat=compat)


# -- this node: what happened
EXECUTED = _counter("peerjob_executed_total", "Bodies that ran here and ended.", "kind", compat="go_job_executed_total")
COMPLETED = _counter(
    "peerjob_completed_total", "Instances that became Completed here.", "kind", compat="go_job_completed_total"
)
TERMINATED = _counter(
    "peerjob_terminated_total",
    "Instances that became Terminated here, or were found to be poison by this node.",
    "kind",
    compat="go_job_terminated_total",
)
CANCELED = _counter(
    "peerjob_canceled_total",
    "Instances that were cancelled through this node, or cancelled themselves here.",
    "kind",
    compat="go_job_canceled_total",
)
TIMEDOUT = _counter(
    "peerjob_timedout_total", "Instances that became TimedOut here.", "kind", compat="go_job_timedout_total"
)
RETRIED = _counter("peerjob_retried_total", "Attempts that failed here and are tried again.", "kind")
RETURNED = _counter("peerjob_returned_total", "Claims that were handed back or put off, uncounted.", "kind")
LOST = _counter("peerjob_lost_total", "Ends that came too late: another node had taken over.", "kind")
REAPED = _counter("peerjob_reaped_total", "Claims that this node took back from dead peers.", "kind")
DURATION = _histogram("peerjob_duration_seconds", "How long bodies ran.", "kind", compat="go_job_duration_seconds")
WAIT = _histogram("peerjob_wait_seconds", "From due time to claim.", "kind")
CLAIM = _histogram("peerjob_claim_seconds", "Round trips to the store that claimed.")
COMMIT = _histogram("peerjob_commit_seconds", "Round trips to the store that committed.")
FIRES = _counter("peerjob_fires_total", "Nominal times that this node accounted for as leader.", "schedule", "outcome")
FIRE_DELAY = _histogram("peerjob_fire_delay_seconds", "From nominal time to its record, for fires that were made.")
ERRORS = _counter("peerjob_errors_total", "Errors of the node's roles: the store or the coordinator was away.", "role")

# -- this node: how it is
INFO = _gauge("peerjob_node_info", "Always 1; tells what runs here.", "node", "namespace", "version", "engine")
REGISTERED = _gauge("peerjob_registered", "Kinds registered here.", compat="go_job_registered")
RUNNING = _gauge("peerjob_node_up", "Whether the node is started (1) or not (0).")
WORKERS = _gauge("peerjob_workers", "Workers of this node.", compat="go_job_workers")
BUSY = _gauge("peerjob_workers_busy", "Workers that run an instance.")
STUCK = _gauge("peerjob_workers_stuck", "Workers whose body was told to end, or whose processors go on, for over 5 s.")
HELD = _gauge("peerjob_claims_held", "Claims that wait here for a worker.")
LEASE_AGE = _gauge("peerjob_lease_age_seconds", "Since the store last answered a renewal.")
TRUSTED = _gauge("peerjob_lease_trusted", "Whether the lease certainly holds (1), so that work may start.")
AHEAD = _gauge("peerjob_clock_ahead_seconds", "How far this node's clock is ahead of the store's.")
LEADER = _gauge("peerjob_leader", "Whether this node leads (1), and so fires the schedules.")
TERM = _gauge("peerjob_term", "Number of the present leader's term; 0 while none is known.")

# -- the namespace: the same on every node
STORE_UP = _gauge("peerjob_store_up", "Whether the store answered this scrape (1).")
QUEUED = _gauge(
    "peerjob_queued", "Instances that are Scheduled: due, delayed or parked.", "kind", compat="go_job_queued"
)
PROCESSING = _gauge("peerjob_processing", "Instances that are Processing, on all nodes.", "kind")
UNSERVED = _gauge("peerjob_unserved", "Instances queued that no live node can run.", "kind")
QUEUE_AGE = _gauge(
    "peerjob_queue_age_seconds", "How long ago the longest waiting of the ten oldest queued fell due.", "kind"
)
DELAYED = _gauge("peerjob_delayed", "Instances that are not due yet.")
NODES = _gauge("peerjob_nodes", "Live nodes.")
UNDECODABLE = _gauge("peerjob_undecodable", "Records set aside because they could not be read.")

ALL = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
