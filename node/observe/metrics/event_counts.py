"""Counts what happens on a node, in plain numbers, because this runs with every claim and commit."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from peerjob.model.firing import Fire, FireOutcome, FireRecord
from peerjob.model.record import Ack, Action, Claim, Reaped
from peerjob.model.state import State
from peerjob.node.observe.observer import Observer
from peerjob.node.work.outcomes import Entry
from peerjob.store.timed import VERBS

T = TypeVar("T")

MAX_LABELS = 1_000
"""Most values of one label; further values are counted together, as OTHERS."""
OTHERS = "(others)"
ROUND_TRIP_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds, in seconds, of the buckets for round trips to the store and for late fires."""
JOB_BOUNDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
"""Upper bounds, in seconds, of the buckets for the waits and run times of jobs."""


class Histogram:
    """Counts values by the bounds that they do not exceed."""

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    @property
    def empty(self) -> bool:
        """Whether no value was counted."""
        return not any(self._counts)

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """(bound, values that do not exceed it), in the form of Prometheus."""
        total, buckets = 0, list[tuple[str, float]]()
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            buckets.append((bound, total))
        return buckets


def _job_histogram() -> Histogram:
    return Histogram(JOB_BOUNDS)


@dataclass(slots=True)
class KindCounts:
    """What happened to instances of one kind."""

    executed: int = 0
    completed: int = 0
    terminated: int = 0
    canceled: int = 0
    timedout: int = 0
    retried: int = 0
    returned: int = 0
    lost: int = 0
    reaped: int = 0
    duration: Histogram = field(default_factory=_job_histogram)
    wait: Histogram = field(default_factory=_job_histogram)


class Labelled(dict[str, T], Generic[T]):
    """Label → counts, made at the first use; bounded, because callers of `schedule` choose the labels."""

    def __init__(self, make: Callable[[], T]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, label: str) -> T:
        if len(self) >= MAX_LABELS and label != OTHERS:
            return self[OTHERS]
        made = self[label] = self._make()
        return made


class EventCounts(Observer):
    """All counts of one node, over its starts and stops."""

    def __init__(self) -> None:
        self.kinds: Labelled[KindCounts] = Labelled(KindCounts)
        self.claim = Histogram(ROUND_TRIP_BOUNDS)
        self.commit = Histogram(ROUND_TRIP_BOUNDS)
        # all verbs are here from the start, because the thread of the lease counts, too
        self.store = {verb: Histogram(ROUND_TRIP_BOUNDS) for verb in VERBS}
        self.fires: Labelled[dict[FireOutcome, int]] = Labelled(dict[FireOutcome, int])
        self.fire_delay = Histogram(ROUND_TRIP_BOUNDS)

    def round_ended(
        self, seconds: float | None, entries: Sequence[Entry], acks: Sequence[Ack], claims: Sequence[Claim]
    ) -> None:
        if entries and seconds is not None:
            self.commit.observe(seconds)
            for (run, outcome), ack in zip(entries, acks, strict=True):
                if outcome.action is not Action.REPORT:
                    self._ended(self.kinds[run.claim.kind], run.seconds, outcome.action, ack)
        if claims and seconds is not None:
            self.claim.observe(seconds)
        for claim in claims:
            self.kinds[claim.kind].wait.observe(max(0, claim.at_us - claim.due_us) / 1_000_000)

    @staticmethod
    def _ended(counts: KindCounts, seconds: float | None, action: Action, ack: Ack) -> None:
        if seconds is not None:
            counts.executed += 1
            counts.duration.observe(seconds)
        if ack is Ack.LOST:
            counts.lost += 1
        elif ack is not Ack.DONE:
            pass
        elif action is Action.COMPLETE:
            counts.completed += 1
        elif action is Action.TERMINATE:
            counts.terminated += 1
        elif action is Action.TIME_OUT:
            counts.timedout += 1
        elif action is Action.CANCEL:
            counts.canceled += 1
        elif action is Action.RETRY:
            counts.retried += 1
        elif action is not Action.RELEASE:
            counts.returned += 1

    def store_called(self, verb: str, seconds: float) -> None:
        self.store[verb].observe(seconds)

    def cancelled(self, kind: str) -> None:
        self.kinds[kind].canceled += 1

    def reaped(self, reaped: Sequence[Reaped]) -> None:
        for claim in reaped:
            counts = self.kinds[claim.kind]
            counts.reaped += 1
            if claim.state is State.TERMINATED:
                counts.terminated += 1

    def fired(self, fire: Fire, record: FireRecord) -> None:
        outcomes = self.fires[fire.schedule]
        outcomes[record.outcome] = outcomes.get(record.outcome, 0) + record.count
        if record.outcome is FireOutcome.FIRED:
            self.fire_delay.observe(record.late_us / 1_000_000)
