"""Scheduled or Processing → Cancelled: the verb `cancel`."""

from __future__ import annotations

from collections.abc import Sequence

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
from peerjob.store.kv.write.writer import ROUNDS

NOTE = "cancelled by user"


class CancelCommands(KVCommands):
    """The verb `cancel`."""

    @retried
    async def cancel(self, ids: Sequence[str], *, node: str = "", request: str) -> list[State | None]:
        return await self._cancel(ids, node=node, request=request, note=NOTE)

    async def _cancel(self, ids: Sequence[str], *, node: str, request: str, note: str) -> list[State | None]:
        context, keys = self._context, self._keys
        check_batch(len(ids))
        answers: dict[str, State | None] = {}
        pending = list(dict.fromkeys(ids))
        failures = 0
        while failures < ROUNDS:
            rows = await context.rows(pending)
            now_us = self._clock.time_us()
            slots = await context.slots.held_by(row for _, row in rows.values())
            live: list[str] = []
            used: set[str] = set()
            for id in pending:
                if id not in rows:
                    answers[id] = None
                elif (row := rows[id][1]).final:
                    answers[id] = row.state_before_cancel if row.cancel == request else row.state
                elif not row.slot or row.slot not in used:
                    live.append(id)
                    used.add(row.slot)
            if not live:
                return [answers[id] for id in ids]
            entries = await self._kv.get([keys.delayed(id) + timed(rows[id][1].due_us, id) for id in live])
            leaving = [(id, rows[id][1]) for id in live]
            gates = await context.gates.plan_of(leaving, (held.slot for held in slots.values()))
            wakeups = Wakeups()
            changes: list[Change] = []
            for id, entry in zip(live, entries, strict=True):
                revision, row = rows[id]
                plan = TransactionPlan.for_row(keys, now_us, row, slots, gates)
                plan.compares.append(Compare(keys.state + id, mod=revision))
                plan_cancel(context, plan, id, row, mod_of(entry), node=node, request=request, note=note)
                wakeups.add_queued(plan)
                changes.append(plan.change())
            written = await self._writer.write(changes, guards=stamps(gates))
            failures += not all(written.revisions)
            for id, _ in written.applied(live):
                row = rows[id][1]
                answers[id] = row.state
                wakeups.changed.append(id)
                if row.state is State.PROCESSING:
                    wakeups.cancelled.add(row.owner)
            context.uncache(live)
            pending = [id for id in pending if id not in answers]
            await context.hints.send(wakeups, written)
            if not pending:
                return [answers[id] for id in ids]
        raise StoreUnavailableError(context.url, "too many writers at once")


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
