"""Compares the counters with the indexes now and then.

A request writes its counters together with its changes, unless it had a conflict: then the counters follow in a second
request. If the server or the process fails in between, they are lost. So a read of the counters compares them with the
indexes once an hour, after an answer that never arrived, and after the end of a node that died. It compares twice, each
time as of one moment, and writes a difference that both show: another one can be of a request whose counters follow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from peerjob.model.state import State
from peerjob.store.kv.format.base import Compare, Put, Transaction, mod_of
from peerjob.store.kv.format.keys import below
from peerjob.store.kv.format.rows import SLOTS, number_of
from peerjob.store.kv.index.counts import DELAYED, PROCESSING, READY, SCHEDULED, SET_ASIDE, SLOT, kind_of
from peerjob.store.kv.write.context import KVContext
from peerjob.store.kv.write.transaction_plan import slot_of

_STATES = [state for state in SLOT if state is not State.PROCESSING]
_FINAL = [state for state in _STATES if state.is_final]
_FURTHER = 1 + len(_FINAL)
_PERIOD_US = 3_600_000_000
_BATCH = 12
"""Most kinds that one request compares: the counters and indexes of a kind must be read as of one moment."""
_DURABLE_BATCH = 8
"""The same in a namespace with durable bodies, whose kinds have more indexes."""
_MAX_COUNTED = 10 * _BATCH
"""Most kinds that one call of `if_due` compares; the next call continues with further kinds."""


class Recount:
    """Corrects wrong counters."""

    def __init__(self, context: KVContext) -> None:
        self._context = context

    async def if_due(self) -> None:
        """Compare some kinds, unless all were compared within the hour and no counter is in doubt.

        The key `counted` has the time at which a round began and, during the round, the next kind.
        """
        context = self._context
        key, now_us = context.keys.counted, context.clock.time_us()
        (entry,) = await context.kv.get([key])
        began, _, start = ("0", "", "") if entry is None else entry.value.decode(errors="replace").partition(" ")
        if not 0 <= now_us - number_of(began.encode()) < _PERIOD_US or (context.counts.in_doubt and not start):
            context.counts.in_doubt = False
            began, start = str(now_us), context.keys.count
        elif not start:
            return
        # if two stores begin a round together, the second store has a conflict and leaves the round to the first store
        put = Put(key, f"{began} {start}".encode())
        applied = await context.kv.txn([Transaction([Compare(key, mod=mod_of(entry))], [put])])
        if applied.answers[0] is None:
            return
        await self._round(applied.revision, began, start)

    async def _round(self, mod: int, began: str, start: str) -> None:
        """Compare the counters of some kinds with the indexes, beginning with the counter at the key `start`."""
        context, keys = self._context, self._context.keys
        parts = dict.fromkeys([""] if start == keys.count else [])
        while start and len(parts) <= _MAX_COUNTED:
            page, start = await context.counts.page(start)
            await context.counts.mend(page)
            parts |= dict.fromkeys(kind_of(keys, key) for key, _ in page.items)
        kinds = list(parts)
        if len(kinds) > _MAX_COUNTED:
            kinds, start = kinds[:_MAX_COUNTED], f"{keys.count}{kinds[_MAX_COUNTED]}/"
        batch = _DURABLE_BATCH if context.kv.durable else _BATCH
        for at in range(0, len(kinds), batch):
            for part, added in (await self._lasting_differences(kinds[at : at + batch])).items():
                mod = await self._correct(keys.unescaped(part), added, mod, f"{began} {start}")
                if not mod:
                    return
        await context.kv.txn(
            [Transaction([Compare(keys.counted, mod=mod)], [Put(keys.counted, f"{began} {start}".encode())])]
        )

    async def _lasting_differences(self, parts: Sequence[str]) -> dict[str, list[int]]:
        """The differences that a second read shows, too. With others, the next read of the counters compares again."""
        shown = await self._differences(parts)
        again = await self._differences(list(shown)) if shown else {}
        self._context.counts.in_doubt |= shown != again
        return {part: added for part, added in shown.items() if added == again.get(part)}

    async def _differences(self, parts: Sequence[str]) -> dict[str, list[int]]:
        """The differences between indexes and counters that are not zero, by escaped kind."""
        context, keys = self._context, self._context.keys
        kinds = [keys.unescaped(part) for part in parts]
        counters = [context.counts.of(kind) for kind in kinds]
        indexes = [
            index for kind in kinds for index in (*(keys.by(kind, state) for state in _STATES), keys.ready_of(kind))
        ]
        answers = await context.kv.read(
            [
                *counters,
                *(below(prefix, 1, keys_only=True) for prefix in (*indexes, keys.set_aside)),
                *(below(f"{keys.waits}{part}/", 1, keys_only=True) for part in parts),
                below(keys.own),
                below(keys.slots),
                *(below(prefix, 1, keys_only=True) for kind in kinds for prefix in self._further(kind)),
            ]
        )
        owned, slots = answers[(at := len(kinds) + len(indexes) + 1 + len(parts)) : at + 2]
        further = {kind: answers[at + 2 + n * _FURTHER :][:_FURTHER] for n, kind in enumerate(kinds)}
        claims = await context.claim_index.claims(owned.items)
        running = Counter(claim.kind for claim in claims.values() if not claim.releasing)
        parked = Counter(parked.kind for _, entry in slots.items for parked in slot_of(entry).parked)
        differences: dict[str, list[int]] = {}
        for number, (part, kind) in enumerate(zip(parts, kinds, strict=True)):
            counted = context.counts.summed(answers[number]).get(part, [0] * SLOTS)
            first = len(kinds) + number * (len(_STATES) + 1)
            held = [index.count for index in answers[first : first + len(_STATES) + 1]]
            actual = [0] * SLOTS
            for state, count in zip(_STATES, held, strict=False):
                actual[SLOT[state]] = count
            outside, *held_finals = [index.count for index in further[kind]] or [0]
            for state, count in zip(_FINAL, held_finals, strict=False):
                actual[SLOT[state]] += count
            actual[PROCESSING], actual[READY] = running[kind], held[-1]
            waiting = answers[len(kinds) + len(indexes) + 1 + number].count
            actual[DELAYED] = max(0, actual[SCHEDULED] - held[-1] - parked[kind] - waiting - outside)
            actual[SET_ASIDE] = answers[len(kinds) + len(indexes)].count if kind == "" else 0
            if actual != counted:
                differences[part] = [after - before for before, after in zip(counted, actual, strict=True)]
        return differences

    def _further(self, kind: str) -> list[str]:
        """The indexes of a kind that only a namespace with durable bodies has: outside of queues, held children."""
        keys = self._context.keys
        return [keys.outside(kind), *(keys.held(kind, state) for state in _FINAL)] if self._context.kv.durable else []

    async def _correct(self, kind: str, added: list[int], mod: int, state: str) -> int:
        """Write the difference for one kind; the answer is the new revision of the key `counted`, or 0."""
        context, keys = self._context, self._context.keys
        shard = context.counts.take_shard()
        try:
            await context.counts.load(shard, [kind])
            compares, puts = shard.add({kind: added})
            first = Compare(keys.counted, mod=mod)
            written = await context.kv.txn(
                [Transaction([first, *compares], [*puts, Put(keys.counted, state.encode())])]
            )
            if written.answers[0] is None:
                shard.refused()
                context.counts.in_doubt = True
                return 0
            shard.written(written.revision)
            return written.revision
        finally:
            context.counts.give_back(shard)
