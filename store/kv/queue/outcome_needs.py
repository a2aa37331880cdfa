"""The needs of running instances, which their outcomes name."""

from __future__ import annotations

from collections.abc import Sequence

from peerjob.model.record import Outcome
from peerjob.store.kv.format.base import Compare, Range, mod_of
from peerjob.store.kv.format.keys import prefix_end
from peerjob.store.kv.format.rows import owned_of
from peerjob.store.kv.write.context import KVContext

from .attaching import NewNeed, attach


class OutcomeNeeds:
    """Attaches the needs of the outcomes of one call, and finds one that is left for each instance that suspends."""

    def __init__(self, context: KVContext) -> None:
        self._context = context
        self._attached: set[tuple[str, str]] = set()
        self.left: dict[str, Compare | None] = {}
        """Instance → compare that holds while a need of its claim is left; None if none is left."""

    async def attach(self, incarnation: str, outcomes: Sequence[Outcome]) -> None:
        """Attach the needs of outcomes that are about a claim, and look at what is left."""
        for outcome in outcomes:
            new = [
                NewNeed(outcome.id, outcome.fence, outcome.id, need)
                for need in outcome.needs
                if (outcome.id, need.id) not in self._attached
            ]
            guard = await self._guard(incarnation, outcome) if new else None
            if guard is not None and await attach(self._context, guard, new):
                self._attached |= {(outcome.id, need.id) for need in outcome.needs}
        waiting = [outcome for outcome in outcomes if outcome.wait is not None and outcome.wait.needs]
        if not waiting:
            return
        prefixes = [self._context.keys.needs(outcome.id, outcome.fence) for outcome in waiting]
        # the settling looks at the last need first, so it is the one that stays longest
        ranges = [Range(prefix, prefix_end(prefix), 1, True, True) for prefix in prefixes]
        for outcome, last in zip(waiting, await self._context.kv.read(ranges), strict=True):
            self.left[outcome.id] = Compare(last.items[0][0], mod=last.items[0][1].mod) if last.items else None

    async def _guard(self, incarnation: str, outcome: Outcome) -> Compare | None:
        """A compare that holds while the incarnation holds the claim of an outcome; None if it does not hold it."""
        key = self._context.keys.owned(incarnation) + outcome.id
        (entry,) = await self._context.kv.get([key])
        owned = None if entry is None else owned_of(entry.value)
        holds = owned is not None and owned.fence == outcome.fence and not owned.releasing
        return Compare(key, mod=mod_of(entry)) if holds else None
