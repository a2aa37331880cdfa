"""Delayed instances: moving those that fell due, and knowing when the next one does.

Moving touches index entries only, never a record, so any store may do it, at any time, for any instance. The clock of
whoever moves decides what is due, so a node whose clock is off (`skew`) leaves it to the others; what they have not
moved a while after it fell due by their clocks, it moves, as it may be the only one with workers that are free.
"""

from __future__ import annotations

from collections.abc import Sequence

from peerjob.model.errors import DecodeError
from peerjob.store.retry import LOGGER

from .base import Compare, Delete, Entry, Found, Range
from .context import KVContext
from .counts import DELAYED
from .keys import prefix_end, time_text
from .queues import AFTER_ALL, Head
from .rows import Delayed, decode_delayed
from .slots import StepPlan
from .writer import Change, Written

MAX_MOVED = 500
"""Instances that one claim moves. A thousand, of 10,000 kinds, held up a Redis server for 20 ms."""
LEFT_TO_OTHERS_US = 2_000_000
"""How long a node whose clock is off waits for others to move what is due by their clocks."""


class DelayedQueue:
    """The sixteen queues of delayed instances, as one."""

    def __init__(self, context: KVContext) -> None:
        self._context = context

    def heads(self) -> Range:
        """The read of the queues' heads."""
        return self._context.queues.delayed_heads()

    async def move(self, found: Found) -> tuple[dict[str, int], Written | None]:
        """Let what fell due into the ready queues, earliest first; kind → how many."""
        context = self._context
        if not context.clock_skew.judgement.known:
            return {}, None
        # not by the wall clock, which may have been set since it was last compared
        now_us = context.clock_skew.median_us() - (LEFT_TO_OTHERS_US if context.clock_skew.is_off else 0)
        until = time_text(now_us + 1)
        begun = [head for head in context.queues.heads(found) if head.start < until]
        if not begun:
            return {}, None
        scans = [context.queues.scan(head, now_us=now_us, until=until) for head in begun]
        while going := [scan for scan in scans if not scan.done and len(scan.places) < MAX_MOVED]:
            await context.queues.read(going, MAX_MOVED)
        due = [
            (place, scan.head.queue, entry)
            for scan in scans
            for place, entry in zip(scan.places, scan.entries, strict=True)
        ]
        due.sort(key=lambda one: one[0])
        changes: list[Change] = []
        kinds: list[str] = []
        for place, queue, entry in due[:MAX_MOVED]:
            plan = StepPlan([Delete(queue + place)], [], [])
            delayed = await self._delayed(place[19:], entry)
            if delayed is None:
                # which kind counts it can only be told by counting
                context.writer.counts_in_doubt = True
                kinds.append("")
            else:
                kind, priority, due_us = delayed.kind, delayed.priority, int(place[:18])
                plan.shifts.append((kind, DELAYED, -1))
                context.let_in(place[19:], kind, priority, due_us, now_us, plan, suspect=delayed.suspect)
                kinds.append(kind)
            changes.append(context.change(plan, [Compare(queue + place, mod=entry.mod)]))
        written = await context.writer.write(changes, now_us=now_us)
        moved: dict[str, int] = {}
        for kind, revision in zip(kinds, written.revisions, strict=True):
            if revision and kind:
                moved[kind] = moved.get(kind, 0) + 1
        if len(due) <= MAX_MOVED:
            await context.queues.move_on(context.queues.advance(head, until) for head in begun)
        return moved, written

    async def _delayed(self, id: str, entry: Entry) -> Delayed | None:
        """What a delayed entry says, or else its record; None when neither can be read."""
        try:
            return decode_delayed(entry.value)
        except DecodeError as error:
            LOGGER.error("delayed instance %s: %s; its record is used instead", id, error)
        found = (await self._context.rows([id])).get(id)
        return None if found is None else Delayed(found[1].kind, found[1].priority, found[1].suspect)

    async def next_due(self, heads: Sequence[Head]) -> int | None:
        """When the earliest one falls due; lets each queue begin there. None also where others decide that."""
        if not self._context.clock_skew.decides:
            return None
        place = await self._context.queues.earliest(heads)
        return None if place == AFTER_ALL else int(place[:18])

    def before(self, heads: Sequence[Head], next_due_us: int | None) -> list[Range]:
        """Reads that find nothing as long as no delayed instance falls due before that time."""
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
