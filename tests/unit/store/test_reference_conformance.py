"""The reference store keeps the contract, on virtual time."""

from collections.abc import Awaitable, Sequence
from functools import cached_property
from typing import TypeVar

from peerjob.model.record import StoreLimits
from peerjob.store.base import Store
from peerjob.store.reference.state import Namespace
from peerjob.store.reference.store import ReferenceData, ReferenceStore
from peerjob.testing.clock import VirtualClock
from peerjob.testing.store_conformance import StoreConformance

Result = TypeVar("Result")


class TestReference(StoreConformance):
    """Every rule, without a second of waiting."""

    renewals_tell = True

    @cached_property
    def clock(self) -> VirtualClock:
        return VirtualClock()

    @cached_property
    def data(self) -> ReferenceData:
        return ReferenceData()

    def make_store(self, namespace: str, limits: StoreLimits) -> Store:
        return ReferenceStore(self.data, clock=self.clock, limits=limits, namespace=namespace)

    async def leftovers(self, store: Store) -> Sequence[str]:
        return left_in(self.data.namespaces[self.namespace])

    async def pass_time(self, seconds: float) -> None:
        await self.clock.advance(seconds)

    async def in_time(self, awaitable: Awaitable[Result]) -> Result:
        return await self.clock.run(awaitable)


def left_in(state: Namespace) -> list[str]:
    """What a namespace holds about instances and nodes, without what it forgets by itself."""
    nodes = [incarnation for incarnation, node in state.nodes.items() if not node.ended or state.held_by(incarnation)]
    of_instances = (state.instances, state.keys, state.ready, state.delayed, state.expiring, state.slots)
    return [*map(str, (part for part in (*of_instances, state.watchers) if part)), *nodes]
