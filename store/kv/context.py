"""What all parts of the engine share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from peerjob.model.clock import Clock
from peerjob.model.errors import DecodeError
from peerjob.model.record import REPEAT_US, StoreLimits
from peerjob.model.state import State

from .answers import AnswerLogs
from .base import Compare, Delete, Entry, KeyValue, Put
from .clock_skew import ClockSkew
from .counts import DELAYED, READY, SLOT, Counts
from .hints import Hints
from .keys import Keys, timed
from .kind_sets import KindSets
from .queues import Queues
from .rows import GONE, Delayed, NodeRow, Row, decode_row, encode, node_of
from .set_aside import SetAside
from .slots import Slots, StepPlan
from .writer import Change, Writer

T = TypeVar("T")

LOGGER = logging.getLogger("peerjob.store")
_MAX_CACHED = 8192


class KVContext:
    """The store's connection and settings, and the small helpers that every verb uses."""

    def __init__(self, kv: KeyValue, *, url: str, namespace: str, clock: Clock, limits: StoreLimits) -> None:
        self.kv = kv
        self.url = url
        self.clock = clock
        self.limits = limits
        self.keys = Keys(namespace)
        self.queues = Queues(kv, self.keys)
        self.counts = Counts(kv, self.keys, clock)
        self.writer = Writer(kv, self.keys, self.counts, self.queues, url)
        self.hints = Hints(kv, self.keys, clock, self.writer, self.queues)
        self.answer_logs = AnswerLogs(kv, self.keys)
        self.slots = Slots(kv, self.keys)
        self.kind_sets = KindSets(kv, self.keys)
        self.clock_skew = ClockSkew(clock)
        self._set_asides = SetAside(kv, self.keys, self.writer, self.counts)
        self._rows: dict[str, tuple[int, Row]] = {}
        self._names: dict[str, str] = {}
        self._told: set[tuple[str, int]] = set()

    # -- records --------------------------------------------------------------------------------------------------

    async def rows(self, ids: Sequence[str], *, cached: bool = False) -> dict[str, tuple[int, Row]]:
        """Records that are there and can be read, by id, each with its revision.

        With `cached`, those that this store wrote itself come from memory; a compare shows if they are old.
        """
        rows: dict[str, tuple[int, Row]] = {}
        missing: list[str] = []
        for id in dict.fromkeys(ids):
            known = self._rows.get(id) if cached else None
            if known is None:
                missing.append(id)
            else:
                rows[id] = known
        if missing:
            entries = await self.kv.get([self.keys.state + id for id in missing])
            for id, entry in zip(missing, entries, strict=True):
                if entry is not None:
                    row = await self.decoded(id, entry)
                    if row is not None:
                        rows[id] = (entry.mod, row)
        return rows

    async def decoded(self, id: str, entry: Entry) -> Row | None:
        """A record; None for one that is gone, or that cannot be read and so was set aside."""
        if entry.value == GONE:
            return None
        try:
            return decode_row(entry.value)
        except DecodeError as error:
            await self.set_aside(id, entry, error)
            return None

    async def set_aside(self, id: str, entry: Entry, error: Exception) -> None:
        """Move a record that cannot be used out of the way, and out of the slot that it may have."""
        now_us = self.clock.time_us()
        plan = StepPlan([], [], [], slots=await self.slots.find(id))
        for name in plan.slots:
            self.pass_on(name, id, now_us, plan)
        self.slots.write(plan)
        await self._set_asides.put(id, entry, error, plan, now_us=now_us)

    def remember(self, id: str, revision: int, row: Row) -> None:
        """Keep a record that this store wrote, since it will most likely write it again."""
        if len(self._rows) >= _MAX_CACHED:
            del self._rows[next(iter(self._rows))]
        self._rows[id] = (revision, row)

    def remembers(self, id: str) -> bool:
        """Whether a record is kept here."""
        return id in self._rows

    def has_no_slot(self, id: str) -> bool:
        """Whether it is known here that an instance has no slot; a record never gets one later."""
        known = self._rows.get(id)
        return known is not None and not known[1].slot

    def drop(self, ids: Iterable[str]) -> None:
        """Read these from the server next time."""
        for id in ids:
            self._rows.pop(id, None)

    def value(self, entry: Entry | None, key: str, decode: Callable[[bytes], T]) -> T | None:
        """What a record of a schedule says; None if there is none or it cannot be read, which is told once."""
        if entry is None:
            return None
        try:
            return decode(entry.value)
        except DecodeError as error:
            problem = str(error)
        if (key, entry.mod) not in self._told:
            self._told.add((key, entry.mod))
            LOGGER.error("%s cannot be read and is taken for lost: %s", key, problem)
        return None

    # -- incarnations ---------------------------------------------------------------------------------------------

    def name(self, incarnation: str, entry: Entry | None) -> tuple[str, bool]:
        """A node's name, and whether this entry shows it alive."""
        if entry is None:
            return self._names.get(incarnation, ""), False
        row: NodeRow = node_of(entry.value)
        self.learn_name(incarnation, row.info.name)
        return row.info.name, not row.ended

    def learn_name(self, incarnation: str, name: str) -> None:
        """Remember how an incarnation is called."""
        if len(self._names) > 10_000:
            self._names.clear()
        self._names[incarnation] = name

    async def name_of(self, incarnation: str) -> str:
        """The name of the node that an incarnation belongs to, or ""."""
        known = self._names.get(incarnation)
        if known is None:
            (entry,) = await self.kv.get([self.keys.node + incarnation])
            known, _ = self.name(incarnation, entry)
        return known

    # -- parts of transitions -------------------------------------------------------------------------------------

    def enter(self, id: str, row: Row, now_us: int, plan: StepPlan) -> None:
        """Let a Scheduled instance into its index and its queue."""
        self.show(id, row, plan)
        self.let_in(id, row.kind, row.priority, row.due_us, now_us, plan, suspect=row.suspect)

    def show(self, id: str, row: Row, plan: StepPlan) -> None:
        """Let a Scheduled instance into its index."""
        plan.ops.append(Put(self.keys.by(row.kind, State.SCHEDULED) + id, b""))
        plan.shifts.append((row.kind, SLOT[State.SCHEDULED], 1))

    def let_in(
        self, id: str, kind: str, priority: int, due_us: int, now_us: int, plan: StepPlan, *, suspect: bool = False
    ) -> None:
        """Let a Scheduled instance into its queue: no instance comes into one in another way."""
        keys, place = self.keys, timed(due_us, id)
        if due_us <= now_us:
            queue = keys.ready(kind, priority, suspect=suspect)
            plan.ops.append(Put(queue + place, b""))
            plan.shifts.append((kind, READY, 1))
            plan.ready.append(kind)
        else:
            queue = keys.delayed(id)
            plan.ops.append(Put(queue + place, encode(Delayed(kind, priority, suspect))))
            plan.shifts.append((kind, DELAYED, 1))
            plan.delayed.append((due_us, kind))
        plan.adds.append((queue, place))

    def take_out(self, id: str, row: Row, delayed_mod: int, plan: StepPlan) -> None:
        """Take a Scheduled instance that is not claimed out of its queue, unless it is parked.

        `delayed_mod` is the revision of its entry among the delayed ones, if it is there.
        """
        keys, place = self.keys, timed(row.due_us, id)
        plan.compares.append(Compare(keys.delayed(id) + place, mod=delayed_mod))
        if delayed_mod:
            plan.ops.append(Delete(keys.delayed(id) + place))
            plan.shifts.append((row.kind, DELAYED, -1))
        elif not (row.slot in plan.slots and plan.slots[row.slot].parks(id)):
            plan.ops.append(Delete(keys.ready(row.kind, row.priority, suspect=row.suspect) + place))
            plan.shifts.append((row.kind, READY, -1))

    def let_go(self, id: str, before: Row, after: Row, now_us: int, plan: StepPlan) -> None:
        """End a claim: no other way leads out of one, but for the removal of the instance."""
        plan.ops.append(Delete(self.keys.owned(before.owner) + id))
        if before.releasing:
            self.free(id, after, now_us, plan)
            return
        self.leave(id, before, plan)
        if after.final:
            self.end(id, after, now_us, plan)
        else:
            self.enter(id, after, now_us, plan)

    def leave(self, id: str, row: Row, plan: StepPlan) -> None:
        """Take an instance out of the index of the state that it was in."""
        if row.state is not State.PROCESSING:
            plan.ops.append(Delete(self.keys.by(row.kind, row.state) + id))
        plan.shifts.append((row.kind, SLOT[row.state], -1))

    def end(self, id: str, row: Row, now_us: int, plan: StepPlan) -> None:
        """Let a final instance into its indexes; what it held is freed, unless its body still runs."""
        keys = self.keys
        queue = keys.by(row.kind, row.state)
        plan.ops.append(Put(queue + id, b""))
        plan.adds.append((queue, id))
        plan.shifts.append((row.kind, SLOT[row.state], 1))
        plan.ended.append(id)
        if not row.releasing:
            self.free(id, row, now_us, plan)

    def free(self, id: str, row: Row, now_us: int, plan: StepPlan) -> None:
        """Free what a final instance held, and let its time run."""
        keys = self.keys
        queue, place = keys.expiring(row.expires_us), timed(row.expires_us, id)
        plan.ops.append(Put(queue + place, b""))
        plan.adds.append((queue, place))
        self.give_up(id, row, now_us, plan)

    def give_up(self, id: str, row: Row, now_us: int, plan: StepPlan) -> None:
        """Free an instance's key, and let the next one have its slot."""
        if row.key is not None:
            plan.ops.append(Delete(self.keys.unique(row.kind, row.key)))
        if row.slot:
            self.pass_on(row.slot, id, now_us, plan)

    def pass_on(self, name: str, id: str, now_us: int, plan: StepPlan) -> None:
        """Take an instance out of a slot, and let the one that gets the slot into its queue."""
        first = self.slots.give_up(name, id, plan)
        if first is not None:
            self.let_in(first.id, first.kind, first.priority, first.due_us, now_us, plan)

    def change(
        self,
        plan: StepPlan,
        compares: Sequence[Compare] = (),
        *,
        answers: tuple[tuple[int, str], ...] = (),
    ) -> Change:
        """The step that a plan comes to."""
        self.slots.write(plan)
        return Change(
            [*compares, *plan.compares],
            plan.ops,
            tuple(plan.shifts),
            tuple(plan.adds),
            tuple(plan.ended),
            answers,
        )

    async def removal_lease(self, row: Row, now_us: int) -> int:
        """The lease to remember a removed instance by, while its enqueue may come again; 0 when it cannot.

        A full store takes no enqueue, and could not store what is to be remembered.
        """
        if now_us >= row.history[0].at_us + REPEAT_US or self.kv.full:
            return 0
        return await self.writer.removal_lease(now_us)

    def expires_us(self, row: Row, now_us: int) -> int:
        """When a final instance is to be removed."""
        kept_us = self.limits.retention_us if row.retention_us is None else row.retention_us
        return now_us + kept_us
