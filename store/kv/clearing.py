"""ClearCommands on demand: final instances, their histories, their logs, or everything."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from peerjob.model.query import Filter
from peerjob.model.state import State

from .base import Compare, Delete, Op, Put, Range
from .context import KVContext
from .counts import SET_ASIDE
from .keys import prefix_end, timed
from .reading import ReadCommands
from .removal import remove_in
from .retention import RetentionCommands
from .rows import Row, encode, folded
from .slots import StepPlan
from .writer import Change

_PAGE = 100

Edit = Callable[[str, Row], tuple[Row, list[Op]] | None]


class ClearCommands:
    """The verbs `clear…`."""

    def __init__(self, context: KVContext, reading: ReadCommands, retention: RetentionCommands) -> None:
        self._context = context
        self._reading = reading
        self._retention = retention

    async def clear_instances(self, filter: Filter, *, limit: int = 500) -> int:
        bounds_us = filter.bounds_us(self._context.clock.time_us())
        cursor: str | None = None
        removed = 0
        while removed < limit:
            # a page may hold only instances that cannot go yet, so go on until one went
            ids, more = await self._reading.ids(
                None, State.FINAL, bounds_us, cursor=cursor, limit=min(limit - removed, _PAGE)
            )
            removed += len(await self._retention.remove(ids))
            if not more:
                break
            cursor = ids[-1]
        return removed

    async def clear_history(self, filter: Filter, *, cursor: str | None = None) -> tuple[int, str | None]:
        return await self._edit(filter, cursor, _without_history)

    async def clear_logs(self, filter: Filter, *, cursor: str | None = None) -> tuple[int, str | None]:
        return await self._edit(filter, cursor, self._without_logs)

    async def clear(self) -> None:
        """Remove instance by instance, so that counts stay right whatever happens meanwhile.

        Instances that come in meanwhile may stay, as else a steady producer would keep this from its end.
        """
        context, keys = self._context, self._context.keys
        start, left = keys.state, list[str]()
        while start:
            (found,) = await context.kv.read([Range(start, prefix_end(keys.state), limit=_PAGE, keys_only=True)])
            left += await self._remove([key[len(keys.state) :] for key, _ in found.items])
            start = found.items[-1][0] + "!" if found.count > len(found.items) else ""
        while left:
            left = [id for at in range(0, len(left), _PAGE) for id in await self._remove(left[at : at + _PAGE])]
        await self._remove_leftovers()

    async def _remove(self, ids: Sequence[str]) -> list[str]:
        """Remove these; the answer has those that are left, as they share a slot or had a conflict."""
        context, keys = self._context, self._context.keys
        rows = await context.rows(ids)
        slots = await context.slots.held_by(row for _, row in rows.values())
        places = [keys.delayed(id) + timed(row.due_us, id) for id, (_, row) in rows.items()]
        entries = await context.kv.get(places)
        now_us = context.clock.time_us()
        changes: list[Change] = []
        planned: list[str] = []
        used: set[str] = set()
        for (id, (revision, row)), entry in zip(rows.items(), entries, strict=True):
            plan = StepPlan([], [], [])
            if row.slot and row.keeps:
                if row.slot in used:
                    continue
                used.add(row.slot)
                plan.slots[row.slot] = slots[row.slot]
            lease = await context.removal_lease(row, now_us)
            remove_in(context, plan, id, row, 0 if entry is None else entry.mod, now_us, lease=lease)
            changes.append(context.change(plan, [Compare(keys.state + id, mod=revision)]))
            planned.append(id)
        written = await context.writer.write(changes, now_us=now_us)
        context.drop(rows)
        done = {id for id, revision in zip(planned, written.revisions, strict=True) if revision}
        return [id for id in rows if id not in done]

    async def _remove_leftovers(self) -> None:
        """Remove what belongs to no record: what was set aside, and what it left behind."""
        context, keys = self._context, self._context.keys
        while True:
            (found,) = await context.kv.read(
                [Range(keys.set_aside, prefix_end(keys.set_aside), limit=_PAGE, keys_only=True)]
            )
            if not found.items:
                return
            ids = [key[len(keys.set_aside) :] for key, _ in found.items]
            changes = [
                Change(
                    [],
                    [
                        Delete(keys.set_aside + id),
                        *(Delete(key + id) for key in (keys.args, keys.out, keys.progress)),
                        Delete(keys.log(id), prefix_end(keys.log(id))),
                    ],
                    (("", SET_ASIDE, -1),),
                )
                for id in ids
            ]
            await context.writer.write(changes, now_us=context.clock.time_us())

    async def _edit(self, filter: Filter, cursor: str | None, edit: Edit) -> tuple[int, str | None]:
        """Rewrite a page of final instances."""
        context, keys = self._context, self._context.keys
        bounds_us = filter.bounds_us(context.clock.time_us())
        ids, more = await self._reading.ids(None, State.FINAL, bounds_us, cursor=cursor, limit=_PAGE)
        rows = await context.rows(ids)
        changes: list[Change] = []
        for id, (revision, row) in rows.items():
            edited = edit(id, row)
            if edited is not None and row.final:
                after, ops = edited
                compare = Compare(keys.state + id, mod=revision)
                changes.append(Change([compare], [*ops, Put(keys.state + id, encode(after))]))
        written = await context.writer.write(changes, now_us=context.clock.time_us())
        context.drop(rows)
        return sum(revision > 0 for revision in written.revisions), ids[-1] if more else None

    def _without_logs(self, id: str, row: Row) -> tuple[Row, list[Op]] | None:
        if row.log_first == row.log_next:
            return None
        prefix = self._context.keys.log(id)
        after = msgspec.structs.replace(row, log_first=row.log_next, log_bytes=0)
        return after, [Delete(prefix, prefix_end(prefix))]


def _without_history(_id: str, row: Row) -> tuple[Row, list[Op]] | None:
    if len(row.history) < 2:
        return None
    return msgspec.structs.replace(row, history=(folded(row.history),)), []
