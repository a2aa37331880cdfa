"""Limit keys: of each, so many instances are past the gate, in the queue or claimed, and the others wait.

A permit is a key with a number below the concurrency, which only one transaction can write. If nothing waits, an
instance that comes takes a free permit in its own transaction. Otherwise it gets an entry in a queue of the limit key.
The end of a claim passes its permit on to the first waiting instance, in its own transaction. If nothing waits, it
deletes the permit, and compares that still nothing waits.

All other cases take two steps. Their transactions only give permits back, and add waiting instances. Then `settle`
reads the limit key again, and gives free permits to waiting instances. So it also finds a permit that became free
between the read and the write of an instance that waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from zlib import crc32

import msgspec

from peerjob.model.state import State
from peerjob.store.kv.format.base import Compare, Entry, KeyValue, Op, Put, Transaction
from peerjob.store.kv.format.keys import LATEST_US, Keys, below, prefix_end, timed
from peerjob.store.kv.format.limit_rows import KeyPermit, Waiting, decode_key_permit, decode_waiting, gate_of
from peerjob.store.kv.format.rows import Row, number_of
from peerjob.store.kv.format.schedule_rows import SlotRow
from peerjob.store.kv.format.unreadable import Unreadable
from peerjob.store.kv.index.queues import Queues
from peerjob.store.kv.index.scan import Head, Scan

from .limit_rules import LimitsInUse, Rules, free_numbers

Gate = tuple[str, str]
"""A kind and a limit key."""
_AHEAD = 8
"""A read of a limit key finds at least so many of the instances that wait."""
_MAX_KNOWN = 10_000
"""A store remembers the queues of at most so many limit keys."""
CONCURRENCY = "c"
"""The last part of the key that stores the concurrency of a limit key."""


class Waiter(msgspec.Struct, frozen=True):
    """An instance that waits for its limit key, as read."""

    queue: str
    position: str
    mod: int
    priority: int
    entry: Waiting

    @property
    def id(self) -> str:
        return self.position[19:]

    @property
    def due_us(self) -> int:
        return int(self.position[:18])


class Arrival(msgspec.Struct, frozen=True):
    """A due instance that comes to its gate."""

    gate: Gate
    concurrency: int
    """The concurrency that comes with the instance; the one of the limit key from now on, if the instance is new."""
    is_new: bool
    priority: int
    due_us: int
    id: str


class KeyState:
    """A limit key, as read, with the changes of the transactions that are planned."""

    def __init__(self, gate: Gate, prefix: str, setting: int) -> None:
        self.gate = gate
        self.prefix = prefix
        self.permits: dict[int, tuple[int, KeyPermit | None]] = {}
        """Number → revision and permit; None for one that cannot be read."""
        self.stored: int | None = None
        """The stored concurrency, if another one than that of the key came with an instance."""
        self.stored_mod = 0
        self.waiting: list[Waiter] = []
        """The first instances that wait."""
        self.has_queues = False
        """Whether an instance may wait."""
        self.left = 0
        """How many planned transactions give a permit back."""
        self.came = 0
        """The concurrency that came with the first instance of the limit key."""
        self._setting = setting

    @property
    def concurrency(self) -> int:
        """How many instances may be past the gate; 0 for a limit key without instances."""
        return self._setting or self.number

    @property
    def number(self) -> int:
        """The concurrency that came with the last new instance."""
        if self.stored is not None:
            return self.stored
        known = [(mod, permit.concurrency) for mod, permit in self.known]
        return max(known)[1] if known else self.waiting[0].entry.concurrency if self.waiting else self.came

    @property
    def known(self) -> list[tuple[int, KeyPermit]]:
        """Revision and permit of each instance that is past the gate."""
        return [(mod, permit) for mod, permit in self.permits.values() if permit is not None]

    @property
    def admitted(self) -> int:
        """How many instances are past the gate after the planned transactions."""
        return len(self.permits) - self.left

    @property
    def is_left(self) -> bool:
        """Whether the limit key may have no instances after the planned transactions, but a stored concurrency."""
        return self.stored is not None and self.admitted <= 0

    @property
    def may_keep(self) -> bool:
        """Whether an instance that leaves and comes again at once keeps its permit."""
        return not self.has_queues and self.admitted <= self.concurrency

    def permit_of(self, id: str) -> tuple[int, int, KeyPermit] | None:
        """Number, revision and permit of an instance."""
        for number, (mod, permit) in self.permits.items():
            if permit is not None and permit.id == id:
                return number, mod, permit
        return None

    def free(self, id: str) -> Iterator[int]:
        """The numbers that may be taken, in an order that depends on the id."""
        return free_numbers(self.permits.keys(), self.concurrency, crc32(id.encode()))

    def permit(self, number: int) -> str:
        """The key of a permit."""
        return f"{self.prefix}{number:06d}"

    @property
    def is_over(self) -> bool:
        """Whether the stored concurrency is that of instances that are all gone."""
        return self.stored_mod > 0 and not self.permits and not self.has_queues


class GatePlan:
    """The limit keys that the transactions of one request change."""

    def __init__(self, keys: Keys, states: dict[Gate, KeyState], stamp: Compare, waits: Mapping[str, int]) -> None:
        self._keys = keys
        self.states = states
        self.stamp = stamp
        """Holds while the settings for limit keys are those that were read."""
        self.waits = waits
        """Id → revision of the entry, for each instance of the request that waits for its limit key."""
        self.returning: set[Gate] = set()
        """Limit keys to which an instance of this request may come that is better than those that wait."""
        self._numbers: dict[str, int] = {}
        self._stores: dict[str, int] = {}
        self._overflows: set[Gate] = set()
        """Limit keys at which the request itself lets instances wait."""

    def may_change(self, arrivals: Sequence[Arrival]) -> bool:
        """Whether new instances bring other concurrencies than those of their limit keys, or different ones."""
        brought = {(arrival.gate, arrival.concurrency) for arrival in arrivals}
        known = {(gate, state.number) for gate, state in self.states.items() if state.number and not state.is_over}
        return len(brought | known) > len({gate for gate, _ in brought | known})

    def expect(self, arrivals: Iterable[Arrival]) -> None:
        """Choose permits for instances that come: for the best of each limit key, if nothing waits there."""
        by_gate: dict[Gate, list[tuple[int, str, str]]] = {}
        stores: dict[Gate, tuple[str, int]] = {}
        for arrival in arrivals:
            gate, state = arrival.gate, self.states[arrival.gate]
            is_first = state.is_over and gate not in by_gate
            by_gate.setdefault(gate, []).append((arrival.priority, timed(arrival.due_us, arrival.id), arrival.id))
            if not state.number:
                state.came = arrival.concurrency
            elif (arrival.is_new or is_first) and state.number != arrival.concurrency:
                state.stored = arrival.concurrency
                stores[gate] = arrival.id, arrival.concurrency
        self._stores |= dict(stores.values())
        for gate, coming in by_gate.items():
            state = self.states[gate]
            if not state.has_queues:
                coming.sort()
                numbers = state.free(coming[0][2])
                chosen = {id: number for (_, _, id), number in zip(coming, numbers, strict=False)}
                self._numbers |= chosen
                if len(chosen) < len(coming):
                    self._overflows.add(gate)

    @property
    def known(self) -> list[str]:
        """The instances that are past a gate, or wait there."""
        permits = (permit for state in self.states.values() for _, permit in state.permits.values())
        return [*(permit.id for permit in permits if permit is not None), *self.waits]

    def number_for(self, id: str) -> int | None:
        """The permit that was chosen for an instance; None: it waits."""
        return self._numbers.get(id)

    def concurrency_ops(self, gate: Gate, id: str) -> list[Op]:
        """The write of the concurrency that an instance brings."""
        number = self._stores.get(id)
        return [] if number is None else [Put(self.states[gate].prefix + CONCURRENCY, str(number).encode())]

    def none_waits(self, gate: Gate) -> Compare:
        """A compare that holds while no instance waits. If the request itself opens queues, it reads their entries."""
        if gate in self._overflows:
            return Compare(self._keys.waiting(gate), end=prefix_end(self._keys.waiting(gate)))
        return none_waits(self._keys, gate)


def none_waits(keys: Keys, gate: Gate) -> Compare:
    """A compare that holds while no instance waits: it reads the heads of the queues, which are few."""
    heads = f"{keys.head(keys.waiting(gate))}/"
    return Compare(heads, end=prefix_end(heads))


def stamps(gates: GatePlan | None) -> list[Compare]:
    """The guard of a request that changes limit keys."""
    return [] if gates is None else [gates.stamp]


class Gates:
    """Reads limit keys."""

    def __init__(self, kv: KeyValue, keys: Keys, queues: Queues, unreadable: Unreadable, rules: LimitsInUse) -> None:
        self._kv = kv
        self._keys = keys
        self._queues = queues
        self._unreadable = unreadable
        self._limit_rules = rules
        self._last: dict[Gate, Head] = {}
        """The first queue of each limit key at which instances waited when this store read it last."""

    async def plan(self, gates: Iterable[Gate | None], *, ahead: int = _AHEAD) -> GatePlan | None:
        """Read the limit keys of a request, each with the first instances that wait; None without one."""
        wanted = {gate for gate in gates if gate is not None}
        if not wanted:
            return None
        rules = await self._limit_rules.current()
        return GatePlan(self._keys, await self.read(sorted(wanted), rules, ahead=ahead), rules.stamp, {})

    async def plan_of(
        self, rows: Iterable[tuple[str, Row]], slots: Iterable[SlotRow] = (), others: Iterable[Gate | None] = ()
    ) -> GatePlan | None:
        """Read the limit keys of instances that end or leave their queues, and of those that may get their slots.

        The caller has read before which of them are delayed.
        """
        gates = {id: (gate, row) for id, row in rows if row.keeps and (gate := gate_of(row)) is not None}
        parked = {parked.gate for slot in slots for parked in slot.parked}
        ends: Mapping[Gate, int] = Counter(gate for gate, _ in gates.values()) if gates else {}
        plan = await self.plan([*ends, *parked, *others], ahead=max([_AHEAD, *ends.values()]))
        if plan is not None:
            plan.returning = {gate for gate in parked if gate is not None}
            entries = {
                id: self._keys.waiting(gate, row.priority) + timed(row.due_us, id)
                for id, (gate, row) in gates.items()
                if row.state is State.SCHEDULED
            }
            read = zip(entries, await self._kv.get(list(entries.values())), strict=True)
            plan.waits = {id: entry.mod for id, entry in read if entry is not None}
            known = set(plan.known)
            if unseen := {gates[id][0] for id in entries if id not in known}:
                # they are delayed or parked, or they passed their gates between the two reads
                plan.states |= await self.read(sorted(unseen), await self._limit_rules.current())
        return plan

    async def read(self, gates: Sequence[Gate], rules: Rules, *, ahead: int = _AHEAD) -> dict[Gate, KeyState]:
        """Read limit keys, each with the first instances that wait."""
        keys = self._keys
        ranges = [below(keys.key_permits(gate)) for gate in gates]
        ranges += [below(f"{keys.head(keys.waiting(gate))}/") for gate in gates]
        # the first windows come along with the heads, since most heads have not moved
        last = [self._last[gate] for gate in gates if gate in self._last]
        begun = {head: self._queues.scan(head, now_us=LATEST_US, whole=True) for head in last}
        answers = await self._kv.read([*ranges, *(scan.window(ahead) for scan in begun.values())])
        for scan, answer in zip(begun.values(), answers[len(ranges) :], strict=True):
            scan.take(answer, ahead)
        states: dict[Gate, KeyState] = {}
        heads: dict[Gate, list[Head]] = {}
        for gate, permits, queues in zip(gates, answers, answers[len(gates) :], strict=False):
            of_kind = rules.kinds.get(gate[0])
            states[gate] = state = KeyState(gate, keys.key_permits(gate), 0 if of_kind is None else of_kind.key_setting)
            for key, entry in permits.items:
                self._take_permit(state, key, entry)
            if queues.items:
                heads[gate] = sorted(self._queues.heads(queues), key=lambda head: head.queue, reverse=True)
                state.has_queues = True
        if len(self._last) > _MAX_KNOWN:
            self._last.clear()
        for gate in gates:
            self._last.pop(gate, None)
        self._last |= {gate: queues[-1] for gate, queues in heads.items()}
        await self._read_waiting(states, heads, begun, ahead)
        return states

    def _take_permit(self, state: KeyState, key: str, entry: Entry) -> None:
        number = key[len(state.prefix) :]
        if number == CONCURRENCY:
            stored = number_of(entry.value)
            state.stored, state.stored_mod = stored if stored > 0 else None, entry.mod
        else:
            permit = self._unreadable.read(key, entry, decode_key_permit, "it stays until the next check of limits")
            state.permits[int(number)] = (entry.mod, permit)

    async def _read_waiting(
        self, states: Mapping[Gate, KeyState], heads: dict[Gate, list[Head]], begun: dict[Head, Scan], ahead: int
    ) -> None:
        """Read the first instances that wait, in the order of the queues of each limit key; drop empty queues."""
        scans: dict[Gate, Scan] = {}
        empty: dict[Gate, list[Head]] = {}
        late: list[Transaction | None] = []
        for rounds in count():
            if not (heads or scans):
                break
            for gate in [gate for gate in heads if gate not in scans]:
                head = heads[gate].pop()
                scans[gate] = begun.get(head) or self._queues.scan(head, now_us=LATEST_US, whole=True)
            unread = [scan for scan in scans.values() if begun.pop(scan.head, None) is None]
            if unread:
                await self._queues.read(unread, ahead)
            for gate, scan in list(scans.items()):
                state = states[gate]
                if len(scan.positions) + len(state.waiting) < ahead and not scan.done:
                    continue
                del scans[gate]
                state.waiting += self._waiters(scan)
                if rounds > 1 and scan.positions:
                    # passed instances have left a gap behind the head
                    late.append(self._queues.advance(scan.head, scan.positions[0]))
                if scan.done and not scan.positions:
                    empty.setdefault(gate, []).append(scan.head)
                if not heads[gate] or len(state.waiting) >= ahead:
                    del heads[gate]
        await self._queues.move_on([*late, *(self._queues.drop(head) for heads in empty.values() for head in heads)])
        for gate in empty:
            states[gate].has_queues = bool(states[gate].waiting)

    def _waiters(self, scan: Scan) -> Iterator[Waiter]:
        queue = scan.head.queue
        priority = int(queue[:-1].rsplit("/", 1)[1], 16) - 2**31
        for position, entry in zip(scan.positions, scan.entries, strict=True):
            # an entry that cannot be read stands for an instance that is no suspect
            waiting = self._unreadable.read(queue + position, entry, decode_waiting) or Waiting(False, 1)
            yield Waiter(queue, position, entry.mod, priority, waiting)
