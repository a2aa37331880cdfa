"""Answers to probes: whether a node is alive, ready, started or drained.

A node is not live only if a restart helps: its claim loop or the renewal of its lease hangs, or bodies hold every
worker for good. While the store is away, a node is only not ready.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from peerjob.model.findings import Finding, Severity
from peerjob.model.printable import counted
from peerjob.node.runtime import NodeRuntime


class Probe(StrEnum):
    """A question about a node."""

    LIVE = "live"
    """Whether the node can go on; the answer is no if only a restart helps."""
    READY = "ready"
    """Whether the node takes work: it is started, its lease is trusted, and it neither drains nor stops."""
    STARTED = "started"
    """Whether the node has joined the cluster."""
    DRAINED = "drained"
    """Whether the node takes no more work, runs nothing, and has all outcomes in the store."""


@dataclass(frozen=True, kw_only=True)
class ProbeAnswer:
    """The answer to a probe, with its reasons."""

    probe: Probe
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether the answer is yes."""
        return all(finding.verdict is not Severity.FAIL for finding in self.findings)

    @property
    def text(self) -> str:
        """A line with "ok" or "failed", then one line for each finding."""
        lines = (f"{verdict:<5} {subject}: {text}" for subject, verdict, text in self.findings)
        return "\n".join(("ok" if self.ok else "failed", *lines, ""))


def answer_probe(runtime: NodeRuntime | None, probe: Probe) -> ProbeAnswer:
    """Answer a probe from what this process knows; `runtime` is None for a node that is not running."""
    return ProbeAnswer(probe=probe, findings=tuple(_findings(runtime, probe)))


def _findings(runtime: NodeRuntime | None, probe: Probe) -> list[Finding]:
    if runtime is None:
        # a process is live before its node runs; the other probes detect a start that never ends
        return [_finding("start", probe is Probe.LIVE, "is not running")]
    match probe:
        case Probe.LIVE:
            return _live(runtime)
        case Probe.READY:
            return _ready(runtime)
        case Probe.STARTED:
            return [_finding("join", runtime.joined, "is in the cluster" if runtime.joined else "is under way")]
        case Probe.DRAINED:
            return _drained(runtime)


def _live(runtime: NodeRuntime) -> list[Finding]:
    pool = runtime.pool
    # Without a trusted lease, stuck bodies do not count: the node told them to end because the store is away, and they
    # can end by themselves before the store is back.
    all_stuck = 0 < pool.size <= pool.stuck_bodies and runtime.lease.trusted
    findings = [_finding("workers", not all_stuck, f"{pool.running} of {pool.size} busy, {pool.stuck} stuck")]
    if runtime.lease.started:
        findings.append(_finding("lease", *_renewal(runtime)))
    if runtime.claim_loop.started:
        findings.append(_finding(runtime.claim_loop.name, *_claim_loop(runtime)))
    return findings


def _renewal(runtime: NodeRuntime) -> tuple[bool, str]:
    lease = runtime.lease
    if lease.died:
        return False, "no task renews it any more"
    if lease.watchdog.stopped():
        return False, f"its renewal has hung for {lease.watchdog.missing():.0f} s"
    return True, "the node renews it, or tries to"


def _claim_loop(runtime: NodeRuntime) -> tuple[bool, str]:
    claim_loop, since = runtime.claim_loop, runtime.lease.answered_since
    if claim_loop.died:
        return False, "has ended"
    # the store does not answer the lease either, so the claim loop is not the cause
    if since is None:
        return True, "waits for the store, as the lease does"
    if claim_loop.watchdog.stopped(since):
        hung = claim_loop.watchdog.missing(since)
        return False, f"made no progress for {hung:.0f} s, in which the store answered the lease"
    return True, "makes progress"


def _ready(runtime: NodeRuntime) -> list[Finding]:
    started, trusted, accepting = runtime.claim_loop.started, runtime.lease.trusted, runtime.pool.accepting
    age = f"the store answered {max(0.0, runtime.lease.age):.1f} s ago" if runtime.joined else "there is none yet"
    return [
        _finding("start", started, "is started" if started else "has not finished"),
        _finding("lease", trusted, f"{'is' if trusted else 'is not'} trusted; {age}"),
        _finding("intake", accepting, "takes work" if accepting else "drains or stops, and takes no work"),
    ]


def _drained(runtime: NodeRuntime) -> list[Finding]:
    pool = runtime.pool
    stored = not runtime.in_flight.unacknowledged and runtime.in_flight.hinted_claim is None
    return [
        _finding("intake", not pool.accepting, "takes work" if pool.accepting else "takes no work"),
        # a node that takes no work holds no claims that have not started: it hands them back at once
        _finding("workers", not pool.running, f"{counted(pool.running, 'instance')} still in a worker"),
        _finding("outcomes", stored, "are all in the store" if stored else "are on their way to the store"),
    ]


def _finding(subject: str, good: bool, text: str) -> Finding:
    return Finding(subject, Severity.OK if good else Severity.FAIL, text)
