"""Into how many requests a batch of changes is cut, and that etcd accepts each of them."""

from random import Random

import pytest

from peerjob.model.record import StoreLimits
from peerjob.store.kv.format.base import MAX_TRANSACTION_OPS, MAX_TRANSACTIONS, Compare, Put, Range
from peerjob.store.kv.format.keys import timed
from peerjob.store.kv.index.counts import READY
from peerjob.store.kv.store import KVStore
from peerjob.store.kv.write.request_parts import cut
from peerjob.store.kv.write.transaction_plan import Change
from peerjob.store.memory.driver import MemoryKeyValue
from peerjob.testing.clock import VirtualClock
from support.etcd_model import EtcdData


def change(number: int, *, compares: int, ops: int = 3, queue: str = "", kind: str = "k", ends: bool = False) -> Change:
    """A change that writes keys of its own, and adds an entry to a queue if one is named."""
    adds = ((queue, timed(1_000 + number, f"{number:036}")),) if queue else ()
    return Change(
        [Compare(f"n/compared/{number}/{at}") for at in range(compares)],
        [Put(f"n/written/{number}/{at}", b"") for at in range(ops)],
        shifts=((kind, READY, 1),),
        adds=adds,
        ended=(f"{number:036}",) if ends else (),
    )


@pytest.mark.parametrize(
    ("compares", "guards", "ends", "most"),
    [(1, 0, False, 96), (1, 10, False, 86), (1, 30, False, 59), (2, 0, False, 48), (1, 0, True, 59)],
    ids=["plain", "guarded", "many guards", "with keys", "ends"],
)
def test_a_request_of_few_compares_has_more_transactions(compares: int, guards: int, ends: bool, most: int) -> None:
    changes = [change(number, compares=compares, queue="q", ends=ends) for number in range(200)]
    parts = list(cut(changes, guards=guards, beside=0))
    assert [one for part in parts for one in part] == changes
    assert {len(part) for part in parts[:-1]} == {most}


@pytest.mark.parametrize("seed", range(60))
async def test_etcd_accepts_each_request_of_a_batch(clock: VirtualClock, seed: int) -> None:
    random = Random(seed)
    store = KVStore(
        MemoryKeyValue(EtcdData(), clock), url="memory://", namespace="n", clock=clock, limits=StoreLimits()
    )
    await store.open()
    keys = store._writer._keys  # pyright: ignore[reportPrivateUsage]
    compares, kinds = random.choice([1, 1, 2, 5, 20]), random.choice([1, 2, 9, 70])
    priorities = random.choice([0, 1, 5])
    ops, ends = random.choice([1, 3, MAX_TRANSACTION_OPS, MAX_TRANSACTION_OPS + 1]), random.choice([0.0, 0.1, 1.0])
    changes = [
        change(
            number,
            compares=random.randint(0, compares),
            ops=random.randint(1, ops),
            queue=keys.ready(f"k{number % kinds}", number % priorities, suspect=False) if priorities else "",
            kind=f"k{number % kinds}",
            ends=random.random() < ends,
        )
        for number in range(4 * MAX_TRANSACTIONS)
    ]
    # only the changes of an enqueue have guards, and an enqueue has few compares
    guards = [Compare(f"n/guard/{number}") for number in range(random.choice([0, 3, 20]) if compares <= 2 else 0)]
    reads = [Range(f"n/read/{number}") for number in range(random.choice([0, 1, 20]))]
    written = await store._writer.write(changes, guards=guards, reads=reads)  # pyright: ignore[reportPrivateUsage]
    assert all(written.revisions)
