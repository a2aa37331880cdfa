"""The removal of instances: `expire` and the commands `clear…`."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from peerjob.model.query import Filter
from peerjob.model.record import Transition

from .ends import is_held, remove
from .reading import created_us_of, page_of
from .state import InstanceData
from .transaction import REMEMBERED_US, ReferenceTransaction, Settled


def expire(transaction: ReferenceTransaction, limit: int) -> int:
    """Remove up to `limit` instances that are kept no longer; returns how many."""
    _forget(transaction)
    return remove_some(transaction, limit)


def _forget(transaction: ReferenceTransaction) -> None:
    """Forget what is remembered for a time only. Each command ignores it after that time, so this only saves memory."""
    state, now_us = transaction.state, transaction.now_us
    state.removed = {id: until_us for id, until_us in state.removed.items() if until_us > now_us}
    state.answers = {key: answer for key, answer in state.answers.items() if answer.until_us > now_us}
    state.kinds = {kind: known for kind, known in state.kinds.items() if known.until_us > now_us}
    for incarnation, node in list(state.nodes.items()):
        if node.ended and node.ended_us + REMEMBERED_US <= now_us and not state.held_by(incarnation):
            del state.nodes[incarnation]


def remove_some(transaction: ReferenceTransaction, limit: int) -> int:
    """Remove up to `limit` instances that are kept no longer; returns how many."""
    ids = transaction.choices.removed(removable(transaction), limit)
    for id in ids:
        remove(transaction, transaction.state.instances[id])
    return len(ids)


def removable(transaction: ReferenceTransaction) -> list[str]:
    """The instances that are kept no longer: their retention is over, or their kind has too many final ones."""
    expiring, kept = transaction.state.expiring, transaction.limits.max_final_per_kind
    over = bisect_right(expiring, (transaction.now_us, "~"))
    if len(expiring) - over <= kept:
        return [id for _, id in expiring[:over]]
    by_kind: dict[str, list[str]] = {}
    for _, id in expiring[over:]:
        by_kind.setdefault(transaction.state.instances[id].kind, []).append(id)
    # of those that end up above the limit, the ones that were created first are removed
    surplus = [id for ids in by_kind.values() for id in sorted(ids)[: max(0, len(ids) - kept)]]
    return [id for _, id in expiring[:over]] + surplus


# -- removal on request


def clear_instances(transaction: ReferenceTransaction, filter: Filter, *, limit: int = 500) -> int:
    """Remove final instances that match, the oldest first."""
    ids = transaction.choices.removed(
        [
            instance.id
            for instance in _matching(transaction, filter)
            if instance.over and not is_held(transaction, instance)
        ],
        limit,
    )
    for id in ids:
        remove(transaction, transaction.state.instances[id])
    return len(ids)


def clear_history(
    transaction: ReferenceTransaction, filter: Filter, *, cursor: str | None = None
) -> tuple[int, str | None]:
    """Reduce the histories of matching final instances to one entry, which counts all; one page."""
    page, cursor = page_of(list(_matching(transaction, filter)), cursor)
    cleared = [instance for instance in page if len(instance.history) > 1]
    for instance in cleared:
        last, count = instance.history[-1], sum(entry.count for entry in instance.history)
        instance.history = [Transition(last.state, last.at_us, last.node, last.note, count)]
    return len(cleared), cursor


def clear_logs(
    transaction: ReferenceTransaction, filter: Filter, *, cursor: str | None = None
) -> tuple[int, str | None]:
    """Remove the logs of matching final instances; one page."""
    page, cursor = page_of(list(_matching(transaction, filter)), cursor)
    cleared = [instance for instance in page if instance.logs or instance.dropped]
    for instance in cleared:
        instance.logs, instance.dropped = [], 0
    return len(cleared), cursor


def clear(transaction: ReferenceTransaction) -> None:
    """Remove every instance in any state."""
    for instance in list(transaction.state.instances.values()):
        remove(transaction, instance)
    transaction.state.edges.clear()
    transaction.state.children.clear()
    transaction.state.undecodable = 0


def _matching(transaction: ReferenceTransaction, filter: Filter) -> Iterator[InstanceData]:
    """Final instances that match, in order of creation."""
    after_us, before_us = filter.bounds_us(transaction.now_us)
    for id in sorted(transaction.state.instances):
        instance, created_us = transaction.state.instances[id], created_us_of(id)
        if (
            instance.state.is_final
            and (after_us is None or created_us >= after_us)
            and (before_us is None or created_us < before_us)
        ):
            yield instance


def set_aside(transaction: ReferenceTransaction, id: str) -> None:
    """Do what an engine does with a record that it cannot decode: move it out of every queue and index."""
    remove(transaction, transaction.state.instances[id])
    transaction.state.removed.pop(id, None)
    transaction.state.undecodable += 1
    transaction.settling.append(Settled(id, None, final=True, over=True))
