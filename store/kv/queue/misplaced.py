"""Entries of ready queues that do not match the record of their instance."""

from __future__ import annotations

from collections.abc import Sequence

from peerjob.model.state import State
from peerjob.store.kv.format.base import Compare, Delete, mod_of
from peerjob.store.kv.format.keys import timed
from peerjob.store.kv.format.limit_rows import limit_key_of
from peerjob.store.kv.format.rows import Row
from peerjob.store.kv.format.thread_rows import is_outside
from peerjob.store.kv.index.counts import READY
from peerjob.store.kv.write.context import KVContext
from peerjob.store.kv.write.hints import Wakeups
from peerjob.store.kv.write.transaction_plan import Change, HeldSlot, TransactionPlan

from .claim_select import Pick


class MisplacedEntries:
    """Removes such entries.

    Most are of an instance that another store has just moved or claimed. An entry that a damaged value led to a wrong
    queue can be the only one of its instance, so the instance is added to the queue that its record names.
    """

    def __init__(self, context: KVContext) -> None:
        self._context = context

    async def remove(self, picks: Sequence[Pick], now_us: int) -> None:
        """Remove the entries. An instance that still waits gets an entry, unless it has the right one."""
        context = self._context
        entries = await context.kv.get([pick.key for pick in picks])
        picks = [pick for pick, entry in zip(picks, entries, strict=True) if mod_of(entry) == pick.mod]
        if not picks:
            return
        rows = await context.rows([pick.id for pick in picks])
        slots = await context.slots.held_by(row for _, row in rows.values())
        moved: list[tuple[Pick, Change]] = []
        gone: list[Pick] = []
        wakeups = Wakeups()
        for pick in picks:
            revision, row = rows.get(pick.id, (0, None))
            held = None if row is None else slots.get(row.slot)
            # an instance with a limit key has its permit, by which a check of limits finds it
            waits = row is not None and row.state is State.SCHEDULED and limit_key_of(row) is None
            if row is None or not waits or is_outside(row) or (held is not None and held.slot.holder != pick.id):
                gone.append(pick)
                continue
            right = self._context.keys.ready(row.kind, row.priority, suspect=row.suspect) + timed(row.due_us, pick.id)
            if right == pick.key:
                continue  # the instance was claimed and handed back meanwhile, so its entry is a new one
            plan = TransactionPlan(context.keys, now_us)
            plan.add_to_queue(pick.id, row.kind, row.priority, row.due_us, suspect=row.suspect)
            moved.append((pick, self._move(plan, pick, right, revision, row, held)))
            wakeups.add_queued(plan)
        written = await context.writer.write([change for _, change in moved])
        await context.hints.send(wakeups, written)
        gone += [pick for (pick, _), revision in zip(moved, written.revisions, strict=True) if not revision]
        await context.writer.write([_removal(pick) for pick in gone])

    def _move(
        self, plan: TransactionPlan, pick: Pick, right: str, revision: int, row: Row, held: HeldSlot | None
    ) -> Change:
        """The transaction that replaces the entry, if the instance has no entry in another queue."""
        keys = self._context.keys
        compares = [
            Compare(pick.key, mod=pick.mod),
            Compare(keys.state + pick.id, mod=revision),
            Compare(right),
            Compare(keys.delayed(pick.id) + timed(row.due_us, pick.id)),
        ]
        if held is not None:
            compares.append(Compare(keys.slot(row.slot), mod=held.mod))
        plan.ops.append(Delete(pick.key))
        plan.shifts.append((pick.kind, READY, -1))
        return plan.change(compares)


def _removal(pick: Pick) -> Change:
    return Change([Compare(pick.key, mod=pick.mod)], [Delete(pick.key)], ((pick.kind, READY, -1),))
