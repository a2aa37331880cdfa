"""A node's own connections to the store that all nodes of a test cluster share."""

from __future__ import annotations

import asyncio
import random  # noqa: TID251  # randomness that a test can repeat
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from peerjob.model.errors import StoreUnavailableError
from peerjob.model.record import Capabilities
from peerjob.store.kv.base import Applied, Compare, Entry, Found, Range, Step
from peerjob.store.kv.keys import prefix_end
from peerjob.store.memory.data import MemoryData, MemoryWatch
from peerjob.store.memory.driver import MemoryKeyValue

from .clocks import ClusterClock

T = TypeVar("T")

URL = "memory://test-cluster"


class SharedData(MemoryData):
    """What the store of a cluster holds."""

    def postpone(self, ttl_us: int, by_us: int) -> None:
        """Let the leases of this length end later."""
        with self.lock:
            for lease, (end_us, length_us, keys) in self._leases.items():
                if length_us == ttl_us:
                    self._leases[lease] = (end_us + by_us, length_us, keys)

    def first(self, prefix: str, limit: int) -> list[str]:
        """The first keys that begin with a prefix, which ends in `/`."""
        with self.lock:
            found = self.range(Range(prefix, prefix_end(prefix), limit, keys_only=True))
        return [key for key, _ in found.items]


class Link:
    """The network between one node and the store, for one purpose: the jobs, or the election.

    Each request and each answer is under way for `latency` seconds on average, at random. So the requests of nodes come
    between one another, and a fault may meet a node between any two of its requests.
    """

    def __init__(self, latency: float = 0.0, seed: str = "") -> None:
        self.cut = False
        self.under_way = 0
        """Requests that are not answered."""
        self.latency = latency
        self._random = random.Random(seed)
        self.watches: list[LinkedWatch] = []

    def check(self) -> None:
        """Raise StoreUnavailableError while it is cut."""
        if self.cut:
            raise StoreUnavailableError(URL, "the test has cut the node off")

    async def carry(self, request: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The answer to a request; raises StoreUnavailableError if it is cut before that, or before the request."""
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
        """Let the node reach the store again."""
        self.cut = False
        for watch in self.watches:
            watch.miss()

    def close(self) -> None:
        """Forget the node: nothing is told to it any more."""
        for watch in list(self.watches):
            watch.close()


class LinkedKeyValue:
    """`KeyValue` on the shared data, over a link. The nodes compare their clocks, as on etcd."""

    def __init__(self, data: MemoryData, clock: ClusterClock, link: Link) -> None:
        self._data = data
        self._clock = clock
        self._link = link
        self._kv = MemoryKeyValue(data, clock)

    @property
    def capabilities(self) -> Capabilities:
        # as on etcd: two nodes that claim at once may each get what is next for both
        order = "windowed" if self._link.latency else "strict"
        return msgspec.structs.replace(self._kv.capabilities, clock="nodes", order=order, warnings=())

    @property
    def identity(self) -> str:
        return self._kv.identity

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

    async def txn(self, steps: Sequence[Step], also: Step | None = None, guards: Sequence[Compare] = ()) -> Applied:
        return await self._link.carry(lambda: self._kv.txn(steps, also, guards))

    def watch(self, *prefixes: str) -> LinkedWatch:
        return LinkedWatch(self._data, prefixes, self._link)

    async def grant(self, ttl_us: int) -> int:
        return await self._link.carry(lambda: self._kv.grant(ttl_us))

    async def keepalive(self, lease: int) -> bool:
        return await self._link.carry(lambda: self._kv.keepalive(lease))

    async def revoke(self, lease: int) -> None:
        await self._link.carry(lambda: self._kv.revoke(lease))

    async def remaining(self, leases: Sequence[int]) -> list[int]:
        return await self._link.carry(lambda: self._kv.remaining(leases))


class LinkedWatch:
    """A watch over a link: while that is cut it tells nothing, and afterwards the node must read again."""

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

    def miss(self) -> None:
        """Answer at once that something was missed."""
        self._missed = True
        with self._data.lock:
            self._watch.tell(self._watch.prefixes[0], b"")

    def close(self) -> None:
        self._watch.close()
        if self in self._link.watches:
            self._link.watches.remove(self)
