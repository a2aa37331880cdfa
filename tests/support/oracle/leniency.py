"""How a run makes a call, and which differences of two answers it leaves out: choices of the engine, each by name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from msgspec.structs import replace

from peerjob.model.durable import SignalAnswer
from peerjob.model.errors import PeerjobError
from peerjob.model.firing import FireAnswer, FireStatus
from peerjob.model.record import Ack, Claimed, Enqueued, Record
from peerjob.model.state import State

from .compare import Raised
from .damage import APART_US, Damaged
from .flow_calls import either
from .known import Call, Made
from .names import Side

AFTER_RACE = "records after the race"
"""The verb of the reading after a race."""
REPEATED = ("repeated", "again", "late")


async def answer(call: Call, side: Side) -> Any:
    """What a side answers to a call, or the error that it raises."""
    try:
        return await call(side)
    except (ValueError, PeerjobError) as error:
        return Raised(type(error).__name__, str(error))


async def answer_of(made: Made, side: Side) -> Any:
    """The same, of an operation."""
    return await answer(made.call, side)


def alike(
    made: Made,
    ours: Any,
    theirs: Any,
    how: str,
    *,
    first: Any,
    present: Collection[str],
    damaged: Damaged,
    moments: Collection[int] = (),
) -> tuple[Any, Any]:
    """Two answers without what the contract leaves to the engine.

    `first` is the engine's first answer to a call that comes late; `present` are the instances of the reference.
    `moments` are the times at which its limits open.
    """
    if isinstance(ours, Raised) or isinstance(theirs, Raised):
        return ours, theirs
    match made.verb:
        case "commit":
            return ours, _as_first(ours, theirs, first) if how == "late" else _anew(made, ours, theirs, how)
        case "cancel" if how in REPEATED:
            return ours, _without_removed(made.ids, ours, theirs, present)
        case verb if how == "cancelled" and verb in _GIVEN_UP:
            return _GIVEN_UP[verb](ours), _GIVEN_UP[verb](theirs)
        case "fire" if how in REPEATED or how == "cancelled":
            theirs = _as_recorded(ours, theirs)
            return ours, _as_joined(ours, theirs) if how == "cancelled" else theirs
        case "watch_final":
            # *Choice*: the record of a final instance, or its state if the reply is long enough
            return [_state_of(one) for one in ours], [_state_of(one) for one in theirs]
        case "renew":
            return damaged.renewed(ours, theirs, made.ids)
        case "claim" | "claim_on_hint":
            return _claims(ours, _told(ours, theirs, moments), how, damaged)
        case "turn":
            (our_acks, our_claims), (their_acks, their_claims) = ours, theirs
            their_acks = _anew(made, our_acks, their_acks, how)
            their_claims = _told(our_claims, their_claims, moments)
            our_claims, their_claims = _claims(our_claims, their_claims, how, damaged)
            return (our_acks, our_claims), (their_acks, their_claims)
        case _ if made.verb == AFTER_RACE:
            return ours, {**theirs, "due": damaged.due(ours["due"], theirs["due"])}
        case _:
            return ours, theirs


def _as_first(ours: list[Ack], theirs: list[Ack], first: Any) -> list[Ack]:
    """The answers to a late commit.

    *Choice*: of a claim that has ended, an engine can still know what it answered at first, or that a user has
    cancelled the instance since. Of a report whose step was taken, it can know only that its claim ended in order.
    """
    before: list[Any] = first if isinstance(first, list) else [None] * len(ours)
    return [
        our
        if (our in (Ack.LOST, Ack.CANCELLED) and their is known)
        or (our is Ack.LOST and their is Ack.CANCELLED and known is Ack.DONE)
        or (our is Ack.LOST and their is Ack.DONE and known is Ack.TAKEN)
        else their
        for our, their, known in zip(ours, theirs, before, strict=True)
    ]


_ENDED_SINCE = {(Ack.DONE, Ack.LOST), (Ack.DONE, Ack.CANCELLED), (Ack.CANCELLED, Ack.LOST)}
"""The first answer to a report, and another one after the claim was cancelled or has ended."""


def _anew(made: Made, ours: list[Ack], theirs: list[Ack], how: str) -> list[Ack]:
    """The answers to a commit. *Choice*: a repeated report of nothing can be answered as its claim is now."""
    places = made.empty if how in REPEATED else set[int]()
    return [
        our if place in places and (our, their) in _ENDED_SINCE else their
        for place, (our, their) in enumerate(zip(ours, theirs, strict=True))
    ]


def _as_recorded(ours: list[FireAnswer], theirs: list[FireAnswer]) -> list[FireAnswer]:
    """The answers to repeated fires.

    *Choice*: a store can know the record of the last stretch only. A fire that is KNOWN leaves no record: if the call
    that was given up has done it, its repeat is STALE.
    """
    return [
        our if their.status is FireStatus.STALE and (our.status is FireStatus.KNOWN or _is_stretch(our)) else their
        for our, their in zip(ours, theirs, strict=True)
    ]


def _as_joined(ours: list[FireAnswer], theirs: list[FireAnswer]) -> list[FireAnswer]:
    """The answers to fires of a call that was given up.

    If that call has done them, a fire has the record of the stretch that a later fire of the call has joined. The
    answer to the later fire shows whether this record is right.
    """
    return [
        our
        if any(
            _is_stretch(our) and their == theirs[later] and _start_of(our) == _start_of(ours[later])
            for later in range(place + 1, len(ours))
        )
        else their
        for place, (our, their) in enumerate(zip(ours, theirs, strict=True))
    ]


def _start_of(answer: FireAnswer) -> int | None:
    return None if answer.record is None else answer.record.nominal_us


def _is_stretch(answer: FireAnswer) -> bool:
    return answer.record is not None and not answer.record.instance


def _without_removed(
    ids: Collection[str], ours: list[State | None], theirs: list[State | None], present: Collection[str]
) -> list[State | None]:
    """The answers to a repeated cancel. *Choice*: about an instance that was removed since: None, or the first one."""
    return [
        our if their is None and id not in present else their for id, our, their in zip(ids, ours, theirs, strict=True)
    ]


def _either(answers: list[Enqueued]) -> list[Enqueued]:
    return [replace(one, repeated=True) for one in answers]


def _state_of(answer: Record | State | None) -> State | None:
    return answer.state if isinstance(answer, Record) else answer


def _claims(ours: Claimed | None, theirs: Claimed | None, how: str, damaged: Damaged) -> tuple[Any, Any]:
    """The answers to a claim. *Choice*: if the first one found nothing, a repeated one may look again."""
    if ours is None or theirs is None or ours.dead or theirs.dead:
        return ours, theirs
    theirs = _linked(ours, damaged.claimed(ours, theirs))
    if how in ("repeated", "again"):
        # *Choice*: the repeat can tell of a signal that came after the claim
        without = {claim.id for claim in ours.claims if not claim.has_steps}
        claims = tuple(replace(one, has_steps=False) if one.id in without else one for one in theirs.claims)
        theirs = replace(theirs, now_us=ours.now_us, next_due_us=ours.next_due_us, claims=claims)
    return ours, theirs


def _linked(ours: Claimed, theirs: Claimed) -> Claimed:
    """A claim of the engine. *Choice*: it can say that an instance is linked that has no steps, children or parent."""
    linked = {claim.id for claim in ours.claims if claim.linked}
    claims = tuple(claim if claim.id in linked else replace(claim, linked=False) for claim in theirs.claims)
    return replace(theirs, claims=claims)


def _signalled(answer: SignalAnswer) -> SignalAnswer:
    """The answer to a signal that the call which was given up may have kept."""
    return SignalAnswer.SAME if answer is SignalAnswer.ACCEPTED else answer


_GIVEN_UP: Mapping[str, Callable[[Any], Any]] = {
    "enqueue": _either,
    "restore": _either,
    "spawn": either,
    "signal": _signalled,
}
"""The answers to a call without telling whether the same call, which was given up, has done it before."""


def _told(ours: Claimed | None, theirs: Claimed | None, moments: Collection[int]) -> Claimed | None:
    """A claim of the engine. *Choice*: which idle incarnation learns when a limit opens."""
    if ours is None or theirs is None or not moments or theirs.claims:
        return theirs
    next_us = theirs.next_due_us
    known = next_us is None or any(abs(next_us - one) < APART_US for one in moments)
    return replace(theirs, next_due_us=ours.next_due_us) if known else theirs
