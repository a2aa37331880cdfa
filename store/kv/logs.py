"""Log lines: chunks by the number of their first line, capped by lines and bytes, the oldest dropped."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from peerjob.model.errors import DecodeError
from peerjob.model.record import LogLine, LogPage
from peerjob.store.retry import LOGGER

from .base import Delete, Op, Put, Range
from .context import KVContext
from .keys import prefix_end
from .rows import Row, decode_lines, encode

_CHUNKS_READ = 100
_CHUNK_BYTES = 16
"""What a chunk has besides its lines."""


def chunk_key(prefix: str, number: int) -> str:
    """The key of the chunk that starts with a line's number."""
    return f"{prefix}{number:012d}"


def size(lines: Sequence[LogLine]) -> int:
    """Bytes of the messages."""
    return sum(len(line.message.encode(errors="surrogatepass")) for line in lines)


def _fitting(lines: Sequence[LogLine], room: int) -> int:
    """How many of the last lines can be written in so many bytes."""
    for count, line in enumerate(reversed(lines)):
        room -= len(encode(line))
        if room < _CHUNK_BYTES:
            return count
    return len(lines)


class LogCommands:
    """Appends, reads and removes log lines."""

    def __init__(self, context: KVContext) -> None:
        self._context = context

    async def append(self, id: str, row: Row, lines: tuple[LogLine, ...], ops: list[Op], *, room: int) -> Row:
        """The record after these lines; `ops` gets what is to be written with it, in at most `room` bytes."""
        prefix = self._context.keys.log(id)
        after = row.log_next + len(lines)
        first, kept_bytes = await self._kept(prefix, row, lines)
        fitting = _fitting(lines, room)
        if fitting < len(lines):
            first = max(first, after - fitting)
            kept_bytes = size(lines[first - row.log_next :])
        if first >= row.log_next:
            if row.log_next > 0:
                ops.append(Delete(chunk_key(prefix, 0), chunk_key(prefix, row.log_next)))
            lines = lines[first - row.log_next :]
        elif first > row.log_first:
            ops.append(Delete(chunk_key(prefix, 0), await self._chunk_of(prefix, first)))
        if lines:
            ops.append(Put(chunk_key(prefix, after - len(lines)), encode(lines)))
        return msgspec.structs.replace(
            row,
            log_first=first,
            log_next=after,
            log_bytes=kept_bytes,
            log_dropped=row.log_dropped + first - row.log_first,
        )

    async def _kept(self, prefix: str, row: Row, lines: tuple[LogLine, ...]) -> tuple[int, int]:
        """The number of the first line to keep, and the bytes of all that are kept."""
        limits = self._context.limits
        total = row.log_bytes + size(lines)
        surplus = row.log_next + len(lines) - row.log_first - limits.max_log_lines
        if surplus <= 0 and total <= limits.max_log_bytes:
            return row.log_first, total
        whole = total > limits.max_log_bytes
        old = await self._read(prefix, row, row.log_first, 0 if whole else surplus)
        oldest = [line for number, line in old if row.log_first <= number < row.log_next]
        oldest.extend(lines)
        drop = max(0, surplus)
        total -= size(oldest[:drop])
        while total > limits.max_log_bytes:
            total -= size(oldest[drop : drop + 1])
            drop += 1
        return row.log_first + drop, total

    async def page(self, id: str, *, cursor: str | None, limit: int) -> LogPage:
        """Lines from a cursor on."""
        rows = await self._context.rows([id])
        if id not in rows:
            return LogPage((), cursor or "0")
        row = rows[id][1]
        at = max(_number(cursor), row.log_first)
        numbered = await self._read(self._context.keys.log(id), row, at, limit)
        lines = tuple(line for number, line in numbered if number >= at)[:limit]
        return LogPage(lines, str(at + len(lines)), row.log_dropped)

    async def _read(self, prefix: str, row: Row, at: int, limit: int) -> list[tuple[int, LogLine]]:
        """Numbered lines of the chunks from that of line `at` on: all, or at least `limit` if there are so many."""
        numbered: list[tuple[int, LogLine]] = []
        if at >= row.log_next:
            return numbered
        begin = await self._chunk_of(prefix, at)
        while True:
            (found,) = await self._context.kv.read([Range(begin, prefix_end(prefix), _CHUNKS_READ)])
            for key, entry in found.items:
                try:
                    numbered.extend(enumerate(decode_lines(entry.value), int(key[len(prefix) :])))
                except DecodeError as error:
                    LOGGER.error("%s: %s; its lines are left out", key, error)  # the cause is in it
            enough = limit and numbered and numbered[-1][0] + 1 - at >= limit
            if enough or found.count <= len(found.items):
                return numbered
            begin = found.items[-1][0] + "!"

    async def _chunk_of(self, prefix: str, number: int) -> str:
        """The key of the chunk that holds a line."""
        (found,) = await self._context.kv.read(
            [Range(prefix, chunk_key(prefix, number + 1), limit=1, keys_only=True, reverse=True)]
        )
        return found.items[0][0] if found.items else chunk_key(prefix, 0)


def _number(cursor: str | None) -> int:
    try:
        return max(0, int(cursor or 0))
    except ValueError:
        return 0
