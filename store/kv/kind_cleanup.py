"""Kinds that are gone: what stands under a kind leaves with its last instance and its last node."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from .base import MAX_STEPS, Compare, Delete, Op, Put, Range, Step
from .context import KVContext
from .counts import totals
from .keys import prefix_end
from .kind_groups import size_of
from .rows import encode, node_of

_MAX_KINDS = 500
"""Most kinds that one call forgets."""


class UnusedKinds:
    """Forgets kinds, some at a time."""

    def __init__(self, context: KVContext) -> None:
        self._context = context
        self._counter = ""
        self._grouped = ""
        """The keys with which the next call goes on."""

    async def forget(self) -> None:
        """Remove the heads, counters and groups of some kinds that no node has and of which there is no instance.

        Each step compares that what it removes is still unused; a kind that comes back begins anew.
        """
        context, keys = self._context, self._context.keys
        page, self._counter = await context.counts.page(self._counter or keys.count)
        next_groups = Range(self._grouped or keys.group, prefix_end(keys.group), _MAX_KINDS, keys_only=True)
        (grouped,) = await context.kv.read([next_groups])
        self._grouped = f"{grouped.items[-1][0]}!" if grouped.count > len(grouped.items) else ""
        counted = {part for part, values in totals(keys, page).items() if part and not any(values)}
        groups = {key[len(keys.group) :] for key, _ in grouped.items}
        if counted or groups:
            (rows,) = await context.kv.read([Range(keys.node, prefix_end(keys.node))])
            infos = await context.kind_sets.whole([node_of(entry.value) for _, entry in rows.items])
            served = {keys.kind(kind) for info in infos for kind in info.kinds}
            await self._forget_counted(sorted(counted - served)[:_MAX_KINDS])
            await self._forget_groups(sorted(groups - served))
        await self._forget_indexes()

    async def _forget_counted(self, parts: Sequence[str]) -> None:
        """Forget the queues of kinds, and the counters of those that are left with no queue."""
        context, keys = self._context, self._context.keys
        prefixes = [f"{keys.root}head/{what}/{part}/" for part in parts for what in ("by", "ready")]
        found = await context.kv.read([Range(prefix, prefix_end(prefix)) for prefix in prefixes])
        heads = [head for one in found for head in context.queues.heads(one)]
        await context.queues.move_on(context.queues.drop(head) for head in heads)
        counters = await context.kv.read([context.counts.of(keys.unescaped(part)) for part in parts])
        steps: list[Step] = []
        for part, lanes in zip(parts, counters, strict=True):
            values = totals(keys, lanes).get(part)
            if values is not None and not any(values):
                compares = [Compare(key, mod=entry.mod) for key, entry in lanes.items]
                compares += [
                    Compare(prefix, end=prefix_end(prefix))
                    for prefix in (f"{keys.root}head/{what}/{part}/" for what in ("by", "ready"))
                ]
                steps.append(Step(compares, [Delete(key) for key, _ in lanes.items]))
        for at in range(0, len(steps), MAX_STEPS):
            await context.kv.txn(steps[at : at + MAX_STEPS])

    async def _forget_groups(self, parts: Collection[str]) -> None:
        """Take kinds without a queue out of their groups."""
        context, keys = self._context, self._context.keys
        for part in parts:
            (entry,) = await context.kv.get([keys.group + part])
            if entry is None:
                continue
            marker = keys.groups + entry.value.decode(errors="replace")
            (mark,) = await context.kv.get([marker])
            left = size_of(mark) - 1
            heads = f"{keys.root}head/ready/{part}/"
            compares = [
                Compare(keys.group + part, mod=entry.mod),
                Compare(marker, mod=0 if mark is None else mark.mod),
                Compare(heads, end=prefix_end(heads)),
            ]
            ops: list[Op] = [Delete(keys.group + part), Put(marker, encode(left)) if left > 0 else Delete(marker)]
            await context.kv.txn([Step(compares, ops)])

    async def _forget_indexes(self) -> None:
        """Forget the empty indexes of groups that are gone."""
        context, keys = self._context, self._context.keys
        prefix = f"{keys.root}head/order/"
        (found,) = await context.kv.read([Range(prefix, prefix_end(prefix), _MAX_KINDS)])
        heads = context.queues.heads(found)
        if not heads:
            return
        marks = [keys.groups + head.queue[len(keys.root) :].split("/")[1] for head in heads]
        present = await context.kv.get(marks)
        gone = [head for head, mark in zip(heads, present, strict=True) if mark is None]
        await context.queues.move_on(context.queues.drop(head) for head in gone)
