"""Final instances are removed when their retention ends, or when there are too many of their kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from peerjob.store.kv.format.base import Compare, Delete, Found, Range
from peerjob.store.kv.format.keys import LATEST_US, below, time_text
from peerjob.store.kv.format.thread_rows import is_held
from peerjob.store.kv.index.counts import FINAL_SLOTS, SLOT
from peerjob.store.kv.index.scan import Head, Scan
from peerjob.store.kv.kinds.kind_cleanup import UnusedKinds
from peerjob.store.kv.write.context import KVCommands, KVContext, retried
from peerjob.store.kv.write.transaction_plan import Change, TransactionPlan

_EMPTY_AHEAD_US = 3_600_000_000
"""The head of an empty expiry queue is moved at most this far into the future."""
_SEARCH_EVERY = 240.0
"""Most seconds between two searches for unused kinds. A search has several requests, so an idle node makes few."""
_SEARCHES = 4
"""Searches after something was removed: each one deletes what the last one has made unused."""
_FINAL_STATES = [int(state) for state, slot in SLOT.items() if slot in FINAL_SLOTS]


class RetentionCommands(KVCommands):
    """The verb `expire`, and how instances are removed."""

    def __init__(self, context: KVContext) -> None:
        super().__init__(context)
        self._unused_kinds = UnusedKinds(context)
        self._searches_left = 0
        """How many of the next calls of `expire` look for unused kinds."""
        self._search_at = 0.0
        """When `expire` next looks for unused kinds in any case, in elapsed time."""
        self._expiry_heads = below(f"{context.keys.root}head/expiry/")

    @retried
    async def expire(self, limit: int) -> int:
        (heads,) = await self._kv.read([self._expiry_heads])
        removed = await self._remove_expired(heads, limit)
        now = self._clock.elapsed()
        if removed:
            self._kinds_may_be_unused()
        if removed < limit and (self._searches_left or now >= self._search_at):
            await self._context.kind_sets.remove_unused()
            await self._unused_kinds.delete()
            self._searches_left, self._search_at = max(0, self._searches_left - 1), now + _SEARCH_EVERY
        return removed

    def _kinds_may_be_unused(self) -> None:
        """Look for unused kinds in the next calls of `expire`: instances or a node are gone."""
        self._searches_left = _SEARCHES

    def _surplus_reads(self, kinds: Sequence[str]) -> list[Range]:
        """What `_remove_surplus` has to know, if instances of these kinds have ended."""
        return [self._expiry_heads, *map(self._context.counts.of, kinds)] if kinds else []

    async def _remove_surplus(
        self, ended: Mapping[str, int], read: tuple[Sequence[str], Sequence[Found]] = ((), ())
    ) -> None:
        """Remove expired and surplus instances, at most twice as many as have just ended; `ended` counts by kind.

        `read` has the answers to `_surplus_reads` of some kinds, if the caller has read these.
        """
        if not ended:
            return
        context, keys, kinds = self._context, self._keys, list(ended)
        known, answers = read
        heads, *counters = answers if answers and known == kinds else await self._kv.read(self._surplus_reads(kinds))
        limit = 2 * sum(ended.values())
        removed = await self._remove_expired(heads, limit)
        if removed and removed < limit:
            # the removed instances count no more
            counters = await self._kv.read(list(map(context.counts.of, kinds)))
        for kind, answer in zip(kinds, counters, strict=True):
            values = context.counts.summed(answer).get(keys.kind(kind))
            if values is None:
                continue
            surplus = sum(values[slot] for slot in FINAL_SLOTS) - context.limits.max_final_per_kind
            if surplus > 0 and context.kv.durable:
                (held,) = await self._kv.read([below(keys.all_held(kind), 1, keys_only=True)])
                surplus -= held.count
            wanted = min(surplus, 2 * ended[kind], limit - removed)
            if wanted > 0:
                removed += await self._remove_oldest(kind, wanted)

    async def _remove_expired(self, answer: Found, limit: int) -> int:
        queues, now_us = self._context.queues, self._clock.time_us()
        until = time_text(now_us + 1)
        heads = [head for head in queues.heads(answer) if head.start < until]
        # in random order, so that nodes that remove instances at the same time begin with different queues
        self._clock.random.shuffle(heads)
        removed = 0
        for head in heads:
            if removed >= limit:
                break
            scan = queues.scan(head, now_us=now_us, until=until)
            await queues.first(scan, limit - removed)
            ids = [position[19:] for position in scan.positions[: limit - removed]]
            gone = await self._remove_final(ids)
            removed += len(gone)
            await self._move_expiry_head(scan, ids, gone)
        return removed

    async def _move_expiry_head(self, scan: Scan, ids: Sequence[str], gone: Sequence[str]) -> None:
        """Move the head of an expiry queue to the first entry that is left."""
        context, queues, head = self._context, self._context.queues, scan.head
        if len(gone) < len(ids):
            at = {position[19:]: position for position in scan.positions}
            await self._drop_stale([head.queue + at[id] for id in await self._without_record(ids, gone)])
            return
        if len(ids) < len(scan.positions):
            position = scan.positions[len(ids)]
        elif not scan.done:
            position = scan.at
        else:
            ahead = queues.scan(Head(head.queue, scan.at, head.mod), now_us=LATEST_US)
            await queues.first(ahead, 1)
            empty_us = self._clock.time_us() + min(context.limits.retention_us, _EMPTY_AHEAD_US)
            position = ahead.positions[0] if ahead.positions else time_text(empty_us) + "/"
        await queues.move_on([queues.advance(head, position)])

    async def _without_record(self, ids: Sequence[str], gone: Sequence[str]) -> list[str]:
        """The ids that were not removed and have no record."""
        left = [id for id in ids if id not in set(gone)]
        rows = await self._context.rows(left)
        return [id for id in left if id not in rows]

    async def _drop_stale(self, entries: Sequence[str]) -> None:
        """Delete queue entries of instances whose record was set aside."""
        await self._writer.plain([Delete(key) for key in entries])

    async def _remove_oldest(self, kind: str, limit: int) -> int:
        """Remove the final instances of a kind that were created first."""
        queues, now_us = self._context.queues, self._clock.time_us()
        indexes = [self._keys.by(kind, state) for state in _FINAL_STATES]
        entries = await self._kv.get([self._keys.head(index) for index in indexes])
        scans = [
            queues.scan(queues.head(index, entry), now_us=now_us)
            for index, entry in zip(indexes, entries, strict=True)
            if entry is not None
        ]
        while unfinished := [scan for scan in scans if not scan.done and len(scan.positions) < limit]:
            await queues.read(unfinished, limit)
        index_of = {id: scan.head.queue for scan in scans for id in scan.positions}
        oldest = sorted(index_of)[:limit]
        gone = set(await self._remove_final(oldest))
        if len(gone) < len(oldest):
            await self._drop_stale([index_of[id] + id for id in await self._without_record(oldest, list(gone))])
        else:
            await queues.move_on(
                queues.advance(scan.head, max((id for id in scan.positions if id in gone), default=""))
                for scan in scans
            )
        return len(gone)

    async def _remove_final(self, ids: Sequence[str]) -> list[str]:
        """Remove the instances that are final and whose body has ended; the answer is the removed ones."""
        rows, now_us = await self._context.rows(ids), self._clock.time_us()
        changes: list[Change] = []
        removable: list[str] = []
        for id, (revision, row) in rows.items():
            if not row.keeps and not is_held(row):
                plan = TransactionPlan(self._keys, now_us)
                plan.remove(id, row, 0, lease=await self._context.removal_lease(id, row, now_us))
                changes.append(plan.change([Compare(self._keys.state + id, mod=revision)]))
                removable.append(id)
        written = await self._writer.write(changes)
        return [id for id, _ in written.applied(removable)]
