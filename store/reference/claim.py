"""Scheduled → Processing: the command `claim`, in four parts: repeat an answer, move what fell due, select, take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from heapq import merge
from typing import cast

from peerjob.model.record import MAX_BATCH_BYTES, Claim, Claimed, Want, check_batch
from peerjob.model.state import State

from .gates import pass_gates
from .queues import move_delayed, remove_from_queue
from .shared_limits import RemainingByLimits, charge, may_go, tell_moment
from .state import InstanceData
from .transaction import ReferenceTransaction


def claim(
    transaction: ReferenceTransaction, incarnation: str, want: Want, *, request: str, command: str = "claim"
) -> Claimed:
    """Give the best due instances to an incarnation; if there is none, the incarnation is idle."""
    check_batch(want.limit)
    node = transaction.node(incarnation)
    if node is None:
        return Claimed(now_us=transaction.now_us, dead=True)
    repeated = repeat_answer(transaction, incarnation, command, request)
    if repeated is not None:
        return repeated
    move_due(transaction, incarnation, want)
    pass_gates(transaction)
    selected = transaction.choices.claimed(select_due(transaction, want), want)
    claims = take(transaction, incarnation, selected)
    next_due_us = None
    if claims:
        node.idle = None
        transaction.wake(*_kinds_left(transaction, want), but=incarnation)
        for kind in [kind for kind in transaction.queued if want.kinds.get(kind, 0) > 0]:
            del transaction.queued[kind]
    else:
        node.idle = want if want.idle and want.limit > 0 else node.idle
        moments = [due_us for due_us, _ in transaction.state.delayed[:1]]
        if want.idle and want.limit > 0 and (opens_us := tell_moment(transaction, incarnation, want)) is not None:
            moments.append(opens_us)
        next_due_us = min(moments, default=None)
    answer = Claimed(claims=tuple(claims), now_us=transaction.now_us, next_due_us=next_due_us)
    transaction.remember(incarnation, command, request, answer)
    return answer


def repeat_answer(transaction: ReferenceTransaction, incarnation: str, command: str, request: str) -> Claimed | None:
    """The answer of the first run of a request, without the claims that have ended since; None for a new request."""

    def still_held(claim: Claim) -> bool:
        instance = transaction.state.instances.get(claim.id)
        return (
            instance is not None
            and instance.state is State.PROCESSING
            and (instance.owner, instance.fence) == (incarnation, claim.fence)
        )

    known = transaction.answered(incarnation, command, request)
    if known is not None:
        answer = cast("Claimed", known.answer)
        claims = tuple(claim for claim in answer.claims if still_held(claim))
        return Claimed(claims=claims, now_us=answer.now_us, next_due_us=answer.next_due_us)
    last = transaction.state.answers.get((incarnation, command))
    # the requests of an incarnation grow: a call of `claim_on_hint` that waited on a lost connection comes too late
    is_late = command == "hint-claim" and last is not None and request < last.request
    return Claimed(now_us=transaction.now_us) if is_late else None


def move_due(transaction: ReferenceTransaction, incarnation: str, want: Want) -> None:
    """Move what is due from the delayed instances. It wakes nodes for the kinds that this claim does not take."""
    for instance in move_delayed(transaction):
        if want.limit == 0 or want.kinds.get(instance.kind, 0) == 0:
            transaction.wake(instance.kind, but=incarnation)


def select_due(transaction: ReferenceTransaction, want: Want) -> list[str]:
    """The instances that a claim may take: lowest priority number first, then earliest `queued_us`, then id.

    A suspect that comes first is taken alone, if suspects are wanted. Other suspects are passed over, and so are the
    instances of a kind of which nothing remains to take, by the claim or by the limits of the kind.
    """
    remaining, by_limits = Counter(dict(want.kinds)), RemainingByLimits(transaction)
    queues = [queue for kind, queue in transaction.state.ready.items() if min(remaining[kind], by_limits.of(kind)) > 0]
    ids: list[str] = []
    bytes_left = MAX_BATCH_BYTES
    for number, (_, _, id) in enumerate(merge(*queues)):
        instance = transaction.state.instances[id]
        if len(ids) == want.limit:
            break
        if instance.suspect:
            if want.suspects and number == 0:
                return [id]
        elif min(remaining[instance.kind], by_limits.of(instance.kind)) > 0:
            if ids and bytes_left < len(instance.spec):
                break
            remaining[instance.kind] -= 1
            by_limits.use(instance.kind)
            bytes_left -= len(instance.spec)
            ids.append(id)
    return ids


def take(transaction: ReferenceTransaction, incarnation: str, ids: Sequence[str]) -> list[Claim]:
    """Give instances to an incarnation, each with a new fence. The attempt counts."""
    claims: list[Claim] = []
    for id in ids:
        instance = transaction.state.instances[id]
        remove_from_queue(transaction, instance)
        transaction.state.last_fence += 1
        instance.fence, instance.owner, instance.started = transaction.state.last_fence, incarnation, False
        instance.attempts += 1
        instance.wait, instance.needs = None, set()
        transaction.transition(instance, State.PROCESSING, transaction.name(incarnation))
        claims.append(to_claim(instance))
    charge(transaction, [claim.kind for claim in claims])
    return claims


def _kinds_left(transaction: ReferenceTransaction, want: Want) -> list[str]:
    """The kinds of which a claim leaves due instances for which another node must claim."""
    return [kind for kind in transaction.state.ready if want.kinds.get(kind, 0) > 0 and may_go(transaction, kind)]


def to_claim(instance: InstanceData) -> Claim:
    """A claim as its owner sees it."""
    return Claim(
        id=instance.id,
        kind=instance.kind,
        fence=instance.fence,
        spec=instance.spec,
        priority=instance.priority,
        due_us=instance.due_us,
        attempts=instance.attempts,
        crashes=instance.crashes,
        losses=instance.losses,
        at_us=instance.history[-1].at_us,
        key=instance.key,
        tags=instance.tags,
        parent=instance.parent,
        linked=bool(instance.parent or instance.steps or instance.has_children),
        has_steps=bool(instance.steps),
    )
