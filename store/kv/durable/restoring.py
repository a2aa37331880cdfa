"""The verb `restore`: instances come from another store with their steps, waits and ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from peerjob.model.durable import SIGNAL_MARK
from peerjob.model.errors import StoreFullError, StoreUnavailableError
from peerjob.model.record import Enqueued
from peerjob.model.restored import Restored
from peerjob.store.durable_checks import check_restored, states_to
from peerjob.store.kv.format.base import Compare, Op, Put
from peerjob.store.kv.format.rows import SMALL, Out, Row, encode, extended
from peerjob.store.kv.format.thread_rows import NO_THREAD, StoredThread, is_outside, thread_of, with_thread
from peerjob.store.kv.index.counts import SLOT
from peerjob.store.kv.queue.enqueue import EnqueueCommands, plan_row, row_of_new
from peerjob.store.kv.write.context import retried
from peerjob.store.kv.write.gates import stamps
from peerjob.store.kv.write.hints import Wakeups
from peerjob.store.kv.write.transaction_plan import Change, TransactionPlan
from peerjob.store.kv.write.waits import gates_of, with_wait
from peerjob.store.kv.write.writer import ROUNDS

from .entering import EndOfWait, write_ends
from .spawning import is_open, left_of


class RestoreCommands(EnqueueCommands):
    """The verb `restore`."""

    @retried
    async def restore(self, instances: Sequence[Restored], *, node: str = "") -> list[Enqueued]:
        check_restored(instances, self._kv.layout)
        if self._kv.full:
            raise StoreFullError(f"the store at {self._context.url} is nearly full and takes no new instances")
        answers: dict[int, Enqueued] = {}
        pending = dict(enumerate(instances))
        for _ in range(ROUNDS):
            if await self._complete_open(pending):
                new = {index: moved.instance for index, moved in pending.items()}
                unowned = await self._answer_known(new, answers)
                await self._add_restored({index: pending[index] for index in new}, answers, unowned, node)
                pending = {index: moved for index, moved in pending.items() if index not in answers}
            if not pending:
                return [answers[index] for index in range(len(instances))]
        raise StoreUnavailableError(self._context.url, "too many writers at once")

    # -- open instances -------------------------------------------------------------------------------------------

    async def _complete_open(self, pending: Mapping[int, Restored]) -> bool:
        """Add the missing steps of open instances, and close them. False: to be tried again."""
        context, keys = self._context, self._keys
        given = {moved.instance.id: moved for moved in pending.values() if not moved.state.is_final}
        stored = await context.rows(list(given))
        rows = {id: stored[id] for id in stored if is_open(stored[id][1])}
        names = [keys.step(id, step.name) for id in rows for step in given[id].steps]
        there = dict(zip(names, await self._kv.get(names), strict=True))
        closing = [id for id in rows if not given[id].open]
        left = dict(zip(closing, await left_of(context, closing), strict=True))
        ends: dict[str, EndOfWait] = {}
        for id, (revision, row) in rows.items():
            thread, ops, compares = thread_of(row) or NO_THREAD, list[Op](), left.get(id, [])
            for step in given[id].steps:
                if there[keys.step(id, step.name)] is None:
                    thread = thread.with_value(step.name, len(step.value))
                    ops.append(Put(keys.step(id, step.name), step.value))
            if ops or id in left:
                after = with_thread(row, replace(thread, open=id not in left))
                enters = id in left and not compares
                ends[id] = EndOfWait(revision, row, after, ops, compares, enters=enters)
        return not ends or len(await write_ends(context, ends, changed=list(ends))) == len(ends)

    # -- new instances --------------------------------------------------------------------------------------------

    async def _add_restored(
        self, pending: Mapping[int, Restored], answers: dict[int, Enqueued], unowned: Mapping[str, int], node: str
    ) -> None:
        context, keys, now_us = self._context, self._keys, self._clock.time_us()
        parents = await self._open_parents(list(pending.values()))
        rows: dict[int, Row] = {}
        for index, moved in pending.items():
            if moved.parent and moved.parent not in parents:
                answers[index] = Enqueued(moved.parent, False)
            elif moved.parent and parents[moved.parent] is None:
                answers[index] = Enqueued(moved.instance.id, True, repeated=True)
            else:
                rows[index] = self._restored_row(moved, now_us, node)
        entering = [(pending[index].instance.id, row) for index, row in rows.items() if _enters(row)]
        gates = await gates_of(context.gates, entering, now_us, is_new=True)
        wakeups = Wakeups()
        changes: list[Change] = []
        indexes: list[int] = []
        seen: set[str] = set()
        for index, row in rows.items():
            moved, new = pending[index], pending[index].instance
            unique = None if new.key is None else keys.unique(new.kind, new.key)
            if unique is not None and unique in seen:
                continue
            compares = [Compare(keys.state + new.id)]
            if unique is not None:
                seen.add(unique)
                compares.append(Compare(unique, mod=unowned.get(unique, 0)))
            if moved.parent:
                compares.append(Compare(keys.state + moved.parent, mod=parents[moved.parent] or 0))
            plan = TransactionPlan(keys, now_us, gates=gates)
            plan_row(plan, new, row, parent=moved.parent)
            plan.ops += [Put(keys.step(new.id, step.name), step.value) for step in moved.steps]
            if row.has_out:
                plan.ops.append(Put(keys.out + new.id, encode(Out(moved.result, moved.error))))
            if row.final:
                plan.ops.append(Put(keys.held(row.kind, row.state) + new.id, b""))
                plan.shifts.append((row.kind, SLOT[row.state], 1))
            elif is_outside(row):
                plan.add_outside(new.id, row)
            else:
                plan.add_scheduled(new.id, row)
            wakeups.add_queued(plan)
            wakeups.changed.append(new.id)
            changes.append(plan.change(compares))
            indexes.append(index)
        written = await self._writer.write(changes, guards=stamps(gates))
        for index, _ in written.applied(indexes):
            answers[index] = Enqueued(pending[index].instance.id, True)
        await context.hints.send(wakeups, written)

    async def _open_parents(self, children: Sequence[Restored]) -> dict[str, int | None]:
        """The revision of each known parent; None for one that is not open. Its record tells that it has children."""
        context = self._context
        rows = await context.rows([moved.parent for moved in children if moved.parent])
        parents = {id: revision if is_open(row) else None for id, (revision, row) in rows.items()}
        changes: dict[str, Change] = {}
        for id, (revision, row) in rows.items():
            thread = thread_of(row) or NO_THREAD
            if is_open(row) and not thread.children:
                put = Put(self._keys.state + id, encode(with_thread(row, replace(thread, children=True))))
                changes[id] = Change([Compare(put.key, mod=revision)], [put])
        if changes:
            written = await self._writer.write(list(changes.values()))
            context.uncache(list(changes))
            # after a conflict, the children are not added in this round
            parents |= dict(written.applied(list(changes)))
        return parents

    def _restored_row(self, moved: Restored, now_us: int, node: str) -> Row:
        row = row_of_new(moved.instance, now_us, node)
        thread = StoredThread(
            parent=moved.parent, held=bool(moved.parent), open=moved.open, waits=moved.open, needs=moved.open
        )
        for step in moved.steps:
            thread = thread.with_value(step.name, len(step.value))
        row = with_thread(row, thread)
        if moved.state.is_final:
            out = Out(moved.result, moved.error)
            for state in states_to(moved.state):
                row = replace(row, state=state, history=extended(row, state, now_us, node, ""))
            return replace(
                row,
                has_out=out.size > SMALL,
                out=out if 0 < out.size <= SMALL else None,
                expires_us=self._context.expires_us(row, now_us),
            )
        if moved.wait is None:
            return row
        is_over = any(SIGNAL_MARK + name == step.name for name in moved.wait.signals for step in moved.steps)
        return with_wait(row, moved.wait, is_over=is_over)


def _enters(row: Row) -> bool:
    return not row.final and not is_outside(row)
