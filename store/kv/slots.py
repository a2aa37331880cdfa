"""The slot of a schedule: who has it, who waits for it, and how it is passed on.

A slot is changed in the very step that makes an instance take it, wait for it or give it up, which compares what was
read. So two steps of one request cannot both change it: whoever comes second waits for the next round.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from peerjob.model.errors import DecodeError

from .base import Compare, Delete, Entry, KeyValue, Op, Put, Range
from .counts import Shift
from .keys import Keys, prefix_end
from .rows import NOTHING_EXTRA, Row, encode
from .schedule_rows import Parked, SlotRow, decode_slot


class HeldSlot(msgspec.Struct):
    """A slot, as read and as the plan at hand leaves it."""

    mod: int
    slot: SlotRow
    touched: bool = False

    def parks(self, id: str) -> bool:
        """Whether an instance waits for the slot."""
        return any(one.id == id for one in self.slot.parked)


class StepPlan(msgspec.Struct, gc=False):
    """What a step writes besides the record itself, gathered part by part."""

    ops: list[Op]
    shifts: list[Shift]
    adds: list[tuple[str, str]]
    compares: list[Compare] = []
    ended: list[str] = []
    """Instances that become final."""
    slots: dict[str, HeldSlot] = {}
    """The slots that instances of this plan may take or give up, by name of the schedule."""
    ready: list[str] = []
    """Kinds of the instances that were let into their queues and are due."""
    delayed: list[tuple[int, str]] = []
    """Due time and kind of the others."""


class Slots:
    """Reads and passes on slots."""

    def __init__(self, kv: KeyValue, keys: Keys) -> None:
        self._kv = kv
        self._keys = keys

    async def held_by(self, rows: Iterable[Row]) -> dict[str, HeldSlot]:
        """The slots that these instances take or wait for."""
        names = list(dict.fromkeys(row.slot for row in rows if row.slot and row.keeps))
        if not names:
            return {}
        entries = await self._kv.get([self._keys.slot(name) for name in names])
        return {
            name: HeldSlot(0 if entry is None else entry.mod, slot_of(entry))
            for name, entry in zip(names, entries, strict=True)
        }

    async def find(self, id: str) -> dict[str, HeldSlot]:
        """The slot that an instance whose record cannot be read takes or waits for."""
        (found,) = await self._kv.read([Range(self._keys.slots, prefix_end(self._keys.slots))])
        for key, entry in found.items:
            slot = slot_of(entry)
            if id == slot.holder or any(id == one.id for one in slot.parked):
                return {self._keys.unescaped(key[len(self._keys.slots) :]): HeldSlot(entry.mod, slot)}
        return {}

    def give_up(self, name: str, id: str, plan: StepPlan) -> Parked | None:
        """Take an instance out of a slot that the plan has; the answer is who gets it instead."""
        held = plan.slots[name]
        slot = held.slot
        parked = tuple(one for one in slot.parked if one.id != id)
        if slot.holder == id:
            holder = parked[0].id if parked else ""
            held.slot, held.touched = msgspec.structs.replace(slot, holder=holder, parked=parked[1:]), True
            return parked[0] if parked else None
        if len(parked) < len(slot.parked):
            held.slot, held.touched = msgspec.structs.replace(slot, parked=parked), True
        return None

    def write(self, plan: StepPlan) -> None:
        """Let the plan write the slots that it changed."""
        for name, held in plan.slots.items():
            if not held.touched:
                continue
            key = self._keys.slot(name)
            plan.compares.append(Compare(key, mod=held.mod))
            if held.slot.holder or held.slot.extra != NOTHING_EXTRA:
                plan.ops.append(Put(key, encode(held.slot)))
            else:
                plan.ops.append(Delete(key))


def slot_of(entry: Entry | None) -> SlotRow:
    """A slot; one that cannot be read is nobody's, and written anew by the next fire."""
    if entry is None:
        return SlotRow()
    try:
        return decode_slot(entry.value)
    except DecodeError:
        return SlotRow()
