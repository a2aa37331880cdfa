"""The leadership of a namespace."""

from __future__ import annotations

from peerjob.model.firing import Candidate, Leader, Term

from .step import AtomicStep

COORDINATOR = "store"
"""The coordinator of the terms. The store itself counts them, so no refused term comes again."""


def leader(step: AtomicStep) -> Leader | None:
    """The current leader."""
    return step.state.leader if step.state.leads_until_us > step.now_us else None


def campaign(step: AtomicStep, candidate: Candidate, *, ttl_us: int) -> Leader:
    """Take the leadership if it is free, with a higher term, or keep the candidate's own; returns the leader."""
    current = leader(step)
    if current is None:
        number = step.state.terms.get(COORDINATOR, 0) + 1
        step.state.terms[COORDINATOR] = number
        current = Leader(
            incarnation=candidate.incarnation,
            name=candidate.name,
            term=Term(COORDINATOR, number),
            since_us=step.now_us,
        )
        step.state.leader, step.rings = current, True
    if current.incarnation == candidate.incarnation:
        step.state.leads_until_us = step.now_us + ttl_us
    return current


def resign(step: AtomicStep, incarnation: str) -> None:
    """End the leadership of an incarnation, if it leads."""
    current = leader(step)
    if current is not None and current.incarnation == incarnation:
        step.state.leads_until_us = 0
        step.hint_all("leader")
        step.rings = True
