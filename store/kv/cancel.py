"""Scheduled or Processing → Cancelled, by a user."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from peerjob.model.errors import StoreUnavailableError
from peerjob.model.state import State

from .base import Compare, Put
from .context import KVContext
from .enqueue import check_batch
from .hints import Wakeups
from .keys import timed
from .rows import Owned, Row, encode, extended
from .slots import StepPlan
from .writer import ROUNDS, Change

NOTE = "cancelled by user"


class CancelCommands:
    """The verb `cancel`."""

    def __init__(self, context: KVContext) -> None:
        self._context = context

    async def cancel(self, ids: Sequence[str], *, node: str = "", request: str, note: str = NOTE) -> list[State | None]:
        context, keys = self._context, self._context.keys
        check_batch(len(ids))
        answers: dict[str, State | None] = {}
        pending = list(dict.fromkeys(ids))
        failures = 0
        while failures < ROUNDS:
            rows = await context.rows(pending)
            now_us = context.clock.time_us()
            slots = await context.slots.held_by(row for _, row in rows.values())
            live: list[str] = []
            used: set[str] = set()
            for id in pending:
                if id not in rows:
                    answers[id] = None
                elif (row := rows[id][1]).final:
                    answers[id] = row.was if row.cancel == request else row.state
                elif not row.slot or row.slot not in used:
                    live.append(id)
                    used.add(row.slot)
            if not live:
                return [answers[id] for id in ids]
            entries = await context.kv.get([keys.delayed(id) + timed(rows[id][1].due_us, id) for id in live])
            wakeups = Wakeups()
            plans = [
                StepPlan([], [], [], slots={row.slot: slots[row.slot]} if (row := rows[id][1]).slot else {})
                for id in live
            ]
            changes: list[Change] = []
            for id, entry, plan in zip(live, entries, plans, strict=True):
                revision, row = rows[id]
                plan.compares.append(Compare(keys.state + id, mod=revision))
                delayed_mod = 0 if entry is None else entry.mod
                cancel_in(context, plan, id, row, delayed_mod, now_us, node=node, request=request, note=note)
                wakeups.add_queued(plan)
                changes.append(context.change(plan))
            written = await context.writer.write(changes, now_us=now_us)
            failures += not all(written.revisions)
            for id, revision in zip(live, written.revisions, strict=True):
                if revision:
                    row = rows[id][1]
                    answers[id] = row.state
                    wakeups.changed.append(id)
                    if row.state is State.PROCESSING:
                        wakeups.cancelled.add(row.owner)
            context.drop(live)
            pending = [id for id in pending if id not in answers]
            await context.hints.send(wakeups, written)
            if not pending:
                return [answers[id] for id in ids]
        raise StoreUnavailableError(context.url, "too many writers at once")


def cancel_in(
    context: KVContext,
    plan: StepPlan,
    id: str,
    row: Row,
    delayed_mod: int,
    now_us: int,
    *,
    node: str,
    request: str,
    note: str,
) -> None:
    """StepPlan the end of a live instance, all but the compare of its record.

    `delayed_mod` is the revision of its entry among the delayed ones, if it is there.
    """
    keys, ops = context.keys, plan.ops
    runs = row.state is State.PROCESSING
    cancelled = msgspec.structs.replace(
        row,
        state=State.CANCELLED,
        releasing=runs,
        cancel=request,
        was=row.state,
        expires_us=context.expires_us(row, now_us),
        history=extended(row, State.CANCELLED, now_us, node, note),
    )
    ops.append(Put(keys.state + id, encode(cancelled)))
    context.leave(id, row, plan)
    if runs:
        ops.append(
            Put(keys.owned(row.owner) + id, encode(Owned(row.fence, row.suspect, releasing=True, kind=row.kind)))
        )
    else:
        context.take_out(id, row, delayed_mod, plan)
    context.end(id, cancelled, now_us, plan)
