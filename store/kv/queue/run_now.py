"""Scheduled and delayed → Scheduled and due: the verb `run_now`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from peerjob.model.errors import StoreUnavailableError
from peerjob.model.record import check_batch
from peerjob.model.run_now import STORED_ANSWERS, RunNow, RunNowAnswer
from peerjob.model.state import State
from peerjob.store.kv.format.base import Compare, Entry, Put, mod_of
from peerjob.store.kv.format.keys import timed
from peerjob.store.kv.format.limit_rows import limit_key_of
from peerjob.store.kv.format.rows import Row, encode, number_of
from peerjob.store.kv.format.thread_rows import is_outside, wait_of
from peerjob.store.kv.write.context import KVCommands, retried
from peerjob.store.kv.write.gates import stamps
from peerjob.store.kv.write.hints import Wakeups
from peerjob.store.kv.write.transaction_plan import Change, HeldSlot, TransactionPlan
from peerjob.store.kv.write.waits import gates_of
from peerjob.store.kv.write.writer import ROUNDS

_NUMBERS: Mapping[RunNowAnswer, int] = {answer: number for number, answer in STORED_ANSWERS.items()}


class RunNowCommands(KVCommands):
    """The verb `run_now`."""

    @retried
    async def run_now(self, ids: Sequence[str], *, request: str) -> list[RunNowAnswer]:
        context = self._context
        check_batch(len(ids))
        answers: dict[str, RunNowAnswer] = {}
        pending = list(dict.fromkeys(ids))
        for _ in range(ROUNDS):
            remembered = await self._remembered(pending, request, answers)
            pending = [id for id in pending if id not in answers]
            if not pending:
                return [answers[id] for id in ids]
            await self._try(pending, request, remembered, answers)
        raise StoreUnavailableError(context.url, "too many writers at once")

    async def _remembered(
        self, ids: Sequence[str], request: str, answers: dict[str, RunNowAnswer]
    ) -> dict[str, Compare]:
        """Add the answers that an earlier run of the request stored; for each other id, a compare that none has."""
        if not ids:
            return {}
        prefix = self._keys.run_now(request)
        compares: dict[str, Compare] = {}
        for id, entry in zip(ids, await self._kv.get([prefix + id for id in ids]), strict=True):
            number = _number_in(entry)
            if number in STORED_ANSWERS:
                answers[id] = STORED_ANSWERS[number]
            else:
                compares[id] = Compare(prefix + id, mod=mod_of(entry))
        return compares

    async def _try(
        self,
        ids: Sequence[str],
        request: str,
        compares: Mapping[str, Compare],
        answers: dict[str, RunNowAnswer],
    ) -> None:
        """Write the changes of instances and their answers; `answers` gets those whose transaction was applied."""
        context, keys = self._context, self._keys
        rows = await context.rows(ids)
        now_us = self._clock.time_us()
        slots = await context.slots.held_by(row for _, row in rows.values())
        outcomes = {id: _answer(id, rows.get(id, (0, None))[1], now_us, slots) for id in ids}
        moving = [id for id, answer in outcomes.items() if answer is RunNow.DUE_NOW]
        entries = await self._kv.get([keys.delayed(id) + timed(rows[id][1].due_us, id) for id in moving])
        delayed = dict(zip(moving, map(mod_of, entries), strict=True))
        entering = ((id, replace(rows[id][1], due_us=now_us)) for id in moving)
        gates = await gates_of(context.gates, entering, now_us)
        lease = await self._writer.short_lease()
        wakeups = Wakeups()
        changes: list[Change] = []
        for id, answer in outcomes.items():
            plan = TransactionPlan(keys, now_us)
            if answer is RunNow.DUE_NOW:
                revision, row = rows[id]
                plan = TransactionPlan.for_row(keys, now_us, row, slots, gates)
                plan.compares.append(Compare(keys.state + id, mod=revision))
                _make_due(plan, id, row, delayed[id])
                wakeups.add_queued(plan)
            plan.compares.append(compares[id])
            if lease:
                plan.ops.append(Put(compares[id].key, str(_NUMBERS[answer]).encode(), lease))
            changes.append(plan.change())
        written = await self._writer.write(changes, guards=stamps(gates))
        for id, _ in written.applied(outcomes):
            answers[id] = outcomes[id]
        wakeups.changed += [id for id in moving if id in answers]
        context.uncache(moving)
        await context.hints.send(wakeups, written)


def _answer(id: str, row: Row | None, now_us: int, slots: Mapping[str, HeldSlot]) -> RunNowAnswer:
    """What `run_now` does with an instance."""
    if row is None:
        return None
    if row.state is not State.SCHEDULED:
        return row.state
    if row.slot in slots and slots[row.slot].parks(id):
        return RunNow.PARKED
    if is_outside(row):
        return RunNow.SUSPENDED
    if row.due_us <= now_us:
        return RunNow.WAS_DUE
    return RunNow.DUE_NOW if wait_of(row) is None else RunNow.SUSPENDED


def _make_due(plan: TransactionPlan, id: str, row: Row, delayed_mod: int) -> None:
    """Plan the move of an instance from the delayed queue to its ready queue, besides the compare of its record."""
    plan.remove_from_queue(id, row, delayed_mod, returns=True)
    plan.ops.append(Put(plan.keys.state + id, encode(replace(row, due_us=plan.now_us))))
    limit_key = limit_key_of(row)
    plan.add_to_queue(id, row.kind, row.priority, plan.now_us, suspect=row.suspect, limit_key=limit_key)


def _number_in(entry: Entry | None) -> int:
    return -1 if entry is None else number_of(entry.value)
