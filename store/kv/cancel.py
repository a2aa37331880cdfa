"""Scheduled or Processing → Cancelled, by a user."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from peerjob.errors import StoreUnavailableError
from peerjob.state import State

from .base import Compare, Delete, Op, Put
from .context import Context, Plan
from .counts import DELAYED
from .enqueue import check_batch
from .hints import News
from .keys import timed
from .rows import Owned, Row, encode, extended
from .writer import ROUNDS, Change

NOTE = "cancelled by user"


class Cancels:
    """The verb `cancel`."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def cancel(self, ids: Sequence[str], *, node: str = "", request: str) -> list[State | None]:
        context, keys = self._context, self._context.keys
        check_batch(len(ids))
        answers: dict[str, State | None] = {}
        pending = list(dict.fromkeys(ids))
        for _ in range(ROUNDS):
            rows = await context.rows(pending)
            now_us = context.clock.time_us()
            live: list[str] = []
            for id in pending:
                if id not in rows:
                    answers[id] = None
                elif (row := rows[id][1]).final:
                    answers[id] = row.was if row.cancel == request else row.state
                else:
                    live.append(id)
            if not live:
                return [answers[id] for id in ids]
            entries = await context.kv.get([keys.delayed(id) + timed(rows[id][1].due_us, id) for id in live])
            news = News()
            changes = [
                self._change(id, *rows[id], 0 if entry is None else entry.mod, node, request, now_us)
                for id, entry in zip(live, entries, strict=True)
            ]
            written = await context.writer.write(changes, now_us=now_us)
            for id, revision, reads in zip(live, written.revisions, written.reads, strict=True):
                if revision:
                    row = rows[id][1]
                    answers[id] = row.state
                    news.changed.append(id)
                    news.add_watchers(keys, id, reads[0].items)
                    if row.state is State.PROCESSING:
                        news.cancelled.add(row.owner)
            context.drop(live)
            pending = [id for id in live if id not in answers]
            await context.hints.send(news, written)
        if not pending:
            return [answers[id] for id in ids]
        raise StoreUnavailableError(context.url, "too many writers at once")

    def _change(
        self, id: str, revision: int, row: Row, delayed_mod: int, node: str, request: str, now_us: int
    ) -> Change:
        context, keys = self._context, self._context.keys
        runs = row.state is State.PROCESSING
        cancelled = msgspec.structs.replace(
            row,
            state=State.CANCELLED,
            releasing=runs,
            cancel=request,
            was=row.state,
            expires_us=context.expires_us(row, now_us),
            history=extended(row, State.CANCELLED, now_us, node, NOTE),
        )
        ops: list[Op] = [Put(keys.state + id, encode(cancelled))]
        compares = [Compare(keys.state + id, mod=revision)]
        plan = Plan(ops, [], [])
        context.leave(id, row, plan)
        if runs:
            ops.append(Put(keys.owned(row.owner) + id, encode(Owned(row.fence, row.suspect, releasing=True))))
        else:
            place = timed(row.due_us, id)
            ops.append(Delete(keys.ready(row.kind, row.priority, suspect=row.suspect) + place))
            ops.append(Delete(keys.delayed(id) + place))
            compares.append(Compare(keys.delayed(id) + place, mod=delayed_mod))
            if delayed_mod:
                plan.shifts.append(("", DELAYED, -1))
        context.end(id, cancelled, plan)
        return Change(compares, ops, tuple(plan.shifts), tuple(plan.adds), plan.reads)
