"""Incarnations and their leases: `join`, `renew`, `nodes` and `instruct`."""

from __future__ import annotations

from peerjob.model.record import Held, Instruction, NodeInfo, NodeView, Renewed, digest

from .queues import due_instances
from .state import NodeData
from .step import AtomicStep


def join(step: AtomicStep, info: NodeInfo, *, ttl_us: int, previous: str | None = None) -> int:
    """Add a live incarnation, or update it. One that has ended does not come back."""
    node = step.state.nodes.setdefault(info.incarnation, NodeData(info=info))
    if not node.ended:
        node.info, node.ttl_us, node.expires_us = info, ttl_us, step.now_us + ttl_us
    if previous is not None and previous != info.incarnation:
        _forgive(step, previous)
    return step.now_us


def _forgive(step: AtomicStep, previous: str) -> None:
    """Turn the crashes that the death of an incarnation charged, and will charge, into losses: its process lives."""
    node = step.state.nodes.get(previous)
    if node is None:
        return
    charged, node.charged, node.forgiven = node.charged, set(), True
    for id in charged:
        instance = step.state.instances.get(id)
        if instance is not None and instance.crashes > 0 and not instance.state.is_final:
            instance.crashes -= 1
            instance.losses += 1


def renew(step: AtomicStep, incarnation: str, *, ttl_us: int, running: int, count: int, fences_digest: int) -> Renewed:
    """Extend a lease, even an expired one, and tell the node what it would ask for."""
    node = step.node(incarnation)
    if node is None:
        return Renewed(dead=True, now_us=step.now_us)
    node.ttl_us, node.expires_us, node.running = ttl_us, step.now_us + ttl_us, running
    held = step.state.held_by(incarnation)
    fences = [instance.fence for instance in held]
    agrees = len(held) == count and digest(fences) == fences_digest
    return Renewed(
        now_us=step.now_us,
        held=None if agrees else tuple(Held(instance.id, instance.fence) for instance in held),
        cancelled=tuple(instance.id for instance in held if instance.releasing),
        instruction=node.instruction,
        work_due=node.idle is None or any(one.kind in node.idle.kinds for one in due_instances(step)),
        reap_in_us=_reap_in_us(step, node),
    )


def _reap_in_us(step: AtomicStep, own: NodeData) -> int:
    """Microseconds until a peer can be reaped; the ttl if there is no peer."""
    nodes, now_us = step.state.nodes, step.now_us
    if any(node.ended and step.state.held_by(incarnation) for incarnation, node in nodes.items()):
        return 0
    ends = [node.expires_us + 1 - now_us for node in nodes.values() if not node.ended and node is not own]
    return max(0, min(ends, default=own.ttl_us))


def nodes(step: AtomicStep) -> list[NodeView]:
    """Live incarnations, by name."""
    views = [
        NodeView(
            info=node.info,
            running=node.running,
            renewed_us=node.expires_us - node.ttl_us,
            expires_us=node.expires_us,
        )
        for node in step.state.nodes.values()
        if node.alive(step.now_us)
    ]
    return sorted(views, key=lambda view: (view.info.name, view.info.incarnation))


def instruct(step: AtomicStep, incarnation: str, instruction: Instruction) -> bool:
    """Replace the instruction of a live incarnation, which gets it with its next renewals."""
    node = step.state.nodes.get(incarnation)
    if node is None or not node.alive(step.now_us):
        return False
    node.instruction = instruction
    step.hint(incarnation, "cancel")
    return True
