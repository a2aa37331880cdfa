"""The verbs `fire` and `fires`: ledger, next time, slot and instance change in one transaction.

The transaction compares the schedule's `next/` record, which every fire rewrites. So of two fires for the same time,
only one is applied. Fires of one schedule in one call share a transaction, up to the size of a transaction.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

from peerjob.model.errors import StoreFullError, StoreUnavailableError
from peerjob.model.firing import Fire, FireAnswer, FirePage, Term
from peerjob.store.kv.format.base import Compare, Put, Range
from peerjob.store.kv.format.keys import prefix_end, time_text
from peerjob.store.kv.format.rows import encode
from peerjob.store.kv.format.schedule_rows import decode_fire, decode_next_fire
from peerjob.store.kv.queue.cancel import CancelCommands
from peerjob.store.kv.write.context import KVContext, retried
from peerjob.store.kv.write.gates import stamps
from peerjob.store.kv.write.hints import Wakeups
from peerjob.store.kv.write.transaction_plan import Change
from peerjob.store.kv.write.writer import ROUNDS
from peerjob.store.rules import REPLACED, check_fires

from .fire_plan import FirePlanner
from .fire_reads import FireReads, ScheduleFires, read_for_fires
from .ledger import FireLedger

_MAX_PAGE = 500


class FireCommands(CancelCommands):
    """The verbs `fire` and `fires`."""

    def __init__(self, context: KVContext) -> None:
        super().__init__(context)
        self._term_compares: dict[Term, Compare] = {}
        """Last term → compare that holds while the term is the latest one. A conflict empties the dict, so that the
        next round reads the term again."""

    @retried
    async def fire(self, fires: Sequence[Fire], *, term: Term | None, node: str = "") -> list[FireAnswer]:
        context = self._context
        check_fires(fires)
        if self._kv.full and any(fire.instance is not None for fire in fires):
            raise StoreFullError(f"the store at {context.url} is nearly full and takes no new instances")
        answers: dict[int, FireAnswer] = {}
        pending: dict[int, Fire] = dict(enumerate(fires))
        written: set[str] = set()
        failures = 0
        while pending and failures < ROUNDS:
            known = None if term is None else self._term_compares.get(term)
            reads = await read_for_fires(context, list(pending.values()), term, known)
            planner = FirePlanner(context, reads, term, node)
            for index, fire in pending.items():
                planner.add(index, fire)
            answers.update(planner.answers)
            for schedule in reads.schedules.values():
                if schedule.excess:
                    await self._cancel(schedule.excess, node=node, request=schedule.excess_request, note=REPLACED)
            done = await self._write_fires(reads, answers, written)
            self._term_compares = {term: reads.term_compare} if done and term and reads.term_compare else {}
            failures += not done
            pending = {index: fire for index, fire in pending.items() if index not in answers}
        if pending:
            raise StoreUnavailableError(context.url, "too many writers at once")
        return [answers[index] for index in range(len(fires))]

    async def _write_fires(self, reads: FireReads, answers: dict[int, FireAnswer], written_keys: set[str]) -> bool:
        """Write the transaction of each schedule; the answer is whether all transactions were applied.

        `written_keys` has the keys that earlier rounds of the call wrote, and gets those of the applied transactions.
        """
        wakeups = Wakeups()
        schedules: list[ScheduleFires] = []
        for schedule in reads.schedules.values():
            if schedule.plan.ops or schedule.moved:
                schedules.append(schedule)
            else:
                answers.update(schedule.answers)
        changes = [self._fire_change(reads, schedule, written_keys) for schedule in schedules]
        for schedule in schedules:
            wakeups.add_queued(schedule.plan)
        written = await self._writer.write(changes, guards=stamps(reads.gates))
        for schedule, _ in written.applied(schedules):
            answers.update(schedule.answers)
            written_keys.update(op.key for op in schedule.plan.ops)
            wakeups.changed += schedule.changed
            wakeups.cancelled |= schedule.cancelled
        for schedule in schedules:
            self._context.uncache(schedule.changed)
        await self._context.hints.send(wakeups, written)
        return all(written.revisions)

    def _fire_change(self, reads: FireReads, schedule: ScheduleFires, written_keys: Container[str]) -> Change:
        key, plan = self._keys.next_fire(schedule.name), schedule.plan
        first_records = reads.first_records.get(schedule.next_fire.epoch, ())
        ledger = FireLedger(self._context)
        after = ledger.trim(schedule.next_fire, first_records, plan.ops, reads.now_us, schedule.fresh_us, written_keys)
        plan.ops.append(Put(key, encode(after)))
        compares = [Compare(key, mod=schedule.mod)]
        if reads.term_compare is not None:
            compares.append(reads.term_compare)
        return plan.change(compares)

    @retried
    async def fires(
        self,
        name: str,
        *,
        after_us: int | None = None,
        before_us: int | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> FirePage:
        context, keys = self._context, self._keys
        (entry,) = await self._kv.get([keys.next_fire(name)])
        next_fire = context.decoded(entry, keys.next_fire(name), decode_next_fire)
        if next_fire is None:
            return FirePage((), None)
        ledger = keys.ledger(next_fire.epoch)
        start = ledger + time_text(max(next_fire.first_us, after_us or 0))
        end = prefix_end(ledger) if before_us is None else ledger + time_text(before_us)
        if cursor is not None:
            end = min(end, ledger + cursor)
        wanted = Range(start, max(start, end), max(1, min(limit, _MAX_PAGE)), reverse=True)
        (answer,) = await self._kv.read([wanted])
        readable = (context.decoded(entry, key, decode_fire) for key, entry in answer.items)
        records = tuple(record for record in readable if record is not None)
        return FirePage(records, answer.items[-1][0][len(ledger) :] if answer.more and answer.items else None)
