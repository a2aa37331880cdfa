"""Created → Scheduled: the command `enqueue`."""

from __future__ import annotations

from collections.abc import Sequence

from peerjob.model.durable import Wait
from peerjob.model.errors import StoreFullError
from peerjob.model.record import LAST_MOMENT_US, Enqueued, NewInstance, check_batch
from peerjob.model.state import State

from .queues import add_to_queue
from .state import InstanceData
from .transaction import ReferenceTransaction


def enqueue(transaction: ReferenceTransaction, instances: Sequence[NewInstance], *, node: str = "") -> list[Enqueued]:
    """Add instances, each once: not again by the same call, and not beside one that has its unique key."""
    check_batch(len(instances))
    check_not_full(transaction)
    return [_enqueue(transaction, new, node) for new in instances]


def _enqueue(transaction: ReferenceTransaction, new: NewInstance, node: str) -> Enqueued:
    if is_known(transaction, new.id):
        return Enqueued(new.id, True, repeated=True)
    if holder := key_holder(transaction, new):
        return Enqueued(holder, False)
    add_instance(transaction, new, node)
    return Enqueued(new.id, True)


def check_not_full(transaction: ReferenceTransaction) -> None:
    """Raise StoreFullError if the store takes no new instances."""
    most = transaction.state.max_instances
    if most is not None and len(transaction.state.instances) >= most:
        raise StoreFullError(f"the store has {most:,} instances and takes no new ones")


def is_known(transaction: ReferenceTransaction, id: str) -> bool:
    """Whether an instance exists, or was removed while its enqueue may come again."""
    return id in transaction.state.instances or transaction.state.removed.get(id, 0) > transaction.now_us


def key_holder(transaction: ReferenceTransaction, new: NewInstance) -> str:
    """The instance that has the unique key of a new one; "" if it is free."""
    return "" if new.key is None else transaction.state.keys.get((new.kind, new.key), "")


def add_instance(
    transaction: ReferenceTransaction,
    new: NewInstance,
    node: str,
    slot: str = "",
    parent: str = "",
    *,
    open: bool = False,
) -> InstanceData:
    """Add an instance, in the slot of a schedule if there is one: parked, unless it is the first there.

    An open one waits.
    """
    due_us = transaction.now_us if new.due_us is None else new.due_us
    instance = InstanceData(
        id=new.id,
        kind=new.kind,
        spec=new.spec,
        priority=new.priority,
        due_us=min(LAST_MOMENT_US, due_us if new.delay_us is None else transaction.now_us + new.delay_us),
        created_us=transaction.now_us,
        key=new.key,
        tags=new.tags,
        retention_us=new.retention_us,
        max_crashes=new.max_crashes,
        attempts=new.attempts,
        crashes=new.crashes,
        losses=new.losses,
        slot=slot,
        limit_key=new.limit_key,
        key_concurrency=new.key_concurrency,
        parent=parent,
        open=open,
        wait=Wait(needs=True) if open else None,
    )
    state = transaction.state
    state.instances[new.id] = instance
    if new.key is not None:
        state.keys[new.kind, new.key] = new.id
    transaction.transition(instance, State.CREATED, node)
    transaction.transition(instance, State.SCHEDULED, node)
    if slot:
        state.slots.setdefault(slot, []).append(new.id)
    if parent:
        state.instances[parent].has_children = True
        state.children.setdefault(parent, []).append(new.id)
    if not open and (not slot or state.slots[slot][0] == new.id):
        add_to_queue(transaction, instance, is_new=True)
    return instance
