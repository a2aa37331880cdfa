"""Unreadable records are set aside, counted and logged, so that all other work continues."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set

from peerjob.model.clock import Clock
from peerjob.model.state import State
from peerjob.store.kv.format.base import Compare, Delete, Entry, Op, Put, Range
from peerjob.store.kv.format.keys import Keys, below, prefix_end
from peerjob.store.kv.format.limit_rows import key_permit_of
from peerjob.store.kv.format.rows import owned_of
from peerjob.store.kv.index.counts import PROCESSING, SET_ASIDE, SLOT, Counts, Shift

from .gates import Gate, Gates
from .guarded import GuardedKeyValue
from .transaction_plan import Change, Slots, TransactionPlan
from .writer import Writer

_PAGE = 2_000
logger = logging.getLogger("peerjob.store")


class SetAside:
    """Sets unreadable records aside."""

    def __init__(
        self,
        kv: GuardedKeyValue,
        keys: Keys,
        clock: Clock,
        writer: Writer,
        counts: Counts,
        slots: Slots,
        gates: Gates,
        let_pass: Callable[[Mapping[Gate, Set[str]]], Awaitable[None]],
    ) -> None:
        self._kv = kv
        self._keys = keys
        self._clock = clock
        self._writer = writer
        self._counts = counts
        self._slots = slots
        self._gates = gates
        self._let_pass = let_pass

    async def put(self, id: str, entry: Entry, error: Exception) -> None:
        """Move a record that cannot be read out of the way, out of its slot, and away from the permits of its claim.

        Entries of the instance in queues stay there. A read that finds such an entry deletes the entry.
        """
        keys, now_us = self._keys, self._clock.time_us()
        slots = await self._slots.find(id)
        gates = await self._gates.plan(parked.gate for held in slots.values() for parked in held.slot.parked)
        plan = TransactionPlan(keys, now_us, slots, gates=gates)
        for name in plan.slots:
            plan.pass_slot_on(name, id)
        slot_change = plan.change()
        kinds = sorted(await self._counts.totals())
        (nodes,) = await self._kv.read([below(keys.node, keys_only=True)])
        indexes = self._indexes(id, kinds)
        owned = [keys.owned(key[len(keys.node) :]) + id for key, _ in nodes.items]
        present = await self._kv.get([*indexes, *owned])
        ops: list[Op] = [Delete(keys.state + id), Put(keys.set_aside + id, entry.value), *slot_change.ops]
        ops.extend(Delete(key) for key, answer in zip([*indexes, *owned], present, strict=True) if answer)
        if self._kv.durable:
            # it may have had children, and others may need it; a node settles that after its next renewal
            ops += [Put(keys.settle(id, "e"), b"0"), Put(keys.settle(id, "k"), b"")]
            ops.extend(Delete(key) for key in await self._of_thread(id, kinds))
        compares = [Compare(keys.state + id, mod=entry.mod), *slot_change.compares]
        permits = await self._permits(id)
        ops.extend(Delete(key) for key in permits)
        compares.extend(Compare(key, mod=mod) for key, mod in permits.items())
        shifts: list[Shift] = [("", SET_ASIDE, 1), *slot_change.shifts]
        for (kind, state), answer in zip(indexes.values(), present, strict=False):
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
            of_keys = [key for key in permits if not key.startswith((keys.shared_permits, keys.waits))]
            came: dict[Gate, set[str]] = {keys.gate_of(key, keys.all_permits): set() for key in of_keys}
            for gate, comer in plan.came:
                came.setdefault(gate, set()).add(comer)
            await self._let_pass(came)

    def _indexes(self, id: str, kinds: Sequence[str]) -> dict[str, tuple[str, State]]:
        """Each entry that the instance can have in an index → the kind, still escaped, and the state of the index."""
        root, entries = self._keys.root, dict[str, tuple[str, State]]()
        for kind in kinds:
            for state in SLOT:
                if state is not State.PROCESSING:
                    entries[f"{root}by/{kind}/{state:d}/{id}"] = kind, state
                if state.is_final and self._kv.durable:
                    entries[f"{root}held/{kind}/{state:d}/{id}"] = kind, state
        return entries

    async def _of_thread(self, id: str, kinds: Sequence[str]) -> list[str]:
        """The entries of an instance in the indexes that only durable bodies and their children have."""
        keys = self._keys
        unescaped = [keys.unescaped(kind) for kind in kinds]
        prefixes = [prefix for kind in unescaped for prefix in (keys.outside(kind), keys.later_of(kind))]
        names = [prefix + id for prefix in prefixes]
        present = [name for name, entry in zip(names, await self._kv.get(names), strict=True) if entry is not None]
        start, end = keys.all_children, prefix_end(keys.all_children)
        while start:
            (page,) = await self._kv.read([Range(start, end, _PAGE, keys_only=True)])
            present += (key for key, _ in page.items if key.endswith(f"/{id}"))
            start = page.next_key if page.more else ""
        return present

    async def _permits(self, id: str) -> dict[str, int]:
        """The permits of an instance, and its entry if it waits for its limit key, each with its revision."""
        keys, permits = self._keys, dict[str, int]()
        for prefix in (keys.all_permits, keys.waits):
            start, end = prefix, prefix_end(prefix)
            while start:
                (page,) = await self._kv.read([Range(start, end, _PAGE)])
                permits |= {key: entry.mod for key, entry in page.items if key.endswith(id) or _holder(entry) == id}
                start = page.next_key if page.more else ""
        return permits


def _holder(entry: Entry) -> str:
    """The id in a permit, of a shared limit or of a limit key."""
    permit = key_permit_of(entry.value)
    return entry.value.decode(errors="replace") if permit is None else permit.id
