"""Deletes what is stored about a kind after its last instance and its last node are gone."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from peerjob.store.kv.format.base import Compare, Delete, Op, Put, Range, Transaction, apply_all, mod_of
from peerjob.store.kv.format.keys import below, prefix_end
from peerjob.store.kv.format.rows import UNREADABLE_NODE, encode, group_of, node_of
from peerjob.store.kv.write.context import KVContext

from .kind_groups import size_of

_MAX_KINDS = 500
"""Most kinds that one call of `delete` checks or deletes; the next call continues with further kinds."""


class UnusedKinds:
    """Deletes unused kinds, some at a time."""

    def __init__(self, context: KVContext) -> None:
        self._context = context
        self._counter = ""
        self._grouped = ""
        """The next call continues with the counter at the key `_counter` and the group at the
        key `_grouped`; "" means the first."""

    async def delete(self) -> None:
        """Delete heads, counters and groups of some kinds that no node has and that have no instances.

        Each transaction compares that the deleted keys are still unused. A kind that is used later begins as a new one.
        """
        context, keys = self._context, self._context.keys
        page, self._counter = await context.counts.page(self._counter or keys.count)
        next_groups = Range(self._grouped or keys.group, prefix_end(keys.group), _MAX_KINDS, keys_only=True)
        (grouped,) = await context.kv.read([next_groups])
        self._grouped = grouped.next_key if grouped.more else ""
        counted = {part for part, values in context.counts.summed(page).items() if part and not any(values)}
        groups = {key[len(keys.group) :] for key, _ in grouped.items}
        if counted or groups:
            (answer,) = await context.kv.read([below(keys.node)])
            rows = [node_of(entry.value) for _, entry in answer.items]
            if UNREADABLE_NODE in rows:
                return  # the kinds of that node are unknown until it writes its record anew
            infos = await context.kind_sets.whole(rows)
            served = {keys.kind(kind) for info in infos for kind in info.kinds}
            await self._delete_counters(sorted(counted - served)[:_MAX_KINDS])
            await self._delete_from_groups(sorted(groups - served))
        await self._delete_indexes()

    async def _delete_counters(self, parts: Sequence[str]) -> None:
        """Delete the empty queues of kinds, and the counters of kinds without a queue."""
        context, keys = self._context, self._context.keys
        prefixes = [f"{keys.root}head/{what}/{part}/" for part in parts for what in ("by", "ready")]
        heads = [
            head
            for answer in await context.kv.read(list(map(below, prefixes)))
            for head in context.queues.heads(answer)
        ]
        await context.queues.move_on(context.queues.drop(head) for head in heads)
        counters = await context.kv.read([context.counts.of(keys.unescaped(part)) for part in parts])
        transactions: list[Transaction] = []
        for part, shards in zip(parts, counters, strict=True):
            values = context.counts.summed(shards).get(part)
            if values is not None and not any(values):
                compares = [Compare(key, mod=entry.mod) for key, entry in shards.items]
                compares += [
                    Compare(prefix, end=prefix_end(prefix))
                    for prefix in (f"{keys.root}head/{what}/{part}/" for what in ("by", "ready"))
                ]
                transactions.append(Transaction(compares, [Delete(key) for key, _ in shards.items]))
        await apply_all(context.kv, transactions)

    async def _delete_from_groups(self, parts: Collection[str]) -> None:
        """Remove kinds without a queue from their groups."""
        context, keys = self._context, self._context.keys
        for part in parts:
            (entry,) = await context.kv.get([keys.group + part])
            if entry is None:
                continue
            marker = keys.groups + group_of(entry.value)
            (mark,) = await context.kv.get([marker])
            left = size_of(mark) - 1
            heads = f"{keys.root}head/ready/{part}/"
            compares = [
                Compare(keys.group + part, mod=entry.mod),
                Compare(marker, mod=mod_of(mark)),
                Compare(heads, end=prefix_end(heads)),
            ]
            ops: list[Op] = [Delete(keys.group + part), Put(marker, encode(left)) if left > 0 else Delete(marker)]
            await context.kv.txn([Transaction(compares, ops)])

    async def _delete_indexes(self) -> None:
        """Delete the empty indexes of groups that do not exist."""
        context, keys = self._context, self._context.keys
        (answer,) = await context.kv.read([below(f"{keys.root}head/order/", _MAX_KINDS)])
        heads = context.queues.heads(answer)
        if not heads:
            return
        marks = [keys.groups + head.queue[len(keys.root) :].split("/")[1] for head in heads]
        present = await context.kv.get(marks)
        gone = [head for head, mark in zip(heads, present, strict=True) if mark is None]
        await context.queues.move_on(context.queues.drop(head) for head in gone)
