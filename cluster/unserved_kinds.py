"""Finds kinds that no live node claims: a node that drains claims none."""

from __future__ import annotations

from collections.abc import Set

from peerjob.model.clock import Clock
from peerjob.model.state import State
from peerjob.store.base import Store

FRESH = 2.0
"""Seconds for which the kinds of live nodes are cached, if the cache has every kind that a caller asks for."""
FRESH_UNKNOWN = 0.5
"""Seconds for which the kinds of live nodes are cached, if a caller asks for a kind that the cache lacks."""


class UnservedKinds:
    """Caches the kinds of live nodes, and the kinds with waiting instances."""

    def __init__(self, clock: Clock, store: Store) -> None:
        self._clock = clock
        self._store = store
        self._kinds: frozenset[str] = frozenset()
        self._stuck: frozenset[str] = frozenset()
        self._asked_at: float | None = None

    async def without(self, kinds: Set[str]) -> Set[str]:
        """The kinds that no live node claims and that already have an instance waiting.

        One instance may wait, so that a node of the kind finds it when the node returns.
        """
        fresh = FRESH if kinds <= self._kinds else FRESH_UNKNOWN
        now = self._clock.elapsed()
        if self._asked_at is None or now - self._asked_at >= fresh:
            nodes = await self._store.nodes()
            self._kinds = frozenset(kind for node in nodes for kind in node.info.open_kinds)
            self._stuck = frozenset()
            if not kinds <= self._kinds:
                counts = (await self._store.health()).counts
                self._stuck = frozenset(kind for kind, states in counts.items() if states.get(State.SCHEDULED))
            self._asked_at = now
        return (kinds - self._kinds) & self._stuck
