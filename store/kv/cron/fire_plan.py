"""Decides the outcome of each fire by what was read, and plans the fire's part of its schedule's transaction."""

from __future__ import annotations

from msgspec.structs import replace

from peerjob.model.firing import Fire, FireAnswer, FireOutcome, FireRecord, FireStatus, Overlap, Term
from peerjob.model.record import MAX_BATCH, NewInstance
from peerjob.model.state import State
from peerjob.store.kv.format.base import MAX_REQUEST_BYTES, Compare, bytes_of
from peerjob.store.kv.format.schedule_rows import Parked
from peerjob.store.kv.queue.cancel import plan_cancel
from peerjob.store.kv.queue.enqueue import plan_instance
from peerjob.store.kv.write.context import KVContext
from peerjob.store.rules import KEY_TAKEN, QUEUE_FULL, REPLACED, STILL_RUNS

from .fire_reads import FireReads, ScheduleFires, position_of
from .ledger import FireLedger

_MAX_OPS = 80
"""Most operations in a transaction with several fires; further fires of the schedule wait for the next transaction."""
_OPS_PER_FIRE = 12
"""A fire needs at most this number of operations, besides those for tags and for replaced instances."""
_MAX_REPLACED = 4
"""A fire cancels at most this number of parked instances in its own transaction; an earlier one cancels the others."""


class FirePlanner:
    """Plans the fires of one round."""

    def __init__(self, context: KVContext, reads: FireReads, term: Term | None, node: str) -> None:
        self._context = context
        self._keys = context.keys
        self._ledger = FireLedger(context)
        self._reads = reads
        self._term = term
        self._node = node
        self.answers: dict[int, FireAnswer] = {}
        """Answers to fires of schedules that do not exist: no transaction has to be applied before
        the caller gets these answers."""

    def add(self, index: int, fire: Fire) -> None:
        """Answer a fire or plan it. A fire that must wait for another transaction gets no answer yet."""
        schedule = self._reads.schedules.get(fire.schedule)
        if schedule is None:
            self.answers[index] = FireAnswer(status=FireStatus.STALE)
            return
        if schedule.closed:
            return
        answer = self._refusal(schedule, fire)
        if answer is None and self._is_known(schedule, fire):
            # a backfill has already made the instance of this nominal time, so the schedule only moves to the next time
            schedule.next_fire = replace(schedule.next_fire, next_us=fire.next_us, stretch=None)
            schedule.moved = True
            answer = FireAnswer(status=FireStatus.KNOWN)
        if answer is None:
            record = None if self._is_full(schedule, fire) else self._plan(schedule, fire)
            if record is None:
                schedule.closed = True
                return
            answer = FireAnswer(status=FireStatus.DONE, record=record)
        schedule.answers[index] = answer

    def _is_full(self, schedule: ScheduleFires, fire: Fire) -> bool:
        """Whether one more fire does not fit into a transaction. Any fire fits into an empty one."""
        ops, new = schedule.plan.ops, fire.instance
        if not ops or new is None:
            return len(ops) > _MAX_OPS
        more = _OPS_PER_FIRE + len(new.tags)
        return len(ops) + more > _MAX_OPS or 2 * (bytes_of((), ops) + len(new.spec)) > MAX_REQUEST_BYTES

    def _refusal(self, schedule: ScheduleFires, fire: Fire) -> FireAnswer | None:
        """The answer to a fire that is repeated or cannot be applied; None if the fire must be planned."""
        next_fire = schedule.next_fire
        known = self._recorded(schedule, fire)
        for record in (known, next_fire.stretch):
            if record is not None and record.request == fire.request:
                return FireAnswer(status=FireStatus.DONE, record=record)
        if self._reads.deposed:
            return FireAnswer(status=FireStatus.DEPOSED)
        if fire.revision != next_fire.revision:
            return FireAnswer(status=FireStatus.STALE)
        if fire.outcome.advances:
            paused = next_fire.paused and fire.outcome is not FireOutcome.PAUSED
            stale = paused or fire.nominal_us != next_fire.next_us
            return FireAnswer(status=FireStatus.STALE) if stale else None
        if fire.outcome is FireOutcome.BACKFILLED:
            if known is not None and known.instance:
                return FireAnswer(status=FireStatus.KNOWN)
            if fire.nominal_us <= next_fire.trimmed_us:
                return FireAnswer(status=FireStatus.TRIMMED)
        return None

    def _is_known(self, schedule: ScheduleFires, fire: Fire) -> bool:
        """Whether an earlier fire has made the instance of this nominal time."""
        if fire.outcome is not FireOutcome.FIRED:
            return False
        known = self._recorded(schedule, fire)
        return known is not None and bool(known.instance)

    def _recorded(self, schedule: ScheduleFires, fire: Fire) -> FireRecord | None:
        """The ledger's record for the nominal time of a fire: of an instance, or of an attempt to make one."""
        return self._reads.ledger.get(self._keys.ledger(schedule.next_fire.epoch) + position_of(fire))

    def _plan(self, schedule: ScheduleFires, fire: Fire) -> FireRecord | None:
        """Plan a fire in the transaction of the schedule; None if the fire must wait for a later one."""
        # the leader's clock found the fire due and can be ahead of this node's: no record shows a fire before its
        # nominal time
        at_us = max(self._reads.now_us, fire.nominal_us if fire.outcome is FireOutcome.FIRED else 0)
        record = fire.record(node=self._node, term=self._term, at_us=at_us)
        if fire.instance is not None:
            with_instance = self._plan_instance(schedule, fire, fire.instance, record)
            if with_instance is None:
                return None
            record = with_instance
        ops, ledger, position = schedule.plan.ops, self._ledger, position_of(fire)
        before = schedule.next_fire
        schedule.fresh_us = min(schedule.fresh_us, fire.nominal_us)
        if not fire.outcome.advances:
            after = ledger.add(before, position, record, ops, is_new=self._recorded(schedule, fire) is None)
            if fire.outcome is FireOutcome.BACKFILLED:
                after = replace(after, last_us=max(after.last_us, fire.nominal_us))
        elif record.instance:
            after = ledger.add(before, position, record, ops)
            last_us = max(after.last_us, fire.until_us, fire.nominal_us)
            after = replace(after, next_us=fire.next_us, stretch=None, last_us=last_us)
        else:
            after = replace(ledger.add_gap(before, record, ops), next_us=fire.next_us)
            record = after.stretch or record
            schedule.fresh_us = min(schedule.fresh_us, record.nominal_us)
        schedule.next_fire = after
        return record

    def _plan_instance(
        self, schedule: ScheduleFires, fire: Fire, new: NewInstance, record: FireRecord
    ) -> FireRecord | None:
        """Plan a fire's instance. The record has the reason for a skip; None if the fire must wait for a later one."""
        keys, reads, plan = self._keys, self._reads, schedule.plan
        if new.id in reads.made:
            return replace(record, instance=new.id)
        state = keys.state + new.id
        unique = state if new.key is None else keys.unique(new.kind, new.key)
        if not reads.used.isdisjoint((state, unique)):
            return None
        with_slot = fire.overlap is not Overlap.ALLOW
        replaces = fire.overlap is Overlap.REPLACE
        mod, owner = reads.uniques.get(unique, (0, ""))
        if owner and not (replaces and self._frees_key(schedule, owner)):
            return _skipped(record, KEY_TAKEN)
        if replaces and (schedule.held.touched or len(schedule.held.slot.parked) > _MAX_REPLACED):
            if not schedule.held.touched:
                excess = schedule.held.slot.parked[_MAX_REPLACED:][:MAX_BATCH]
                schedule.excess, schedule.excess_request = tuple(parked.id for parked in excess), fire.request
            return None
        parked = False
        cancelled = ""
        if with_slot:
            if replaces:
                cancelled = self._replace(schedule, fire)
                plan.ops[:] = [op for op in plan.ops if op.key != unique]
            else:
                self._repair_slot(schedule)
            slot = schedule.held.slot
            parked = bool(slot.holder)
            if parked and fire.overlap is Overlap.SKIP:
                return _skipped(record, STILL_RUNS)
            if parked and fire.overlap is Overlap.QUEUE and len(slot.parked) >= fire.queue_limit:
                return _skipped(record, QUEUE_FULL)
        row = plan_instance(plan, new, self._node, slot=schedule.name if with_slot else "", parked=parked)
        if with_slot:
            slot, waiting = schedule.held.slot, Parked.of(new.id, row)
            schedule.held.slot = (
                replace(slot, parked=(*slot.parked, waiting)) if parked else replace(slot, holder=new.id, parked=())
            )
            schedule.held.touched = True
        plan.compares.append(Compare(state))
        if new.key is not None:
            plan.compares.append(Compare(unique, mod=mod))
        reads.used |= {state, unique}
        schedule.changed.append(new.id)
        return replace(record, instance=new.id, parked=parked, cancelled=cancelled)

    # -- slots ----------------------------------------------------------------------------------------------------

    def _repair_slot(self, schedule: ScheduleFires) -> None:
        """Pass the schedule's slot on if the holder of the slot has ended without passing the slot on."""
        holder = schedule.held.slot.holder
        if holder and not schedule.held.touched and not self._keeps(holder):
            schedule.plan.pass_slot_on(schedule.name, holder)

    def _replace(self, schedule: ScheduleFires, fire: Fire) -> str:
        """Cancel the holder of the slot and all parked instances; the answer is the id of the last cancelled one."""
        reads, plan, last_cancelled = self._reads, schedule.plan, ""
        slot = schedule.held.slot
        for id in (*(parked.id for parked in reversed(slot.parked)), slot.holder):
            if not id:
                continue
            if not self._keeps(id):
                plan.leave_slot(schedule.name, id)
                continue
            revision, row = reads.rows[id]
            if row.final:
                continue
            plan.compares.append(Compare(self._keys.state + id, mod=revision))
            delayed_mod = reads.delayed.get(id, 0)
            plan_cancel(self._context, plan, id, row, delayed_mod, node=self._node, request=fire.request, note=REPLACED)
            last_cancelled = id
            schedule.changed.append(id)
            if row.key is not None and row.state is State.SCHEDULED:
                # the unique key becomes free when the transaction is written, so later fires of the call with the same
                # key wait for a further transaction
                reads.used.add(self._keys.unique(row.kind, row.key))
            if row.state is State.PROCESSING:
                schedule.cancelled.add(row.owner)
        return last_cancelled

    def _keeps(self, id: str) -> bool:
        """Whether an instance exists and has not ended."""
        return id in self._reads.rows and self._reads.rows[id][1].keeps

    def _frees_key(self, schedule: ScheduleFires, owner: str) -> bool:
        """Whether the replacing transaction itself frees the unique key of the owner: a running owner keeps it."""
        held, rows = schedule.held, self._reads.rows
        replaced = owner == held.slot.holder or held.parks(owner)
        return replaced and owner in rows and rows[owner][1].state is State.SCHEDULED


def _skipped(record: FireRecord, reason: str) -> FireRecord:
    return replace(record, outcome=FireOutcome.SKIPPED, reason=reason)
