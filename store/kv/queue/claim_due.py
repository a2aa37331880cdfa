"""The delayed instances: a claim moves those that are due to the ready queues.

A move changes queue entries only and no record, so any store can move any instance at any time. The clock of the
moving node decides what is due. A node whose clock is off therefore moves an instance only a while after the instance
was due by the median of the clocks: that node may be the only one with free workers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from peerjob.store.kv.format.base import Compare, Delete, Entry, Range
from peerjob.store.kv.format.keys import prefix_end, time_text
from peerjob.store.kv.format.limit_rows import limit_key_of
from peerjob.store.kv.format.rows import Delayed, decode_delayed
from peerjob.store.kv.index.scan import AFTER_ALL, Head
from peerjob.store.kv.write.context import KVContext
from peerjob.store.kv.write.gates import Arrival, GatePlan, stamps
from peerjob.store.kv.write.hints import Wakeups
from peerjob.store.kv.write.transaction_plan import Change, TransactionPlan

from .claim_call import ClaimCall

MAX_MOVED = 500
"""Most instances that one claim moves to ready queues. A move of a thousand, of 10,000 kinds,
blocked a Redis server for 20 ms."""
LEFT_TO_OTHERS_US = 2_000_000
"""A node whose clock is off leaves due instances to other nodes for this long, and then moves the instances itself."""


class DelayedQueue:
    """The sixteen queues of delayed instances, as one."""

    def __init__(self, context: KVContext) -> None:
        self._context = context

    async def move_due(self, call: ClaimCall) -> bool:
        """Move what is due to the ready queues, earliest first; False if nothing is.

        Other nodes are woken for the kinds that this claim does not take.
        """
        context = self._context
        if not context.clock_skew.judgement.known:
            return False
        # the median clock decides: this node's wall clock may have been set since the last comparison with other clocks
        now_us = context.clock_skew.median_us() - (LEFT_TO_OTHERS_US if context.clock_skew.is_off else 0)
        until = time_text(now_us + 1)
        begun = [head for head in call.delayed if head.start < until]
        if not begun:
            return False
        scans = [context.queues.scan(head, now_us=now_us, until=until) for head in begun]
        while unfinished := [scan for scan in scans if not scan.done and len(scan.positions) < MAX_MOVED]:
            await context.queues.read(unfinished, MAX_MOVED)
        due = [
            (position, scan.head.queue, entry)
            for scan in scans
            for position, entry in zip(scan.positions, scan.entries, strict=True)
        ]
        due.sort(key=lambda item: item[0])
        changes: list[Change] = []
        plans: list[TransactionPlan] = []
        moving = [
            (position, queue, entry, await self._delayed(position[19:], queue + position, entry))
            for position, queue, entry in due[:MAX_MOVED]
        ]
        gates = await self._gates(moving)
        for position, queue, entry, delayed in moving:
            id = position[19:]
            plan = TransactionPlan(context.keys, now_us, gates=gates)
            if delayed is None:
                plan.ops.append(Delete(queue + position))
                # the kind of an unreadable entry is unknown, so only a recount can correct the counter that included
                # the entry
                context.counts.in_doubt = True
            else:
                kind, priority, due_us = delayed.kind, delayed.priority, int(position[:18])
                plan.leave_delayed(queue + position, id, kind, has_limit_key=delayed.limit_key is not None)
                plan.add_to_queue(id, kind, priority, due_us, suspect=delayed.suspect, limit_key=delayed.limit_key)
            plans.append(plan)
            changes.append(plan.change([Compare(queue + position, mod=entry.mod)]))
        written = await context.writer.write(changes, guards=stamps(gates))
        moved = Wakeups()
        for plan, _ in written.applied(plans):
            moved.add_queued(plan)
        await context.settle(moved.came)
        if len(due) <= MAX_MOVED:
            await context.queues.move_on(context.queues.advance(head, until) for head in begun)
        own: Mapping[str, int] = call.want.kinds if call.want.limit else {}
        others = {kind: count for kind, count in moved.ready.items() if own.get(kind, 0) <= 0}
        await context.hints.send(Wakeups(ready=others, except_for=call.incarnation if own else ""), written)
        return True

    async def _gates(self, moving: Sequence[tuple[str, str, Entry, Delayed | None]]) -> GatePlan | None:
        """The limit keys to which delayed instances come."""
        arrivals = [
            Arrival(
                (delayed.kind, delayed.limit_key[0]),
                delayed.limit_key[1],
                False,
                delayed.priority,
                int(position[:18]),
                position[19:],
            )
            for position, _, _, delayed in moving
            if delayed is not None and delayed.limit_key is not None
        ]
        gates = await self._context.gates.plan(arrival.gate for arrival in arrivals) if arrivals else None
        if gates is not None:
            gates.expect(arrivals)
        return gates

    async def _delayed(self, id: str, key: str, entry: Entry) -> Delayed | None:
        """Decode an entry of a delayed queue. If the entry is unreadable, the instance's record is used, if any."""
        delayed = self._context.unreadable.read(key, entry, decode_delayed, "the record of the instance replaces it")
        if delayed is not None:
            return delayed
        # the move deletes the entry, so it counts no more
        self._context.unreadable.replaced(key)
        stored = (await self._context.rows([id])).get(id)
        if stored is None:
            return None
        row = stored[1]
        return Delayed(row.kind, row.priority, row.suspect, limit_key_of(row))

    async def next_due(self, heads: Sequence[Head]) -> int | None:
        """The time at which the earliest instance is due; None without one, or if other nodes decide. Moves heads."""
        if not self._context.clock_skew.decides:
            return None
        position = await self._context.queues.earliest(heads)
        return None if position == AFTER_ALL else int(position[:18])

    def before(self, heads: Sequence[Head], next_due_us: int | None) -> list[Range]:
        """Reads that find nothing while no delayed instance is due before `next_due_us`."""
        if not self._context.clock_skew.decides:
            return []
        stop = None if next_due_us is None else time_text(next_due_us)
        return [
            Range(
                head.queue + head.start,
                prefix_end(head.queue) if stop is None else head.queue + stop,
                limit=1,
                keys_only=True,
            )
            for head in heads
            if stop is None or head.start < stop
        ]
