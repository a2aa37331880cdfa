"""Outcomes and reports of running instances: the commands `commit` and `add_lines`."""

from __future__ import annotations

from collections.abc import Sequence

from peerjob.model.record import FINAL_STATE, LAST_MOMENT_US, Ack, Action, LogLine, Outcome, check_batch
from peerjob.model.state import State
from peerjob.store.durable_checks import check_outcomes
from peerjob.store.rules import SUSPENDED

from . import gates
from .durable import add_steps, is_taken, suspend
from .edges import attach
from .ends import end, release
from .queues import add_to_queue
from .retention import remove_some
from .shared_limits import claim_ends
from .state import InstanceData
from .transaction import ReferenceTransaction


def commit(
    transaction: ReferenceTransaction,
    incarnation: str,
    outcomes: Sequence[Outcome],
    *,
    request: str,
    command: str = "commit",
) -> list[Ack]:
    """Apply outcomes in order, then remove up to twice as many old instances as have ended."""
    check_batch(len(outcomes))
    check_outcomes(outcomes, transaction.state.layout)

    def run() -> list[Ack]:
        acks = [_apply(transaction, incarnation, outcome) for outcome in outcomes]
        remove_some(transaction, 2 * transaction.ended)
        return acks

    return transaction.idempotent(incarnation, command, request, run)


def _apply(transaction: ReferenceTransaction, incarnation: str, outcome: Outcome) -> Ack:
    """Apply one outcome, if fence and incarnation are those of the last claim and the run has not ended."""
    instance = transaction.state.instances.get(outcome.id)
    if instance is None or (instance.owner, instance.fence) != (incarnation, outcome.fence):
        return Ack.LOST
    if instance.state is State.PROCESSING:
        if is_taken(instance, outcome.steps):
            return Ack.TAKEN
        _report(transaction, instance, outcome)
        if outcome.action not in (Action.REPORT, Action.RELEASE):
            _end_run(transaction, instance, outcome)
        return Ack.DONE
    if instance.releasing:
        if outcome.action is not Action.REPORT:
            release(transaction, instance)
        return Ack.CANCELLED
    if _has_only_logs(outcome):
        append_lines(transaction, instance, outcome.logs)
        return Ack.DONE
    return Ack.LOST


def _report(transaction: ReferenceTransaction, instance: InstanceData, outcome: Outcome) -> None:
    """Store logs, progress and the start of the body, without a transition."""
    instance.started = instance.started or outcome.started
    if outcome.progress is not None:
        instance.progress = outcome.progress
        transaction.changed(instance)
    append_lines(transaction, instance, outcome.logs)
    add_steps(transaction, instance, outcome.steps)
    attach(transaction, instance, instance.id, outcome.needs)


def _end_run(transaction: ReferenceTransaction, instance: InstanceData, outcome: Outcome) -> None:
    """End a run: the instance becomes final, or Scheduled again."""
    action, node = outcome.action, transaction.name(instance.owner)
    claim_ends(transaction, instance.kind)
    instance.started = False
    if action in FINAL_STATE:
        instance.result, instance.error = outcome.result, outcome.error
        transaction.ended += 1
        end(transaction, instance, FINAL_STATE[action], node, outcome.note)
        return
    instance.owner = ""
    if action is not Action.RETRY:
        instance.attempts -= 1
    if action is not Action.HAND_BACK:
        instance.error = instance.error if outcome.error is None else outcome.error
    if action in (Action.RETRY, Action.SNOOZE):
        instance.due_us = min(LAST_MOMENT_US, transaction.now_us + max(0, outcome.delay_us))
    note = outcome.note or (SUSPENDED if action is Action.SUSPEND else "")
    transaction.transition(instance, State.SCHEDULED, node, note)
    gates.leave(transaction, instance)
    if outcome.wait is not None:
        suspend(transaction, instance, outcome.wait)
    else:
        add_to_queue(transaction, instance)


def _has_only_logs(outcome: Outcome) -> bool:
    """Whether an outcome has log lines and nothing else, as the late lines of processors have."""
    if outcome.steps or outcome.needs:
        return False
    others = (outcome.result, outcome.error, outcome.progress)
    return outcome.action is Action.REPORT and bool(outcome.logs) and not outcome.started and others == (None,) * 3


def add_lines(transaction: ReferenceTransaction, id: str, lines: Sequence[LogLine]) -> bool:
    """Append log lines to an instance in any state, without a fence."""
    check_batch(len(lines))
    instance = transaction.state.instances.get(id)
    if instance is None:
        return False
    append_lines(transaction, instance, lines)
    return True


def append_lines(transaction: ReferenceTransaction, instance: InstanceData, lines: Sequence[LogLine]) -> None:
    """Append log lines, and drop the oldest ones above the limits of lines and bytes."""
    if not lines:
        return
    logs, limits = instance.logs, transaction.limits
    logs += lines
    instance.logged += len(lines)
    sizes = [len(line.message.encode(errors="surrogatepass")) for line in logs]
    while len(logs) > limits.max_log_lines or sum(sizes) > limits.max_log_bytes:
        del logs[0], sizes[0]
        instance.dropped += 1
    transaction.changed(instance)
