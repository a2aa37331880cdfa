"""Verbs that read: instances by id and by query, logs, and numbers."""

from __future__ import annotations

from collections.abc import Sequence

from peerjob.query import Query
from peerjob.record import MAX_BATCH, Health, LogPage, Page, Record
from peerjob.state import State

from .packing import unpack_line, unpack_record
from .verbs import Verbs, check_batch, check_cursor, report_asides

PAGE_BYTES = 4 << 20
_LOG_CURSOR = r"\d{1,15}"
_INDEXED = (
    State.SCHEDULED,
    State.PROCESSING,
    State.CANCELLED,
    State.TIMED_OUT,
    State.COMPLETED,
    State.TERMINATED,
)


class ReadingVerbs(Verbs):
    """What looks and changes nothing, but for records that cannot be read."""

    async def get(self, ids: Sequence[str]) -> list[Record | None]:
        check_batch(ids)
        if not ids:
            return []
        return await self._records(ids, await self._run(self._scripts.read, *ids))

    async def watch_final(self, incarnation: str, ids: Sequence[str]) -> list[Record | None]:
        check_batch(ids)
        if not ids:
            return []
        return await self._records(ids, await self._run(self._scripts.watch_final, incarnation, *ids))

    async def lookup(self, query: Query) -> Page:
        if query.id is not None:
            found = [record for record in await self.get([query.id]) if record and _matches(record, query)]
            return Page(tuple(found), None)
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
        dropped, after, lines = await self._run(self._scripts.logs, id, start, limit)
        return LogPage(tuple(map(unpack_line, lines)), after.decode(), int(dropped))

    async def due(self, kinds: Sequence[str] = ()) -> dict[str, int]:
        check_batch(kinds)
        found = await self._run(self._scripts.due, *kinds)
        return {kind.decode(): count for kind, count in zip(found[::2], found[1::2], strict=True) if count}

    async def health(self) -> Health:
        delayed, nodes, undecodable, *kinds = await self._run(self._scripts.health)
        counts = {
            kind.decode(): {state: count for state, count in zip(_INDEXED, numbers, strict=True) if count}
            for kind, numbers in zip(kinds[::2], kinds[1::2], strict=True)
            if any(numbers)
        }
        return Health(counts=counts, delayed=delayed, nodes=nodes, undecodable=undecodable)

    async def _page(self, query: Query, cursor: str | None, limit: int) -> tuple[list[Record], str | None]:
        descending = query.order == "desc"
        first, last = id_bounds(query.after_us, query.before_us)
        if cursor is not None:
            first, last = (first, f"({cursor}") if descending else (f"({cursor}", last)
        of_kind = "" if query.kind is None else f"k{query.kind}"
        after, *found = await self._run(
            self._scripts.lookup,
            of_kind if query.tag is None else f"t{query.tag}",
            int(query.states),
            first,
            last,
            int(descending),
            limit,
            PAGE_BYTES,
        )
        ids = [name.decode() for name in found[::3]]
        pairs = [part for n in range(0, len(found), 3) for part in found[n + 1 : n + 3]]
        records = await self._records(ids, pairs, indexed=True)
        return [record for record in records if record is not None], after.decode() if after else None

    async def _records(
        self, ids: Sequence[str], pairs: Sequence[bytes | None], *, indexed: bool = False
    ) -> list[Record | None]:
        """Read what is stored; those that cannot be read are None, and set aside."""
        records: list[Record | None] = []
        unreadable: list[str] = []
        for name, raw, spec in zip(ids, pairs[::2], pairs[1::2], strict=True):
            record: Record | None = None
            try:
                if raw is not None and spec is not None:
                    record = unpack_record(name, raw, spec)
                elif indexed or raw is not None:
                    unreadable.append(name)
            except ValueError:
                unreadable.append(name)
            records.append(record)
        if unreadable:
            report_asides(await self._run(self._scripts.set_aside, *unreadable))
        return records


def id_bounds(after_us: int | None, before_us: int | None) -> tuple[str, str]:
    """Bounds of ids, as ZRANGE BYLEX takes them, for creation from `after_us` on and before `before_us`."""
    return (
        "-" if after_us is None else f"[{_first_id(after_us)}",
        "+" if before_us is None else f"({_first_id(before_us)}",
    )


def _first_id(time_us: int) -> str:
    """The start of the first UUIDv7 that was made at or after a time."""
    millis = f"{min(max(-(-time_us // 1000), 0), (1 << 48) - 1):012x}"
    return f"{millis[:8]}-{millis[8:]}"


def _matches(record: Record, query: Query) -> bool:
    first, last = id_bounds(query.after_us, query.before_us)
    return (
        bool(record.state & query.states)
        and (query.kind is None or record.kind == query.kind)
        and (query.tag is None or query.tag in record.tags)
        and (first == "-" or record.id >= first[1:])
        and (last == "+" or record.id < last[1:])
    )
