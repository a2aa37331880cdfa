"""What readers see of the limits in use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from peerjob.model.stored_limit import MAX_CONCURRENCY, LimitNumbers, LimitView
from peerjob.store.kv.format.rows import SLOTS
from peerjob.store.kv.index.counts import PROCESSING, READY
from peerjob.store.kv.write.context import KVContext
from peerjob.store.kv.write.limit_rules import LimitState, Rules

_LIMIT, _KIND = "l", "m"
"""The first characters of the positions of shared limits, and of kinds, which come after them."""


def view_positions(rules: Rules, kind: str | None, cursor: str | None) -> list[str]:
    """The positions of the views of all limits, or of those of a kind, after a cursor."""
    shown = [name for name, of_kind in rules.kinds.items() if of_kind.paused or of_kind.gates]
    positions = [_LIMIT + name for name, limit in rules.limits.items() if kind is None or kind in limit.kinds]
    positions += [_KIND + name for name in shown if kind is None or kind == name]
    return sorted(position for position in positions if cursor is None or position > cursor)


class LimitViews:
    """Reads views of limits."""

    def __init__(self, context: KVContext, rules: Rules) -> None:
        self._context = context
        self._rules = rules
        self._states: Mapping[str, LimitState] = {}
        self._counts: Mapping[str, Sequence[int]] = {}

    async def read(self, positions: Sequence[str]) -> list[LimitView]:
        """The views at some positions."""
        context, rules = self._context, self._rules
        names = [position[1:] for position in positions if position[0] == _LIMIT]
        kinds = [position[1:] for position in positions if position[0] == _KIND]
        of_kinds = [name for kind in kinds for name in rules.shared(kind)]
        counted = list(dict.fromkeys([*kinds, *(kind for name in names for kind in rules.limits[name].kinds)]))
        read = list(dict.fromkeys([*names, *of_kinds]))
        ranges = [wanted for name in read for wanted in context.limit_rules.reads(name)]
        answers = await context.kv.read([*ranges, *map(context.counts.of, counted)])
        self._states = context.limit_rules.states(rules, read, answers, context.clock_skew.median_us())
        self._counts = {
            kind: context.counts.summed(answer).get(context.keys.kind(kind), [0] * SLOTS)
            for kind, answer in zip(counted, answers[len(ranges) :], strict=True)
        }
        return [*map(self._limit_view, names), *map(self._kind_view, kinds)]

    def _limit_view(self, name: str) -> LimitView:
        state = self._states[name]
        limit, numbers = state.limit, state.limit.numbers
        return LimitView(
            name=name,
            kinds=limit.kinds,
            concurrency=numbers.concurrency or None,
            period_us=numbers.period_us,
            burst=numbers.burst if numbers.period_us else None,
            running=state.permits.count,
            waiting=sum(self._count(kind, READY) for kind in limit.kinds),
            remaining=state.free if state.free < MAX_CONCURRENCY else None,
            opens_us=state.opens_us,
            note=limit.note,
            source="code" if limit.setting == LimitNumbers() else "setting",
        )

    def _kind_view(self, kind: str) -> LimitView:
        of_kind = self._rules.kinds[kind]
        by_limits = min((self._states[name].free for name in self._rules.shared(kind)), default=MAX_CONCURRENCY)
        remaining = 0 if of_kind.paused else by_limits
        return LimitView(
            kinds=(kind,),
            concurrency=of_kind.gates or None,
            running=self._count(kind, PROCESSING),
            waiting=self._count(kind, READY),
            remaining=remaining if remaining < MAX_CONCURRENCY else None,
            paused=of_kind.paused,
            note=of_kind.reason if of_kind.paused else of_kind.note,
            source="setting" if of_kind.key_setting else "code",
        )

    def _count(self, kind: str, number: int) -> int:
        return max(0, self._counts[kind][number])
