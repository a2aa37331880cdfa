"""A flipped bit in what a record has about a wait: the instance goes on or is set aside, and strands no other one."""

import random  # which bit of each byte is flipped
import re
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import redis

from peerjob.model.clock import SystemClock
from peerjob.model.durable import Need, Wait
from peerjob.model.record import Ack, Action, Held, NewChild, StoreLimits
from peerjob.store.base import Store
from peerjob.store.drivers import open_store
from peerjob.store.kv.format.base import Put, Transaction
from peerjob.store.kv.store import KVStore
from peerjob.store.rules import FLOWS_LAYOUT
from peerjob.testing.factories import Factory, Peer, outcome

NEEDS = Wait(needs=True)


class Records:
    """The stored records of a namespace, beside the store."""

    def __init__(self, store: Store, url: str, namespace: str) -> None:
        self._store, self._namespace = store, namespace
        self._client = None if isinstance(store, KVStore) else cast("Any", redis.Redis.from_url(url))

    async def change(self, id: str, make: Callable[[bytes], bytes]) -> None:
        """Replace the bytes of a record."""
        if isinstance(self._store, KVStore):
            kv = self._store._context.kv  # pyright: ignore[reportPrivateUsage]
            key = self._store._context.keys.state + id  # pyright: ignore[reportPrivateUsage]
            (entry,) = await kv.get([key])
            assert entry is not None
            await kv.txn([Transaction([], [Put(key, make(entry.value))])])
            self._store._context.uncache([id])  # pyright: ignore[reportPrivateUsage]
            return
        assert self._client is not None
        (key,) = self._client.keys(f"*{self._namespace}}}:i:{id}")
        self._client.set(key, make(self._client.get(key)))


def begin_of(record: bytes) -> int:
    """Where the thread begins: on Redis it is the tail, in a row the last map."""
    found = [match.start() for match in re.finditer(rb"\x01\x00|\xa6thread", record)]
    return max(place for place in found if record[place] == 0xA6 or len(record) - place == record[place + 2] + 3)


def flipped(chance: random.Random, place: int) -> Callable[[bytes], bytes]:
    """One bit of the byte at a place of the thread is another one."""

    def make(record: bytes) -> bytes:
        at = min(begin_of(record) + place, len(record) - 1)
        return record[:at] + bytes([record[at] ^ (1 << chance.randrange(8))]) + record[at + 1 :]

    return make


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "url", ["redis_url", pytest.param("etcd_url", marks=pytest.mark.matrix("as memory://")), "memory"], indirect=False
)
async def test_a_flipped_bit_lets_nothing_wait_for_ever(
    url: str, namespace: str, request: pytest.FixtureRequest
) -> None:
    address = "memory://" if url == "memory" else str(request.getfixturevalue(url))
    make, chance = Factory(SystemClock()), random.Random(1)
    store = open_store(address, namespace=namespace, clock=SystemClock(), limits=StoreLimits())
    await store.open()
    await store.require_layout(FLOWS_LAYOUT, "steps")
    peer = await Peer(store=store, info=make.node("node", kinds=("work",)), make=make).join(600_000_000)
    records = Records(store, address, namespace)
    stranded: list[str] = []
    for place in range(0, 96, 2):
        for what in ("signal", "parent", "sibling"):
            await store.enqueue(make.instances(1))
            parent = await peer.take_one()
            first, second = make.instance(), make.instance()
            need = () if what != "sibling" else (Need(first.id),)
            children = [NewChild(instance=first), NewChild(instance=second, needs=need)]
            await store.spawn(peer.incarnation, Held(parent.id, parent.fence), children)
            running = {claim.id: claim for claim in await peer.take()}
            victim = second.id if what == "sibling" else parent.id
            if what == "signal":
                assert await peer.suspend(parent, Wait(signals=("approval",))) is Ack.DONE
            elif what == "parent":
                needs = (Need(first.id), Need(second.id))
                assert await peer.suspend(parent, NEEDS, needs=needs) is Ack.DONE
            await records.change(victim, flipped(chance, place))
            if what == "signal":
                await store.signal(victim, "approval", b"yes")
            for claim in running.values():
                # the children of a parent that is set aside are cancelled
                assert await peer.end(claim) in (Ack.DONE, Ack.CANCELLED)
            while await store.settle():
                pass
            taken = {claim.id for claim in await peer.take()}
            (record,) = await store.get([victim])
            if victim not in taken and record is not None and not record.state.is_final:
                stranded.append(f"{what} {place}")
            await store.clear()
    await store.close()
    assert stranded == []


@pytest.mark.parametrize("url", ["memory", pytest.param("etcd_url", marks=pytest.mark.matrix("as memory://"))])
async def test_a_damaged_need_lets_nothing_wait_for_ever(
    url: str, namespace: str, request: pytest.FixtureRequest
) -> None:
    """Each bit of a need of a parent, and of one of a sibling, with a child that completes and with one that fails."""
    address = "memory://" if url == "memory" else str(request.getfixturevalue(url))
    make = Factory(SystemClock())
    store = open_store(address, namespace=namespace, clock=SystemClock(), limits=StoreLimits())
    assert isinstance(store, KVStore)
    await store.open()
    await store.require_layout(FLOWS_LAYOUT, "steps")
    context = store._context  # pyright: ignore[reportPrivateUsage]
    peer = await Peer(store=store, info=make.node("node", kinds=("work",)), make=make).join(600_000_000)
    wrong: list[str] = []
    for number in range(24 * 4):
        bit, completes, of_parent = number // 4, number % 2 == 0, number % 4 < 2
        await store.enqueue(make.instances(1))
        parent = await peer.take_one()
        first, second = make.instance(), make.instance()
        children = [NewChild(instance=first), NewChild(instance=second, needs=(Need(first.id, "completed"),))]
        await store.spawn(peer.incarnation, Held(parent.id, parent.fence), children)
        (claim,) = await peer.take()
        needs = (Need(first.id),) if of_parent else (Need(first.id), Need(second.id))
        assert await peer.suspend(parent, NEEDS, needs=needs) is Ack.DONE
        key = context.keys.edges(first.id) + (parent.id if of_parent else second.id)
        (entry,) = await context.kv.get([key])
        assert entry is not None
        if bit < 8 * len(entry.value):
            value = bytearray(entry.value)
            value[bit // 8] ^= 1 << bit % 8
            await context.kv.txn([Transaction([], [Put(key, bytes(value))])])
        assert await peer.end(claim, Action.COMPLETE if completes else Action.TERMINATE) is Ack.DONE
        while await store.settle():
            pass
        taken = {claim.id for claim in await peer.take()}
        records = {record.id: record for record in await store.get([parent.id, second.id]) if record is not None}
        if of_parent and parent.id not in taken and not records[parent.id].state.is_final:
            wrong.append(f"parent, bit {bit}")
        if not of_parent and second.id not in taken and not records[second.id].state.is_final:
            wrong.append(f"sibling, bit {bit}, completes {completes}")
        if second.id in taken and not completes and of_parent:
            wrong.append(f"a sibling of a child that failed runs, bit {bit}")
        await store.clear()
    await store.close()
    assert wrong == []


def damages_of(member: bytes) -> Iterator[bytes]:
    """What can become of an edge on Redis, whose fence is behind 37 bytes."""
    yield from (b"", b"\xff\xfe" + member[2:], member[:20], member[:37], b"9" * 400)
    for place in range(len(member)):
        damaged = member[:place] + bytes([member[place] ^ (1 << place % 7)]) + member[place + 1 :]
        is_lower = place >= 37 and damaged[37:].isdigit() and int(damaged[37:]) < int(member[37:])
        # a lower fence looks like that of an earlier wait
        yield member + b"0" if is_lower else damaged


@pytest.mark.parametrize("of_parent", [True, False])
@pytest.mark.parametrize("completes", [True, False])
async def test_a_damaged_edge_lets_nothing_wait_for_ever(
    redis_url: str, namespace: str, of_parent: bool, completes: bool
) -> None:
    """An edge of a parent, and one of a sibling, beside another edge, and beside instances that wait for others."""
    make, server = Factory(SystemClock()), cast("Any", redis.Redis.from_url(redis_url))
    store = open_store(redis_url, namespace=namespace, clock=SystemClock(), limits=StoreLimits())
    await store.open()
    await store.require_layout(FLOWS_LAYOUT, "steps")
    peer = await Peer(store=store, info=make.node("node", kinds=("work",)), make=make).join(600_000_000)
    wrong: list[str] = []

    async def play(choose: int) -> int:
        await store.enqueue(make.instances(1))
        parent = await peer.take_one()
        first, second, third, fourth = made = make.instances(4)
        needs = {second: first, fourth: third}
        children = [
            NewChild(instance=one, needs=(Need(needs[one].id, "completed"),) if one in needs else ()) for one in made
        ]
        await store.spawn(peer.incarnation, Held(parent.id, parent.fence), children)
        claims = {claim.id: claim for claim in await peer.take(2)}
        assert await peer.suspend(parent, NEEDS, needs=(Need(first.id),)) is Ack.DONE
        victim = parent if of_parent else second
        (key,) = server.keys(f"*{namespace}}}:d:{first.id}")
        (member,) = [one for one in server.zrange(key, 0, -1) if one.startswith(victim.id.encode())]
        damages = list(damages_of(member))
        server.zrem(key, member)
        server.zadd(key, {damages[choose]: 0})
        assert await peer.end(claims[first.id], Action.COMPLETE if completes else Action.TERMINATE) is Ack.DONE
        while await store.settle():
            pass
        taken = {claim.id for claim in await peer.take()}
        records = {record.id: record for record in await store.get([second.id, fourth.id]) if record is not None}
        if parent.id not in taken:
            wrong.append(f"{damages[choose]!r}: the parent waits")
        if (second.id in taken) != completes or records[second.id].state.is_final == completes:
            wrong.append(f"{damages[choose]!r}: the sibling is {records[second.id].state}")
        if fourth.id in taken or records[fourth.id].state.is_final:
            wrong.append(f"{damages[choose]!r}: one that waits for another child is {records[fourth.id].state}")
        await store.clear()
        return len(damages)

    number, count = 0, 1
    while number < count:
        count = await play(number)
        number += 1
    await store.close()
    server.close()
    assert wrong == []


async def test_two_damaged_edges_of_one_commit_end_one_need_each(redis_url: str, namespace: str) -> None:
    make, server = Factory(SystemClock()), cast("Any", redis.Redis.from_url(redis_url))
    store = open_store(redis_url, namespace=namespace, clock=SystemClock(), limits=StoreLimits())
    await store.open()
    await store.require_layout(FLOWS_LAYOUT, "steps")
    peer = await Peer(store=store, info=make.node("node", kinds=("work",)), make=make).join(600_000_000)
    await store.enqueue(make.instances(1))
    parent = await peer.take_one()
    needed = make.instances(3)
    waiting = make.instances(2)
    needs = ((needed[0], needed[2]), (needed[1],))
    children = [NewChild(instance=one) for one in needed]
    for one, wanted in zip(waiting, needs, strict=True):
        children.append(NewChild(instance=one, needs=tuple(Need(other.id) for other in wanted)))
    await store.spawn(peer.incarnation, Held(parent.id, parent.fence), children)
    claims = {claim.id: claim for claim in await peer.take(3)}
    for one in needed[:2]:
        (key,) = server.keys(f"*{namespace}}}:d:{one.id}")
        server.delete(key)
        server.zadd(key, {b"damaged": 0})
    await peer.commit(*(outcome(claims[one.id]) for one in needed[:2]))
    while await store.settle():
        pass
    assert [claim.id for claim in await peer.take()] == [waiting[1].id]
    await peer.end(claims[needed[2].id])
    assert [claim.id for claim in await peer.take()] == [waiting[0].id]
    await store.close()
    server.close()
