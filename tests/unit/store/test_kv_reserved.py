"""What later releases write stays: keys under `due/@` and `clock/`, which count nowhere, and fields of schedules."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from peerjob.model.firing import Fire, FireOutcome, SchedulePut
from peerjob.model.record import StoreLimits
from peerjob.store.kv.format.base import Put, Range, Transaction
from peerjob.store.kv.format.keys import Keys, prefix_end
from peerjob.store.kv.format.rows import encode
from peerjob.store.kv.format.schedule_rows import decode_next_fire, decode_schedule
from peerjob.store.kv.store import KVStore
from peerjob.store.memory.driver import MemoryKeyValue
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import Factory, Peer
from support.etcd_model import EtcdData


class Bench:
    """A namespace in which a later release has entries that were due long ago."""

    def __init__(self, clock: VirtualClock) -> None:
        self.kv = MemoryKeyValue(EtcdData(), clock)
        self.store = KVStore(self.kv, url="memory://", namespace="n", clock=clock, limits=StoreLimits())
        self.keys = Keys("n")
        self.make = Factory(clock)
        self.entries = [
            Put(f"{self.keys.due}@/{1:018d}/stripe", b"\xc1"),
            Put(self.keys.head(f"{self.keys.due}@/"), f"{1:018d}".encode()),
            Put(f"n/clock/{1:018d}/stripe", b"\xc1"),
        ]

    async def join(self) -> Peer:
        return await Peer(store=self.store, info=self.make.node(), make=self.make).join()

    async def kept(self) -> bool:
        found = await self.kv.get([entry.key for entry in self.entries])
        return [None if entry is None else entry.value for entry in found] == [entry.value for entry in self.entries]


@pytest.fixture
async def bench(clock: VirtualClock) -> Bench:
    bench = Bench(clock)
    await bench.store.open()
    await bench.kv.txn([Transaction([], bench.entries)])
    return bench


async def test_they_hide_nothing_that_falls_due(bench: Bench, clock: VirtualClock) -> None:
    peer = await bench.join()
    claimed = await peer.claim()
    assert (claimed.claims, claimed.next_due_us) == ((), None)
    (soon,) = bench.make.instances(1, delay_us=60_000_000)
    await bench.store.enqueue([soon])
    soon_us = clock.time_us() + 60_000_000
    hints = await clock.run(bench.store.next_hints(peer.incarnation, 1))
    assert [hint.what for hint in hints] == ["work"]
    assert (await peer.claim()).next_due_us == soon_us
    await clock.advance(61)
    assert await bench.store.due() == {"work": 1}
    assert [claim.id for claim in await peer.take()] == [soon.id]
    assert await bench.kept()


async def test_they_count_nowhere_and_no_clearing_removes_them(bench: Bench) -> None:
    await bench.store.enqueue(bench.make.instances(3, delay_us=60_000_000))
    bench.store._context.counts.in_doubt = True  # pyright: ignore[reportPrivateUsage]  # so that counters are compared
    health = await bench.store.health()
    assert (health.delayed, health.undecodable) == (3, 0)
    await bench.store.clear()
    assert (await bench.store.health()).delayed == 0
    assert await bench.kept()
    (left,) = await bench.kv.read([Range(bench.keys.state, prefix_end(bench.keys.state))])
    assert all(entry.value == b"" for _, entry in left.items)


@pytest.mark.parametrize("change", ["put", "fire"])
async def test_a_change_of_a_schedule_keeps_its_later_fields(bench: Bench, change: str) -> None:
    store, kv, later = bench.store, bench.kv, msgspec.Raw(encode({"later": 1}))
    row = await store.put_schedule(SchedulePut(name="s", kind="work", definition=b"", next_us=1))
    assert row is not None
    keys = [bench.keys.schedule("s"), bench.keys.next_fire("s")]
    decoders: tuple[Callable[[bytes], Any], ...] = (decode_schedule, decode_next_fire)
    parts = [*zip(keys, decoders, strict=True)]
    for key, decode in parts:
        (entry,) = await kv.get([key])
        assert entry is not None
        await kv.txn([Transaction([], [Put(key, encode(msgspec.structs.replace(decode(entry.value), extra=later)))])])
    if change == "put":
        put = SchedulePut(
            name="s", kind="other", definition=b"", next_us=2, expected=row.revision, expected_next_us=row.next_us
        )
        assert await store.put_schedule(put) is not None
    else:
        fire = Fire(
            schedule="s", revision=row.revision, nominal_us=1, outcome=FireOutcome.MISSED, request="r", next_us=2
        )
        await store.fire([fire], term=None)
    for key, decode in parts:
        (entry,) = await kv.get([key])
        assert entry is not None
        assert decode(entry.value).extra == later
    (after,) = await store.get_schedules(["s"])
    assert after is not None
    assert after.next_us == 2
