"""The end of an instance: it becomes final, then its body is over, then it is removed."""

from __future__ import annotations

from bisect import insort

from peerjob.model.repeats import repeat_us
from peerjob.model.state import State

from . import gates
from .queues import add_to_queue, discard, remove_from_queue
from .shared_limits import claim_ends
from .state import InstanceData
from .transaction import ReferenceTransaction, Settled


def end(transaction: ReferenceTransaction, instance: InstanceData, state: State, node: str, note: str = "") -> None:
    """Make an instance final. If its body still runs (`releasing`), it keeps its key and its slot."""
    begin_retention(transaction, instance)
    instance.wait, instance.open = None, False
    transaction.transition(instance, state, node, note)
    transaction.settling.append(Settled(instance.id, state, final=True))
    for watcher in transaction.state.watchers.pop(instance.id, set()):
        transaction.hint(watcher, "final", instance.id)
    if not instance.releasing:
        be_over(transaction, instance)


def begin_retention(transaction: ReferenceTransaction, instance: InstanceData) -> None:
    """Set the end of the retention of a final instance."""
    kept_us = transaction.limits.retention_us if instance.retention_us is None else instance.retention_us
    instance.expires_us = transaction.now_us + kept_us


def release(transaction: ReferenceTransaction, instance: InstanceData) -> None:
    """End the body of a cancelled instance."""
    claim_ends(transaction, instance.kind)
    instance.releasing, instance.owner = False, ""
    be_over(transaction, instance)


def be_over(transaction: ReferenceTransaction, instance: InstanceData) -> None:
    """Free the keys and the slot of an instance; from now on, it can be removed, unless its parent holds it."""
    gates.leave(transaction, instance)
    if not is_held(transaction, instance):
        add_to_expiring(transaction, instance)
    transaction.settling.append(Settled(instance.id, instance.state, over=True))
    free_key_and_slot(transaction, instance)


def free_key_and_slot(transaction: ReferenceTransaction, instance: InstanceData) -> None:
    """Free the unique key, and give the slot to the first parked instance."""
    if instance.key is not None:
        transaction.state.keys.pop((instance.kind, instance.key), None)
    if not instance.slot:
        return
    slot = transaction.state.slots[instance.slot]
    held = slot[0] == instance.id
    slot.remove(instance.id)
    if not slot:
        del transaction.state.slots[instance.slot]
    elif held:
        add_to_queue(transaction, transaction.state.instances[slot[0]])
    instance.slot = ""


def add_to_expiring(transaction: ReferenceTransaction, instance: InstanceData) -> None:
    """Let the retention of an instance end at its time."""
    insort(transaction.state.expiring, (instance.expires_us, instance.id))


def is_held(transaction: ReferenceTransaction, child: InstanceData) -> bool:
    """Whether an instance is a child whose parent is not final."""
    return child.id in transaction.state.children.get(child.parent, ())


def remove(transaction: ReferenceTransaction, instance: InstanceData) -> None:
    """Remove an instance in any state. Its enqueue may come again, and must then add nothing."""
    state = transaction.state
    if instance.over:
        discard(state.expiring, (instance.expires_us, instance.id))
    else:
        if instance.held:
            claim_ends(transaction, instance.kind)
        remove_from_queue(transaction, instance)
        gates.leave(transaction, instance)
        free_key_and_slot(transaction, instance)
    if is_held(transaction, instance):
        state.children[instance.parent].remove(instance.id)
    del state.instances[instance.id]
    state.watchers.pop(instance.id, None)
    remembered_until_us = instance.created_us + repeat_us(instance.id)
    if remembered_until_us > transaction.now_us:
        state.removed[instance.id] = remembered_until_us
