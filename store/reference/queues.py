"""The queues: sorted lists of what is claimable, by kind, and one sorted list of what is delayed."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import TypeVar

from .state import InstanceData
from .transaction import ReferenceTransaction

T = TypeVar("T", tuple[int, str], tuple[int, int, str])

MAX_MOVED = 500
"""Most delayed instances that one claim finds due."""


def add_to_queue(transaction: ReferenceTransaction, instance: InstanceData) -> None:
    """Make a Scheduled instance claimable, now or at its due time, and wake one idle node.

    A delayed instance wakes one only if it is the earliest, so that the node learns when to claim.
    """
    if instance.due_us <= transaction.now_us:
        _add_ready(transaction, instance)
        transaction.wake(instance.kind)
        return
    position = (instance.due_us, instance.id)
    insort(transaction.state.delayed, position)
    if transaction.state.delayed[0] == position:
        transaction.wake(instance.kind)


def remove_from_queue(transaction: ReferenceTransaction, instance: InstanceData) -> None:
    """Remove a Scheduled instance from its queue; a parked one is in none."""
    state = transaction.state
    queue = state.ready.get(instance.kind, [])
    discard(queue, (instance.priority, instance.due_us, instance.id))
    if not queue:
        state.ready.pop(instance.kind, None)
    discard(state.delayed, (instance.due_us, instance.id))


def move_delayed(transaction: ReferenceTransaction) -> list[InstanceData]:
    """Make the delayed instances claimable that are due by now; returns them."""
    delayed, moved = transaction.state.delayed, list[InstanceData]()
    while delayed and delayed[0][0] <= transaction.now_us and len(moved) < MAX_MOVED:
        _, id = delayed.pop(0)
        moved.append(transaction.state.instances[id])
        _add_ready(transaction, moved[-1])
    return moved


def due_instances(transaction: ReferenceTransaction) -> Iterator[InstanceData]:
    """All instances that are due and not claimed: the claimable ones, and the delayed ones that no claim found due."""
    state = transaction.state
    for queue in state.ready.values():
        yield from (state.instances[id] for _, _, id in queue)
    for due_us, id in state.delayed:
        if due_us > transaction.now_us:
            break
        yield state.instances[id]


def discard(queue: list[T], position: T) -> None:
    """Remove a position from a sorted list, if it is there."""
    at = bisect_left(queue, position)
    if at < len(queue) and queue[at] == position:
        del queue[at]


def _add_ready(transaction: ReferenceTransaction, instance: InstanceData) -> None:
    queue = transaction.state.ready.setdefault(instance.kind, [])
    insort(queue, (instance.priority, instance.due_us, instance.id))
