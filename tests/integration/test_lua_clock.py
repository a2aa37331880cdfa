# pyright: reportPrivateUsage=false
"""The server's clock steps back, as in a failover to a slower host: recovery and leadership continue."""

import random
import struct
import time
from collections.abc import Callable
from typing import Any, cast

import pytest
import redis

from peerjob.model.firing import Candidate, SchedulePut
from peerjob.model.record import Action, Reaped, Record, StoreLimits
from peerjob.model.state import State
from peerjob.store.lua.commands.separate_clients import LuaLiveness
from peerjob.testing.factories import LONG_TTL_US, Factory, Peer, outcome
from support.lua_site import MakeSite, Site
from support.shifted import ShiftedClock
from support.waiting import PATIENCE

TTL_US = LONG_TTL_US
"""Longer than any pause of the machine. No test waits for it: `let_pass` makes leases older."""
BACK_US = 3_600_000_000
LOOKS = 5
"""Looks in the time of a lease, as a node makes."""


def step_back(here: Site, *peers: Peer, by_us: int = BACK_US) -> None:
    """Move all times that the server wrote into the future, as if its clock had stepped back."""
    for peer in peers:
        here.server.command("ZINCRBY", here.key("leases"), by_us, peer.incarnation)
        for field in ("renewed", "steady"):
            at = int(str(here.server.command("HGET", here.key(f"node:{peer.incarnation}"), field)))
            here.server.command("HSET", here.key(f"node:{peer.incarnation}"), field, at + by_us)
    left = int(str(here.server.command("PTTL", here.key("leader"))))
    if left > 0:
        here.server.command("PEXPIRE", here.key("leader"), left + by_us // 1000)


def let_pass(here: Site, us: int, *peers: Peer) -> None:
    """Move all times that the server wrote into the past, as if so much time had passed."""
    step_back(here, *peers, by_us=-us)


def put_ahead(here: Site, id: str) -> int:
    """Move the fence and the last time of a record into the future, as if the clock of the server had been ahead."""
    key = here.key(f"i:{id}")
    with redis.Redis(port=here.server.port) as client:
        raw = bytearray(cast(bytes, client.get(key)))
        fence, at = map(int, struct.unpack_from(">dd", raw, 17))
        struct.pack_into(">dd", raw, 17, fence + BACK_US, at + BACK_US)
        client.set(key, bytes(raw))
    return int(at) + BACK_US


@pytest.mark.parametrize("witness", [True, False])
async def test_a_dead_node_is_reaped_in_its_ttl(site: MakeSite, witness: bool) -> None:
    """No node lived while the clock stepped back; a node joins later."""
    here = site()
    store = await here.open()
    dead = await here.join(store, TTL_US)
    reaper = await here.join(store, TTL_US) if witness else None
    await store.enqueue(here.make.instances(1))
    claim = await dead.take_one()
    step_back(here, *([dead] if reaper is None else [dead, reaper]))
    reaper = reaper or await here.join(store, TTL_US)
    reaped: list[Reaped] = []
    for _ in range(LOOKS + 1):
        await reaper.renew(ttl_us=TTL_US)
        reaped += await store.reap(10, reaper=reaper.incarnation)
        let_pass(here, TTL_US // LOOKS, reaper, *([] if reaped else [dead]))
    assert [one.id for one in reaped] == [claim.id]


async def test_a_living_node_keeps_its_lease(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    first, second = await here.join(store, TTL_US), await here.join(store, TTL_US)
    await first.renew(ttl_us=TTL_US)
    step_back(here, first, second)
    for _ in range(2 * LOOKS):
        for peer in (first, second):
            assert not (await peer.renew(ttl_us=TTL_US)).dead
            assert await store.reap(10, reaper=peer.incarnation) == []
        views = {view.info.incarnation: view for view in await store.nodes()}
        assert all(view.expires_us - view.renewed_us == TTL_US for view in views.values())
        let_pass(here, TTL_US // LOOKS, first, second)


async def test_a_dead_leader_is_followed_in_its_ttl(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    elections = store.elections()
    await elections.open()
    try:
        await elections.campaign(Candidate(incarnation="dead", name="dead"), ttl_us=TTL_US)
        step_back(here)
        follower = Candidate(incarnation="next", name="next")
        leader = await elections.campaign(follower, ttl_us=2 * TTL_US)
        for _ in range(LOOKS):
            let_pass(here, TTL_US // LOOKS)
            leader = await elections.campaign(follower, ttl_us=2 * TTL_US)
        assert leader.incarnation == "next"
    finally:
        await elections.close()


async def test_a_repeated_enqueue_of_a_slow_clients_instance_is_known(site: MakeSite) -> None:
    """The time in the id is long ago; the server uses its own creation time."""
    here = site()
    here.make = Factory(ShiftedClock(-3600))
    store = await here.open(limits=StoreLimits(max_final_per_kind=1))
    peer = await here.join(store)
    first, second = here.make.instances(2)
    for new in (first, second):
        await store.enqueue([new])
        await peer.end(await peer.take_one())
    await store.expire(10)
    assert await store.get([first.id]) == [None]
    await store.enqueue([first])
    assert await store.get([first.id]) == [None]


async def test_a_reaper_that_was_cut_off_marks_no_node_dead(site: MakeSite) -> None:
    """A node that returns late, but within its lease, cannot distinguish dead peers from an outage."""
    here = site()
    store = await here.open()
    mortal, reaper = await here.join(store, TTL_US), await here.join(store, 5 * TTL_US)
    let_pass(here, 3 * TTL_US, mortal, reaper)
    await reaper.renew(ttl_us=5 * TTL_US)
    assert await store.reap(10, reaper=reaper.incarnation) == []
    assert not (await mortal.renew(ttl_us=TTL_US)).dead


@pytest.mark.parametrize("limit", [1, 2])
async def test_a_repeat_of_a_hinted_claim_gives_a_claim_whose_fence_is_ahead(site: MakeSite, limit: int) -> None:
    """A fence follows the one of the last claim, which a server whose clock was ahead has given."""
    here = site()
    store = await here.open()
    peer = await here.join(store)
    news = here.make.instances(limit)
    await store.enqueue(news)
    await peer.end(await peer.take_one(), Action.RETRY)
    put_ahead(here, news[0].id)
    request = here.make.request()
    for want in (peer.want(limit, suspects=False), peer.want(0, suspects=False)):
        _, claimed = await store.claim_on_hint(peer.incarnation, want, request=request, timeout=0)
        assert claimed is not None
        assert {claim.id for claim in claimed.claims} == {new.id for new in news}


async def test_a_withdrawal_returns_a_claim_whose_fence_is_ahead(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    peer = await here.join(store)
    (new,) = here.make.instances(1)
    await store.enqueue([new])
    await peer.end(await peer.take_one(), Action.RETRY)
    put_ahead(here, new.id)
    request = here.make.request()
    await store.claim_on_hint(peer.incarnation, peer.want(1, suspects=False), request=request, timeout=0)
    liveness = store.liveness()
    await liveness.open()
    try:
        await liveness.withdraw(peer.incarnation, request, timeout=PATIENCE)
    finally:
        await liveness.close()
    assert (await peer.take_one()).id == new.id


async def test_fences_and_the_times_of_a_history_only_grow(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    peer = await here.join(store)
    await store.enqueue(here.make.instances(1))
    claim = await peer.take_one()
    await peer.end(claim, Action.RETRY)
    at_us, fence = put_ahead(here, claim.id), claim.fence + BACK_US
    for action in (Action.RETRY, Action.COMPLETE):
        again = await peer.take_one()
        assert again.fence > fence
        await peer.end(again, action)
        (record,) = await store.get([claim.id])
        assert record is not None
        assert record.history[-1].at_us >= at_us
        fence = again.fence


async def test_terms_and_revisions_only_grow(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    elections = store.elections()
    await elections.open()
    try:
        first = await elections.campaign(Candidate(incarnation="first", name="first"), ttl_us=TTL_US)
        row = await store.put_schedule(SchedulePut(name="s", kind="work", definition=b"", next_us=None))
        assert row is not None
        await elections.resign("first")
        term, revision = first.term.number + BACK_US, row.revision + BACK_US
        here.server.command("HSET", here.key("terms"), "store", term)
        here.server.command("HSET", here.key("revisions"), "latest", revision)
        for name in ("second", "third"):
            leader = await elections.campaign(Candidate(incarnation=name, name=name), ttl_us=TTL_US)
            assert leader.term.number > term
            term = leader.term.number
            await elections.resign(name)
            row = await store.put_schedule(SchedulePut(name=name, kind="work", definition=b"", next_us=None))
            assert row is not None
            assert row.revision > revision
            revision = row.revision
    finally:
        await elections.close()


class MovedClock(ShiftedClock):
    """A clock that moves while a renewal is under way: time passes, or the wall clock is set."""

    def __init__(self, ahead: float) -> None:
        super().__init__(ahead)
        self.passed = 0.0

    def elapsed(self) -> float:
        return super().elapsed() + self.passed

    def time_us(self) -> int:
        return super().time_us() + round(self.passed * 1_000_000)

    @property
    def ahead_us(self) -> int:
        """The truth, which a renewal estimates."""
        return self._ahead_us

    def set_by(self, seconds: float) -> None:
        self._ahead_us += round(seconds * 1_000_000)


async def lively(here: Site, clock: MovedClock, meanwhile: Callable[[], None]) -> LuaLiveness:
    """A liveness; `meanwhile` is called while each renewal is under way."""
    liveness = (await here.open(clock=clock)).liveness()
    assert isinstance(liveness, LuaLiveness)
    await liveness.open()
    here.cleanup.push_async_callback(liveness.close)
    run = liveness._run

    async def answered_late(*args: Any, **options: Any) -> Any:
        reply = await run(*args, **options)
        meanwhile()
        return reply

    liveness._run = answered_late  # type: ignore[method-assign]
    return liveness


@pytest.mark.parametrize("seed", range(5))
async def test_no_renewal_makes_less_known_of_the_clock(site: MakeSite, seed: int) -> None:
    """The estimate stays within the bounds of every renewal, even if later renewals are slow."""
    here = site()
    chance = random.Random(seed)
    peer = await here.join(await here.open())
    clock = MovedClock(chance.uniform(-100, 100))

    def pass_time() -> None:
        clock.passed = chance.choice((0, 0, 0.2, 5))

    liveness = await lively(here, clock, pass_time)
    compare, possible = liveness._compare, list[tuple[int, int]]()

    def noting(min_us: int, max_us: int) -> int:
        possible.append((min_us, max_us))
        return compare(min_us, max_us)

    liveness._compare = noting  # type: ignore[method-assign]
    for number in range(1, 9):
        clock.passed = 0  # the server has not seen this time pass
        renewed = await liveness.renew(peer.incarnation, ttl_us=LONG_TTL_US, running=0, count=0, fences_digest=0)
        assert len(possible) == number
        for known_us in (clock.ahead_us, renewed.ahead_us):
            assert [(least, most) for least, most in possible if not least - 2 <= known_us <= most + 2] == [], known_us


@pytest.mark.parametrize("step", [366 * 86_400, -3_600, 2])
async def test_a_clock_that_is_set_during_a_renewal_is_compared_as_it_is_now(site: MakeSite, step: float) -> None:
    here = site()
    peer = await here.join(await here.open())
    clock = MovedClock(0)
    steps = [0.0, step]
    liveness = await lively(here, clock, lambda: clock.set_by(steps.pop(0)))
    for ahead in (0.0, step):
        began = time.monotonic()
        renewed = await liveness.renew(peer.incarnation, ttl_us=LONG_TTL_US, running=0, count=0, fences_digest=0)
        # the server's answer can have been made at any moment of the call
        assert abs(renewed.ahead_us / 1_000_000 - ahead) < time.monotonic() - began


@pytest.mark.parametrize("ahead", [False, True])
async def test_instances_of_several_calls_keep_their_times(site: MakeSite, ahead: bool) -> None:
    """The records of five of them differ in their time only. One can be ahead of the clock, which stepped back."""
    here = site()
    store = await here.open()
    peer = await here.join(store)
    news = [*here.make.instances(5), here.make.instance(priority=9)]
    for new in news:
        await store.enqueue([new])
    if ahead:
        key = here.key(f"i:{news[3].id}")
        with redis.Redis(port=here.server.port) as client:
            raw = cast(bytes, client.get(key))
            (at,) = struct.unpack_from(">d", raw, 9)
            client.set(key, raw.replace(raw[9:17], struct.pack(">d", at + BACK_US)))

    async def records() -> list[Record]:
        found = await store.get([new.id for new in news])
        return [record for record in found if record is not None]

    before = await records()
    claims = await peer.take(6)
    assert [claim.due_us for claim in claims] == [record.due_us for record in before]
    claimed = await records()
    await peer.commit(*(outcome(claim, result=str(n).encode()) for n, claim in enumerate(claims)))
    ends = await records()
    assert [record.result for record in ends] == [b"0", b"1", b"2", b"3", b"4", b"5"]
    for was, held, ended in zip(before, claimed, ends, strict=True):
        assert held.history[:2] == ended.history[:2] == was.history
        assert held.due_us == ended.due_us == was.due_us
        assert held.priority == ended.priority == was.priority
        times = [entry.at_us for entry in ended.history]
        assert times == sorted(times)
        assert [entry.state for entry in ended.history[2:]] == [State.PROCESSING, State.COMPLETED]
