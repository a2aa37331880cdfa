"""The command `run_now`: a delayed instance becomes due."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from peerjob.model.record import check_batch
from peerjob.model.run_now import RunNow, RunNowAnswer
from peerjob.model.state import State

from .queues import add_to_queue, remove_from_queue
from .transaction import ReferenceTransaction


def run_now(transaction: ReferenceTransaction, ids: Sequence[str], *, request: str) -> list[RunNowAnswer]:
    """Make delayed instances due; returns what became of each. A repeat has the answer of the first call for each."""
    check_batch(len(ids))
    return [
        transaction.idempotent(f"{request} {id}", "run_now", request, partial(_run_now, transaction, id)) for id in ids
    ]


def _run_now(transaction: ReferenceTransaction, id: str) -> RunNowAnswer:
    instance = transaction.state.instances.get(id)
    if instance is None or instance.state is not State.SCHEDULED:
        return None if instance is None else instance.state
    if id in transaction.state.slots.get(instance.slot, [])[1:]:
        return RunNow.PARKED
    if instance.waits(transaction.now_us):
        return RunNow.SUSPENDED
    if instance.due_us <= transaction.now_us:
        return RunNow.WAS_DUE
    remove_from_queue(transaction, instance)
    instance.due_us = transaction.now_us
    add_to_queue(transaction, instance)
    transaction.changed(instance)
    return RunNow.DUE_NOW
