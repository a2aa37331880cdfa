"""Outcomes and reports of running instances, accepted only with the fence and the incarnation of the claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from msgspec.structs import replace

from peerjob.model.durable import SIGNAL_MARK, Step, Wait
from peerjob.model.errors import StoreUnavailableError
from peerjob.model.record import FINAL_STATE, LAST_MOMENT_US, Ack, Action, LogLine, Outcome, any_durable, check_batch
from peerjob.model.state import State
from peerjob.store.durable_checks import check_outcomes
from peerjob.store.kv.format.base import MAX_ALONE_BYTES, Compare, Delete, Found, Put
from peerjob.store.kv.format.limit_rows import limit_key_of
from peerjob.store.kv.format.rows import SMALL, Out, Row, encode, extended
from peerjob.store.kv.format.thread_rows import NO_THREAD, is_outside, thread_of, with_thread
from peerjob.store.kv.write.answers import AnswerLog
from peerjob.store.kv.write.context import KVContext, retried
from peerjob.store.kv.write.gates import GatePlan, stamps
from peerjob.store.kv.write.hints import Wakeups
from peerjob.store.kv.write.transaction_plan import Change, HeldSlot, TransactionPlan
from peerjob.store.kv.write.waits import with_wait
from peerjob.store.kv.write.writer import ROUNDS
from peerjob.store.rules import SUSPENDED

from .logs import LogCommands
from .outcome_needs import OutcomeNeeds
from .retention import RetentionCommands
from .step_values import StepValues

_FEW_KINDS = 4
"""The write of the ends of instances of at most so many kinds also reads what the removal of others depends on."""


class _InstanceUpdate(msgspec.Struct):
    """The update of one instance by the outcomes of one call."""

    id: str
    indexes: list[int]
    revision: int
    stored: Row
    row: Row
    acks: list[Ack] = []
    logs: tuple[LogLine, ...] = ()
    out: Out | None = None
    progress: bytes | None = None
    steps: Mapping[str, bytes] | None = None
    """Values to keep, by their keys."""
    compares: tuple[Compare, ...] = ()
    """That values which were not read are absent, and that needs are left."""

    @property
    def changed(self) -> bool:
        return self.row is not self.stored

    @property
    def ends(self) -> bool:
        """Whether the claim ends, or the body of the cancelled instance."""
        return self.row.state is not self.stored.state or (self.stored.releasing and not self.row.releasing)

    def end_with(self, result: bytes | None, error: bytes | None) -> tuple[bool, Out | None]:
        """Set result and error, under a separate key if large; the answer is `has_out` and `out` for the record."""
        out = None if result is None and error is None else Out(result, error)
        if out is None or out.size <= SMALL:
            self.out = None
            return False, out
        self.out = out
        return True, None

    @property
    def answers(self) -> tuple[tuple[int, str], ...]:
        return tuple(zip(self.indexes, self.acks, strict=True))


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
        source = _OutcomeSource(context, incarnation, await context.name_of(incarnation), request, durable=durable)
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
        source: _OutcomeSource,
        acks: dict[int, Ack],
        *,
        cached: bool,
    ) -> list[_InstanceUpdate]:
        """The updates for the pending outcomes. Outcomes of instances that do not exist are answered with LOST."""
        context = self._context
        source.now_us = self._clock.time_us()
        updates: list[_InstanceUpdate] = []
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
        source: _OutcomeSource,
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
        updates: Sequence[_InstanceUpdate],
        source: _OutcomeSource,
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
            update = _InstanceUpdate(id, [], revision, row, row, logs=tuple(lines))
            written = await self._writer.write([await self._update_change(update, now_us, Wakeups(), {})])
            context.uncache((id,))
            if all(written.revisions):
                await context.hints.send(Wakeups(changed=[id]), written)
                return True
        raise StoreUnavailableError(context.url, "too many writers at once")

    async def _update_change(
        self,
        update: _InstanceUpdate,
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


class _OutcomeSource:
    """Checks the claim of each outcome (fence and incarnation), and applies the outcome."""

    def __init__(self, context: KVContext, incarnation: str, node: str, request: str, *, durable: bool) -> None:
        self._context = context
        self.incarnation = incarnation
        self._node = node
        self._request = request
        self.now_us = 0
        self.durable = durable
        """Whether an outcome has steps, needs or a wait. Only then there are `values` and `needs`."""
        if durable:
            self.values = StepValues(context.keys)
            self.needs = OutcomeNeeds(context)
        self.settles: list[str] = []
        """Keys below `settle/` that the call has written."""
        self.surplus: tuple[Sequence[str], Sequence[Found]] = (), ()
        """Kinds of instances that the last write ended, and the answers to their `_surplus_reads`."""

    def runs(self, outcome: Outcome, row: Row) -> bool:
        """Whether an outcome is about a claim that has not ended."""
        claim = (row.state, row.owner, row.fence)
        repeated = row.request == self._request
        return claim == (State.PROCESSING, self.incarnation, outcome.fence) and not repeated

    def check(
        self, id: str, indexes: list[int], stored: tuple[int, Row], outcomes: Sequence[Outcome]
    ) -> _InstanceUpdate:
        """Apply the outcomes of one instance in order."""
        revision, row = stored
        update = _InstanceUpdate(id, indexes, revision, row, row)
        ended = False
        for index in update.indexes:
            outcome = outcomes[index]
            if row.request != self._request or row.fence != outcome.fence:
                update.acks.append(self._apply(update, outcome))
            elif ended and not (row.final and _is_only_logs(outcome)):
                update.acks.append(Ack.LOST)
            else:
                # an earlier run of the request has applied the outcome
                update.acks.append(Ack.CANCELLED if row.cancel else Ack.DONE)
                ended = ended or not (
                    outcome.action is Action.REPORT or (outcome.action is Action.RELEASE and not row.cancel)
                )
        return update

    def _apply(self, update: _InstanceUpdate, outcome: Outcome) -> Ack:
        row = update.row
        if row.owner != self.incarnation or row.fence != outcome.fence:
            return Ack.LOST
        if row.state is State.PROCESSING:
            if outcome.steps and not self._keep_steps(update, outcome):
                return Ack.TAKEN
            if outcome.action is Action.REPORT or outcome.action is Action.RELEASE:
                self._report(update, outcome)
            else:
                self._end(update, outcome)
            return Ack.DONE
        if row.releasing:
            if outcome.action is not Action.REPORT:
                update.row = replace(row, releasing=False, owner="", request=self._request)
            return Ack.CANCELLED
        if row.final and _is_only_logs(outcome):
            update.logs += outcome.logs
            update.row = replace(row, request=self._request)
            return Ack.DONE
        return Ack.LOST

    def _keep_steps(self, update: _InstanceUpdate, outcome: Outcome) -> bool:
        """Add the new steps of an outcome, which set crashes and losses to 0; False if a name has another value."""
        known, kept, new = self.values.known, update.steps or {}, dict[str, Step]()
        for step in outcome.steps:
            key = self.values.key(update.id, step.name)
            value = kept.get(key, known.get(key))
            if value is None:
                new[key] = step
            elif value != step.value:
                return False
        if new:
            thread = thread_of(update.row) or NO_THREAD
            for step in new.values():
                thread = thread.with_value(step.name, len(step.value))
            update.steps = {**kept, **{key: step.value for key, step in new.items()}}
            update.compares += tuple(Compare(key) for key in new if key not in known)
            row = with_thread(update.row, thread)
            update.row = replace(row, crashes=0, losses=0, request=self._request)
        return True

    def _report(self, update: _InstanceUpdate, outcome: Outcome) -> None:
        row = update.row
        if not (outcome.logs or outcome.progress is not None or outcome.started > row.started):
            return
        update.logs += outcome.logs
        update.progress = update.progress if outcome.progress is None else outcome.progress
        update.row = replace(
            row,
            started=row.started or outcome.started,
            has_progress=row.has_progress or outcome.progress is not None,
            request=self._request,
        )

    def _end(self, update: _InstanceUpdate, outcome: Outcome) -> None:
        row, action = update.row, outcome.action
        update.logs += outcome.logs
        update.progress = update.progress if outcome.progress is None else outcome.progress
        state = FINAL_STATE.get(action, State.SCHEDULED)
        has_out, out = row.has_out, row.out
        attempts, due_us, owner, expires_us = row.attempts, row.due_us, "", 0
        if state is not State.SCHEDULED:
            owner = row.owner
            expires_us = self._context.expires_us(row, self.now_us)
            has_out, out = update.end_with(outcome.result, outcome.error)
        else:
            if action is not Action.RETRY:
                attempts -= 1
            if action is not Action.HAND_BACK:
                if outcome.wait is None:
                    due_us = min(self.now_us + max(0, outcome.delay_us), LAST_MOMENT_US)
                if outcome.error is not None:
                    has_out, out = update.end_with(None, outcome.error)
        after = replace(
            row,
            state=state,
            attempts=attempts,
            due_us=due_us,
            owner=owner,
            has_out=has_out,
            out=out,
            has_progress=row.has_progress or outcome.progress is not None,
            expires_us=expires_us,
            request=self._request,
            history=extended(row, state, self.now_us, self._node, outcome.note or (SUSPENDED if outcome.wait else "")),
        )
        update.row = after if outcome.wait is None else self._suspended(update, after, outcome.wait)

    def _suspended(self, update: _InstanceUpdate, row: Row, wait: Wait) -> Row:
        """The record of an instance that was suspended: it waits, or enters its queue, if the wait is over."""
        keys = [self.values.key(update.id, SIGNAL_MARK + name) for name in wait.signals]
        is_over = any(key in (update.steps or ()) or self.values.known.get(key) is not None for key in keys)
        if wait.needs and not is_over:
            left = self.needs.left.get(update.id)
            is_over = left is None
            # the settling of the need that is left comes after this transaction, and ends the wait
            update.compares += () if left is None else (left,)
        return with_wait(replace(row, crashes=0, losses=0), wait, is_over=is_over)


def _is_only_logs(outcome: Outcome) -> bool:
    """Whether an outcome has log lines and nothing else."""
    return (
        outcome.action is Action.REPORT
        and bool(outcome.logs)
        and outcome.result is None
        and outcome.error is None
        and outcome.progress is None
        and not outcome.started
        and not (outcome.steps or outcome.needs)
    )
