"""Threads without an event loop on the key-value engine: what they leave to the event loop."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from peerjob.model.errors import StoreUnavailableError
from peerjob.model.record import Enqueued, StoreLimits
from peerjob.store.kv.format.base import Applied, Compare, Transaction
from peerjob.store.kv.store import KVStore
from peerjob.store.memory.data import MemoryData
from peerjob.store.memory.driver import MemoryKeyValue
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import Factory

_CLOCK = VirtualClock()


class Blocking(MemoryKeyValue):
    """The data of another store. A call in memory never suspends, as a call that blocks its thread."""

    lose_next = False
    """Whether the answer to the next transaction is lost."""
    entered: threading.Event | None = None
    leave = threading.Event()

    async def txn(
        self, transactions: Sequence[Transaction], also: Transaction | None = None, guards: Sequence[Compare] = ()
    ) -> Applied:
        if self.entered is not None:
            self.entered.set()
            self.leave.wait(10)
        applied = await super().txn(transactions, also, guards)
        if self.lose_next and also is not None:
            self.lose_next = False
            raise StoreUnavailableError("memory://", "the answer was lost")
        return applied


@pytest.fixture
def kv() -> Blocking:
    return Blocking(MemoryData(), _CLOCK)


@pytest.fixture
async def store(kv: Blocking) -> KVStore:
    data: Any = kv
    store = KVStore(
        MemoryKeyValue(data._data, _CLOCK),
        url="memory://",
        namespace="n",
        clock=_CLOCK,
        limits=StoreLimits(),
        retry_for=30,
        blocking=kv,
    )
    await store.open()
    return store


async def test_a_lost_answer_is_an_error_at_once_and_leads_to_a_recount(store: KVStore, kv: Blocking) -> None:
    calls, make, own = store.direct_calls(), Factory(_CLOCK), store._context.counts  # pyright: ignore[reportPrivateUsage]
    assert calls is not None
    (first, second) = make.instances(2)
    assert calls.enqueue([first]) == [Enqueued(first.id, True)]
    assert not own.in_doubt
    kv.lose_next = True
    with pytest.raises(StoreUnavailableError):
        calls.enqueue([second])
    assert own.in_doubt
    own.in_doubt = False
    assert calls.enqueue([second]) == [Enqueued(second.id, True, repeated=True)]
    assert not own.in_doubt, "told once"


async def test_a_call_of_another_thread_waits_for_none(store: KVStore, kv: Blocking) -> None:
    calls, make = store.direct_calls(), Factory(_CLOCK)
    assert calls is not None
    first, second, third = make.instances(3)
    kv.entered = entered = threading.Event()
    kv.leave.clear()
    thread = threading.Thread(target=calls.enqueue, args=([first],))
    thread.start()
    try:
        assert entered.wait(10)
        kv.entered = None
        assert [one.is_new for one in calls.enqueue([second, third])] == [True, True]
    finally:
        kv.leave.set()
        thread.join()
    assert [one and one.id for one in await store.get([first.id, second.id, third.id])] == [
        first.id,
        second.id,
        third.id,
    ]
