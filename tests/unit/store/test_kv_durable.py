"""Durable bodies on the key-value engine: other calls in between, and ends of the process at any request.

A parent has children, of which some need others. Each verb runs with an intruder before each of its requests, or is cut
off at one of them. Then other nodes go on, and everything must end.
"""

import contextlib
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from peerjob.model.durable import MAX_CHILDREN_CALL, Need, SignalAnswer, Step, Wait, When
from peerjob.model.errors import StoreUnavailableError
from peerjob.model.query import Query
from peerjob.model.record import Ack, Action, Claim, Held, NewChild, Record, StoreLimits
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.store.kv.format.base import Applied, Compare, Delete, Put, Transaction
from peerjob.store.kv.format.keys import Keys, below, prefix_end
from peerjob.store.kv.format.rows import decode_row
from peerjob.store.kv.store import KVStore
from peerjob.store.memory.driver import MemoryKeyValue
from peerjob.store.rules import FLOWS_LAYOUT, PARENT_ENDED, need_failed
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import Peer, outcome
from support.counted import assert_counted
from support.interleaving import Call, Interrupted, Scene
from support.leftovers import leftovers_of

pytestmark = pytest.mark.one_python


class FlowScene(Scene):
    """A parent that runs, with children: two that run, one that needs both, and one that needs that one."""

    parent: Claim
    first: Claim
    second: Claim
    needs: dict[str, tuple[Need, ...]]
    awaited: tuple[Need, ...] = ()
    """What the parent waits for, if not for all of its children."""
    node: Peer
    """Holds all claims, through the store without interruptions."""

    async def prepare(self) -> None:
        for store in (self.store, self.other):
            await store.require_layout(FLOWS_LAYOUT, "steps")
        self.node = await self.join(self.other, "node")
        await self.add(self.other, self.make.instance())
        self.parent = await self.node.take_one()
        one, two, three, four = self.make.instances(4)
        self.needs = {
            one.id: (),
            two.id: (),
            three.id: (Need(one.id, "completed"), Need(two.id)),
            four.id: (Need(three.id),),
        }
        self.children = [NewChild(instance=new, needs=self.needs[new.id]) for new in (one, two, three, four)]
        assert await self.spawn(self.other, self.children) == [False] * 4
        self.first, self.second = await self.node.take()
        self.ids += self.needs

    async def spawn(self, store: KVStore, children: Sequence[NewChild]) -> list[bool] | None:
        """Make children; the answer is which of them were known."""
        answers = await store.spawn(self.node.incarnation, Held(self.parent.id, self.parent.fence), children)
        return None if answers is None else [answer.repeated for answer in answers]

    def peer(self, store: KVStore) -> Peer:
        """The node, through another store."""
        return Peer(store=store, info=self.node.info, make=self.make)

    @property
    def all_needs(self) -> tuple[Need, ...]:
        return self.awaited or tuple(map(Need, self.needs))

    async def end_all(self) -> None:
        """Let a new node take all instances, each only when its needs are over; then all are final."""
        added = await self.other.get(list(self.needs))
        self.ids = [self.parent.id, *(record.id for record in added if record is not None)]
        last = await self.join(self.open(), "last")
        await last.store.require_layout(FLOWS_LAYOUT, "steps")
        await last.store.leave(self.node.incarnation)
        # a body that was cut off runs again, and makes the same children again
        waited = (await self.record(self.parent.id)).wait is not None
        for _ in range(20):
            await self.settle(last.store)
            claims = await last.take()
            if not claims:
                break
            for claim in claims:
                await self.assert_may_run(claim, waited=waited)
                if claim.id == self.parent.id and not waited:
                    again = Held(claim.id, claim.fence)
                    assert await last.store.spawn(last.incarnation, again, self.children) is not None
                    waited = True
                    assert await last.suspend(claim, Wait(needs=True), needs=self.all_needs) is Ack.DONE
                else:
                    # a parent that waited for some of its children cancels the others
                    assert await last.end(claim) in ((Ack.DONE, Ack.CANCELLED) if self.awaited else (Ack.DONE,))
        await self.settle(last.store)
        for id in self.ids:
            record = await self.record(id)
            assert record.state.is_final, record
            assert sum(one.state.is_final for one in record.history) == 1
        assert (await last.store.health()).settling == 0
        assert_counted(self.data, "n")
        await last.store.leave(last.incarnation)
        await last.store.clear()
        assert await leftovers_of(last.store) == []

    async def assert_may_run(self, claim: Claim, *, waited: bool) -> None:
        needs = self.needs.get(claim.id, self.all_needs if waited else ())
        for need in needs:
            entry = self.data.entries.get(f"n/state/{need.id}")
            if entry is None:  # the parent needs a child that was not made
                continue
            row = decode_row(entry.value)
            assert not row.keeps, (claim.id, row)
            assert need.when == "ended" or row.state is State.COMPLETED, (claim.id, row)

    async def record(self, id: str) -> Record:
        (record,) = await self.other.get([id])
        assert record is not None
        return record

    async def settle(self, store: Store) -> None:
        for _ in range(1_000):
            if not await store.settle():
                return
        raise AssertionError("settling does not end")


Verb = Callable[[FlowScene, KVStore], Call]


def suspending(scene: FlowScene, store: KVStore) -> Call:
    wait = Wait(needs=True, signals=("go",))
    return lambda: scene.peer(store).suspend(scene.parent, wait, needs=scene.all_needs, steps=(Step("a", b"1"),))


def suspending_for_two(scene: FlowScene, store: KVStore) -> Call:
    scene.awaited = (Need(scene.first.id), Need(scene.second.id))
    return suspending(scene, store)


def ending(scene: FlowScene, store: KVStore) -> Call:
    return lambda: scene.peer(store).commit(outcome(scene.first), outcome(scene.second))


def failing(scene: FlowScene, store: KVStore) -> Call:
    return lambda: scene.peer(store).end(scene.first, Action.TERMINATE)


def ending_the_second(scene: FlowScene, store: KVStore) -> Call:
    return lambda: scene.peer(store).end(scene.second, Action.TIME_OUT)


def completing_the_parent(scene: FlowScene, store: KVStore) -> Call:
    return lambda: scene.peer(store).end(scene.parent)


def spawning(scene: FlowScene, store: KVStore) -> Call:
    """Makes further children, one of which needs others."""
    one, two = scene.make.instances(2)
    scene.needs |= {one.id: (), two.id: (Need(scene.first.id), Need(scene.second.id))}
    further = [NewChild(instance=one), NewChild(instance=two, needs=scene.needs[two.id])]
    scene.children += further

    async def spawn() -> None:
        await scene.spawn(store, further)

    return spawn


def cancelling_the_parent(scene: FlowScene, store: KVStore) -> Call:
    return lambda: store.cancel([scene.parent.id], request=scene.make.request())


def cancelling_children(scene: FlowScene, store: KVStore) -> Call:
    ids = [*scene.needs][1:]
    return lambda: store.cancel(ids, request=scene.make.request())


def leaving(scene: FlowScene, store: KVStore) -> Call:
    return lambda: store.leave(scene.node.incarnation)


def signalling(scene: FlowScene, store: KVStore) -> Call:
    return lambda: store.signal(scene.parent.id, "go", b"1")


def stepping(scene: FlowScene, store: KVStore) -> Call:
    return lambda: scene.peer(store).report(scene.parent, steps=(Step("a", b"1"), Step("b", b"2")))


VERBS: list[Verb] = [
    suspending,
    suspending_for_two,
    ending,
    failing,
    ending_the_second,
    completing_the_parent,
    spawning,
    cancelling_the_parent,
    cancelling_children,
    leaving,
    signalling,
    stepping,
]


def pairs() -> list[pytest.ParameterSet]:
    """Each verb with each intruder; `make test` has a third of them."""
    rest = pytest.mark.matrix("two thirds of the pairs of verbs about flows")
    return [
        pytest.param(verb, intruder, marks=[rest] if (row + column) % 3 else [])
        for row, verb in enumerate(VERBS)
        for column, intruder in enumerate(VERBS)
        # a body suspends once, and makes no children meanwhile
        if verb is not intruder and len({verb, intruder} & {spawning, suspending, suspending_for_two}) < 2
    ]


async def prepared(clock: VirtualClock) -> FlowScene:
    scene = FlowScene(clock)
    await scene.prepare()
    return scene


@pytest.mark.parametrize(("verb", "intruder"), pairs())
async def test_any_call_may_come_between(clock: VirtualClock, verb: Verb, intruder: Verb) -> None:
    for before in itertools.count():
        scene = await prepared(clock)
        call = verb(scene, scene.store)
        scene.kv.let_in(intruder(scene, scene.other), before)
        await call()
        if scene.kv.waits:
            assert before > 1
            return
        await scene.end_all()


@pytest.mark.parametrize("applied", [False, True], ids=["lost request", "lost answer"])
@pytest.mark.parametrize("suspends", [False, True], ids=["the parent runs", "the parent waits"])
@pytest.mark.parametrize("verb", VERBS)
async def test_it_may_be_cut_off_at_any_request(clock: VirtualClock, verb: Verb, suspends: bool, applied: bool) -> None:
    for at in itertools.count():
        scene = await prepared(clock)
        call = verb(scene, scene.store)
        if suspends and verb not in (suspending, suspending_for_two):
            await suspending(scene, scene.other)()
        scene.kv.die(at, applied=applied)
        with contextlib.suppress(StoreUnavailableError):
            await call()
        if not scene.kv.died:
            assert at > 0
            return
        assert await checked(scene.other) == 0
        await scene.end_all()


async def checked(store: Store) -> int:
    """How many needs a check of all pages mends."""
    mended, cursor = await store.check_needs()
    while cursor is not None:
        more, cursor = await store.check_needs(cursor)
        mended += more
    return mended


@pytest.mark.parametrize("checks_first", [True, False], ids=["a call in a check", "a check in a call"])
@pytest.mark.parametrize("verb", VERBS)
async def test_a_check_of_needs_finds_nothing_beside_a_call(
    clock: VirtualClock, verb: Verb, checks_first: bool
) -> None:
    for before in itertools.count():
        scene, mended = await prepared(clock), list[int]()
        call = verb(scene, scene.other if checks_first else scene.store)
        if verb not in (suspending, suspending_for_two, spawning):
            await suspending(scene, scene.other)()

        async def check(store: Store, mended: list[int] = mended) -> None:
            mended.append(await checked(store))

        if checks_first:
            scene.kv.let_in(call, before)
            await check(scene.store)
        else:
            scene.kv.let_in(partial(check, scene.other), before)
            await call()
        if scene.kv.waits:
            assert before > 1
            return
        assert mended == [0]
        await scene.end_all()


@pytest.mark.parametrize("at", range(8))
async def test_a_check_of_needs_finds_nothing_beside_a_node_that_dies(clock: VirtualClock, at: int) -> None:
    """The node dies at one of the requests of a commit, and leaves the end of a child to others."""
    for before in itertools.count():
        scene = await prepared(clock)
        await suspending(scene, scene.other)()
        kv = Interrupted(scene.data, clock)
        store = KVStore(kv, url="memory://", namespace="n", clock=clock, limits=StoreLimits(), retry_for=0)
        await store.require_layout(FLOWS_LAYOUT, "steps")

        async def end(kv: Interrupted, call: Call) -> None:
            kv.die(at, applied=True)
            with contextlib.suppress(StoreUnavailableError):
                await call()

        scene.kv.let_in(partial(end, kv, ending(scene, store)), before)
        assert await checked(scene.store) == 0
        if scene.kv.waits:
            assert before > 1
            return
        await scene.end_all()


@pytest.mark.parametrize("settles", [True, False], ids=["a settling is under way", "the markers are lost"])
async def test_a_check_of_needs_leaves_an_instance_to_a_settling_under_way(clock: VirtualClock, settles: bool) -> None:
    """A settling in three steps removes the markers, then lets the instance go on, and then removes its key.

    The store remembers a marker from the end of a child, which is then lost with the others.
    """
    scene = await prepared(clock)
    await suspending(scene, scene.other)()
    await ending(scene, scene.other)()
    keys, kv = Keys("n"), MemoryKeyValue(scene.data, clock)
    markers = keys.needs(scene.parent.id, scene.parent.fence)
    assert (await kv.read([below(markers)]))[0].items
    key = [Put(keys.settle(scene.second.id, "e"), b"0")] if settles else []
    await kv.txn([Transaction([], [Delete(markers, prefix_end(markers)), *key])])
    assert await checked(scene.other) == (0 if settles else 1)
    (parent,) = await scene.other.get([scene.parent.id])
    assert parent is not None
    assert (parent.wait is None) is not settles


class Conflicting(MemoryKeyValue):
    """The memory driver, on which another writer is first with one key."""

    conflicts_at = ""
    """The key whose next transaction is refused."""

    async def txn(
        self, transactions: Sequence[Transaction], also: Transaction | None = None, guards: Sequence[Compare] = ()
    ) -> Applied:
        taken = [place for place, one in enumerate(transactions) if any(op.key == self.conflicts_at for op in one.ops)]
        if not taken:
            return await super().txn(transactions, also, guards)
        self.conflicts_at = ""
        left = [replace(one, ops=()) if place in taken else one for place, one in enumerate(transactions)]
        applied = await super().txn(left, None, guards)
        answers = [None if place in taken else answer for place, answer in enumerate(applied.answers)]
        return replace(applied, answers=answers, also=None)


@pytest.mark.parametrize("when", ["completed", "ended"])
async def test_a_child_waits_for_a_sibling_that_a_conflict_left_out(clock: VirtualClock, when: When) -> None:
    """Else the sibling counts as gone: the child runs before it, or is cancelled."""
    scene = FlowScene(clock)
    await scene.prepare()
    kv = Conflicting(scene.data, clock)
    store = KVStore(kv, url="memory://", namespace="n", clock=clock, limits=StoreLimits())
    await store.require_layout(FLOWS_LAYOUT, "steps")
    first, second = scene.make.instances(2)
    kv.conflicts_at = f"n/state/{first.id}"
    children = [NewChild(instance=first), NewChild(instance=second, needs=(Need(first.id, when),))]
    assert await scene.spawn(store, children) == [False, False]
    await scene.settle(store)
    assert kv.conflicts_at == ""
    record = await scene.record(second.id)
    assert (record.state, record.wait) == (State.SCHEDULED, Wait(needs=True))
    assert await store.open_needs([second.id]) == [1]
    await store.close()


async def test_a_step_and_a_signal_under_one_name_keep_one_value(clock: VirtualClock) -> None:
    """A wait that times out and a signal come at once: one of them has the name, and both learn it."""
    for before in itertools.count():
        scene = await prepared(clock)
        answers: list[SignalAnswer] = []

        async def signal(scene: FlowScene = scene, answers: list[SignalAnswer] = answers) -> None:
            answers.append(await scene.other.signal(scene.parent.id, "go", b"signal"))

        scene.kv.let_in(signal, before)
        ack = await scene.peer(scene.store).report(scene.parent, steps=(Step("!go", b"timeout"),))
        (step,) = (await scene.other.steps(scene.parent.id)).steps
        if scene.kv.waits:
            assert ack is Ack.DONE
            return
        won = answers == [SignalAnswer.ACCEPTED]
        assert (ack, step.value) == ((Ack.TAKEN, b"signal") if won else (Ack.DONE, b"timeout"))


async def test_children_that_are_left_are_cancelled_in_bounded_steps(clock: VirtualClock) -> None:
    scene = await prepared(clock)
    children = [NewChild(instance=new) for new in scene.make.instances(300)]
    for at in range(0, len(children), 150):
        await scene.spawn(scene.other, children[at : at + 150])
    await scene.node.end(scene.parent)
    assert "settle" in [hint.what for hint in await scene.node.store.next_hints(scene.node.incarnation, 0)]
    assert (await scene.node.renew()).settling is False, "a renewal learns the layout"
    assert (await scene.node.renew()).settling is True
    calls = 0
    while await scene.other.settle():
        calls += 1
    assert 1 <= calls <= 4
    assert (await scene.node.renew()).settling is False
    record = await scene.record(children[-1].instance.id)
    assert (record.state, record.history[-1].note) == (State.CANCELLED, PARENT_ENDED)


async def test_a_recount_finds_what_waits_in_no_queue_and_what_is_held(clock: VirtualClock) -> None:
    scene = await prepared(clock)
    await scene.node.end(scene.first)
    await scene.node.suspend(scene.parent, Wait(signals=("go",)))
    before = await scene.other.health()
    private: Any = scene.other
    private._context.counts.in_doubt = True
    after = await scene.other.health()
    assert (after.counts, after.delayed) == (before.counts, before.delayed)
    assert after.delayed == 0
    assert_counted(scene.data, "n")


async def test_a_damaged_layout_is_written_anew_as_the_one_of_durable_bodies(clock: VirtualClock) -> None:
    scene = await prepared(clock)
    write_damage(scene, "n/layout")
    fresh = scene.open()
    await fresh.open()
    assert scene.data.entries["n/layout"].value == str(FLOWS_LAYOUT).encode()
    assert await fresh.signal(scene.parent.id, "go", b"1") is SignalAnswer.ACCEPTED


async def test_a_change_of_limits_keeps_the_layout(clock: VirtualClock) -> None:
    scene = await prepared(clock)
    await scene.other.pause_kind("other", True)
    assert scene.data.entries["n/layout"].value == str(FLOWS_LAYOUT).encode()
    assert await scene.other.signal(scene.parent.id, "go", b"1") is SignalAnswer.ACCEPTED


async def test_a_child_that_is_set_aside_strands_no_other_instance(clock: VirtualClock) -> None:
    scene = await prepared(clock)
    await scene.node.suspend(scene.parent, Wait(needs=True), needs=(Need(scene.first.id), Need(scene.second.id)))
    await damage(scene, scene.first.id)
    assert await scene.node.end(scene.second) is Ack.DONE
    await scene.settle(scene.other)
    three = [*scene.needs][2]
    record = await scene.record(three)
    assert (record.state, record.history[-1].note) == (State.CANCELLED, need_failed(scene.first.id, None))
    assert (await scene.node.take_one()).id == scene.parent.id


async def test_the_children_of_a_parent_that_is_set_aside_are_cancelled(clock: VirtualClock) -> None:
    scene = await prepared(clock)
    await scene.node.end(scene.first)
    await damage(scene, scene.parent.id)
    await scene.settle(scene.other)
    assert [(await scene.record(id)).state for id in scene.needs] == [State.COMPLETED, *[State.CANCELLED] * 3]
    await scene.node.end(scene.second)
    await scene.other.leave(scene.node.incarnation)
    await scene.other.clear()
    assert await leftovers_of(scene.other) == []


async def test_a_child_that_comes_during_a_clear_does_not_outlive_its_parent(clock: VirtualClock) -> None:
    for before in itertools.count():
        scene = FlowScene(clock)
        early = scene.make.instances(2)  # the ids come before that of the parent, so the clear has passed them
        await scene.prepare()
        needing = NewChild(instance=early[1], needs=(Need(early[0].id),))
        scene.kv.let_in(partial(scene.spawn, scene.other, [NewChild(instance=early[0]), needing]), before)
        await scene.store.clear()
        if scene.kv.waits:
            assert before > 1
            return
        await scene.settle(scene.other)
        assert all(left is None or left.state.is_final for left in await scene.other.get([new.id for new in early]))
        await clock.advance(StoreLimits().retention_us / 1e6 + 1)
        await scene.other.expire(10)
        assert await scene.other.get([new.id for new in early]) == [None, None]
        assert_counted(scene.data, "n")


async def test_an_instance_that_waits_keeps_a_slot_that_is_written_anew(clock: VirtualClock) -> None:
    scene = await prepared(clock)
    row = await scene.schedule(scene.other)
    await scene.fire(scene.other, row)
    claim = await scene.node.take_one()
    await scene.fire(scene.other, await scene.row())
    assert await scene.node.suspend(claim, Wait(signals=("go",))) is Ack.DONE
    write_damage(scene, "n/slot/s")
    await scene.fire(scene.other, await scene.row())
    row = await scene.row()
    assert (row.holder, len(row.parked)) == (claim.id, 2)
    assert await scene.node.take() == ()
    assert_counted(scene.data, "n")
    assert await scene.other.signal(claim.id, "go", b"") is SignalAnswer.ACCEPTED
    assert (await scene.node.take_one()).id == claim.id


def write_damage(scene: FlowScene, key: str) -> None:
    """Replace a value by text that is not readable."""
    entries: Any = scene.data.entries
    entries[key] = replace(entries[key], value=b"?")


async def damage(scene: FlowScene, id: str) -> None:
    """Make a record unreadable, and let a store find it."""
    write_damage(scene, f"n/state/{id}")
    assert await scene.other.get([id]) == [None]
    assert (await scene.other.health()).undecodable == 1


async def test_a_child_that_is_needed_again_must_still_complete(clock: VirtualClock) -> None:
    scene = await prepared(clock)
    new = scene.make.instance()
    for when in ("completed", "ended"):
        more = NewChild(instance=new, needs=(Need(scene.first.id, when),), more=when == "completed")
        await scene.spawn(scene.other, [more])
    await scene.node.end(scene.first, Action.TERMINATE)
    assert (await scene.record(new.id)).state is State.CANCELLED


@pytest.mark.parametrize("at_once", [False, True])
async def test_the_need_that_a_node_has_seen_last_can_end_first(clock: VirtualClock, at_once: bool) -> None:
    """One transaction settles an end while another need is left: the one that the node saw before, if it is there."""
    scene = await prepared(clock)
    node, other = scene.node, scene.peer(scene.store)
    children = [NewChild(instance=new) for new in scene.make.instances(3)]
    assert await scene.spawn(scene.other, children) == [False] * 3
    a, b, c = await node.take()
    needs = tuple(Need(claim.id) for claim in (a, b, c))
    assert await node.suspend(scene.parent, Wait(needs=True), needs=needs) is Ack.DONE
    assert await node.end(a) is Ack.DONE
    if at_once:
        assert await node.commit(outcome(b), outcome(c)) == [Ack.DONE, Ack.DONE]
    else:
        assert await other.end(c) is Ack.DONE
        assert await node.take() == ()
        assert await node.end(b) is Ack.DONE
    assert [claim.id for claim in await node.take()] == [scene.parent.id]


async def test_an_end_that_is_refused_leaves_its_needs(clock: VirtualClock) -> None:
    """A node commits a claim that it has lost, and whose record it still remembers."""
    scene = await prepared(clock)
    late = scene.peer(scene.store)
    assert await scene.spawn(scene.other, [NewChild(instance=scene.make.instance())]) == [False]
    child = await late.take_one()
    assert await scene.node.suspend(scene.parent, Wait(needs=True), needs=(Need(child.id),)) is Ack.DONE
    assert await scene.node.end(child, Action.HAND_BACK) is Ack.DONE
    assert await late.end(child) is Ack.LOST
    assert (await scene.record(child.id)).state is State.SCHEDULED
    assert await scene.other.open_needs([scene.parent.id]) == [1]
    assert (await scene.record(scene.parent.id)).wait == Wait(needs=True)


# -- stores that write nothing


async def test_a_store_that_only_reads_learns_that_the_namespace_has_children(clock: VirtualClock) -> None:
    """Only its writes show a new layout to a store, and a store of a page, or of a node without workers, has few."""
    scene = Scene(clock)
    reader = scene.open()
    node = await scene.join(scene.other)
    assert (await reader.lookup(Query(state=State.COMPLETED))).records == ()
    await scene.other.require_layout(FLOWS_LAYOUT, "steps")
    await scene.add(scene.other, scene.make.instance())
    parent, children = (
        await node.take_one(),
        [NewChild(instance=new) for new in scene.make.instances(MAX_CHILDREN_CALL)],
    )
    await scene.other.spawn(node.incarnation, Held(parent.id, parent.fence), children)
    child = await node.take_one()
    assert await node.end(child) is Ack.DONE
    assert [record.id for record in (await reader.lookup(Query(state=State.COMPLETED))).records] == [child.id]
    await scene.other.cancel([parent.id], request="r")
    await node.end(parent)
    assert (await reader.health()).settling
    follower = scene.open()
    while await follower.settle():
        pass
    assert (await reader.health()).settling == 0
