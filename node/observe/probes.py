"""What a node answers to whoever starts, restarts and stops processes.

Only what a restart heals makes a node not live: a claim loop or a renewal of the lease that hangs, or bodies that hold
every worker for good. A store that is away makes it not ready, and no more than that.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from peerjob.model.findings import Finding, Severity

if TYPE_CHECKING:
    from peerjob.node.runtime import NodeRuntime


class Probe(StrEnum):
    """A question about a node."""

    LIVE = "live"
    """Whether it can go on; False is healed by a restart."""
    READY = "ready"
    """Whether it takes work: it is started, its lease is trusted, and it neither drains nor stops."""
    STARTED = "started"
    """Whether it has joined the cluster."""
    DRAINED = "drained"
    """Whether it was told to take no more work, and nothing is left to be done on it."""


@dataclass(frozen=True, kw_only=True)
class ProbeAnswer:
    """The answer to a probe, and what it is made of."""

    probe: Probe
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether it is yes."""
        return all(finding.verdict is not Severity.FAIL for finding in self.findings)

    @property
    def text(self) -> str:
        """A line with "ok" or "failed", then one line for each finding."""
        lines = (f"{verdict:<5} {subject}: {text}" for subject, verdict, text in self.findings)
        return "\n".join(("ok" if self.ok else "failed", *lines, ""))


def look(runtime: NodeRuntime | None, probe: Probe) -> ProbeAnswer:
    """How it is at this moment, by asking nobody; None for a node that is not running."""
    return ProbeAnswer(probe=probe, findings=tuple(_findings(runtime, probe)))


def _findings(runtime: NodeRuntime | None, probe: Probe) -> list[Finding]:
    if runtime is None:
        # a process that has not begun is alive; whether it ever will begin is another question
        return [_finding("start", probe is Probe.LIVE, "is not running")]
    match probe:
        case Probe.LIVE:
            return _live(runtime)
        case Probe.READY:
            return [_start(runtime), _trust(runtime), _intake(runtime)]
        case Probe.STARTED:
            return [_finding("join", runtime.joined, "is in the cluster" if runtime.joined else "is under way")]
        case Probe.DRAINED:
            return _drained(runtime)


def _live(runtime: NodeRuntime) -> list[Finding]:
    findings = [_workers(runtime)]
    if runtime.lease.started:
        findings.append(_renewal(runtime))
    if runtime.claim_loop.started:
        findings.append(_claim_loop(runtime))
    return findings


def _renewal(runtime: NodeRuntime) -> Finding:
    lease = runtime.lease
    if lease.died:
        return _finding("lease", False, "nobody renews it any more")
    if lease.watchdog.stopped():
        return _finding("lease", False, f"its renewal has hung for {lease.watchdog.missing():.0f} s")
    return _finding("lease", True, "is being renewed, or tried to be")


def _claim_loop(runtime: NodeRuntime) -> Finding:
    claim_loop, since = runtime.claim_loop, runtime.lease.answered_since
    if claim_loop.died:
        return _finding(claim_loop.name, False, "has ended")
    # nobody can tell a store that is away from a loop that hangs, unless the store answers somebody
    if since is not None and claim_loop.watchdog.stopped(since):
        hung = claim_loop.watchdog.missing(since)
        return _finding(claim_loop.name, False, f"got nowhere for {hung:.0f} s, in which the store answered the lease")
    return _finding(
        claim_loop.name, True, "comes around" if since is not None else "waits for the store, as the lease does"
    )


def _workers(runtime: NodeRuntime) -> Finding:
    pool = runtime.pool
    told = f"{pool.running} of {pool.size} busy, {pool.stuck} stuck"
    # what was told to end because the store is away may end before the store is back
    held = 0 < pool.size <= pool.stuck_bodies and runtime.lease.trusted
    return _finding("workers", not held, told)


def _start(runtime: NodeRuntime) -> Finding:
    begun = runtime.claim_loop.started
    return _finding("start", begun, "is started" if begun else "has not finished")


def _trust(runtime: NodeRuntime) -> Finding:
    trusted = runtime.lease.trusted
    age = f"the store answered {max(0.0, runtime.lease.age):.1f} s ago" if runtime.joined else "there is none yet"
    return _finding("lease", trusted, f"{'is' if trusted else 'is not'} trusted; {age}")


def _intake(runtime: NodeRuntime) -> Finding:
    accepts = runtime.pool.accepting
    return _finding("intake", accepts, "takes work" if accepts else "drains or stops, and takes no work")


def _drained(runtime: NodeRuntime) -> list[Finding]:
    pool = runtime.pool
    left = pool.running + pool.waiting
    settled = not runtime.claim_loop.unsettled
    return [
        _finding("intake", not pool.accepting, "takes work" if pool.accepting else "takes no work"),
        _finding("workers", not left, f"{pool.running} instance(s) run, {pool.waiting} are held"),
        _finding("outcomes", settled, "are all in the store" if settled else "are on their way to the store"),
    ]


def _finding(subject: str, good: bool, text: str) -> Finding:
    return Finding(subject, Severity.OK if good else Severity.FAIL, text)
