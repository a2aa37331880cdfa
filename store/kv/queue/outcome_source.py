"""How outcomes of running instances change their records: the check of the claim, and what each outcome does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from msgspec.structs import replace

from peerjob.model.durable import SIGNAL_MARK, Step, Wait
from peerjob.model.record import FINAL_STATE, LAST_MOMENT_US, Ack, Action, LogLine, Outcome
from peerjob.model.state import State
from peerjob.store.kv.format.base import Compare, Found
from peerjob.store.kv.format.rows import SMALL, Out, Row, extended
from peerjob.store.kv.format.thread_rows import NO_THREAD, thread_of, with_thread
from peerjob.store.kv.write.context import KVContext
from peerjob.store.kv.write.waits import with_wait
from peerjob.store.rules import SUSPENDED

from .outcome_needs import OutcomeNeeds
from .step_values import StepValues


class InstanceUpdate(msgspec.Struct):
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


class OutcomeSource:
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
    ) -> InstanceUpdate:
        """Apply the outcomes of one instance in order."""
        revision, row = stored
        update = InstanceUpdate(id, indexes, revision, row, row)
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

    def _apply(self, update: InstanceUpdate, outcome: Outcome) -> Ack:
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

    def _keep_steps(self, update: InstanceUpdate, outcome: Outcome) -> bool:
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

    def _report(self, update: InstanceUpdate, outcome: Outcome) -> None:
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

    def _end(self, update: InstanceUpdate, outcome: Outcome) -> None:
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

    def _suspended(self, update: InstanceUpdate, row: Row, wait: Wait) -> Row:
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
