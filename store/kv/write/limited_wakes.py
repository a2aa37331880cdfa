"""Chooses idle nodes to wake for instances of kinds with limits: at most as many as the limits allow claims."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set

from peerjob.model.stored_limit import MAX_CONCURRENCY
from peerjob.store.kv.format.base import Entry, KeyValue
from peerjob.store.kv.format.keys import Keys, below
from peerjob.store.kv.index.counts import READY, Counts

from .limit_rules import Alarms, LimitsInUse, LimitState, Rules

Choose = Callable[[Set[str], int], int]
"""Chooses up to so many idle nodes that can run one of some kinds, each node once; returns how many it chose."""


class LimitedWakes:
    """Reads limits after a change, and decides how many nodes to wake."""

    def __init__(
        self, kv: KeyValue, keys: Keys, limit_rules: LimitsInUse, counts: Counts, now_us: Callable[[], int]
    ) -> None:
        self._kv = kv
        self._keys = keys
        self._limit_rules = limit_rules
        self._counts = counts
        self._now_us = now_us

    async def wake(
        self,
        ready: Mapping[str, int],
        any_of: Collection[str],
        freed: Collection[str],
        opened: Collection[str],
        idle: Sequence[tuple[str, Entry]],
        choose: Choose,
    ) -> None:
        """Choose nodes to wake.

        `ready` counts instances that became claimable; `any_of` are kinds of which a claim left instances; `freed` are
        shared limits that were full before permits were given back; `opened` are kinds whose limits were changed.
        """
        of_freed = await self.kinds_of(freed)
        rules = await self._limit_rules.current()
        limited = rules.kinds.keys() & {*ready, *any_of, *of_freed}
        if not limited and not opened:
            for kind, count in ready.items():
                choose({kind}, count)
            if any_of:
                choose({*any_of}, 1)
            return
        more = await self._more_claims(rules, limited | set(opened), sorted(of_freed | set(opened)), idle, choose)
        for kind, count in ready.items():
            more.wake({kind}, count)
        if left := {kind for kind in any_of if more.of(kind) > 0}:
            choose(left, 1)
        for kind in opened:
            more.wake({kind}, more.queued.get(kind, 0))
        for name in freed:
            if name in rules.limits:
                kinds = {kind for kind in rules.limits[name].kinds if more.queued.get(kind) and more.of(kind) > 0}
                more.wake(kinds, sum(more.queued[kind] for kind in kinds))

    async def kinds_of(self, names: Iterable[str]) -> set[str]:
        """The kinds of shared limits."""
        limits = (await self._limit_rules.current()).limits
        return {kind for name in names if name in limits for kind in limits[name].kinds}

    async def were_full(self, freed: Mapping[str, int]) -> list[str]:
        """The shared limits that were full before so many permits of each were given back."""
        limits = (await self._limit_rules.current()).limits
        names = [name for name in freed if name in limits and limits[name].numbers.concurrency]
        held = await self._kv.read([below(self._keys.permits(name), 1, keys_only=True) for name in names])
        return [
            name
            for name, permits in zip(names, held, strict=True)
            if limits[name].numbers.concurrency <= permits.count + freed[name]
        ]

    async def _more_claims(
        self,
        rules: Rules,
        kinds: Collection[str],
        counted: Sequence[str],
        idle: Sequence[tuple[str, Entry]],
        choose: Choose,
    ) -> _MoreClaims:
        names = list(dict.fromkeys(name for kind in kinds for name in rules.shared(kind)))
        reads = [read for name in names for read in self._limit_rules.reads(name)]
        live, *answers = await self._kv.read(
            [below(self._keys.live, keys_only=True), *reads, *(self._counts.of(kind) for kind in counted)]
        )
        states = self._limit_rules.states(rules, names, answers, self._now_us())
        queued: dict[str, int] = {}
        for kind, answer in zip(counted, answers[len(reads) :], strict=True):
            values = self._counts.summed(answer).get(self._keys.kind(kind))
            queued[kind] = 0 if values is None else max(0, values[READY])
        return _MoreClaims(rules, states, Alarms(self._keys, idle, live), queued, choose)


class _MoreClaims:
    """What limits leave to nodes that are woken."""

    def __init__(
        self,
        rules: Rules,
        states: Mapping[str, LimitState],
        alarms: Alarms,
        queued: Mapping[str, int],
        choose: Choose,
    ) -> None:
        self._rules = rules
        self._choose = choose
        self._states = states
        self._alarms = alarms
        self._left = {name: state.free for name, state in states.items()}
        self.queued = queued
        """Kind → about how many instances are in its queues."""

    def of(self, kind: str) -> int:
        """How many nodes may be woken for a kind. If only time opens its limits, one node waits for the moment."""
        of_kind = self._rules.kinds.get(kind)
        if of_kind is not None and of_kind.paused:
            return 0
        most = MAX_CONCURRENCY
        for name in self._rules.shared(kind):
            state = self._states[name]
            if state.places <= 0 or (state.starts <= 0 and self._alarms.has(state)):
                return 0
            most = min(most, self._left[name] if state.starts > 0 else 1)
        return most

    def wake(self, kinds: Set[str], count: int) -> None:
        """Choose nodes for instances of some kinds: as many as the limits allow, and as are there.

        Kinds without an idle node leave the room in a shared limit to others.
        """
        chosen = self._choose(kinds, min(count, max(map(self.of, kinds), default=0)))
        for name in {name for kind in kinds for name in self._rules.shared(kind)}:
            self._left[name] -= chosen
