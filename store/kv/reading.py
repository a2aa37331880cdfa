"""Looking: records, pages of them, and the numbers of the namespace."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence

from peerjob.errors import DecodeError, LayoutError
from peerjob.ids import id_time_us
from peerjob.query import Query
from peerjob.record import Health, Page, Record
from peerjob.state import State

from .base import Delete, Entry, Put, Range, Step
from .context import Context
from .counts import ASIDE, DELAYED, SLOT, totals
from .delayed import MOST_MOVED
from .enqueue import check_batch
from .keys import SHARDS, prefix_end, time_text
from .recount import Recount
from .rows import decode_out, kind_of_delayed, to_record

_PAGE = 500
"""Most records that a page reads when it must pick among them."""
_MOST_RANGES = 100
_FIRST_READ = 16
_READ_BYTES = 4 << 20
_WATCHED_AT_ONCE = 20


class Reading:
    """The verbs that change nothing."""

    def __init__(self, context: Context) -> None:
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
            at_once = max(1, min(_MOST_RANGES, _READ_BYTES // largest))
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
        for at in range(0, len(unique), _WATCHED_AT_ONCE):
            part = unique[at : at + _WATCHED_AT_ONCE]
            steps = [
                Step(
                    [],
                    [Put(keys.watch(id) + incarnation, b"")],
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
            )
        else:
            ids, more = await self._tagged(query)
        found: list[Record] = []
        last = ""
        for at in range(0, len(ids), _MOST_RANGES):
            part = ids[at : at + _MOST_RANGES]
            for id, one in zip(part, await self._records(part), strict=True):
                if len(found) == query.limit:
                    return Page(tuple(found), last)
                last = id
                if one is not None and _matches(one, query):
                    found.append(one)
        return Page(tuple(found), last if more else None)

    async def ids(
        self,
        kind: str | None,
        states: State,
        bounds_us: tuple[int | None, int | None],
        *,
        cursor: str | None,
        limit: int,
        reverse: bool = False,
    ) -> tuple[list[str], bool]:
        """Ids of instances of a kind and states in order, and whether there are more."""
        indexes = await self._indexes(kind, states)
        owners = await self._owners(states)
        while True:
            every = indexes + owners
            ids: list[str] = []
            more = False
            for at in range(0, len(every), _MOST_RANGES):
                part = every[at : at + _MOST_RANGES]
                ranges = [_part(index, bounds_us, cursor, limit, reverse=reverse) for index in part]
                for index, found in zip(part, await self._context.kv.read(ranges), strict=True):
                    ids.extend(key[len(index) :] for key, _ in found.items)
                    more = more or found.count > len(found.items)
            before, owners = owners, await self._owners(states)
            if set(owners) <= set(before):
                ids = sorted(set(ids), reverse=reverse)
                return ids[:limit], more or len(ids) > limit
            # a node that joined meanwhile may have claimed what was to be found among the Scheduled

    async def _owners(self, states: State) -> list[str]:
        """The indexes of what is Processing, one for each incarnation that may have claims."""
        if not states & State.PROCESSING:
            return []
        keys = self._context.keys
        (found,) = await self._context.kv.read([Range(keys.node, prefix_end(keys.node), keys_only=True)])
        return [keys.owned(key[len(keys.node) :]) for key, _ in found.items]

    async def _indexes(self, kind: str | None, states: State) -> list[str]:
        """The indexes of a kind and states in which something is, but for what is Processing."""
        context, keys = self._context, self._context.keys
        wanted = [(state, slot) for state, slot in SLOT.items() if state & states and state is not State.PROCESSING]
        if kind is not None:
            return [keys.by(kind, state) for state, _ in wanted]
        (found,) = await context.kv.read([context.counts.every()])
        return [
            keys.by(keys.unescaped(part), state)
            for part, values in totals(keys, found).items()
            for state, slot in wanted
            if values[slot] > 0
        ]

    async def _tagged(self, query: Query) -> tuple[list[str], bool]:
        assert query.tag is not None
        index = self._context.keys.tag(query.tag)
        bounds_us = (query.after_us, query.before_us)
        limit = max(query.limit, _PAGE)
        (found,) = await self._context.kv.read(
            [_part(index, bounds_us, query.cursor, limit, reverse=query.order == "desc")]
        )
        return [key[len(index) :] for key, _ in found.items], found.count > len(found.items)

    # -- numbers --------------------------------------------------------------------------------------------------

    async def due(self, kinds: Sequence[str] = ()) -> dict[str, int]:
        context, keys = self._context, self._context.keys
        check_batch(len(kinds))
        if not kinds:
            (counters,) = await context.kv.read([context.counts.every()])
            sums = totals(keys, counters)
            kinds = [keys.unescaped(part) for part, values in sums.items() if values[SLOT[State.SCHEDULED]]]
        # what fell due is moved with the next claim, so where nobody claims it is counted where it is
        until = time_text(context.clock.time_us() + 1)
        fell_due = await context.kv.read(
            [Range(f"{keys.due}{one}/", f"{keys.due}{one}/{until}", MOST_MOVED) for one in SHARDS]
        )
        counted = Counter([kind_of_delayed(entry.value) for found in fell_due for _, entry in found.items][:MOST_MOVED])
        due = {kind: counted[kind] for kind in kinds}
        for at in range(0, len(kinds), _MOST_RANGES):
            part = kinds[at : at + _MOST_RANGES]
            queues = [keys.ready_of(kind) for kind in part]
            ranges = [Range(queue, prefix_end(queue), limit=1, keys_only=True) for queue in queues]
            for kind, found in zip(part, await context.kv.read(ranges), strict=True):
                due[kind] += found.count
        return {kind: count for kind, count in due.items() if count}

    async def health(self) -> Health:
        context, keys = self._context, self._context.keys
        with contextlib.suppress(LayoutError):  # the release that writes the namespace compares them
            await self._recount.if_due()
        counters, lives = await context.kv.read(
            [context.counts.every(), Range(keys.live, prefix_end(keys.live), limit=1, keys_only=True)]
        )
        sums = totals(keys, counters)
        counts = {
            keys.unescaped(part): {state: values[slot] for state, slot in SLOT.items() if values[slot]}
            for part, values in sums.items()
        }
        return Health(
            counts={kind: of_kind for kind, of_kind in counts.items() if of_kind},
            delayed=sum(values[DELAYED] for values in sums.values()),
            nodes=lives.count,
            undecodable=sum(values[ASIDE] for values in sums.values()),
        )


def id_at(time_us: int) -> str:
    """The smallest id of an instance that was created at a time, which ids tell in milliseconds."""
    digits = f"{min(max(0, -(-time_us // 1000)), 2**48 - 1):012x}"
    return f"{digits[:8]}-{digits[8:]}"


def _part(
    index: str,
    bounds_us: tuple[int | None, int | None],
    cursor: str | None,
    limit: int,
    *,
    reverse: bool,
) -> Range:
    after_us, before_us = bounds_us
    start = index + (id_at(after_us) if after_us is not None else "")
    end = prefix_end(index) if before_us is None else index + id_at(before_us)
    if cursor is not None and reverse:
        end = min(end, index + cursor)
    elif cursor is not None:
        start = max(start, index + cursor + "!")
    return Range(start, max(start, end), limit, keys_only=True, reverse=reverse)


def _matches(record: Record, query: Query) -> bool:
    created_us = id_time_us(record.id)
    return (
        (query.kind is None or record.kind == query.kind)
        and bool(record.state & query.states)
        and (query.tag is None or query.tag in record.tags)
        and (query.after_us is None or created_us >= query.after_us)
        and (query.before_us is None or created_us < query.before_us)
    )
