"""Claims come back from an incarnation that leaves or that died: the commands `leave` and `reap`."""

from __future__ import annotations

from peerjob.model.record import Reaped
from peerjob.model.state import State

from . import gates
from .ends import end, release
from .queues import add_to_queue
from .retention import remove_some
from .shared_limits import claim_ends
from .state import InstanceData, NodeData
from .transaction import ReferenceTransaction


def leave(transaction: ReferenceTransaction, incarnation: str) -> int:
    """End a lease in order, and hand back the claims without a count; returns how many."""
    node = transaction.state.nodes.get(incarnation)
    if node is None:
        return 0
    if not node.ended:
        _end_node(transaction, node, "left")
    held = {instance.id: instance for instance in transaction.state.held_by(incarnation)}
    left = transaction.choices.left(list(held))
    for id in left:
        _take_back(transaction, held[id], node, node.info.name)
    return len(left)


def reap(transaction: ReferenceTransaction, limit: int, *, reaper: str) -> list[Reaped]:
    """Mark incarnations as dead whose leases have expired, and take back up to `limit` claims of dead ones."""
    nodes, by = transaction.state.nodes, transaction.name(reaper) or reaper
    if reaper in nodes and nodes[reaper].alive(transaction.now_us):
        expired = [name for name, node in nodes.items() if not node.ended and not node.alive(transaction.now_us)]
        for incarnation in transaction.choices.dead(expired):
            held = transaction.state.held_by(incarnation)
            nodes[incarnation].suspect_ran = any(instance.suspect and instance.started for instance in held)
            _end_node(transaction, nodes[incarnation], "dead")
    claims = [instance.id for name, node in nodes.items() if node.ended for instance in transaction.state.held_by(name)]
    reaped: list[Reaped] = []
    for id in transaction.choices.reaped(claims, limit):
        instance = transaction.state.instances[id]
        node = nodes[instance.owner]
        _take_back(transaction, instance, node, by)
        reaped.append(Reaped(id=id, kind=instance.kind, state=instance.state, node=node.info.name))
    remove_some(transaction, 2 * transaction.ended)
    return reaped


def _end_node(transaction: ReferenceTransaction, node: NodeData, how: str) -> None:
    """End an incarnation. From now on it claims nothing, and gets no hints."""
    node.ended, node.ended_us = how, transaction.now_us
    node.idle, node.hints, node.hears_changes_until_us = None, [], 0
    for id, waiting in list(transaction.state.watchers.items()):
        waiting.discard(node.info.incarnation)
        if not waiting:
            del transaction.state.watchers[id]


def _take_back(transaction: ReferenceTransaction, instance: InstanceData, node: NodeData, by: str) -> None:
    """End a claim of an incarnation that has ended. The attempt does not count."""
    if instance.releasing:
        release(transaction, instance)
        return
    claim_ends(transaction, instance.kind)
    if node.ended == "dead":
        _charge(instance, node)
    instance.attempts -= 1
    instance.owner, instance.started = "", False
    if instance.crashes > instance.max_crashes:
        transaction.ended += 1
        end(transaction, instance, State.TERMINATED, by, "poison")
        return
    transaction.transition(instance, State.SCHEDULED, by, "node lost" if node.ended == "dead" else "handed back")
    gates.leave(transaction, instance)
    add_to_queue(transaction, instance)


def _charge(instance: InstanceData, node: NodeData) -> None:
    """Count a crash if the body had started, otherwise a loss. If a suspect ran, only suspects are charged."""
    if node.suspect_ran and not instance.suspect:
        return
    if instance.started and not node.forgiven:
        instance.crashes += 1
        node.charged.add(instance.id)
    else:
        instance.losses += 1
