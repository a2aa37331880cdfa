"""The command `run_now`: a delayed instance becomes due."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from peerjob.model.record import check_batch
from peerjob.model.run_now import RunNow, RunNowAnswer
from peerjob.model.state import State

from .queues import add_to_queue, remove_from_queue
from .step import AtomicStep


def run_now(step: AtomicStep, ids: Sequence[str], *, request: str) -> list[RunNowAnswer]:
    """Make delayed instances due; returns what became of each. A repeat has the answer of the first call for each."""
    check_batch(len(ids))
    return [step.once(f"{request} {id}", "run_now", request, partial(_run_now, step, id)) for id in ids]


def _run_now(step: AtomicStep, id: str) -> RunNowAnswer:
    instance = step.state.instances.get(id)
    if instance is None or instance.state is not State.SCHEDULED:
        return None if instance is None else instance.state
    if id in step.state.slots.get(instance.slot, [])[1:]:
        return RunNow.PARKED
    if instance.due_us <= step.now_us:
        return RunNow.WAS_DUE
    remove_from_queue(step, instance)
    instance.due_us = step.now_us
    add_to_queue(step, instance)
    step.changed(instance)
    return RunNow.DUE_NOW
