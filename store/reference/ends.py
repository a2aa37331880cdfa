"""The end of an instance: it becomes final, then its body is over, then it is removed."""

from __future__ import annotations

from bisect import insort

from peerjob.model.record import repeat_us
from peerjob.model.state import State

from . import gates
from .queues import add_to_queue, discard, remove_from_queue
from .shared_limits import claim_ends
from .state import InstanceData
from .transaction import ReferenceTransaction


def end(transaction: ReferenceTransaction, instance: InstanceData, state: State, node: str, note: str = "") -> None:
    """Make an instance final. If its body still runs (`releasing`), it keeps its key and its slot."""
    kept_us = transaction.limits.retention_us if instance.retention_us is None else instance.retention_us
    instance.expires_us = transaction.now_us + kept_us
    transaction.transition(instance, state, node, note)
    for watcher in transaction.state.watchers.pop(instance.id, set()):
        transaction.hint(watcher, "final", instance.id)
    if not instance.releasing:
        be_over(transaction, instance)


def release(transaction: ReferenceTransaction, instance: InstanceData) -> None:
    """End the body of a cancelled instance."""
    claim_ends(transaction, instance.kind)
    instance.releasing, instance.owner = False, ""
    be_over(transaction, instance)


def be_over(transaction: ReferenceTransaction, instance: InstanceData) -> None:
    """Free the keys and the slot of an instance; from now on, it can be removed."""
    gates.leave(transaction, instance)
    insort(transaction.state.expiring, (instance.expires_us, instance.id))
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
    del state.instances[instance.id]
    state.watchers.pop(instance.id, None)
    remembered_until_us = instance.created_us + repeat_us(instance.id)
    if remembered_until_us > transaction.now_us:
        state.removed[instance.id] = remembered_until_us
