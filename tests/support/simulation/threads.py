"""What holds in the data of the store after each operation: where an instance waits, and what keeps a child."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote

from peerjob.model.durable import SIGNAL_MARK
from peerjob.store.kv.format.base import Entry
from peerjob.store.kv.format.keys import Keys
from peerjob.store.kv.format.rows import GONE, Row, decode_row
from peerjob.store.kv.format.schedule_rows import decode_slot
from peerjob.store.kv.format.thread_rows import StoredThread, thread_of, wait_of
from peerjob.store.memory.data import MemoryData, MemoryWatch

from .durable_evidence import DurableEvidence

QUEUES = ("ready", "due", "wait")


@dataclass(frozen=True)
class _Decoded:
    """A record, decoded once for each version."""

    mod: int
    row: Row
    thread: StoredThread | None
    wait: StoredThread | None


@dataclass
class _Found:
    """The keys of a namespace, by what they are about."""

    rows: dict[str, _Decoded] = field(default_factory=dict[str, "_Decoded"])
    places: Counter[str] = field(default_factory=Counter[str])
    needs: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    """Dependant and fence → what it needs."""
    edges: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    children: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    expiring: set[str] = field(default_factory=set[str])
    settling: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    """Instance, and what is to be settled about it."""
    steps: set[str] = field(default_factory=set[str])


class Threads(MemoryWatch):
    """Hears of each write, and looks at all data when it is asked."""

    def __init__(self, data: MemoryData, namespace: str, evidence: DurableEvidence) -> None:
        self._keys = Keys(namespace)
        self._evidence = evidence
        self._rows: dict[str, _Decoded] = {}
        """Key → the version of a record that was decoded last."""
        self._looked_at = -1
        """The revision of the data at the last look."""
        super().__init__(data, (self._keys.state, f"{self._keys.root}step/"))

    def tell(self, key: str, value: bytes) -> None:
        """Keep the first value of each step, and the deadline of each wait."""
        part, *names = key[len(self._keys.root) :].split("/")
        if part == "step":
            id, name = names[0], unquote(names[1])
            first = self._evidence.written.setdefault(id, {}).setdefault(name, value)
            if first != value:
                self._evidence.broken[f"STEP-ONCE: step {name!r} of {id} was {first!r}, and is {value!r}"] = None
        elif part == "state" and value != GONE:
            thread = wait_of(decode_row(value))
            if thread is not None and thread.until_us is not None:
                self._evidence.deadlines.setdefault(names[0], set()).add(thread.until_us)

    def look(self, when: str) -> None:
        """Check all data that changed since the last look, and write down what does not hold."""
        if self._looked_at == self._data.revision:
            return
        self._looked_at = self._data.revision
        found = self._read()
        for id, one in found.rows.items():
            for text in (*_waker(self._keys, found, id, one), *_held(found, id, one)):
                self._evidence.broken.setdefault(f"{text} ({when})")
        for id, dependants in found.edges.items():
            needed = found.rows.get(id)
            if (needed is None or not needed.row.keeps) and (id, "e") not in found.settling:
                self._evidence.broken.setdefault(f"EDGES-SETTLE: {id} is over, and {len(dependants)} need it ({when})")

    def unsettled(self) -> list[str]:
        """The keys that are only there while something is to be settled, but for needs that go with their dependant.

        A child that its parent lets go can be removed, with its edges, before its end is settled. No edge then tells of
        the need, and the final dependant keeps it until its own removal.
        """
        root, rows = self._keys.root, self._read().rows
        found: list[str] = []
        for key in self._data.entries:
            part, *names = key[len(root) :].split("/")
            if part in ("settle", "for", "need"):
                dependant = rows.get(names[0])
                goes_along = part == "need" and dependant is not None and dependant.row.final and names[2] not in rows
                found += [] if goes_along else [key[len(root) :]]
        return found

    def _read(self) -> _Found:
        found, root = _Found(), len(self._keys.root)
        for key, entry in self._data.entries.items():
            part, *names = key[root:].split("/")
            match part:
                case "state" if entry.value != GONE:
                    found.rows[names[0]] = self._row(key, entry)
                case "slot":
                    found.places.update(parked.id for parked in decode_slot(entry.value).parked)
                case "need":
                    found.needs[names[0], names[1]] += 1
                case "for":
                    found.edges.setdefault(names[0], set()).add(names[1])
                case "child":
                    found.children.add((names[0], names[1]))
                case "expiry":
                    found.expiring.add(names[-1])
                case "settle":
                    found.settling.add((names[0], names[1]))
                case "step":
                    found.steps.add(key)
                case _ if part in QUEUES:
                    found.places[names[-1]] += 1
                case _:
                    pass
        return found

    def _row(self, key: str, entry: Entry) -> _Decoded:
        known = self._rows.get(key)
        if known is None or known.mod != entry.mod:
            row = decode_row(entry.value)
            known = self._rows[key] = _Decoded(entry.mod, row, thread_of(row), wait_of(row))
        return known


def _waker(keys: Keys, found: _Found, id: str, one: _Decoded) -> Iterator[str]:
    """WAKER: a Scheduled instance is in one queue, or it waits for what can still come; not both."""
    row, wait = one.row, one.wait
    if row.final or row.claimed:
        if found.places[id]:
            yield f"WAKER: {id} is {row.state!s} and in {found.places[id]} queues"
        return
    if wait is None or wait.until_us is not None:
        if found.places[id] != 1:
            yield f"WAKER: {id} is in {found.places[id]} queues"
        return
    if found.places[id]:
        yield f"WAKER: {id} waits, and is in {found.places[id]} queues"
    for name in wait.awaits:
        if keys.step(id, SIGNAL_MARK + name) in found.steps:
            yield f"WAKER: {id} waits for signal {name!r}, which is there"
    by_needs = wait.needs and (found.needs[id, str(wait.fence)] or _settles(found, id))
    by_parent = wait.open and wait.parent in found.rows
    if not (wait.awaits or by_needs or by_parent):
        yield f"WAKER: {id} waits for nothing"


def _settles(found: _Found, id: str) -> bool:
    """Whether an end is to be followed up that an instance needs: its marker goes before it enters its queue."""
    return (
        any(id in found.edges.get(needed, ()) for needed, what in found.settling if what == "e")
        or (
            id,
            "f",
        )
        in found.settling
    )


def _held(found: _Found, id: str, one: _Decoded) -> Iterator[str]:
    """HELD and CLOSED: a child is held until its parent is final, and has no retention before."""
    row, thread = one.row, one.thread
    held = thread is not None and thread.held
    if row.final and not row.releasing and held == (id in found.expiring):
        yield f"HELD: {id} is over, held: {held}, expires: {not held}"
    if id in found.expiring and (not row.final or row.releasing):
        yield f"HELD: {id} is {row.state!s}, and expires"
    if thread is None or not thread.parent:
        return
    parent = found.rows.get(thread.parent)
    is_let_go = (thread.parent, "k") in found.settling
    if not row.final and ((thread.parent, id) not in found.children or not held):
        yield f"CLOSED: {id} is {row.state!s}, and its parent does not hold it"
    if held and (parent is None or parent.row.final) and not is_let_go:
        yield f"CLOSED: {id} is held, and its parent is final"
