"""The verbs `require_layout`, `steps` and `signal`."""

from __future__ import annotations

from peerjob.model.durable import MAX_ALL_STEP_BYTES, MAX_SIGNALS, SIGNAL_MARK, SignalAnswer, Step, StepPage
from peerjob.model.errors import StoreUnavailableError
from peerjob.model.record import MAX_BATCH_BYTES
from peerjob.store.durable_checks import check_signal
from peerjob.store.kv.format.base import Entry, Op, Put, Range, Transaction
from peerjob.store.kv.format.keys import prefix_end
from peerjob.store.kv.format.rows import Row
from peerjob.store.kv.format.thread_rows import NO_THREAD, StoredThread, thread_of, with_thread
from peerjob.store.kv.write.context import KVCommands, retried
from peerjob.store.kv.write.layouts import check_live_readers
from peerjob.store.kv.write.writer import ROUNDS
from peerjob.store.rules import FLOWS_LAYOUT

from .entering import EndOfWait, write_ends

_FIRST_READ = 16
"""Most values in the first request of a read: their size, which limits later requests, is still unknown."""
_MAX_READ = 500


class StepCommands(KVCommands):
    """The verbs about steps and signals."""

    @retried
    async def require_layout(self, layout: int, what: str) -> None:
        kv, keys = self._context.kv, self._keys
        while kv.layout < layout:
            stamp = await kv.read_layout()
            if kv.layout >= layout:
                return
            await check_live_readers(kv, keys, layout, what, url=self._context.url)
            ops: list[Op] = [Put(keys.layout, str(layout).encode())]
            if layout >= FLOWS_LAYOUT:
                ops.append(Put(keys.durable, b""))
            await kv.txn([Transaction([], ops)], guards=[stamp])
            await kv.read_layout()

    # -- steps ----------------------------------------------------------------------------------------------------

    @retried
    async def steps(self, id: str, *, cursor: str | None = None) -> StepPage:
        keys = self._keys
        prefix = keys.steps(id)
        start = prefix if cursor is None else f"{keys.step(id, cursor)}!"
        page: list[Step] = []
        size, largest, batch = 0, 1, _FIRST_READ
        while True:
            record, values = await self._kv.read(
                [Range(keys.state + id, keys_only=True), Range(start, prefix_end(prefix), batch)]
            )
            if not record.items:
                return StepPage(tuple(page))
            for key, entry in values.items:
                if size >= MAX_BATCH_BYTES:
                    return StepPage(tuple(page), page[-1].name)
                page.append(Step(keys.unescaped(key[len(prefix) :]), entry.value))
                size, largest = size + len(entry.value), max(largest, len(entry.value))
            if not values.more:
                return StepPage(tuple(page))
            start = values.next_key
            batch = max(1, min(_MAX_READ, (MAX_BATCH_BYTES - size) // largest))

    # -- signals --------------------------------------------------------------------------------------------------

    @retried
    async def signal(self, id: str, name: str, value: bytes) -> SignalAnswer:
        context, keys = self._context, self._keys
        check_signal(name, value, context.kv.layout)
        key = keys.step(id, SIGNAL_MARK + name)
        for _ in range(ROUNDS):
            state, stored = await self._kv.get([keys.state + id, key])
            row = None if state is None else await context.row_of(id, state)
            if state is None or row is None:
                return SignalAnswer.UNKNOWN
            thread = thread_of(row) or NO_THREAD
            answer = _known(row, thread, stored, value)
            if answer is not None:
                return answer
            after = with_thread(row, thread.with_value(SIGNAL_MARK + name, len(value)))
            end = EndOfWait(state.mod, row, after, [Put(key, value)], enters=name in thread.awaits)
            if await write_ends(context, {id: end}, changed=[id]):
                return SignalAnswer.ACCEPTED
        raise StoreUnavailableError(context.url, "too many writers at once")


def _known(row: Row, thread: StoredThread, stored: Entry | None, value: bytes) -> SignalAnswer | None:
    """The answer to a signal that is not to be written."""
    if stored is not None:
        return SignalAnswer.SAME if stored.value == value else SignalAnswer.OTHER
    if row.final:
        return SignalAnswer.FINAL
    full = thread.signals >= MAX_SIGNALS or thread.bytes + len(value) > MAX_ALL_STEP_BYTES
    return SignalAnswer.FULL if full else None
