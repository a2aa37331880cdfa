"""Limits on the key-value engine: callers that die, several stores of a namespace, and random programs of both."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import count

import pytest

from peerjob.model.errors import StoreUnavailableError
from peerjob.model.record import Action, Claim, Held, Hint, NewChild, NewInstance
from peerjob.model.state import State
from peerjob.model.stored_limit import KindLimits, LimitNumbers, LimitSetting, SharedLimit
from peerjob.store.kv.format.base import Delete, Transaction
from peerjob.store.kv.format.keys import Keys
from peerjob.store.kv.format.limit_rows import Permit, permits_of
from peerjob.store.kv.format.rows import decode_row
from peerjob.store.kv.store import KVStore
from peerjob.store.rules import FLOWS_LAYOUT
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import outcome
from support.interleaving import Call, Scene, everywhere
from support.limit_programs import play
from support.searches import cases

HOUR_US = 3_600_000_000


@pytest.mark.search
def test_random_calls_that_are_cut_off_strand_no_instance() -> None:
    found = [f"seed {seed}: {wrong}" for seed in cases(range(100)) for wrong in play(seed)]
    assert found == []


async def test_a_view_has_the_setting_that_another_store_wrote(clock: VirtualClock) -> None:
    scene = Scene(clock)
    await scene.store.publish_limits([KindLimits(kind="work", key_concurrency=1)])
    await scene.add(scene.other, scene.make.instance(limit_key="a", key_concurrency=1))
    assert await scene.store.set_limit(LimitSetting(kind="work", numbers=LimitNumbers(concurrency=3)))
    (view,) = (await scene.other.key_limits("work")).views
    assert view.concurrency == 3


async def test_another_store_opens_the_gates_that_a_caller_has_left_when_it_died(clock: VirtualClock) -> None:
    scene = Scene(clock)
    await scene.store.publish_limits([KindLimits(kind="work", key_concurrency=1)])
    await scene.add(scene.other, *scene.make.instances(3, limit_key="a", key_concurrency=1))
    assert await waiting(scene.other) == 2

    async def cut_off() -> None:
        raise TimeoutError

    scene.kv.let_in(cut_off, 2)
    with pytest.raises(TimeoutError):
        await scene.store.set_limit(LimitSetting(kind="work", numbers=LimitNumbers(concurrency=2)))
    assert await waiting(scene.store) == 2
    _, cursor = await scene.other.check_limits()
    while cursor is not None:
        _, cursor = await scene.other.check_limits(cursor)
    assert await waiting(scene.store) == 1


async def test_a_node_whose_lease_is_over_waits_until_a_rate_allows_more(clock: VirtualClock) -> None:
    scene = Scene(clock)
    shared = SharedLimit(name="shared", numbers=LimitNumbers(burst=1, period_us=HOUR_US))
    await scene.store.publish_limits([KindLimits(kind="work", shared=(shared,))])
    peer = await scene.join(scene.store, ttl_us=1_000_000)
    await scene.add(scene.other, *scene.make.instances(2))
    await peer.take_one()
    opens_us = clock.time_us() + HOUR_US
    await clock.advance(60)
    claimed = await peer.claim()
    assert (claimed.claims, claimed.next_due_us) == ((), opens_us)
    assert await scene.kv.get([Keys("n").idle + peer.incarnation]) != [None]


async def test_a_check_that_frees_a_shared_permit_wakes_a_node(clock: VirtualClock) -> None:
    scene = Scene(clock)
    shared = SharedLimit(name="shared", numbers=LimitNumbers(concurrency=1))
    await scene.store.publish_limits([KindLimits(kind="work", shared=(shared,))])
    peer = await scene.join(scene.store)
    lost, waits = scene.make.instances(2)
    await scene.add(scene.other, lost)
    await peer.take_one()
    await scene.kv.txn([Transaction([], [Delete(Keys("n").state + lost.id)])])
    await scene.add(scene.other, waits)
    assert await peer.take() == ()
    while await scene.store.next_hints(peer.incarnation, 0):
        pass
    freed, cursor = await scene.other.check_limits()
    while cursor is not None:
        more, cursor = await scene.other.check_limits(cursor)
        freed += more
    assert freed == 1
    assert Hint("work", "") in await scene.store.next_hints(peer.incarnation, 0)


async def test_a_claim_without_limits_keeps_no_permits_of_the_claim_before(clock: VirtualClock) -> None:
    scene = Scene(clock)
    shared = SharedLimit(name="shared", numbers=LimitNumbers(concurrency=1))
    await scene.store.publish_limits([KindLimits(kind="work", shared=(shared,))])
    peer = await scene.join(scene.store)
    await scene.add(scene.store, scene.make.instance())

    async def permits() -> Sequence[Permit]:
        claim = await peer.take_one()
        (entry,) = await scene.kv.get([Keys("n").state + claim.id])
        assert entry is not None
        found = permits_of(decode_row(entry.value))
        await peer.commit(outcome(claim, Action.HAND_BACK))
        return found

    assert len(await permits()) == 1
    await scene.store.publish_limits([KindLimits(kind="work")])
    assert await permits() == ()


async def waiting(store: KVStore) -> int:
    return sum(view.waiting for view in (await store.key_limits("work")).views)


async def test_no_claim_follows_a_throttle(clock: VirtualClock) -> None:
    async def prepare(scene: Scene) -> tuple[Call, Call, Call]:
        shared = SharedLimit(name="shared", numbers=LimitNumbers(concurrency=5))
        await scene.other.publish_limits([KindLimits(kind="work", shared=(shared,))])
        peer = await scene.join(scene.store)
        await scene.add(scene.other, *scene.make.instances(2))
        claims: list[Claim] = []
        claimed_before: list[str] = []

        async def claim() -> None:
            claims.extend((await peer.claim()).claims)

        async def throttle() -> None:
            assert await scene.other.throttle("shared", 1_000_000)
            records = await scene.other.get(scene.ids)
            claimed_before.extend(one.id for one in records if one is not None and one.state is State.PROCESSING)

        async def check() -> None:
            assert [claim.id for claim in claims] == claimed_before
            await scene.other.publish_limits([KindLimits(kind="work")])

        return claim, throttle, check

    await everywhere(clock, prepare)


# -- answers that are lost


def large_batch(scene: Scene) -> list[NewInstance]:
    """Instances of two requests; the last ones are the first to go, so the second request is refused at first."""
    early = scene.make.instance(limit_key="a", key_concurrency=2, due_us=1_000_000)
    return [*scene.make.instances(120, limit_key="a", key_concurrency=2), early]


async def enqueueing(scene: Scene) -> Call:
    return partial(scene.store.enqueue, large_batch(scene))


async def spawning(scene: Scene) -> Call:
    await scene.other.require_layout(FLOWS_LAYOUT, "steps")
    peer = await scene.join(scene.store)
    await scene.add(scene.other, scene.make.instance())
    parent = await peer.take_one()
    children = [NewChild(instance=new) for new in large_batch(scene)]
    return partial(scene.store.spawn, peer.incarnation, Held(parent.id, parent.fence), children)


async def handing_back(scene: Scene) -> Call:
    peer = await scene.join(scene.store)
    await scene.add(scene.other, *scene.make.instances(4, limit_key="a", key_concurrency=2))
    outcomes = [outcome(claim, Action.HAND_BACK) for claim in await peer.take(2)]
    return partial(scene.store.turn, peer.incarnation, outcomes, None, request=scene.make.request())


async def cancelling(scene: Scene) -> Call:
    batch = scene.make.instances(4, limit_key="a", key_concurrency=2)
    await scene.add(scene.other, *batch)
    return partial(scene.store.cancel, [new.id for new in batch[:2]], request=scene.make.request())


async def leaving(scene: Scene) -> Call:
    peer = await scene.join(scene.other)
    await scene.add(scene.other, *scene.make.instances(4, limit_key="a", key_concurrency=2))
    await peer.take(2)
    return partial(scene.store.leave, peer.incarnation)


async def assert_permits_are_used(scene: Scene) -> None:
    for view in (await scene.other.key_limits("work")).views:
        assert view.admitted == min(2, view.admitted + view.waiting), view


@pytest.mark.parametrize("prepare", [enqueueing, spawning, handing_back, cancelling, leaving])
@pytest.mark.parametrize("applied", [True, False], ids=["the answer is lost", "the request is lost"])
async def test_a_repeated_call_uses_the_permits_that_its_first_attempt_left(
    clock: VirtualClock, prepare: Callable[[Scene], Awaitable[Call]], *, applied: bool
) -> None:
    for at in count():
        scene = Scene(clock)
        await scene.other.publish_limits([KindLimits(kind="work", key_concurrency=2)])
        call = await prepare(scene)
        scene.kv.die(at, applied=applied)
        with suppress(StoreUnavailableError):
            await call()
        if not scene.kv.live():
            assert at > 1, "the call makes no requests"
            return
        await call()
        await assert_permits_are_used(scene)


@pytest.mark.parametrize("prepare", [enqueueing, spawning])
async def test_the_next_call_uses_the_permits_that_a_cancelled_one_left(
    clock: VirtualClock, prepare: Callable[[Scene], Awaitable[Call]]
) -> None:
    async def cut_off() -> None:
        raise asyncio.CancelledError

    for before in count():
        scene = Scene(clock)
        await scene.other.publish_limits([KindLimits(kind="work", key_concurrency=2)])
        call = await prepare(scene)
        scene.kv.let_in(cut_off, before)
        with suppress(asyncio.CancelledError):
            await call()
        if scene.kv.waits:
            assert before > 1, "the call makes no requests"
            return
        await scene.store.get(scene.ids)
        await assert_permits_are_used(scene)


async def test_a_delayed_instance_brings_its_concurrency_to_a_key_without_instances(clock: VirtualClock) -> None:
    """Although a caller that died has left another concurrency there."""
    was_left = False
    for at in count():
        scene = Scene(clock)
        peer, other = await scene.join(scene.store), await scene.join(scene.other)
        await scene.add(scene.other, *(scene.make.instance(limit_key="a", key_concurrency=number) for number in (1, 3)))
        await scene.add(scene.other, scene.make.instance(limit_key="a", key_concurrency=2, delay_us=1_000_000))
        claim, last = await other.take_one(), await peer.take_one()
        await other.end(claim)

        scene.kv.die(at, applied=True)
        with suppress(StoreUnavailableError):
            await peer.end(last)
        if not scene.kv.died:
            break
        if (await scene.other.key_limits("work")).views == ():
            was_left |= any(key.startswith("n/permit/") for key in scene.data.entries)
            await clock.advance(1)
            await other.take_one()
            (view,) = (await scene.other.key_limits("work")).views
            assert view.concurrency == 2
    assert was_left
