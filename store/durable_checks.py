"""Mistakes of a caller with steps, needs, children and signals; each engine refuses them before it writes."""

from __future__ import annotations

from collections.abc import Sequence

from peerjob.model.durable import (
    MAX_AWAITED_BYTES,
    MAX_CHILDREN_CALL,
    MAX_NEEDS_CALL,
    MAX_RESTORED_STEPS,
    MAX_STEP_BYTES,
    MAX_STEPS_CALL,
    Need,
    Step,
    Wait,
    size_of_names,
)
from peerjob.model.record import Action, NewChild, Outcome
from peerjob.model.restored import Restored
from peerjob.model.state import State
from peerjob.store.rules import FLOWS_LAYOUT

_WAITS = (Action.REPORT, Action.SUSPEND)


def check_outcomes(outcomes: Sequence[Outcome], layout: int) -> None:
    """Raise ValueError for outcomes with steps, needs or a wait that no engine writes to a namespace of this layout."""
    for outcome in outcomes:
        if outcome.is_durable:
            _check_layout(f"outcome of {outcome.id}", layout)
            _check_outcome(outcome)


def _check_outcome(outcome: Outcome) -> None:
    """Raise ValueError for an outcome that no engine writes."""
    wait = outcome.wait
    if (wait is None) == (outcome.action is Action.SUSPEND):
        raise ValueError(f"outcome of {outcome.id}: SUSPEND needs a wait, and no other action takes one")
    if wait is not None and not wait.signals and wait.until_us is None and not wait.needs:
        raise ValueError(f"outcome of {outcome.id}: the wait has no signal, no time and no needs, so it never ends")
    _check_signals(f"outcome of {outcome.id}", wait)
    if outcome.needs and outcome.action not in _WAITS:
        raise ValueError(f"outcome of {outcome.id}: only REPORT and SUSPEND take needs, not {outcome.action.value!r}")
    if any(need.when != "ended" for need in outcome.needs):
        raise ValueError(f"outcome of {outcome.id}: a running instance can need a child only as 'ended'")
    _check_needs(outcome.id, outcome.needs)
    if len(outcome.needs) > MAX_NEEDS_CALL:
        raise ValueError(f"outcome of {outcome.id}: at most {MAX_NEEDS_CALL} needs, got {len(outcome.needs):,}")
    _check_steps(f"outcome of {outcome.id}", outcome.steps)


def _check_signals(owner: str, wait: Wait | None) -> None:
    if wait is None or not wait.signals:
        return
    if (size := size_of_names(wait.signals)) > MAX_AWAITED_BYTES:
        raise ValueError(f"{owner}: the names of its signals have {size:,} bytes, at most {MAX_AWAITED_BYTES:,} fit")
    if any(not name or "\0" in name for name in wait.signals):
        raise ValueError(f"{owner}: the name of a signal is empty or has a NUL, got {wait.signals!r}")


def check_children(parent: str, children: Sequence[NewChild], layout: int) -> None:
    """Raise ValueError for children that no engine adds to a namespace of this layout."""
    _check_layout(f"children of {parent}", layout)
    if len(children) > MAX_CHILDREN_CALL:
        raise ValueError(f"a call holds at most {MAX_CHILDREN_CALL} children, got {len(children):,}")
    needs = sum(len(child.needs) for child in children)
    if needs > MAX_NEEDS_CALL:
        raise ValueError(f"a call holds at most {MAX_NEEDS_CALL} needs, got {needs:,}")
    for child in children:
        if child.instance.key is not None:
            raise ValueError(f"child {child.instance.id}: a child takes no unique key, got {child.instance.key!r}")
        _check_needs(child.instance.id, child.needs)


def _check_needs(id: str, needs: Sequence[Need]) -> None:
    ids = {need.id for need in needs}
    if id in ids or len(ids) != len(needs):
        raise ValueError(f"instance {id}: it needs itself, or one child twice")


def check_restored(instances: Sequence[Restored], layout: int = FLOWS_LAYOUT) -> None:
    """Raise ValueError for instances of another store that no engine adds to a namespace of this layout."""
    _check_layout("instances of another store", layout)
    if len(instances) > MAX_CHILDREN_CALL:
        raise ValueError(f"a call restores at most {MAX_CHILDREN_CALL} instances, got {len(instances):,}")
    if (steps := sum(len(restored.steps) for restored in instances)) > MAX_RESTORED_STEPS:
        raise ValueError(f"a call restores at most {MAX_RESTORED_STEPS} steps and signals, got {steps:,}")
    ids = {restored.instance.id for restored in instances}
    if len(ids) != len(instances):
        raise ValueError("a call restores one instance twice")
    for restored in instances:
        id, wait = restored.instance.id, restored.wait
        if restored.parent in ids:
            raise ValueError(f"instance {id}: its parent {restored.parent} comes in an earlier call")
        if restored.instance.due_us is None or restored.instance.delay_us is not None:
            raise ValueError(f"instance {id}: a restored instance has a due time and no delay")
        if restored.parent and restored.instance.key is not None:
            raise ValueError(f"child {id}: a child takes no unique key, got {restored.instance.key!r}")
        if wait is not None and (restored.open or wait.needs or not (wait.signals or wait.until_us is not None)):
            raise ValueError(f"instance {id}: it can wait for a signal or a time, and only if it is not open")
        _check_signals(f"instance {id}", wait)
        if restored.state.is_final and (not restored.parent or restored.steps or wait is not None or restored.open):
            raise ValueError(f"instance {id}: only a child is restored as final, without steps and a wait")
        if not restored.state.is_final and (
            restored.state is not State.SCHEDULED or (restored.result, restored.error) != (None, None)
        ):
            raise ValueError(f"instance {id}: it is Scheduled without result and error, or final")
        _check_steps(f"instance {id}", restored.steps)


def states_to(state: State) -> tuple[State, ...]:
    """The entries in the history of a child that is restored as final, after Scheduled."""
    return (state,) if state is State.CANCELLED else (State.PROCESSING, state)


def _check_steps(owner: str, steps: Sequence[Step]) -> None:
    if len(steps) > MAX_STEPS_CALL:
        raise ValueError(f"{owner}: at most {MAX_STEPS_CALL} steps, got {len(steps):,}")
    if len({step.name for step in steps}) != len(steps):
        raise ValueError(f"{owner}: two steps have one name")
    size = sum(len(step.value) for step in steps)
    if size > MAX_STEP_BYTES:
        raise ValueError(f"{owner}: its steps have {size:,} bytes, at most {MAX_STEP_BYTES:,} fit")


def check_signal(name: str, value: bytes, layout: int) -> None:
    """Raise ValueError for a signal that no engine keeps in a namespace of this layout."""
    _check_layout(f"signal {name!r}", layout)
    if len(value) > MAX_STEP_BYTES:
        raise ValueError(f"signal {name!r}: the value has {len(value):,} bytes, at most {MAX_STEP_BYTES:,} fit")


def _check_layout(what: str, layout: int) -> None:
    """Raise ValueError for a command that comes before `require_layout`."""
    if layout < FLOWS_LAYOUT:
        raise ValueError(f"{what}: call require_layout of this store first")
