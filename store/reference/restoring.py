"""Instances that come from another store with their steps, waits and ends: the command `restore`."""

from __future__ import annotations

from collections.abc import Sequence

from peerjob.model.record import Enqueued
from peerjob.model.restored import Restored
from peerjob.store.durable_checks import check_restored, states_to

from .durable import begin_wait, resume
from .ends import begin_retention
from .enqueue import add_instance, check_not_full, is_known, key_holder
from .queues import add_to_queue
from .state import InstanceData
from .transaction import ReferenceTransaction


def restore(transaction: ReferenceTransaction, instances: Sequence[Restored], *, node: str = "") -> list[Enqueued]:
    """Add instances, or what is missing of open ones."""
    check_restored(instances, transaction.state.layout)
    check_not_full(transaction)
    return [_restore(transaction, moved, node) for moved in instances]


def _restore(transaction: ReferenceTransaction, moved: Restored, node: str) -> Enqueued:
    new, state = moved.instance, transaction.state
    known = Enqueued(new.id, True, repeated=True)
    if is_known(transaction, new.id):
        instance = state.instances.get(new.id)
        if instance is not None and instance.open and not moved.state.is_final:
            _complete(transaction, instance, moved)
        return known
    if holder := key_holder(transaction, new):
        return Enqueued(holder, False)
    parent = state.instances.get(moved.parent)
    if moved.parent and parent is None:
        return Enqueued(moved.parent, False)
    if parent is not None and not parent.open:
        return known
    instance = add_instance(transaction, new, node, parent=moved.parent, open=True)
    instance.steps = {step.name: step.value for step in moved.steps}
    if moved.open:
        return Enqueued(new.id, True)
    instance.open, instance.wait = False, None
    if moved.state.is_final:
        instance.result, instance.error = moved.result, moved.error
        begin_retention(transaction, instance)
        for entry in states_to(moved.state):
            transaction.transition(instance, entry, node)
    elif moved.wait is not None:
        begin_wait(transaction, instance, moved.wait, is_new=True)
    else:
        add_to_queue(transaction, instance, is_new=True)
    return Enqueued(new.id, True)


def _complete(transaction: ReferenceTransaction, instance: InstanceData, moved: Restored) -> None:
    """Add the steps that an open instance does not have, and close it."""
    instance.steps = {step.name: step.value for step in moved.steps} | instance.steps
    transaction.changed(instance)
    instance.open = moved.open
    resume(transaction, instance)
