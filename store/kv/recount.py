"""Counters are compared with the indexes now and then.

What a request counts goes along with what it changes, unless the request had a conflict: then it follows, and is lost
if the server goes away, or the process, in just that moment. So once an hour, and after an answer that never came,
whoever reads the counters compares them with the indexes as of one moment, and writes the difference.
"""

from __future__ import annotations

from peerjob.state import State

from .base import Compare, Put, Range, Step
from .context import Context
from .counts import ASIDE, DELAYED, PROCESSING, SLOT, SLOTS, totals
from .keys import SHARDS, prefix_end
from .rows import number_of, owned_of

_PERIOD_US = 3_600_000_000


class Recount:
    """Puts right what was not counted."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def if_due(self) -> None:
        """Compare all kinds, unless somebody did within the hour and nothing is in doubt."""
        context = self._context
        key, now_us = context.keys.counted, context.clock.time_us()
        (entry,) = await context.kv.get([key])
        fresh = entry is not None and now_us - number_of(entry.value) < _PERIOD_US
        if fresh and not context.writer.doubt:
            return
        context.writer.doubt = False
        # whoever comes second finds the key changed, and leaves it to the first
        mod = 0 if entry is None else entry.mod
        applied = await context.kv.txn([Step([Compare(key, mod=mod)], [Put(key, str(now_us).encode())])])
        if applied.steps[0] is None:
            return
        mod = applied.revision
        (found,) = await context.kv.read([context.counts.every()])
        for part in {"": None, **totals(context.keys, found)}:
            mod = await self._correct(context.keys.unescaped(part), mod, now_us)
            if not mod:
                return

    async def _correct(self, kind: str, mod: int, now_us: int) -> int:
        """Write the difference for one kind; the new revision of the key that keeps others away, or 0."""
        context, keys = self._context, self._context.keys
        slots = {state: slot for state, slot in SLOT.items() if state is not State.PROCESSING}
        indexes = [keys.by(kind, state) for state in slots]
        if kind == "":
            indexes += [keys.aside, *(f"{keys.due}{shard}/" for shard in SHARDS)]
        found, owned, *indexed = await context.kv.read(
            [
                context.counts.of(kind),
                Range(keys.own, prefix_end(keys.own)),
                *(Range(index, prefix_end(index), 1, True) for index in indexes),
            ]
        )
        counted = totals(keys, found).get(keys.kind(kind), [0] * SLOTS)
        actual = list(counted)
        for slot, held in zip(slots.values(), indexed, strict=False):
            actual[slot] = held.count
        claims = [owned_of(entry.value) for _, entry in owned.items]
        actual[PROCESSING] = sum(claim.kind == kind and not claim.releasing for claim in claims)
        if kind == "":
            actual[ASIDE] = indexed[len(slots)].count
            actual[DELAYED] = sum(held.count for held in indexed[len(slots) + 1 :])
        if actual == counted:
            return mod
        lane = context.counts.lane()
        try:
            await context.counts.load(lane, [kind])
            added = [after - before for before, after in zip(counted, actual, strict=True)]
            compares, puts = lane.plan({kind: added})
            first = Compare(keys.counted, mod=mod)
            written = await context.kv.txn([Step([first, *compares], [*puts, Put(keys.counted, str(now_us).encode())])])
            if written.steps[0] is None:
                lane.refused()
                context.writer.doubt = True
                return 0
            lane.written(written.revision)
            return written.revision
        finally:
            context.counts.give_back(lane)
