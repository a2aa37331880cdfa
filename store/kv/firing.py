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
from peerjob.store.firing import KEY_TAKEN, QUEUE_FULL, REPLACED, STILL_RUNS, check_fires

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
        self._reigns: dict[Term, Compare] = {}
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
            reign = None if term is None else self._reigns.get(term)
            sight = await look(context, self._ledger, list(pending.values()), term, reign)
            judge = _Judge(context, self._ledger, sight, term, node)
            for place, fire in pending.items():
                judge.take(place, fire)
            answers.update(judge.answers)
            for work in sight.works.values():
                if work.crowd:
                    await self._cancels.cancel(work.crowd, node=node, request=work.crowded, note=REPLACED)
            done = await self._write(sight, answers)
            self._reigns = {} if term is None or sight.reign is None or not done else {term: sight.reign}
            failures += not done
            pending = {place: fire for place, fire in pending.items() if place not in answers}
        if pending:
            raise StoreUnavailableError(context.url, "too many writers at once")
        return [answers[place] for place in range(len(fires))]

    async def _write(self, sight: FireReads, answers: dict[int, FireAnswer]) -> bool:
        """Write each schedule's step; whether all of them were applied."""
        context = self._context
        news = Wakeups()
        works: list[ScheduleFires] = []
        for work in sight.works.values():
            if work.plan.ops or work.moved:
                works.append(work)
            else:
                answers.update(work.answers)
        changes = [self._change(sight, work) for work in works]
        for work in works:
            news.add_queued(work.plan)
        written = await context.writer.write(changes, now_us=sight.now_us)
        for work, revision in zip(works, written.revisions, strict=True):
            if revision:
                answers.update(work.answers)
                news.changed += work.changed
                news.cancelled |= work.cancelled
            context.drop(work.changed)
        await context.hints.send(news, written)
        return all(written.revisions)

    def _change(self, sight: FireReads, work: ScheduleFires) -> Change:
        key, plan = self._context.keys.next(work.name), work.plan
        early = sight.early.get(work.next.epoch, ())
        work.next = self._ledger.trim(work.next, early, plan.ops, sight.now_us, work.fresh_us)
        plan.ops.append(Put(key, encode(work.next)))
        compares = [Compare(key, mod=work.mod)]
        if sight.reign is not None:
            compares.append(sight.reign)
        return self._context.change(plan, compares)


class _Judge:
    """Says what becomes of each fire, as of one sight, and plans it."""

    def __init__(self, context: KVContext, ledger: FireLedger, sight: FireReads, term: Term | None, node: str) -> None:
        self._context = context
        self._ledger = ledger
        self._sight = sight
        self._term = term
        self._node = node
        self.answers: dict[int, FireAnswer] = {}
        """To those that depend on no step."""

    def take(self, place: int, fire: Fire) -> None:
        """Answer a fire or plan it; one that must wait for another step gets no answer yet."""
        work = self._sight.works.get(fire.schedule)
        if work is None:
            self.answers[place] = FireAnswer(status=FireStatus.STALE)
            return
        if work.closed:
            return
        answer = self._refusal(work, fire)
        if answer is None:
            if self._is_known(work, fire):
                # somebody backfilled it before its time came
                work.next, work.moved = msgspec.structs.replace(work.next, next_us=fire.next_us, stretch=None), True
                answer = FireAnswer(status=FireStatus.KNOWN)
            else:
                record = None if self._is_full(work, fire) else self._done(work, fire)
                if record is None:
                    work.closed = True
                    return
                answer = FireAnswer(status=FireStatus.DONE, record=record)
        work.answers[place] = answer

    def _is_full(self, work: ScheduleFires, fire: Fire) -> bool:
        """Whether a step has no room for one more fire; an empty one has, whatever it is."""
        ops, new = work.plan.ops, fire.instance
        if not ops or new is None:
            return len(ops) > _MAX_OPS
        more = _OPS_OF_ONE + len(new.tags)
        return len(ops) + more > _MAX_OPS or 2 * (bytes_of((), ops) + len(new.spec)) > MAX_REQUEST_BYTES

    def _refusal(self, work: ScheduleFires, fire: Fire) -> FireAnswer | None:
        """The answer to what was done before or cannot be done."""
        next = work.next
        known = self._recorded(work, fire)
        for record in (known, next.stretch):
            if record is not None and record.request == fire.request:
                return FireAnswer(status=FireStatus.DONE, record=record)
        if self._sight.deposed:
            return FireAnswer(status=FireStatus.DEPOSED)
        if fire.revision != next.revision:
            return FireAnswer(status=FireStatus.STALE)
        if fire.outcome.advances:
            paused = next.paused and fire.outcome is not FireOutcome.PAUSED
            stale = paused or fire.nominal_us != next.next_us
            return FireAnswer(status=FireStatus.STALE) if stale else None
        if fire.outcome is FireOutcome.BACKFILLED:
            if known is not None and known.instance:
                return FireAnswer(status=FireStatus.KNOWN)
            if fire.nominal_us <= next.trimmed_us:
                return FireAnswer(status=FireStatus.TRIMMED)
        return None

    def _is_known(self, work: ScheduleFires, fire: Fire) -> bool:
        """Whether a fire that would make an instance of a nominal time comes after one that did."""
        if fire.outcome is not FireOutcome.FIRED:
            return False
        known = self._recorded(work, fire)
        return known is not None and bool(known.instance)

    def _recorded(self, work: ScheduleFires, fire: Fire) -> FireRecord | None:
        """The record of an instance, or of an attempt to make one, that is there for this time."""
        return self._sight.ledger.get(self._context.keys.ledger(work.next.epoch) + place_of(fire))

    def _done(self, work: ScheduleFires, fire: Fire) -> FireRecord | None:
        """Plan a fire; None if it must wait for another step."""
        record = FireRecord(
            nominal_us=fire.nominal_us,
            outcome=fire.outcome,
            at_us=self._sight.now_us,
            until_us=fire.until_us,
            count=fire.count,
            reason=fire.reason,
            node=self._node,
            term=0 if self._term is None else self._term.number,
            coordinator="" if self._term is None else self._term.coordinator,
            request=fire.request,
        )
        if fire.instance is not None:
            with_instance = self._made(work, fire, fire.instance, record)
            if with_instance is None:
                return None
            record = with_instance
        ops, next = work.plan.ops, work.next
        work.fresh_us = min(work.fresh_us, fire.nominal_us)
        if not fire.outcome.advances:
            next = self._ledger.add(next, place_of(fire), record, ops, is_new=self._recorded(work, fire) is None)
            if fire.outcome is FireOutcome.BACKFILLED:
                next = msgspec.structs.replace(next, last_us=max(next.last_us, fire.nominal_us))
        elif record.instance:
            next = self._ledger.add(next, place_of(fire), record, ops)
            next = msgspec.structs.replace(
                next, next_us=fire.next_us, stretch=None, last_us=max(next.last_us, fire.until_us, fire.nominal_us)
            )
        else:
            next = msgspec.structs.replace(self._ledger.add_gap(next, record, ops), next_us=fire.next_us)
            record = next.stretch or record
            work.fresh_us = min(work.fresh_us, record.nominal_us)
        work.next = next
        return record

    # -- instances ------------------------------------------------------------------------------------------------

    def _made(self, work: ScheduleFires, fire: Fire, new: NewInstance, record: FireRecord) -> FireRecord | None:
        """Plan the instance of a fire, or say why there is none; None if it must wait for another step."""
        keys, sight, plan = self._context.keys, self._sight, work.plan
        if new.id in sight.made:
            return msgspec.structs.replace(record, instance=new.id)
        state = keys.state + new.id
        unique = state if new.key is None else keys.unique(new.kind, new.key)
        if not sight.used.isdisjoint((state, unique)):
            return None
        with_slot = fire.overlap is not Overlap.ALLOW
        replaces = fire.overlap is Overlap.REPLACE
        mod, owner = sight.uniques.get(unique, (0, ""))
        if owner and not (replaces and self._is_freed(work, owner)):
            return _skipped(record, KEY_TAKEN)
        if replaces and (work.held.touched or len(work.held.slot.parked) > _MAX_REPLACED):
            if not work.held.touched:
                work.crowd = tuple(one.id for one in work.held.slot.parked[_MAX_REPLACED:][:MAX_BATCH])
                work.crowded = fire.request
            return None
        parked = False
        cancelled = ""
        if with_slot:
            if replaces:
                cancelled = self._replace(work, fire)
                plan.ops[:] = [op for op in plan.ops if op.key != unique]
            else:
                self._heal(work)
            slot = work.held.slot
            parked = bool(slot.holder)
            if parked and fire.overlap is Overlap.SKIP:
                return _skipped(record, STILL_RUNS)
            if parked and fire.overlap is Overlap.QUEUE and len(slot.parked) >= fire.queue_limit:
                return _skipped(record, QUEUE_FULL)
        row = born(
            self._context,
            new,
            sight.now_us,
            self._node,
            plan,
            slot=work.name if with_slot else "",
            parked=parked,
        )
        if with_slot:
            slot, waiting = work.held.slot, Parked(new.id, row.kind, row.priority, row.due_us)
            work.held.slot = (
                msgspec.structs.replace(slot, parked=(*slot.parked, waiting))
                if parked
                else msgspec.structs.replace(slot, holder=new.id, parked=())
            )
            work.held.touched = True
        plan.compares.append(Compare(state))
        if new.key is not None:
            plan.compares.append(Compare(unique, mod=mod))
        sight.used |= {state, unique}
        work.changed.append(new.id)
        return msgspec.structs.replace(record, instance=new.id, parked=parked, cancelled=cancelled)

    def _heal(self, work: ScheduleFires) -> None:
        """Pass the slot on if its holder is over and left it behind."""
        holder = work.held.slot.holder
        if holder and not work.held.touched and not self._keeps(holder):
            self._context.pass_on(work.name, holder, self._sight.now_us, work.plan)

    def _replace(self, work: ScheduleFires, fire: Fire) -> str:
        """Cancel who has the slot and who waits for it; the answer is who had to make room."""
        sight, plan, made_room = self._sight, work.plan, ""
        slot = work.held.slot
        for id in (*(one.id for one in reversed(slot.parked)), slot.holder):
            if not id:
                continue
            if not self._keeps(id):
                self._context.slots.give_up(work.name, id, plan)
                continue
            revision, row = sight.rows[id]
            if row.final:
                continue
            plan.compares.append(Compare(self._context.keys.state + id, mod=revision))
            cancel_in(
                self._context,
                plan,
                id,
                row,
                sight.delayed.get(id, 0),
                sight.now_us,
                node=self._node,
                request=fire.request,
                note=REPLACED,
            )
            made_room = id
            work.changed.append(id)
            if row.key is not None and row.state is State.SCHEDULED:
                # it is free once this is written: later fires of the call that want it wait for that
                sight.used.add(self._context.keys.unique(row.kind, row.key))
            if row.state is State.PROCESSING:
                work.cancelled.add(row.owner)
        return made_room

    def _keeps(self, id: str) -> bool:
        """Whether an instance is there and not over."""
        return id in self._sight.rows and self._sight.rows[id][1].keeps

    def _is_freed(self, work: ScheduleFires, owner: str) -> bool:
        """Whether replacing frees the key of this instance at once."""
        slot = work.held.slot
        replaced = owner == slot.holder or any(owner == one.id for one in slot.parked)
        return replaced and owner in self._sight.rows and self._sight.rows[owner][1].state is State.SCHEDULED


def _skipped(record: FireRecord, reason: str) -> FireRecord:
    return msgspec.structs.replace(record, outcome=FireOutcome.SKIPPED, reason=reason)
