"""The memory store keeps the contract, on virtual time, with transactions that etcd would accept."""

from collections.abc import Awaitable, Sequence
from functools import cached_property
from typing import TypeVar

import pytest

from peerjob.model.record import StoreLimits
from peerjob.store.base import Store
from peerjob.store.kv.format.keys import Keys
from peerjob.store.kv.queue import claim_call
from peerjob.store.kv.store import KVStore
from peerjob.store.memory.data import MemoryData
from peerjob.store.memory.driver import MemoryKeyValue
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import Peer
from peerjob.testing.store_conformance import KeyedConformance, StoreConformance
from peerjob.testing.store_conformance.suite import StoreSuite
from support.consistency.kv_rules import inconsistent_in
from support.counted import assert_counted
from support.etcd_model import EtcdData
from support.leftovers import leftovers_of, traces_of

Result = TypeVar("Result")


class OnMemory(StoreSuite):
    """Stores in memory."""

    renewals_tell = True

    @cached_property
    def clock(self) -> VirtualClock:
        return VirtualClock()

    @cached_property
    def data(self) -> MemoryData:
        return EtcdData()

    def make_store(self, namespace: str, limits: StoreLimits) -> Store:
        return KVStore(
            MemoryKeyValue(self.data, self.clock),
            url="memory://",
            namespace=namespace,
            clock=self.clock,
            limits=limits,
            local=self.data.objects,
        )

    async def open(self, limits: StoreLimits | None = None, namespace: str | None = None) -> Store:
        store = await super().open(limits, namespace)
        self._cleanup.callback(self._assert_consistent)
        return store

    def _assert_consistent(self) -> None:
        """Assert that each index and counter fits to the records."""
        assert_counted(self.data, self.namespace)
        keys = Keys(self.namespace)
        entries = {key: entry for key, entry in self.data.entries.items() if key.startswith(keys.root)}
        assert inconsistent_in(keys, entries) == []

    async def leftovers(self, store: Store) -> Sequence[str]:
        return await leftovers_of(store)

    async def traces(self, store: Store, *ended: Peer) -> Sequence[str]:
        return await traces_of(store, [peer.incarnation for peer in ended])

    async def pass_time(self, seconds: float) -> None:
        await self.clock.advance(seconds)

    async def in_time(self, awaitable: Awaitable[Result]) -> Result:
        return await self.clock.run(awaitable)


class TestMemory(OnMemory, StoreConformance):
    """Every rule, without a second of waiting."""

    conformance_on = "memory"


class TestKeyed(OnMemory, KeyedConformance):
    """The rules, with wide key limits."""

    conformance_on = "memory-keyed"


class TestGroupedKinds(TestMemory):
    """The same for nodes with so many kinds that they claim through indexes of queues."""

    conformance_on = "memory-many-kinds"

    @pytest.fixture(autouse=True)
    def _no_few_kinds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(claim_call, "FEW_KINDS", 0)
