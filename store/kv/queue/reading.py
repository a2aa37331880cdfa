"""The verbs that read: records, pages of records, and counts."""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Iterator, Sequence

from peerjob.model.capabilities import Health
from peerjob.model.errors import DecodeError, LayoutError
from peerjob.model.ids import checked_id, id_time_us
from peerjob.model.query import Query
from peerjob.model.record import Page, Record, check_batch
from peerjob.model.state import State
from peerjob.store.kv.format.base import Compare, Delete, Entry, Range, Transaction, apply_all, mod_of
from peerjob.store.kv.format.keys import Keys, below, time_text
from peerjob.store.kv.format.rows import SLOTS, decode_out, delayed_of
from peerjob.store.kv.format.views import to_record
from peerjob.store.kv.index.counts import DELAYED, READY, SET_ASIDE, SLOT
from peerjob.store.kv.index.newest import (
    MAX_RANGES,
    MAX_WINDOW_US,
    MIN_WINDOW_US,
    WINDOW_FACTOR,
    NewestIds,
    Window,
    id_at,
)
from peerjob.store.kv.write.context import KVCommands, KVContext, retried

from .recount import Recount

FIRST_RECORDS = 16
"""Most records with further keys in the first request of a read: their size, which limits later requests, is still
unknown."""
_MAX_READ_BYTES = 4 << 20
_MAX_DUE_READ = 1_000
_MAX_PAGE_READ = 500
"""Most records that the store reads for one page if only some of the records match the query."""
_MAX_KNOWN = 1_000
"""A store remembers where at most this number of lists began."""
_MAX_WHOLE_READ = 2_000
"""Indexes with at most this number of ids are read as one range, instead of in windows."""


class ReadCommands(KVCommands):
    """The verbs that read instances and counts."""

    def __init__(self, context: KVContext) -> None:
        super().__init__(context)
        self._recount = Recount(context)
        self._newest = NewestIds(self._kv)
        self._oldest: dict[int, str] = {}
        """The oldest id that was read from a list; the list can have older ones again."""

    @retried
    async def get(self, ids: Sequence[str]) -> list[Record | None]:
        check_batch(len(ids))
        return await self._read_records(ids)

    async def _read_records(self, ids: Sequence[str]) -> list[Record | None]:
        """Records in the order of their ids, each read as of one moment.

        Of many records, most are one small value. The others are read anew, together with their further keys.
        """
        keys = self._keys
        records: dict[str, Record | None] = {}
        divided: list[str] = list(ids) if len(ids) <= FIRST_RECORDS else []
        for at in range(0, 0 if divided else len(ids), MAX_RANGES):
            part = ids[at : at + MAX_RANGES]
            for id, entry in zip(part, await self._kv.get([keys.state + id for id in part]), strict=True):
                row = None if entry is None else await self._context.row_of(id, entry)
                if row is None:
                    records[id] = None
                elif row.spec is None or row.has_out or row.has_progress:
                    divided.append(id)
                else:
                    records[id] = to_record(id, row, row.spec, None, None)
        await self._read_divided(divided, records)
        return [records[id] for id in ids]

    async def _read_divided(self, ids: Sequence[str], records: dict[str, Record | None]) -> None:
        """Add records whose arguments, result or progress have keys of their own.

        The largest record so far limits the next request, so that replies stay near `_MAX_READ_BYTES`.
        """
        keys = self._keys
        at, batch, largest = 0, FIRST_RECORDS, 1
        while at < len(ids):
            part = ids[at : at + batch]
            entries = await self._kv.get(
                [key + id for id in part for key in (keys.state, keys.args, keys.out, keys.progress)]
            )
            for number, id in enumerate(part):
                own = entries[4 * number : 4 * number + 4]
                largest = max(largest, sum(len(entry.value) for entry in own if entry is not None))
                records[id] = await self._record_of(id, *own)
            at += len(part)
            batch = max(1, min(MAX_RANGES, _MAX_READ_BYTES // largest))

    async def _record_of(
        self, id: str, state: Entry | None, args: Entry | None, out: Entry | None, progress: Entry | None
    ) -> Record | None:
        if state is None:
            return None
        row = await self._context.row_of(id, state)
        if row is None:
            return None
        spec = row.spec if args is None else args.value
        if spec is None:
            return None
        try:
            stored = None if out is None else decode_out(out.value)
        except DecodeError as error:
            if row.final:
                await self._context.set_aside.put(id, state, error)
                return None
            # the instance runs again, and only the error of its last attempt is lost
            self._context.unreadable.report(self._keys.out + id, mod_of(out), error)
            stored = None
        return to_record(id, row, spec, stored, None if progress is None else progress.value)

    # -- pages ----------------------------------------------------------------------------------------------------

    @retried
    async def lookup(self, query: Query) -> Page:
        if query.id is not None:
            records = await self._read_records([query.id]) if query.cursor is None else []
            return Page(tuple(record for record in records if record is not None and _matches(record, query)), None)
        index = _index_of(query, self._keys)
        if not index:
            ids, more = await self._find_ids(
                query.kind,
                query.states,
                (query.after_us, query.before_us),
                cursor=query.cursor,
                limit=query.limit,
                reverse=query.order == "desc",
                among=_MAX_PAGE_READ,
            )
        else:
            ids, more = await self._find_indexed(query, index)
        matches: list[Record] = []
        gone: list[str] = []
        last = ""
        for at in range(0, len(ids), MAX_RANGES):
            part = ids[at : at + MAX_RANGES]
            for id, record in zip(part, await self._read_records(part), strict=True):
                if len(matches) == query.limit:
                    await self._unindex(index, gone)
                    return Page(tuple(matches), last)
                last = id
                if record is not None and _matches(record, query):
                    matches.append(record)
                elif record is None:
                    gone.append(id)
        await self._unindex(index, gone)
        return Page(tuple(matches), last if more else None)

    async def _unindex(self, index: str, ids: Sequence[str]) -> None:
        """Remove ids without a record from an index. They are left when an unreadable record is set aside."""
        if not index or not ids:
            return
        keys = self._keys
        transactions = [Transaction([Compare(keys.state + id)], [Delete(index + id)]) for id in ids]
        # LayoutError: nodes of another version own the namespace, and those nodes remove the ids
        with contextlib.suppress(LayoutError):
            await apply_all(self._kv, transactions)

    async def _find_ids(
        self,
        kind: str | None,
        states: State,
        bounds_us: tuple[int | None, int | None],
        *,
        cursor: str | None,
        limit: int,
        reverse: bool = False,
        among: int = 0,
        with_held: bool = True,
    ) -> tuple[list[str], bool]:
        """Ids of instances of a kind and states in order, and whether there are more.

        With many kinds, the answer may be the next instances of any state: `limit` of them, or `among` if that is more.
        """
        indexes, held, every = await self._state_indexes(kind, states)
        if with_held and states & State.FINAL and await self._context.kv.is_durable():
            indexes += self._held_indexes(indexes, states)
        if len(indexes) > MAX_RANGES and held * MAX_RANGES >= every:
            # with many kinds, the first ids of each index take longer to read than all instances take to read and
            # filter
            return await self._read_ids([self._keys.state], bounds_us, cursor, max(limit, among), reverse, every)
        claims = await self._claim_indexes(states)
        while True:
            # In several requests, an instance can change hands between them: into an index of claims, which come last,
            # or out of one, which come first.
            first = claims if len(indexes) + len(claims) > MAX_RANGES else []
            ids, more = await self._read_ids([*first, *indexes, *claims], bounds_us, cursor, limit, reverse, held)
            before, claims = claims, await self._claim_indexes(states)
            if set(claims) <= set(before):
                return ids, more
            # a node that joined during the read may have claimed a Scheduled instance that the read did not find: read
            # again

    def _held_indexes(self, indexes: Sequence[str], states: State) -> list[str]:
        """The indexes of held children that belong to some indexes of final states."""
        by, held = f"{self._keys.root}by/", f"{self._keys.root}held/"
        final = {f"/{state:d}/" for state in SLOT if state & states & State.FINAL}
        return [held + index[len(by) :] for index in indexes if index[index[:-1].rindex("/") :] in final]

    async def _read_ids(
        self,
        indexes: Sequence[str],
        bounds_us: tuple[int | None, int | None],
        cursor: str | None,
        limit: int,
        reverse: bool,
        held: int,
    ) -> tuple[list[str], bool]:
        """The first ids in these indexes, and whether there are more. The indexes have about `held` ids."""
        ids: list[str] = []
        more = False
        start, end = _bounds(bounds_us, cursor, reverse=reverse)
        if reverse and held > _MAX_WHOLE_READ:
            return await self._newest.read(indexes, (start, end), limit, self._clock.time_us())
        narrow, key = held > _MAX_WHOLE_READ, hash(tuple(indexes))
        first = "" if reverse or start or not narrow else self._oldest.get(key, "")
        windows = deque(_windows(start, end, first, narrow=narrow))
        while windows and len(ids) < limit:
            window = windows.popleft()
            for at in range(0, len(indexes), MAX_RANGES):
                part = indexes[at : at + MAX_RANGES]
                ranges = [window.range_of(index, limit, reverse=reverse) for index in part]
                for index, answer in zip(part, await self._kv.read(ranges), strict=True):
                    ids.extend(key[len(index) :] for key, _ in answer.items)
                    more = more or answer.more
        more = more or bool(windows)
        ids = sorted(set(ids), reverse=reverse)
        if narrow and ids and not start:
            if len(self._oldest) >= _MAX_KNOWN:
                self._oldest.clear()
            self._oldest[key] = ids[0]
        return ids[:limit], more or len(ids) > limit

    async def _claim_indexes(self, states: State) -> list[str]:
        """The indexes of Processing instances: one for each incarnation that can have claims."""
        if not states & State.PROCESSING:
            return []
        keys = self._keys
        (answer,) = await self._kv.read([below(keys.node, keys_only=True)])
        return [keys.owned(key[len(keys.node) :]) for key, _ in answer.items]

    async def _state_indexes(self, kind: str | None, states: State) -> tuple[list[str], int, int]:
        """Indexes of a kind and states besides Processing, the number of ids in them, and of all instances."""
        context, keys = self._context, self._keys
        wanted = [(state, slot) for state, slot in SLOT.items() if state & states and state is not State.PROCESSING]
        if kind is not None:
            (answer,) = await self._kv.read([context.counts.of(kind)])
            values = context.counts.summed(answer).get(keys.kind(kind), [0] * SLOTS)
            # the counters only decide how the indexes are read, so a wrong counter hides no instance
            return [keys.by(kind, state) for state, _ in wanted], sum(values[slot] for _, slot in wanted), 0
        sums = await context.counts.totals()
        # a wrong counter must hide no instance
        wrong = context.counts.in_doubt or any(min(values) < 0 for values in sums.values())
        indexes = [
            keys.by(keys.unescaped(part), state)
            for part, values in sums.items()
            for state, slot in wanted
            # a running instance may end or return to its queue after the read of the counters
            if values[slot] > 0 or values[SLOT[State.PROCESSING]] > 0 or wrong
        ]
        held = sum(values[slot] for values in sums.values() for slot in {slot for _, slot in wanted})
        every = sum(values[slot] for values in sums.values() for slot in SLOT.values())
        return indexes, held, every

    async def _find_indexed(self, query: Query, index: str) -> tuple[list[str], bool]:
        bounds_us = (query.after_us, query.before_us)
        limit, reverse = max(query.limit, _MAX_PAGE_READ), query.order == "desc"
        bounds = _bounds(bounds_us, query.cursor, reverse=reverse)
        if reverse:
            # the number of ids in the index is unknown; few of them take one request
            (answer,) = await self._kv.read([Window(*bounds).range_of(index, limit)])
            if answer.more:
                return await self._newest.read([index], bounds, limit, self._clock.time_us())
            return [key[len(index) :] for key, _ in reversed(answer.items)], False
        return await self._read_ids([index], bounds_us, query.cursor, limit, reverse, 0)

    # -- numbers --------------------------------------------------------------------------------------------------

    @retried
    async def due(self, kinds: Sequence[str] = ()) -> dict[str, int]:
        context, keys = self._context, self._keys
        if kinds:
            sums: dict[str, list[int]] = {}
            for answer in await self._kv.read([context.counts.of(kind) for kind in kinds]):
                context.counts.add_up(answer, sums)
        else:
            sums = await context.counts.totals()
        due = Counter({keys.unescaped(part): values[READY] for part, values in sums.items()})
        # an instance that became due stays in its delayed queue until the next claim moves it, so delayed queues count
        # too
        until = time_text(self._clock.time_us() + 1)
        (answer,) = await self._kv.read([context.queues.delayed_heads()])
        heads = [head for head in context.queues.heads(answer) if head.start < until]
        now_due = await self._kv.read(
            [Range(head.queue + head.start, head.queue + until, _MAX_DUE_READ) for head in heads]
        )
        entries = [delayed_of(entry.value) for answer in now_due for _, entry in answer.items][:_MAX_DUE_READ]
        wanted = frozenset(kinds)
        due.update(entry.kind for entry in entries if entry is not None and (not wanted or entry.kind in wanted))
        return {kind: count for kind, count in due.items() if count > 0}

    @retried
    async def health(self) -> Health:
        context, keys = self._context, self._keys
        # LayoutError: nodes of another version own the namespace, and those nodes correct the counters
        with contextlib.suppress(LayoutError):
            await self._recount.if_due()
        sums = await context.counts.totals()
        if any(value < 0 for values in sums.values() for value in values):
            context.counts.in_doubt = True
            with contextlib.suppress(LayoutError):
                await self._recount.if_due()
            sums = await context.counts.totals()
        lives, settling = await self._kv.read([below(key, 1, keys_only=True) for key in (keys.live, keys.settling)])
        counts = {
            keys.unescaped(part): {state: values[slot] for state, slot in SLOT.items() if values[slot]}
            for part, values in sums.items()
        }
        return Health(
            counts={kind: of_kind for kind, of_kind in counts.items() if of_kind},
            delayed=sum(values[DELAYED] for values in sums.values()),
            nodes=lives.count,
            undecodable=sum(values[SET_ASIDE] for values in sums.values()) + await context.unreadable.count(self._kv),
            settling=settling.count,
        )


def _index_of(query: Query, keys: Keys) -> str:
    """The index that has all matches, and few others; "" without one."""
    if query.parent_id is not None:
        return keys.children(query.parent_id)
    return "" if query.tag is None else keys.tag(query.tag)


def _bounds(bounds_us: tuple[int | None, int | None], cursor: str | None, *, reverse: bool) -> tuple[str, str]:
    """The range of ids to read, "" for an open end. Raises OptionError for a cursor that no page had."""
    if cursor is not None:
        cursor = checked_id(cursor, "cursor")
    after_us, before_us = bounds_us
    start = id_at(after_us) if after_us is not None else ""
    end = id_at(before_us) if before_us is not None else ""
    if cursor is not None and reverse:
        end = min(end, cursor) if end else cursor
    elif cursor is not None:
        start = max(start, f"{cursor}!")
    return start, end


def _windows(start: str, end: str, first: str, *, narrow: bool) -> Iterator[Window]:
    """Ranges of ids to read one after the other.

    etcd counts all keys of a range. With many ids, the first range therefore spans 20 ms, and each further one eight
    times more. They begin where the list began before, after a range with what is older, if `first` says so. If the
    first id is unknown, the only range is the whole one.
    """
    if first and not (end and first >= end):
        yield Window(start, first)
        start = first
    width_us = MIN_WINDOW_US
    while narrow and width_us < MAX_WINDOW_US and start:
        middle = id_at(id_time_us(start) + width_us)
        if end and middle >= end:
            break
        yield Window(start, middle)
        start = middle
        width_us *= WINDOW_FACTOR
    yield Window(start, end)


def _matches(record: Record, query: Query) -> bool:
    created_us = id_time_us(record.id)
    return (
        (query.kind is None or record.kind == query.kind)
        and bool(record.state & query.states)
        and (query.tag is None or query.tag in record.tags)
        and query.parent_id in (None, record.parent)
        and (query.after_us is None or created_us >= query.after_us)
        and (query.before_us is None or created_us < query.before_us)
    )
