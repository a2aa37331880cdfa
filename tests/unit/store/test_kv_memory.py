"""The memory driver keeps the protocol that the engine needs."""

import asyncio
import uuid

import pytest

from peerjob.model.clock import SystemClock
from peerjob.model.errors import OptionError, StoreFullError
from peerjob.model.record import StoreLimits
from peerjob.store.kv.format.base import Compare, Delete, Found, Put, Range, Transaction
from peerjob.store.memory.data import MemoryData
from peerjob.store.memory.driver import MemoryKeyValue, memory_store
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import Factory, Peer


@pytest.fixture
def kv(clock: VirtualClock) -> MemoryKeyValue:
    return MemoryKeyValue(MemoryData(), clock)


def put(key: str, value: bytes = b"", *, lease: int = 0, only_if: Compare | None = None) -> Transaction:
    return Transaction([] if only_if is None else [only_if], [Put(key, value, lease)])


def keys_of(found: Found) -> list[str]:
    return [key for key, _ in found.items]


async def test_a_step_whose_compare_fails_does_not_stop_the_others(kv: MemoryKeyValue) -> None:
    await kv.txn([put("n/a/taken")])
    applied = await kv.txn([put("n/a/1"), put("n/a/2", only_if=Compare("n/a/taken")), put("n/a/3")])
    assert [answer is not None for answer in applied.answers] == [True, False, True]
    (found,) = await kv.read([Range("n/a/", "n/a0")])
    assert keys_of(found) == ["n/a/1", "n/a/3", "n/a/taken"]


async def test_compares_see_the_state_before_the_transaction(kv: MemoryKeyValue) -> None:
    applied = await kv.txn(
        [put("n/a/1"), put("n/a/2", only_if=Compare("n/a/1")), Transaction([Compare("n/a/1", mod=1)], [])]
    )
    assert [answer is not None for answer in applied.answers] == [True, True, False]


async def test_also_needs_every_step(kv: MemoryKeyValue) -> None:
    along = Transaction([], [Put("n/b/count", b"1")], [Range("n/b/count")])
    await kv.txn([put("n/a/1")])
    refused = await kv.txn([put("n/a/2"), put("n/a/1", only_if=Compare("n/a/1"))], along)
    assert refused.also is None
    accepted = await kv.txn([put("n/a/3")], along)
    assert accepted.also is not None
    assert keys_of(accepted.also[0]) == ["n/b/count"]
    refused = await kv.txn([put("n/a/4")], Transaction([Compare("n/b/count")], []))
    assert (refused.answers[0] is not None, refused.also) == (True, None)


async def test_nothing_is_applied_where_a_guard_does_not_hold(kv: MemoryKeyValue) -> None:
    await kv.txn([put("n/a/taken")])
    along = Transaction([], [Put("n/b/count", b"1")])
    refused = await kv.txn([put("n/a/1"), put("n/a/2")], along, [Compare("n/a/free"), Compare("n/a/taken")])
    assert (refused.answers, refused.also) == ([None, None], None)
    accepted = await kv.txn([put("n/a/3")], along, [Compare("n/a/free")])
    assert accepted.also is not None
    (found,) = await kv.read([Range("n/a/", "n/a0")])
    assert keys_of(found) == ["n/a/3", "n/a/taken"]


async def test_revisions_only_grow_and_are_compared(kv: MemoryKeyValue) -> None:
    first = await kv.txn([put("n/a/1", b"x")])
    second = await kv.txn([put("n/a/1", b"y", only_if=Compare("n/a/1", mod=first.revision))])
    third = await kv.txn([put("n/a/1", b"z", only_if=Compare("n/a/1", mod=first.revision))])
    assert second.revision > first.revision
    assert third.answers == [None]
    (entry,) = await kv.get(["n/a/1"])
    assert entry is not None
    assert (entry.value, entry.mod) == (b"y", second.revision)


async def test_a_value_is_compared_with_a_text(kv: MemoryKeyValue) -> None:
    await kv.txn([put("n/head/q", b"0005")])
    for below, holds in [("0006", True), ("0005", False), ("0004", False), ("00051", True)]:
        applied = await kv.txn([Transaction([Compare("n/head/q", below=below)], [])])
        assert (applied.answers[0] is not None) is holds, below
    applied = await kv.txn([Transaction([Compare("n/head/absent", below="9")], [])])
    assert applied.answers == [None]


async def test_a_stretch_is_compared_with_nothing(kv: MemoryKeyValue) -> None:
    await kv.txn([put("n/q/5")])
    for start, end, holds in [("n/q/", "n/q/5", True), ("n/q/5", "n/q/6", False), ("n/q/6", "n/q0", True)]:
        applied = await kv.txn([Transaction([Compare(start, end=end)], [])])
        assert (applied.answers[0] is not None) is holds, start


async def test_ranges_are_in_order_bounded_and_counted(kv: MemoryKeyValue) -> None:
    await kv.txn([put(f"n/a/{number:02d}") for number in (7, 3, 9, 1, 5)])
    await kv.txn([Transaction([], [Delete("n/a/05")])])
    await kv.txn([put("n/a-b/00"), put("n/b/00")])
    up, down, some, everything, none = await kv.read(
        [
            Range("n/a/", "n/a0"),
            Range("n/a/", "n/a0", reverse=True),
            Range("n/a/02", "n/a/09", limit=1),
            Range("n/", "n0"),
            Range("n/c/", "n/c0"),
        ]
    )
    assert keys_of(up) == ["n/a/01", "n/a/03", "n/a/07", "n/a/09"]
    assert keys_of(down) == keys_of(up)[::-1]
    assert (keys_of(some), some.count) == (["n/a/03"], 2)
    assert keys_of(everything) == ["n/a-b/00", *keys_of(up), "n/b/00"]
    assert (keys_of(none), none.count) == ([], 0)


async def test_a_range_is_removed_as_a_whole(kv: MemoryKeyValue) -> None:
    await kv.txn([put(f"n/a/{number}") for number in range(5)])
    await kv.txn([Transaction([], [Delete("n/a/1", "n/a/4")])])
    (found,) = await kv.read([Range("n/a/", "n/a0")])
    assert keys_of(found) == ["n/a/0", "n/a/4"]


async def test_a_lease_takes_its_keys_along(kv: MemoryKeyValue, clock: VirtualClock) -> None:
    lease = await kv.grant(5_000_000)
    await kv.txn([put("n/live/a", lease=lease), put("n/live/b", lease=lease), put("n/live/c")])
    await kv.txn([put("n/live/b")])
    await clock.advance(4)
    assert await kv.remaining([lease]) == [1_000_000]
    assert await kv.keepalive(lease)
    await clock.advance(4.9)
    (found,) = await kv.read([Range("n/live/", "n/live0")])
    assert keys_of(found) == ["n/live/a", "n/live/b", "n/live/c"]
    await clock.advance(0.1)
    (found,) = await kv.read([Range("n/live/", "n/live0")])
    assert keys_of(found) == ["n/live/b", "n/live/c"]
    assert not await kv.keepalive(lease)
    assert await kv.remaining([lease]) == [0]


async def test_a_revoked_lease_takes_its_keys_along(kv: MemoryKeyValue) -> None:
    lease = await kv.grant(5_000_000)
    await kv.txn([put("n/live/a", lease=lease)])
    await kv.revoke(lease)
    assert await kv.get(["n/live/a"]) == [None]


async def test_a_watch_reports_keys_that_were_put(kv: MemoryKeyValue, clock: VirtualClock) -> None:
    watch = kv.watch("n/hint/a/")
    await kv.txn([put("n/hint/a/work/"), put("n/hint/ab/work/")])
    await kv.txn([put("n/hint/a/work/"), put("n/hint/a/final/1")])
    assert list(await watch.changed(0) or ()) == ["n/hint/a/work/", "n/hint/a/final/1"]
    assert await clock.run(watch.changed(10)) == {}

    waiting = asyncio.ensure_future(watch.changed(0.5))
    await clock.settle()
    await kv.txn([put("n/hint/a/work/")])
    await clock.settle()
    assert waiting.done()
    assert waiting.result() == {"n/hint/a/work/": b""}
    watch.close()
    await kv.txn([put("n/hint/a/work/")])
    assert await watch.changed(0) == {}


async def test_another_thread_wakes_a_loop(clock: VirtualClock) -> None:
    data = MemoryData()
    watch = MemoryKeyValue(data, clock).watch("n/hint/a/")
    waiting = asyncio.ensure_future(watch.changed(3600))
    await clock.settle()
    assert not waiting.done()

    def write() -> None:
        asyncio.run(write_from_elsewhere(data))

    await asyncio.to_thread(write)
    assert await waiting == {"n/hint/a/work/": b""}


async def test_a_watch_of_a_loop_that_ended_is_no_harm() -> None:
    data = MemoryData()

    async def wait_for_ever() -> None:
        watch = MemoryKeyValue(data, SystemClock()).watch("n/hint/a/")
        self_cancelling = asyncio.ensure_future(watch.changed(3600))
        await asyncio.sleep(0)
        assert not self_cancelling.done()

    await asyncio.to_thread(lambda: asyncio.run(wait_for_ever()))
    assert await write_from_elsewhere(data) == 1


async def write_from_elsewhere(data: MemoryData) -> int:
    applied = await MemoryKeyValue(data, SystemClock()).txn([put("n/hint/a/work/")])
    return applied.revision


async def test_names_share_and_no_name_does_not(clock: VirtualClock, namespace: str) -> None:
    make = Factory(clock)
    (new,) = make.instances(1)
    url = f"memory://{uuid.uuid4().hex}"
    first, second = (memory_store(url, namespace=namespace, clock=clock, limits=StoreLimits()) for _ in range(2))
    await first.enqueue([new])
    await first.close()
    assert (await second.get([new.id]))[0] is not None
    assert first.local_objects is second.local_objects

    private = memory_store("memory://", namespace=namespace, clock=clock, limits=StoreLimits())
    assert await private.get([new.id]) == [None]
    assert private.local_objects is not first.local_objects


async def test_a_full_store_refuses_new_instances_and_completes_the_others(clock: VirtualClock, namespace: str) -> None:
    make = Factory(clock)
    store = memory_store("memory://?max_keys=100", namespace=namespace, clock=clock, limits=StoreLimits())
    peer = await Peer(store=store, info=make.node(), make=make).join()

    async def fill() -> None:
        for _ in range(100):
            await store.enqueue(make.instances(1))

    with pytest.raises(StoreFullError):
        await fill()
    before = await store.health()
    claims = await peer.take()
    for claim in claims:
        assert await peer.end(claim) == "done"
    assert sum(before.counts["work"].values()) == len(claims)


@pytest.mark.parametrize(("keys", "full"), [(7, False), (8, True), (9, True)])
async def test_a_store_is_full_from_four_fifths_of_its_keys_on(clock: VirtualClock, keys: int, full: bool) -> None:
    kv = MemoryKeyValue(MemoryData(max_keys=10), clock)
    await kv.txn([put(f"n/a/{number}") for number in range(keys)])
    assert kv.full is full


def test_an_unknown_option_is_refused(clock: VirtualClock) -> None:
    with pytest.raises(OptionError, match="max_keys"):
        memory_store("memory://x?size=3", namespace="n", clock=clock, limits=StoreLimits())


async def test_a_range_over_the_namespace_is_in_the_order_of_keys(kv: MemoryKeyValue) -> None:
    keys = ["n/a/1", "n/a/2", "n/b", "n/b/1", "n/b0", "n/c/1"]
    await kv.txn([put(key) for key in reversed(keys)])
    (found,) = await kv.read([Range("n/", "n0")])
    assert keys_of(found) == keys
    (last,) = await kv.read([Range("n/", "n0", limit=3, reverse=True)])
    assert keys_of(last) == keys[:-4:-1]
