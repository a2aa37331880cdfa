"""The reference store keeps the contract, on virtual time."""

import asyncio
import threading
from collections.abc import Awaitable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TypeVar

from peerjob.model.clock import SystemClock
from peerjob.model.record import Hint, StoreLimits
from peerjob.store.base import Store
from peerjob.store.reference.state import Namespace
from peerjob.store.reference.store import ReferenceData, ReferenceStore
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import Factory, Peer
from peerjob.testing.store_conformance import KeyedConformance, StoreConformance
from peerjob.testing.store_conformance.suite import StoreSuite

Result = TypeVar("Result")


class OnReference(StoreSuite):
    """The reference store, without a second of waiting."""

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


class TestReference(OnReference, StoreConformance):
    """Every rule."""

    conformance_on = "reference"


class TestKeyedReference(OnReference, KeyedConformance):
    """The rules, with wide key limits."""

    conformance_on = "reference-keyed"


def test_a_command_wakes_a_call_that_waits_in_another_event_loop() -> None:
    clock, data = SystemClock(), ReferenceData()
    make = Factory(clock)

    def store() -> ReferenceStore:
        return ReferenceStore(data, clock=clock, limits=StoreLimits(), namespace="shared")

    async def wait(idle: threading.Event) -> list[Hint]:
        peer = await Peer(store=store(), info=make.node(), make=make).join()
        await peer.claim()
        asyncio.get_running_loop().call_soon(idle.set)
        return await peer.store.next_hints(peer.incarnation, 60)

    with ThreadPoolExecutor(1) as other_thread:
        for _ in range(20):
            idle = threading.Event()
            hints = other_thread.submit(asyncio.run, wait(idle))
            assert idle.wait(60)
            asyncio.run(store().enqueue(make.instances(1)))
            assert [hint.what for hint in hints.result(60)] == ["work"]
            asyncio.run(store().clear())


def left_in(state: Namespace) -> list[str]:
    """What a namespace holds about instances and nodes, without what it forgets by itself."""
    nodes = [incarnation for incarnation, node in state.nodes.items() if not node.ended or state.held_by(incarnation)]
    of_instances = (
        state.instances,
        state.keys,
        state.ready,
        state.delayed,
        state.expiring,
        state.slots,
        state.limit_keys,
    )
    return [
        *map(str, (part for part in (*of_instances, state.watchers, state.kind_rules, state.shared_limits) if part)),
        *nodes,
    ]
