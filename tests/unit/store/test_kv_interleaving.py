"""A verb keeps the contract if another call comes between any two of its requests.

Each test has a verb and an intruder. The verb runs once for each of its requests, each time in a new namespace, and the
intruder runs just before that request. So the test covers each order of the two.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import pytest

from peerjob.model.firing import FireStatus, Overlap, Term
from peerjob.model.query import Filter, Query
from peerjob.model.record import Ack, Action, Claim
from peerjob.model.state import State
from peerjob.model.stored_limit import KeyLimitView
from peerjob.store.kv.format.keys import Keys
from peerjob.store.kv.format.rows import node_of
from peerjob.store.kv.store import KVStore
from peerjob.store.kv.write.limit_rules import free_numbers
from peerjob.store.memory.driver import MemoryKeyValue
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import LONG_TTL_US, Peer, outcome
from support.interleaving import Call, Scene, everywhere, nothing

pytestmark = pytest.mark.one_python

SHORT_US = 1_000_000
SECOND_US = 1_000_000


# -- each verb against each other


async def claiming(scene: Scene, store: KVStore, mortal: Peer, _claims: Sequence[Claim]) -> Call:
    peer = Peer(store=store, info=mortal.info, make=scene.make)
    return peer.claim


async def claiming_alive(scene: Scene, store: KVStore, _mortal: Peer, _claims: Sequence[Claim]) -> Call:
    peer = await scene.join(store, "alive")
    return peer.claim


async def moving(scene: Scene, store: KVStore, _mortal: Peer, _claims: Sequence[Claim]) -> Call:
    """A claim that only moves due instances to the ready queues."""
    peer = await scene.join(store, "mover")
    return lambda: peer.claim(peer.want(kinds={"other": 1}))


async def committing(scene: Scene, store: KVStore, mortal: Peer, claims: Sequence[Claim]) -> Call:
    peer = Peer(store=store, info=mortal.info, make=scene.make)

    async def commit() -> None:
        acks = await peer.commit(*(outcome(claim) for claim in claims))
        for claim, ack in zip(claims, acks, strict=True):
            (record,) = await scene.other.get([claim.id])
            assert ack is not Ack.DONE or record is None or record.state is State.COMPLETED

    return commit


async def retrying(scene: Scene, store: KVStore, mortal: Peer, claims: Sequence[Claim]) -> Call:
    peer = Peer(store=store, info=mortal.info, make=scene.make)
    return lambda: peer.commit(*(outcome(claim, Action.RETRY) for claim in claims))


async def cancelling(scene: Scene, store: KVStore, _mortal: Peer, _claims: Sequence[Claim]) -> Call:
    ids = list(scene.ids)

    async def cancel() -> None:
        for id in ids:
            await scene.cancel(store, id)

    return cancel


async def reaping(scene: Scene, store: KVStore, _mortal: Peer, _claims: Sequence[Claim]) -> Call:
    peer = await scene.join(store, "reaper")
    return lambda: scene.reap(peer)


async def leaving(scene: Scene, store: KVStore, mortal: Peer, _claims: Sequence[Claim]) -> Call:
    return lambda: store.leave(mortal.incarnation)


async def enqueueing(scene: Scene, store: KVStore, _mortal: Peer, _claims: Sequence[Claim]) -> Call:
    batch = [scene.make.instance(key="key"), scene.make.instance(delay_us=500_000), scene.make.instance(tags=("t",))]
    return lambda: scene.add(store, *batch)


async def firing(scene: Scene, store: KVStore, _mortal: Peer, _claims: Sequence[Claim]) -> Call:
    row = await scene.row()
    return lambda: scene.fire(store, row)


async def replacing(scene: Scene, store: KVStore, _mortal: Peer, _claims: Sequence[Claim]) -> Call:
    row = await scene.row()

    async def replace() -> None:
        await scene.fire(store, row, overlap=Overlap.REPLACE)

    return replace


async def expiring(scene: Scene, store: KVStore, _mortal: Peer, _claims: Sequence[Claim]) -> Call:
    return lambda: store.expire(100)


async def clearing(scene: Scene, store: KVStore, _mortal: Peer, _claims: Sequence[Claim]) -> Call:
    return lambda: store.clear_instances(Filter())


VERBS = [
    claiming,
    claiming_alive,
    moving,
    committing,
    retrying,
    cancelling,
    reaping,
    leaving,
    enqueueing,
    firing,
    replacing,
    expiring,
    clearing,
]


def pairs() -> list[pytest.ParameterSet]:
    """Each verb with each intruder; `make test` has a third of them, in which each verb meets four or five others."""
    rest = pytest.mark.matrix("two thirds of the pairs of verbs")
    return [
        pytest.param(verb, intruder, marks=[rest] if (row + column) % 3 else [])
        for row, verb in enumerate(VERBS)
        for column, intruder in enumerate(VERBS)
    ]


@pytest.mark.parametrize(("verb", "intruder"), pairs())
async def test_any_call_may_come_between_the_requests_of_a_verb(
    clock: VirtualClock, verb: Callable[..., Awaitable[Call]], intruder: Callable[..., Awaitable[Call]]
) -> None:
    async def prepare(scene: Scene) -> tuple[Call, Call, Call]:
        """A node with claims has expired; one claim has a slot. Other instances are due, delayed, parked and final."""
        mortal = await scene.join(scene.other, "mortal", SHORT_US)
        await scene.schedule(scene.other)
        await scene.fire(scene.other, await scene.row())
        over, *two = scene.make.instances(3, retention_us=1_000_000)
        await scene.add(scene.other, over, *two)
        first, *claims = await mortal.take()
        await mortal.end(first if first.id == over.id else claims.pop(), Action.COMPLETE)
        await scene.fire(scene.other, await scene.row())
        await scene.add(
            scene.other,
            scene.make.instance(delay_us=1_200_000, tags=("t",)),
            scene.make.instance(delay_us=20_000_000),
            scene.make.instance(key="key"),
            scene.make.instance(priority=-1),
        )
        await scene.clock.advance(1.5)
        held = claims if first.id == over.id else [first, *claims]
        return (
            await verb(scene, scene.store, mortal, held),
            await intruder(scene, scene.other, mortal, held),
            nothing,
        )

    await everywhere(clock, prepare)


# -- pairs that can be held to more


async def test_a_node_that_renews_is_not_marked_dead(clock: VirtualClock) -> None:
    async def prepare(scene: Scene) -> tuple[Call, Call, Call]:
        mortal = await scene.join(scene.other, "mortal", SHORT_US)
        reaper = await scene.join(scene.store, "reaper")
        await scene.add(scene.other, *scene.make.instances(2))
        claims = await mortal.take()
        await clock.advance(1.5)
        alive: list[bool] = []

        async def renew() -> None:
            alive.append(not (await mortal.renew(*claims)).dead)

        async def check() -> None:
            acks = await mortal.commit(*map(outcome, claims))
            assert acks == [Ack.DONE if alive[0] else Ack.LOST] * 2

        return lambda: scene.reap(reaper), renew, check

    await everywhere(clock, prepare)


async def test_a_reap_takes_back_although_the_reaper_renews_its_lease(clock: VirtualClock) -> None:
    async def prepare(scene: Scene) -> tuple[Call, Call, Call]:
        mortal = await scene.join(scene.other, "mortal", SHORT_US)
        reaper = await scene.join(scene.store, "reaper")
        await scene.add(scene.other, *scene.make.instances(2))
        claims = await mortal.take()
        await clock.advance(1.5)
        reaped: list[str] = []
        liveness = scene.other.liveness()

        async def reap() -> None:
            reaped.extend(one.id for one in await scene.store.reap(100, reaper=reaper.incarnation))

        async def renew() -> None:
            # the load changes, so the renewal writes the entry of the lease
            await liveness.renew(reaper.incarnation, ttl_us=LONG_TTL_US, running=3, count=0, fences_digest=0)

        async def check() -> None:
            assert sorted(reaped) == sorted(claim.id for claim in claims)

        return reap, renew, check

    await everywhere(clock, prepare)


async def test_a_node_that_has_left_marks_no_node_dead(clock: VirtualClock) -> None:
    async def prepare(scene: Scene) -> tuple[Call, Call, Call]:
        mortal = await scene.join(scene.other, "mortal", SHORT_US)
        reaper = await scene.join(scene.store, "reaper")
        await scene.add(scene.other, *scene.make.instances(2))
        claims = await mortal.take()
        await clock.advance(1.5)
        alive: list[bool] = []

        async def leave() -> None:
            (entry,) = await MemoryKeyValue(scene.data, clock).get([Keys("n").node + mortal.incarnation])
            alive.append(entry is not None and not node_of(entry.value).ended)
            await scene.other.leave(reaper.incarnation)

        async def check() -> None:
            assert (await mortal.renew(*claims)).dead is not alive[0]

        return lambda: scene.reap(reaper), leave, check

    await everywhere(clock, prepare)


@pytest.mark.parametrize("count", [0, 1])
async def test_a_node_that_is_reaped_meanwhile_neither_claims_nor_waits(clock: VirtualClock, count: int) -> None:
    """Also with the first claim of an incarnation, when only the node's record is stored."""

    async def prepare(scene: Scene) -> tuple[Call, Call, Call]:
        mortal = await scene.join(scene.store, "mortal", SHORT_US)
        reaper = await scene.join(scene.other, "reaper")
        await scene.add(scene.other, *scene.make.instances(count))
        await clock.advance(1.5)
        return mortal.claim, lambda: scene.reap(reaper), nothing

    await everywhere(clock, prepare)


@pytest.mark.parametrize("idle", [False, True])
@pytest.mark.parametrize("delay_us", [None, 300_000, 3_000_000])
@pytest.mark.parametrize("before", [(), (2_000_000,)])
@pytest.mark.parametrize("emptied", [False, True])
async def test_an_idle_node_is_woken_for_an_instance_that_is_added_while_it_reads(
    clock: VirtualClock, emptied: bool, before: Sequence[int], delay_us: int | None, idle: bool
) -> None:
    """Also if the head of its delayed queue is low already, because an earlier instance was cancelled."""

    async def prepare(scene: Scene) -> tuple[Call, Call, Call]:
        peer = await scene.join(scene.store)
        if idle:
            await peer.claim()
        await scene.add(scene.other, *(scene.make.instance(delay_us=one) for one in before))
        new = scene.make.instance(delay_us=delay_us)
        if emptied:
            earlier = scene.make.instance(delay_us=200_000)
            while earlier.id[-1] != new.id[-1]:
                earlier = scene.make.instance(delay_us=200_000)
            await scene.add(scene.other, earlier)
            await scene.cancel(scene.other, earlier.id)
        found: list[object] = []
        hears: list[bool] = []

        async def claim() -> None:
            claimed = await peer.claim()
            found.extend(claimed.claims)
            due_us = clock.time_us() + (delay_us or 0)
            hears.append(claimed.next_due_us is not None and claimed.next_due_us <= due_us)

        async def check() -> None:
            hints = await clock.run(scene.store.next_hints(peer.incarnation, 0.01))
            assert found or hears[0] or any(hint.what == "work" for hint in hints)
            assert await peer.commit(*map(outcome, [*peer_claims(found)])) == [Ack.DONE] * len(found)

        return claim, lambda: scene.add(scene.other, new), check

    await everywhere(clock, prepare)


def peer_claims(found: Sequence[object]) -> list[Claim]:
    return [one for one in found if isinstance(one, Claim)]


@pytest.mark.parametrize("count", [1, 3])
async def test_a_lookup_misses_nothing_that_changes_hands_meanwhile(clock: VirtualClock, count: int) -> None:
    """A claim moves an instance to the index of its node, which may have joined just before."""

    async def prepare(scene: Scene) -> tuple[Call, Call, Call]:
        before = await scene.join(scene.other, "before")
        await scene.add(scene.other, *scene.make.instances(2 * count))
        held = await before.take(count)
        found: list[str] = []

        async def look() -> None:
            page = await scene.store.lookup(Query(state=State.ACTIVE))
            found.extend(record.id for record in page.records)

        async def change_hands() -> None:
            await before.commit(*(outcome(claim, Action.HAND_BACK) for claim in held))
            await (await scene.join(scene.other, "after")).take()

        async def check() -> None:
            assert found == sorted(scene.ids)

        return look, change_hands, check

    await everywhere(clock, prepare)


async def test_one_of_two_instances_gets_a_unique_key(clock: VirtualClock) -> None:
    async def prepare(scene: Scene) -> tuple[Call, Call, Call]:
        new: list[bool] = []

        async def add(store: KVStore) -> None:
            new.extend(await scene.add(store, scene.make.instance(key="key")))

        async def check() -> None:
            assert Counter(new) == {True: 1, False: 1}

        return lambda: add(scene.store), lambda: add(scene.other), check

    await everywhere(clock, prepare)


async def test_one_of_two_leaders_fires_a_time(clock: VirtualClock) -> None:
    async def prepare(scene: Scene) -> tuple[Call, Call, Call]:
        row = await scene.schedule(scene.other)
        statuses: list[FireStatus] = []

        async def fire(store: KVStore) -> None:
            statuses.append(await scene.fire(store, row))

        async def check() -> None:
            assert statuses.count(FireStatus.DONE) == 1
            assert len(scene.ids) == 1

        return lambda: fire(scene.store), lambda: fire(scene.other), check

    await everywhere(clock, prepare)


@pytest.mark.parametrize("knows", [False, True], ids=["first", "again"])
async def test_nothing_is_fired_under_a_term_that_is_over(clock: VirtualClock, knows: bool) -> None:
    """Also for a schedule that the next leader does not fire, and by a store that has fired in the old term."""

    async def prepare(scene: Scene) -> tuple[Call, Call, Call]:
        old, new = Term(coordinator="c", number=1), Term(coordinator="c", number=2)
        row, other = [await scene.schedule(scene.other, name) for name in ("s", "t")]
        if knows:
            await scene.fire(scene.store, row, term=old)
            row = await scene.row()
        statuses: list[FireStatus] = []
        in_time: list[bool] = []

        async def fire() -> None:
            statuses.append(await scene.fire(scene.store, row, term=old))

        async def lead() -> None:
            in_time.append(await scene.row() != row)
            assert await scene.fire(scene.other, other, term=new) is FireStatus.DONE

        async def check() -> None:
            assert statuses == [FireStatus.DONE if in_time[0] else FireStatus.DEPOSED]
            await scene.other.remove_schedule("t", request=scene.make.request())

        return fire, lead, check

    await everywhere(clock, prepare)


async def test_an_entry_before_the_beginning_of_a_queue_is_found(clock: VirtualClock) -> None:
    async def prepare(scene: Scene) -> tuple[Call, Call, Call]:
        peer = await scene.join(scene.store)
        await scene.add(scene.other, scene.make.instance())
        await peer.end(await peer.take_one())
        await clock.advance(20)
        late = scene.make.instance(due_us=clock.time_us() - 8_000_000)
        found: list[Claim] = []

        async def claim() -> None:
            found.extend((await peer.claim()).claims)

        async def check() -> None:
            found.extend(await peer.take())
            assert [claim.id for claim in found] == [late.id]
            await peer.end(found[0])

        return claim, lambda: scene.add(scene.other, late), check

    await everywhere(clock, prepare)


# -- a request that comes again while it is under way


@pytest.mark.parametrize("same", [True, False], ids=["same-store", "other-store"])
@pytest.mark.parametrize("count", [0, 1, 5])
async def test_a_claim_that_comes_again_meanwhile_takes_its_instances_once(
    clock: VirtualClock, count: int, same: bool
) -> None:
    async def prepare(scene: Scene) -> tuple[Call, Call, Call]:
        peer = await scene.join(scene.store)
        await scene.add(scene.other, *scene.make.instances(count))
        again = Peer(store=scene.store if same else scene.other, info=peer.info, make=scene.make)
        request, found = scene.make.request(), list[list[tuple[str, int]]]()

        async def claim(peer: Peer) -> None:
            claimed = await peer.claim(peer.want(2), request=request)
            found.append([(claim.id, claim.fence) for claim in claimed.claims])

        async def check() -> None:
            assert found[0] == found[1]
            assert len(found[0]) == min(2, count)
            held = await scene.other.lookup(Query(state=State.PROCESSING))
            assert {record.id for record in held.records} == {id for id, _ in found[0]}

        return lambda: claim(peer), lambda: claim(again), check

    await everywhere(clock, prepare)


@pytest.mark.parametrize("action", [Action.HAND_BACK, Action.RETRY])
async def test_a_lookup_finds_an_instance_that_returns_to_its_queue_meanwhile(
    clock: VirtualClock, action: Action
) -> None:
    for before in range(10):
        scene = Scene(clock)
        peer = await scene.join(scene.other)
        await scene.add(scene.other, scene.make.instance())
        claim = await peer.take_one()

        scene.kv.let_in(partial(peer.end, claim, action), before)
        page = await scene.store.lookup(Query(state=State.ACTIVE))

        assert [record.id for record in page.records] == [claim.id]
        if scene.kv.waits:
            return
    pytest.fail("the lookup needs ten requests or more")


async def test_a_lookup_of_many_kinds_finds_an_instance_that_returns_to_its_queue_meanwhile(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peerjob.store.kv.queue.reading.MAX_RANGES", 2)
    for before in range(10):
        scene = Scene(clock)
        peer = await scene.join(scene.other)
        await scene.add(scene.other, *(scene.make.instance() for _ in range(20)))
        await peer.commit(*map(outcome, await peer.take()))
        await scene.add(scene.other, scene.make.instance(), *(scene.make.instance(kind=f"k{n}") for n in range(3)))
        claim = await peer.take_one()

        scene.kv.let_in(partial(peer.end, claim, Action.HAND_BACK), before)
        page = await scene.store.lookup(Query(state=State.ACTIVE))

        assert claim.id in {record.id for record in page.records}
        if scene.kv.waits:
            return
    pytest.fail("the lookup needs ten requests or more")


# -- limit keys


async def keyed(clock: VirtualClock, verb: str, intruder: str) -> None:
    """Run a verb and an intruder on one limit key, and check that a free permit and a waiting instance never stay."""

    async def prepare(scene: Scene) -> tuple[Call, Call, Call]:
        peers = [await scene.join(store, f"node {number}") for number, store in enumerate((scene.store, scene.other))]
        await scene.add(scene.other, *(scene.make.instance(limit_key="a", key_concurrency=2) for _ in range(2)))
        claims = [await peer.take_one() for peer in peers]

        def call(what: str, number: int) -> Call:
            peer, claim = peers[number], claims[number]
            match what:
                case "enqueue":
                    new = scene.make.instance(limit_key="a", key_concurrency=2)
                    return partial(scene.add, peer.store, new)  # type: ignore[arg-type]
                case "hand back":
                    return partial(peer.end, claim, Action.HAND_BACK)
                case "cancel":
                    return partial(scene.cancel, peer.store, claim.id)  # type: ignore[arg-type]
                case _:
                    return partial(peer.end, claim)

        async def check() -> None:
            (view,) = (await scene.other.key_limits("work")).views or (KeyLimitView(key="a"),)
            assert view.admitted <= 2
            assert not view.waiting or view.admitted == 2, view

        return call(verb, 0), call(intruder, 1), check

    await everywhere(clock, prepare)


@pytest.mark.parametrize("verb", ["enqueue", "end", "hand back", "cancel"])
@pytest.mark.parametrize("intruder", ["enqueue", "end", "hand back"])
async def test_no_free_permit_stays_beside_an_instance_that_waits(
    clock: VirtualClock, verb: str, intruder: str
) -> None:
    await keyed(clock, verb, intruder)


@pytest.mark.parametrize("verb", ["cancel", "clear"])
@pytest.mark.parametrize("intruder", [Action.COMPLETE, Action.HAND_BACK])
async def test_an_instance_that_gets_its_permit_while_it_is_removed_leaves_none(
    clock: VirtualClock, verb: str, intruder: Action
) -> None:
    async def prepare(scene: Scene) -> tuple[Call, Call, Call]:
        peer = await scene.join(scene.other)
        batch = [scene.make.instance(limit_key="a", key_concurrency=1) for _ in range(3)]
        await scene.add(scene.other, *batch)
        claim = await peer.take_one()
        cancel = partial(scene.cancel, scene.store, batch[1].id)

        async def check() -> None:
            while claims := await peer.take():
                await peer.commit(*map(outcome, claims))
            assert (await scene.other.key_limits("work")).views == ()

        return cancel if verb == "cancel" else scene.store.clear, partial(peer.end, claim, intruder), check

    await everywhere(clock, prepare)


async def test_an_instance_that_is_handed_back_after_its_record_was_read_keeps_its_place(clock: VirtualClock) -> None:
    """A claim reads the records that it expects together with the heads, and can read a queue later."""

    async def prepare(scene: Scene) -> tuple[Call, Call, Call]:
        node, other = await scene.join(scene.store), await scene.join(scene.other, "other")
        await scene.add(scene.other, scene.make.instance(limit_key="a", key_concurrency=1))
        claim = await other.take_one()
        heads = scene.store._heads  # pyright: ignore[reportPrivateUsage]
        heads._expected[node.incarnation] = [claim.id]  # pyright: ignore[reportPrivateUsage]
        taken: list[Claim] = []

        async def take() -> None:
            taken.extend((await node.claim()).claims)

        async def check() -> None:
            taken.extend((await other.claim()).claims)
            assert [one.id for one in taken] == [claim.id]

        return take, partial(other.end, claim, Action.HAND_BACK), check

    await everywhere(clock, prepare)


async def test_a_key_keeps_the_concurrency_that_comes_while_its_last_instance_leaves(clock: VirtualClock) -> None:
    async def prepare(scene: Scene) -> tuple[Call, Call, Call]:
        peer = await scene.join(scene.other)
        first, waiting, *more = (
            scene.make.instance(limit_key="a", key_concurrency=concurrency) for concurrency in (3, 1, 3, 1)
        )
        await scene.add(scene.other, first, waiting)
        await peer.end(await peer.take_one())

        async def check() -> None:
            (view,) = (await scene.other.key_limits("work")).views
            assert (view.concurrency, view.admitted, view.waiting) == (1, 1, 1)
            await scene.other.clear()

        async def enqueue() -> None:
            for new in more:
                await scene.add(scene.other, new)

        return partial(scene.cancel, scene.store, waiting.id), enqueue, check

    await everywhere(clock, prepare)


@pytest.mark.parametrize("seed", range(20))
def test_writers_that_read_before_the_concurrency_was_lowered_do_not_exceed_it(seed: int) -> None:
    chance = VirtualClock(seed=seed).random
    concurrency, held = 5, set(chance.sample(range(12), 6))
    for _ in range(200):
        left = concurrency - len(held)
        plans = (
            [next(free_numbers(held, concurrency, chance.randrange(99)), None) for _ in range(3)] if left > 0 else []
        )
        for number in plans:
            if number is not None and number not in held:
                held.add(number)
                assert len(held) <= concurrency
        if held and chance.random() < 0.6:
            held.remove(chance.choice(sorted(held)))
