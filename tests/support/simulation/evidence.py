"""The input of a checker: the answers to callers, the journal of the bodies, and the final state of the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from peerjob.model.definition import Definition
from peerjob.model.firing import FireRecord, ScheduleRow
from peerjob.model.record import MAX_CRASHES, LogLine, Record, Transition
from peerjob.model.stored_limit import LimitNumbers

from .durable_evidence import DurableEvidence

Ending = Literal["", "returned", "raised", "snoozed", "suspended", "cancelled"]
"""The end of a body, as the body reported it; "" without a report."""


@dataclass(kw_only=True)
class Run:
    """One run of one body, as the body wrote it down outside the store. Times are those of the whole cluster."""

    id: str
    kind: str
    node: str
    fence: int
    attempt: int
    begin_us: int
    end_us: int | None = None
    ending: Ending = ""
    asked: str | None = None
    """The reason with which the node asked it to end, if it did."""
    stubborn: bool = False
    """Whether the body ignores cancellation."""
    token: str = ""
    """The argument that the body was called with; each instance has one of its own."""
    tags: tuple[str, ...] = ()
    key: str | None = None
    """Tags and key of the instance that the body sees."""
    found: str = ""
    """The value of a context variable when the body began; each body sets it, none expects a value."""
    result: object = None
    """The value that the body returned."""


@dataclass(kw_only=True)
class Order:
    """One instance from an answer to a caller."""

    id: str
    kind: str
    token: str = ""
    tags: tuple[str, ...] = ()
    priority: int = 5
    delayed: bool = False
    told_us: int = 0
    """The time of the answer: the store had the instance by then."""
    max_retries: int | None = 0
    max_crashes: int = MAX_CRASHES
    key: str | None = None
    cancelled_us: int | None = None
    """The time of the answer that the instance is cancelled."""


@dataclass(frozen=True, kw_only=True)
class Absence:
    """A period in which a node could not receive anything."""

    node: str
    why: Literal["killed", "paused", "cut off"]
    from_us: int
    until_us: int | None = None
    """None for a node that never came back."""


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """A schedule at the end, and its whole ledger, the earliest nominal time first."""

    row: ScheduleRow
    records: tuple[FireRecord, ...]
    definitions: tuple[Definition, ...]
    """Every definition that the schedule has had, the latest last."""
    made_us: int = 0
    """When a caller asked for the schedule."""

    @property
    def name(self) -> str:
        return self.row.name


@dataclass(kw_only=True)
class Evidence:
    """All that one program left behind."""

    ttl_us: int = 5_000_000
    ended_us: int = 0
    orders: Mapping[str, Order] = field(default_factory=dict[str, Order])
    records: Mapping[str, Record] = field(default_factory=dict[str, Record])
    cleared: frozenset[str] = frozenset()
    """Final instances that a caller cleared, or that `retention` may have removed before they were read."""
    snapshots: Mapping[str, Sequence[tuple[Transition, ...]]] = field(
        default_factory=dict[str, Sequence[tuple[Transition, ...]]]
    )
    """Histories as they were read while the program ran, the earliest first."""
    folded: bool = False
    """Whether a caller cleared histories."""
    logs: Mapping[str, Sequence[LogLine]] = field(default_factory=dict[str, Sequence[LogLine]])
    runs: Sequence[Run] = ()
    absences: Sequence[Absence] = ()
    ledgers: Sequence[Ledger] = ()
    leftovers: Sequence[str] = ()
    """Keys in the store without an owner, after each instance was removed and each node had left."""
    skew_us: int = 0
    """Most by which the clocks of nodes differed."""
    latency: float = 0.0
    """Seconds for which a request to the store is under way on average."""
    strict: bool = True
    """Whether the store promises strict order."""
    limit: LimitNumbers = field(default_factory=LimitNumbers)
    """The shared limit of all kinds."""
    key_concurrency: int = 0
    """The concurrency of each key of each kind."""
    starts: Mapping[str, int] = field(default_factory=dict[str, int])
    """Node → how many incarnations it had, at most; of others order within a window is not judged."""

    durable: DurableEvidence = field(default_factory=DurableEvidence)
    """What durable bodies wrote down."""

    @property
    def tells_times(self) -> bool:
        """Whether the times in histories are those of the transactions."""
        return not self.skew_us and not self.latency

    def runs_of(self) -> dict[str, list[Run]]:
        """The runs of each instance, by the time at which they began."""
        found: dict[str, list[Run]] = {}
        for run in sorted(self.runs, key=lambda run: run.begin_us):
            found.setdefault(run.id, []).append(run)
        return found

    def over_us(self, run: Run) -> int | None:
        """When a body was over: it ended, or its node was killed; None for one that runs still."""
        ends = [] if run.end_us is None else [run.end_us]
        ends += [
            absence.from_us
            for absence in self.absences
            if absence.node == run.node and absence.why == "killed" and absence.from_us >= run.begin_us
        ]
        return min(ends, default=None)

    def away(self, run: Run, *reasons: str) -> list[Absence]:
        """The absences of a run's node that overlap the run."""
        over_us = self.over_us(run)
        return [
            absence
            for absence in self.absences
            if absence.node == run.node
            and absence.why in reasons
            and (absence.until_us is None or absence.until_us >= run.begin_us)
            and (over_us is None or absence.from_us <= over_us)
        ]


@dataclass(frozen=True)
class Violation:
    """One thing that an invariant forbids."""

    invariant: str
    subject: str
    text: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.subject}: {self.text}"
