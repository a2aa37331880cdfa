"""The engine keeps the contract when every request of it is overtaken by others, as on a server.

The memory driver answers without a pause, so nothing ever comes between two of its calls; here something does.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from functools import cached_property
from typing import TypeVar

from peerjob.record import StoreLimits
from peerjob.store.base import Store
from peerjob.store.kv.base import Applied, Entry, Found, Range, Step
from peerjob.store.kv.memory import MemoryKeyValue
from peerjob.store.kv.memory_data import Costs, MemoryData
from peerjob.store.kv.store import KVStore
from peerjob.testing.clock import VirtualClock
from peerjob.testing.store_conformance import StoreConformance

Result = TypeVar("Result")


class Overtaken(MemoryKeyValue):
    """The memory driver with pauses, so that calls of several stores mix; etcd's limits are held."""

    def separate(self) -> "Overtaken":
        return Overtaken(self._data, self._clock)

    async def get(self, keys: Sequence[str]) -> list[Entry | None]:
        await self._pause()
        return await super().get(keys)

    async def read(self, ranges: Sequence[Range]) -> list[Found]:
        await self._pause()
        found = await super().read(ranges)
        await self._pause()
        return found

    async def txn(self, steps: Sequence[Step], also: Step | None = None) -> Applied:
        await self._pause()
        applied = await super().txn(steps, also)
        await self._pause()
        return applied

    async def _pause(self) -> None:
        for _ in range(self._clock.random.randrange(3)):
            await asyncio.sleep(0)


class TestOvertaken(StoreConformance):
    """Every rule, under contention, on virtual time."""

    @cached_property
    def clock(self) -> VirtualClock:
        return VirtualClock()

    @cached_property
    def data(self) -> MemoryData:
        return MemoryData(costs=Costs())

    def make_store(self, namespace: str, limits: StoreLimits) -> Store:
        kv = Overtaken(self.data, self.clock)
        return KVStore(kv, url="memory://", namespace=namespace, clock=self.clock, limits=limits)

    async def pass_time(self, seconds: float) -> None:
        await self.clock.advance(seconds)

    async def in_time(self, awaitable: Awaitable[Result]) -> Result:
        return await self.clock.run(awaitable)
