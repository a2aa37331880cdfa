"""Writes an unreadable slot anew, from the records of the instances that the ledger of the schedule names."""

from __future__ import annotations

from peerjob.model.state import State
from peerjob.store.kv.format.base import Compare, Entry, Range, mod_of
from peerjob.store.kv.format.keys import prefix_end, timed
from peerjob.store.kv.format.rows import Row
from peerjob.store.kv.format.schedule_rows import Parked, SlotRow, decode_fire, decode_next_fire
from peerjob.store.kv.format.thread_rows import is_outside
from peerjob.store.kv.write.context import KVContext
from peerjob.store.kv.write.gates import GatePlan
from peerjob.store.kv.write.hints import Wakeups
from peerjob.store.kv.write.transaction_plan import HeldSlot, TransactionPlan

_MAX_FIRES = 500
"""Most fires that a repair reads, the latest first: more instances than wait for any slot."""


class SlotRepair:
    """Finds out which instance holds a slot and which ones wait for it."""

    def __init__(self, context: KVContext) -> None:
        self._context = context

    async def write(self, name: str, entry: Entry) -> None:
        """Write the slot of a schedule. If no instance holds it, the first one that waits gets it and enters its queue.

        Another store may write the slot first, so the caller reads it again.
        """
        context, keys = self._context, self._context.keys
        rows = {id: row for id, row in (await self._instances(name)).items() if row[1].slot == name and row[1].keeps}
        running = [id for id, (_, row) in rows.items() if row.state is not State.SCHEDULED]
        gates = await context.gates.plan_of((id, row) for id, (_, row) in rows.items())
        # an instance that waits in no queue has run, so it holds the slot
        outside = [id for id, (_, row) in rows.items() if is_outside(row)]
        queued = [*outside, *(id for id in await self._queued(rows, gates) if id not in running)]
        holder = next(iter([*running, *queued]), "")
        parked = [Parked.of(id, row) for id, (_, row) in rows.items() if id not in running and id not in queued]
        held = HeldSlot(entry.mod, SlotRow(holder, tuple(parked)), touched=True)
        plan = TransactionPlan(keys, context.clock.time_us(), {name: held}, gates=gates)
        compares: list[Compare] = []
        if not holder and parked:
            compares.append(Compare(keys.state + parked[0].id, mod=rows[parked[0].id][0]))
            plan.pass_slot_on(name, "")
        wakeups = Wakeups()
        wakeups.add_queued(plan)
        written = await context.writer.write([plan.change(compares)])
        await context.hints.send(wakeups, written)

    async def _instances(self, name: str) -> dict[str, tuple[int, Row]]:
        """Revisions and records of the instances of the latest fires, the earliest first."""
        context, keys = self._context, self._context.keys
        (entry,) = await context.kv.get([keys.next_fire(name)])
        next_fire = context.decoded(entry, keys.next_fire(name), decode_next_fire)
        if next_fire is None:
            return {}
        ledger = keys.ledger(next_fire.epoch)
        (answer,) = await context.kv.read([Range(ledger, prefix_end(ledger), _MAX_FIRES, reverse=True)])
        records = [context.decoded(entry, key, decode_fire) for key, entry in reversed(answer.items)]
        return await context.rows([record.instance for record in records if record is not None and record.instance])

    async def _queued(self, rows: dict[str, tuple[int, Row]], gates: GatePlan | None) -> list[str]:
        """The Scheduled instances that are in a queue, and so do not wait for the slot."""
        keys = self._context.keys
        positions: list[tuple[str, str]] = []
        for id, (_, row) in rows.items():
            position = timed(row.due_us, id)
            ready = keys.ready(row.kind, row.priority, suspect=row.suspect)
            positions += [(id, ready + position), (id, keys.delayed(id) + position)]
        entries = await self._context.kv.get([key for _, key in positions]) if positions else []
        queued = [id for (id, _), entry in zip(positions, entries, strict=True) if mod_of(entry)]
        return list(dict.fromkeys([*queued, *(() if gates is None else gates.known)]))
