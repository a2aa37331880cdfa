"""Final instances leave when their time is over, or when there are too many of their kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .base import Delete, Found, Range
from .context import KVContext
from .counts import FINAL_SLOTS, SLOT, totals
from .keys import LATEST_US, prefix_end, time_text
from .kind_cleanup import UnusedKinds
from .queues import Head, Scan
from .removal import removal
from .rows import start_of
from .writer import Change

_CALM_US = 3_600_000_000
"""How far ahead an empty queue may begin."""
_FINAL_STATES = [int(state) for state, slot in SLOT.items() if slot in FINAL_SLOTS]


class RetentionCommands:
    """Removes what need not be kept."""

    def __init__(self, context: KVContext) -> None:
        self._context = context
        self._unused = UnusedKinds(context)
        self._prefix = f"{context.keys.root}head/expiry/"

    async def tidy(self, ended: Mapping[str, int]) -> None:
        """Remove up to twice as many instances as have ended."""
        if not ended:
            return
        context, keys = self._context, self._context.keys
        kinds = list(ended)
        heads, *counters = await context.kv.read(
            [Range(self._prefix, prefix_end(self._prefix)), *map(context.counts.of, kinds)]
        )
        most = 2 * sum(ended.values())
        removed = await self._expired(heads, most)
        for kind, found in zip(kinds, counters, strict=True):
            values = totals(keys, found).get(keys.kind(kind))
            if values is None:
                continue
            surplus = sum(values[slot] for slot in FINAL_SLOTS) - context.limits.max_final_per_kind
            wanted = min(surplus, 2 * ended[kind], most - removed)
            if wanted > 0:
                removed += await self._oldest(kind, wanted)

    async def expire(self, limit: int) -> int:
        """Remove up to `limit` instances whose time is over."""
        (heads,) = await self._context.kv.read([Range(self._prefix, prefix_end(self._prefix))])
        removed = await self._expired(heads, limit)
        if removed < limit:
            await self._context.kind_sets.remove_unused()
            await self._unused.forget()
        return removed

    async def _expired(self, found: Found, limit: int) -> int:
        queues, now_us = self._context.queues, self._context.clock.time_us()
        until = time_text(now_us + 1)
        heads = [head for head in queues.heads(found) if head.start < until]
        # nodes that tidy at the same time begin at different queues
        self._context.clock.random.shuffle(heads)
        removed = 0
        for head in heads:
            if removed >= limit:
                break
            scan = queues.scan(head, now_us=now_us, until=until)
            await queues.first(scan, limit - removed)
            ids = [place[19:] for place in scan.places[: limit - removed]]
            gone = await self.remove(ids)
            removed += len(gone)
            await self._move_on(scan, ids, gone)
        return removed

    async def _move_on(self, scan: Scan, ids: Sequence[str], gone: Sequence[str]) -> None:
        """Let a queue begin where something is left."""
        context, queues, head = self._context, self._context.queues, scan.head
        if len(gone) < len(ids):
            at = {place[19:]: place for place in scan.places}
            await self._drop_stale([head.queue + at[id] for id in await self._missing(ids, gone)])
            return
        if len(ids) < len(scan.places):
            place = scan.places[len(ids)]
        elif not scan.done:
            place = scan.at
        else:
            ahead = queues.scan(Head(head.queue, scan.at, head.mod), now_us=LATEST_US)
            await queues.first(ahead, 1)
            calm_us = context.clock.time_us() + min(context.limits.retention_us, _CALM_US)
            place = ahead.places[0] if ahead.places else time_text(calm_us) + "/"
        await queues.move_on([queues.advance(head, place)])

    async def _missing(self, ids: Sequence[str], gone: Sequence[str]) -> list[str]:
        """Which of the ids that were not removed have no record."""
        left = [id for id in ids if id not in set(gone)]
        rows = await self._context.rows(left)
        return [id for id in left if id not in rows]

    async def _drop_stale(self, entries: Sequence[str]) -> None:
        """Remove entries of instances whose record was set aside."""
        await self._context.writer.plain([Delete(key) for key in entries])

    async def _oldest(self, kind: str, limit: int) -> int:
        """Remove the final instances of a kind that were created first."""
        context, queues = self._context, self._context.queues
        indexes = [context.keys.by(kind, state) for state in _FINAL_STATES]
        entries = await context.kv.get([context.keys.head(index) for index in indexes])
        now_us = context.clock.time_us()
        scans = [
            queues.scan(Head(index, start_of(entry.value), entry.mod), now_us=now_us)
            for index, entry in zip(indexes, entries, strict=True)
            if entry is not None
        ]
        while going := [scan for scan in scans if not scan.done and len(scan.places) < limit]:
            await queues.read(going, limit)
        index_of = {id: scan.head.queue for scan in scans for id in scan.places}
        oldest = sorted(index_of)[:limit]
        gone = set(await self.remove(oldest))
        if len(gone) < len(oldest):
            await self._drop_stale([index_of[id] + id for id in await self._missing(oldest, list(gone))])
        else:
            await queues.move_on(
                queues.advance(scan.head, max((id for id in scan.places if id in gone), default="")) for scan in scans
            )
        return len(gone)

    async def remove(self, ids: Sequence[str]) -> list[str]:
        """Remove these if they are final and nobody runs them any more; the answer has those that were removed."""
        context = self._context
        rows, now_us = await context.rows(ids), context.clock.time_us()
        changes: list[Change] = []
        removable: list[str] = []
        for id, (revision, row) in rows.items():
            if not row.keeps:
                lease = await context.removal_lease(row, now_us)
                changes.append(removal(context, id, revision, row, lease=lease))
                removable.append(id)
        written = await context.writer.write(changes, now_us=now_us)
        return [id for id, revision in zip(removable, written.revisions, strict=True) if revision]
