"""Steps and signals of an instance, and the wait of a suspended one."""

from __future__ import annotations

from collections.abc import Sequence

from peerjob.model.durable import (
    MAX_ALL_STEP_BYTES,
    MAX_SIGNALS,
    SIGNAL_MARK,
    SignalAnswer,
    Step,
    StepPage,
    Wait,
)
from peerjob.model.record import LAST_MOMENT_US, MAX_BATCH_BYTES, check_batch
from peerjob.store.durable_checks import check_signal

from .queues import add_to_queue, remove_from_queue
from .state import InstanceData
from .transaction import ReferenceTransaction

# -- steps


def is_taken(instance: InstanceData, steps: Sequence[Step]) -> bool:
    """Whether the instance has another value for one of the steps."""
    return any(instance.steps.get(step.name, step.value) != step.value for step in steps)


def add_steps(transaction: ReferenceTransaction, instance: InstanceData, steps: Sequence[Step]) -> None:
    """Keep steps. A new one is progress, so the crashes before it do not count."""
    added = {step.name: step.value for step in steps if step.name not in instance.steps}
    if added:
        instance.steps |= added
        instance.crashes = instance.losses = 0
        transaction.changed(instance)


def steps(transaction: ReferenceTransaction, id: str, cursor: str | None) -> StepPage:
    """A page of the steps and signals, by stored name."""
    instance = transaction.state.instances.get(id)
    page: list[Step] = []
    size = 0
    for name, value in sorted({} if instance is None else instance.steps.items()):
        if cursor is None or name > cursor:
            if size >= MAX_BATCH_BYTES:
                return StepPage(tuple(page), page[-1].name)
            page.append(Step(name, value))
            size += len(value)
    return StepPage(tuple(page))


def signal(transaction: ReferenceTransaction, id: str, name: str, value: bytes) -> SignalAnswer:
    """Keep the first value of a signal, and end the wait for it."""
    check_signal(name, value, transaction.state.layout)
    instance = transaction.state.instances.get(id)
    if instance is None:
        return SignalAnswer.UNKNOWN
    stored = SIGNAL_MARK + name
    if stored in instance.steps:
        return SignalAnswer.SAME if instance.steps[stored] == value else SignalAnswer.OTHER
    if instance.state.is_final:
        return SignalAnswer.FINAL
    signals = sum(known.startswith(SIGNAL_MARK) for known in instance.steps)
    size = sum(map(len, instance.steps.values()))
    if signals >= MAX_SIGNALS or size + len(value) > MAX_ALL_STEP_BYTES:
        return SignalAnswer.FULL
    instance.steps[stored] = value
    transaction.changed(instance)
    resume(transaction, instance)
    return SignalAnswer.ACCEPTED


# -- waits


def suspend(transaction: ReferenceTransaction, instance: InstanceData, wait: Wait) -> None:
    """Let an instance wait whose run has ended; or enter its queue, if the wait is over."""
    instance.crashes = instance.losses = 0
    begin_wait(transaction, instance, wait)


def begin_wait(transaction: ReferenceTransaction, instance: InstanceData, wait: Wait, *, is_new: bool = False) -> None:
    """Let an instance wait; or enter its queue, if the wait is over."""
    if _is_met(instance, wait):
        add_to_queue(transaction, instance, is_new=is_new)
        return
    instance.wait = wait
    if wait.until_us is not None:
        instance.former_due_us, instance.due_us = instance.due_us, min(LAST_MOMENT_US, wait.until_us)
        add_to_queue(transaction, instance, is_new=is_new)


def resume(transaction: ReferenceTransaction, instance: InstanceData, *, is_new: bool = False) -> None:
    """Let an instance enter its queue if its wait for a signal or for needs is over."""
    wait = instance.wait
    if wait is None or not instance.waits(transaction.now_us) or not _is_met(instance, wait):
        return
    if wait.until_us is not None:
        remove_from_queue(transaction, instance)
        instance.due_us = instance.former_due_us
    instance.wait = None
    add_to_queue(transaction, instance, is_new=is_new)


def _is_met(instance: InstanceData, wait: Wait) -> bool:
    """Whether a signal is there, or no need is left."""
    needs_over = wait.needs and not instance.needs and not instance.open
    return needs_over or any(SIGNAL_MARK + name in instance.steps for name in wait.signals)


def open_needs(transaction: ReferenceTransaction, ids: Sequence[str]) -> list[int]:
    """How many needs each instance waits for."""
    check_batch(len(ids))
    instances = [transaction.state.instances.get(id) for id in ids]
    return [
        len(instance.needs) if instance is not None and instance.wait is not None and instance.wait.needs else 0
        for instance in instances
    ]
