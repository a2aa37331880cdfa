"""A rolling upgrade over the memory store, on virtual time."""

from collections.abc import Awaitable
from functools import cached_property
from typing import TypeVar

from peerjob.model.record import StoreLimits
from peerjob.store.base import Store
from peerjob.store.kv.store import KVStore
from peerjob.store.memory.data import MemoryData
from peerjob.store.memory.driver import MemoryKeyValue
from peerjob.testing.clock import VirtualClock
from support.builds import extend
from support.etcd_model import EtcdData
from support.two_builds import TwoBuilds

Result = TypeVar("Result")


class TestMemory(TwoBuilds):
    """Two releases that share a memory."""

    @cached_property
    def clock(self) -> VirtualClock:
        return VirtualClock()

    @cached_property
    def data(self) -> MemoryData:
        return EtcdData()

    def make_store(self, namespace: str, limits: StoreLimits) -> KVStore:
        kv = MemoryKeyValue(self.data, self.clock)
        return KVStore(kv, url="memory://", namespace=namespace, clock=self.clock, limits=limits)

    def make_later(self, namespace: str, limits: StoreLimits) -> Store:
        store = self.make_store(namespace, limits)
        extend(store, namespace)
        return store

    async def pass_time(self, seconds: float) -> None:
        await self.clock.advance(seconds)

    async def in_time(self, awaitable: Awaitable[Result]) -> Result:
        return await self.clock.run(awaitable)
