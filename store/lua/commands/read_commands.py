"""Commands that read: instances by id and by query, logs, and counts."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from peerjob.model.capabilities import Health
from peerjob.model.errors import DecodeError, LayoutError
from peerjob.model.query import Query
from peerjob.model.record import MAX_BATCH, LogLine, LogPage, Page, Record, check_batch
from peerjob.model.state import State
from peerjob.store.lua.client.driver import MAX_LOOKUPS, MAX_REPLY_BYTES, LuaCommands, check_cursor, log_set_aside
from peerjob.store.lua.scripts.script import Argument

from .codec import unpack_line, unpack_record
from .thread import parent_tag

MAX_PAGE_BYTES = 4 << 20
"""A page of instances ends after this many bytes, so that a reply and its memory stay small."""
_MAX_SET_ASIDE = 4
"""One call sets at most this many instances aside, because the script searches many indexes for each instance."""
_LOG_CURSOR = r"\d{1,15}"
_INDEXED = (State.SCHEDULED, State.PROCESSING, State.CANCELLED, State.TIMED_OUT, State.COMPLETED, State.TERMINATED)
_STATES = frozenset(_INDEXED)


class LuaReadCommands(LuaCommands):
    """Commands that change nothing, except that they set unreadable records aside."""

    async def get(self, ids: Sequence[str]) -> list[Record | None]:
        check_batch(len(ids))
        return await self._records(ids, await self._read(ids))

    async def get_ended(self, ids: Sequence[str]) -> list[Record | None]:
        return await self.get(ids)

    async def watch_final(self, incarnation: str, ids: Sequence[str]) -> list[Record | State | None]:
        check_batch(len(ids))
        if not ids:
            return []
        states, *pairs = await self._run("watch_final", incarnation, MAX_REPLY_BYTES, *ids)
        answers: list[Record | State | None] = [State(state) if state in _STATES else None for state in states]
        final = [n for n, answer in enumerate(answers) if isinstance(answer, State) and answer.is_final][
            : len(pairs) // 2
        ]
        for n, record in zip(final, await self._records([ids[n] for n in final], pairs), strict=True):
            answers[n] = record
        return answers

    async def lookup(self, query: Query) -> Page:
        if query.id is not None:
            matches = [record for record in await self.get([query.id]) if record and _matches(record, query)]
            return Page(tuple(matches), None)
        matching: list[Record] = []
        cursor = query.cursor
        for _ in range(1 + query.limit // MAX_BATCH):
            records, cursor = await self._page(query, cursor, min(query.limit - len(matching), MAX_BATCH))
            matching += [record for record in records if _matches(record, query)]
            if cursor is None or len(matching) == query.limit:
                break
        return Page(tuple(matching), cursor)

    async def logs(self, id: str, *, cursor: str | None = None, limit: int = 1000) -> LogPage:
        start = "0" if cursor is None else check_cursor(cursor, _LOG_CURSOR)
        dropped, after, lines = await self._run("logs", id, start, limit, MAX_REPLY_BYTES)
        readable: list[LogLine] = []
        for raw in lines:
            try:
                readable.append(unpack_line(raw))
            except DecodeError as error:
                self._reports.left_out(f"a log line of instance {id}", error, raw)
        return LogPage(tuple(readable), after.decode(), int(dropped) + len(lines) - len(readable))

    async def due(self, kinds: Sequence[str] = ()) -> dict[str, int]:
        due: dict[str, int] = {}
        parts = [kinds[start : start + MAX_BATCH] for start in range(0, len(kinds), MAX_BATCH)] or [()]
        for part in parts:
            cursor: Argument = "0"
            while True:
                cursor, *counts = await self._run("due", cursor, MAX_LOOKUPS // 2, *part)
                due |= {kind.decode(): count for kind, count in zip(counts[::2], counts[1::2], strict=True) if count}
                if cursor == b"0":
                    break
        return due

    async def health(self) -> Health:
        counts: dict[str, dict[State, int]] = {}
        cursor: Argument = "0"
        while True:
            cursor, delayed, nodes, undecodable, settling, *kinds = await self._run(
                "health", cursor, MAX_LOOKUPS // len(_INDEXED)
            )
            for kind, numbers in zip(kinds[::2], kinds[1::2], strict=True):
                of_kind = {state: count for state, count in zip(_INDEXED, numbers, strict=True) if count}
                if of_kind:
                    counts[kind.decode()] = of_kind
            if cursor == b"0":
                undecodable += len(self._reports)
                return Health(counts=counts, delayed=delayed, nodes=nodes, undecodable=undecodable, settling=settling)

    async def _page(self, query: Query, cursor: str | None, limit: int) -> tuple[list[Record], str | None]:
        descending = query.order == "desc"
        first, last = id_bounds(query.after_us, query.before_us)
        if cursor is not None:
            first, last = (first, f"({cursor}") if descending else (f"({cursor}", last)
        of_kind = "" if query.kind is None else f"k{query.kind}"
        tag = query.tag if query.parent_id is None else parent_tag(query.parent_id)
        what = of_kind if tag is None else f"t{tag}"
        batch = MAX_LOOKUPS // max(1, sum(bool(state & query.states) for state in _INDEXED))
        ids: list[str] = []
        more = False
        scanned: Argument = "0"
        while True:
            scanned, is_whole, has_more, wrong, *reply = await self._run(
                "lookup", what, int(query.states), first, last, int(descending), limit, MAX_REPLY_BYTES, scanned, batch
            )
            if await self._unindex(wrong) and is_whole and has_more and not reply:
                continue  # so many entries were no ids that the page has none
            if is_whole:
                ids = [name.decode() for name in reply[::3]]
                pairs = [part for n in range(0, len(reply), 3) for part in reply[n + 1 : n + 3]]
                more = bool(has_more and ids)
                break
            # Keep one id more than the page holds. The additional id shows that there are more, and bounds the next
            # call.
            ids = sorted({*ids, *(name.decode() for name in reply)}, reverse=descending)
            del ids[limit + 1 :]
            if len(ids) > limit:
                first, last = (f"[{ids[-1]}", last) if descending else (first, f"[{ids[-1]}")
            if scanned == b"0":
                more = len(ids) > limit
                del ids[limit:]
                pairs = await self._read(ids, MAX_PAGE_BYTES)
                more = more or len(pairs) < 2 * len(ids)
                del ids[len(pairs) // 2 :]
                break
        records = await self._records(ids, pairs, kind=query.kind or "", indexed=True)
        if tag is not None and (gone := [id for id, record in zip(ids, records, strict=True) if record is None]):
            # A node whose version is not allowed to write the namespace skips the cleanup. A node with the right
            # version removes the ids.
            with contextlib.suppress(LayoutError):
                await self._run("untag", tag, *gone)
        return [record for record in records if record is not None], ids[-1] if more else None

    async def _unindex(self, wrong: Sequence[bytes]) -> bool:
        """Remove entries that are no ids: pairs of the key of an index and the entry. Return whether that was done."""
        with contextlib.suppress(LayoutError):
            for start in range(0, len(wrong), 2 * MAX_BATCH):
                log_set_aside(await self._run("unindex", *wrong[start : start + 2 * MAX_BATCH]))
            return bool(wrong)
        return False

    async def _read(self, ids: Sequence[str], max_bytes: int | None = None) -> list[bytes | None]:
        """Return the stored record and spec of each id.

        With `max_bytes`, the list ends when that many bytes are read.
        """
        pairs: list[bytes | None] = []
        size = 0
        while len(pairs) < 2 * len(ids) and (max_bytes is None or size < max_bytes):
            some = await self._run("read", MAX_REPLY_BYTES, *ids[len(pairs) // 2 :])
            size += sum(len(part) for part in some if part is not None)
            pairs += some
        return pairs

    async def _records(
        self, ids: Sequence[str], pairs: Sequence[bytes | None], *, kind: str = "", indexed: bool = False
    ) -> list[Record | None]:
        """Decode stored records. An unreadable record becomes None in the result and is set aside in the store."""
        records: list[Record | None] = []
        unreadable: list[tuple[str, str]] = []
        for name, raw, spec in zip(ids, pairs[::2], pairs[1::2], strict=True):
            record: Record | None = None
            try:
                if raw is not None and spec is not None:
                    record = unpack_record(name, raw, spec)
                elif indexed or raw is not None:
                    unreadable.append((name, kind))
            except DecodeError:
                unreadable.append((name, kind))
            records.append(record)
        for start in range(0, len(unreadable), _MAX_SET_ASIDE):
            named = [part for names in unreadable[start : start + _MAX_SET_ASIDE] for part in names]
            log_set_aside(await self._run("set_aside", *named))
        return records


def id_bounds(after_us: int | None, before_us: int | None) -> tuple[str, str]:
    """Bounds of ids, as ZRANGE BYLEX takes them, for creation from `after_us` on and before `before_us`."""
    return (
        "-" if after_us is None else f"[{_first_id(after_us)}",
        "+" if before_us is None else f"({_first_id(before_us)}",
    )


def _first_id(time_us: int) -> str:
    """Return the first digits of the lowest UUIDv7 that can be created at or after a time."""
    millis = f"{min(max(-(-time_us // 1000), 0), (1 << 48) - 1):012x}"
    return f"{millis[:8]}-{millis[8:]}"


def _matches(record: Record, query: Query) -> bool:
    first, last = id_bounds(query.after_us, query.before_us)
    return (
        bool(record.state & query.states)
        and (query.kind is None or record.kind == query.kind)
        and (query.tag is None or query.tag in record.tags)
        and (query.parent_id is None or query.parent_id == record.parent)
        and (first == "-" or record.id >= first[1:])
        and (last == "+" or record.id < last[1:])
    )
