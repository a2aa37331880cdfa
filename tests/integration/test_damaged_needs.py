"""Lost edges and lost ends: the leader's check of needs lets nothing wait for ever, and starts nothing too early."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest
import redis

from peerjob.model.clock import SystemClock
from peerjob.model.durable import Need, Wait
from peerjob.model.record import Ack, Action, Claim, Held, NewChild, NewInstance, Record, StoreLimits
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.store.drivers import open_store
from peerjob.store.kv.format.base import Delete, Transaction
from peerjob.store.kv.store import KVStore
from peerjob.store.lua.commands import need_checks
from peerjob.store.rules import FLOWS_LAYOUT
from peerjob.testing.factories import Factory, Peer

NEEDS = Wait(needs=True)
ENGINES = ("redis_url", "memory", pytest.param("etcd_url", marks=pytest.mark.matrix("as memory://")))


class Family:
    """A namespace with one worker, and a tool that takes what the store has about a need."""

    def __init__(self, store: Store, peer: Peer, make: Factory, server: Any, namespace: str) -> None:
        self.store, self.peer, self.make = store, peer, make
        self._server, self._namespace = server, namespace

    async def begin(self, *children: NewChild) -> Claim:
        """A running parent with these children."""
        await self.store.enqueue(self.make.instances(1))
        parent = await self.peer.take_one()
        await self.store.spawn(self.peer.incarnation, Held(parent.id, parent.fence), children)
        return parent

    async def wait_for(self, *needed: NewInstance) -> tuple[Claim, dict[str, Claim]]:
        """A parent that waits for children, and the claims of these by id."""
        parent = await self.begin(*map(child, needed))
        claims = {claim.id: claim for claim in await self.peer.take()}
        needs = tuple(Need(one.id) for one in needed)
        assert await self.peer.suspend(parent, NEEDS, needs=needs) is Ack.DONE
        return parent, claims

    async def lose_edge(self, child: NewInstance, dependant: str) -> None:
        """Take the edge that tells that an instance needs a child."""
        if isinstance(self.store, KVStore):
            await self.delete(f"for/{child.id}/{dependant}")
            return
        for member in self._server.zrange(self._key("d", child.id), 0, -1):
            if member.startswith(dependant.encode()):
                self._server.zrem(self._key("d", child.id), member)

    async def damage_edges(self, child: NewInstance) -> None:
        """Make the edges of a child unreadable, on Redis."""
        key = self._key("d", child.id)
        self._server.delete(key)
        self._server.zadd(key, {b"damaged": 0})

    async def lose_end(self, child: NewInstance) -> None:
        """Take the entry that tells that the end of a child is to be settled."""
        if isinstance(self.store, KVStore):
            await self.delete(f"settle/{child.id}/e")
            return
        (key,) = self._server.keys(f"*{self._namespace}}}:settling")
        entries = [entry for entry in self._server.zrange(key, 0, -1) if entry.startswith(b"e" + child.id.encode())]
        assert entries
        self._server.zrem(key, *entries)

    async def lose_child(self, parent: str, child: NewInstance) -> None:
        """Take a child from those that its parent holds, on Redis."""
        self._server.zrem(self._key("m", parent), child.id)
        self._server.zadd(self._key("m", parent), {b"damaged": 0})

    def _key(self, what: str, id: str) -> bytes:
        (key,) = self._server.keys(f"*{self._namespace}}}:{what}:{id}")
        return bytes(key)

    async def delete(self, key: str) -> None:
        """Take a key of the key-value engine."""
        context = cast("KVStore", self.store)._context  # pyright: ignore[reportPrivateUsage]
        full = context.keys.root + key
        assert (await context.kv.get([full]))[0] is not None
        await context.kv.txn([Transaction([], [Delete(full)])])

    async def check(self) -> int:
        """Check all pages."""
        mended, cursor = await self.store.check_needs()
        while cursor is not None:
            more, cursor = await self.store.check_needs(cursor)
            mended += more
        while await self.store.settle():
            pass
        return mended

    async def records(self, *instances: NewInstance | Claim) -> Sequence[Record]:
        """The records of instances."""
        found = await self.store.get([one.id for one in instances])
        return [record for record in found if record is not None]

    async def taken(self) -> set[str]:
        """The ids of all that is due, which the worker takes."""
        return {claim.id for claim in await self.peer.take()}


@pytest.fixture(params=ENGINES)
async def family(request: pytest.FixtureRequest, namespace: str) -> AsyncIterator[Family]:
    address = "memory://" if request.param == "memory" else str(request.getfixturevalue(request.param))
    make = Factory(SystemClock())
    store = open_store(address, namespace=namespace, clock=SystemClock(), limits=StoreLimits())
    await store.open()
    await store.require_layout(FLOWS_LAYOUT, "steps")
    peer = await Peer(store=store, info=make.node("node", kinds=("work",)), make=make).join(600_000_000)
    server: Any = None if isinstance(store, KVStore) else cast("Any", redis.Redis.from_url(address))
    yield Family(store, peer, make, server, namespace)
    await store.close()
    if server is not None:
        server.close()


def child(instance: NewInstance, *needed: NewInstance) -> NewChild:
    return NewChild(instance=instance, needs=tuple(Need(one.id, "completed") for one in needed))


async def test_a_parent_goes_on_that_lost_the_edge_of_a_child_that_ended(family: Family) -> None:
    first, second = family.make.instances(2)
    parent, claims = await family.wait_for(first, second)
    await family.lose_edge(first, parent.id)
    await family.peer.end(claims[first.id])
    await family.peer.end(claims[second.id])
    assert await family.taken() == set()
    assert await family.check() == 1
    assert await family.taken() == {parent.id}
    assert await family.check() == 0


async def test_a_parent_waits_for_the_other_needs_when_one_is_lost(family: Family) -> None:
    first, second = family.make.instances(2)
    parent, claims = await family.wait_for(first, second)
    await family.lose_edge(first, parent.id)
    assert await family.check() == 1
    assert await family.check() == 0
    await family.peer.end(claims[first.id])
    assert await family.taken() == set()
    await family.peer.end(claims[second.id])
    assert await family.taken() == {parent.id}


@pytest.mark.parametrize("completes", [True, False])
async def test_a_sibling_that_lost_its_edge_waits_for_the_end_of_what_it_can_need(
    family: Family, completes: bool
) -> None:
    first, second, third = family.make.instances(3)
    parent = await family.begin(child(first), child(second, first), child(third, second))
    (claim,) = await family.peer.take()
    assert await family.peer.suspend(parent, NEEDS, needs=(Need(third.id),)) is Ack.DONE
    await family.lose_edge(first, second.id)
    await family.check()
    assert await family.taken() == set()
    await family.peer.end(claim, Action.COMPLETE if completes else Action.TERMINATE)
    await family.check()
    taken = await family.taken()
    states = [record.state for record in await family.records(second, third)]
    if completes:
        assert (taken, states) == ({second.id}, [State.PROCESSING, State.SCHEDULED])
    else:
        # the parent looks at the states of its children itself
        assert (taken, states) == ({parent.id}, [State.CANCELLED, State.CANCELLED])
    assert await family.check() == 0


async def test_an_end_that_nothing_was_to_settle_is_settled(family: Family) -> None:
    """More ends than one command settles: the last ones are left, and their entry is lost."""
    first, *waiting = family.make.instances(151)
    parent = await family.begin(*(child(one, *([first] if one is not first else [])) for one in (first, *waiting)))
    (claim,) = await family.peer.take()
    assert await family.peer.suspend(parent, NEEDS, needs=(Need(first.id),)) is Ack.DONE
    await family.peer.end(claim)
    await family.lose_end(first)
    assert not await family.store.settle()
    entered = await family.taken()
    assert len(entered) < 151
    assert await family.check() > 0
    while taken := await family.taken():
        entered |= taken
    assert entered == {parent.id, *(one.id for one in waiting)}


@pytest.mark.parametrize("family", ["redis_url"], indirect=True)
async def test_no_need_is_lost_when_its_child_is_not_found(family: Family) -> None:
    """The children of a parent are damaged: an edge of the child that is missing there is not seen."""
    first, second = family.make.instances(2)
    parent = await family.begin(child(first), child(second, first))
    (claim,) = await family.peer.take()
    assert await family.peer.suspend(parent, NEEDS, needs=(Need(first.id), Need(second.id))) is Ack.DONE
    await family.lose_child(parent.id, first)
    assert await family.check() == 0
    assert await family.taken() == set()
    await family.peer.end(claim)
    assert await family.taken() == {second.id}


@pytest.mark.parametrize("family", ["redis_url"], indirect=True)
async def test_a_need_that_failed_before_counts_until_it_is_settled(family: Family) -> None:
    """More of them than one command settles."""
    first, *waiting = family.make.instances(171)
    parent = await family.begin(child(first))
    await family.peer.end((await family.peer.take())[0], Action.TERMINATE)
    await family.store.spawn(
        family.peer.incarnation, Held(parent.id, parent.fence), [child(one, first) for one in waiting]
    )
    mended, cursor = await family.store.check_needs()
    assert (mended, cursor) == (0, None)
    while await family.store.settle():
        pass
    assert {record.state for record in await family.records(*waiting[:100])} == {State.CANCELLED}


@pytest.mark.parametrize("family", ["redis_url"], indirect=True)
async def test_many_edges_of_one_child_are_counted(family: Family) -> None:
    """More children and edges than one script reads; the edges of the last children are behind those of the first."""
    first, *waiting = family.make.instances(1201)
    last = family.make.instance()
    parent = await family.begin(child(first))
    held, claims = Held(parent.id, parent.fence), await family.peer.take()
    for at in range(0, 1200, 200):
        part = [child(one, first) for one in waiting[at : at + 200]]
        await family.store.spawn(family.peer.incarnation, held, part)
    await family.store.spawn(family.peer.incarnation, held, [child(last)])
    assert await family.peer.suspend(parent, NEEDS, needs=(Need(first.id), Need(last.id))) is Ack.DONE
    assert await family.check() == 0
    await family.lose_edge(first, waiting[0].id)
    await family.lose_edge(last, parent.id)
    assert await family.check() == 1
    for claim in claims:
        await family.peer.end(claim)
    assert await family.check() == 0


@pytest.mark.parametrize("family", ["memory"], indirect=True)
async def test_an_instance_goes_on_with_a_lost_marker(family: Family) -> None:
    (first,) = family.make.instances(1)
    parent = await family.begin(child(first))
    (claim,) = await family.peer.take()
    assert await family.peer.suspend(parent, NEEDS, needs=(Need(first.id),)) is Ack.DONE
    await family.delete(f"need/{parent.id}/{parent.fence}/{first.id}")
    await family.delete(f"for/{first.id}/{parent.id}")
    assert await family.check() == 1
    assert await family.taken() == {parent.id}
    await family.peer.end(claim)
    assert await family.check() == 0


@pytest.mark.parametrize("family", ["redis_url"], indirect=True)
@pytest.mark.parametrize(("count", "edges"), [(500, 0), (300, 200)])
async def test_the_edges_of_many_children_are_left_to_the_leader(family: Family, count: int, edges: int) -> None:
    """The script that settles the end of a child reads at most 500 children and edges to mend a damaged edge."""
    first, second, *others = family.make.instances(count + 1)
    parent = await family.begin(child(first), child(second))
    (claim, _) = await family.peer.take()
    for at in range(0, count, 200):
        held, needs = Held(parent.id, parent.fence), [second] * (at < edges)
        await family.store.spawn(family.peer.incarnation, held, [child(one, *needs) for one in others[at : at + 200]])
    assert await family.peer.suspend(parent, NEEDS, needs=(Need(first.id),)) is Ack.DONE
    await family.damage_edges(first)
    await family.peer.end(claim)
    (record,) = await family.records(parent)
    assert record.wait == NEEDS
    assert await family.check() == 1
    (record,) = await family.records(parent)
    assert record.wait is None


async def test_a_check_starts_no_child_of_a_parent_that_has_ended(family: Family) -> None:
    """The parent has let go the child that the others need, but not yet these others."""
    first, *waiting = family.make.instances(200)
    parent = await family.begin(child(first), *(child(one, first) for one in waiting))
    assert await family.taken() == {first.id}
    await family.peer.end(parent, Action.TERMINATE)
    mended, cursor = await family.store.check_needs()
    while cursor is not None:
        more, cursor = await family.store.check_needs(cursor)
        mended += more
    assert (mended, await family.taken()) == (0, set())


@pytest.mark.parametrize("family", ["redis_url"], indirect=True)
async def test_a_script_mends_a_bounded_number_of_needs(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(need_checks, "_MENDED", 2)
    first, *waiting = family.make.instances(6)
    parent = await family.begin(child(first), *(child(one, first) for one in waiting))
    (claim,) = await family.peer.take()
    assert await family.peer.suspend(parent, NEEDS, needs=(Need(waiting[0].id),)) is Ack.DONE
    for one in waiting:
        await family.lose_edge(first, one.id)
    await family.peer.end(claim)
    store, sizes = cast("Any", family.store), list[int]()
    run = store._run

    async def count(name: str, *arguments: Any) -> Any:
        if name == "mend_needs":
            sizes.append((len(arguments) - 2) // 5)
        return await run(name, *arguments)

    monkeypatch.setattr(store, "_run", count)
    assert await family.check() == 5
    assert sizes == [2, 2, 1]
    assert await family.taken() == {one.id for one in waiting}


@pytest.mark.parametrize("family", ["redis_url"], indirect=True)
async def test_a_sibling_waits_while_the_active_child_changes_between_the_scripts_of_a_check(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In each script, the active child is among those at which another script looks."""
    monkeypatch.setattr(need_checks, "_LOOKED_AT", 3)
    second, last, first, third, waiting = family.make.instances(5)
    chain = child(second, first), child(third, second), child(last, third), child(waiting, last)
    parent = await family.begin(child(first), *chain)
    assert await family.peer.suspend(parent, NEEDS, needs=(Need(waiting.id),)) is Ack.DONE
    await family.lose_edge(last, waiting.id)
    store, looks = cast("Any", family.store), list[str]()
    run = store._run

    async def change(name: str, *arguments: Any) -> Any:
        """Let the active child end before the second script of a look, and between both looks."""
        if name == "family" and arguments[4]:
            looks.append("first" if not arguments[1] else "second" if looks[-1] == "first" else "other")
            if len(looks) > 1 and looks[-1] != "other":
                (claim,) = await family.peer.take()
                await family.peer.end(claim)
        return await run(name, *arguments)

    monkeypatch.setattr(store, "_run", change)
    assert await family.check() == 0
    monkeypatch.undo()
    assert looks.count("first") == 2
    assert await family.taken() == {last.id}


@pytest.mark.parametrize("family", ["redis_url"], indirect=True)
@pytest.mark.parametrize("action", [Action.COMPLETE, Action.TERMINATE])
async def test_a_check_finds_nothing_when_children_end_between_its_scripts(
    family: Family, action: Action, monkeypatch: pytest.MonkeyPatch
) -> None:
    store: Any = family.store
    run = store._run
    for before in itertools.count():
        first, second, third = family.make.instances(3)
        parent = await family.begin(child(first), child(second, first), child(third, second))
        (claim,) = await family.peer.take()
        assert await family.peer.suspend(parent, NEEDS, needs=(Need(first.id), Need(second.id))) is Ack.DONE
        left, ends = before, [claim]

        async def end_first(script: str, *arguments: Any, ends: list[Claim] = ends) -> Any:
            nonlocal left
            if left == 0:
                monkeypatch.setattr(store, "_run", run)
                await family.peer.end(ends.pop(), action)
            left -= 1
            return await run(script, *arguments)

        monkeypatch.setattr(store, "_run", end_first)
        assert (await store.check_needs())[0] == 0
        monkeypatch.setattr(store, "_run", run)
        await store.clear()
        if ends:
            assert before > 1
            return
