"""A node's own connections to the store that all nodes of a test cluster share."""

from __future__ import annotations

import asyncio
import random  # noqa: TID251  # seeded, so that a test can repeat the random choices
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from peerjob.model.capabilities import Capabilities
from peerjob.model.errors import StoreUnavailableError
from peerjob.store.kv.format.base import Applied, Compare, Entry, Found, Range, Transaction
from peerjob.store.kv.format.keys import prefix_end
from peerjob.store.memory.data import MemoryData, MemoryWatch
from peerjob.store.memory.driver import MemoryKeyValue

from .clocks import ClusterClock

T = TypeVar("T")

URL = "memory://test-cluster"


class SharedData(MemoryData):
    """The data of a cluster's store."""

    def postpone(self, ttl_us: int, by_us: int) -> None:
        """Extend the leases that have this length."""
        with self.lock:
            for lease, (end_us, length_us, keys) in self._leases.items():
                if length_us == ttl_us:
                    self._leases[lease] = (end_us + by_us, length_us, keys)

    def first(self, prefix: str, limit: int) -> list[str]:
        """Return the first keys that begin with a prefix. The prefix ends in `/`."""
        with self.lock:
            entries = self.range(Range(prefix, prefix_end(prefix), limit, keys_only=True))
        return [key for key, _ in entries.items]


class Link:
    """The network between one node and the store, for the jobs or for the election.

    Each request and each answer takes `latency` seconds on average, at random. So the requests of nodes interleave, and
    a fault can hit a node between any two of its requests.
    """

    def __init__(self, latency: float = 0.0, seed: str = "") -> None:
        self.cut = False
        self.under_way = 0
        """Number of requests that have no answer yet."""
        self.latency = latency
        self._random = random.Random(seed)
        self.watches: list[LinkedWatch] = []

    def check(self) -> None:
        """Raise StoreUnavailableError while the link is cut."""
        if self.cut:
            raise StoreUnavailableError(URL, "the test has cut the node off")

    async def carry(self, request: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await a request; raises StoreUnavailableError if the link is cut before the request or before its answer."""
        self.check()
        if not self.latency:
            return await request()
        self.under_way += 1
        try:
            await asyncio.sleep(self._random.uniform(0, 2 * self.latency))
            self.check()
            answer = await request()
            await asyncio.sleep(self._random.uniform(0, 2 * self.latency))
            self.check()
        finally:
            self.under_way -= 1
        return answer

    def heal(self) -> None:
        """Connect the node again. Its watches report that they may have missed changes."""
        self.cut = False
        for watch in self.watches:
            watch.miss()

    def close(self) -> None:
        """Close the watches of the node."""
        for watch in list(self.watches):
            watch.close()


class LinkedKeyValue:
    """`KeyValue` on the shared data, over a link. As on etcd, the clock is that of the nodes."""

    def __init__(self, data: MemoryData, clock: ClusterClock, link: Link) -> None:
        self._data = data
        self._clock = clock
        self._link = link
        self._kv = MemoryKeyValue(data, clock)

    @property
    def capabilities(self) -> Capabilities:
        # report the weaker order of etcd: with latency, two nodes that claim together can get instances out of order
        order = "windowed" if self._link.latency else "strict"
        return msgspec.structs.replace(self._kv.capabilities, clock="nodes", order=order, warnings=())

    @property
    def identity(self) -> str:
        return self._kv.identity

    @property
    def reports_ends(self) -> bool:
        return self._kv.reports_ends

    @property
    def full(self) -> bool:
        return self._kv.full

    async def open(self) -> None:
        self._link.check()

    async def close(self) -> None:
        return

    def separate(self) -> LinkedKeyValue:
        return LinkedKeyValue(self._data, self._clock, self._link)

    async def get(self, keys: Sequence[str]) -> list[Entry | None]:
        return await self._link.carry(lambda: self._kv.get(keys))

    async def read(self, ranges: Sequence[Range]) -> list[Found]:
        return await self._link.carry(lambda: self._kv.read(ranges))

    async def txn(
        self, transactions: Sequence[Transaction], also: Transaction | None = None, guards: Sequence[Compare] = ()
    ) -> Applied:
        return await self._link.carry(lambda: self._kv.txn(transactions, also, guards))

    def watch(self, *prefixes: str, ends: Sequence[str] = ()) -> LinkedWatch:
        return LinkedWatch(self._data, prefixes, self._link)

    async def grant(self, ttl_us: int) -> int:
        return await self._link.carry(lambda: self._kv.grant(ttl_us))

    async def keepalive(self, lease: int) -> bool:
        return await self._link.carry(lambda: self._kv.keepalive(lease))

    async def extend(self, lease: int, ranges: Sequence[Range]) -> tuple[bool, list[Found]]:
        return await self._link.carry(lambda: self._kv.extend(lease, ranges))

    async def revoke(self, lease: int) -> None:
        await self._link.carry(lambda: self._kv.revoke(lease))

    async def remaining(self, leases: Sequence[int]) -> list[int]:
        return await self._link.carry(lambda: self._kv.remaining(leases))


class LinkedWatch:
    """A watch over a link. While the link is cut, the watch is silent; afterwards the node must read again."""

    def __init__(self, data: MemoryData, prefixes: tuple[str, ...], link: Link) -> None:
        self._data = data
        self._watch = MemoryWatch(data, prefixes)
        self._link = link
        self._missed = False
        link.watches.append(self)

    async def changed(self, timeout: float) -> Mapping[str, bytes] | None:
        put = await self._watch.changed(timeout)
        if self._link.cut:
            return {}
        missed, self._missed = self._missed, False
        return None if missed else put

    def wake(self) -> None:
        """End the wait of `changed` now."""
        self._watch.wake()

    def miss(self) -> None:
        """Report at once that changes were missed."""
        self._missed = True
        with self._data.lock:
            self._watch.tell(self._watch.prefixes[0], b"")

    def close(self) -> None:
        self._watch.close()
        if self in self._link.watches:
            self._link.watches.remove(self)
