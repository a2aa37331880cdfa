"""Log lines: stored in chunks by the number of their first line; limits on lines and bytes drop the oldest lines."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from peerjob.model.record import LogLine, LogPage
from peerjob.store.kv.format.base import Delete, Op, Put, Range
from peerjob.store.kv.format.keys import prefix_end
from peerjob.store.kv.format.rows import Row, decode_lines, encode
from peerjob.store.kv.write.context import KVCommands, retried

_CHUNKS_READ = 100
_CHUNK_BYTES = 16
"""Bytes that a chunk needs besides the log lines in the chunk."""


class LogCommands(KVCommands):
    """The verb `logs`, and how lines are appended."""

    @retried
    async def logs(self, id: str, *, cursor: str | None = None, limit: int = 1000) -> LogPage:
        rows = await self._context.rows([id])
        if id not in rows:
            return LogPage((), cursor or "0")
        row = rows[id][1]
        at = max(_number(cursor), row.log_first)
        numbered = await self._read_lines(self._keys.log(id), row, at, limit)
        lines = tuple(line for number, line in numbered if number >= at)[:limit]
        return LogPage(lines, str(at + len(lines)), row.log_dropped)

    async def _append_lines(
        self, id: str, row: Row, lines: tuple[LogLine, ...], ops: list[Op], *, bytes_left: int
    ) -> Row:
        """Plan the writes of lines in `ops`, in at most `bytes_left` bytes; the answer is the record afterwards."""
        prefix = self._keys.log(id)
        after = row.log_next + len(lines)
        first, kept_bytes = await self._kept_lines(prefix, row, lines)
        fitting = _fitting(lines, bytes_left)
        if fitting < len(lines):
            first = max(first, after - fitting)
            kept_bytes = _size(lines[first - row.log_next :])
        if first >= row.log_next:
            if row.log_next > 0:
                ops.append(Delete(_chunk_key(prefix, 0), _chunk_key(prefix, row.log_next)))
            lines = lines[first - row.log_next :]
        elif first > row.log_first:
            ops.append(Delete(_chunk_key(prefix, 0), await self._chunk_of(prefix, first)))
        if lines:
            ops.append(Put(_chunk_key(prefix, after - len(lines)), encode(lines)))
        return replace(
            row,
            log_first=first,
            log_next=after,
            log_bytes=kept_bytes,
            log_dropped=row.log_dropped + first - row.log_first,
        )

    async def _kept_lines(self, prefix: str, row: Row, lines: tuple[LogLine, ...]) -> tuple[int, int]:
        """The number of the first line to keep, and the bytes of all kept lines."""
        limits = self._context.limits
        total = row.log_bytes + _size(lines)
        surplus = row.log_next + len(lines) - row.log_first - limits.max_log_lines
        if surplus <= 0 and total <= limits.max_log_bytes:
            return row.log_first, total
        whole = total > limits.max_log_bytes
        old = await self._read_lines(prefix, row, row.log_first, 0 if whole else surplus)
        oldest = [line for number, line in old if row.log_first <= number < row.log_next]
        oldest.extend(lines)
        drop = max(0, surplus)
        total -= _size(oldest[:drop])
        while total > limits.max_log_bytes:
            total -= _size(oldest[drop : drop + 1])
            drop += 1
        return row.log_first + drop, total

    async def _read_lines(self, prefix: str, row: Row, at: int, limit: int) -> list[tuple[int, LogLine]]:
        """Numbered lines from the chunk with line `at` on: `limit` or more if so many are stored; with limit 0, all."""
        numbered: list[tuple[int, LogLine]] = []
        if at >= row.log_next:
            return numbered
        begin = await self._chunk_of(prefix, at)
        while True:
            (answer,) = await self._kv.read([Range(begin, prefix_end(prefix), _CHUNKS_READ)])
            for key, entry in answer.items:
                lines = self._context.decoded(entry, key, decode_lines) or ()
                numbered.extend(enumerate(lines, int(key[len(prefix) :])))
            enough = limit and numbered and numbered[-1][0] + 1 - at >= limit
            if enough or not answer.more:
                return numbered
            begin = answer.next_key

    async def _chunk_of(self, prefix: str, number: int) -> str:
        """The key of the chunk that holds a line."""
        wanted = Range(prefix, _chunk_key(prefix, number + 1), limit=1, keys_only=True, reverse=True)
        (answer,) = await self._kv.read([wanted])
        return answer.items[0][0] if answer.items else _chunk_key(prefix, 0)


def _chunk_key(prefix: str, number: int) -> str:
    """The key of the chunk that begins with a line's number."""
    return f"{prefix}{number:012d}"


def _size(lines: Sequence[LogLine]) -> int:
    """The number of bytes in the messages of the lines."""
    return sum(len(line.message.encode(errors="surrogatepass")) for line in lines)


def _fitting(lines: Sequence[LogLine], bytes_left: int) -> int:
    """The number of lines, counted from the last line back, that fit into `bytes_left` bytes."""
    for count, line in enumerate(reversed(lines)):
        bytes_left -= len(encode(line))
        if bytes_left < _CHUNK_BYTES:
            return count
    return len(lines)


def _number(cursor: str | None) -> int:
    try:
        return max(0, int(cursor or 0))
    except ValueError:
        return 0
