"""The verb `check_needs`: mends waits that damage lets last for ever.

One transaction writes the marker of a need and its edge. Another one writes the end of the child, and its key below
`settle/`. The settling removes the marker first, and that key last. So a marker without an edge is damage, and so is a
marker of a child that is over without a key. What shows an end is read before what the end brings.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec

from peerjob.store.kv.format.base import Compare, Entry, Op, Put, Range, Transaction, apply_all, mod_of
from peerjob.store.kv.format.keys import below, prefix_end
from peerjob.store.kv.format.rows import Row, encode
from peerjob.store.kv.format.thread_rows import StoredEdge, wait_of
from peerjob.store.kv.write.context import KVCommands, KVContext, retried

from .settling import Settler

_PAGE = 500
_SETTLED = 100
"""Most ends that a page settles; the rest is settled as after any call."""
logger = logging.getLogger("peerjob.store")


class _Marker(msgspec.Struct, frozen=True):
    """A need of the present wait of an instance."""

    compare: Compare
    dependant: str
    fence: int
    child: str


class NeedCheckCommands(KVCommands):
    """The verb `check_needs`."""

    def __init__(self, context: KVContext) -> None:
        super().__init__(context)
        self._settler = Settler(context)

    @retried
    async def check_needs(self, cursor: str | None = None) -> tuple[int, str | None]:
        if not await self._context.kv.is_durable():
            return 0, None
        keys = self._keys
        start = keys.root + cursor if cursor else keys.every_need
        is_need = start.startswith(keys.every_need)
        end = prefix_end(keys.every_need if is_need else keys.all_outside)
        (page,) = await self._kv.read([Range(start, end, _PAGE)])
        mended = await (self._check_markers if is_need else self._check_waits)(page.items)
        if page.more:
            return mended, page.next_key[len(keys.root) :]
        return mended, keys.all_outside[len(keys.root) :] if is_need else None

    async def _check_markers(self, items: Sequence[tuple[str, Entry]]) -> int:
        """Write edges and ends anew that the markers of a page lack; returns for how many."""
        context, keys = self._context, self._keys
        markers = await self._of_waits(items)
        if not markers:
            return 0
        states = await self._kv.get([keys.state + marker.child for marker in markers])
        edges = await self._kv.get([keys.edges(marker.child) + marker.dependant for marker in markers])
        failed = await self._kv.get([keys.failed(marker.dependant, marker.fence, marker.child) for marker in markers])
        ends = await self._kv.get([keys.settle(marker.child, "e") for marker in markers])
        transactions: list[Transaction] = []
        settles = set[str]()
        for marker, edge, fails, end, state in zip(markers, edges, failed, ends, states, strict=True):
            row = None if state is None else await context.row_of(marker.child, state)
            ops: list[Op] = []
            if edge is None and fails is None:
                # an instance that has not run needs siblings, and may not run after one that failed
                stored = StoredEdge(marker.fence, must_complete=not marker.fence)
                ops.append(Put(keys.edges(marker.child) + marker.dependant, encode(stored)))
            settle = keys.settle(marker.child, "e")
            if fails is None and end is None and (row is None or not row.keeps) and settle not in settles:
                settles.add(settle)
                ops.append(Put(settle, _state_text(row)))
            if ops:
                of_child = Compare(keys.state + marker.child, mod=mod_of(state))
                transactions.append(Transaction([marker.compare, of_child], ops))
        answers = await apply_all(self._kv, transactions)
        done = [each for each, answer in zip(transactions, answers, strict=True) if answer is not None]
        for transaction in done:
            logger.error("%s: nothing would have ended this need; it is mended", transaction.compares[0].key)
        await self._settler.settle([op.key for each in done for op in each.ops if op.key in settles], _SETTLED)
        return len(done)

    async def _of_waits(self, items: Sequence[tuple[str, Entry]]) -> list[_Marker]:
        """The markers of instances that wait for them now."""
        keys, markers = self._keys, list[_Marker]()
        for key, entry in items:
            dependant, fence, child = key[len(keys.every_need) :].split("/")
            markers.append(_Marker(Compare(key, mod=entry.mod), dependant, int(fence), child))
        rows = await self._context.rows([marker.dependant for marker in markers])
        return [
            marker
            for marker in markers
            if marker.dependant in rows and _waits(row := rows[marker.dependant][1]) and row.fence == marker.fence
        ]

    async def _check_waits(self, items: Sequence[tuple[str, Entry]]) -> int:
        """Let instances of a page go on that wait for needs and have none; returns how many."""
        context, keys = self._context, self._keys
        rows = await context.rows([key.rpartition("/")[2] for key, _ in items])
        waiting = {id: (revision, row.fence) for id, (revision, row) in rows.items() if _waits(row)}
        prefixes = [keys.needs(id, fence) for id, (_, fence) in waiting.items()]
        markers = await self._kv.read([below(prefix, 1, keys_only=True) for prefix in prefixes]) if prefixes else []
        free = [id for id, left in zip(waiting, markers, strict=True) if not left.items]
        (settling,) = await self._kv.read([below(keys.settling, 1, keys_only=True)]) if free else [None]
        if settling is None or settling.items:
            return 0  # a settling may have removed the marker already, and lets the instance go on next
        again = await context.rows(free)
        stuck = {(id, waiting[id][1]) for id, (revision, _) in again.items() if revision == waiting[id][0]}
        for id, _ in stuck:
            logger.error("%s: this instance waited for needs and had none; it goes on", id)
        if stuck:
            await self._settler.needs.go_on(stuck)
        return len(stuck)


def _waits(row: Row) -> bool:
    thread = wait_of(row)
    return thread is not None and thread.needs and not thread.open


def _state_text(row: Row | None) -> bytes:
    return str(0 if row is None else int(row.state)).encode()
