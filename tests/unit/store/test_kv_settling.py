"""The settling of ends on the key-value engine: how many transactions it sends at the same time."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from peerjob.model.durable import Need, Wait
from peerjob.model.query import Filter
from peerjob.model.record import Ack, Held, NewChild, NewInstance
from peerjob.store.kv.format.base import Applied, Delete, Transaction
from peerjob.store.kv.format.keys import Keys
from peerjob.store.kv.format.rows import decode_row
from peerjob.store.kv.format.thread_rows import is_held
from peerjob.store.memory.driver import MemoryKeyValue
from peerjob.store.rules import FLOWS_LAYOUT
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import Peer, outcome
from support.interleaving import Call, Scene, everywhere


async def test_the_ends_of_one_commit_are_settled_in_transactions_at_the_same_time(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(clock)
    await scene.other.require_layout(FLOWS_LAYOUT, "steps")
    node, children = await scene.join(scene.other), [NewChild(instance=new) for new in scene.make.instances(62)]
    await scene.add(scene.other, scene.make.instance())
    parent = await node.take_one()
    await scene.other.spawn(node.incarnation, Held(parent.id, parent.fence), children)
    first, *others, last = await node.take(62)
    needs = tuple(Need(new.instance.id) for new in children)
    assert await node.suspend(parent, Wait(needs=True), needs=needs) is Ack.DONE
    assert await node.end(first) is Ack.DONE
    running, most, txn = set[int](), list[int](), MemoryKeyValue.txn

    async def slow(self: MemoryKeyValue, transactions: Sequence[Transaction], *args: Any, **kwargs: Any) -> Applied:
        if all(isinstance(op, Delete) for one in transactions for op in one.ops):
            running.add(id(transactions))
            most.append(len(running))
            await asyncio.sleep(0)
            running.remove(id(transactions))
        return await txn(self, transactions, *args, **kwargs)

    monkeypatch.setattr(MemoryKeyValue, "txn", slow)
    assert set(await node.commit(*map(outcome, others))) == {Ack.DONE}
    assert max(most) == 2
    assert await node.take() == ()
    assert await node.end(last) is Ack.DONE
    assert [claim.id for claim in await node.take()] == [parent.id]


async def test_a_link_of_a_chain_takes_three_transactions(clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """One ends the member, one lets the next member enter its queue and removes the need, and one claims it."""
    scene = Scene(clock)
    await scene.other.require_layout(FLOWS_LAYOUT, "steps")
    node, members = await scene.join(scene.other), scene.make.instances(3)
    await scene.add(scene.other, scene.make.instance())
    parent = await node.take_one()
    await scene.other.spawn(node.incarnation, Held(parent.id, parent.fence), [new_child(members[0])])
    for before, member in pairwise(members):
        child = NewChild(instance=member, needs=(Need(before.id, "completed"),))
        await scene.other.spawn(node.incarnation, Held(parent.id, parent.fence), [child])
    claim = await node.take_one()
    writes = count_writes(monkeypatch)
    await node.end(claim)
    assert len(writes) == 2
    assert [claim.id for claim in await node.take()] == [members[1].id]
    assert len(writes) == 3
    assert (await scene.other.health()).settling == 0


async def test_the_instances_that_need_one_end_enter_their_queues_together(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(clock)
    await scene.other.require_layout(FLOWS_LAYOUT, "steps")
    node, (first, *others) = await scene.join(scene.other), scene.make.instances(91)
    await scene.add(scene.other, scene.make.instance())
    parent = await node.take_one()
    children = [new_child(first), *(NewChild(instance=new, needs=(Need(first.id),)) for new in others)]
    await scene.other.spawn(node.incarnation, Held(parent.id, parent.fence), children)
    claim = await node.take_one()
    writes = count_writes(monkeypatch)
    await node.end(claim)
    assert len(writes) <= 5, "the end, the dependants in parts, and the key of the end"
    assert {claim.id for claim in await node.take(100)} == {new.id for new in others}
    assert (await scene.other.health()).settling == 0


def count_writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of transactions of each request that writes, from now on."""
    writes, txn = list[int](), MemoryKeyValue.txn

    async def counted(self: MemoryKeyValue, transactions: Sequence[Transaction], *args: Any, **kwargs: Any) -> Applied:
        writes.append(len(transactions))
        return await txn(self, transactions, *args, **kwargs)

    monkeypatch.setattr(MemoryKeyValue, "txn", counted)
    return writes


async def test_a_child_that_comes_to_need_another_one_while_an_end_is_settled_waits_for_it(clock: VirtualClock) -> None:
    async def prepare(scene: Scene) -> tuple[Call, Call, Call]:
        for store in (scene.store, scene.other):
            await store.require_layout(FLOWS_LAYOUT, "steps")
        node = await scene.join(scene.store)
        other = Peer(store=scene.other, info=node.info, make=scene.make)
        await scene.add(scene.store, scene.make.instance())
        parent = await node.take_one()
        first, second, last = scene.make.instances(3)
        held = Held(parent.id, parent.fence)
        opened = NewChild(instance=last, needs=(Need(first.id),), more=True)
        await scene.store.spawn(node.incarnation, held, [*map(new_child, (first, second)), opened])
        scene.ids += [first.id, second.id, last.id]
        claims = {claim.id: claim for claim in await node.take()}

        async def close() -> None:
            await scene.other.spawn(node.incarnation, held, [NewChild(instance=last, needs=(Need(second.id),))])

        async def check() -> None:
            assert await other.take() == ()
            assert await other.end(claims[second.id]) is Ack.DONE
            assert [claim.id for claim in await other.take()] == [last.id]

        return lambda: node.end(claims[first.id]), close, check

    await everywhere(clock, prepare)


async def test_a_final_child_is_let_go_although_its_record_changes_meanwhile(clock: VirtualClock) -> None:
    async def prepare(scene: Scene) -> tuple[Call, Call, Call]:
        for store in (scene.store, scene.other):
            await store.require_layout(FLOWS_LAYOUT, "steps")
        node = await scene.join(scene.store)
        await scene.add(scene.store, scene.make.instance())
        parent = await node.take_one()
        (new,) = scene.make.instances(1)
        await scene.store.spawn(node.incarnation, Held(parent.id, parent.fence), [new_child(new)])
        scene.ids.append(new.id)
        await node.end(await node.take_one())

        async def change() -> None:
            await scene.other.clear_history(Filter())

        async def check() -> None:
            (entry,) = await scene.kv.get([Keys("n").state + new.id])
            assert entry is not None
            assert not is_held(decode_row(entry.value))

        return lambda: node.end(parent), change, check

    await everywhere(clock, prepare)


def new_child(instance: NewInstance) -> NewChild:
    return NewChild(instance=instance)
