"""Children, and what needs them: the command `spawn`, and what follows the end of an instance."""

from __future__ import annotations

from collections.abc import Sequence

from peerjob.model.durable import Need
from peerjob.model.record import Enqueued, Held, NewChild
from peerjob.model.state import State
from peerjob.store.durable_checks import check_children
from peerjob.store.rules import PARENT_ENDED, need_failed

from .cancel import cancel_one
from .durable import resume
from .ends import add_to_expiring, begin_retention
from .enqueue import add_instance, check_not_full, is_known
from .state import Edge, InstanceData
from .transaction import ReferenceTransaction, Settled

# -- children and needs


def spawn(
    transaction: ReferenceTransaction, incarnation: str, parent: Held, children: Sequence[NewChild]
) -> list[Enqueued] | None:
    """Add children of a running instance, or needs to those that are open."""
    check_children(parent.id, children, transaction.state.layout)
    instance = transaction.state.instances.get(parent.id)
    claim = (State.PROCESSING, incarnation, parent.fence)
    if instance is None or (instance.state, instance.owner, instance.fence) != claim:
        return None
    check_not_full(transaction)
    return [_spawn(transaction, instance, child) for child in children]


def _spawn(transaction: ReferenceTransaction, parent: InstanceData, new: NewChild) -> Enqueued:
    id, state = new.instance.id, transaction.state
    repeated = is_known(transaction, id)
    if not repeated:
        add_instance(transaction, new.instance, transaction.name(parent.owner), parent=parent.id, open=True)
    child = state.instances.get(id)
    if child is not None:
        if child.parent != parent.id:
            raise ValueError(f"child {id} of {parent.id}: another instance has this id")
        if child.open:
            attach(transaction, child, parent.id, new.needs)
            child.open = new.more
            resume(transaction, child, is_new=not (repeated or new.needs))
    return Enqueued(id, True, repeated=repeated)


def attach(transaction: ReferenceTransaction, dependant: InstanceData, parent: str, needs: Sequence[Need]) -> None:
    """Let an instance need children of a parent, under its present fence. It is not cancelled before the settling."""
    for need in needs:
        needed = transaction.state.instances.get(need.id)
        known = None if needed is None or needed.parent != parent else needed
        edge = Edge(dependant.id, dependant.fence, need.when)
        if known is not None and not known.over:
            edges = transaction.state.edges.setdefault(need.id, [])
            edges += [] if edge in edges else [edge]
            dependant.needs.add(need.id)
        elif need.when == "completed" and (known is None or known.state is not State.COMPLETED):
            state = None if known is None else known.state
            transaction.settling.append(Settled(need.id, state, edges=(edge,)))


# -- settling


def settle(transaction: ReferenceTransaction) -> None:
    """Follow up all ends of the transaction, and the ends that follow from them."""
    while transaction.settling:
        ended = transaction.settling.pop(0)
        edges = transaction.state.edges.pop(ended.id, []) if ended.over else ended.edges
        for edge in edges:
            _follow(transaction, ended, edge)
        for id in transaction.state.children.pop(ended.id, []) if ended.final else ():
            _let_go(transaction, transaction.state.instances[id])


def _follow(transaction: ReferenceTransaction, ended: Settled, edge: Edge) -> None:
    """Tell an instance that one of its needs is over, if it still has the fence under which it needed it."""
    dependant = transaction.state.instances.get(edge.dependant)
    if dependant is None or dependant.state.is_final or dependant.fence != edge.fence:
        return
    dependant.needs.discard(ended.id)
    if edge.when == "completed" and ended.state is not State.COMPLETED:
        cancel_one(transaction, dependant, "", need_failed(ended.id, ended.state))
    else:
        resume(transaction, dependant)


def _let_go(transaction: ReferenceTransaction, child: InstanceData) -> None:
    """End the hold of a child, whose parent is final: a child that is not final is cancelled."""
    if not child.state.is_final:
        cancel_one(transaction, child, "", PARENT_ENDED)
        return
    begin_retention(transaction, child)
    if child.over:
        add_to_expiring(transaction, child)
