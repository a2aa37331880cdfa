"""The settling of ends on the key-value engine: how many transactions it sends at the same time."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from peerjob.model.durable import Need, Wait
from peerjob.model.record import Ack, Held, NewChild
from peerjob.store.kv.format.base import Applied, Delete, Transaction
from peerjob.store.memory.driver import MemoryKeyValue
from peerjob.store.rules import FLOWS_LAYOUT
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import outcome
from support.interleaving import Scene


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
