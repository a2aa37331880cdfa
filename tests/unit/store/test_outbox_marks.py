"""Instances of an outbox are remembered for a day after their removal, on virtual time; others for two minutes."""

from typing import TypeVar

import pytest
from msgspec import structs

from peerjob.model.ids import OUTBOX_MARK, OutboxIdSource, is_outbox_id
from peerjob.model.query import Filter
from peerjob.model.record import Enqueued, NewInstance, StoreLimits
from peerjob.model.repeats import OUTBOX_REPEAT_US, REPEAT_US, repeat_us
from peerjob.store.base import Store
from peerjob.store.kv.store import KVStore
from peerjob.store.memory.driver import MemoryKeyValue
from peerjob.store.reference.store import ReferenceData, ReferenceStore
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import Factory, Peer
from support.etcd_model import EtcdData

T = TypeVar("T")

DAY = 86_400.0


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture(params=["kv", "reference"])
def store(request: pytest.FixtureRequest, clock: VirtualClock) -> Store:
    limits = StoreLimits(retention_us=1_000_000)
    if request.param == "reference":
        return ReferenceStore(ReferenceData(), clock=clock, limits=limits, namespace="n")
    kv = MemoryKeyValue(EtcdData(), clock)
    return KVStore(kv, url="memory://", namespace="n", clock=clock, limits=limits, retry_for=0)


@pytest.mark.parametrize("by_clear", [False, True])
async def test_a_removed_instance_of_an_outbox_is_known_for_a_day(
    store: Store, clock: VirtualClock, *, by_clear: bool
) -> None:
    make, ids = Factory(clock), OutboxIdSource(clock)
    rows = [structs.replace(new, id=ids.one()) for new in make.instances(3)]
    plain = make.instance()
    peer = await Peer(store=store, info=make.node(), make=make).join(int(3 * DAY * 1_000_000))
    await store.enqueue([*rows, plain])
    for claim in await peer.take():
        await peer.end(claim)
    await clock.advance(2)
    while await (store.clear_instances(Filter()) if by_clear else store.expire(100)):
        pass

    async def added(*batch: NewInstance) -> list[Enqueued]:
        return await store.enqueue(batch)

    for seconds in (60, REPEAT_US / 1_000_000 + 100, DAY - 800):
        await clock.advance(seconds)
        assert await added(*rows) == [Enqueued(new.id, True, repeated=True) for new in rows]
    assert await added(plain) == [Enqueued(plain.id, True)]
    await clock.advance(800)
    assert await added(rows[0]) == [Enqueued(rows[0].id, True)]


def test_ids_of_an_outbox_ascend_and_have_the_mark() -> None:
    clock = VirtualClock()
    ids = OutboxIdSource(clock)
    made = [ids.one() for _ in range(5_000)]
    assert made == sorted(set(made))
    assert all(is_outbox_id(id) and id[24:29] == OUTBOX_MARK and id[14] == "7" for id in made)
    assert not is_outbox_id("00000000-0000-7000-8000-000000000000")
    assert repeat_us(made[0]) == OUTBOX_REPEAT_US > repeat_us(made[0].replace(OUTBOX_MARK, "00000"))
