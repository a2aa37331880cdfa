"""Incarnations and their leases: `join`, `renew`, `nodes` and `instruct`."""

from __future__ import annotations

from peerjob.model.record import Held, Instruction, NodeInfo, NodeView, Renewed
from peerjob.store.rules import digest

from .queues import due_instances
from .shared_limits import may_go
from .state import NodeData
from .transaction import ReferenceTransaction


def join(transaction: ReferenceTransaction, info: NodeInfo, *, ttl_us: int, previous: str | None = None) -> int:
    """Add a live incarnation, or update it. One that has ended does not come back."""
    node = transaction.state.nodes.setdefault(info.incarnation, NodeData(info=info))
    if not node.ended:
        if not node.alive(transaction.now_us):
            # some stores keep the number with the lease
            node.running = 0
        node.info, node.ttl_us, node.expires_us = info, ttl_us, transaction.now_us + ttl_us
    if previous is not None and previous != info.incarnation:
        _forgive(transaction, previous)
    return transaction.now_us


def _forgive(transaction: ReferenceTransaction, previous: str) -> None:
    """Make losses of the crashes that the death of an incarnation charged, and will charge: its process lives."""
    node = transaction.state.nodes.get(previous)
    if node is None or node.ended != "dead":
        return
    charged, node.charged, node.forgiven = node.charged, set(), True
    for id in charged:
        instance = transaction.state.instances.get(id)
        if instance is not None and instance.crashes > 0 and not instance.state.is_final:
            instance.crashes -= 1
            instance.losses += 1


def renew(
    transaction: ReferenceTransaction, incarnation: str, *, ttl_us: int, running: int, count: int, fences_digest: int
) -> Renewed:
    """Extend a lease, even an expired one, and tell the node what it would ask for."""
    node = transaction.node(incarnation)
    if node is None:
        return Renewed(dead=True, now_us=transaction.now_us)
    node.ttl_us, node.expires_us, node.running = ttl_us, transaction.now_us + ttl_us, running
    held = transaction.state.held_by(incarnation)
    fences = [instance.fence for instance in held]
    agrees = len(held) == count and digest(fences) == fences_digest
    return Renewed(
        now_us=transaction.now_us,
        held=None if agrees else tuple(Held(instance.id, instance.fence) for instance in held),
        cancelled=tuple(instance.id for instance in held if instance.releasing),
        instruction=node.instruction,
        work_due=node.idle is None
        or any(
            kind in node.idle.kinds and may_go(transaction, kind)
            for kind in {instance.kind for instance in due_instances(transaction)}
        ),
        reap_in_us=_reap_in_us(transaction, node),
    )


def _reap_in_us(transaction: ReferenceTransaction, own: NodeData) -> int:
    """Microseconds until a peer can be reaped; the ttl if there is no peer."""
    nodes, now_us = transaction.state.nodes, transaction.now_us
    if any(node.ended and transaction.state.held_by(incarnation) for incarnation, node in nodes.items()):
        return 0
    ends = [node.expires_us + 1 - now_us for node in nodes.values() if not node.ended and node is not own]
    return max(0, min(ends, default=own.ttl_us))


def nodes(transaction: ReferenceTransaction) -> list[NodeView]:
    """Live incarnations, by name."""
    views = [
        NodeView(
            info=node.info,
            running=node.running,
            renewed_us=node.expires_us - node.ttl_us,
            expires_us=node.expires_us,
        )
        for node in transaction.state.nodes.values()
        if node.alive(transaction.now_us)
    ]
    return sorted(views, key=lambda view: (view.info.name, view.info.incarnation))


def instruct(transaction: ReferenceTransaction, incarnation: str, instruction: Instruction) -> bool:
    """Replace the instruction of a live incarnation, which gets it with its next renewals."""
    node = transaction.state.nodes.get(incarnation)
    if node is None or not node.alive(transaction.now_us):
        return False
    node.instruction = instruction
    transaction.hint(incarnation, "cancel")
    return True
