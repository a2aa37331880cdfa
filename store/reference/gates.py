"""Key limits: a gate in front of the queue of a kind, which admits so many instances of each key."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence

from peerjob.model.record import check_batch
from peerjob.model.state import State
from peerjob.model.stored_limit import MAX_HOLDERS, KeyLimitPage, KeyLimitView, LimitKey

from .queues import add_ready, discard, remove_from_queue
from .shared_limits import rules_of, tidy, wake
from .state import InstanceData, KeyData
from .transaction import ReferenceTransaction

_PAGE = 500


def leave(transaction: ReferenceTransaction, instance: InstanceData) -> None:
    """Free the place of an instance that is admitted, or end its wait."""
    data = transaction.state.limit_keys.get((instance.kind, instance.limit_key))
    if data is not None:
        discard(data.waiting, (instance.priority, instance.due_us, instance.id))
        if instance.id in data.admitted:
            data.admitted.remove(instance.id)
        transaction.gates.setdefault((instance.kind, instance.limit_key), set())


def pass_gates(transaction: ReferenceTransaction) -> None:
    """Admit instances of each key from which an instance left, or to which one came."""
    gates, transaction.gates = transaction.gates, {}
    for (kind, key), came in gates.items():
        data = transaction.state.limit_keys.get((kind, key))
        if data is None:
            continue
        concurrency = rules_of(transaction, kind).own_concurrency or data.concurrency
        while data.waiting and len(data.admitted) < concurrency:
            _admit(transaction, data, data.waiting[0], came)
            transaction.queued[kind] += 1
        for position in [position for position in data.waiting if position[2] in came]:
            _change_places(transaction, data, position, came)
        if not data.admitted and not data.waiting:
            del transaction.state.limit_keys[kind, key]


def _admit(transaction: ReferenceTransaction, data: KeyData, position: tuple[int, int, str], came: set[str]) -> None:
    """Let an instance into the queue: at its due time if it just came, otherwise behind what is there."""
    data.waiting.remove(position)
    _, due_us, id = position
    data.admitted.append(id)
    add_ready(transaction, transaction.state.instances[id], due_us if id in came else transaction.now_us)


def _change_places(
    transaction: ReferenceTransaction, data: KeyData, position: tuple[int, int, str], came: set[str]
) -> None:
    """Admit an instance with a better priority instead of the last admitted one, if that one is not claimed."""
    last = transaction.state.instances[data.admitted[-1]] if data.admitted else None
    if last is not None and last.state is State.SCHEDULED and last.priority > position[0]:
        remove_from_queue(transaction, last)
        data.admitted.remove(last.id)
        insort(data.waiting, (last.priority, last.due_us, last.id))
        _admit(transaction, data, position, came)


def finish(transaction: ReferenceTransaction) -> None:
    """End a command: let instances pass their gates, and wake idle nodes."""
    pass_gates(transaction)
    wake(transaction)


def key_limits(
    transaction: ReferenceTransaction,
    kind: str,
    *,
    prefix: str = "",
    waiting_only: bool = False,
    cursor: str | None = None,
    limit: int = _PAGE,
) -> KeyLimitPage:
    """A page of the keys of a kind, by key."""
    own = rules_of(transaction, kind).own_concurrency
    views = [
        KeyLimitView(
            key=key,
            concurrency=own or data.concurrency,
            admitted=len(data.admitted),
            waiting=len(data.waiting),
        )
        for (of, key), data in sorted(transaction.state.limit_keys.items())
        if of == kind and key.startswith(prefix) and (data.waiting or not waiting_only)
    ]
    views = [view for view in views if cursor is None or view.key > cursor]
    more = views[limit - 1].key if len(views) > limit else None
    instances = transaction.state.instances.values()
    bare = sum(instance.kind == kind and not instance.limit_key and not instance.over for instance in instances)
    first = [KeyLimitView(key="", admitted=bare)] if bare and not prefix and not waiting_only and not cursor else []
    return KeyLimitPage((*first, *views[:limit]), more)


def limit_keys(transaction: ReferenceTransaction, ids: Sequence[str]) -> list[LimitKey | None]:
    """The keys of unfinished instances."""
    check_batch(len(ids))
    return [_limit_key(transaction, transaction.state.instances.get(id)) for id in ids]


def _limit_key(transaction: ReferenceTransaction, instance: InstanceData | None) -> LimitKey | None:
    if instance is None or instance.over or not instance.limit_key:
        return None
    data = transaction.state.limit_keys.get((instance.kind, instance.limit_key))
    waiting = data is not None and (instance.priority, instance.due_us, instance.id) in data.waiting
    return LimitKey(key=instance.limit_key, concurrency=instance.key_concurrency, waiting=waiting)


def key_holders(transaction: ReferenceTransaction, kind: str, key: str) -> list[str]:
    """The first instances that are admitted with a key."""
    data = transaction.state.limit_keys.get((kind, key))
    return [] if data is None else data.admitted[:MAX_HOLDERS]


def check_limits(transaction: ReferenceTransaction, cursor: str | None = None) -> tuple[int, str | None]:
    """Check a page of admissions, and let their keys admit instances. The last page looks at the catalogue."""
    state = transaction.state
    places = [(id, of) for of, data in state.limit_keys.items() for id in data.admitted if id > (cursor or "")]
    page = sorted(places)[:_PAGE]
    freed = [(id, of) for id, of in page if id not in state.instances]
    for id, of in freed:
        state.limit_keys[of].admitted.remove(id)
    for _, of in page:
        transaction.gates.setdefault(of, set())
    if len(places) > _PAGE:
        return len(freed), page[-1][0]
    for kind, rules in state.kind_rules.items():
        if kind not in state.kinds or state.kinds[kind].until_us <= transaction.now_us:
            rules.names, rules.key_concurrency = (), 0
    tidy(transaction)
    return len(freed), None
