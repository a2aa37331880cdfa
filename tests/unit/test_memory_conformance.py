"""The memory store keeps the contract, on virtual time."""

import uuid
from collections.abc import Awaitable
from functools import cached_property
from typing import TypeVar

from peerjob.record import StoreLimits
from peerjob.store.base import Store
from peerjob.store.url import open_store
from peerjob.testing.clock import VirtualClock
from peerjob.testing.store_conformance import StoreConformance

Result = TypeVar("Result")


class TestMemory(StoreConformance):
    """Every rule, without a second of waiting."""

    @cached_property
    def clock(self) -> VirtualClock:
        return VirtualClock()

    @cached_property
    def url(self) -> str:
        return f"memory://{uuid.uuid4().hex}"

    def make_store(self, namespace: str, limits: StoreLimits) -> Store:
        return open_store(self.url, namespace=namespace, clock=self.clock, limits=limits)

    async def pass_time(self, seconds: float) -> None:
        await self.clock.advance(seconds)

    async def in_time(self, awaitable: Awaitable[Result]) -> Result:
        return await self.clock.run(awaitable)
