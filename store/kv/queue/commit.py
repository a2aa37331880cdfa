"""Outcomes and reports of running instances, accepted only with the fence and the incarnation of the claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from peerjob.model.errors import StoreUnavailableError
from peerjob.model.record import FINAL_STATE, Ack, Action, LogLine, Outcome, any_durable, check_batch
from peerjob.store.durable_checks import check_outcomes
from peerjob.store.kv.format.base import MAX_ALONE_BYTES, Compare, Delete, Put
from peerjob.store.kv.format.limit_rows import limit_key_of
from peerjob.store.kv.format.rows import Row, encode
from peerjob.store.kv.format.thread_rows import is_outside
from peerjob.store.kv.write.answers import AnswerLog
from peerjob.store.kv.write.context import retried
from peerjob.store.kv.write.gates import GatePlan, stamps
from peerjob.store.kv.write.hints import Wakeups
from peerjob.store.kv.write.transaction_plan import Change, HeldSlot, TransactionPlan
from peerjob.store.kv.write.writer import ROUNDS

from .logs import LogCommands
from .outcome_source import InstanceUpdate, OutcomeSource
from .retention import RetentionCommands

_FEW_KINDS = 4
"""The write of the ends of instances of at most so many kinds also reads what the removal of others depends on."""


class CommitCommands(LogCommands, RetentionCommands):
    """The verbs `commit` and `add_lines`."""

    @retried
    async def commit(self, incarnation: str, outcomes: Sequence[Outcome], *, request: str) -> list[Ack]:
        return await self._commit(incarnation, outcomes, request, "commit")

    async def _commit(
        self,
        incarnation: str,
        outcomes: Sequence[Outcome],
        request: str,
        verb: str,
        *,
        later: Wakeups | None = None,
    ) -> list[Ack]:
        """See `commit`. `later` gets what nodes are woken for after the claim that follows."""
        context = self._context
        check_batch(len(outcomes))
        if not outcomes:
            return []
        answer_log = await context.answer_logs.open(incarnation, verb, request)
        acks = {index: Ack(answer) for index, answer in answer_log.answers.items()}
        pending: dict[str, list[int]] = {}
        for index, outcome in enumerate(outcomes):
            if index not in acks:
                pending.setdefault(outcome.id, []).append(index)
        durable = any_durable(outcomes)
        if durable:
            check_outcomes(outcomes, context.kv.layout)
        source = OutcomeSource(context, incarnation, await context.name_of(incarnation), request, durable=durable)
        ended: dict[str, int] = {}
        for attempt in range(ROUNDS):
            updates = await self._check_outcomes(pending, outcomes, source, acks, cached=attempt == 0)
            await self._write_updates(updates, source, answer_log, acks, ended, later)
            for update in updates:
                if update.indexes[0] in acks:
                    del pending[update.id]
            if not pending:
                over = (outcome.id for outcome in outcomes if outcome.action is not Action.REPORT)
                context.own_hints.over(incarnation, over)
                await self._remove_surplus(ended, source.surplus)
                if source.settles:
                    await context.hints.settle(source.settles, incarnation)
                return [acks[index] for index in range(len(outcomes))]
        raise StoreUnavailableError(context.url, "too many writers at once")

    def _may_let_go(self, outcomes: Sequence[Outcome]) -> bool:
        """Whether a claim may find more after the outcomes: the same instance, the next of its schedule, or permits."""
        return not all(
            outcome.action is Action.REPORT
            or (outcome.action in FINAL_STATE and self._context.frees_nothing(outcome.id))
            for outcome in outcomes
        )

    async def _check_outcomes(
        self,
        pending: dict[str, list[int]],
        outcomes: Sequence[Outcome],
        source: OutcomeSource,
        acks: dict[int, Ack],
        *,
        cached: bool,
    ) -> list[InstanceUpdate]:
        """The updates for the pending outcomes. Outcomes of instances that do not exist are answered with LOST."""
        context = self._context
        source.now_us = self._clock.time_us()
        updates: list[InstanceUpdate] = []
        unchanged: list[str] = []
        rows = await context.rows(list(pending), cached=cached)
        if source.durable:
            await self._prepare(source, outcomes, pending, rows, again=not cached)
        for id, indexes in pending.items():
            if id in rows:
                update = source.check(id, indexes, rows[id], outcomes)
                if update.changed or not (cached and context.is_cached(id)):
                    updates.append(update)
                else:
                    unchanged.append(id)
            else:
                acks.update((index, Ack.LOST) for index in indexes)
        if unchanged:
            # an outcome that changes no record is not compared with the stored record, so a cached record could be old:
            # read again
            context.uncache(unchanged)
            rows = await context.rows(unchanged)
            if source.durable:
                await self._prepare(source, outcomes, {id: pending[id] for id in unchanged}, rows, again=True)
            for id in unchanged:
                if id in rows:
                    updates.append(source.check(id, pending[id], rows[id], outcomes))
                else:
                    acks.update((index, Ack.LOST) for index in pending[id])
        for id in [id for id, indexes in pending.items() if indexes[0] in acks]:
            del pending[id]
        return updates

    async def _prepare(
        self,
        source: OutcomeSource,
        outcomes: Sequence[Outcome],
        pending: Mapping[str, Sequence[int]],
        rows: Mapping[str, tuple[int, Row]],
        *,
        again: bool,
    ) -> None:
        """Read the values on which outcomes depend, and attach their needs."""
        wanted = [outcomes[index] for indexes in pending.values() for index in indexes]
        await source.values.read(self._context.kv, wanted, rows, again=again)
        known = [outcome for outcome in wanted if outcome.id in rows and not source.values.is_taken(outcome)]
        running = [outcome for outcome in known if source.runs(outcome, rows[outcome.id][1])]
        await source.needs.attach(source.incarnation, running)

    async def _write_updates(
        self,
        updates: Sequence[InstanceUpdate],
        source: OutcomeSource,
        answer_log: AnswerLog,
        acks: dict[int, Ack],
        ended: dict[str, int],
        later: Wakeups | None,
    ) -> None:
        context = self._context
        wakeups = Wakeups()
        changing = [update for update in updates if update.changed]
        slots = await context.slots.held_by(update.stored for update in changing if not update.row.keeps)
        ending = [(update.id, update.stored) for update in changing if update.ends]
        gates = await context.gates.plan_of(ending, (held.slot for held in slots.values()))
        if gates is not None:
            gates.returning |= {
                (update.row.kind, limit_key[0])
                for update in changing
                if update.ends and not update.row.final and update.row.due_us <= source.now_us
                if not is_outside(update.row)
                if (limit_key := limit_key_of(update.row)) is not None
            }
        for update in updates:
            if not update.changed:
                acks.update(zip(update.indexes, update.acks, strict=True))
                answer_log.extra += update.answers
        changes = [await self._update_change(update, source.now_us, wakeups, slots, gates) for update in changing]
        kinds = list(dict.fromkeys(update.row.kind for update in changing if update.row.final))
        reads = self._surplus_reads(kinds) if len(kinds) <= _FEW_KINDS else []
        with context.own_hints.relied_on(context.own_hints.ends(update.id for update in changing if update.row.final)):
            written = await self._writer.write(changes, answer_log=answer_log, guards=stamps(gates), reads=reads)
        source.surplus = kinds, written.read
        for update, revision in zip(changing, written.revisions, strict=True):
            if not revision:
                context.uncache((update.id,))
                continue
            acks.update(zip(update.indexes, update.acks, strict=True))
            wakeups.changed.append(update.id)
            if update.row.final:
                context.uncache((update.id,))
                context.own_hints.ended(update.id, update.row)
                if not update.stored.final:
                    ended[update.row.kind] = ended.get(update.row.kind, 0) + 1
            else:
                context.cache(update.id, revision, update.row)
        if written.settles:
            source.settles += written.take_settles()
        await context.hints.send(wakeups, written, later=later)

    async def add_lines(self, id: str, lines: Sequence[LogLine]) -> bool:
        # not retried: lines have no request id, so a repeated call would append them twice
        context = self._context
        check_batch(len(lines))
        for _ in range(ROUNDS):
            rows = await context.rows([id])
            if id not in rows:
                return False
            revision, row = rows[id]
            now_us = self._clock.time_us()
            update = InstanceUpdate(id, [], revision, row, row, logs=tuple(lines))
            written = await self._writer.write([await self._update_change(update, now_us, Wakeups(), {})])
            context.uncache((id,))
            if all(written.revisions):
                await context.hints.send(Wakeups(changed=[id]), written)
                return True
        raise StoreUnavailableError(context.url, "too many writers at once")

    async def _update_change(
        self,
        update: InstanceUpdate,
        now_us: int,
        wakeups: Wakeups,
        slots: Mapping[str, HeldSlot],
        gates: GatePlan | None = None,
    ) -> Change:
        keys, id, stored = self._keys, update.id, update.stored
        plan = TransactionPlan.for_row(keys, now_us, stored, slots, gates)
        ops = plan.ops
        payload = len(update.progress or b"")
        if update.steps is not None:
            payload += sum(map(len, update.steps.values()))
            ops.extend(Put(key, value) for key, value in update.steps.items())
        if update.out is not None:
            payload += update.out.size
        if update.logs:
            bytes_left = MAX_ALONE_BYTES - payload
            update.row = await self._append_lines(id, update.row, update.logs, ops, bytes_left=bytes_left)
        row = update.row
        if update.progress is not None:
            ops.append(Put(keys.progress + id, update.progress))
        if update.out is not None:
            ops.append(Put(keys.out + id, encode(update.out)))
        elif stored.has_out and not row.has_out:
            ops.append(Delete(keys.out + id))
        if update.compares:
            plan.compares.extend(update.compares)
        if update.ends:
            plan.end_claim(id, stored, row)
        if row.final:
            ops.extend(Delete(keys.watch(id) + waiting) for waiting in self._context.own_hints.waiting(id))
        ops.append(Put(keys.state + id, encode(row)))
        wakeups.add_queued(plan)
        return plan.change([Compare(keys.state + id, mod=update.revision)], answers=update.answers)
