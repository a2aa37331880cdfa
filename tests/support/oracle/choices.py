"""What the engine chose where the contract leaves a choice, so that the reference can check and follow it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from peerjob.model.record import Claimed, Reaped

from .compare import Raised


@dataclass
class Chosen:
    """The choices of one call of the engine."""

    claimed: list[str] | None = None
    """The claimed instances, in order; None if the call does not tell."""
    reaped: list[str] | None = None
    """The claims that were taken back, in order; None if the call does not tell."""
    gone: frozenset[str] | None = None
    """The instances that were removed; None if that is asked after the call."""
    removes_all: bool = False
    """Whether the call removes all that it may remove, so that there is no choice."""
    may_remove: int = 0
    """How many instances the call may remove, by the reference."""
    objections: list[str] = field(default_factory=list[str])
    """What the reference found that the contract does not leave to the engine."""


def chosen_by(verb: str, answer: Any) -> Chosen:
    """The choices that an answer tells."""
    chosen = Chosen(removes_all=verb == "clear_instances")
    if isinstance(answer, Raised):
        return chosen
    if verb == "turn":
        answer = answer[1]
    if isinstance(answer, Claimed) and not answer.dead:
        chosen.claimed = [claim.id for claim in answer.claims]
    if verb == "reap":
        chosen.reaped = [one.id for one in cast("list[Reaped]", answer)]
    return chosen


def claim_objections(
    due: list[tuple[str, str, bool]], kinds: Mapping[str, int], claimed: list[str], best: list[str], *, strict: bool
) -> list[str]:
    """Objections to the claims of an engine.

    `due` has (id, kind, whether it is a suspect) of all due instances of the wanted kinds, in strict order; `best` is
    what a claim in strict order takes. A claim may end early, but not before its first instance.
    """
    if claimed == best[: len(claimed)] and (claimed or not best):
        return []
    if strict:
        return [f"claimed {claimed}, and the best due instances are {best}"]
    return _allowed_in_window(due, kinds, claimed, best)


def _allowed_in_window(
    due: list[tuple[str, str, bool]], kinds: Mapping[str, int], claimed: list[str], wanted: list[str]
) -> list[str]:
    known = {id: (kind, suspect) for id, kind, suspect in due}
    if not claimed:
        return [f"claimed nothing, and {wanted} are due"]
    if unknown := [id for id in claimed if id not in known]:
        return [f"claimed {unknown}, which are not due"]
    if len(claimed) > 1 and any(known[id][1] for id in claimed):
        return [f"claimed a suspect with others: {claimed}"]
    if len(claimed) > len(wanted):
        return [f"claimed {claimed}, more than the limits allow"]
    for kind in {known[id][0] for id in claimed}:
        if sum(known[id][0] == kind for id in claimed) > kinds.get(kind, 0):
            return [f"claimed {claimed}, over the limit of kind {kind!r}"]
    order = [id for id, _, _ in due if id in set(claimed)]
    return [] if claimed == order else [f"claimed {claimed} in another order than {order}"]
