"""Counters are compared with the indexes now and then.

What a request counts goes along with what it changes, unless the request had a conflict: then it follows, and is lost
if the server goes away, or the process, in just that moment. So once an hour, and after an answer that never came,
whoever reads the counters compares them with the indexes as of one moment, and writes the difference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from peerjob.model.state import State

from .base import Compare, Put, Range, Step
from .context import KVContext
from .counts import DELAYED, PROCESSING, READY, SCHEDULED, SET_ASIDE, SLOT, SLOTS, kind_of, totals
from .keys import prefix_end
from .rows import number_of, owned_of
from .slots import slot_of

_STATES = [state for state in SLOT if state is not State.PROCESSING]
_PERIOD_US = 3_600_000_000
_AT_ONCE = 12
"""Kinds that are compared as of one moment, in one request."""
_MAX_COUNTED = 10 * _AT_ONCE
"""Kinds that one call compares; the next call goes on with others."""


class Recount:
    """Puts right what was not counted."""

    def __init__(self, context: KVContext) -> None:
        self._context = context

    async def if_due(self) -> None:
        """Compare some kinds, unless all were compared within the hour and nothing is in doubt.

        The key `counted` says when a round began, and while it goes on, the kind with which it goes on.
        """
        context = self._context
        key, now_us = context.keys.counted, context.clock.time_us()
        (entry,) = await context.kv.get([key])
        began, _, start = ("0", "", "") if entry is None else entry.value.decode(errors="replace").partition(" ")
        if not 0 <= now_us - number_of(began.encode()) < _PERIOD_US or (context.writer.counts_in_doubt and not start):
            context.writer.counts_in_doubt = False
            began, start = str(now_us), context.keys.count
        elif not start:
            return
        # whoever comes second finds the key changed, and leaves it to the first
        mod = 0 if entry is None else entry.mod
        applied = await context.kv.txn([Step([Compare(key, mod=mod)], [Put(key, f"{began} {start}".encode())])])
        if applied.steps[0] is None:
            return
        await self._round(applied.revision, began, start)

    async def _round(self, mod: int, began: str, start: str) -> None:
        """Compare kinds from a counter on."""
        context, keys = self._context, self._context.keys
        parts = dict.fromkeys([""] if start == keys.count else [])
        while start and len(parts) <= _MAX_COUNTED:
            page, start = await context.counts.page(start)
            parts |= dict.fromkeys(kind_of(keys, key) for key, _ in page.items)
        kinds = list(parts)
        if len(kinds) > _MAX_COUNTED:
            kinds, start = kinds[:_MAX_COUNTED], f"{keys.count}{kinds[_MAX_COUNTED]}/"
        for at in range(0, len(kinds), _AT_ONCE):
            for part, added in (await self._differences(kinds[at : at + _AT_ONCE])).items():
                mod = await self._correct(keys.unescaped(part), added, mod, f"{began} {start}")
                if not mod:
                    return
        await context.kv.txn([Step([Compare(keys.counted, mod=mod)], [Put(keys.counted, f"{began} {start}".encode())])])

    async def _differences(self, parts: Sequence[str]) -> dict[str, list[int]]:
        """What is missing in the counters of these kinds, where something is, by escaped kind."""
        context, keys = self._context, self._context.keys
        kinds = [keys.unescaped(part) for part in parts]
        counters = [context.counts.of(kind) for kind in kinds]
        indexes = [
            index for kind in kinds for index in (*(keys.by(kind, state) for state in _STATES), keys.ready_of(kind))
        ]
        found = await context.kv.read(
            [
                *counters,
                *(Range(prefix, prefix_end(prefix), 1, True) for prefix in (*indexes, keys.set_aside)),
                *(Range(prefix, prefix_end(prefix)) for prefix in (keys.own, keys.slots)),
            ]
        )
        owned, slots = found[-2:]
        claims = [owned_of(entry.value) for _, entry in owned.items]
        running = Counter(claim.kind for claim in claims if not claim.releasing)
        parked = Counter(one.kind for _, entry in slots.items for one in slot_of(entry).parked)
        differences: dict[str, list[int]] = {}
        for number, (part, kind) in enumerate(zip(parts, kinds, strict=True)):
            counted = totals(keys, found[number]).get(part, [0] * SLOTS)
            first = len(kinds) + number * (len(_STATES) + 1)
            held = [one.count for one in found[first : first + len(_STATES) + 1]]
            actual = [0] * SLOTS
            for state, count in zip(_STATES, held, strict=False):
                actual[SLOT[state]] = count
            actual[PROCESSING], actual[READY] = running[kind], held[-1]
            actual[DELAYED] = max(0, actual[SCHEDULED] - held[-1] - parked[kind])
            actual[SET_ASIDE] = found[-3].count if kind == "" else 0
            if actual != counted:
                differences[part] = [after - before for before, after in zip(counted, actual, strict=True)]
        return differences

    async def _correct(self, kind: str, added: list[int], mod: int, state: str) -> int:
        """Write the difference for one kind; the new revision of the key that keeps others away, or 0."""
        context, keys = self._context, self._context.keys
        shard = context.counts.shard()
        try:
            await context.counts.load(shard, [kind])
            compares, puts = shard.plan({kind: added})
            first = Compare(keys.counted, mod=mod)
            written = await context.kv.txn([Step([first, *compares], [*puts, Put(keys.counted, state.encode())])])
            if written.steps[0] is None:
                shard.refused()
                context.writer.counts_in_doubt = True
                return 0
            shard.written(written.revision)
            return written.revision
        finally:
            context.counts.give_back(shard)
