"""What became of all that was scheduled, from the recorded histories and results, and whether it is as promised."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from peerjob import Instance, State
from peerjob.model.record import Transition

from . import workload
from .corpus import Count


@dataclass(frozen=True, kw_only=True)
class Check:
    """One promise, whether it was kept, and the numbers behind that."""

    promise: str
    kept: bool
    detail: str


@dataclass(frozen=True, kw_only=True)
class Kill:
    """A node that was killed; `at_us` is by the store's clock."""

    node: str
    pid: int
    at_us: int


@dataclass(kw_only=True)
class KindResult:
    """Instances of one kind, added up."""

    jobs: int = 0
    completed: int = 0
    failed: int = 0
    claims: int = 0
    waits: list[float] = field(default_factory=list[float])
    """Seconds from due to the first claim, one per instance that was claimed."""

    @property
    def median_wait(self) -> float | None:
        return median(self.waits) if self.waits else None


class Tally:
    """Adds instances up, one by one, each as it was read at the end."""

    def __init__(self, scheduled: Iterable[str], kill: Kill | None = None) -> None:
        self._missing = set(scheduled)
        self.scheduled = len(self._missing)
        self.kill = kill
        self.kinds = {job.kind: KindResult() for job in workload.JOBS}
        self.count = Count()
        self.unfinished = 0
        self.double_completions = 0
        self.early = 0
        self.wrong_retries = 0
        self.held = 0
        self.recovered_us: list[int] = []
        self._began_us: int | None = None
        self._ended_us = 0
        self._finals_by_second: dict[int, int] = {}

    @property
    def completed(self) -> int:
        return sum(kind.completed for kind in self.kinds.values())

    @property
    def failed(self) -> int:
        return sum(kind.failed for kind in self.kinds.values())

    @property
    def claims(self) -> int:
        """How often something was claimed: what was retried, taken over or handed back counts again."""
        return sum(kind.claims for kind in self.kinds.values())

    @property
    def lost(self) -> int:
        """Instances that were scheduled, and are gone or not final."""
        return len(self._missing) + self.unfinished

    @property
    def seconds(self) -> float:
        """From the first instance scheduled to the last one final."""
        return max(0, self._ended_us - (self._began_us or 0)) / 1_000_000

    @property
    def jobs_per_second(self) -> float:
        return self.completed / self.seconds if self.seconds else 0.0

    @property
    def peak_per_second(self) -> int:
        """Most instances that became final in one second of the clock."""
        return max(self._finals_by_second.values(), default=0)

    @property
    def recovery_seconds(self) -> float | None:
        """From the kill until all that the node held was claimed elsewhere; None if it was not, or nothing was."""
        if self.kill is None or not self.held or len(self.recovered_us) < self.held:
            return None
        return (max(self.recovered_us) - self.kill.at_us) / 1_000_000

    def add(self, instance: Instance[Any]) -> None:
        self._missing.remove(instance.id)
        history = instance.record.history
        tally = self.kinds[instance.kind]
        tally.jobs += 1
        tally.claims += sum(entry.state is State.PROCESSING for entry in history)
        completions = sum(entry.state is State.COMPLETED for entry in history)
        self.double_completions += max(0, completions - 1)
        if instance.state is State.COMPLETED:
            tally.completed += 1
            self._take_result(instance)
        elif instance.state.is_final:
            tally.failed += 1
        else:
            self.unfinished += 1
        self._take_times(instance, history)
        if self.kill is not None:
            self._take_recovery(history, self.kill.node)

    def _take_result(self, instance: Instance[Any]) -> None:
        receipt: workload.Receipt = instance.outcome()
        if (receipt["fence"], receipt["node"]) != (instance.fence, instance.node):
            self.double_completions += 1
        self.count += Count(**receipt["count"])
        if instance.kind == workload.flaky.kind and instance.attempts != workload.FAILURES + 1:
            self.wrong_retries += 1

    def _take_times(self, instance: Instance[Any], history: Sequence[Transition]) -> None:
        began = history[0].at_us
        self._began_us = began if self._began_us is None else min(self._began_us, began)
        claimed = next((entry.at_us for entry in history if entry.state is State.PROCESSING), None)
        if claimed is not None:
            due = instance.record.due_us if instance.kind == workload.delayed.kind else began
            self.kinds[instance.kind].waits.append((claimed - due) / 1_000_000)
            self.early += claimed < due
        if instance.state.is_final:
            ended = history[-1].at_us
            self._ended_us = max(self._ended_us, ended)
            second = ended // 1_000_000
            self._finals_by_second[second] = self._finals_by_second.get(second, 0) + 1

    def _take_recovery(self, history: Sequence[Transition], dead: str) -> None:
        """The dead node held what it had claimed and somebody else put back."""
        for at, entry in enumerate(history):
            if entry.state is not State.PROCESSING or entry.node != dead:
                continue
            after = history[at + 1 :]
            if after and after[0].node == dead:
                continue  # the node itself had ended it, or put it back
            self.held += 1
            again = next((later.at_us for later in after if later.state is State.PROCESSING), None)
            if again is not None:
                self.recovered_us.append(again)


def judge(tally: Tally, single: Count, *, kill_wanted: bool) -> list[Check]:
    """The promises of the demo, each with what was found."""
    checks = [
        Check(
            promise="totals equal those of one process",
            kept=tally.count == single,
            detail=f"{tally.count.tokens:,} = {single.tokens:,} tokens"
            if tally.count == single
            else f"{tally.count} is not {single}",
        ),
        Check(
            promise="all that was scheduled completed",
            kept=tally.completed == tally.scheduled and not tally.failed,
            detail=f"{tally.completed:,} of {tally.scheduled:,}, {tally.failed:,} failed",
        ),
        Check(promise="nothing lost", kept=not tally.lost, detail=f"{tally.lost:,}"),
        Check(
            promise="nothing completed twice",
            kept=not tally.double_completions,
            detail=f"{tally.double_completions:,}",
        ),
        Check(
            promise="retried as told, not run early",
            kept=not tally.wrong_retries and not tally.early,
            detail=f"{tally.wrong_retries:,} not retried, {tally.early:,} early",
        ),
    ]
    if kill_wanted:
        checks.append(_judge_recovery(tally))
    return checks


def _judge_recovery(tally: Tally) -> Check:
    recovery = tally.recovery_seconds
    if tally.kill is None:
        detail = "no node was killed: none was seen at work on a slow job"
    elif recovery is None:
        detail = f"{len(tally.recovered_us):,} of {tally.held:,} from {tally.kill.node}"
    else:
        detail = f"{tally.held:,} from {tally.kill.node}, {recovery:.2f} s after kill -9"
    return Check(promise="peers took over all that was held", kept=recovery is not None, detail=detail)
