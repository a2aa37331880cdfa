"""Idle incarnations, and whether they hear of due work.

*Hints* are not compared. Instead: if work is due that an idle incarnation can run, one such incarnation has a hint, or
its next renewal says so.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from peerjob.model.record import Claimed, Want
from peerjob.store.base import Store

PATIENCE = 0.3
"""Seconds in which a hint must come that was sent before."""


@dataclass
class Sleepers:
    """The incarnations whose last claim found nothing."""

    kinds: dict[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])
    """Incarnation → the kinds of which it claims, since it is idle."""
    _hinted: set[str] = field(default_factory=set[str])

    def note(self, incarnation: str, want: Want, answer: Claimed) -> None:
        """Keep what a claim made of its incarnation."""
        self.wake(incarnation)
        if not answer.claims and not answer.dead and want.idle and want.limit > 0:
            self.kinds[incarnation] = frozenset(kind for kind, most in want.kinds.items() if most > 0)

    def wake(self, incarnation: str) -> None:
        """Expect no hint to this incarnation any more."""
        self.kinds.pop(incarnation, None)
        self._hinted.discard(incarnation)

    def wake_all(self) -> None:
        """Expect no hints: time has passed, and each node knows by itself when to claim."""
        self.kinds.clear()
        self._hinted.clear()

    def able(self, kind: str) -> list[str]:
        """The idle incarnations that can run a kind."""
        return [incarnation for incarnation, kinds in self.kinds.items() if kind in kinds]

    async def unheard(self, store: Store, kinds: set[str]) -> dict[str, list[str]]:
        """The kinds of due work of which no idle incarnation has a hint, with those incarnations."""
        left: dict[str, list[str]] = {}
        for kind in sorted(kinds):
            able = self.able(kind)
            if able and not self._hinted & {*able} and not await self._hinted_now(store, able):
                left[kind] = able
        return left

    async def drain(self, store: Store, incarnations: Collection[str]) -> None:
        """Take the hints to these incarnations that are there, so that a later one is new."""
        self.wake_all()
        for incarnation in incarnations:
            while await store.next_hints(incarnation, 0.001):
                pass

    async def hears(self, store: Store, incarnations: Collection[str]) -> bool:
        """Whether one of these incarnations hears of due work."""
        return await self._hinted_now(store, incarnations)

    async def _hinted_now(self, store: Store, able: Collection[str]) -> bool:
        # first a look at each of them, since mostly the hint is there
        for wait in (0.001, PATIENCE):
            for incarnation in able:
                hints = await store.next_hints(incarnation, wait)
                if any(hint.what == "work" for hint in hints):
                    self._hinted.add(incarnation)
                    return True
        return False
