"""Shared limits and pauses: how many claims of a kind are possible, and the commands that change and show it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from peerjob.model.record import Want, check_batch
from peerjob.model.stored_limit import (
    MAX_CONCURRENCY,
    KindLimits,
    LimitNumbers,
    LimitPage,
    LimitSetting,
    LimitSupport,
    LimitView,
)
from peerjob.store.rules import LIMITS_LAYOUT, check_kinds_of_limit, check_published, check_setting

from .catalogue import publish_kinds
from .layout import raise_layout
from .state import LimitData, LimitsOfKind
from .transaction import ReferenceTransaction

_UNLIMITED = LimitsOfKind()


class RemainingByLimits:
    """How many more claims of each kind its shared limits allow, while a claim selects instances."""

    def __init__(self, transaction: ReferenceTransaction) -> None:
        self._transaction = transaction
        self._given: Counter[str] = Counter()

    def of(self, kind: str) -> int:
        """The number for a kind; 0 for a paused one."""
        rules = rules_of(self._transaction, kind)
        left = (remaining(self._transaction, name) - self._given[name] for name in rules.names)
        return 0 if rules.paused else min(left, default=MAX_CONCURRENCY)

    def use(self, kind: str) -> None:
        """Count one claim."""
        self._given.update(rules_of(self._transaction, kind).names)


def rules_of(transaction: ReferenceTransaction, kind: str) -> LimitsOfKind:
    """What limits a kind."""
    return transaction.state.kind_rules.get(kind, _UNLIMITED)


def kinds_of(transaction: ReferenceTransaction, name: str) -> list[str]:
    """The kinds of a shared limit."""
    return sorted(kind for kind, rules in transaction.state.kind_rules.items() if name in rules.names)


def remaining(transaction: ReferenceTransaction, name: str) -> int:
    """How many more claims a shared limit allows now."""
    limit = transaction.state.shared_limits[name]
    starts = limit.numbers.starts_at(limit.tat_us, transaction.now_us)
    return 0 if limit.closed_us > transaction.now_us else min(starts, _places(transaction, name))


def charge(transaction: ReferenceTransaction, kinds: Iterable[str]) -> None:
    """Let claims of these kinds, one for each, use up the rates of their limits."""
    for name, claims in Counter(name for kind in kinds for name in rules_of(transaction, kind).names).items():
        limit = transaction.state.shared_limits[name]
        limit.tat_us = limit.numbers.tat_after(limit.tat_us, transaction.now_us, claims)


def claim_ends(transaction: ReferenceTransaction, kind: str) -> None:
    """Note the full limits of a kind before a claim of it ends: the end of the command wakes nodes for them."""
    transaction.opened.update(name for name in rules_of(transaction, kind).names if _places(transaction, name) == 0)


def _places(transaction: ReferenceTransaction, name: str) -> int:
    """How many more claims the concurrency of a limit allows. Its rate can allow fewer."""
    concurrency = transaction.state.shared_limits[name].numbers.concurrency
    return max(0, concurrency - _running(transaction, kinds_of(transaction, name))) if concurrency else MAX_CONCURRENCY


def _running(transaction: ReferenceTransaction, kinds: Sequence[str]) -> int:
    return sum(instance.held and instance.kind in kinds for instance in transaction.state.instances.values())


# -- limits that only time opens


def opens_us(limit: LimitData, now_us: int) -> int:
    """When a limit opens that only time opens; 0 if it is open, except for its concurrency."""
    closed_us = limit.closed_us if limit.closed_us > now_us else 0
    used_up = limit.numbers.starts_at(limit.tat_us, now_us) == 0
    return max(closed_us, limit.numbers.opens_us(limit.tat_us)) if used_up else closed_us


def may_go(transaction: ReferenceTransaction, kind: str) -> bool:
    """Whether an idle node must claim for a queued instance of a kind: to run it, or to learn when its limit opens."""
    rules, now_us = rules_of(transaction, kind), transaction.now_us
    if rules.paused or any(_places(transaction, name) == 0 for name in rules.names):
        return False
    limits = [transaction.state.shared_limits[name] for name in rules.names]
    closed = [limit for limit in limits if opens_us(limit, now_us)]
    return not closed or any(not _is_told(transaction, limit) for limit in closed)


def tell_moment(transaction: ReferenceTransaction, incarnation: str, want: Want) -> int | None:
    """When a limit opens that holds back instances for an idle incarnation, if no other one waits for that moment."""
    told: list[int] = []
    for kind in transaction.state.ready:
        names = rules_of(transaction, kind).names if want.kinds.get(kind, 0) > 0 else ()
        if rules_of(transaction, kind).paused or any(_places(transaction, name) == 0 for name in names):
            continue
        for limit in (transaction.state.shared_limits[name] for name in names):
            moment_us = opens_us(limit, transaction.now_us)
            if moment_us and (limit.told == incarnation or not _is_told(transaction, limit)):
                limit.told, limit.told_us = incarnation, moment_us
                told.append(moment_us)
    return min(told, default=None)


def _is_told(transaction: ReferenceTransaction, limit: LimitData) -> bool:
    """Whether a live idle node claims again when the limit opens, or earlier."""
    node, now_us = transaction.node(limit.told), transaction.now_us
    waits = node is not None and node.alive(now_us) and node.idle is not None
    return waits and now_us <= limit.told_us <= opens_us(limit, now_us)


def wake(transaction: ReferenceTransaction) -> None:
    """Wake idle nodes at the end of a command: for instances that came to a queue, and for limits with room again."""
    came = transaction.queued
    for name in transaction.opened & transaction.state.shared_limits.keys():
        for kind in kinds_of(transaction, name):
            came[kind] = len(transaction.state.ready.get(kind, ()))
    left = RemainingByLimits(transaction)
    for kind, count in came.items():
        queued = len(transaction.state.ready.get(kind, ()))
        # a node that is woken for a closed limit learns when it opens
        is_closed = RemainingByLimits(transaction).of(kind) == 0 == left.of(kind)
        if may_go(transaction, kind):
            for _ in range(min(count, queued, 1 if is_closed else left.of(kind))):
                # a kind without idle nodes leaves the room to others
                if transaction.wake(kind):
                    left.use(kind)


# -- commands


def publish_limits(transaction: ReferenceTransaction, limits: Sequence[KindLimits], support: LimitSupport) -> None:
    """Replace the limits of kinds."""
    check_batch(len(limits))
    if transaction.state.layout < LIMITS_LAYOUT and not any(given.shared or given.key_concurrency for given in limits):
        return
    for given in limits:
        check_published(given, support)
        for shared in given.shared:
            check_kinds_of_limit(shared.name, len({given.kind, *kinds_of(transaction, shared.name)}))
        if given.shared or given.key_concurrency:
            raise_layout(transaction, LIMITS_LAYOUT, "limits")
        publish_kinds(transaction, [given.kind])
        rules = transaction.state.kind_rules.setdefault(given.kind, LimitsOfKind())
        names = {*rules.names, *(shared.name for shared in given.shared)}
        rules.names, rules.key_concurrency = tuple(shared.name for shared in given.shared), given.key_concurrency
        for shared in given.shared:
            transaction.state.shared_limits.setdefault(shared.name, LimitData()).code = shared.numbers
        transaction.queued[given.kind] = len(transaction.state.ready.get(given.kind, ()))
        transaction.opened |= names
        tidy(transaction)


def set_limit(transaction: ReferenceTransaction, setting: LimitSetting, support: LimitSupport) -> bool:
    """Replace the setting of a shared limit, or of the keys of a kind; False if nothing has it."""
    check_setting(setting, support)
    is_removed = setting.numbers == LimitNumbers()
    state = transaction.state
    if setting.name:
        limit = state.shared_limits.get(setting.name)
        if limit is None or (is_removed and limit.setting is None):
            return False
        limit.setting, limit.note = (None, "") if is_removed else (setting.numbers, setting.note)
        transaction.opened.add(setting.name)
    else:
        rules = rules_of(transaction, setting.kind)
        if not (rules.own_concurrency or (rules.key_concurrency and not is_removed)):
            return False
        rules.own_concurrency, rules.note = setting.numbers.concurrency, "" if is_removed else setting.note
        for kind, key in state.limit_keys:
            if kind == setting.kind:
                transaction.gates.setdefault((kind, key), set())
    tidy(transaction)
    return True


def pause_kind(transaction: ReferenceTransaction, kind: str, *, paused: bool, note: str) -> None:
    """Pause a kind, or resume it."""
    if paused:
        raise_layout(transaction, LIMITS_LAYOUT, "limits")
    rules = transaction.state.kind_rules.setdefault(kind, LimitsOfKind())
    rules.paused, rules.reason = paused, note if paused else ""
    transaction.queued[kind] = len(transaction.state.ready.get(kind, ()))
    tidy(transaction)


def throttle(transaction: ReferenceTransaction, name: str, delay_us: int, *, shorten: bool = False) -> bool:
    """Close a shared limit for a time; False if no kind has it."""
    limit = transaction.state.shared_limits.get(name)
    if limit is None or not kinds_of(transaction, name):
        return False
    until_us = transaction.now_us + delay_us
    limit.closed_us = until_us if shorten else max(limit.closed_us, until_us)
    transaction.opened.add(name)
    return True


def tidy(transaction: ReferenceTransaction) -> None:
    """Remove limits that no kind has and that are not set, and kinds that nothing limits."""
    state = transaction.state
    state.kind_rules = {kind: rules for kind, rules in state.kind_rules.items() if rules != _UNLIMITED}
    used = {name for rules in state.kind_rules.values() for name in rules.names}
    state.shared_limits = {
        name: limit for name, limit in state.shared_limits.items() if name in used or limit.setting is not None
    }


def limits(
    transaction: ReferenceTransaction, *, kind: str | None = None, cursor: str | None = None, limit: int = 100
) -> LimitPage:
    """A page of the shared limits by name, then of the kinds by name."""
    state = transaction.state
    views = {f"a{name}": _limit_view(transaction, name) for name in sorted(state.shared_limits)}
    views |= {
        f"b{name}": _kind_view(transaction, name)
        for name, rules in sorted(state.kind_rules.items())
        if rules.paused or rules.key_concurrency or rules.own_concurrency
    }
    of_kind = {position: view for position, view in views.items() if kind is None or kind in view.kinds}
    left = [position for position in of_kind if cursor is None or position > cursor]
    page = left[:limit]
    return LimitPage(tuple(of_kind[position] for position in page), page[-1] if len(left) > limit else None)


def _limit_view(transaction: ReferenceTransaction, name: str) -> LimitView:
    limit, kinds = transaction.state.shared_limits[name], kinds_of(transaction, name)
    numbers, left = limit.numbers, remaining(transaction, name)
    return LimitView(
        name=name,
        kinds=tuple(kinds),
        concurrency=numbers.concurrency or None,
        period_us=numbers.period_us,
        burst=numbers.burst if numbers.period_us else None,
        running=_running(transaction, kinds),
        waiting=sum(len(transaction.state.ready.get(kind, ())) for kind in kinds),
        remaining=left if left < MAX_CONCURRENCY else None,
        opens_us=opens_us(limit, transaction.now_us),
        note=limit.note,
        source="code" if limit.setting is None else "setting",
    )


def _kind_view(transaction: ReferenceTransaction, kind: str) -> LimitView:
    rules = rules_of(transaction, kind)
    left = RemainingByLimits(transaction).of(kind)
    return LimitView(
        kinds=(kind,),
        concurrency=rules.own_concurrency or rules.key_concurrency or None,
        running=_running(transaction, [kind]),
        waiting=len(transaction.state.ready.get(kind, ())),
        remaining=left if left < MAX_CONCURRENCY else None,
        paused=rules.paused,
        note=rules.reason if rules.paused else rules.note,
        source="setting" if rules.own_concurrency else "code",
    )
