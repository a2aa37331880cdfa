"""The data of a memory store: a dict, its keys in order, leases, and watches."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol, cast

# sortedcontainers has no type annotations.
import sortedcontainers  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]

from peerjob.store.kv.format.base import (
    Applied,
    Compare,
    Delete,
    Entry,
    Found,
    Op,
    Put,
    Range,
    Transaction,
)
from peerjob.store.kv.format.local_watch import LocalWatch

_NOTHING = Found((), 0)
_NO_READS: tuple[Found, ...] = ()


class _KeyList(Protocol):
    """The methods of a SortedList that SortedKeys uses, with types: the library has no type annotations."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[str]: ...
    def bisect_left(self, value: str) -> int: ...
    def irange(self, minimum: str, maximum: str, inclusive: tuple[bool, bool], reverse: bool) -> Iterator[str]: ...
    def remove(self, value: str) -> None: ...
    def update(self, values: Iterable[str]) -> None: ...


def _sorted_keys(keys: Iterable[str] = ()) -> _KeyList:
    return cast("_KeyList", sortedcontainers.SortedList(keys))


class SortedKeys:
    """A set of keys that can be read in order, and that is sorted only for a read.

    Most keys are read only by name, and many are removed before a range is read. So additions and removals are noted,
    an addition and its removal cancel each other, and the rest reaches the sorted list with the next read.
    """

    __slots__ = ("_added", "_removed", "_sorted")

    def __init__(self) -> None:
        self._sorted = _sorted_keys()
        self._added: set[str] = set()
        self._removed: set[str] = set()

    def add(self, key: str) -> None:
        """Add a new key."""
        if key in self._removed:
            self._removed.discard(key)
        else:
            self._added.add(key)

    def remove(self, key: str) -> None:
        """Remove an existing key."""
        if key in self._added:
            self._added.discard(key)
        else:
            self._removed.add(key)

    def __len__(self) -> int:
        return len(self._sorted) + len(self._added) - len(self._removed)

    def count(self, start: str, end: str) -> int:
        """How many keys are in [start, end)."""
        if not len(self):
            return 0
        self._merge_pending()
        return self._sorted.bisect_left(end) - self._sorted.bisect_left(start)

    def between(self, start: str, end: str, *, reverse: bool = False) -> Iterator[str]:
        """The keys in [start, end); the set must not change during the iteration."""
        self._merge_pending()
        return self._sorted.irange(start, end, (True, False), reverse)

    def _merge_pending(self) -> None:
        if self._removed:
            if len(self._removed) * 8 > len(self._sorted):
                self._sorted = _sorted_keys(key for key in self._sorted if key not in self._removed)
            else:
                for key in self._removed:
                    self._sorted.remove(key)
            self._removed.clear()
        if self._added:
            self._sorted.update(self._added)
            self._added.clear()


class MemoryData:
    """The data of one memory store; call each method under the lock."""

    def __init__(self, *, max_keys: int | None = None) -> None:
        self.lock = threading.Lock()
        self.max_keys = max_keys
        self.objects: dict[str, Any] = {}
        self.revision = 0
        self._entries: dict[str, Entry] = {}
        self._tables: dict[str, SortedKeys] = {}
        """Prefix of two segments, `a/b/` → the keys that begin with it."""
        self._watches: list[MemoryWatch] = []
        self._watched: tuple[str, ...] = ()
        self._leases: dict[int, tuple[int, int, set[str]]] = {}
        self._ends: list[tuple[int, int]] = []
        self._last_lease = 0

    @property
    def full(self) -> bool:
        return self.max_keys is not None and len(self._entries) * 5 >= self.max_keys * 4

    @property
    def entries(self) -> Mapping[str, Entry]:
        """All keys and their entries."""
        return self._entries

    # -- reading --------------------------------------------------------------------------------------------------

    def get(self, keys: Sequence[str]) -> list[Entry | None]:
        entries = self._entries
        return [entries.get(key) for key in keys]

    def range(self, wanted: Range) -> Found:
        start, end, entries = wanted.start, wanted.end, self._entries
        if not end:
            entry = entries.get(start)
            return _NOTHING if entry is None else Found(((start, entry),), 1)
        count, limit = 0, wanted.limit
        items: list[tuple[str, Entry]] = []
        for table in self._tables_between(start, end, reverse=wanted.reverse):
            if not len(table):
                inside = 0
            elif limit and len(items) == limit:
                inside = table.count(start, end)
            else:
                keys = table.between(start, end, reverse=wanted.reverse)
                if limit:
                    keys = islice(keys, limit - len(items))
                before = len(items)
                items += [(key, entries[key]) for key in keys]
                # most reads find less than the limit, so what they found is all
                inside = table.count(start, end) if limit and len(items) == limit else len(items) - before
            count += inside
        return Found(items, count) if count else _NOTHING

    # -- writing --------------------------------------------------------------------------------------------------

    def apply(
        self, transactions: Sequence[Transaction], also: Transaction | None, guards: Sequence[Compare] = ()
    ) -> Applied:
        if not self._holds(guards):
            return Applied(self.revision, [None] * len(transactions), refused=True)
        held = [self._holds(transaction.compares) for transaction in transactions]
        with_also = also is not None and all(held) and self._holds(also.compares)
        revision = self.revision + 1
        answers = [
            self._do(transaction, revision) if holds else None
            for transaction, holds in zip(transactions, held, strict=True)
        ]
        last = self._do(also, revision) if with_also and also is not None else None
        self.revision = revision
        return Applied(revision, answers, last)

    def _do(self, transaction: Transaction, revision: int) -> Sequence[Found]:
        for op in transaction.ops:
            if type(op) is Put:
                self._put(op.key, op.value, revision, op.lease)
            else:
                self._delete(op)
        return [self.range(wanted) for wanted in transaction.reads] if transaction.reads else _NO_READS

    def _holds(self, compares: Sequence[Compare]) -> bool:
        entries = self._entries
        for compare in compares:
            entry = entries.get(compare.key)
            if compare.end:
                if self.range(Range(compare.key, compare.end, limit=1)).count:
                    return False
            elif compare.below:
                if entry is None or not entry.value < compare.below.encode():
                    return False
            elif (entry.mod if entry is not None else 0) != compare.mod:
                return False
        return True

    def _put(self, key: str, value: bytes, revision: int, lease: int) -> None:
        old = self._entries.get(key)
        self._entries[key] = Entry(value, revision, lease)
        if old is None:
            self._table(key).add(key)
        if lease or (old is not None and old.lease):
            self._change_lease(key, 0 if old is None else old.lease, lease)
        if self._watched and key.startswith(self._watched):
            for watch in self._watches:
                watch.tell(key, value)

    def _delete(self, op: Op) -> None:
        if isinstance(op, Delete) and op.end:
            for key, _ in self.range(Range(op.key, op.end, keys_only=True)).items:
                self._remove(key)
        elif op.key in self._entries:
            self._remove(op.key)

    def _remove(self, key: str) -> None:
        entry = self._entries.pop(key)
        self._table(key).remove(key)
        if entry.lease:
            self._change_lease(key, entry.lease, 0)

    # -- tables ---------------------------------------------------------------------------------------------------

    def _table(self, key: str) -> SortedKeys:
        # a key of fewer segments has a table of its own, so the order of tables is that of their keys
        prefix = key[: key.find("/", key.find("/") + 1) + 1] or key
        table = self._tables.get(prefix)
        if table is None:
            table = self._tables[prefix] = SortedKeys()
        return table

    def _tables_between(self, start: str, end: str, *, reverse: bool) -> Iterable[SortedKeys]:
        prefix = start[: start.find("/", start.find("/") + 1) + 1]
        if prefix and (end.startswith(prefix) or end == prefix[:-1] + "0"):
            table = self._tables.get(prefix)
            return () if table is None else (table,)
        names = (name for name in self._tables if name < end and (name > start or start.startswith(name)))
        return [self._tables[name] for name in sorted(names, reverse=reverse)]

    def add_watch(self, watch: MemoryWatch) -> None:
        self._watches.append(watch)
        self._watched = tuple(prefix for watch in self._watches for prefix in watch.prefixes)

    def remove_watch(self, watch: MemoryWatch) -> None:
        if watch in self._watches:
            self._watches.remove(watch)
            self._watched = tuple(prefix for watch in self._watches for prefix in watch.prefixes)

    # -- leases ---------------------------------------------------------------------------------------------------

    def grant(self, ttl_us: int, now_us: int) -> int:
        self._last_lease += 1
        self._leases[self._last_lease] = (now_us + ttl_us, ttl_us, set())
        heapq.heappush(self._ends, (now_us + ttl_us, self._last_lease))
        return self._last_lease

    def keepalive(self, lease: int, now_us: int) -> bool:
        known = self._leases.get(lease)
        if known is None:
            return False
        _, ttl_us, keys = known
        self._leases[lease] = (now_us + ttl_us, ttl_us, keys)
        return True

    def revoke(self, lease: int) -> None:
        known = self._leases.pop(lease, None)
        if known is not None:
            self.revision += 1
            for key in list(known[2]):
                self._remove(key)

    def remaining(self, lease: int, now_us: int) -> int:
        known = self._leases.get(lease)
        return 0 if known is None else known[0] - now_us

    def expire(self, now_us: int) -> None:
        """End expired leases; an extension of a lease is only looked up when its earlier end has come."""
        while self._ends and self._ends[0][0] <= now_us:
            _, lease = heapq.heappop(self._ends)
            known = self._leases.get(lease)
            if known is None:
                continue
            if known[0] <= now_us:
                self.revoke(lease)
            else:
                heapq.heappush(self._ends, (known[0], lease))

    def _change_lease(self, key: str, old: int, new: int) -> None:
        if old == new:
            return
        if old in self._leases:
            self._leases[old][2].discard(key)
        if new in self._leases:
            self._leases[new][2].add(key)


class MemoryWatch(LocalWatch):
    """A watch that the data tells of each key."""

    def __init__(self, data: MemoryData, prefixes: tuple[str, ...]) -> None:
        super().__init__(prefixes)
        self._data = data
        with data.lock:
            data.add_watch(self)

    def close(self) -> None:
        with self._data.lock:
            self._data.remove_watch(self)
