"""Reads the slots of schedules."""

from __future__ import annotations

from collections.abc import Iterable

from peerjob.model.errors import DecodeError

from .base import Entry, KeyValue, mod_of
from .keys import Keys, below
from .rows import Row
from .schedule_rows import SlotRow, decode_slot
from .step_plan import HeldSlot


class Slots:
    """Reads the slots that instances hold or wait for."""

    def __init__(self, kv: KeyValue, keys: Keys) -> None:
        self._kv = kv
        self._keys = keys

    async def held_by(self, rows: Iterable[Row]) -> dict[str, HeldSlot]:
        """The slots of these instances, by name of the schedule."""
        names = list(dict.fromkeys(row.slot for row in rows if row.slot and row.keeps))
        if not names:
            return {}
        entries = await self._kv.get([self._keys.slot(name) for name in names])
        return {name: HeldSlot(mod_of(entry), slot_of(entry)) for name, entry in zip(names, entries, strict=True)}

    async def find(self, id: str) -> dict[str, HeldSlot]:
        """The slot of an instance whose record cannot be read."""
        (found,) = await self._kv.read([below(self._keys.slots)])
        for key, entry in found.items:
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
