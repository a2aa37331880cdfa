"""The queues: sorted lists of what is claimable, by kind, and one sorted list of what is delayed."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import TypeVar

from .state import InstanceData, KeyData
from .transaction import ReferenceTransaction

T = TypeVar("T", tuple[int, str], tuple[int, int, str])

MAX_MOVED = 500
"""Most delayed instances that one claim finds due."""


def add_to_queue(transaction: ReferenceTransaction, instance: InstanceData, *, is_new: bool = False) -> None:
    """Make a Scheduled instance claimable, now or at its due time, and wake one idle node.

    A delayed instance wakes one only if it is the earliest, so that the node learns when to claim. An instance with a
    limit key comes to the gate of its key. If it `is_new` and due, its concurrency is that of the key from now on.
    """
    if instance.due_us <= transaction.now_us:
        if _enter(transaction, instance, is_new=is_new):
            transaction.wake(instance.kind)
        return
    position = (instance.due_us, instance.id)
    insort(transaction.state.delayed, position)
    if transaction.state.delayed[0] == position:
        transaction.wake(instance.kind)


def remove_from_queue(transaction: ReferenceTransaction, instance: InstanceData) -> None:
    """Remove a Scheduled instance from its queue; one that is parked, or waits for its key, is in none."""
    state = transaction.state
    queue = state.ready.get(instance.kind, [])
    discard(queue, (instance.priority, instance.queued_us, instance.id))
    if not queue:
        state.ready.pop(instance.kind, None)
    discard(state.delayed, (instance.due_us, instance.id))


def move_delayed(transaction: ReferenceTransaction) -> list[InstanceData]:
    """Make the delayed instances claimable that are due by now; returns those of kinds without limits."""
    delayed, now_us = transaction.state.delayed, transaction.now_us
    moved = [transaction.state.instances[id] for due_us, id in delayed[:MAX_MOVED] if due_us <= now_us]
    del delayed[: len(moved)]
    return [instance for instance in moved if _enter(transaction, instance)]


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


def add_ready(transaction: ReferenceTransaction, instance: InstanceData, queued_us: int) -> None:
    """Put an instance into the queue of its kind."""
    instance.queued_us = queued_us
    insort(transaction.state.ready.setdefault(instance.kind, []), (instance.priority, queued_us, instance.id))


def _enter(transaction: ReferenceTransaction, instance: InstanceData, *, is_new: bool = False) -> bool:
    """Let a due instance come to the gate of its key, or to the queue; True if nothing limits its kind."""
    state = transaction.state
    if not instance.limit_key:
        add_ready(transaction, instance, instance.due_us)
        limited = instance.kind in state.kind_rules
        transaction.queued[instance.kind] += limited
        return not limited
    of = instance.kind, instance.limit_key
    data = state.limit_keys.setdefault(of, KeyData(concurrency=instance.key_concurrency))
    data.concurrency = instance.key_concurrency if is_new else data.concurrency
    insort(data.waiting, (instance.priority, instance.due_us, instance.id))
    transaction.gates.setdefault(of, set()).add(instance.id)
    return False
