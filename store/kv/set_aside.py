"""Records that cannot be read: set aside, counted and reported, so that everything else goes on."""

from __future__ import annotations

import logging

from peerjob.model.state import State

from .base import Compare, Delete, Entry, KeyValue, Op, Put, Range
from .counts import PROCESSING, SET_ASIDE, SLOT, Counts, Shift
from .keys import Keys, prefix_end
from .rows import owned_of
from .slots import StepPlan
from .writer import Change, Writer

logger = logging.getLogger("peerjob.store")


class SetAside:
    """Moves unreadable records out of the way."""

    def __init__(self, kv: KeyValue, keys: Keys, writer: Writer, counts: Counts) -> None:
        self._kv = kv
        self._keys = keys
        self._writer = writer
        self._counts = counts

    async def put(self, id: str, entry: Entry, error: Exception, plan: StepPlan, *, now_us: int) -> None:
        """Set a record aside, with what else is planned; its entries in queues are dropped by whoever meets them."""
        keys = self._keys
        kinds = sorted(await self._counts.totals())
        (nodes,) = await self._kv.read([Range(keys.node, prefix_end(keys.node), keys_only=True)])
        places = [(kind, state) for kind in kinds for state in SLOT if state is not State.PROCESSING]
        indexes = [f"{keys.root}by/{kind}/{state:d}/{id}" for kind, state in places]
        owned = [keys.owned(key[len(keys.node) :]) + id for key, _ in nodes.items]
        present = await self._kv.get([*indexes, *owned])
        ops: list[Op] = [Delete(keys.state + id), Put(keys.set_aside + id, entry.value), *plan.ops]
        ops.extend(Delete(key) for key, found in zip([*indexes, *owned], present, strict=True) if found)
        shifts: list[Shift] = [("", SET_ASIDE, 1), *plan.shifts]
        for (kind, state), found in zip(places, present, strict=False):
            if found is not None:
                shifts.append((keys.unescaped(kind), SLOT[state], -1))
        for found in present[len(indexes) :]:
            claim = None if found is None else owned_of(found.value)
            if claim is not None and not claim.releasing:
                shifts.append((claim.kind, PROCESSING, -1))
        compares = [Compare(keys.state + id, mod=entry.mod), *plan.compares]
        change = Change(compares, ops, tuple(shifts), tuple(plan.adds))
        written = await self._writer.write([change], now_us=now_us)
        if written.revisions[0]:
            logger.error("instance %s cannot be read and was set aside: %s", id, error)
