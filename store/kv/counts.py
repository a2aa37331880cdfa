"""Instances per kind and state, kept and never counted.

One counter per kind would be the one key that every writer of a cluster fights over. So each kind has LANES
counters, and a writer uses one lane at a time: it knows what it wrote there last, and compares that. Only two
writers that meet in a lane have a conflict, after which one of them moves to another lane.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from peerjob.model.clock import Clock
from peerjob.model.errors import DecodeError
from peerjob.model.state import State

from .base import Compare, Found, KeyValue, Put, Range
from .keys import Keys, prefix_end
from .rows import decode_counts, encode

COUNTER_SHARDS = 16
_PAGE = 2_000
"""Most counters that are read in one request."""
_MAX_KNOWN = 50_000
"""Counters that a store keeps in mind, above which it reads them again."""
SCHEDULED, PROCESSING, CANCELLED, TIMED_OUT, COMPLETED, TERMINATED, DELAYED, SET_ASIDE, READY = range(9)
"""Slots of a counter; READY counts what is in a kind's ready queues."""
SLOTS = 9
SLOT: dict[State, int] = {
    State.SCHEDULED: SCHEDULED,
    State.PROCESSING: PROCESSING,
    State.CANCELLED: CANCELLED,
    State.TIMED_OUT: TIMED_OUT,
    State.COMPLETED: COMPLETED,
    State.TERMINATED: TERMINATED,
}
FINAL_SLOTS = (CANCELLED, TIMED_OUT, COMPLETED, TERMINATED)

Shift = tuple[str, int, int]
"""Kind, slot, and what is added there; records that were set aside count under the kind ""."""


class Counts:
    """The counters, as one store writes them."""

    def __init__(self, kv: KeyValue, keys: Keys, clock: Clock) -> None:
        self._kv = kv
        self._keys = keys
        self._clock = clock
        self._free = list(range(COUNTER_SHARDS))
        clock.random.shuffle(self._free)
        self._known: dict[tuple[int, str], tuple[int, list[int]]] = {}

    def shard(self) -> CounterShard:
        """A lane for one request; to be given back."""
        number = self._free.pop() if self._free else self._clock.random.randrange(COUNTER_SHARDS)
        return CounterShard(number, self._known, self._keys)

    def give_back(self, shard: CounterShard, *, crowded: bool = False) -> None:
        """Free a lane; a crowded one is used last."""
        if shard.number not in self._free:
            if crowded:
                self._free.insert(0, shard.number)
            else:
                self._free.append(shard.number)

    async def load(self, shard: CounterShard, kinds: Collection[str]) -> None:
        """Learn what a lane holds for kinds that this store has not written there."""
        # another request may forget what is known while this one reads
        while missing := [kind for kind in kinds if (shard.number, kind) not in self._known]:
            if len(self._known) > _MAX_KNOWN:
                self._known.clear()
                missing = list(kinds)
            entries = await self._kv.get([shard.key(kind) for kind in missing])
            for kind, entry in zip(missing, entries, strict=True):
                values = [0] * SLOTS if entry is None else _counted(entry.value)
                self._known[shard.number, kind] = (0 if entry is None else entry.mod, values)

    def of(self, kind: str) -> Range:
        """The read of all counters of one kind."""
        prefix = f"{self._keys.count}{self._keys.kind(kind)}/"
        return Range(prefix, prefix_end(prefix))

    async def totals(self) -> dict[str, list[int]]:
        """Sums over the lanes of all counters, by escaped kind, read page by page."""
        sums: dict[str, list[int]] = {}
        start = self._keys.count
        while start:
            page, start = await self.page(start)
            add_up(self._keys, page, sums)
        return sums

    async def page(self, start: str) -> tuple[Found, str]:
        """Some counters from a key on, and where the next page begins; "" after the last."""
        (found,) = await self._kv.read([Range(start, prefix_end(self._keys.count), _PAGE)])
        return found, f"{found.items[-1][0]}!" if found.count > len(found.items) else ""


class CounterShard:
    """One lane, in the hands of one request."""

    def __init__(self, number: int, known: dict[tuple[int, str], tuple[int, list[int]]], keys: Keys) -> None:
        self.number = number
        self._known = known
        self._keys = keys
        self._planned: list[tuple[str, list[int]]] = []

    def key(self, kind: str) -> str:
        """The counter of a kind in this lane."""
        return f"{self._keys.count}{self._keys.kind(kind)}/{self.number:x}"

    def plan(self, shifts: Mapping[str, list[int]]) -> tuple[list[Compare], list[Put]]:
        """What a request must compare and write to count these shifts; the kinds are loaded."""
        compares: list[Compare] = []
        puts: list[Put] = []
        self._planned = []
        for kind, added in shifts.items():
            mod, values = self._known[self.number, kind]
            values = [value + more for value, more in zip(values, added, strict=True)]
            key = self.key(kind)
            compares.append(Compare(key, mod=mod))
            puts.append(Put(key, encode(values)))
            self._planned.append((kind, values))
        return compares, puts

    def written(self, revision: int) -> None:
        """What was planned is stored."""
        for kind, values in self._planned:
            self._known[self.number, kind] = (revision, values)

    def refused(self) -> None:
        """What was planned is not stored, or nobody can tell."""
        for kind, _ in self._planned:
            self._known.pop((self.number, kind), None)


def kind_of(keys: Keys, counter: str) -> str:
    """The escaped kind that a counter belongs to."""
    return counter[len(keys.count) : counter.rindex("/")]


def totals(keys: Keys, found: Found) -> dict[str, list[int]]:
    """Sums over the lanes, by escaped kind."""
    return add_up(keys, found, {})


def add_up(keys: Keys, found: Found, sums: dict[str, list[int]]) -> dict[str, list[int]]:
    """Add counters to sums over the lanes, by escaped kind."""
    for key, entry in found.items:
        kind, values = kind_of(keys, key), _counted(entry.value)
        known = sums.get(kind)
        sums[kind] = values if known is None else [a + b for a, b in zip(known, values, strict=True)]
    return sums


def _counted(data: bytes) -> list[int]:
    """A counter; zeros for one that cannot be read, until it is counted again."""
    try:
        values = decode_counts(data)
    except DecodeError:
        return [0] * SLOTS
    return values if len(values) == SLOTS else [0] * SLOTS
