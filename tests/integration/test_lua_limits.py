"""Limits on Redis and Valkey: what damage does to them, which nodes a turn wakes, and kinds that an index finds."""

from __future__ import annotations

import logging
import re
import struct
from collections.abc import Sequence
from typing import Any

import pytest
import redis
from msgspec.structs import replace

from peerjob.model.caps import Caps
from peerjob.model.errors import StoreRefusedError
from peerjob.model.record import Action, Claim, NewInstance, Want
from peerjob.model.state import State
from peerjob.model.stored_limit import KindLimits, LimitNumbers, LimitSetting, SharedLimit
from peerjob.store.lua.commands.codec import MAX_TIME_US
from peerjob.store.lua.store import LuaStore
from peerjob.testing.factories import Peer, outcome
from support.lua_site import MakeSite, Site

pytestmark = pytest.mark.parametrize("site", ["redis", "valkey"], indirect=True)
BAD = b"\x80\xff"
MANY = tuple(f"kind-{number:02}" for number in range(40))
"""Kinds of a set that has an index."""


def connect(here: Site) -> redis.Redis:
    return redis.Redis(port=here.server.port)


def shared(*kinds: str, name: str = "shared", **numbers: int) -> list[KindLimits]:
    limits = (SharedLimit(name=name, numbers=LimitNumbers(**numbers)),)
    return [KindLimits(kind=kind, shared=limits) for kind in kinds]


def keyed(here: Site, count: int, **options: int) -> list[NewInstance]:
    return [
        here.make.instance(limit_key="k", key_concurrency=1, priority=options.get("priority", 5)) for _ in range(count)
    ]


async def hinted(peer: Peer) -> list[str]:
    return [hint.what for hint in await peer.store.next_hints(peer.incarnation, 0.05)]


async def ids(peer: Peer, limit: int = 100) -> list[str]:
    return [claim.id for claim in await peer.take(limit)]


async def counts(store: LuaStore, kind: str = "work") -> Sequence[tuple[str, int, int]]:
    return [(view.key, view.admitted, view.waiting) for view in (await store.key_limits(kind)).views]


async def test_a_damaged_record_takes_no_room(site: MakeSite) -> None:
    """Two kinds share the room, so a refused instance of one lets an instance of the other go."""
    here = site()
    store = await here.open(retry_for=0)
    await store.publish_limits(shared("work", "other", concurrency=2))
    bad = here.make.instance(kind="other", priority=1)
    batch = [here.make.instance(kind="other", priority=2), here.make.instance(), here.make.instance()]
    await store.enqueue([bad, *batch])
    with connect(here) as server:
        server.set(here.key(f"i:{bad.id}"), BAD)
    peer = await here.join(store, kinds=("work", "other"))
    assert await ids(peer) == [batch[0].id, batch[1].id]
    assert await ids(peer) == []


@pytest.mark.parametrize("count", [1, 3])
async def test_a_gate_is_a_table_from_its_first_entry_on(site: MakeSite, count: int) -> None:
    here = site()
    store = await here.open(retry_for=0)
    await store.publish_limits([KindLimits(kind="work", key_concurrency=1)])
    for _ in range(2):
        await store.enqueue(keyed(here, count))
    with connect(here) as server:
        assert [server.object("encoding", here.key(f"{letter}:work")) for letter in "gn"] == [b"hashtable"] * 2
    assert await counts(store) == [("k", 1, 2 * count - 1)]


async def test_instances_that_are_claimed_or_pass_together_are_a_table(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    await store.publish_limits([KindLimits(kind="work", key_concurrency=1)])
    batch = [here.make.instance(limit_key=f"k{at % 20}", key_concurrency=1) for at in range(40)]
    await store.enqueue(batch)
    peer = await here.join(store)
    claims = await peer.take(20)
    with connect(here) as server:
        assert server.object("encoding", here.key(f"{State.PROCESSING.value}:work")) == b"skiplist"
        assert server.zcard(here.key(f"{State.PROCESSING.value}:work")) == 20
        await peer.commit(*map(outcome, claims))
        assert server.object("encoding", here.key("q:work")) == b"skiplist"
        assert server.zcard(here.key("q:work")) == 20
    assert await ids(peer) == [new.id for new in batch[20:]]


async def test_a_damaged_record_uses_up_no_rate(site: MakeSite) -> None:
    here = site()
    store = await here.open(retry_for=0)
    await store.publish_limits(shared("work", period_us=60_000_000, burst=3))
    bad, *batch = here.make.instances(6)
    await store.enqueue([bad, *batch])
    with connect(here) as server:
        server.set(here.key(f"i:{bad.id}"), BAD)
    peer = await here.join(store)
    assert await ids(peer, 1) == [batch[0].id]
    assert await ids(peer) == [batch[1].id, batch[2].id]


async def test_a_limit_that_opens_after_the_last_moment_opens_at_the_last_moment(site: MakeSite) -> None:
    here = site()
    store = await here.open(retry_for=0)
    await store.publish_limits(shared("work", concurrency=1))
    await store.enqueue(here.make.instances(1))
    with connect(here) as server:
        stored: Any = server.hget(here.key("limits"), "lshared")
        *numbers, _, rest = stored.split(b" ", 5)
        server.hset(here.key("limits"), "lshared", b" ".join([*numbers, b"9" * 30, rest]))
    peer = await here.join(store)
    claimed = await peer.claim()
    assert (claimed.claims, claimed.next_due_us) == ((), MAX_TIME_US)
    (view,) = (await store.limits()).views
    assert view.opens_us == MAX_TIME_US


async def test_a_damaged_limit_lets_pass_until_it_is_published(
    site: MakeSite, caplog: pytest.LogCaptureFixture
) -> None:
    here = site()
    store = await here.open(retry_for=0)
    await store.publish_limits(shared("work", concurrency=1))
    await store.enqueue(here.make.instances(4))
    peer = await here.join(store)
    first = await peer.take_one()
    with connect(here) as server:
        server.hset(here.key("limits"), "lshared", BAD)
    with caplog.at_level(logging.ERROR, logger="peerjob.store"):
        assert len(await peer.take(1)) == 1
        assert len(await peer.take(1)) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "limit 'shared': it cannot be read and lets all pass until a node publishes it again"
    ]
    await store.publish_limits(shared("work", concurrency=1))
    assert await ids(peer) == []
    (view,) = (await store.limits()).views
    assert (view.concurrency, view.running) == (1, 3)
    await peer.end(first)


async def test_a_claim_makes_one_call_for_each_full_limit(site: MakeSite) -> None:
    """Also a renewal: both look at each kind that waits, and the server does nothing else meanwhile."""
    here = site()
    store = await here.open(retry_for=0)
    for kind in MANY:
        await store.publish_limits(shared(kind, name=f"limit of {kind}", concurrency=1))
    await store.enqueue([here.make.instance(kind=kind) for kind in MANY for _ in range(2)])
    peer = await here.join(store, kinds=MANY)
    assert len(await peer.take()) == len(MANY)

    def commands() -> int:
        count: int = server.info("stats")["total_commands_processed"]
        return count

    with connect(here) as server:
        for call in (peer.take, peer.renew):
            await call()
            before = commands()
            await call()
            assert commands() - before <= len(MANY) + 35, call


async def test_a_claim_reads_any_number_of_limits(site: MakeSite) -> None:
    """Lua passes at most about 8,000 arguments in one call."""
    here = site()
    store = await here.open(retry_for=0)
    kinds = tuple(f"kind-{number}" for number in range(4_001))
    numbers = LimitNumbers(concurrency=1)
    for first in range(0, len(kinds), 500):
        some = kinds[first : first + 500]
        two = [tuple(SharedLimit(name=f"{letter} {kind}", numbers=numbers) for letter in "ab") for kind in some]
        await store.publish_limits([KindLimits(kind=kind, shared=both) for kind, both in zip(some, two, strict=True)])
    await store.enqueue([here.make.instance(kind=kinds[-1]) for _ in range(2)])
    peer = await here.join(store, kinds=kinds)
    want = Want(kinds=Caps(kinds, 10, dict.fromkeys(kinds, 9)), limit=10)
    assert len((await peer.claim(want)).claims) == 1


async def test_a_limit_that_is_published_again_keeps_its_alarm(site: MakeSite) -> None:
    here = site()
    store = await here.open(retry_for=0)
    await store.publish_limits(shared("work", period_us=60_000_000, burst=1))
    await store.enqueue(here.make.instances(3))
    peer, other = await here.join(store), await here.join(store)
    assert len(await peer.take()) == 1
    assert (await peer.claim()).next_due_us is not None
    await store.publish_limits(shared("work", period_us=60_000_000, burst=1))
    assert (await other.claim()).next_due_us is None, "one node waits for the moment"


@pytest.mark.parametrize("last", ["a", "b"])
async def test_a_node_waits_for_the_last_of_two_limits_to_open(site: MakeSite, last: str) -> None:
    """At the moment of the other one, it would claim nothing."""
    here = site()
    store = await here.open(retry_for=0)
    limits = tuple(SharedLimit(name=name, numbers=LimitNumbers(concurrency=3)) for name in ("a", "b"))
    await store.publish_limits([KindLimits(kind="work", shared=limits)])
    for name in ("a", "b"):
        await store.throttle(name, 120_000_000 if name == last else 60_000_000)
    await store.enqueue([here.make.instance()])
    peer = await here.join(store)
    opens = {view.name: view.opens_us for view in (await store.limits()).views}
    assert (await peer.claim()).next_due_us == opens[last]


async def test_a_setting_with_another_type_is_removed_by_the_next_publication(site: MakeSite) -> None:
    here = site()
    store = await here.open(retry_for=0)
    await store.publish_limits(shared("work", concurrency=1))
    assert await store.set_limit(LimitSetting(name="shared", numbers=LimitNumbers(concurrency=2)))
    with connect(here) as server:
        server.set(here.key("limit:shared"), "text")
    assert [view.concurrency for view in (await store.limits()).views] == [2]
    await store.publish_limits(shared("work", concurrency=1))
    assert [view.concurrency for view in (await store.limits()).views] == [1]


@pytest.mark.parametrize("by_setting", [True, False])
async def test_a_damaged_limit_keeps_its_kinds(site: MakeSite, by_setting: bool) -> None:
    """No claim misses a limit that can be read, so a limit that lost its kinds would hold back nothing."""
    here = site()
    store = await here.open(retry_for=0)
    await store.publish_limits(shared("work", "other", concurrency=1))
    assert await store.set_limit(LimitSetting(name="shared", numbers=LimitNumbers(concurrency=2)))
    await store.enqueue([here.make.instance(kind=kind) for kind in ("work", "other") for _ in range(4)])
    peer = await here.join(store, kinds=("work", "other"))
    with connect(here) as server:
        server.hset(here.key("limits"), "lshared", BAD)
    assert (await peer.claim(peer.want(1))).limits_missing
    if by_setting:
        assert await store.set_limit(LimitSetting(name="shared", numbers=LimitNumbers(concurrency=3)))
    else:
        await store.publish_limits(shared("work", concurrency=1))
    (view,) = (await store.limits()).views
    assert (view.kinds, view.running, view.waiting) == (("other", "work"), 1, 7)
    assert len(await peer.take()) == (2 if by_setting else 1)


@pytest.mark.parametrize("known", [True, False])
async def test_a_damaged_record_frees_its_key(site: MakeSite, known: bool) -> None:
    """A claim knows the kind of what it sets aside; a cancel finds the key without it."""
    here = site()
    store = await here.open(retry_for=0)
    await store.publish_limits([KindLimits(kind="work", key_concurrency=1)])
    bad, good = keyed(here, 2)
    await store.enqueue([bad, good])
    peer = await here.join(store)
    with connect(here) as server:
        server.set(here.key(f"i:{bad.id}"), BAD)
    if not known:
        await store.cancel([bad.id], request=here.make.request())
        assert await counts(store) == [("k", 1, 0)]
    assert [*(await ids(peer)), *(await ids(peer))] == [good.id]


@pytest.mark.parametrize("what", ["g", "n"])
async def test_a_key_goes_on_after_damage(site: MakeSite, what: str) -> None:
    here = site()
    store = await here.open(retry_for=0)
    await store.publish_limits([KindLimits(kind="work", key_concurrency=1)])
    batch = keyed(here, 3)
    await store.enqueue(batch)
    peer = await here.join(store)
    claim = await peer.take_one()
    with connect(here) as server:
        server.hset(here.key(f"{what}:work"), "k" if what == "n" else claim.id, BAD)
    await peer.end(claim)
    await store.check_limits()
    done: list[str] = []
    while claims := await peer.take(1):
        done += [one.id for one in claims]
        await peer.end(claims[0])
        await store.check_limits()
    assert done == [new.id for new in batch[1:]]
    assert await counts(store) == []


async def test_a_damaged_entry_of_a_waiting_instance_is_reported(
    site: MakeSite, caplog: pytest.LogCaptureFixture
) -> None:
    here = site()
    store = await here.open(retry_for=0)
    await store.publish_limits([KindLimits(kind="work", key_concurrency=2)])
    await store.enqueue(keyed(here, 1))
    (bad,) = keyed(here, 1, priority=7)
    await store.enqueue([bad])
    with connect(here) as server:
        server.hset(here.key("g:work"), bad.id, BAD)
    with caplog.at_level(logging.ERROR, logger="peerjob.store"):
        await store.check_limits()
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert bad.id in messages[0]
    assert await counts(store) == [("k", 1, 1)]


@pytest.mark.parametrize(
    "damage",
    ["entry of the holder", "entry of a waiting one", "entries", "counts", "wrong counts", "no counts", "waiting"],
)
@pytest.mark.parametrize("waiting", ["in a sorted set", "in the entry"])
async def test_no_damage_lets_an_instance_wait_for_ever(site: MakeSite, damage: str, waiting: str) -> None:
    here = site()
    store = await here.open(retry_for=0)
    await store.publish_limits([KindLimits(kind="work", key_concurrency=1)])
    batch = keyed(here, 4)
    for some in [batch] if waiting == "in a sorted set" else [[new] for new in batch]:
        await store.enqueue(some)
    peer = await here.join(store)
    claim = await peer.take_one()
    with connect(here) as server:
        match damage:
            case "entry of the holder":
                server.hdel(here.key("g:work"), batch[0].id)
            case "entry of a waiting one":
                server.hdel(here.key("g:work"), batch[1].id)
            case "entries":
                server.delete(here.key("g:work"))
            case "counts":
                server.hset(here.key("n:work"), "k", b"9" * 400)
            case "wrong counts":
                server.hset(here.key("n:work"), "k", struct.pack(">III", 5, 1, 0))
            case "no counts":
                server.delete(here.key("n:work"))
            case _:
                server.delete(here.key("w:4:workk"))
    left: Sequence[Claim] = [claim]
    for _ in range(3):
        while left:
            await peer.commit(*map(outcome, left))
            left = await peer.take()
        _, cursor = await store.check_limits()
        assert cursor is None
        left = await peer.take()
    assert {record.state for record in await store.get([one.id for one in batch]) if record} == {State.COMPLETED}
    assert await counts(store) == []


@pytest.mark.parametrize("size", [1, 4])
async def test_few_waiting_instances_of_a_key_need_no_sorted_set(
    site: MakeSite, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    here = site()
    store = await here.open(retry_for=0)
    await store.publish_limits([KindLimits(kind="work", key_concurrency=1)])
    batch = keyed(here, 10)
    await store.enqueue(batch[:1])
    for at in range(1, 9, size):
        await store.enqueue(batch[at : at + size])
    with connect(here) as server:
        assert not server.exists(here.key("w:4:workk"))
        with caplog.at_level(logging.ERROR, logger="peerjob.store"):
            await store.check_limits()
        assert not caplog.records
        assert not server.exists(here.key("w:4:workk"))
        assert await counts(store) == [("k", 1, 8)]
        await store.enqueue(batch[9:])
        assert server.zcard(here.key("w:4:workk")) == 9
    assert await counts(store) == [("k", 1, 9)]
    peer = await here.join(store)
    done: list[str] = []
    while claims := await peer.take(1):
        done += [one.id for one in claims]
        await peer.end(claims[0])
    assert done == [new.id for new in batch]


@pytest.mark.parametrize(
    ("size", "script"), [(1, "enqueue_one"), (4, "enqueue_one"), (4, "")], ids=["one", "batch", "general"]
)
async def test_many_waiting_instances_of_a_key_are_a_table(site: MakeSite, size: int, script: str) -> None:
    """The server would search a list of them for each one that comes."""
    here = site()
    store: Any = await here.open(retry_for=0)
    await store.publish_limits([KindLimits(kind="work", key_concurrency=1)])
    keys = ("k", "k2")
    rows = [[here.make.instance(limit_key=key, key_concurrency=1) for _ in range(25)] for key in keys]
    with connect(here) as server:
        for begin, end in ((0, 1), *((at, at + size) for at in range(1, 25, size))):
            parts = [row[begin:end] for row in rows]
            for part in [[*parts[0], *parts[1]]] if size > 1 else parts:
                store._cheap_script = script
                await store.enqueue(part)
            for name in (here.key(f"w:4:work{key}") for key in keys if end > 9):
                assert server.zcard(name) == end - 1
                assert server.object("encoding", name) == (b"skiplist" if end > 16 else b"listpack")
    peer = await here.join(store)
    for news in zip(*rows, strict=True):
        claims = await peer.take(3)
        assert {claim.id for claim in claims} == {new.id for new in news}
        await peer.commit(*map(outcome, claims))


async def test_waiting_instances_whose_ids_are_in_no_order_pass_by_id(site: MakeSite) -> None:
    here = site()
    store = await here.open(retry_for=0)
    await store.publish_limits([KindLimits(kind="work", key_concurrency=1)])
    first, *others = keyed(here, 4)
    await store.enqueue([first])
    await store.enqueue(others[::-1])
    peer = await here.join(store)
    for new in (first, *others):
        claim = await peer.take_one()
        assert claim.id == new.id
        await peer.end(claim)


async def test_an_instance_with_an_earlier_due_time_passes_before_those_in_the_entry(site: MakeSite) -> None:
    here = site()
    store = await here.open(retry_for=0)
    await store.publish_limits([KindLimits(kind="work", key_concurrency=1)])
    first, second = keyed(here, 2)
    early = here.make.instance(limit_key="k", key_concurrency=1, priority=5, due_us=1_000_000)
    for new in (first, second, early):
        await store.enqueue([new])
    peer = await here.join(store)
    for new in (first, early, second):
        claim = await peer.take_one()
        assert claim.id == new.id
        await peer.end(claim)


async def test_an_entry_with_a_wrong_waiting_instance_is_made_anew(
    site: MakeSite, caplog: pytest.LogCaptureFixture
) -> None:
    here = site()
    store = await here.open(retry_for=0)
    await store.publish_limits([KindLimits(kind="work", key_concurrency=1)])
    batch = keyed(here, 3)
    for new in batch:
        await store.enqueue([new])
    with connect(here) as connected:
        server: Any = connected
        text = server.hget(here.key("n:work"), "k")
        other = here.make.instance().id.encode()
        server.hset(here.key("n:work"), "k", text.replace(batch[1].id.encode(), other))
    with caplog.at_level(logging.ERROR, logger="peerjob.store"):
        await store.check_limits()
    assert len(caplog.records) == 1
    peer = await here.join(store)
    for new in batch:
        claim = await peer.take_one()
        assert claim.id == new.id
        await peer.end(claim)
    assert await counts(store) == []


async def test_a_check_goes_on_where_the_caller_of_set_limit_died(site: MakeSite) -> None:
    here = site()
    store = await here.open(retry_for=0)
    await store.publish_limits([KindLimits(kind="work", key_concurrency=1)])
    await store.set_limit(LimitSetting(kind="work", numbers=LimitNumbers(concurrency=3)))
    with connect(here) as connected:
        server: Any = connected
        raised = server.hgetall(here.key("limits"))
        await store.set_limit(LimitSetting(kind="work", numbers=LimitNumbers()))
        for new in keyed(here, 5):
            await store.enqueue([new])
        server.hset(here.key("limits"), mapping=raised)
    await store.check_limits()
    assert await counts(store) == [("k", 3, 2)]


async def test_limits_hold_again_after_the_key_that_marks_them_was_removed(
    site: MakeSite, caplog: pytest.LogCaptureFixture
) -> None:
    here = site()
    store = await here.open(retry_for=0)
    await store.publish_limits([*shared("capped", concurrency=1), KindLimits(kind="work", key_concurrency=1)])
    await store.enqueue([*(here.make.instance(kind="capped") for _ in range(3)), *keyed(here, 3)])
    peer = await here.join(store, kinds=("capped", "work"))
    claims = await peer.take()
    assert sorted(claim.kind for claim in claims) == ["capped", "work"]
    with connect(here) as server:
        server.delete(here.key("limited"))
    for claim in claims:
        await peer.end(claim)
    with caplog.at_level(logging.ERROR, logger="peerjob.store"):
        cursor: str | None = None
        while True:
            _, cursor = await store.check_limits(cursor)
            if cursor is None:
                break
    assert "key 'limited': it was missing, so no limit held" in caplog.text
    for _ in range(2):
        claims = await peer.take()
        assert sorted(claim.kind for claim in claims) == ["capped", "work"]
        for claim in claims:
            await peer.end(claim)
    assert await counts(store) == []
    # a namespace that has no limits stays without them
    await store.publish_limits([KindLimits(kind="capped"), KindLimits(kind="work")])
    assert await store.check_limits() == (0, None)
    assert here.key("limited") not in here.all_keys()


async def test_a_check_frees_what_belongs_to_no_instance(site: MakeSite, caplog: pytest.LogCaptureFixture) -> None:
    here = site()
    store = await here.open(retry_for=0)
    await store.publish_limits([KindLimits(kind="work", key_concurrency=1)])
    gone, waiting = keyed(here, 2)
    await store.enqueue([gone, waiting])
    peer = await here.join(store)
    await peer.take_one()
    with connect(here) as server:
        server.delete(here.key(f"i:{gone.id}"))
    with caplog.at_level(logging.ERROR, logger="peerjob.store"):
        assert (await store.check_limits())[0] == 1
    assert [record.getMessage() for record in caplog.records] == ["freed 1 admissions that belonged to no instance"]
    assert await ids(peer) == [waiting.id]


async def test_a_check_frees_the_room_of_bodies_that_are_gone(site: MakeSite) -> None:
    here = site()
    store = await here.open(retry_for=0)
    await store.publish_limits(shared("work", concurrency=2))
    await store.enqueue(here.make.instances(3))
    peer = await here.join(store)
    claims = await peer.take()
    await store.cancel([claims[0].id], request=here.make.request())
    with connect(here) as server:
        server.srem(here.key("r:work"), claims[0].id)
        server.sadd(here.key("r:work"), claims[0].id, here.make.id(), claims[1].id)
    assert await ids(peer) == []
    assert (await store.check_limits())[0] == 2
    assert await ids(peer) == []
    await peer.end(claims[0], Action.RELEASE)
    assert len(await ids(peer)) == 1


async def test_a_check_that_frees_room_wakes_a_node(site: MakeSite) -> None:
    here = site()
    store = await here.open(retry_for=0)
    await store.publish_limits(shared("work", concurrency=1))
    with connect(here) as server:
        server.sadd(here.key("r:work"), here.make.id())
    await store.enqueue(here.make.instances(1))
    peer = await here.join(store)
    assert await ids(peer) == []
    assert (await store.check_limits())[0] == 1
    assert "work" in {hint.what for hint in await store.next_hints(peer.incarnation, 10)}


async def test_a_turn_offers_the_room_that_it_leaves(site: MakeSite) -> None:
    """The kinds of a limit run on different nodes: the claim of one cannot use the room that its commit made."""
    here = site()
    store = await here.open(retry_for=0)
    await store.publish_limits(shared("work", "other", concurrency=2))
    await store.enqueue([here.make.instance(), here.make.instance(), here.make.instance(kind="other")])
    peer, sleeper = await here.join(store), await here.join(store, kinds=("other",))
    claims = await peer.take()
    assert await ids(sleeper) == []
    await store.enqueue(here.make.instances(1))
    for expected in (0, 1):
        ended = [outcome(claims[expected])]
        _, claimed = await store.turn(peer.incarnation, ended, peer.want(1), request=here.make.request())
        assert len(claimed.claims) == 1 - expected
        assert await hinted(sleeper) == ["work"] * expected


async def test_the_short_claim_of_an_idle_node_keeps_limits(site: MakeSite) -> None:
    here = site()
    store = await here.open(retry_for=0)
    await store.publish_limits(
        [*shared("work", concurrency=1), *shared("other", name="rate", period_us=10**9, burst=1)]
    )
    peer = await here.join(store, kinds=("work", "other", "third"))
    await store.pause_kind("third", True)
    await store.enqueue([here.make.instance(), here.make.instance()])
    batch = [here.make.instance(kind="other"), here.make.instance(kind="other"), here.make.instance(kind="third")]
    want, claimed = peer.want(1, suspects=False), [await peer.take_one()]
    for new in batch:
        for _ in range(2):
            request = here.make.request()
            _, answer = await store.claim_on_hint(peer.incarnation, want, request=request, timeout=0)
            claimed += answer.claims if answer is not None else ()
        await store.enqueue([new])
    assert [claim.kind for claim in claimed] == ["work", "other"]


async def test_a_turn_without_a_claim_wakes_at_its_commit(site: MakeSite) -> None:
    here = site()
    store = await here.open(retry_for=0)
    await store.publish_limits(shared("work", concurrency=1))
    await store.enqueue(here.make.instances(2))
    peer, sleeper = await here.join(store), await here.join(store)
    claim = await peer.take_one()
    assert await ids(sleeper) == []
    await store.turn(peer.incarnation, [outcome(claim)], None, request=here.make.request())
    assert await hinted(sleeper) == ["work"]


async def test_an_index_finds_what_may_go(site: MakeSite) -> None:
    """A claim and a renewal pass over the heads of queues that are full or paused."""
    here = site()
    store = await here.open(retry_for=0)
    await store.publish_limits(shared(*MANY[:20], concurrency=1))
    await store.pause_kind(MANY[20], True)
    await store.enqueue([here.make.instance(kind=kind) for kind in MANY[:21]])
    peer = await here.join(store, kinds=MANY)
    (claim,) = await peer.take()
    assert await ids(peer) == []
    assert (await peer.renew(claim)).work_due is False
    last = here.make.instance(kind=MANY[-1], priority=9)
    await store.enqueue([last])
    assert (await peer.renew(claim)).work_due is True
    assert await ids(peer) == [last.id]
    assert await store.set_limit(LimitSetting(name="shared", numbers=LimitNumbers(concurrency=2)))
    assert len(await ids(peer)) == 1
    await peer.end(claim, Action.HAND_BACK)
    assert await ids(peer) == [claim.id]


async def test_an_index_finds_what_passes(site: MakeSite) -> None:
    """One that passes at once, and one that passes when the first one ends."""
    here = site()
    store = await here.open(retry_for=0)
    peer = await here.join(store, kinds=MANY)
    batch = [here.make.instance(kind=MANY[0], limit_key="k", key_concurrency=1) for _ in range(2)]
    await store.enqueue(batch)
    for new in batch:
        (claim,) = await peer.take()
        assert claim.id == new.id
        await peer.end(claim)


async def test_a_kind_that_an_index_names_twice_takes_one_start_for_each_claim(site: MakeSite) -> None:
    here = site()
    store = await here.open(retry_for=0)
    await store.publish_limits(shared(*MANY[:2], concurrency=4))
    peer = await here.join(store, kinds=MANY)
    assert await ids(peer) == []
    await store.enqueue([here.make.instance(kind=kind) for kind in MANY[:2] for _ in range(4)])
    with connect(here) as client:
        (heads,) = client.keys(here.key("head:*"))
        client.zadd(heads, {b"0" * 52 + MANY[0].encode(): 9})
    assert len(await ids(peer)) == 4


async def test_a_renewal_does_not_deny_work_behind_more_full_queues_than_it_reads(site: MakeSite) -> None:
    """The node then claims each second, so a lost hint costs a second here too."""
    here = site()
    store = await here.open(retry_for=0)
    many = [f"kind-{number:03}" for number in range(551)]
    limits = [shared(*many[n : n + 50], name=f"limit-{n}", concurrency=1) for n in range(0, 550, 50)]
    for group in limits:
        await store.publish_limits(group)
    for kinds in (many[:500], many[500:-1]):
        await store.enqueue([here.make.instance(kind=kind) for kind in kinds])
    busy, idle = await here.join(store, kinds=tuple(many)), await here.join(store, kinds=tuple(many))
    assert len(await ids(busy)) == len(limits)
    assert await ids(busy) == await ids(idle) == []
    last = here.make.instance(kind=many[-1], priority=9)
    await store.enqueue([last])
    assert sorted([(await peer.renew()).work_due for peer in (busy, idle)], key=str) == [None, True]
    assert await ids(idle) == [last.id]


async def test_a_lost_layout_is_that_of_limits_again(site: MakeSite) -> None:
    here = site()
    store = await here.open(retry_for=0)
    await store.publish_limits(shared("work", concurrency=1))
    with connect(here) as server:
        server.delete(here.key("layout"))
        await store.enqueue(here.make.instances(2))
        assert server.get(here.key("layout")) == b"3"
        server.delete(here.key("layout"))
        await here.open()
        assert server.get(here.key("layout")) == b"3"


def gate_of(here: Site, batch: Sequence[NewInstance]) -> list[object]:
    """What the server has about the keys of `work`, with the number of each instance in place of its id and time."""
    numbers = {new.id.encode(): b"%d" % at for at, new in enumerate(batch)}

    def named(text: bytes) -> bytes:
        return re.sub(
            rb"[0-9a-f-]{36}", lambda found: numbers[found[0]], re.sub(rb"\d{16}(?=[0-9a-f]|.{4}k)", b"", text)
        )

    with connect(here) as connected:
        server: Any = connected
        states = {key: named(text) for key, text in server.hgetall(here.key("n:work")).items()}
        entries = {numbers[id]: named(text) for id, text in server.hgetall(here.key("g:work")).items()}
        rows = [
            [(named(member), score) for member, score in server.zrange(here.key(name), 0, -1, withscores=True)]
            for name in ("q:work", "2:work", "w:4:workk", "w:4:workk2")
        ]
        return [states, entries, *rows, [len(server.get(here.key(f"{one}:{new.id}"))) for one in "ia" for new in batch]]


def scripts_of(store: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the scripts that a store runs durably from now on."""
    used: list[str] = []
    run = store._driver.run_durably

    async def noting(*calls: Any) -> Any:
        used.extend(name for name, _ in calls)
        return await run(*calls)

    monkeypatch.setattr(store._driver, "run_durably", noting)
    return used


@pytest.mark.parametrize("concurrency", [1, 2, 6])
async def test_an_enqueue_of_one_instance_does_at_its_gate_what_an_enqueue_of_many_does(
    site: MakeSite, concurrency: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With instances that pass, wait, and change places; the cheap script leaves the last ones to the general one."""
    found: list[list[object]] = []
    scripts: list[set[str]] = []
    for cheap in (False, True):
        here = site()
        store: Any = await here.open(retry_for=0)
        await store.publish_limits([KindLimits(kind="work", key_concurrency=concurrency)])
        used = scripts_of(store, monkeypatch)
        batch = [
            here.make.instance(limit_key=key, key_concurrency=concurrency, priority=priority)
            for priority in (5, 5, 7, 5, 3, 3, 9, -1)
            for key in ("k", "k2")
        ]
        for new in batch:
            store._cheap_script = "enqueue_one" if cheap else ""
            assert (await store.enqueue([new]))[0].is_new
        scripts.append({*used} & {"enqueue", "enqueue_keyed"})
        assert (await store.enqueue([batch[0]]))[0].repeated
        found.append(gate_of(here, batch))
    assert found[0] == found[1]
    assert scripts == [{"enqueue"}, {"enqueue", "enqueue_keyed"}]


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_an_enqueue_of_a_batch_does_at_its_gates_what_enqueues_of_one_do(
    site: MakeSite, concurrency: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With instances of new, nearly full and full keys, and more waiting ones than the entry of a key can have."""
    found: list[list[object]] = []
    for cheap in (False, True):
        here = site()
        store: Any = await here.open(retry_for=0)
        await store.publish_limits([KindLimits(kind="work", key_concurrency=concurrency)])
        used = scripts_of(store, monkeypatch)
        batches = [
            [here.make.instance(limit_key=key, key_concurrency=concurrency, priority=5) for key in keys.split()]
            for keys in (
                "k k k2",
                "k k2 k2 k2",
                "k k k k k k",
                "k k k k k2",
                " ".join(["k2"] * 9),
                " ".join(["k k2"] * 5),
            )
        ]
        for part in batches if cheap else [[new] for batch in batches for new in batch]:
            store._cheap_script = "enqueue_one" if cheap else ""
            assert all(answer.is_new for answer in await store.enqueue(part))
        assert set(used) == ({"enqueue_alike_keyed"} if cheap else {"enqueue"})
        found.append(gate_of(here, [new for batch in batches for new in batch]))
        for batch in batches:
            assert all(answer.repeated for answer in await store.enqueue(batch))
    assert found[0] == found[1]


@pytest.mark.parametrize(("priority", "in_order"), [(4, True), (5, False)], ids=["better", "in no order"])
async def test_a_batch_that_changes_places_or_is_in_no_order_has_the_general_enqueue(
    site: MakeSite, priority: int, in_order: bool
) -> None:
    here = site()
    store = await here.open(retry_for=0)
    await store.publish_limits([KindLimits(kind="work", key_concurrency=1)])
    (first,), others = keyed(here, 1), keyed(here, 2, priority=priority)
    await store.enqueue([first])
    await store.enqueue(others if in_order else others[::-1])
    peer = await here.join(store)
    for new in (*others, first) if priority < 5 else (first, *others):
        claim = await peer.take_one()
        assert claim.id == new.id
        await peer.end(claim)


async def test_a_batch_in_no_order_for_a_new_key_passes_by_id(site: MakeSite) -> None:
    here = site()
    store = await here.open(retry_for=0)
    await store.publish_limits([KindLimits(kind="work", key_concurrency=2)])
    batch = [here.make.instance(limit_key="k", key_concurrency=2) for _ in range(4)]
    await store.enqueue(batch[::-1])
    peer = await here.join(store)
    assert [claim.id for claim in await peer.take(4)] == [new.id for new in batch[:2]]


async def test_a_batch_for_the_general_enqueue_keeps_the_set_concurrency(site: MakeSite) -> None:
    here = site()
    store = await here.open(retry_for=0)
    await store.publish_limits([KindLimits(kind="work", key_concurrency=20)])
    assert await store.set_limit(LimitSetting(kind="work", numbers=LimitNumbers(concurrency=2)))
    await store.enqueue([here.make.instance(limit_key="k", key_concurrency=20, tags=("a",)) for _ in range(8)])
    with connect(here) as connected:
        server: Any = connected
        assert server.hget(here.key("n:work"), "k")[:12] == struct.pack(">III", 2, 20, 6)


@pytest.mark.parametrize("script", ["enqueue_one", ""], ids=["cheap", "general"])
@pytest.mark.parametrize("priority", [5, 4], ids=["waiting", "changing places"])
@pytest.mark.parametrize(
    ("rest", "size"), [("kinds", 1), ("kinds", 4), ("w:4:workk", 1), ("w:4:workk", 4), ("w:4:workother", 4)]
)
async def test_a_foreign_key_stops_an_enqueue_at_a_full_key_before_its_first_write(
    site: MakeSite, rest: str, priority: int, size: int, script: str
) -> None:
    here = site()
    store: Any = await here.open(retry_for=0)
    await store.publish_limits([KindLimits(kind="work", key_concurrency=1)])
    for key in ("k", "other"):
        await store.enqueue([here.make.instance(limit_key=key, key_concurrency=1, priority=5) for _ in range(12)])
    batch = keyed(here, size, priority=priority)
    batch[1:] = [replace(new, limit_key="other") if at % 2 else new for at, new in enumerate(batch[1:])]
    store._cheap_script = script
    with here.foreign(rest):
        before = here.dump()
        with pytest.raises(StoreRefusedError):
            await store.enqueue(batch)
        assert here.dump() == before
    assert not any(answer.repeated for answer in await store.enqueue(batch))


@pytest.mark.parametrize("size", [1, 4])
async def test_an_enqueue_with_limit_keys_tolerates_damaged_limits(site: MakeSite, size: int) -> None:
    here = site()
    store = await here.open(retry_for=0)
    await store.publish_limits([KindLimits(kind="work", key_concurrency=1)])
    await store.enqueue(keyed(here, 2))
    with here.foreign("limits"):
        assert all(answer.is_new for answer in await store.enqueue(keyed(here, size)))
    assert await counts(store) == [("k", 1, 1 + size)]


async def test_a_batch_with_limit_keys_wakes_an_idle_node(site: MakeSite) -> None:
    here = site()
    store = await here.open(retry_for=0)
    await store.publish_limits([KindLimits(kind="work", key_concurrency=1)])
    peer = await here.join(store)
    await peer.take(1)
    await store.enqueue(keyed(here, 2))
    assert await hinted(peer) == ["work"]


async def test_a_raised_key_admits_in_short_scripts(site: MakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also an end of a claim lets only some of the waiting ones pass, so no script takes long."""
    here = site()
    store: Any = await here.open(retry_for=0)
    await store.publish_limits([KindLimits(kind="work", key_concurrency=1)])
    await store.enqueue(keyed(here, 500))
    await store.enqueue(keyed(here, 301))
    peer = await here.join(store)
    claim = await peer.take_one()
    assert await counts(store) == [("k", 1, 800)]
    await store._driver.run(("set_limit", ("", "work", 1_000, 0, 0, "")))  # its caller died before it opened the keys
    await peer.end(claim)
    ((_, admitted, waiting),) = await counts(store)
    assert (admitted, waiting) == (201, 599)
    steps: list[int] = []
    run = store._driver.run_durably

    async def noting(*calls: Any) -> Any:
        replies = await run(*calls)
        steps.append((await counts(store))[0][2])
        return replies

    monkeypatch.setattr(store._driver, "run_durably", noting)
    assert await store.set_limit(LimitSetting(kind="work", numbers=LimitNumbers(concurrency=1_000)))
    assert [before - after for before, after in zip([599, *steps], steps, strict=False)] == [0, 200, 200, 199]


async def test_a_check_looks_at_many_kinds_in_a_page(site: MakeSite) -> None:
    """Each page reads the limits of all kinds, so a check with a page for each of many kinds would take hours."""
    here = site()
    store = await here.open(retry_for=0)
    made = [here.make.instance(kind=f"kind {number}", limit_key="k", key_concurrency=1) for number in range(1_200)]
    next_one = here.make.instance(kind=made[600].kind, limit_key="k", key_concurrency=1)
    for first in range(0, len(made), 400):
        some = made[first : first + 400]
        await store.publish_limits([KindLimits(kind=new.kind, key_concurrency=1) for new in some])
        await store.enqueue(some)
    await store.enqueue([next_one])
    with connect(here) as server:
        server.delete(*(here.key(f"i:{made[number].id}") for number in (0, 600, 1_199)))
    freed, cursor = await store.check_limits()
    pages = 1
    while cursor is not None:
        more, cursor = await store.check_limits(cursor)
        freed, pages = freed + more, pages + 1
    assert (freed, pages) == (3, 5)
    assert ("k", 1, 0) in await counts(store, next_one.kind)


@pytest.mark.parametrize("size", [1, 2, 7])
async def test_pages_of_limits_have_each_limit_once(site: MakeSite, size: int) -> None:
    """A page sorts only the entries that it can have. A limit that cannot be read is left out."""
    here = site()
    store = await here.open(retry_for=0)
    names = [f"{number:02}" for number in range(60)]
    for name in reversed(names):
        (one,) = shared(name, name=name, concurrency=1)
        await store.publish_limits([KindLimits(kind=name, shared=one.shared, key_concurrency=1)])
    with connect(here) as server:
        server.hset(here.key("limits"), mapping={f"l{name}": BAD for name in names[10:30]})
    page = await store.limits(limit=size)
    views = [*page.views]
    while page.cursor is not None:
        page = await store.limits(limit=size, cursor=page.cursor)
        assert len(page.views) <= size
        views += page.views
    assert [view.name for view in views] == [*names[:10], *names[30:], *[""] * len(names)]
    assert [view.kinds for view in views[-len(names) :]] == [(name,) for name in names]
