"""Unreadable records are set aside, counted and logged, so that all other work continues."""

from __future__ import annotations

import logging

from peerjob.model.clock import Clock
from peerjob.model.state import State
from peerjob.store.kv.format.base import Compare, Delete, Entry, KeyValue, Op, Put
from peerjob.store.kv.format.keys import Keys, below
from peerjob.store.kv.format.rows import owned_of
from peerjob.store.kv.index.counts import PROCESSING, SET_ASIDE, SLOT, Counts, Shift

from .transaction_plan import Change, Slots, TransactionPlan
from .writer import Writer

logger = logging.getLogger("peerjob.store")


class SetAside:
    """Sets unreadable records aside."""

    def __init__(self, kv: KeyValue, keys: Keys, clock: Clock, writer: Writer, counts: Counts, slots: Slots) -> None:
        self._kv = kv
        self._keys = keys
        self._clock = clock
        self._writer = writer
        self._counts = counts
        self._slots = slots

    async def put(self, id: str, entry: Entry, error: Exception) -> None:
        """Move a record that cannot be read out of the way, out of its slot, and away from the permits of its claim.

        Entries of the instance in queues stay there. A read that finds such an entry deletes the entry.
        """
        keys, now_us = self._keys, self._clock.time_us()
        plan = TransactionPlan(keys, now_us, await self._slots.find(id))
        for name in plan.slots:
            plan.pass_slot_on(name, id)
        slot_change = plan.change()
        kinds = sorted(await self._counts.totals())
        (nodes,) = await self._kv.read([below(keys.node, keys_only=True)])
        positions = [(kind, state) for kind in kinds for state in SLOT if state is not State.PROCESSING]
        indexes = [f"{keys.root}by/{kind}/{state:d}/{id}" for kind, state in positions]
        owned = [keys.owned(key[len(keys.node) :]) + id for key, _ in nodes.items]
        present = await self._kv.get([*indexes, *owned])
        ops: list[Op] = [Delete(keys.state + id), Put(keys.set_aside + id, entry.value), *slot_change.ops]
        ops.extend(Delete(key) for key, answer in zip([*indexes, *owned], present, strict=True) if answer)
        compares = [Compare(keys.state + id, mod=entry.mod), *slot_change.compares]
        (permits,) = await self._kv.read([below(keys.shared_permits)])
        for key, permit in permits.items:
            if permit.value == id.encode():
                ops.append(Delete(key))
                compares.append(Compare(key, mod=permit.mod))
        shifts: list[Shift] = [("", SET_ASIDE, 1), *slot_change.shifts]
        for (kind, state), answer in zip(positions, present, strict=False):
            if answer is not None:
                shifts.append((keys.unescaped(kind), SLOT[state], -1))
        for answer in present[len(indexes) :]:
            claim = None if answer is None else owned_of(answer.value)
            if claim is None:
                # the kind of an unreadable claim is unknown, so only a recount can correct its counter
                self._counts.in_doubt |= answer is not None
            elif not claim.releasing:
                shifts.append((claim.kind, PROCESSING, -1))
        written = await self._writer.write([Change(compares, ops, tuple(shifts), slot_change.adds)])
        if written.revisions[0]:
            logger.error("instance %s cannot be read and was set aside: %s", id, error)
