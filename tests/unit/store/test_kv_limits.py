"""Limits on the key-value engine: callers that die, several stores of a namespace, and random programs of both."""

import pytest

from peerjob.model.record import Claim, Hint
from peerjob.model.state import State
from peerjob.model.stored_limit import KindLimits, LimitNumbers, LimitSetting, SharedLimit
from peerjob.store.kv.format.base import Delete, Transaction
from peerjob.store.kv.format.keys import Keys
from peerjob.store.kv.store import KVStore
from peerjob.testing.clock import VirtualClock
from support.interleaving import Call, Scene, everywhere
from support.limit_programs import play
from support.searches import cases


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
