"""Frees the permits that no instance holds, and opens the gates of limit keys that have a free one."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from peerjob.model.errors import DecodeError
from peerjob.model.state import State
from peerjob.store.kv.format.base import Compare, Delete, Entry, Range, Transaction, apply_all
from peerjob.store.kv.format.keys import prefix_end, timed
from peerjob.store.kv.format.limit_rows import KeyPermit, decode_key_permit, gate_of, permits_of
from peerjob.store.kv.format.rows import Row
from peerjob.store.kv.write.context import KVContext
from peerjob.store.kv.write.hints import Wakeups

_PAGE = 500
logger = logging.getLogger("peerjob.store")


class PermitChecks:
    """Checks permits and waiting instances, a page at a time."""

    def __init__(self, context: KVContext) -> None:
        self._context = context
        self._keys = context.keys

    async def page(self, cursor: str | None) -> tuple[int, str | None]:
        """Check the next permits, then the next limit keys at which instances wait; see `check_limits`."""
        keys = self._keys
        waits = keys.head(keys.waits) + "/"
        start = keys.root + cursor if cursor else keys.all_permits
        is_permit = start.startswith(keys.all_permits)
        end = prefix_end(keys.all_permits if is_permit else waits)
        (page,) = await self._context.kv.read([Range(start, end, _PAGE)])
        freed = await self._free([item for item in page.items if not self._is_number(item[0])]) if is_permit else 0
        prefix = keys.all_permits if is_permit else waits
        of_keys = [key for key, _ in page.items if not key.startswith(keys.shared_permits)]
        await self._context.settle({keys.gate_of(key, prefix): set() for key in of_keys})
        if page.more:
            return freed, page.next_key[len(keys.root) :]
        return freed, waits[len(keys.root) :] if is_permit else None

    async def _free(self, items: Sequence[tuple[str, Entry]]) -> int:
        """Free the permits that no instance holds; returns how many."""
        context, keys = self._context, self._keys
        holders = {key: self._holder(key, entry) for key, entry in items}
        rows = await context.rows([id for id, _ in holders.values()])
        queued = {
            key: keys.ready(rows[id][1].kind, permit.priority, suspect=permit.suspect) + timed(permit.queued_us, id)
            for key, (id, permit) in holders.items()
            if permit is not None and id in rows and rows[id][1].state is State.SCHEDULED
        }
        present = dict(zip(queued, await context.kv.get(list(queued.values())), strict=True)) if queued else {}
        strays: list[str] = []
        transactions: list[Transaction] = []
        for key, entry in items:
            id, permit = holders[key]
            revision, row = rows.get(id, (0, None))
            if row is not None and self._holds(key, permit, row) and (row.claimed or present.get(key) is not None):
                continue
            compares = [Compare(key, mod=entry.mod)]
            if row is not None:
                compares.append(Compare(keys.state + id, mod=revision))
            strays.append(key)
            transactions.append(Transaction(compares, [Delete(key)]))
        answers = await apply_all(context.kv, transactions)
        freed = [key for key, answer in zip(strays, answers, strict=True) if answer is not None]
        for key in freed:
            logger.error("%s: no instance holds this permit of a limit; it is free from now on", key)
        names = {keys.unescaped(key[len(keys.shared_permits) :].split("/")[0]) for key in freed if self._is_shared(key)}
        if names:
            await context.hints.wake(Wakeups(full=sorted(names)))
        return len(freed)

    def _is_number(self, key: str) -> bool:
        """Whether a key stores the concurrency of a limit key."""
        return key.endswith("/c") and not self._is_shared(key)

    def _is_shared(self, key: str) -> bool:
        return key.startswith(self._keys.shared_permits)

    def _holder(self, key: str, entry: Entry) -> tuple[str, KeyPermit | None]:
        """The id in a permit; of a limit key, also the permit. "" if it cannot be read."""
        if self._is_shared(key):
            return entry.value.decode(errors="replace"), None
        try:
            permit = decode_key_permit(entry.value)
        except DecodeError:
            return "", None
        return permit.id, permit

    def _holds(self, key: str, permit: KeyPermit | None, row: Row) -> bool:
        """Whether the record of an instance fits to its permit."""
        if permit is not None:
            return gate_of(row) == self._keys.gate_of(key, self._keys.all_permits)
        name, _, number = key[len(self._keys.shared_permits) :].partition("/")
        return (self._keys.unescaped(name), int(number)) in permits_of(row)
