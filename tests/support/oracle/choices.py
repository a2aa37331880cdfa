"""What the engine chose where the contract leaves a choice, so that the reference can check and follow it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from peerjob.model.firing import FireAnswer
from peerjob.model.record import MAX_BATCH_BYTES, Claimed, Reaped, Want
from peerjob.store.kv.format.rows import SMALL

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
    claims_first: bool = False
    """Whether a turn claims before it writes its outcomes."""
    fired_us: tuple[int, ...] = ()
    """The times of the fires; 0 if the call does not tell."""
    beside_leave: bool = False
    """Whether the call came beside a leave, which hands back one claim after the other."""
    others: frozenset[str] = frozenset()
    """The claims of the leaving incarnation that a reap took back meanwhile."""
    partly: bool = False
    """Whether the reap is one step of a call, after which others end incarnations and take claims back."""
    settles_later: bool = False
    """Whether the ends of the call are followed up after another call."""
    removes_all: bool = False
    """Whether the call removes all that it may remove, so that there is no choice."""
    may_remove: int = 0
    """How many instances the call may remove, by the reference."""
    objections: list[str] = field(default_factory=list[str])
    """What the reference found that the contract does not leave to the engine."""


def chosen_by(verb: str, answer: Any, between_us: tuple[int, int] = (0, 0)) -> Chosen:
    """The choices that an answer tells, to a call between two times."""
    chosen = Chosen(removes_all=verb == "clear_instances")
    if isinstance(answer, Raised):
        return chosen
    if verb == "turn":
        answer = answer[1]
    if isinstance(answer, Claimed) and not answer.dead:
        chosen.claimed = [claim.id for claim in answer.claims]
    if verb == "reap":
        chosen.reaped = [one.id for one in cast("list[Reaped]", answer)]
    if verb == "fire":
        times = [0 if one.record is None else one.record.at_us for one in cast("list[FireAnswer]", answer)]
        # the record has another time if an earlier call made it, or if the nominal time is later
        chosen.fired_us = tuple(one if between_us[0] <= one <= between_us[1] else 0 for one in times)
    return chosen


@dataclass(frozen=True)
class Due:
    """A due instance that a claim could take."""

    id: str
    kind: str
    suspect: bool
    size: int
    """Bytes of its arguments."""


def claim_objections(
    due: Sequence[Due], want: Want, claimed: Sequence[str], best: Sequence[str], *, strict: bool, damaged: bool
) -> list[str]:
    """Objections to the claims of an engine.

    `due` has all due instances of the wanted kinds, in strict order; `best` is what a claim in strict order takes. A
    claim may end early, but not before its first instance. `damaged`: entries of damaged instances can be among them.
    """
    if claimed == best[: len(claimed)] and (claimed or not best):
        return []
    if strict and not damaged:
        return [f"claimed {claimed}, and the best due instances are {best}"]
    return list(_objections(due, want, claimed, best, strict=strict, damaged=damaged))


def _objections(
    due: Sequence[Due], want: Want, claimed: Sequence[str], best: Sequence[str], *, strict: bool, damaged: bool
) -> Iterator[str]:
    """Objections to claims that need not be the best ones: within a window of the order, or beside damaged entries.

    *Choice*: the entry of a damaged instance counts towards the limit of its kind until a claim has come to it, and a
    suspect is not the first one behind it. So another kind can come first, but the order within a kind stays.
    """
    known, taken = {one.id: one for one in due}, set(claimed)
    if not claimed:
        yield f"claimed nothing, and {best} are due"
        return
    if unknown := [id for id in claimed if id not in known]:
        yield f"claimed {unknown}, which are not due"
        return
    ones = [known[id] for id in claimed]
    if len(claimed) > 1 and any(one.suspect for one in ones):
        yield f"claimed a suspect with others: {claimed}"
    if strict and ones[0].suspect and claimed != best:
        yield f"claimed the suspect {claimed}, which is not the first"
    # *Choice*: whether arguments count that are stored with the record
    large = sum(one.size for one in ones if one.size > SMALL)
    if len(claimed) > want.limit or (len(claimed) > 1 and large > MAX_BATCH_BYTES):
        yield f"claimed {claimed}, more than the limits allow: {large:,} bytes"
    for kind in {one.kind for one in ones}:
        of_kind = [one.id for one in ones if one.kind == kind]
        if len(of_kind) > want.kinds.get(kind, 0):
            yield f"claimed {claimed}, over the limit of kind {kind!r}"
        first = [one.id for one in due if one.kind == kind and (not one.suspect or one.id in taken)][: len(of_kind)]
        if strict and of_kind != first:
            yield f"claimed {of_kind} of kind {kind!r}, and its first are {first}"
    order = [one.id for one in due if one.id in taken]
    if claimed != order and not (strict and damaged):
        yield f"claimed {claimed} in another order than {order}"
