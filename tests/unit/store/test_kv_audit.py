"""The audit log of the key-value engine is a ring: it keeps no key of a record that it dropped."""

from peerjob.model.audit import MAX_AUDIT, AuditRecord
from peerjob.model.record import StoreLimits
from peerjob.store.kv.format.keys import below
from peerjob.store.kv.store import KVStore
from peerjob.store.memory.driver import MemoryKeyValue
from peerjob.testing.clock import VirtualClock
from support.etcd_model import EtcdData


async def test_a_record_takes_the_key_of_the_one_that_it_replaces(clock: VirtualClock) -> None:
    kv = MemoryKeyValue(EtcdData(), clock)
    store = KVStore(kv, url="memory://", namespace="n", clock=clock, limits=StoreLimits())
    await store.open()
    for first in range(0, MAX_AUDIT * 2, 500):
        await store.add_audit(
            [AuditRecord(id=str(one), at_us=one, principal="ci", verb="Clear") for one in range(first, first + 500)]
        )

    (found,) = await kv.read([below("n/audit/")])
    assert found.count == MAX_AUDIT + 1, "the records and their counter"
    assert [one.at_us for one in await store.audit(2)] == [MAX_AUDIT * 2 - 1, MAX_AUDIT * 2 - 2]
    await store.close()
