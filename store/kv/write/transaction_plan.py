"""The plan of one transaction: how an instance enters and leaves its indexes, its queue, its key and its slot.

All transitions of an instance use these methods. So record, indexes, queues, ownership and counts change in one
transaction. A transaction that changes a slot compares what was read of the slot. Two transactions of one request
therefore cannot both change a slot: the second one is repeated in the next round.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from peerjob.model.errors import DecodeError
from peerjob.model.state import State
from peerjob.store.kv.format.base import Compare, Delete, Entry, KeyValue, Op, Put, mod_of
from peerjob.store.kv.format.keys import Keys, below, prefix_end, timed
from peerjob.store.kv.format.limit_rows import KeyPermit, Waiting, gate_of, limit_key_of, permits_of
from peerjob.store.kv.format.rows import GONE, NOTHING_EXTRA, Delayed, LimitKey, Row, encode
from peerjob.store.kv.format.schedule_rows import Parked, SlotRow, decode_slot
from peerjob.store.kv.format.thread_rows import is_held, is_outside, thread_of
from peerjob.store.kv.format.unreadable import WRITTEN_ANEW, Unreadable
from peerjob.store.kv.index.counts import DELAYED, READY, SCHEDULED, SLOT, Shift

from .gates import Gate, GatePlan, KeyState, Waiter


class Change(msgspec.Struct, gc=False):
    """One transaction, as the writer takes it."""

    compares: Sequence[Compare]
    ops: Sequence[Op]
    shifts: tuple[Shift, ...] = ()
    adds: tuple[tuple[str, str], ...] = ()
    """Queue and position of each queue entry that `ops` adds; the writer adds the compares of the heads."""
    ended: tuple[str, ...] = ()
    """Ids of the instances that the transaction makes final."""
    answers: tuple[tuple[int, str], ...] = ()
    """Indexes in the caller's batch, each with the answer that is valid if the transaction is applied."""
    opens: tuple[tuple[str, str], ...] = ()
    """Queues that the transaction opens, each with the first position that the transaction adds to the queue."""
    settles: tuple[str, ...] = ()
    """Keys below `settle/` that `ops` puts."""
    came: Sequence[tuple[Gate, str]] = ()
    """Limit keys to settle, each with the id of the instance that comes, or ""."""


class HeldSlot(msgspec.Struct):
    """A slot as read from the server, with the changes of the plan."""

    mod: int
    slot: SlotRow
    touched: bool = False

    def parks(self, id: str) -> bool:
        """Whether an instance waits for the slot."""
        return any(parked.id == id for parked in self.slot.parked)


class Slots:
    """Reads the slots that instances hold or wait for."""

    def __init__(self, kv: KeyValue, keys: Keys, unreadable: Unreadable) -> None:
        self._kv = kv
        self._keys = keys
        self._unreadable = unreadable
        self.repair: Callable[[str, Entry], Awaitable[None]] | None = None
        """Writes the unreadable slot of a schedule anew."""

    async def held_by(self, rows: Iterable[Row]) -> dict[str, HeldSlot]:
        """The slots of these instances, by name of the schedule."""
        names = list(dict.fromkeys(row.slot for row in rows if row.slot and row.keeps))
        if not names:
            return {}
        entries = await self._kv.get([self._keys.slot(name) for name in names])
        return {name: await self.held(name, entry) for name, entry in zip(names, entries, strict=True)}

    async def held(self, name: str, entry: Entry | None) -> HeldSlot:
        """A slot, from its stored value. An unreadable one is written anew, and read again."""
        if entry is None:
            return HeldSlot(0, SlotRow())
        key = self._keys.slot(name)
        slot = self._unreadable.read(key, entry, decode_slot, WRITTEN_ANEW)
        if slot is None:
            if self.repair is not None:
                await self.repair(name, entry)
            (entry,) = await self._kv.get([key])
            slot = slot_of(entry)
        return HeldSlot(mod_of(entry), slot)

    async def find(self, id: str) -> dict[str, HeldSlot]:
        """The slot of an instance whose record cannot be read."""
        (answer,) = await self._kv.read([below(self._keys.slots)])
        for key, entry in answer.items:
            held = HeldSlot(entry.mod, slot_of(entry))
            if id == held.slot.holder or held.parks(id):
                return {self._keys.unescaped(key[len(self._keys.slots) :]): held}
        return {}


def slot_of(entry: Entry | None) -> SlotRow:
    """A slot; an empty one if the entry cannot be read, since the next fire then writes the slot again."""
    if entry is None:
        return SlotRow()
    try:
        return decode_slot(entry.value)
    except DecodeError:
        return SlotRow()


class TransactionPlan(msgspec.Struct, gc=False):
    """The parts of one transaction, besides the compare and the write of the instance's record."""

    keys: Keys
    now_us: int
    slots: dict[str, HeldSlot] = {}
    """Schedule → slot of the schedule, for each slot that an instance of the plan can take or leave."""
    ops: list[Op] = []
    shifts: list[Shift] = []
    adds: list[tuple[str, str]] = []
    compares: list[Compare] = []
    ended: list[str] = []
    """Ids of the instances that the transaction makes final."""
    ready: list[str] = []
    """The kind of each instance that enters a ready queue."""
    freed: list[str] = []
    """The shared limit of each permit that is given back."""
    gates: GatePlan | None = None
    """The limit keys of the instances of the request."""
    came: list[tuple[Gate, str]] = []
    """Limit keys that must be settled, each with the id of the instance that comes, or ""."""
    delayed: list[tuple[int, str]] = []
    """The due time and kind of each instance that enters a delayed queue."""
    settles: tuple[str, ...] = ()
    """Keys below `settle/` that the transaction writes."""

    @classmethod
    def for_row(
        cls, keys: Keys, now_us: int, row: Row, slots: Mapping[str, HeldSlot], gates: GatePlan | None = None
    ) -> TransactionPlan:
        """A plan for an instance, with its slot if the instance holds it or waits for it."""
        held = {row.slot: slots[row.slot]} if row.slot in slots and row.keeps else {}
        return cls(keys, now_us, held, gates=gates)

    def change(self, compares: Sequence[Compare] = (), *, answers: tuple[tuple[int, str], ...] = ()) -> Change:
        """The transaction, with further compares."""
        for name, held in self.slots.items():
            if held.touched:
                self._write_slot(name, held)
        all_compares = [*compares, *self.compares]
        shifts, adds, ended = tuple(self.shifts), tuple(self.adds), tuple(self.ended)
        return Change(all_compares, self.ops, shifts, adds, ended, answers, settles=self.settles, came=self.came)

    # -- Scheduled ------------------------------------------------------------------------------------------------

    def add_scheduled(self, id: str, row: Row) -> None:
        """Add a Scheduled instance to its index and its queue."""
        self.index_scheduled(id, row)
        limit_key = limit_key_of(row)
        self.add_to_queue(id, row.kind, row.priority, row.due_us, suspect=row.suspect, limit_key=limit_key)

    def index_scheduled(self, id: str, row: Row) -> None:
        """Add a Scheduled instance to its index."""
        self.ops.append(Put(self.keys.by(row.kind, State.SCHEDULED) + id, b""))
        self.shifts.append((row.kind, SCHEDULED, 1))

    def add_outside(self, id: str, row: Row) -> None:
        """Add a Scheduled instance that waits in no queue to its indexes."""
        self.index_scheduled(id, row)
        self.ops.append(Put(self.keys.outside(row.kind) + id, b""))
        if gate_of(row) is not None:
            self.ops.append(Put(self.keys.later_of(row.kind) + id, b""))

    def leave_outside(self, id: str, row: Row) -> None:
        """Remove an instance from the index of those that wait in no queue."""
        self.ops.append(Delete(self.keys.outside(row.kind) + id))
        if gate_of(row) is not None:
            self.ops.append(Delete(self.keys.later_of(row.kind) + id))

    def add_to_queue(
        self,
        id: str,
        kind: str,
        priority: int,
        due_us: int,
        *,
        suspect: bool = False,
        limit_key: LimitKey | None = None,
    ) -> None:
        """Add a Scheduled instance to a ready or delayed queue, or bring it to its gate.

        No other code adds to those queues.
        """
        keys, position = self.keys, timed(due_us, id)
        if due_us <= self.now_us and limit_key is not None:
            self._come((kind, limit_key[0]), limit_key[1], id, priority, due_us, suspect=suspect)
            return
        if due_us <= self.now_us:
            queue = keys.ready(kind, priority, suspect=suspect)
            self.ops.append(Put(queue + position, b""))
            self.shifts.append((kind, READY, 1))
            self.ready.append(kind)
        else:
            queue = keys.delayed(id)
            self.ops.append(Put(queue + position, Delayed(kind, priority, suspect, limit_key).value))
            if limit_key is not None:
                self.ops.append(Put(keys.later_of(kind) + id, b""))
            self.shifts.append((kind, DELAYED, 1))
            self.delayed.append((due_us, kind))
        self.adds.append((queue, position))

    def remove_from_queue(self, id: str, row: Row, delayed_mod: int, *, returns: bool = False) -> None:
        """Remove a Scheduled instance from its queue, unless it is parked.

        `delayed_mod` is the revision of its entry in the delayed queue, 0 if there is none. If the instance returns to
        its gate in the same transaction, that decides whether it keeps its permit.
        """
        keys, position = self.keys, timed(row.due_us, id)
        if is_outside(row):
            self.leave_outside(id, row)
            return
        is_parked = row.slot in self.slots and self.slots[row.slot].parks(id)
        if not (delayed_mod or is_parked) and (gate := gate_of(row)) is not None:
            self._leave_gate(gate, id, row, returns=returns)
            return
        self.compares.append(Compare(keys.delayed(id) + position, mod=delayed_mod))
        if delayed_mod:
            self.leave_delayed(keys.delayed(id) + position, id, row.kind, has_limit_key=gate_of(row) is not None)
        elif not is_parked:
            self.ops.append(Delete(keys.ready(row.kind, row.priority, suspect=row.suspect) + position))
            self.shifts.append((row.kind, READY, -1))

    def leave_delayed(self, entry: str, id: str, kind: str, *, has_limit_key: bool) -> None:
        """Remove an instance from the delayed queue."""
        self.ops.append(Delete(entry))
        self.shifts.append((kind, DELAYED, -1))
        if has_limit_key:
            self.ops.append(Delete(self.keys.later_of(kind) + id))

    # -- claims and ends ------------------------------------------------------------------------------------------

    def end_claim(self, id: str, before: Row, after: Row) -> None:
        """End a claim. Besides the removal of the instance, no other code ends claims."""
        self.ops.append(Delete(self.keys.owned(before.owner) + id))
        self._give_permits_back(before)
        gate, waits = gate_of(before), after.extra != NOTHING_EXTRA and is_outside(after)
        if gate is not None and (after.final or waits or after.due_us > self.now_us):
            self._pass_gate_on(gate, id)
        if before.releasing:
            self._release(id, after)
            return
        self.remove_from_index(id, before)
        if after.final:
            self.add_final(id, after)
        elif waits:
            self.add_outside(id, after)
        else:
            self.add_scheduled(id, after)

    def _give_permits_back(self, row: Row) -> None:
        """Delete the permits of a claim that ends, with the body of a cancelled instance."""
        for name, number in permits_of(row):
            self.ops.append(Delete(self.keys.permit(name, number)))
            self.freed.append(name)

    def remove_from_index(self, id: str, row: Row) -> None:
        """Remove an instance from the index of its state."""
        if row.state is not State.PROCESSING:
            index = self.keys.held if row.extra != NOTHING_EXTRA and row.final and is_held(row) else self.keys.by
            self.ops.append(Delete(index(row.kind, row.state) + id))
        self.shifts.append((row.kind, SLOT[row.state], -1))

    def add_final(self, id: str, row: Row) -> None:
        """Add a final instance to its indexes. Its key and slot become free, unless its body still runs."""
        thread = None if row.extra == NOTHING_EXTRA else thread_of(row)
        if thread is not None and thread.held:
            self.ops.append(Put(self.keys.held(row.kind, row.state) + id, b""))
        else:
            self._index_final(id, row)
        if thread is not None and thread.children:
            self.add_to_settling(self.keys.settle(id, "k"), b"")
        self.shifts.append((row.kind, SLOT[row.state], 1))
        self.ended.append(id)
        if not row.releasing:
            self._release(id, row)

    def _index_final(self, id: str, row: Row) -> None:
        queue = self.keys.by(row.kind, row.state)
        self.ops.append(Put(queue + id, b""))
        self.adds.append((queue, id))

    def _release(self, id: str, row: Row) -> None:
        """Free the unique key and the slot of an instance that is over; unless it is held, its retention begins."""
        thread = None if row.extra == NOTHING_EXTRA else thread_of(row)
        if thread is None or not thread.held:
            self._begin_retention(id, row)
        if thread is not None and thread.parent:
            self.add_to_settling(self.keys.settle(id, "e"), str(int(row.state)).encode())
        self._free_key_and_slot(id, row)

    def _begin_retention(self, id: str, row: Row) -> None:
        queue, position = self.keys.expiring(row.expires_us), timed(row.expires_us, id)
        self.ops.append(Put(queue + position, b""))
        self.adds.append((queue, position))

    def let_go(self, id: str, row: Row) -> None:
        """End the hold of a final child."""
        self.ops.append(Delete(self.keys.held(row.kind, row.state) + id))
        self._index_final(id, row)
        if not row.releasing:
            self._begin_retention(id, row)

    def add_to_settling(self, key: str, value: bytes) -> None:
        """Let the end of an instance be settled."""
        self.ops.append(Put(key, value))
        self.settles += (key,)

    def remove(self, id: str, row: Row, delayed_mod: int, *, lease: int) -> None:
        """Remove an instance in any state, with everything that belongs to it.

        `delayed_mod` is the revision of its entry in the delayed queue, 0 if there is none. With a `lease`, an empty
        record prevents a repeated enqueue of the instance until the lease ends.
        """
        keys, ops = self.keys, self.ops
        ops.append(Put(keys.state + id, GONE, lease) if lease else Delete(keys.state + id))
        if row.spec is None:
            ops.append(Delete(keys.args + id))
        self.remove_from_index(id, row)
        if row.has_out:
            ops.append(Delete(keys.out + id))
        if row.has_progress:
            ops.append(Delete(keys.progress + id))
        if row.log_next:
            ops.append(Delete(keys.log(id), prefix_end(keys.log(id))))
        ops.extend(Delete(keys.tag(tag) + id) for tag in row.tags)
        if row.extra != NOTHING_EXTRA and (thread := thread_of(row)) is not None:
            prefixes = (keys.steps(id), keys.all_needs(id), keys.edges(id))
            ops.extend(Delete(prefix, prefix_end(prefix)) for prefix in prefixes)
            if thread.parent:
                ops.append(Delete(keys.children(thread.parent) + id))
        if row.state is State.SCHEDULED:
            self.remove_from_queue(id, row, delayed_mod)
        elif row.keeps:
            ops.append(Delete(keys.owned(row.owner) + id))
            self._give_permits_back(row)
            if (gate := gate_of(row)) is not None:
                self._leave_gate(gate, id, row)
        else:
            ops.append(Delete(keys.expiring(row.expires_us) + timed(row.expires_us, id)))
        if row.keeps:
            self._free_key_and_slot(id, row)
        ops.append(Delete(keys.watch(id), prefix_end(keys.watch(id))))

    # -- limit keys -----------------------------------------------------------------------------------------------

    @property
    def _plan_of_gates(self) -> GatePlan:
        assert self.gates is not None, "the command has read the limit keys of its instances"
        return self.gates

    def _come(self, gate: Gate, number: int, id: str, priority: int, due_us: int, *, suspect: bool) -> None:
        """Bring a due instance to its gate: it passes at once, or waits until the gate is settled."""
        gates = self._plan_of_gates
        state = gates.states[gate]
        concurrency, chosen = state.number or number, gates.number_for(id)
        held = state.permit_of(id)
        if held is not None and state.may_keep:
            chosen = held[0]
        elif held is not None:
            self._give_permit_back(state, held[0])
        if chosen is not None:
            permit = KeyPermit(id, priority, due_us, due_us, suspect, concurrency)
            self._admit(state, chosen, permit)
            if held is None:
                self.compares += [Compare(state.permit(chosen)), gates.none_waits(gate)]
        else:
            self.wait(gate, id, priority, due_us, Waiting(suspect, concurrency))
            self.came.append((gate, id))
        self.ops += gates.concurrency_ops(gate, id)

    def _admit(self, state: KeyState, number: int, permit: KeyPermit) -> None:
        """Give a permit to an instance, and put it into the queue of its kind."""
        kind, _ = state.gate
        queue = self.keys.ready(kind, permit.priority, suspect=permit.suspect)
        position = timed(permit.queued_us, permit.id)
        self.ops += [Put(state.permit(number), encode(permit)), Put(queue + position, b"")]
        self.adds.append((queue, position))
        self.shifts.append((kind, READY, 1))
        self.ready.append(kind)

    def wait(self, gate: Gate, id: str, priority: int, due_us: int, entry: Waiting) -> None:
        """Let an instance wait for its limit key."""
        queue, position = self.keys.waiting(gate, priority), timed(due_us, id)
        self.ops.append(Put(queue + position, encode(entry)))
        self.adds.append((queue, position))

    def admit_waiter(self, state: KeyState, number: int, waiter: Waiter, queued_us: int) -> None:
        """Give a permit to an instance that waits."""
        self.compares.append(Compare(waiter.queue + waiter.position, mod=waiter.mod))
        self.ops.append(Delete(waiter.queue + waiter.position))
        permit = KeyPermit(waiter.id, waiter.priority, waiter.due_us, queued_us, waiter.entry.suspect, state.number)
        self._admit(state, number, permit)

    def _pass_gate_on(self, gate: Gate, id: str) -> None:
        """Let the first waiting instance have the permit of a claim that ends; each end takes another one."""
        state = self._plan_of_gates.states[gate]
        held = state.permit_of(id)
        if held is None:
            return
        number = held[0]
        fits = number < state.concurrency and state.admitted <= state.concurrency
        if state.waiting and fits and gate not in self._plan_of_gates.returning:
            self.admit_waiter(state, number, state.waiting.pop(0), self.now_us)
            return
        self._give_permit_back(state, number)
        if not state.has_queues:
            self.compares.append(self._plan_of_gates.none_waits(gate))
        if state.has_queues or state.is_left:
            self.came.append((gate, ""))

    def _leave_gate(self, gate: Gate, id: str, row: Row, *, returns: bool = False) -> None:
        """Take an instance from its limit key, with its queue entry if it is queued."""
        state = self._plan_of_gates.states[gate]
        held = state.permit_of(id)
        if held is not None:
            number, mod, permit = held
            if row.state is State.SCHEDULED:
                queue = self.keys.ready(row.kind, permit.priority, suspect=permit.suspect)
                self.ops.append(Delete(queue + timed(permit.queued_us, id)))
                self.shifts.append((row.kind, READY, -1))
            self.compares.append(Compare(state.permit(number), mod=mod))
            if not returns:
                self._give_permit_back(state, number)
                self.came.append((gate, ""))
        else:
            waits = self._plan_of_gates.waits.get(id, 0)
            key = self.keys.waiting(gate, row.priority) + timed(row.due_us, id)
            self.compares.append(Compare(key, mod=waits))
            if waits:
                self.ops.append(Delete(key))

    def _give_permit_back(self, state: KeyState, number: int) -> None:
        state.left += 1
        self.ops.append(Delete(state.permit(number)))

    # -- keys and slots -------------------------------------------------------------------------------------------

    def _free_key_and_slot(self, id: str, row: Row) -> None:
        if row.key is not None:
            self.ops.append(Delete(self.keys.unique(row.kind, row.key)))
        if row.slot:
            self.pass_slot_on(row.slot, id)

    def pass_slot_on(self, name: str, id: str) -> None:
        """Remove an instance from a slot. If another instance gets the slot, add that one to its queue."""
        next_holder = self.leave_slot(name, id)
        if next_holder is not None:
            self.add_to_queue(
                next_holder.id,
                next_holder.kind,
                next_holder.priority,
                next_holder.due_us,
                suspect=next_holder.suspect,
                limit_key=next_holder.limit_key,
            )

    def leave_slot(self, name: str, id: str) -> Parked | None:
        """Remove an instance from a slot; the answer is the parked instance that gets the slot."""
        held = self.slots[name]
        slot = held.slot
        parked = tuple(other for other in slot.parked if other.id != id)
        if slot.holder == id:
            holder = parked[0].id if parked else ""
            held.slot, held.touched = replace(slot, holder=holder, parked=parked[1:]), True
            return parked[0] if parked else None
        if len(parked) < len(slot.parked):
            held.slot, held.touched = replace(slot, parked=parked), True
        return None

    def _write_slot(self, name: str, held: HeldSlot) -> None:
        key = self.keys.slot(name)
        self.compares.append(Compare(key, mod=held.mod))
        if held.slot.holder or held.slot.extra != NOTHING_EXTRA:
            self.ops.append(Put(key, encode(held.slot)))
        else:
            self.ops.append(Delete(key))
