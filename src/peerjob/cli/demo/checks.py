"""The result of a run, from the histories of all instances, and the checks on it."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from peerjob import Instance, State

from .leader_watch import LeaderWatch
from .workload import COUNTED, Count


class Kill(NamedTuple):
    """A node that was killed, and when by the store's clock, in microseconds."""

    node: str
    at_us: int


class Check(NamedTuple):
    """A promise of the demo, whether it was kept, and the numbers behind the answer."""

    promise: str
    kept: bool
    detail: str


class Steps(NamedTuple):
    """What the nodes reported of the steps of orders."""

    names: int
    """Steps whose values bodies got."""
    run_again: int
    """Steps whose functions were called more than once: a kill came between the call and the answer of the store."""
    accepted_twice: int
    """Steps for which bodies got two different values."""


def steps_of(reports: Iterable[str]) -> Steps:
    """Count what the nodes reported; see `workload.reports`."""
    calls, values = Counter[tuple[str, str]](), dict[tuple[str, str], set[str]]()
    for what, order, step, *value in map(json.loads, reports):
        if what == "called":
            calls[order, step] += 1
        else:
            values.setdefault((order, step), set()).update(value)
    return Steps(
        len(values),
        sum(count > 1 for count in calls.values()),
        sum(len(different) > 1 for different in values.values()),
    )


class _Totals(NamedTuple):
    """What the histories and results of all instances add up to."""

    done: int
    failed: int
    lost: int
    twice: int
    claims: int
    counted: Count
    seconds: float
    peak: int
    """The most instances that ended within one second."""


def evaluate(
    instances: Sequence[Instance[Any]],
    scheduled: set[str],
    single: Count,
    kill: Kill | None,
    *,
    kill_wanted: bool,
    leads: LeaderWatch | None = None,
    steps: Steps | None = None,
) -> tuple[dict[str, Any], list[Check]]:
    """The result as `--json` prints it, with times in seconds, and the checks."""
    totals = _totals(instances, scheduled)
    claimed_again = _takeovers(instances, kill.node) if kill else []
    last_us = max(claimed_again, default=math.inf)
    recovery = round((last_us - kill.at_us) / 1_000_000, 3) if kill and last_us < math.inf else None
    checks = _checks_of_jobs(totals, len(scheduled), single)
    if kill_wanted:
        took = "not all of them" if recovery is None else f"{recovery:.2f} s after kill -9"
        detail = f"{len(claimed_again):,} from {kill and kill.node}, {took}"
        checks.append(Check("peers took over all that was held", recovery is not None, detail))
    checks += [*_checks_of_leads(leads), *_checks_of_steps(steps)]
    result = {
        "scheduled": len(scheduled),
        "completed": totals.done,
        "failed": totals.failed,
        "lost": totals.lost,
        "double_completions": totals.twice,
        "recovery_seconds": recovery,
        "jobs_per_second": round(totals.done / totals.seconds, 1) if totals.seconds > 0 else 0.0,
        "matches_single_process": totals.counted == single,
        "passed": all(check.kept for check in checks),
        "seconds": round(max(0.0, totals.seconds), 3),
        "peak_jobs_per_second": totals.peak,
        "claims": totals.claims,
        "killed_node": kill and kill.node,
        "killed_leader": (leads and leads.killed) or None,
        "election_seconds": leads and leads.seconds,
        "held_by_killed_node": len(claimed_again),
        "steps_run_again": steps and steps.run_again,
        "values_accepted_twice": steps and steps.accepted_twice,
        "count": {name: totals.counted[name] for name in COUNTED},
        "failed_checks": [f"{check.promise}: {check.detail}" for check in checks if not check.kept],
    }
    return result, checks


def _totals(instances: Sequence[Instance[Any]], scheduled: set[str]) -> _Totals:
    done = [instance for instance in instances if instance.state is State.COMPLETED]
    final = [instance for instance in instances if instance.state.is_final]
    entries = [(instance.id, entry) for instance in instances for entry in instance.record.history]
    completed = [id for id, entry in entries if entry.state is State.COMPLETED]
    receipts: list[dict[str, Any]] = [instance.outcome() for instance in done]
    stale = sum(
        (receipt["fence"], receipt["node"]) != (of.fence, of.node) for receipt, of in zip(receipts, done, strict=True)
    )
    ended = [instance.record.history[-1].at_us for instance in final]
    return _Totals(
        done=len(done),
        failed=len(final) - len(done),
        lost=len(scheduled - {instance.id for instance in final}),
        twice=stale + len(completed) - len(set(completed)),
        claims=sum(entry.state is State.PROCESSING for _, entry in entries),
        counted=sum((Count(receipt["count"]) for receipt in receipts), Count()),
        seconds=(max(ended, default=0) - min((entry.at_us for _, entry in entries), default=0)) / 1_000_000,
        peak=max(Counter(at_us // 1_000_000 for at_us in ended).values(), default=0),
    )


def _checks_of_jobs(totals: _Totals, scheduled: int, single: Count) -> list[Check]:
    shown = f"{totals.done:,} of {scheduled:,}, {totals.failed:,} failed"
    tokens = f"{totals.counted['tokens']:,} and {single['tokens']:,} tokens"
    return [
        Check("totals equal those of one process", totals.counted == single, tokens),
        Check("all that was scheduled completed", totals.done == scheduled, shown),
        Check("nothing lost", not totals.lost, f"{totals.lost:,}"),
        Check("nothing completed twice", not totals.twice, f"{totals.twice:,}"),
    ]


def _checks_of_leads(leads: LeaderWatch | None) -> Iterator[Check]:
    if leads is not None and leads.killed:
        kill = f"kill -9 of {leads.killed}"
        led = (
            f"none after {kill}" if leads.seconds is None else f"{leads.successor}, {leads.seconds:.2f} s after {kill}"
        )
        yield Check("etcd elected another leader", leads.seconds is not None, led)


def _checks_of_steps(steps: Steps | None) -> Iterator[Check]:
    if steps is not None:
        kept = steps.names > 0 and not steps.accepted_twice
        yield Check("orders kept each value of a step", kept, f"{steps.names:,} steps")


def _takeovers(instances: Sequence[Instance[Any]], dead: str) -> list[float]:
    """For each claim that the killed node lost, the time of the next claim of that instance; inf if there is none."""
    waits: list[float] = []
    for history in (instance.record.history for instance in instances):
        for at, entry in enumerate(history):
            after = history[at + 1 :]
            if entry.state is State.PROCESSING and entry.node == dead and not (after and after[0].node == dead):
                waits.append(next((later.at_us for later in after if later.state is State.PROCESSING), math.inf))
    return waits
