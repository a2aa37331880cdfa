"""Looking: records, pages of them, and the numbers of the namespace."""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Iterator, Sequence

from peerjob.model.errors import DecodeError, LayoutError
from peerjob.model.ids import id_time_us
from peerjob.model.query import Query
from peerjob.model.record import Health, Page, Record
from peerjob.model.state import State

from .base import MAX_STEPS, Compare, Delete, Entry, Put, Range, Step
from .context import KVContext
from .counts import DELAYED, READY, SET_ASIDE, SLOT, SLOTS, add_up, totals
from .enqueue import check_batch
from .keys import prefix_end, time_text
from .recount import Recount
from .rows import decode_out, kind_of_delayed, to_record

_MAX_FELL_DUE = 1_000
_PAGE = 500
"""Most records that a page reads when it must pick among them."""
_MAX_RANGES = 100
_WHOLE = 2_000
"""Instances up to which indexes are read as they are."""
_NARROW_US = 20_000
_WIDE_US = 100 * 86_400_000_000
_WIDEN = 8
_FIRST_READ = 16
_READ_BYTES = 4 << 20
_WATCHED_AT_ONCE = 20


class ReadCommands:
    """The verbs that change nothing."""

    def __init__(self, context: KVContext) -> None:
        self._context = context
        self._recount = Recount(context)

    async def get(self, ids: Sequence[str]) -> list[Record | None]:
        check_batch(len(ids))
        return await self._records(ids)

    async def _records(self, ids: Sequence[str]) -> list[Record | None]:
        """Records in the order of their ids, each read as of one moment.

        As large as those read so far may be those that come next, so no request brings much more than `_READ_BYTES`.
        """
        context, keys = self._context, self._context.keys
        records: list[Record | None] = []
        at_once, largest = _FIRST_READ, 1
        while len(records) < len(ids):
            part = ids[len(records) : len(records) + at_once]
            entries = await context.kv.get(
                [key + id for id in part for key in (keys.state, keys.args, keys.out, keys.progress)]
            )
            for n, id in enumerate(part):
                of_one = entries[4 * n : 4 * n + 4]
                largest = max(largest, sum(len(entry.value) for entry in of_one if entry is not None))
                records.append(await self._record(id, *of_one))
            at_once = max(1, min(_MAX_RANGES, _READ_BYTES // largest))
        return records

    async def _record(
        self, id: str, state: Entry | None, args: Entry | None, out: Entry | None, progress: Entry | None
    ) -> Record | None:
        if state is None:
            return None
        row = await self._context.decoded(id, state)
        if row is None:
            return None
        spec = row.spec if args is None else args.value
        if spec is None:
            return None
        try:
            found = None if out is None else decode_out(out.value)
        except DecodeError as error:
            await self._context.set_aside(id, state, error)
            return None
        return to_record(id, row, spec, found, None if progress is None else progress.value)

    async def watch_final(self, incarnation: str, ids: Sequence[str]) -> list[Record | State | None]:
        """Register and look in one step; what is final or unknown needs no registration."""
        context, keys = self._context, self._context.keys
        check_batch(len(ids))
        unique = list(dict.fromkeys(ids))
        states: dict[str, State | None] = {}
        # a node that waits registers anew each second, so that the key of one that is gone goes with the lease
        lease = await context.writer.short_lease(context.clock.time_us())
        for at in range(0, len(unique), _WATCHED_AT_ONCE):
            part = unique[at : at + _WATCHED_AT_ONCE]
            steps = [
                Step(
                    [],
                    [Put(keys.watch(id) + incarnation, b"", lease)],
                    [Range(keys.state + id)],
                )
                for id in part
            ]
            applied = await context.kv.txn(steps)
            for id, answers in zip(part, applied.steps, strict=True):
                rows = [answer.items[0][1] for answer in answers or () if answer.items]
                row = await context.decoded(id, rows[0]) if rows else None
                states[id] = None if row is None else row.state
            settled = [id for id in part if (one := states[id]) is None or one.is_final]
            if settled:
                await context.kv.txn([Step([], [Delete(keys.watch(id) + incarnation) for id in settled])])
        final = [id for id, one in states.items() if one is not None and one.is_final][:_FIRST_READ]
        found: dict[str, Record | State | None] = {
            **states,
            **dict(zip(final, await self._records(final), strict=True)),
        }
        return [found[id] for id in ids]

    async def watch_changes(self, incarnation: str, ttl: float) -> None:
        context = self._context
        ttl_us = round(ttl * 1_000_000)
        until = str(context.clock.time_us() + ttl_us).encode()
        # the lease only cleans up: on some servers it is coarser than the time asked for
        lease = await context.kv.grant(ttl_us)
        await context.kv.txn([Step([], [Put(context.keys.changes + incarnation, until, lease)])])

    # -- pages ----------------------------------------------------------------------------------------------------

    async def lookup(self, query: Query) -> Page:
        if query.id is not None:
            records = await self._records([query.id]) if query.cursor is None else []
            return Page(tuple(one for one in records if one is not None and _matches(one, query)), None)
        if query.tag is None:
            ids, more = await self.ids(
                query.kind,
                query.states,
                (query.after_us, query.before_us),
                cursor=query.cursor,
                limit=query.limit,
                reverse=query.order == "desc",
                among=_PAGE,
            )
        else:
            ids, more = await self._tagged(query)
        found: list[Record] = []
        gone: list[str] = []
        last = ""
        for at in range(0, len(ids), _MAX_RANGES):
            part = ids[at : at + _MAX_RANGES]
            for id, one in zip(part, await self._records(part), strict=True):
                if len(found) == query.limit:
                    await self._untag(query, gone)
                    return Page(tuple(found), last)
                last = id
                if one is not None and _matches(one, query):
                    found.append(one)
                elif one is None:
                    gone.append(id)
        await self._untag(query, gone)
        return Page(tuple(found), last if more else None)

    async def _untag(self, query: Query, ids: Sequence[str]) -> None:
        """Take ids without a record out of the index of a tag: one that could not be read did not tell its tags."""
        if query.tag is None or not ids:
            return
        keys = self._context.keys
        tag = keys.tag(query.tag)
        steps = [Step([Compare(keys.state + id)], [Delete(tag + id)]) for id in ids]
        with contextlib.suppress(LayoutError):  # the release that writes the namespace does it
            for at in range(0, len(steps), MAX_STEPS):
                await self._context.kv.txn(steps[at : at + MAX_STEPS])

    async def ids(
        self,
        kind: str | None,
        states: State,
        bounds_us: tuple[int | None, int | None],
        *,
        cursor: str | None,
        limit: int,
        reverse: bool = False,
        among: int = 0,
    ) -> tuple[list[str], bool]:
        """Ids of instances of a kind and states in order, and whether there are more.

        Where the kinds are many, these may be the next instances of any state: `limit` of them, or `among` if that is
        more.
        """
        indexes, held, every = await self._indexes(kind, states)
        if len(indexes) > _MAX_RANGES and held * _MAX_RANGES >= every:
            # so many kinds that reading the beginning of each index takes longer than picking among all instances
            return await self._read([self._context.keys.state], bounds_us, cursor, max(limit, among), reverse, every)
        owners = await self._owners(states)
        while True:
            ids, more = await self._read([*indexes, *owners], bounds_us, cursor, limit, reverse, held)
            before, owners = owners, await self._owners(states)
            if set(owners) <= set(before):
                return ids, more
            # a node that joined meanwhile may have claimed what was to be found among the Scheduled

    async def _read(
        self,
        indexes: Sequence[str],
        bounds_us: tuple[int | None, int | None],
        cursor: str | None,
        limit: int,
        reverse: bool,
        held: int,
    ) -> tuple[list[str], bool]:
        """The first ids in these indexes, which hold about so many, and whether there are more."""
        ids: list[str] = []
        more = False
        now_us = self._context.clock.time_us()
        windows = deque(_windows(bounds_us, cursor, now_us, reverse=reverse, narrow=held > _WHOLE))
        while windows and len(ids) < limit:
            start, end = windows.popleft()
            for at in range(0, len(indexes), _MAX_RANGES):
                part = indexes[at : at + _MAX_RANGES]
                ranges = [_part(index, start, end, limit, reverse=reverse) for index in part]
                for index, found in zip(part, await self._context.kv.read(ranges), strict=True):
                    ids.extend(key[len(index) :] for key, _ in found.items)
                    more = more or found.count > len(found.items)
        more = more or bool(windows)
        ids = sorted(set(ids), reverse=reverse)
        return ids[:limit], more or len(ids) > limit

    async def _owners(self, states: State) -> list[str]:
        """The indexes of what is Processing, one for each incarnation that may have claims."""
        if not states & State.PROCESSING:
            return []
        keys = self._context.keys
        (found,) = await self._context.kv.read([Range(keys.node, prefix_end(keys.node), keys_only=True)])
        return [keys.owned(key[len(keys.node) :]) for key, _ in found.items]

    async def _indexes(self, kind: str | None, states: State) -> tuple[list[str], int, int]:
        """The indexes of a kind and states, but for what is Processing; how much is in them, and how much in all."""
        context, keys = self._context, self._context.keys
        wanted = [(state, slot) for state, slot in SLOT.items() if state & states and state is not State.PROCESSING]
        if kind is not None:
            (found,) = await context.kv.read([context.counts.of(kind)])
            values = totals(keys, found).get(keys.kind(kind), [0] * SLOTS)
            # the counters only tell how to read: what they miss is found all the same
            return [keys.by(kind, state) for state, _ in wanted], sum(values[slot] for _, slot in wanted), 0
        sums = await context.counts.totals()
        indexes = [
            keys.by(keys.unescaped(part), state)
            for part, values in sums.items()
            for state, slot in wanted
            if values[slot] > 0
        ]
        held = sum(values[slot] for values in sums.values() for slot in {slot for _, slot in wanted})
        every = sum(values[slot] for values in sums.values() for slot in SLOT.values())
        return indexes, held, every

    async def _tagged(self, query: Query) -> tuple[list[str], bool]:
        assert query.tag is not None
        index = self._context.keys.tag(query.tag)
        bounds_us = (query.after_us, query.before_us)
        limit, reverse = max(query.limit, _PAGE), query.order == "desc"
        return await self._read([index], bounds_us, query.cursor, limit, reverse, 0)

    # -- numbers --------------------------------------------------------------------------------------------------

    async def due(self, kinds: Sequence[str] = ()) -> dict[str, int]:
        context, keys = self._context, self._context.keys
        if kinds:
            sums: dict[str, list[int]] = {}
            for found in await context.kv.read([context.counts.of(kind) for kind in kinds]):
                add_up(keys, found, sums)
        else:
            sums = await context.counts.totals()
        due = Counter({keys.unescaped(part): values[READY] for part, values in sums.items()})
        # what fell due is moved with the next claim, so where nobody claims it is counted where it is
        until = time_text(context.clock.time_us() + 1)
        (found,) = await context.kv.read([context.queues.delayed_heads()])
        heads = [head for head in context.queues.heads(found) if head.start < until]
        fell_due = await context.kv.read(
            [Range(head.queue + head.start, head.queue + until, _MAX_FELL_DUE) for head in heads]
        )
        waiting = [kind_of_delayed(entry.value) for found in fell_due for _, entry in found.items][:_MAX_FELL_DUE]
        wanted = frozenset(kinds)
        due.update(kind for kind in waiting if kind and (not wanted or kind in wanted))
        return {kind: count for kind, count in due.items() if count > 0}

    async def health(self) -> Health:
        context, keys = self._context, self._context.keys
        with contextlib.suppress(LayoutError):  # the release that writes the namespace compares them
            await self._recount.if_due()
        sums = await context.counts.totals()
        (lives,) = await context.kv.read([Range(keys.live, prefix_end(keys.live), limit=1, keys_only=True)])
        counts = {
            keys.unescaped(part): {state: values[slot] for state, slot in SLOT.items() if values[slot]}
            for part, values in sums.items()
        }
        return Health(
            counts={kind: of_kind for kind, of_kind in counts.items() if of_kind},
            delayed=sum(values[DELAYED] for values in sums.values()),
            nodes=lives.count,
            undecodable=sum(values[SET_ASIDE] for values in sums.values()),
        )


def id_at(time_us: int) -> str:
    """The smallest id of an instance that was created at a time, which ids tell in milliseconds."""
    digits = f"{min(max(0, -(-time_us // 1000)), 2**48 - 1):012x}"
    return f"{digits[:8]}-{digits[8:]}"


def _windows(
    bounds_us: tuple[int | None, int | None], cursor: str | None, now_us: int, *, reverse: bool, narrow: bool
) -> Iterator[tuple[str, str]]:
    """Stretches of ids to be read one after the other, "" for an open end.

    etcd counts all keys of a range, and reads all of them to answer the last ones. So where there are many, the first
    stretch is 20 ms long, and each further one eight times longer. Where ids begin is not known: from there on, all
    are read at once.
    """
    after_us, before_us = bounds_us
    start = id_at(after_us) if after_us is not None else ""
    end = id_at(before_us) if before_us is not None else ""
    if cursor is not None and reverse:
        end = min(end, cursor) if end else cursor
    elif cursor is not None:
        start = max(start, f"{cursor}!")
    width_us = _NARROW_US
    while narrow and width_us < _WIDE_US and (start or reverse):
        at_us = id_time_us(end) if reverse and end else now_us if reverse else id_time_us(start)
        middle = id_at(at_us - width_us if reverse else at_us + width_us)
        if (reverse and middle <= start) or (not reverse and (end and middle >= end)):
            break
        yield (middle, end) if reverse else (start, middle)
        start, end = (start, middle) if reverse else (middle, end)
        width_us *= _WIDEN
    yield start, end


def _part(index: str, start: str, end: str, limit: int, *, reverse: bool) -> Range:
    first, last = index + start, index + end if end else prefix_end(index)
    return Range(first, max(first, last), limit, keys_only=True, reverse=reverse)


def _matches(record: Record, query: Query) -> bool:
    created_us = id_time_us(record.id)
    return (
        (query.kind is None or record.kind == query.kind)
        and bool(record.state & query.states)
        and (query.tag is None or query.tag in record.tags)
        and (query.after_us is None or created_us >= query.after_us)
        and (query.before_us is None or created_us < query.before_us)
    )
