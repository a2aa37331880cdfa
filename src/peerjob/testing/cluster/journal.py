"""The events of a test cluster in the order in which the store wrote them, for assertions and traces."""

from __future__ import annotations

import heapq

import msgspec

from peerjob.model.clock import to_datetime
from peerjob.model.firing import FireRecord
from peerjob.model.state import State
from peerjob.store.kv.format.keys import Keys, timed
from peerjob.store.kv.format.rows import GONE, Row, decode_row
from peerjob.store.kv.format.schedule_rows import decode_fire, decode_next_fire
from peerjob.store.memory.data import MemoryData, MemoryWatch

from .clocks import ClusterClock

MAX_SHOWN = 60
"""Most events that the message of a failed assertion shows."""


class TraceEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event: a fault, a change of an instance, or a fire."""

    at_us: int
    """Wall-clock time of the event by the cluster's clock, in microseconds since the epoch."""
    elapsed: float
    """Virtual seconds between the creation of the cluster and the event."""
    text: str

    def __str__(self) -> str:
        return f"{to_datetime(self.at_us):%Y-%m-%d %H:%M:%S.%f}  {self.text}"


class BodyRun(msgspec.Struct, kw_only=True):
    """One run of a body: the node, the start and the end."""

    instance: str
    kind: str
    node: str
    attempt: int
    began: int
    """Position in the trace of the event that reports the start of the body."""
    began_us: int
    """Start of the body by the cluster's clock, in microseconds since the epoch."""
    ended: int | None = None
    ended_us: int | None = None
    end: str = ""
    """The end of the body: "returned", a cancellation's reason, an error's class, or "killed".

    "" while the body runs.
    """

    def __str__(self) -> str:
        until = "now" if self.ended_us is None else f"{to_datetime(self.ended_us):%Y-%m-%d %H:%M:%S.%f} ({self.end})"
        return (
            f"{self.kind} {short(self.instance)}, attempt {self.attempt}, on {self.node} "
            f"from {to_datetime(self.began_us):%Y-%m-%d %H:%M:%S.%f} until {until}"
        )


class _StoredEvent(msgspec.Struct, frozen=True):
    """An event as stored; `trace` formats it."""

    at_us: int
    elapsed: float
    key: str
    value: bytes


class EventJournal(MemoryWatch):
    """Records each instance, schedule and fire that the store writes, even if the answer to the node is lost."""

    def __init__(self, data: MemoryData, namespace: str, clock: ClusterClock) -> None:
        keys = self._keys = Keys(namespace)
        self._clock = clock
        self._events: list[_StoredEvent] = []
        self._next = f"{keys.root}next/"
        self._ledger = f"{keys.root}ledger/"
        self._names: dict[int, str] = {}
        """Name of the schedule, by the epoch that identifies the schedule's ledger."""
        self._last: dict[str, bytes] = {}
        self._active: set[str] = set()
        """Ids of instances that had not ended when they were last written."""
        self._due: list[tuple[int, str]] = []
        """A heap of due times and keys of delayed instances. Reads skip the keys of instances that were removed."""
        self._nominal: list[tuple[int, str]] = []
        """A heap of next nominal times and the keys of their schedules. Reads skip entries that are outdated."""
        self.bodies: list[BodyRun] = []
        """All runs of bodies, in the order in which they started."""
        self._running: set[int] = set()
        """Positions in `bodies` of the runs that have not ended."""
        super().__init__(data, (keys.state, self._next, self._ledger))

    def tell(self, key: str, value: bytes) -> None:
        """Record a key that was put. The store calls this under its lock."""
        if key.startswith(self._keys.state):
            id = key[len(self._keys.state) :]
            if value == GONE:
                return
            self._last[id] = value
            row = decode_row(value)
            if row.state is State.SCHEDULED:
                heapq.heappush(self._due, (row.due_us, self._keys.delayed(id) + timed(row.due_us, id)))
            (self._active.add if row.keeps else self._active.discard)(id)
        elif key.startswith(self._next):
            state = decode_next_fire(value)
            self._names[state.epoch] = self._keys.unescaped(key[len(self._next) :])
            if state.next_us is not None and not state.paused:
                heapq.heappush(self._nominal, (state.next_us, key))
            return
        elif not key.startswith(self._ledger):
            return
        self._add(key, value)

    def log(self, text: str) -> None:
        """Record a fault or another action of the test."""
        self._add("", text.encode())

    def body_begins(self, instance: str, kind: str, node: str, attempt: int) -> int:
        """Record the start of a body; returns its position for `body_ends`."""
        run = BodyRun(
            instance=instance,
            kind=kind,
            node=node,
            attempt=attempt,
            began=len(self._events),
            began_us=self._clock.time_us(),
        )
        self.bodies.append(run)
        self._running.add(len(self.bodies) - 1)
        self.log(f"{kind} {short(instance)} begins on {node}, attempt {attempt}")
        return len(self.bodies) - 1

    def body_ends(self, index: int, end: str) -> None:
        """Record the end of a body."""
        run = self.bodies[index]
        self._running.discard(index)
        run.ended, run.ended_us, run.end = len(self._events), self._clock.time_us(), end
        self.log(f"{run.kind} {short(run.instance)} ends on {run.node}: {end}")

    def node_vanishes(self, node: str) -> None:
        """Record the end of all bodies of a killed node."""
        for index in sorted(self._running):
            if self.bodies[index].node == node:
                self.body_ends(index, "killed")

    def next_due_us(self, after_us: int = 0) -> int | None:
        """The first due time of a delayed instance after a moment, or None."""
        entries = self._data.entries
        while self._due and self._due[0][1] not in entries:
            heapq.heappop(self._due)
        if not self._due or self._due[0][0] > after_us:
            return self._due[0][0] if self._due else None
        return min((due_us for due_us, key in self._due if due_us > after_us and key in entries), default=None)

    def next_nominal_us(self) -> int | None:
        """The first nominal time without a fire, of schedules that are not paused, or None."""
        while self._nominal:
            next_us, key = self._nominal[0]
            entry = self._data.entries.get(key)
            state = None if entry is None else decode_next_fire(entry.value)
            if state is not None and state.next_us == next_us and not state.paused:
                return next_us
            heapq.heappop(self._nominal)
        return None

    def is_active(self, id: str | None = None) -> bool:
        """Whether an instance, or any instance, exists and has not ended; a running body counts."""
        for instance in list(self._active) if id is None else self._active & {id}:
            if self._keys.state + instance in self._data.entries:
                return True
            # the store was cleared, so the instance does not exist any more
            self._active.discard(instance)
        return False

    def active(self) -> list[str]:
        """Ids of all instances that exist and have not ended."""
        return sorted(instance for instance in self._active if self._keys.state + instance in self._data.entries)

    def row(self, id: str) -> Row | None:
        """The last write of an instance, even if the instance was removed later."""
        value = self._last.get(id)
        return None if value is None else decode_row(value)

    def rows(self) -> dict[str, Row]:
        """The last write of every instance, removed ones included."""
        return {id: decode_row(value) for id, value in self._last.items()}

    def fires(self, schedule: str) -> list[FireRecord]:
        """The outcomes of a schedule's nominal times in order, trimmed ones included."""
        records: dict[str, FireRecord] = {}
        for event in self._events:
            if event.key.startswith(self._ledger) and self._schedule_of(event.key) == schedule:
                records[event.key] = decode_fire(event.value)
        return sorted(records.values(), key=lambda record: record.nominal_us)

    def schedules(self) -> list[str]:
        """Names of all schedules, removed ones included."""
        return sorted(set(self._names.values()))

    def trace(self) -> list[TraceEvent]:
        """All events, formatted."""
        return [
            TraceEvent(at_us=event.at_us, elapsed=event.elapsed, text=self._text_of(event)) for event in self._events
        ]

    def tail(self) -> str:
        """The last events, as text."""
        events = self._events[-MAX_SHOWN:]
        lines = [f"  … {len(self._events) - MAX_SHOWN:,} earlier events"] if len(self._events) > MAX_SHOWN else []
        lines += [
            f"  {TraceEvent(at_us=event.at_us, elapsed=event.elapsed, text=self._text_of(event))}" for event in events
        ]
        return "\n".join(lines)

    def _add(self, key: str, value: bytes) -> None:
        self._events.append(_StoredEvent(self._clock.time_us(), self._clock.elapsed(), key, value))

    def _schedule_of(self, key: str) -> str:
        return self._names.get(int(key[len(self._ledger) :].split("/", 1)[0]), "?")

    def _text_of(self, event: _StoredEvent) -> str:
        if not event.key:
            return event.value.decode()
        if event.key.startswith(self._ledger):
            record = decode_fire(event.value)
            about = f"schedule {self._schedule_of(event.key)!r} {record.outcome} for"
            reason = f" ({record.reason})" if record.reason else ""
            return f"{about} {to_datetime(record.nominal_us).isoformat()} by {record.node or '?'}{reason}"
        return describe(event.key[len(self._keys.state) :], decode_row(event.value))


def short(id: str) -> str:
    """Shorten an id for messages."""
    return f"{id[:8]}…{id[-4:]}"


def describe(id: str, row: Row) -> str:
    """Format an instance and its latest state."""
    last = row.history[-1]
    where = f" on {last.node}" if last.node else ""
    why = f" ({last.note})" if last.note else ""
    return f"{row.kind} {short(id)} {last.state}{where}{why}, attempt {row.attempts}"
