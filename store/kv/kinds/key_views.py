"""What readers see of limit keys."""

from __future__ import annotations

from collections.abc import Sequence

from peerjob.model.stored_limit import KeyLimitView, LimitKey
from peerjob.store.kv.format.base import Range
from peerjob.store.kv.format.keys import below, escaped, timed
from peerjob.store.kv.format.limit_rows import gate_of, limit_key_of
from peerjob.store.kv.format.rows import SLOTS
from peerjob.store.kv.index.counts import SCHEDULED
from peerjob.store.kv.write.context import KVContext
from peerjob.store.kv.write.transaction_plan import slot_of

_PAGE = 2_000
_AFTER = "\x7f"
"""Sorts after each character of a key."""


class KeyViews:
    """Reads views of the limit keys of one kind."""

    def __init__(self, context: KVContext, kind: str) -> None:
        self._context = context
        self._kind = kind

    async def keys(self, prefix: str, cursor: str | None, limit: int, *, waiting_only: bool) -> tuple[list[str], bool]:
        """The next limit keys, and whether there may be more."""
        keys, kind = self._context.keys, self._context.keys.kind(self._kind)
        prefixes = [keys.head(keys.waits) + "/", *(() if waiting_only else (keys.all_permits,))]
        names: set[str] = set()
        last, more = _AFTER, False
        start = max(escaped(prefix), "" if cursor is None else f"{escaped(cursor)}0")
        ranges = [
            Range(f"{before}{kind}/{start}", f"{before}{kind}/{escaped(prefix)}{_AFTER}", _PAGE, True)
            for before in prefixes
        ]
        for before, page in zip(prefixes, await self._context.kv.read(ranges), strict=True):
            cut = len(before) + len(kind) + 1
            read = [key[cut:].split("/", 1)[0] for key, _ in page.items]
            names.update(read)
            if page.more:
                last, more = min(last, f"{read[-1]}/"), True
        complete = sorted((name for name in names if f"{name}/" <= last), key=lambda name: f"{name}/")
        return [keys.unescaped(name) for name in complete[:limit]], more or len(complete) > limit

    async def read(self, names: Sequence[str]) -> list[KeyLimitView]:
        """The views of limit keys. One that has no instance left has none."""
        if not names:
            return []
        context, gates = self._context, [(self._kind, name) for name in names]
        states = await context.gates.read(gates, await context.limit_rules.current())
        waits = await context.kv.read([below(context.keys.waiting(gate), 1, keys_only=True) for gate in gates])
        return [
            KeyLimitView(
                key=gate[1],
                concurrency=states[gate].concurrency or None,
                admitted=len(states[gate].permits),
                waiting=waiting.count,
            )
            for gate, waiting in zip(gates, waits, strict=True)
            if states[gate].permits or waiting.count
        ]

    async def without_key(self) -> list[KeyLimitView]:
        """The view of the unfinished instances without a limit key, if there are some."""
        context, keys, kind = self._context, self._context.keys, self._context.keys.kind(self._kind)
        prefixes = [f"{keys.waits}{kind}/", keys.later_of(self._kind), f"{keys.all_permits}{kind}/"]
        counters, owned, slots, *keyed, permits = await context.kv.read(
            [
                context.counts.of(self._kind),
                below(keys.own),
                below(keys.slots),
                *(below(prefix, 1 if prefix != prefixes[-1] else 0, keys_only=True) for prefix in prefixes),
            ]
        )
        claims = await context.claim_index.claims(owned.items)
        unfinished = context.counts.summed(counters).get(kind, [0] * SLOTS)[SCHEDULED]
        unfinished += sum(claim.kind == self._kind for claim in claims.values())
        parked = (parked for _, entry in slots.items for parked in slot_of(entry).parked)
        unfinished -= sum(of_kind.kind == self._kind and of_kind.gate is not None for of_kind in parked)
        unfinished -= sum(answer.count for answer in keyed)
        unfinished -= sum(not key.endswith("/c") for key, _ in permits.items)
        return [KeyLimitView(key="", admitted=unfinished)] if unfinished > 0 else []


async def limit_keys(context: KVContext, ids: Sequence[str]) -> list[LimitKey | None]:
    """The limit keys of unfinished instances."""
    rows = {id: row for id, (_, row) in (await context.rows(ids)).items() if row.keeps}
    gates = {id: gate for id, row in rows.items() if (gate := gate_of(row)) is not None}
    entries = [context.keys.waiting(gate, rows[id].priority) + timed(rows[id].due_us, id) for id, gate in gates.items()]
    waits = dict(zip(gates, await context.kv.get(entries), strict=True)) if entries else {}
    keys = {id: limit_key_of(row) for id, row in rows.items()}
    return [
        None if key is None else LimitKey(key=key[0], concurrency=key[1], waiting=waits.get(id) is not None)
        for id, key in ((id, keys.get(id)) for id in ids)
    ]
