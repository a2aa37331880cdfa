"""What all parts of the engine share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from peerjob.clock import Clock
from peerjob.record import StoreLimits
from peerjob.state import State

from .aside import Aside
from .base import Delete, Entry, KeyValue, Op, Put, Range
from .counts import DELAYED, SLOT, Counts, Shift
from .hints import Hints
from .journal import Journals
from .keys import Keys, prefix_end, time_text, timed
from .queues import Queues
from .rows import Delayed, NodeRow, Row, decode_node, decode_row, encode
from .writer import Writer

_MOST_CACHED = 8192


class Plan(msgspec.Struct, gc=False):
    """What a transition writes besides the record itself."""

    ops: list[Op]
    shifts: list[Shift]
    adds: list[tuple[str, str]]
    reads: tuple[Range, ...] = ()


class Context:
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
        self.journals = Journals(kv, self.keys)
        self.aside = Aside(kv, self.keys, self.writer, self.counts)
        self._rows: dict[str, tuple[int, Row]] = {}
        self._names: dict[str, str] = {}

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
        """A record, or None after one that cannot be read was set aside."""
        try:
            return decode_row(entry.value)
        except msgspec.MsgspecError as error:
            await self.aside.put(id, entry, error, now_us=self.clock.time_us())
            return None

    def remember(self, id: str, revision: int, row: Row) -> None:
        """Keep a record that this store wrote, since it will most likely write it again."""
        if len(self._rows) >= _MOST_CACHED:
            del self._rows[next(iter(self._rows))]
        self._rows[id] = (revision, row)

    def remembers(self, id: str) -> bool:
        """Whether a record is kept here."""
        return id in self._rows

    def drop(self, ids: Iterable[str]) -> None:
        """Read these from the server next time."""
        for id in ids:
            self._rows.pop(id, None)

    # -- incarnations ---------------------------------------------------------------------------------------------

    def name(self, incarnation: str, entry: Entry | None) -> tuple[str, bool]:
        """A node's name, and whether this entry shows it alive."""
        if entry is None:
            return self._names.get(incarnation, ""), False
        row: NodeRow = decode_node(entry.value)
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

    def enter(self, id: str, row: Row, now_us: int, plan: Plan) -> bool:
        """Let a Scheduled instance into its queue; whether it is due."""
        keys = self.keys
        plan.ops.append(Put(keys.by(row.kind, State.SCHEDULED) + id, b""))
        place = timed(row.due_us, id)
        if row.due_us <= now_us:
            queue = keys.ready(row.kind, row.priority, suspect=row.suspect)
            plan.ops.append(Put(queue + place, b""))
            plan.adds.append((queue, place))
            plan.shifts.append((row.kind, SLOT[State.SCHEDULED], 1))
            return True
        queue = keys.delayed(id)
        plan.ops.append(Put(queue + place, encode(Delayed(row.kind, row.priority, row.suspect))))
        plan.adds.append((queue, place))
        plan.shifts += ((row.kind, SLOT[State.SCHEDULED], 1), ("", DELAYED, 1))
        return False

    def leave(self, id: str, row: Row, plan: Plan) -> None:
        """Take an instance out of the index of the state that it was in."""
        plan.ops.append(Delete(self.keys.by(row.kind, row.state) + id))
        plan.shifts.append((row.kind, SLOT[row.state], -1))

    def end(self, id: str, row: Row, plan: Plan) -> None:
        """Let a final instance into its indexes; what it held is freed, unless its body still runs."""
        keys = self.keys
        queue = keys.by(row.kind, row.state)
        plan.ops.append(Put(queue + id, b""))
        plan.adds.append((queue, id))
        plan.shifts.append((row.kind, SLOT[row.state], 1))
        prefix = keys.watch(id)
        plan.reads = (Range(prefix, prefix_end(prefix), keys_only=True),)
        if not row.releasing:
            self.free(id, row, plan)

    def free(self, id: str, row: Row, plan: Plan) -> None:
        """Free a final instance's key, and let its time run."""
        keys = self.keys
        queue, place = keys.expiring(id), timed(row.expires_us, id)
        plan.ops.append(Put(queue + place, b""))
        plan.adds.append((queue, place))
        if row.key is not None:
            plan.ops.append(Delete(keys.unique(row.kind, row.key)))

    def expires_us(self, row: Row, now_us: int) -> int:
        """When a final instance is to be removed."""
        kept_us = self.limits.retention_us if row.retention_us is None else row.retention_us
        return now_us + kept_us

    def due_before(self, now_us: int) -> str:
        """The place after everything that is due."""
        return time_text(now_us + 1)
