"""Counters of instances per kind and state.

All stores would write a single counter per kind at once. So each kind has COUNTER_SHARDS counters, and a request uses
one shard. The store knows the value that it wrote there last, and compares it. Two stores that use the same shard have
a conflict; then one of them uses another shard.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from peerjob.model.clock import Clock
from peerjob.model.state import State
from peerjob.store.kv.format.base import Compare, Entry, Found, KeyValue, Put, Range, Transaction, mod_of
from peerjob.store.kv.format.keys import Keys, below, prefix_end
from peerjob.store.kv.format.rows import SLOTS, decode_counts, encode
from peerjob.store.kv.format.unreadable import WRITTEN_ANEW, Unreadable

COUNTER_SHARDS = 16
_PAGE = 2_000
"""Most counters that one read returns; the store reads further counters with further requests."""
_MAX_KNOWN = 50_000
"""A store that remembers more counters than this forgets all of them, and reads each counter
again before the next use."""
SCHEDULED, PROCESSING, CANCELLED, TIMED_OUT, COMPLETED, TERMINATED, DELAYED, SET_ASIDE, READY = range(9)
"""Positions of the numbers in a stored counter; the number at READY counts the entries in the
ready queues of a kind."""
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
"""Kind, position in the counter (`SLOT`), and difference. Records that were set aside count under the kind ""."""


class Counts:
    """The counters that one store uses."""

    def __init__(self, kv: KeyValue, keys: Keys, clock: Clock, unreadable: Unreadable) -> None:
        self._kv = kv
        self._keys = keys
        self._clock = clock
        self._unreadable = unreadable
        self.in_doubt = False
        """Whether counters may be wrong, because one cannot be read or the answer to a request never arrived; the next
        recount corrects them."""
        self._free = list(range(COUNTER_SHARDS))
        clock.random.shuffle(self._free)
        self._known: dict[tuple[int, str], tuple[int, list[int]]] = {}

    def take_shard(self) -> CounterShard:
        """A shard for one request, which must be given back."""
        number = self._free.pop() if self._free else self._clock.random.randrange(COUNTER_SHARDS)
        return CounterShard(number, self._known, self._keys)

    def give_back(self, shard: CounterShard, *, contended: bool = False) -> None:
        """Free a shard; a contended one is used last."""
        if shard.number not in self._free:
            if contended:
                self._free.insert(0, shard.number)
            else:
                self._free.append(shard.number)

    async def load(self, shard: CounterShard, kinds: Collection[str]) -> None:
        """Read the counters of a shard that this store does not know."""
        # repeated, because another request can clear the known counters while this request waits for the server
        while missing := [kind for kind in kinds if (shard.number, kind) not in self._known]:
            if len(self._known) > _MAX_KNOWN:
                self._known.clear()
                missing = list(kinds)
            await self._read(shard, missing)

    async def read_beside(self, keys: Sequence[str], kinds: Collection[str]) -> list[Entry | None]:
        """Read some keys, and in the same request the counters of these kinds that the next request probably needs."""
        if not self._free or len(self._known) > _MAX_KNOWN:
            return await self._kv.get(keys)
        shard = CounterShard(self._free[-1], self._known, self._keys)
        missing = [kind for kind in kinds if (shard.number, kind) not in self._known]
        return await self._read(shard, missing, keys)

    async def _read(self, shard: CounterShard, kinds: Sequence[str], keys: Sequence[str] = ()) -> list[Entry | None]:
        """Read the counters of some kinds after other keys, whose entries it returns."""
        entries = await self._kv.get([*keys, *map(shard.key, kinds)])
        for kind, entry in zip(kinds, entries[len(keys) :], strict=True):
            values = [0] * SLOTS if entry is None else self._counted(shard.key(kind), entry)
            # another request may have written the shard meanwhile
            self._known.setdefault((shard.number, kind), (mod_of(entry), values))
        return entries[: len(keys)]

    def of(self, kind: str) -> Range:
        """The read of all counters of one kind."""
        return below(f"{self._keys.count}{self._keys.kind(kind)}/")

    async def totals(self) -> dict[str, list[int]]:
        """Sums over the shards of all counters, by escaped kind."""
        sums: dict[str, list[int]] = {}
        start = self._keys.count
        while start:
            page, start = await self.page(start)
            self.add_up(page, sums)
        return sums

    def summed(self, answer: Found) -> dict[str, list[int]]:
        """Sums over the shards, by escaped kind."""
        return self.add_up(answer, {})

    def add_up(self, answer: Found, sums: dict[str, list[int]]) -> dict[str, list[int]]:
        """Add counters to sums over the shards, by escaped kind."""
        for key, entry in answer.items:
            kind, values = kind_of(self._keys, key), self._counted(key, entry)
            known = sums.get(kind)
            sums[kind] = values if known is None else [a + b for a, b in zip(known, values, strict=True)]
        return sums

    def _counted(self, key: str, entry: Entry) -> list[int]:
        """The numbers of a stored counter. An unreadable counter counts as zeros until the next recount."""
        values = self._unreadable.read(key, entry, decode_counts, WRITTEN_ANEW)
        if values is None:
            self.in_doubt = True
            return [0] * SLOTS
        return values

    async def mend(self, answer: Found) -> None:
        """Write zeros to the unreadable ones of these counters, which count as zeros."""
        for key, entry in answer.items:
            if self._unreadable.read(key, entry, decode_counts, WRITTEN_ANEW) is None:
                await self._kv.txn([Transaction([Compare(key, mod=entry.mod)], [Put(key, encode([0] * SLOTS))])])

    async def page(self, start: str) -> tuple[Found, str]:
        """Some counters from a key on, and the start of the next page, "" after the last."""
        (answer,) = await self._kv.read([Range(start, prefix_end(self._keys.count), _PAGE)])
        return answer, answer.next_key if answer.more else ""


class CounterShard:
    """One shard, used by one request."""

    def __init__(self, number: int, known: dict[tuple[int, str], tuple[int, list[int]]], keys: Keys) -> None:
        self.number = number
        self._known = known
        self._keys = keys
        self._planned: list[tuple[str, list[int]]] = []

    def key(self, kind: str) -> str:
        """The counter of a kind in this shard."""
        return f"{self._keys.count}{self._keys.kind(kind)}/{self.number:x}"

    def add(self, shifts: Mapping[str, list[int]]) -> tuple[list[Compare], list[Put]]:
        """The compares and writes of a request that adds these differences; `Counts.load` comes first."""
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
        """Remember that the additions were written."""
        for kind, values in self._planned:
            self._known[self.number, kind] = (revision, values)

    def refused(self) -> None:
        """Remember that the additions were not written, or may not have been."""
        for kind, _ in self._planned:
            self._known.pop((self.number, kind), None)


def kind_of(keys: Keys, counter: str) -> str:
    """The escaped kind of a counter."""
    return counter[len(keys.count) : counter.rindex("/")]
