"""What holds of the reference after each call: where an instance waits, and what keeps a child."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from peerjob.model.durable import SIGNAL_MARK
from peerjob.model.state import State
from peerjob.store.reference.state import InstanceData, Namespace


def broken(state: Namespace) -> list[str]:
    """The invariants that do not hold, each with an instance."""
    places = _places(state)
    found: list[str] = []
    for instance in state.instances.values():
        found += _waker(state, instance, places[instance.id])
        found += _held(state, instance)
    found += _edges(state)
    return found


def _places(state: Namespace) -> Counter[str]:
    """How many queues each instance is in: ready, delayed, at the gate of its key, or parked behind a slot."""
    queued = (id for queue in state.ready.values() for _, _, id in queue)
    at_gates = (id for data in state.limit_keys.values() for _, _, id in data.waiting)
    parked = (id for slot in state.slots.values() for id in slot[1:])
    return Counter((*queued, *(id for _, id in state.delayed), *at_gates, *parked))


def _waker(state: Namespace, instance: InstanceData, places: int) -> Iterator[str]:
    """WAKER: a Scheduled instance is in one queue, or it waits for what can still come; not both."""
    wait, id = instance.wait, instance.id
    if instance.state is not State.SCHEDULED:
        if wait is not None or instance.open:
            yield f"WAKER: {id} is {instance.state} and waits"
        if instance.state is State.PROCESSING and places:
            yield f"WAKER: {id} runs and is in a queue"
        return
    if wait is None or wait.until_us is not None:
        if places != 1:
            yield f"WAKER: {id} is in {places} queues"
        return
    if places:
        yield f"WAKER: {id} waits and is in {places} queues"
    parent = state.instances.get(instance.parent)
    by_signal = bool(wait.signals) and not any(SIGNAL_MARK + name in instance.steps for name in wait.signals)
    by_needs = wait.needs and bool(instance.needs)
    by_import = instance.open and not instance.parent
    by_parent = by_import or (instance.open and parent is not None and not parent.state.is_final)
    if (wait.signals and not by_signal) or not (by_signal or by_needs or by_parent):
        yield f"WAKER: {id} waits for nothing"


def _held(state: Namespace, instance: InstanceData) -> Iterator[str]:
    """HELD and CLOSED: a child is held until its parent is final, and has no retention before."""
    held = instance.id in state.children.get(instance.parent, ())
    expires = (instance.expires_us, instance.id) in state.expiring
    if instance.over and held == expires:
        yield f"HELD: {instance.id} is over, held: {held}, expires: {expires}"
    if not instance.over and expires:
        yield f"HELD: {instance.id} is not over and expires"
    if instance.parent and not instance.state.is_final and not held:
        yield f"CLOSED: {instance.id} is not final, and its parent does not hold it"
    if held and (instance.parent not in state.instances or state.instances[instance.parent].state.is_final):
        yield f"CLOSED: {instance.id} is held, and its parent is final"


def _edges(state: Namespace) -> Iterator[str]:
    """NEEDS-EXACT and EDGES-SETTLE: the needs of a wait are the edges under its fence, and lead to what is not over."""
    counted: Counter[str] = Counter()
    for id, edges in state.edges.items():
        needed = state.instances.get(id)
        if needed is None or needed.over:
            yield f"EDGES-SETTLE: {id} is over, and {len(edges)} need it"
        for edge in edges:
            dependant = state.instances.get(edge.dependant)
            counted[edge.dependant] += dependant is not None and dependant.fence == edge.fence
    for instance in state.instances.values():
        if instance.wait is not None and instance.wait.needs and counted[instance.id] != len(instance.needs):
            yield f"NEEDS-EXACT: {instance.id} has {len(instance.needs)} needs, and {counted[instance.id]} edges"


def ended_wrong(before: Namespace, after: Namespace) -> Iterator[str]:
    """FINAL-STAYS, STEP-ONCE and STEP-LOST: what no call may change."""
    for id, old in before.instances.items():
        new = after.instances.get(id)
        if new is None:
            continue
        if old.state.is_final and (new.state, new.result, new.error) != (old.state, old.result, old.error):
            yield f"FINAL-STAYS: {id} was {old.state}, and is {new.state}"
        if any(new.steps.get(name) != value for name, value in old.steps.items()):
            yield f"STEP-ONCE: {id} had the steps {old.steps}, and has {new.steps}"
