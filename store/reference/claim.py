"""Scheduled → Processing: the command `claim`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from heapq import merge
from typing import cast

from peerjob.model.record import MAX_BATCH_BYTES, Claim, Claimed, Want, check_batch
from peerjob.model.state import State

from .queues import move_due, remove_from_queue
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
    known = transaction.answered(incarnation, command, request)
    if known is not None:
        return _repeated(transaction, incarnation, cast("Claimed", known.answer))
    if command == "hint-claim" and _is_late(transaction, incarnation, request):
        return Claimed(now_us=transaction.now_us)
    _fall_due(transaction, incarnation, want)
    claims = take(transaction, incarnation, transaction.choices.claimed(claimable(transaction, want), want))
    next_due_us = None
    if claims:
        node.idle = None
        transaction.wake(*_kinds_left(transaction, want), but=incarnation)
    else:
        node.idle = want if want.idle and want.limit > 0 else node.idle
        next_due_us = transaction.state.delayed[0][0] if transaction.state.delayed else None
    answer = Claimed(claims=tuple(claims), now_us=transaction.now_us, next_due_us=next_due_us)
    transaction.remember(incarnation, command, request, answer)
    return answer


def claimable(transaction: ReferenceTransaction, want: Want) -> list[str]:
    """The instances that a claim may take: lowest priority number first, then earliest due time, then id.

    A suspect that comes first is taken alone, if suspects are wanted. Other suspects are passed over.
    """
    remaining = Counter(dict(want.kinds))
    queues = [queue for kind, queue in transaction.state.ready.items() if remaining[kind] > 0]
    ids: list[str] = []
    bytes_left = MAX_BATCH_BYTES
    for at, (_, _, id) in enumerate(merge(*queues)):
        one = transaction.state.instances[id]
        if len(ids) == want.limit or (ids and bytes_left < len(one.spec)):
            break
        if one.suspect:
            if want.suspects and at == 0:
                return [id]
        elif remaining[one.kind] > 0:
            remaining[one.kind] -= 1
            bytes_left -= len(one.spec)
            ids.append(id)
    return ids


def take(transaction: ReferenceTransaction, incarnation: str, ids: Sequence[str]) -> list[Claim]:
    """Give instances to an incarnation, each with a new fence. The attempt counts."""
    claims: list[Claim] = []
    for id in ids:
        one = transaction.state.instances[id]
        remove_from_queue(transaction, one)
        transaction.state.last_fence += 1
        one.fence, one.owner, one.started = transaction.state.last_fence, incarnation, False
        one.attempts += 1
        transaction.transition(one, State.PROCESSING, transaction.name(incarnation))
        claims.append(to_claim(one))
    return claims


def _fall_due(transaction: ReferenceTransaction, incarnation: str, want: Want) -> None:
    """Move what is due from the delayed instances. It wakes nodes for the kinds that this claim does not take."""
    for one in move_due(transaction):
        if want.limit == 0 or want.kinds.get(one.kind, 0) == 0:
            transaction.wake(one.kind, but=incarnation)


def _kinds_left(transaction: ReferenceTransaction, want: Want) -> list[str]:
    """The kinds of which a claim leaves due instances."""
    return [kind for kind in transaction.state.ready if want.kinds.get(kind, 0) > 0]


def _repeated(transaction: ReferenceTransaction, incarnation: str, answer: Claimed) -> Claimed:
    """The answer of the first run, without the claims that have ended since."""

    def still_held(claim: Claim) -> bool:
        one = transaction.state.instances.get(claim.id)
        return (
            one is not None and one.state is State.PROCESSING and (one.owner, one.fence) == (incarnation, claim.fence)
        )

    claims = tuple(claim for claim in answer.claims if still_held(claim))
    return Claimed(claims=claims, now_us=answer.now_us, next_due_us=answer.next_due_us)


def _is_late(transaction: ReferenceTransaction, incarnation: str, request: str) -> bool:
    """Whether a later call of `claim_on_hint` was answered: the requests of an incarnation grow."""
    last = transaction.state.answers.get((incarnation, "hint-claim"))
    return last is not None and request < last.request


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
    )
