"""Scheduled or Processing → Cancelled: the verb `cancel`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from peerjob.model.errors import StoreUnavailableError
from peerjob.model.record import check_batch
from peerjob.model.state import State
from peerjob.store.kv.format.base import Compare, Put, mod_of
from peerjob.store.kv.format.keys import timed
from peerjob.store.kv.format.rows import Owned, Row, encode, extended
from peerjob.store.kv.write.context import KVCommands, KVContext, retried
from peerjob.store.kv.write.gates import stamps
from peerjob.store.kv.write.hints import Wakeups
from peerjob.store.kv.write.transaction_plan import Change, TransactionPlan
from peerjob.store.kv.write.writer import ROUNDS, Written

NOTE = "cancelled by user"


class CancelCommands(KVCommands):
    """The verb `cancel`."""

    @retried
    async def cancel(self, ids: Sequence[str], *, node: str = "", request: str) -> list[State | None]:
        return await self._cancel(ids, node=node, request=request, note=NOTE)

    async def _cancel(self, ids: Sequence[str], *, node: str, request: str, note: str) -> list[State | None]:
        check_batch(len(ids))
        settles: list[str] = []
        states = await cancel_instances(
            self._context, ids, lambda _, row: (row, note), node=node, request=request, settles=settles
        )
        await self._context.hints.settle(settles)
        return [states[id] for id in ids]


Choose = Callable[[str, Row], tuple[Row, str] | None]
"""Gives the record to cancel, which can differ in its last field, and the note; None: the instance is not cancelled."""


async def cancel_instances(
    context: KVContext,
    ids: Sequence[str],
    choose: Choose,
    *,
    node: str = "",
    request: str,
    settles: list[str],
) -> dict[str, State | None]:
    """Cancel instances in one transaction each; the answer is the earlier state of each.

    `settles` gets the keys below `settle/` that were written, which are to be settled.
    """
    answers: dict[str, State | None] = {}
    failures = 0
    while failures < ROUNDS:
        pending = list(dict.fromkeys(id for id in ids if id not in answers))
        if not pending:
            return answers
        rows = await context.rows(pending)
        chosen = _chosen(pending, rows, choose, request, answers)
        wakeups = Wakeups()
        written = await _write(context, rows, chosen, wakeups, node=node, request=request)
        failures += not all(written.revisions)
        for id, _ in written.applied(chosen):
            row = rows[id][1]
            answers[id] = row.state
            wakeups.changed.append(id)
            if row.state is State.PROCESSING:
                wakeups.cancelled.add(row.owner)
        context.uncache(chosen)
        settles += written.take_settles()
        await context.hints.send(wakeups, written)
    raise StoreUnavailableError(context.url, "too many writers at once")


def _chosen(
    ids: Sequence[str],
    rows: Mapping[str, tuple[int, Row]],
    choose: Choose,
    request: str,
    answers: dict[str, State | None],
) -> dict[str, tuple[Row, str]]:
    """What one request cancels: of the instances in one slot, only the first. `answers` gets the others."""
    chosen: dict[str, tuple[Row, str]] = {}
    used: set[str] = set()
    for id in ids:
        if id not in rows:
            answers[id] = None
        elif (row := rows[id][1]).final:
            answers[id] = row.state_before_cancel if row.cancel == request else row.state
        elif not row.slot or row.slot not in used:
            choice = choose(id, row)
            if choice is None:
                answers[id] = row.state
            else:
                chosen[id] = choice
                used.add(row.slot)
    return chosen


async def _write(
    context: KVContext,
    rows: Mapping[str, tuple[int, Row]],
    chosen: Mapping[str, tuple[Row, str]],
    wakeups: Wakeups,
    *,
    node: str,
    request: str,
) -> Written:
    keys, now_us = context.keys, context.clock.time_us()
    slots = await context.slots.held_by(rows[id][1] for id in chosen)
    entries = await context.kv.get([keys.delayed(id) + timed(rows[id][1].due_us, id) for id in chosen])
    leaving = [(id, rows[id][1]) for id in chosen]
    gates = await context.gates.plan_of(leaving, (held.slot for held in slots.values()))
    changes: list[Change] = []
    for (id, (row, note)), entry in zip(chosen.items(), entries, strict=True):
        plan = TransactionPlan.for_row(keys, now_us, row, slots, gates)
        plan.compares.append(Compare(keys.state + id, mod=rows[id][0]))
        plan_cancel(context, plan, id, row, mod_of(entry), node=node, request=request, note=note)
        wakeups.add_queued(plan)
        changes.append(plan.change())
    return await context.writer.write(changes, guards=stamps(gates))


def plan_cancel(
    context: KVContext,
    plan: TransactionPlan,
    id: str,
    row: Row,
    delayed_mod: int,
    *,
    node: str,
    request: str,
    note: str,
) -> None:
    """Plan the cancellation of an instance that is not final, besides the compare of its record.

    `delayed_mod` is the revision of its entry in the delayed queue, 0 if there is none.
    """
    keys = plan.keys
    runs = row.state is State.PROCESSING
    cancelled = replace(
        row,
        state=State.CANCELLED,
        releasing=runs,
        cancel=request,
        state_before_cancel=row.state,
        expires_us=context.expires_us(row, plan.now_us),
        history=extended(row, State.CANCELLED, plan.now_us, node, note),
    )
    plan.ops.append(Put(keys.state + id, encode(cancelled)))
    plan.remove_from_index(id, row)
    if runs:
        claim = Owned(row.fence, row.suspect, releasing=True, kind=row.kind)
        plan.ops.append(Put(keys.owned(row.owner) + id, encode(claim)))
    else:
        plan.remove_from_queue(id, row, delayed_mod)
    plan.add_final(id, cancelled)
