"""Reads the heads of ready queues from the indexes of groups, the most urgent first, some at a time."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping, Sequence

from peerjob.store.kv.format.base import Found, Range
from peerjob.store.kv.format.keys import Keys, prefix_end

from .queues import Queues
from .scan import Head, Scan

_MAX_READ = 50
"""One request reads at most this number of indexes; the feed reads further indexes with further requests."""


class _Index:
    """One index, and the heads that were read and not returned yet."""

    def __init__(self, number: int, priority: int, head: Head, scan: Scan) -> None:
        self.number = number
        self.priority = priority
        self.head = head
        self.scan = scan
        self.taken = 0
        self.waiting: deque[tuple[str, Head]] = deque()

    @property
    def bound(self) -> tuple[int, str] | None:
        """A lower bound of the heads that were not returned yet; None if all heads were returned."""
        if self.waiting:
            return self.priority, self.waiting[0][1].start
        return None if self.scan.done else (self.priority, self.scan.at)


class IndexFeed:
    """Returns the heads of the queues that have the first instances of some groups."""

    def __init__(
        self, queues: Queues, keys: Keys, heads: Sequence[Head], kinds: Mapping[str, str], now_us: int
    ) -> None:
        self._queues = queues
        self._keys = keys
        self._kinds = kinds
        """Kind, escaped as in keys → kind without escapes, for each kind that the node wants."""
        self._known: set[str] = set()
        """Queues that the feed has found: an entry that moves during the read is found twice, and must count once."""
        self._indexes = [
            _Index(
                number, int(head.queue[:-1].rsplit("/", 1)[1], 16), head, queues.scan(head, now_us=now_us, whole=True)
            )
            for number, head in enumerate(heads)
        ]
        self._bounds = [(bound, index.number) for index in self._indexes if (bound := index.bound) is not None]
        """Heap of the bounds, with the numbers of their indexes. A bound that has changed since is dropped when found.

        Each priority has an index, so there can be thousands: a search of all of them for each head takes seconds.
        """
        heapq.heapify(self._bounds)

    @property
    def bound(self) -> tuple[int, str] | None:
        """A lower bound (priority and position) of the heads that were not returned yet; None if all were returned."""
        first = self._first
        return None if first is None else first.bound

    @property
    def _first(self) -> _Index | None:
        """The index with the lowest bound; None if all heads were returned."""
        while self._bounds:
            bound, number = self._bounds[0]
            index = self._indexes[number]
            if index.bound == bound:
                return index
            heapq.heappop(self._bounds)
        return None

    def _lowest(self, count: int) -> list[_Index]:
        """The indexes with the lowest bounds."""
        indexes: list[_Index] = []
        while len(indexes) < count and (index := self._first) is not None:
            heapq.heappop(self._bounds)
            if index not in indexes:  # a bound that did not change during a read is in the heap twice
                indexes.append(index)
        for index in indexes:
            self._remember_bound(index)
        return indexes

    def _remember_bound(self, index: _Index) -> None:
        """Add the bound of an index to the heap, after the bound has changed."""
        if (bound := index.bound) is not None:
            heapq.heappush(self._bounds, (bound, index.number))

    async def more(self, limit: int) -> list[tuple[str, Head]]:
        """Kind and head of the next queues, about as many as asked for; [] if there are no more."""
        heads: list[tuple[str, Head]] = []
        while len(heads) < limit and self._first is not None:
            unread = [index for index in self._lowest(_MAX_READ) if not index.waiting]
            if unread:
                await self._queues.read([index.scan for index in unread], limit)
                for index in unread:
                    self._found(index)
                    self._remember_bound(index)
            heads += self._next(limit - len(heads))
        return heads

    def _next(self, limit: int) -> list[tuple[str, Head]]:
        """The heads that can be returned without a further read."""
        heads: list[tuple[str, Head]] = []
        while len(heads) < limit and (index := self._first) is not None and index.waiting:
            heads.append(index.waiting.popleft())
            self._remember_bound(index)
        return heads

    def _found(self, index: _Index) -> None:
        """Add the heads that new index entries name. One transaction writes entry and head, at one revision."""
        positions = index.scan.positions
        for at in range(index.taken, len(positions)):
            head = self._queues.ordered(index.head, positions[at], index.scan.entries[at].mod)
            kind = self._kinds.get(self._keys.ready_parts(head.queue)[0])
            if kind is not None and head.queue not in self._known:
                self._known.add(head.queue)
                index.waiting.append((kind, head))
        index.taken = len(positions)

    def unused(self) -> list[Head]:
        """The heads of empty indexes."""
        return [index.head for index in self._indexes if index.scan.done and not index.scan.positions]

    def begins(self) -> list[tuple[Head, str]]:
        """Indexes with an entry, each with the position of the first one."""
        return [(index.head, index.scan.positions[0]) for index in self._indexes if index.scan.positions]

    def repeated_reads(self) -> list[Range]:
        """Reads that show whether an index has other entries now."""
        return [
            Range(index.head.queue + index.head.start, prefix_end(index.head.queue), _MAX_READ)
            for index in self._indexes
        ]

    def has_new(self, answers: Sequence[Found]) -> bool:
        """Whether `repeated_reads` found new entries."""
        return any(
            entries.more or any(key[len(index.head.queue) :] not in index.scan.positions for key, _ in entries.items)
            for index, entries in zip(self._indexes, answers, strict=True)
        )

    def heads(self) -> list[Head]:
        """The heads of all indexes."""
        return [index.head for index in self._indexes]
