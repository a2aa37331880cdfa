"""Idle incarnations, and whether they hear of due work.

*Hints* are not compared. Instead: if work is due that an idle incarnation can run, one such incarnation has a hint. Its
next renewal can say so instead if the caller gave the call up, or if the hint went to one that waits no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from peerjob.model.record import Claimed, Hint, Want
from peerjob.store.base import Store
from peerjob.store.kv.format.base import Put, Transaction
from peerjob.store.kv.store import KVStore

LONGEST = 60
"""Seconds in which a watch must bring what was written."""


@dataclass
class Sleepers:
    """The incarnations whose last claim found nothing."""

    kinds: dict[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])
    """Incarnation → the kinds of which it claims, since it is idle."""
    _hinted: set[str] = field(default_factory=set[str])
    _absent: dict[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])
    """The same of incarnations that have claimed since, or whose leases are over: a store can wake one of them."""

    _told: set[str] = field(default_factory=set[str])
    """Kinds of whose due work an incarnation has heard that has not claimed them since: no other one need hear."""

    def note(self, incarnation: str, want: Want, answer: Claimed) -> None:
        """Keep what a claim made of its incarnation."""
        claimed = frozenset(kind for kind, most in want.kinds.items() if most > 0 and want.limit > 0)
        before = self.kinds.get(incarnation, frozenset[str]()) | self._absent.get(incarnation, frozenset[str]())
        if incarnation in self._hinted:
            self._told |= before - claimed
        self.wake(incarnation)
        if not answer.claims and not answer.dead and want.idle and want.limit > 0:
            self.kinds[incarnation] = claimed
        elif before:
            self._absent[incarnation] = before

    def wake(self, incarnation: str) -> None:
        """Expect no hint to this incarnation any more."""
        self.kinds.pop(incarnation, None)
        self._absent.pop(incarnation, None)
        self._hinted.discard(incarnation)

    def may_be_idle(self, incarnation: str, want: Want) -> None:
        """Note a claim in a race, or one that came again: the store can have registered the incarnation as idle."""
        before = self.kinds.pop(incarnation, frozenset[str]())
        if incarnation in self._hinted:
            self._told |= before  # it has the hint, and the call gives it the answer of an earlier claim
        kinds = before | frozenset(kind for kind, most in want.kinds.items() if most > 0)
        self._absent[incarnation] = kinds | self._absent.get(incarnation, frozenset())

    def is_absent(self, incarnation: str) -> None:
        """Note that the lease of an idle incarnation is over."""
        self._absent[incarnation] = self.kinds.pop(incarnation)
        self._hinted.discard(incarnation)

    def has_ended(self, incarnation: str, *, may_be_told: bool) -> None:
        """Expect no hint to an incarnation that has ended; before that, it may have got one that is gone."""
        if may_be_told:
            self._told |= self._absent.get(incarnation, frozenset[str]())
        self.wake(incarnation)

    def wake_all(self) -> None:
        """Expect no hints: time has passed, and each node knows by itself when to claim."""
        self._absent |= self.kinds
        self.kinds.clear()
        self._hinted.clear()

    @property
    def absent(self) -> Collection[str]:
        """The incarnations that a store can wake although they wait no more."""
        return list(self._absent)

    def able(self, kind: str) -> list[str]:
        """The idle incarnations that can run a kind."""
        return [incarnation for incarnation, kinds in self.kinds.items() if kind in kinds]

    async def unheard(
        self, store: Store, kinds: Mapping[str, Collection[str]], queued: Mapping[str, int]
    ) -> dict[str, list[str]]:
        """The kinds of due work of which no idle incarnation has a hint, with those incarnations.

        `kinds` has for each kind those that share a limit with it: one hint for all of them can be enough. But to a
        kind that the call has queued, the others leave what `queued` says, less one for each of their hints.
        """
        self._told &= kinds.keys()
        left: dict[str, list[str]] = {}
        for kind in sorted(kinds):
            able = self.able(kind)
            heard = {incarnation for other in kinds[kind] for incarnation in self.able(other)}
            if able and not await self._are_hinted(store, {*able}, heard, queued.get(kind, 1)):
                left[kind] = able
        return left

    async def _are_hinted(self, store: Store, able: Set[str], heard: Set[str], enough: int) -> bool:
        """Whether one of the able incarnations has a hint, or enough of all that share a limit."""
        while True:
            hinted = self._hinted & heard
            if hinted & able or len(hinted) >= enough:
                return True
            if not await self._hinted_now(store, heard - hinted):
                return False

    async def is_told(self, store: Store, kind: str) -> bool:
        """Whether a hint of due work of a kind came to an incarnation that need not claim it."""
        able = [incarnation for incarnation, kinds in self._absent.items() if kind in kinds]
        if able and await self._hinted_now(store, able):
            for incarnation in self._hinted & self._absent.keys():
                self._told |= self._absent[incarnation]
                self.wake(incarnation)
        return kind in self._told

    def is_known(self, kind: str) -> None:
        """Expect no hint of due work of a kind, whose room in a limit an incarnation got that need not claim it."""
        self._told.add(kind)

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
        for look in (_hints_there, _hints_sent):
            for incarnation in able:
                hints = await look(store, incarnation)
                if any(hint.what == "work" for hint in hints):
                    self._hinted.add(incarnation)
                    return True
        return False


async def _hints_there(store: Store, incarnation: str) -> Sequence[Hint]:
    """The hints that have come to an incarnation."""
    return await store.next_hints(incarnation, 0.001)


async def _hints_sent(store: Store, incarnation: str) -> Sequence[Hint]:
    """The hints that were sent to an incarnation: a watch brings them some time later, in the order of their writes."""
    if not isinstance(store, KVStore):
        return await _hints_there(store, incarnation)
    private: Any = store
    context, mark = private._context, Hint("mark", "oracle")
    put = Put(
        f"{context.keys.hint(incarnation)}{mark.what}/{mark.id}", b"", await context.kv.grant(LONGEST * 1_000_000)
    )
    await context.kv.txn([Transaction([], [put])])
    hints = list[Hint]()
    async with asyncio.timeout(LONGEST):
        while mark not in hints:
            hints += await store.next_hints(incarnation, LONGEST)
    return hints
