"""All invariants over one body of evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .durable_rules import children, flows, settled, steps, waits
from .evidence import Evidence, Violation
from .firing import one_fire
from .histories import legal_history, retries
from .limited import limit, rate
from .order import order
from .owners import no_loss, one_owner
from .remains import bounded, isolated

Invariant = Callable[[Evidence], Iterator[Violation]]
INVARIANTS: dict[str, Invariant] = {
    "NO-LOSS": no_loss,
    "ONE-OWNER": one_owner,
    "LEGAL-HISTORY": legal_history,
    "ONE-FIRE": one_fire,
    "ORDER": order,
    "RETRIES": retries,
    "LIMIT": limit,
    "RATE": rate,
    "BOUNDED": bounded,
    "ISOLATED": isolated,
    "STEPS": steps,
    "WAITS": waits,
    "CHILDREN": children,
    "FLOWS": flows,
    "SETTLED": settled,
}


def check(evidence: Evidence) -> list[Violation]:
    """Each violation of each invariant, in the order of INVARIANTS."""
    return [violation for invariant in INVARIANTS.values() for violation in invariant(evidence)]
