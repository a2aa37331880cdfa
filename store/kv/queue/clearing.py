"""The verbs `clear…`: final instances, their histories, their logs, or everything."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from peerjob.model.query import Filter
from peerjob.model.state import State
from peerjob.store.kv.format.base import Compare, Delete, Op, Put, Range, mod_of
from peerjob.store.kv.format.keys import below, prefix_end, timed
from peerjob.store.kv.format.rows import Row, encode, folded, is_gone
from peerjob.store.kv.format.thread_rows import thread_of
from peerjob.store.kv.index.counts import SET_ASIDE
from peerjob.store.kv.write.context import retried
from peerjob.store.kv.write.gates import stamps
from peerjob.store.kv.write.hints import Wakeups
from peerjob.store.kv.write.transaction_plan import Change, TransactionPlan

from .reading import ReadCommands
from .retention import RetentionCommands

_PAGE = 100

Edit = Callable[[str, Row], tuple[Row, list[Op]] | None]


class ClearCommands(ReadCommands, RetentionCommands):
    """The verbs `clear…`."""

    @retried
    async def clear_instances(self, filter: Filter, *, limit: int = 500) -> int:
        bounds_us = filter.bounds_us(self._clock.time_us())
        cursor: str | None = None
        removed = 0
        while removed < limit:
            # a page can have only instances whose body still runs, which cannot be removed: read further pages
            page = min(limit - removed, _PAGE)
            ids, more = await self._find_ids(None, State.FINAL, bounds_us, cursor=cursor, limit=page, with_held=False)
            removed += len(await self._remove_final(ids))
            if not more:
                break
            cursor = ids[-1]
        return removed

    @retried
    async def clear_history(self, filter: Filter, *, cursor: str | None = None) -> tuple[int, str | None]:
        return await self._edit_final(filter, cursor, _without_history)

    @retried
    async def clear_logs(self, filter: Filter, *, cursor: str | None = None) -> tuple[int, str | None]:
        return await self._edit_final(filter, cursor, self._without_logs)

    @retried
    async def clear(self) -> None:
        # each instance is removed by its own transaction, so that the counters stay right; an instance added during the
        # call may remain
        keys = self._keys
        start, left = keys.state, list[str]()
        while start:
            (answer,) = await self._kv.read([Range(start, prefix_end(keys.state), limit=_PAGE, keys_only=True)])
            left += await self._remove_any([key[len(keys.state) :] for key, _ in answer.items])
            start = answer.next_key if answer.more else ""
        while left:
            left = [id for at in range(0, len(left), _PAGE) for id in await self._remove_any(left[at : at + _PAGE])]
        await self._remove_set_aside()
        await self._remove_settling()

    async def _remove_settling(self) -> None:
        """Remove what is to be settled about instances that are gone.

        A child that its parent made during the call can remain: then it is let go, as after the end of the parent.
        """
        keys, start = self._keys, self._keys.settling
        while start:
            (page,) = await self._kv.read([Range(start, prefix_end(keys.settling), _PAGE, keys_only=True)])
            ids = {key: key[len(keys.settling) :].split("/", 1)[0] for key, _ in page.items}
            records = dict(zip(ids, await self._kv.get([keys.state + id for id in ids.values()]), strict=True))
            ended = [key for key, record in records.items() if is_gone(record)]
            children = await self._kv.read([below(keys.children(ids[key]), 1, keys_only=True) for key in ended])
            left = {key for key, answer in zip(ended, children, strict=True) if answer.items and key.endswith("/k")}
            await self._writer.plain([Delete(key) for key in ended if key not in left])
            await self._context.hints.settle(sorted(left))
            start = page.next_key if page.more else ""

    async def _remove_any(self, ids: Sequence[str]) -> list[str]:
        """Remove instances in any state; the answer is the ids to try again, which share a slot or had a conflict."""
        context, keys = self._context, self._keys
        rows = await context.rows(ids)
        slots = await context.slots.held_by(row for _, row in rows.values())
        positions = [keys.delayed(id) + timed(row.due_us, id) for id, (_, row) in rows.items()]
        entries = await self._kv.get(positions)
        leaving = [(id, row) for id, (_, row) in rows.items()]
        gates = await context.gates.plan_of(leaving, (held.slot for held in slots.values()))
        now_us = self._clock.time_us()
        wakeups = Wakeups()
        changes: list[Change] = []
        planned: list[str] = []
        used: set[str] = set()
        for (id, (revision, row)), entry in zip(rows.items(), entries, strict=True):
            if row.slot and row.keeps:
                if row.slot in used:
                    continue
                used.add(row.slot)
            plan = TransactionPlan.for_row(keys, now_us, row, slots, gates)
            plan.remove(id, row, mod_of(entry), lease=await context.removal_lease(id, row, now_us))
            if not row.final and (thread := thread_of(row)) is not None and thread.children:
                plan.add_to_settling(keys.settle(id, "k"), b"")
            changes.append(plan.change([Compare(keys.state + id, mod=revision)]))
            planned.append(id)
            wakeups.add_queued(plan)
        written = await self._writer.write(changes, guards=stamps(gates))
        context.uncache(rows)
        await context.settle(wakeups.came)
        done = {id for id, _ in written.applied(planned)}
        return [id for id in rows if id not in done]

    async def _remove_set_aside(self) -> None:
        """Remove the records that were set aside, with the arguments, results, progress and logs of the instances."""
        keys = self._keys
        while True:
            (answer,) = await self._kv.read([below(keys.set_aside, _PAGE, keys_only=True)])
            if not answer.items:
                return
            # an instance that was added again and set aside again counts twice
            self._context.counts.in_doubt = True
            changes: list[Change] = []
            for key, _ in answer.items:
                id = key[len(keys.set_aside) :]
                ops: list[Op] = [Delete(key), *(Delete(part + id) for part in (keys.args, keys.out, keys.progress))]
                prefixes = [keys.log(id)]
                if self._context.kv.durable:
                    prefixes += [keys.steps(id), keys.all_needs(id), keys.edges(id)]
                ops += [Delete(prefix, prefix_end(prefix)) for prefix in prefixes]
                changes.append(Change([], ops, (("", SET_ASIDE, -1),)))
            await self._writer.write(changes)

    async def _edit_final(self, filter: Filter, cursor: str | None, edit: Edit) -> tuple[int, str | None]:
        """Edit one page of final instances; the answer is the number of edits and the cursor of the next page."""
        keys, now_us = self._keys, self._clock.time_us()
        ids, more = await self._find_ids(None, State.FINAL, filter.bounds_us(now_us), cursor=cursor, limit=_PAGE)
        rows = await self._context.rows(ids)
        changes: list[Change] = []
        for id, (revision, row) in rows.items():
            edited = edit(id, row)
            if edited is not None and row.final:
                after, ops = edited
                compare = Compare(keys.state + id, mod=revision)
                changes.append(Change([compare], [*ops, Put(keys.state + id, encode(after))]))
        written = await self._writer.write(changes)
        self._context.uncache(rows)
        return sum(revision > 0 for revision in written.revisions), ids[-1] if more else None

    def _without_logs(self, id: str, row: Row) -> tuple[Row, list[Op]] | None:
        if row.log_first == row.log_next and not row.log_dropped:
            return None
        prefix = self._keys.log(id)
        after = replace(row, log_first=row.log_next, log_bytes=0, log_dropped=0)
        return after, [Delete(prefix, prefix_end(prefix))]


def _without_history(_id: str, row: Row) -> tuple[Row, list[Op]] | None:
    if len(row.history) < 2:
        return None
    return replace(row, history=(folded(row.history),)), []
