"""Fires account for nominal times: the command `fire`."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from peerjob.model.firing import Fire, FireAnswer, FireOutcome, FireRecord, FireStatus, Overlap, Term
from peerjob.model.record import NewInstance
from peerjob.model.state import State
from peerjob.store.rules import KEY_TAKEN, QUEUE_FULL, REPLACED, STILL_RUNS, check_fires

from .cancel import cancel_one
from .enqueue import add_instance, check_not_full, is_known, key_holder
from .gates import pass_gates
from .ledger import add_record, add_stretch, made, position_of, recorded, trim
from .state import ScheduleData
from .transaction import ReferenceTransaction


def fire(
    transaction: ReferenceTransaction, fires: Sequence[Fire], *, term: Term | None, node: str = ""
) -> list[FireAnswer]:
    """Do fires one after the other; each sees the effects of those before it."""
    check_fires(fires)
    if any(fire.instance is not None for fire in fires):
        check_not_full(transaction)
    deposed = is_deposed(transaction, term)
    written: list[FireRecord] = []
    answers: list[FireAnswer] = []
    for number, fire in enumerate(fires):
        transaction.now_us = transaction.choices.fire_us(number, transaction.now_us)
        answers.append(_fire(transaction, fire, term, node, written, deposed=deposed))
        pass_gates(transaction)
    return answers


def is_deposed(transaction: ReferenceTransaction, term: Term | None) -> bool:
    """Whether the store has seen a higher term of the same coordinator; it remembers the highest."""
    if term is None:
        return False
    highest = transaction.state.terms.get(term.coordinator, term.number)
    transaction.state.terms[term.coordinator] = max(highest, term.number)
    return highest > term.number


def _fire(
    transaction: ReferenceTransaction,
    fire: Fire,
    term: Term | None,
    node: str,
    written: list[FireRecord],
    *,
    deposed: bool,
) -> FireAnswer:
    """Do one fire; `written` gets its record."""
    schedule = transaction.state.schedules.get(fire.schedule)
    if schedule is None:
        return FireAnswer(status=FireStatus.STALE)
    known = recorded(schedule, fire)
    if known is not None:
        return FireAnswer(status=FireStatus.DONE, record=known)
    status = FireStatus.DEPOSED if deposed else _status(schedule, fire)
    record = _do(transaction, schedule, fire, term, node) if status is FireStatus.DONE else None
    if fire.outcome.advances and status in (FireStatus.DONE, FireStatus.KNOWN):
        schedule.next_us = fire.next_us
        if record is None or record.instance:
            schedule.stretch = None
    if record is not None:
        written.append(record)
        trim(transaction, schedule, written)
    return FireAnswer(status=status, record=record)


def _status(schedule: ScheduleData, fire: Fire) -> FireStatus:
    """Whether a fire can be done, by the present state of its schedule."""
    if fire.revision != schedule.revision:
        return FireStatus.STALE
    paused = schedule.paused and fire.outcome is not FireOutcome.PAUSED
    if fire.outcome.advances and (paused or fire.nominal_us != schedule.next_us):
        return FireStatus.STALE
    if fire.outcome in (FireOutcome.FIRED, FireOutcome.BACKFILLED) and made(schedule, fire):
        return FireStatus.KNOWN
    if fire.outcome is FireOutcome.BACKFILLED and fire.nominal_us <= schedule.trimmed_us:
        return FireStatus.TRIMMED
    return FireStatus.DONE


def _do(
    transaction: ReferenceTransaction, schedule: ScheduleData, fire: Fire, term: Term | None, node: str
) -> FireRecord:
    """Make the instance of a fire, if it has one, and write the record."""
    # the leader's clock found the fire due, and may be ahead: no record shows a fire before its nominal time
    at_us = max(transaction.now_us, fire.nominal_us) if fire.outcome is FireOutcome.FIRED else transaction.now_us
    record = fire.record(node=node, term=term, at_us=at_us)
    if fire.instance is not None:
        record = _make(transaction, fire, fire.instance, record, node)
    if fire.outcome.advances and not record.instance:
        return add_stretch(transaction, schedule, record)
    add_record(schedule, position_of(fire), record)
    return record


def _make(transaction: ReferenceTransaction, fire: Fire, new: NewInstance, record: FireRecord, node: str) -> FireRecord:
    """Add the instance of a fire, or tell why there is none."""
    if is_known(transaction, new.id):
        return replace(record, instance=new.id)
    reason = _refusal(transaction, fire, new)
    if reason:
        return replace(record, outcome=FireOutcome.SKIPPED, reason=reason)
    cancelled = _replace(transaction, fire.schedule, node) if fire.overlap is Overlap.REPLACE else ""
    slot = "" if fire.overlap is Overlap.ALLOW else fire.schedule
    add_instance(transaction, new, node, slot)
    parked = bool(slot) and transaction.state.slots[slot][0] != new.id
    return replace(record, instance=new.id, parked=parked, cancelled=cancelled)


def _refusal(transaction: ReferenceTransaction, fire: Fire, new: NewInstance) -> str:
    """Why a fire makes no instance: the key or the slot is taken; "" if it makes one."""
    slot = transaction.state.slots.get(fire.schedule, [])
    holder = key_holder(transaction, new)
    if holder:
        # the instances that a fire replaces free their keys, except the one whose body still runs
        freed = fire.overlap is Overlap.REPLACE and holder in slot
        if not freed or transaction.state.instances[holder].state is not State.SCHEDULED:
            return KEY_TAKEN
    if slot and fire.overlap is Overlap.SKIP:
        return STILL_RUNS
    if slot and fire.overlap is Overlap.QUEUE and len(slot) > fire.queue_limit:
        return QUEUE_FULL
    return ""


def _replace(transaction: ReferenceTransaction, slot: str, node: str) -> str:
    """Cancel the parked instances, then the holder of a slot; returns the last cancelled one."""
    cancelled = ""
    for id in reversed(list(transaction.state.slots.get(slot, []))):
        instance = transaction.state.instances[id]
        if not instance.state.is_final:
            cancel_one(transaction, instance, node, REPLACED)
            cancelled = id
    return cancelled
