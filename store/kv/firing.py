"""Accounting for nominal times: ledger, next time, slot and instance in one step.

What was believed about the schedule is compared with its `next/` record, which every fire rewrites, so of two that
speak of the same time only one is applied. Fires of one schedule in one call follow each other within a step, as far
as one step can hold them.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from peerjob.model.errors import StoreFullError, StoreUnavailableError
from peerjob.model.firing import Fire, FireAnswer, FireOutcome, FireRecord, FireStatus, Overlap, Term
from peerjob.model.record import MAX_BATCH, NewInstance
from peerjob.model.state import State
from peerjob.store.fire_rules import KEY_TAKEN, QUEUE_FULL, REPLACED, STILL_RUNS, check_fires

from .base import MAX_REQUEST_BYTES, Compare, Put, bytes_of
from .cancel import CancelCommands, cancel_in
from .context import KVContext
from .enqueue import born
from .fire_reads import FireReads, ScheduleFires, look, place_of
from .hints import Wakeups
from .ledger import FireLedger
from .rows import encode
from .schedule_rows import Parked
from .writer import ROUNDS, Change

_MAX_OPS = 80
"""Most operations of a step that has several fires."""
_OPS_OF_ONE = 12
"""Most operations of a fire besides those of tags, and what it replaces."""
_MAX_REPLACED = 4
"""Parked instances that a fire cancels in its own step."""


class FireCommands:
    """The verb `fire`."""

    def __init__(self, context: KVContext, ledger: FireLedger, cancels: CancelCommands) -> None:
        self._context = context
        self._ledger = ledger
        self._cancels = cancels
        self._term_compares: dict[Term, Compare] = {}
        """What held for the last term, as long as nobody was in the way."""

    async def fire(self, fires: Sequence[Fire], *, term: Term | None, node: str = "") -> list[FireAnswer]:
        context = self._context
        check_fires(fires)
        if context.kv.full and any(fire.instance is not None for fire in fires):
            raise StoreFullError(f"the store at {context.url} is nearly full and takes no new instances")
        answers: dict[int, FireAnswer] = {}
        pending: dict[int, Fire] = dict(enumerate(fires))
        failures = 0
        while pending and failures < ROUNDS:
            term_compare = None if term is None else self._term_compares.get(term)
            reads = await look(context, self._ledger, list(pending.values()), term, term_compare)
            judge = _Judge(context, self._ledger, reads, term, node)
            for place, fire in pending.items():
                judge.take(place, fire)
            answers.update(judge.answers)
            for schedule in reads.schedules.values():
                if schedule.excess:
                    await self._cancels.cancel(
                        schedule.excess, node=node, request=schedule.excess_request, note=REPLACED
                    )
            done = await self._write(reads, answers)
            self._term_compares = (
                {} if term is None or reads.term_compare is None or not done else {term: reads.term_compare}
            )
            failures += not done
            pending = {place: fire for place, fire in pending.items() if place not in answers}
        if pending:
            raise StoreUnavailableError(context.url, "too many writers at once")
        return [answers[place] for place in range(len(fires))]

    async def _write(self, reads: FireReads, answers: dict[int, FireAnswer]) -> bool:
        """Write each schedule's step; whether all of them were applied."""
        context = self._context
        wakeups = Wakeups()
        schedules: list[ScheduleFires] = []
        for schedule in reads.schedules.values():
            if schedule.plan.ops or schedule.moved:
                schedules.append(schedule)
            else:
                answers.update(schedule.answers)
        changes = [self._change(reads, schedule) for schedule in schedules]
        for schedule in schedules:
            wakeups.add_queued(schedule.plan)
        written = await context.writer.write(changes, now_us=reads.now_us)
        for schedule, revision in zip(schedules, written.revisions, strict=True):
            if revision:
                answers.update(schedule.answers)
                wakeups.changed += schedule.changed
                wakeups.cancelled |= schedule.cancelled
            context.drop(schedule.changed)
        await context.hints.send(wakeups, written)
        return all(written.revisions)

    def _change(self, reads: FireReads, schedule: ScheduleFires) -> Change:
        key, plan = self._context.keys.next_fire(schedule.name), schedule.plan
        first_records = reads.first_records.get(schedule.next_fire.epoch, ())
        schedule.next_fire = self._ledger.trim(
            schedule.next_fire, first_records, plan.ops, reads.now_us, schedule.fresh_us
        )
        plan.ops.append(Put(key, encode(schedule.next_fire)))
        compares = [Compare(key, mod=schedule.mod)]
        if reads.term_compare is not None:
            compares.append(reads.term_compare)
        return self._context.change(plan, compares)


class _Judge:
    """Says what becomes of each fire, as of one sight, and plans it."""

    def __init__(self, context: KVContext, ledger: FireLedger, reads: FireReads, term: Term | None, node: str) -> None:
        self._context = context
        self._ledger = ledger
        self._reads = reads
        self._term = term
        self._node = node
        self.answers: dict[int, FireAnswer] = {}
        """To those that depend on no step."""

    def take(self, place: int, fire: Fire) -> None:
        """Answer a fire or plan it; one that must wait for another step gets no answer yet."""
        schedule = self._reads.schedules.get(fire.schedule)
        if schedule is None:
            self.answers[place] = FireAnswer(status=FireStatus.STALE)
            return
        if schedule.closed:
            return
        answer = self._refusal(schedule, fire)
        if answer is None:
            if self._is_known(schedule, fire):
                # somebody backfilled it before its time came
                schedule.next_fire, schedule.moved = (
                    msgspec.structs.replace(schedule.next_fire, next_us=fire.next_us, stretch=None),
                    True,
                )
                answer = FireAnswer(status=FireStatus.KNOWN)
            else:
                record = None if self._is_full(schedule, fire) else self._done(schedule, fire)
                if record is None:
                    schedule.closed = True
                    return
                answer = FireAnswer(status=FireStatus.DONE, record=record)
        schedule.answers[place] = answer

    def _is_full(self, schedule: ScheduleFires, fire: Fire) -> bool:
        """Whether a step has no room for one more fire; an empty one has, whatever it is."""
        ops, new = schedule.plan.ops, fire.instance
        if not ops or new is None:
            return len(ops) > _MAX_OPS
        more = _OPS_OF_ONE + len(new.tags)
        return len(ops) + more > _MAX_OPS or 2 * (bytes_of((), ops) + len(new.spec)) > MAX_REQUEST_BYTES

    def _refusal(self, schedule: ScheduleFires, fire: Fire) -> FireAnswer | None:
        """The answer to what was done before or cannot be done."""
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
        """Whether a fire that would make an instance of a nominal time comes after one that did."""
        if fire.outcome is not FireOutcome.FIRED:
            return False
        known = self._recorded(schedule, fire)
        return known is not None and bool(known.instance)

    def _recorded(self, schedule: ScheduleFires, fire: Fire) -> FireRecord | None:
        """The record of an instance, or of an attempt to make one, that is there for this time."""
        return self._reads.ledger.get(self._context.keys.ledger(schedule.next_fire.epoch) + place_of(fire))

    def _done(self, schedule: ScheduleFires, fire: Fire) -> FireRecord | None:
        """Plan a fire; None if it must wait for another step."""
        record = FireRecord(
            nominal_us=fire.nominal_us,
            outcome=fire.outcome,
            at_us=self._reads.now_us,
            until_us=fire.until_us,
            count=fire.count,
            reason=fire.reason,
            node=self._node,
            term=0 if self._term is None else self._term.number,
            coordinator="" if self._term is None else self._term.coordinator,
            request=fire.request,
        )
        if fire.instance is not None:
            with_instance = self._made(schedule, fire, fire.instance, record)
            if with_instance is None:
                return None
            record = with_instance
        ops, next_fire = schedule.plan.ops, schedule.next_fire
        schedule.fresh_us = min(schedule.fresh_us, fire.nominal_us)
        if not fire.outcome.advances:
            next_fire = self._ledger.add(
                next_fire, place_of(fire), record, ops, is_new=self._recorded(schedule, fire) is None
            )
            if fire.outcome is FireOutcome.BACKFILLED:
                next_fire = msgspec.structs.replace(next_fire, last_us=max(next_fire.last_us, fire.nominal_us))
        elif record.instance:
            next_fire = self._ledger.add(next_fire, place_of(fire), record, ops)
            next_fire = msgspec.structs.replace(
                next_fire,
                next_us=fire.next_us,
                stretch=None,
                last_us=max(next_fire.last_us, fire.until_us, fire.nominal_us),
            )
        else:
            next_fire = msgspec.structs.replace(self._ledger.add_gap(next_fire, record, ops), next_us=fire.next_us)
            record = next_fire.stretch or record
            schedule.fresh_us = min(schedule.fresh_us, record.nominal_us)
        schedule.next_fire = next_fire
        return record

    # -- instances ------------------------------------------------------------------------------------------------

    def _made(self, schedule: ScheduleFires, fire: Fire, new: NewInstance, record: FireRecord) -> FireRecord | None:
        """Plan the instance of a fire, or say why there is none; None if it must wait for another step."""
        keys, reads, plan = self._context.keys, self._reads, schedule.plan
        if new.id in reads.made:
            return msgspec.structs.replace(record, instance=new.id)
        state = keys.state + new.id
        unique = state if new.key is None else keys.unique(new.kind, new.key)
        if not reads.used.isdisjoint((state, unique)):
            return None
        with_slot = fire.overlap is not Overlap.ALLOW
        replaces = fire.overlap is Overlap.REPLACE
        mod, owner = reads.uniques.get(unique, (0, ""))
        if owner and not (replaces and self._is_freed(schedule, owner)):
            return _skipped(record, KEY_TAKEN)
        if replaces and (schedule.held.touched or len(schedule.held.slot.parked) > _MAX_REPLACED):
            if not schedule.held.touched:
                schedule.excess = tuple(one.id for one in schedule.held.slot.parked[_MAX_REPLACED:][:MAX_BATCH])
                schedule.excess_request = fire.request
            return None
        parked = False
        cancelled = ""
        if with_slot:
            if replaces:
                cancelled = self._replace(schedule, fire)
                plan.ops[:] = [op for op in plan.ops if op.key != unique]
            else:
                self._heal(schedule)
            slot = schedule.held.slot
            parked = bool(slot.holder)
            if parked and fire.overlap is Overlap.SKIP:
                return _skipped(record, STILL_RUNS)
            if parked and fire.overlap is Overlap.QUEUE and len(slot.parked) >= fire.queue_limit:
                return _skipped(record, QUEUE_FULL)
        row = born(
            self._context,
            new,
            reads.now_us,
            self._node,
            plan,
            slot=schedule.name if with_slot else "",
            parked=parked,
        )
        if with_slot:
            slot, waiting = schedule.held.slot, Parked(new.id, row.kind, row.priority, row.due_us)
            schedule.held.slot = (
                msgspec.structs.replace(slot, parked=(*slot.parked, waiting))
                if parked
                else msgspec.structs.replace(slot, holder=new.id, parked=())
            )
            schedule.held.touched = True
        plan.compares.append(Compare(state))
        if new.key is not None:
            plan.compares.append(Compare(unique, mod=mod))
        reads.used |= {state, unique}
        schedule.changed.append(new.id)
        return msgspec.structs.replace(record, instance=new.id, parked=parked, cancelled=cancelled)

    def _heal(self, schedule: ScheduleFires) -> None:
        """Pass the slot on if its holder is over and left it behind."""
        holder = schedule.held.slot.holder
        if holder and not schedule.held.touched and not self._keeps(holder):
            self._context.pass_on(schedule.name, holder, self._reads.now_us, schedule.plan)

    def _replace(self, schedule: ScheduleFires, fire: Fire) -> str:
        """Cancel who has the slot and who waits for it; the answer is who had to make room."""
        reads, plan, made_room = self._reads, schedule.plan, ""
        slot = schedule.held.slot
        for id in (*(one.id for one in reversed(slot.parked)), slot.holder):
            if not id:
                continue
            if not self._keeps(id):
                self._context.slots.give_up(schedule.name, id, plan)
                continue
            revision, row = reads.rows[id]
            if row.final:
                continue
            plan.compares.append(Compare(self._context.keys.state + id, mod=revision))
            cancel_in(
                self._context,
                plan,
                id,
                row,
                reads.delayed.get(id, 0),
                reads.now_us,
                node=self._node,
                request=fire.request,
                note=REPLACED,
            )
            made_room = id
            schedule.changed.append(id)
            if row.key is not None and row.state is State.SCHEDULED:
                # it is free once this is written: later fires of the call that want it wait for that
                reads.used.add(self._context.keys.unique(row.kind, row.key))
            if row.state is State.PROCESSING:
                schedule.cancelled.add(row.owner)
        return made_room

    def _keeps(self, id: str) -> bool:
        """Whether an instance is there and not over."""
        return id in self._reads.rows and self._reads.rows[id][1].keeps

    def _is_freed(self, schedule: ScheduleFires, owner: str) -> bool:
        """Whether replacing frees the key of this instance at once."""
        slot = schedule.held.slot
        replaced = owner == slot.holder or any(owner == one.id for one in slot.parked)
        return replaced and owner in self._reads.rows and self._reads.rows[owner][1].state is State.SCHEDULED


def _skipped(record: FireRecord, reason: str) -> FireRecord:
    return msgspec.structs.replace(record, outcome=FireOutcome.SKIPPED, reason=reason)
