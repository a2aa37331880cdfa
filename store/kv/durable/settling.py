"""What follows the end of an instance: others that need it go on or are cancelled, and its children are let go.

Each end writes a key below `settle/` in its own transaction. The settling deletes this key last, so any node can repeat
the settling after any step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from peerjob.model.durable import MAX_SETTLED
from peerjob.model.errors import StoreUnavailableError
from peerjob.model.record import check_batch
from peerjob.store.kv.format.base import Compare, Delete, Entry, Op, Put, Range
from peerjob.store.kv.format.keys import below, prefix_end
from peerjob.store.kv.format.rows import Row, encode
from peerjob.store.kv.format.thread_rows import is_held, wait_of, without_hold
from peerjob.store.kv.queue.cancel import cancel_instances
from peerjob.store.kv.write.context import KVCommands, KVContext, retried
from peerjob.store.kv.write.transaction_plan import Change, TransactionPlan
from peerjob.store.kv.write.writer import ROUNDS
from peerjob.store.rules import PARENT_ENDED

from .ended_needs import SETTLING, EndedNeeds, parts_of_key

_PART = 40
"""Most children that one step lets go."""


class Settler:
    """Settles ends."""

    def __init__(self, context: KVContext) -> None:
        self._context = context
        self.needs = EndedNeeds(context)

    async def follow_ends(self, written: Sequence[str], caller: str) -> None:
        """Settle the ends that a command has caused; if more is left, tell an incarnation."""
        if await self.settle(written, MAX_SETTLED):
            context, keys = self._context, self._context.keys
            if not caller:
                (live,) = await context.kv.read([below(keys.live, 1, keys_only=True)])
                caller = live.items[0][0][len(keys.live) :] if live.items else ""
            if caller:
                lease = await context.writer.short_lease()
                await context.writer.plain([Put(keys.hint(caller) + "settle/", b"", lease)])

    async def settle(self, written: Iterable[str], limit: int) -> bool:
        """Settle the ends that some keys name, and the ends that follow; whether the limit left some."""
        todo, left = deque(dict.fromkeys(written)), limit
        while todo and left > 0:
            what = self._what(todo[0])
            part: list[str] = []
            while todo and len(part) < min(MAX_SETTLED, left) and self._what(todo[0]) == what:
                part.append(todo.popleft())
            if what == "e":
                left -= await self.needs.follow(part, left, todo)
                continue
            entries = zip(part, await self._context.kv.get(part), strict=True)
            ends = {key: entry for key, entry in entries if entry is not None}
            if what == "f" and ends:
                left -= await self.needs.follow_failed(ends, todo)
            elif what == "k":
                for key, entry in ends.items():
                    left -= await self._let_go(key, entry, left, todo)
        return bool(todo)

    def _what(self, key: str) -> str:
        """What a key below `settle/` is about: the needs of others (e), its children (k), a need that failed (f)."""
        return parts_of_key(self._context.keys, key)[1][:1]

    async def _let_go(self, key: str, entry: Entry, limit: int, todo: deque[str]) -> int:
        """Let go some children of a final instance; returns how many."""
        context, keys = self._context, self._context.keys
        prefix = keys.children(parts_of_key(keys, key)[0])
        after = entry.value.decode(errors="replace")
        start = f"{prefix}{after}!" if after else prefix
        wanted = max(1, min(limit, _PART))
        (page,) = await context.kv.read([Range(start, prefix_end(prefix), wanted, True)])
        ids = [name[len(prefix) :] for name, _ in page.items]
        await self._end_children(ids, todo)
        op: Op = Put(key, ids[-1].encode()) if page.more else Delete(key)
        # of two nodes that settle the same end, only the first moves on
        await context.writer.write([Change([Compare(key, mod=entry.mod)], [op])])
        if page.more:
            todo.append(key)
        return max(1, len(ids))

    async def _end_children(self, ids: Sequence[str], todo: deque[str]) -> None:
        """Cancel children that are not final, and let the retention of the others begin."""
        context, settles = self._context, list[str]()

        def choose(_: str, row: Row) -> tuple[Row, str] | None:
            return (without_hold(row), PARENT_ENDED) if is_held(row) else None

        await cancel_instances(context, ids, choose, request=SETTLING, settles=settles)
        todo.extend(settles)
        pending = list(ids)
        for _ in range(ROUNDS):
            rows, now_us = await context.rows(pending), context.clock.time_us()
            held = {id: (revision, row) for id, (revision, row) in rows.items() if row.final and is_held(row)}
            if not held:
                return
            changes: list[Change] = []
            for id, (revision, row) in held.items():
                plan = TransactionPlan(context.keys, now_us)
                after = replace(without_hold(row), expires_us=context.expires_us(row, now_us))
                plan.let_go(id, after)
                plan.ops.append(Put(context.keys.state + id, encode(after)))
                changes.append(plan.change([Compare(context.keys.state + id, mod=revision)]))
            written = await context.writer.write(changes)
            context.uncache(held)
            pending = [id for id, revision in zip(held, written.revisions, strict=True) if not revision]
            if not pending:
                return
        raise StoreUnavailableError(context.url, "too many writers at once")


class SettlingCommands(KVCommands):
    """The verbs `settle` and `open_needs`."""

    def __init__(self, context: KVContext) -> None:
        super().__init__(context)
        self._settler = Settler(context)
        context.hints.follow_ends = self._settler.follow_ends

    @retried
    async def settle(self, limit: int = MAX_SETTLED) -> bool:
        settling = below(self._keys.settling, limit, keys_only=True)
        (answer,) = await self._kv.read([settling])
        more = await self._settler.settle([key for key, _ in answer.items], limit)
        return more or answer.more

    @retried
    async def open_needs(self, ids: Sequence[str]) -> list[int]:
        check_batch(len(ids))
        keys, rows = self._keys, await self._context.rows(ids)
        prefixes: dict[str, str] = {}
        for id, (_, row) in rows.items():
            thread = wait_of(row)
            if thread is not None and thread.needs:
                prefixes[id] = keys.needs(id, row.fence)
        answers = await self._kv.read([below(prefix, 1, keys_only=True) for prefix in prefixes.values()])
        counts = {id: answer.count for id, answer in zip(prefixes, answers, strict=True)}
        return [counts.get(id, 0) for id in ids]
