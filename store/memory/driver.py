"""The driver: `KeyValue` in this process's memory.

`memory://` is private to the store that opens it. All stores of `memory://name` in the process share their data, which
lives as long as the process, so that a node can stop and start again.
Every call runs under one lock and does not wait, so other threads and loops may share the data.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from peerjob.model.capabilities import Capabilities
from peerjob.model.clock import Clock
from peerjob.model.errors import OptionError
from peerjob.model.record import StoreLimits
from peerjob.store.kv.format.base import Applied, Compare, Entry, Found, Range, Transaction
from peerjob.store.kv.store import KVStore
from peerjob.store.url import query_options, redact, split_url

from .data import MemoryData, MemoryWatch

_MEMORY = Capabilities(
    engine="memory",
    durability="none",
    order="strict",
    clock="server",
    shared=False,
    warnings=("Everything is lost when the process ends.",),
)
_shared: dict[str, MemoryData] = {}
_shared_lock = threading.Lock()


def memory_store(url: str, *, namespace: str, clock: Clock, limits: StoreLimits) -> KVStore:
    """A store in this process's memory.

    `?max_keys=` is its limit: from 80 % of that many keys on, new instances are refused.
    """
    options, parts = query_options(url, {"max_keys": int}), split_url(url)
    if parts.path:
        raise OptionError("store", redact(url), "memory:// or memory://name, without a path")
    if options.get("max_keys", 1) <= 0:
        raise OptionError("store option 'max_keys'", options["max_keys"], "a number of keys above 0")
    data = _data_of(parts.netloc)
    if "max_keys" in options:
        data.max_keys = options["max_keys"]
    kv = MemoryKeyValue(data, clock)
    return KVStore(kv, url=url, namespace=namespace, clock=clock, limits=limits, local=data.objects)


def _data_of(name: str) -> MemoryData:
    if not name:
        return MemoryData()
    with _shared_lock:
        return _shared.setdefault(name, MemoryData())


class MemoryKeyValue:
    """One user of the data, with its own clock."""

    def __init__(self, data: MemoryData, clock: Clock) -> None:
        self._data = data
        self._clock = clock

    @property
    def capabilities(self) -> Capabilities:
        return _MEMORY

    @property
    def identity(self) -> str:
        return "memory"

    @property
    def reports_ends(self) -> bool:
        return False

    @property
    def full(self) -> bool:
        return self._data.full

    async def open(self) -> None:
        return

    async def close(self) -> None:
        return

    def separate(self) -> MemoryKeyValue:
        return MemoryKeyValue(self._data, self._clock)

    async def get(self, keys: Sequence[str]) -> list[Entry | None]:
        data = self._data
        with data.lock:
            data.expire(self._clock.time_us())
            return data.get(keys)

    async def read(self, ranges: Sequence[Range]) -> list[Found]:
        data = self._data
        with data.lock:
            data.expire(self._clock.time_us())
            return [data.range(wanted) for wanted in ranges]

    async def txn(
        self, transactions: Sequence[Transaction], also: Transaction | None = None, guards: Sequence[Compare] = ()
    ) -> Applied:
        data = self._data
        with data.lock:
            data.expire(self._clock.time_us())
            return data.apply(transactions, also, guards)

    def watch(self, *prefixes: str, ends: Sequence[str] = ()) -> MemoryWatch:
        return MemoryWatch(self._data, prefixes)

    async def grant(self, ttl_us: int) -> int:
        data = self._data
        with data.lock:
            return data.grant(ttl_us, self._clock.time_us())

    async def keepalive(self, lease: int) -> bool:
        data, now_us = self._data, self._clock.time_us()
        with data.lock:
            data.expire(now_us)
            return data.keepalive(lease, now_us)

    async def extend(self, lease: int, ranges: Sequence[Range]) -> tuple[bool, list[Found]]:
        data, now_us = self._data, self._clock.time_us()
        with data.lock:
            data.expire(now_us)
            return data.keepalive(lease, now_us), [data.range(wanted) for wanted in ranges]

    async def revoke(self, lease: int) -> None:
        with self._data.lock:
            self._data.revoke(lease)

    async def remaining(self, leases: Sequence[int]) -> list[int]:
        data, now_us = self._data, self._clock.time_us()
        with data.lock:
            data.expire(now_us)
            return [data.remaining(lease, now_us) for lease in leases]
