"""Mistakes of a caller with steps, needs, children and signals; each engine refuses them before it writes."""

from __future__ import annotations

from collections.abc import Sequence

from peerjob.model.durable import MAX_CHILDREN_CALL, MAX_NEEDS_CALL, MAX_STEP_BYTES, MAX_STEPS_CALL, Need
from peerjob.model.record import Action, NewChild, Outcome

_WAITS = (Action.REPORT, Action.SUSPEND)


def check_outcome(outcome: Outcome) -> None:
    """Raise ValueError for an outcome that no engine writes."""
    wait = outcome.wait
    if (wait is None) == (outcome.action is Action.SUSPEND):
        raise ValueError(f"outcome of {outcome.id}: SUSPEND needs a wait, and no other action takes one")
    if wait is not None and not wait.signal and wait.until_us is None and not wait.needs:
        raise ValueError(f"outcome of {outcome.id}: the wait has no signal, no time and no needs, so it never ends")
    if outcome.needs and outcome.action not in _WAITS:
        raise ValueError(f"outcome of {outcome.id}: only REPORT and SUSPEND take needs, not {outcome.action.value!r}")
    if any(need.when != "ended" for need in outcome.needs):
        raise ValueError(f"outcome of {outcome.id}: a running instance can need a child only as 'ended'")
    _check_needs(outcome.id, outcome.needs)
    if len(outcome.needs) > MAX_NEEDS_CALL:
        raise ValueError(f"outcome of {outcome.id}: at most {MAX_NEEDS_CALL} needs, got {len(outcome.needs):,}")
    if len(outcome.steps) > MAX_STEPS_CALL:
        raise ValueError(f"outcome of {outcome.id}: at most {MAX_STEPS_CALL} steps, got {len(outcome.steps):,}")
    if len({step.name for step in outcome.steps}) != len(outcome.steps):
        raise ValueError(f"outcome of {outcome.id}: two steps have one name")
    size = sum(len(step.value) for step in outcome.steps)
    if size > MAX_STEP_BYTES:
        raise ValueError(f"outcome of {outcome.id}: its steps have {size:,} bytes, at most {MAX_STEP_BYTES:,} fit")


def check_children(children: Sequence[NewChild]) -> None:
    """Raise ValueError for children that no engine adds."""
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


def check_signal(name: str, value: bytes) -> None:
    """Raise ValueError for a signal that no engine keeps."""
    if len(value) > MAX_STEP_BYTES:
        raise ValueError(f"signal {name!r}: the value has {len(value):,} bytes, at most {MAX_STEP_BYTES:,} fit")


def layout_missing(what: str) -> ValueError:
    """The error of a command that came before `require_layout`."""
    return ValueError(f"{what}: call require_layout of this store first")
