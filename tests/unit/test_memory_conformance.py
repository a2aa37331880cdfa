"""The memory store keeps the contract, on virtual time, in transactions that etcd would take."""

from collections import Counter
from collections.abc import Awaitable, Sequence
from functools import cached_property
from typing import TypeVar

import pytest

from peerjob.record import StoreLimits
from peerjob.store.base import Store
from peerjob.store.kv import claim
from peerjob.store.kv.counts import ASIDE, DELAYED, PROCESSING, READY, SLOT, kind_of
from peerjob.store.kv.keys import Keys
from peerjob.store.kv.memory import MemoryKeyValue
from peerjob.store.kv.memory_data import Costs, MemoryData
from peerjob.store.kv.rows import decode_counts, decode_delayed, decode_owned
from peerjob.store.kv.store import KVStore
from peerjob.testing.clock import VirtualClock
from peerjob.testing.store_conformance import StoreConformance
from support.leftovers import leftovers_of

Result = TypeVar("Result")


class TestMemory(StoreConformance):
    """Every rule, without a second of waiting."""

    @cached_property
    def clock(self) -> VirtualClock:
        return VirtualClock()

    @cached_property
    def data(self) -> MemoryData:
        return MemoryData(costs=Costs())

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
        self._cleanup.callback(self.assert_counted)
        return store

    def assert_counted(self) -> None:
        """Hold that the counters say how many keys there are in the queues and indexes that they count."""
        keys = Keys(self.namespace)
        counted, held = Counter[tuple[str, int]](), Counter[tuple[str, int]]()
        slots = {f"by/{state:d}": slot for state, slot in SLOT.items()}
        for key, entry in self.data.entries.items():
            what, _, rest = key.removeprefix(keys.root).partition("/")
            if what == "count":
                kind = kind_of(keys, key)
                counted.update({(kind, slot): value for slot, value in enumerate(decode_counts(entry.value))})
            elif what == "ready":
                held[rest.split("/")[0], READY] += 1
            elif what == "due" and not rest.startswith("@"):
                held[keys.kind(decode_delayed(entry.value).kind), DELAYED] += 1
            elif what == "by":
                kind, state, _ = rest.split("/")
                held[kind, slots[f"by/{state}"]] += 1
            elif what == "aside":
                held["", ASIDE] += 1
            elif what == "own" and not (claim := decode_owned(entry.value)).releasing:
                held[keys.kind(claim.kind), PROCESSING] += 1
        assert {place: count for place, count in counted.items() if count} == held

    async def leftovers(self, store: Store) -> Sequence[str]:
        return await leftovers_of(store)

    async def pass_time(self, seconds: float) -> None:
        await self.clock.advance(seconds)

    async def in_time(self, awaitable: Awaitable[Result]) -> Result:
        return await self.clock.run(awaitable)


class TestGroupedKinds(TestMemory):
    """The same for nodes that have so many kinds that they claim through indexes of queues."""

    @pytest.fixture(autouse=True)
    def _no_few_kinds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(claim, "FEW_KINDS", 0)
