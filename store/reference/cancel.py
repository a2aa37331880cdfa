"""Scheduled or Processing → Cancelled: the command `cancel`."""

from __future__ import annotations

from collections.abc import Sequence

from peerjob.model.record import check_batch
from peerjob.model.state import State

from .ends import end
from .queues import remove_from_queue
from .state import InstanceData
from .transaction import ReferenceTransaction


def cancel(
    transaction: ReferenceTransaction, ids: Sequence[str], *, node: str = "", request: str
) -> list[State | None]:
    """Cancel instances; returns the earlier state of each."""
    check_batch(len(ids))

    def run() -> list[State | None]:
        states: dict[str, State | None] = {}
        for id in ids:
            if id not in states:
                instance = transaction.state.instances.get(id)
                states[id] = None if instance is None else instance.state
                if instance is not None and not instance.state.is_final:
                    cancel_one(transaction, instance, node, "cancelled by user")
        return [states[id] for id in ids]

    return transaction.idempotent(request, "cancel", request, run)


def cancel_one(transaction: ReferenceTransaction, instance: InstanceData, node: str, note: str) -> None:
    """Cancel an instance that is not final. If its body runs, the owner learns it and releases the instance later."""
    if instance.state is State.PROCESSING:
        instance.releasing = True
        transaction.hint(instance.owner, "cancel")
    else:
        remove_from_queue(transaction, instance)
    end(transaction, instance, State.CANCELLED, node, note)
