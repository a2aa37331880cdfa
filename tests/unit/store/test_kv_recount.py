"""Counters that were lost come back, and counters that only follow later are left alone."""

from collections.abc import Sequence

import pytest

from peerjob.model.record import StoreLimits
from peerjob.model.state import State
from peerjob.store.kv.format.base import Found, Put, Range, Transaction
from peerjob.store.kv.format.keys import Keys
from peerjob.store.kv.format.rows import SLOTS, encode
from peerjob.store.kv.index.counts import COUNTER_SHARDS, PROCESSING, CounterShard
from peerjob.store.kv.store import KVStore
from peerjob.store.memory.driver import MemoryKeyValue
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import Factory, Peer
from support.counted import assert_counted
from support.etcd_model import EtcdData

TTL_US = 5_000_000


class Bench:
    """A namespace on the model of etcd."""

    def __init__(self, clock: VirtualClock) -> None:
        self.data = EtcdData()
        self.clock = clock
        self.make = Factory(clock)

    def peer(self) -> Peer:
        self.kv = Watched(self.data, self.clock)
        store = KVStore(self.kv, url="memory://", namespace="n", clock=self.clock, limits=StoreLimits())
        return Peer(store=store, info=self.make.node(), make=self.make)

    async def count_wrongly(self, kv: MemoryKeyValue, running: int) -> None:
        """Write a counter that no node writes here."""
        used = {int(key.rsplit("/", 1)[1], 16) for key in self.data.entries if key.startswith("n/count/work/")}
        number = next(number for number in range(COUNTER_SHARDS) if number not in used)
        values = [running if slot == PROCESSING else 0 for slot in range(SLOTS)]
        await kv.txn([Transaction([], [Put(CounterShard(number, {}, Keys("n")).key("work"), encode(values))])])


class Watched(MemoryKeyValue):
    """Lets the counters of an earlier request follow after a read of the indexes."""

    late: tuple[Bench, MemoryKeyValue] | None = None

    async def read(self, ranges: Sequence[Range]) -> list[Found]:
        found = await super().read(ranges)
        if self.late is not None and any(asked.start.startswith("n/by/") for asked in ranges):
            (bench, kv), self.late = self.late, None
            await bench.count_wrongly(kv, 3)
        return found


@pytest.fixture
def bench(clock: VirtualClock) -> Bench:
    return Bench(clock)


async def test_counters_that_a_dead_node_left_wrong_are_right_after_its_end(bench: Bench, clock: VirtualClock) -> None:
    dead, alive = await bench.peer().join(ttl_us=TTL_US), await bench.peer().join()
    await alive.store.open()
    await alive.store.health()
    await bench.count_wrongly(bench.kv, 3)
    assert (await alive.store.health()).counts == {"work": {State.PROCESSING: 3}}, "compared within the hour"
    await clock.advance(6)
    await alive.store.reap(10, reaper=alive.incarnation)
    assert (await dead.store.health()).counts == {}
    assert_counted(bench.data, "n")


async def test_counters_that_follow_during_a_comparison_are_not_corrected(bench: Bench) -> None:
    peer = await bench.peer().join()
    await peer.store.open()
    kv = MemoryKeyValue(bench.data, bench.clock)
    await bench.count_wrongly(kv, -3)
    bench.kv.late = (bench, kv)
    peer.store._context.counts.in_doubt = True  # type: ignore[attr-defined]  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    assert (await peer.store.health()).counts == {}
    assert bench.kv.late is None
    assert_counted(bench.data, "n")
