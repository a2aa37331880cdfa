"""The leadership of a namespace."""

from __future__ import annotations

from peerjob.model.firing import Candidate, Leader, Term

from .transaction import ReferenceTransaction

COORDINATOR = "store"
"""The coordinator of the terms. The store itself counts them, so no refused term comes again."""


def leader(transaction: ReferenceTransaction) -> Leader | None:
    """The current leader."""
    return transaction.state.leader if transaction.state.leads_until_us > transaction.now_us else None


def campaign(transaction: ReferenceTransaction, candidate: Candidate, *, ttl_us: int) -> Leader:
    """Take the leadership if it is free, with a higher term, or keep the candidate's own; returns the leader."""
    current = leader(transaction)
    if current is None:
        number = transaction.state.terms.get(COORDINATOR, 0) + 1
        transaction.state.terms[COORDINATOR] = number
        current = Leader(
            incarnation=candidate.incarnation,
            name=candidate.name,
            term=Term(COORDINATOR, number),
            since_us=transaction.now_us,
        )
        transaction.state.leader, transaction.rings = current, True
    if current.incarnation == candidate.incarnation:
        transaction.state.leads_until_us = transaction.now_us + ttl_us
    return current


def resign(transaction: ReferenceTransaction, incarnation: str) -> None:
    """End the leadership of an incarnation, if it leads."""
    current = leader(transaction)
    if current is not None and current.incarnation == incarnation:
        transaction.state.leads_until_us = 0
        transaction.hint_all("leader")
        transaction.rings = True
