"""One damaged value on a Redis or Valkey server costs nothing but itself, and the store mends what it can."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable

import pytest
import redis

from peerjob.model.errors import StoreRefusedError
from peerjob.model.findings import Severity
from peerjob.model.firing import Candidate, Fire, FireOutcome, FireStatus, SchedulePut, Term
from peerjob.model.published import DIGEST_BYTES, KindDescriptor
from peerjob.model.query import Filter, Query
from peerjob.model.record import Ack, Action, Record, Want
from peerjob.model.state import State
from peerjob.store.lua.check.diagnosis import diagnose_lua
from peerjob.store.lua.store import LuaStore
from peerjob.testing.factories import LONG_TTL_US, outcome
from support.lua_site import MakeSite, Site

BAD = b"\x80\xff"
TOO_LARGE = b"9" * 400
VALUES = (BAD, b"", b"-1", TOO_LARGE)
pytestmark = pytest.mark.parametrize("site", ["redis", "valkey"], indirect=True)


def connect(here: Site) -> redis.Redis:
    return redis.Redis(port=here.server.port)


def change(here: Site, key: str, old: bytes, new: bytes) -> None:
    """Replace bytes of a stored string."""
    with connect(here) as server:
        value = server.get(here.key(key))
        assert isinstance(value, bytes)
        assert old in value
        server.set(here.key(key), value.replace(old, new))


async def damaged(store: LuaStore) -> int:
    return (await store.health()).undecodable


# -- records


@pytest.mark.parametrize("what", ["tag", "key", "history", "entries", "fence", "retention"])
async def test_a_claim_sets_a_damaged_record_aside_and_takes_the_others(site: MakeSite, what: str) -> None:
    here = site()
    store = await here.open(retry_for=0)
    peer, make = await here.join(store), here.make
    bad = make.instance(priority=-5, tags=("QQQQ",), key="KKKK", retention_us=4242)
    batch = [bad, *make.instances(9)]
    await store.enqueue(batch, node="NNNN")
    damages = {"tag": (b"QQQQ", b"\x80QQQ"), "key": (b"KKKK", b"K\xffKK"), "history": (b"NNNN", b"\xc3NNN")}
    if what in damages:
        change(here, f"i:{bad.id}", *damages[what])
    else:
        place, value = {
            "fence": (17, b"\x7e\x37\xe4\x3c\x88\x00\x75\x9c"),  # 1e300
            "entries": (3, b"\xff\xff"),  # more entries than the history has
            "retention": (49, b"\x7f\xf8\x00\x00\x00\x00\x00\x00"),  # NaN
        }[what]
        with connect(here) as server:
            server.setrange(here.key(f"i:{bad.id}"), place, value)
    claims = (await store.claim(peer.incarnation, peer.want(10), request=make.request())).claims
    assert {one.id for one in claims} == {one.id for one in batch[1:]}
    assert await damaged(store) == 1
    assert await peer.commit(*map(outcome, claims)) == [Ack.DONE] * 9
    assert (await store.lookup(Query(tag="QQQQ"))).records == ()


@pytest.mark.parametrize("kinds", [("work",), tuple(f"kind {number}" for number in range(40))])
async def test_an_unreadable_suspect_delays_no_other_instance(site: MakeSite, kinds: tuple[str, ...]) -> None:
    here = site()
    store = await here.open(retry_for=0)
    peer, make = await here.join(store, kinds=kinds), here.make
    suspects = [make.instance(kind=kinds[0], crashes=3, max_crashes=9, priority=1) for _ in range(3)]
    first, other = make.instance(kind=kinds[-1], priority=0), make.instance(kind=kinds[-1])
    await store.enqueue([first, *suspects, other])
    with connect(here) as server:
        for bad in (first, *suspects[:2]):
            server.set(here.key(f"i:{bad.id}"), BAD)
    found = [[claim.id for claim in await peer.take()] for _ in range(3)]
    assert found[:2] in ([[suspects[2].id], [other.id]], [[other.id], [suspects[2].id]])
    assert found[2] == []
    assert await damaged(store) == 3


async def test_a_read_sets_nothing_aside_that_a_claim_takes(site: MakeSite) -> None:
    """The damaged name of a live node does not come into histories."""
    here = site()
    store = await here.open(retry_for=0)
    peer, make = await here.join(store), here.make
    with connect(here) as server:
        server.hset(here.key(f"node:{peer.incarnation}"), "name", BAD)
    batch = make.instances(12)
    await store.enqueue(batch[:10])
    claims = [*(await peer.take(9)), *(await peer.take(1))]
    retried = [outcome(one, Action.RETRY) for one in claims[:5]]
    ended = [outcome(one, Action.COMPLETE) for one in claims[5:]]
    assert await peer.commit(*retried, *ended) == [Ack.DONE] * 10
    await store.enqueue(batch[10:])
    hinted, claimed = await store.claim_on_hint(peer.incarnation, peer.want(1), request=make.request(), timeout=0)
    assert hinted is not None
    assert claimed is not None
    assert len(claimed.claims) == 1
    assert len((await store.lookup(Query(limit=100))).records) == 12
    assert await store.leave(peer.incarnation) == 1
    assert len((await store.lookup(Query(limit=100))).records) == 12
    assert await damaged(store) == 0


async def test_a_reap_tells_of_a_node_whose_name_is_damaged(site: MakeSite) -> None:
    here = site()
    store = await here.open(retry_for=0)
    dead, reaper = await here.join(store), await here.join(store)
    await store.enqueue(here.make.instances(3))
    assert len(await dead.take(3)) == 3
    with connect(here) as server:
        server.hset(here.key(f"node:{dead.incarnation}"), "name", BAD)
        server.zadd(here.key("leases"), {dead.incarnation: 1})
        server.hset(here.key(f"node:{dead.incarnation}"), mapping={"renewed": 0, "steady": 0})
    assert len(await store.reap(10, reaper=reaper.incarnation)) == 3
    assert len((await store.lookup(Query(state=State.SCHEDULED))).records) == 3


async def test_a_wrong_entry_of_a_queue_does_not_touch_its_instance(site: MakeSite) -> None:
    here = site()
    store = await here.open(retry_for=0)
    peer, make = await here.join(store), here.make
    batch = make.instances(3)
    await store.enqueue(batch)
    (first, *_) = await peer.take(1)
    with connect(here) as server:
        server.zadd(here.key("q:work"), {f"{1:016d}{first.id}".encode(): -9, b"\x80" * 52: -9})
    assert {one.id for one in await peer.take(5)} == {one.id for one in batch[1:]}
    assert await damaged(store) == 2
    assert await peer.commit(outcome(first)) == [Ack.DONE]


async def test_an_unknown_action_is_an_error(site: MakeSite) -> None:
    here = site()
    store = await here.open(retry_for=0)
    peer = await here.join(store)
    await store.enqueue(here.make.instances(1))
    claim = await peer.take_one()
    before = here.dump()
    arguments = (peer.incarnation, "commit", here.make.request(), 1, 1, 1, 1, 1, claim.id, claim.fence, "Q")
    with pytest.raises(StoreRefusedError, match="action"):
        await vars(store)["_driver"].run(("commit", arguments))
    assert here.dump() == before


# -- claims


DAMAGED_ENTRIES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda entry: entry[:8],
    "empty": lambda entry: b"",
    "no text": lambda entry: BAD + entry[2:],
    "flipped": lambda entry: bytes([entry[0] ^ 3]) + entry[1:],
    "large": lambda entry: TOO_LARGE,
}


@pytest.mark.parametrize("damage", [*DAMAGED_ENTRIES, "id", "type"])
async def test_the_record_decides_about_a_damaged_claim(
    site: MakeSite, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    here = site()
    store = await here.open(retry_for=0)
    peer = await here.join(store)
    await store.enqueue(here.make.instances(4))
    claims = await peer.take(4)
    own, id = here.key(f"own:{peer.incarnation}"), claims[1].id

    def spoil() -> None:
        with connect(here) as server:
            entry = server.hget(own, id)
            if damage == "type":
                server.delete(own)
                server.set(own, "foreign")
            elif damage == "id":
                assert isinstance(entry, bytes)
                server.hdel(own, id)
                server.hset(own, BAD + id.encode()[2:], entry)
            else:
                assert isinstance(entry, bytes)
                server.hset(own, id, DAMAGED_ENTRIES[damage](entry))

    if damage != "type":
        spoil()
        assert await peer.commit(outcome(claims[1])) == [Ack.DONE], "the record has the fence"
        assert await peer.commit(outcome(claims[0])) == [Ack.DONE]
        id = claims[2].id
    spoil()
    left = claims if damage == "type" else claims[2:]
    with caplog.at_level(logging.ERROR, "peerjob.store"):
        for _ in range(2):
            renewed = await peer.renew()
            assert renewed.held is None or {(one.id, one.fence) for one in renewed.held} == {
                (one.id, one.fence) for one in left
            }
    assert len([one for one in caplog.records if "damaged entries" in one.getMessage()]) == 1
    assert await peer.commit(*map(outcome, left)) == [Ack.DONE] * len(left)
    assert await damaged(store) > 0


async def test_a_claim_with_a_damaged_id_ends_and_leaves_no_entry(site: MakeSite) -> None:
    here = site()
    store = await here.open(retry_for=0)
    peer = await here.join(store)
    await store.enqueue(here.make.instances(2))
    first, second = await peer.take(2)
    own = here.key(f"own:{peer.incarnation}")
    with connect(here) as server:
        server.hset(own, BAD + first.id.encode()[2:], server.hget(own, first.id) or b"")
        server.hdel(own, first.id)
        assert (await peer.renew(first, second)).held is None
        assert await peer.commit(outcome(first)) == [Ack.DONE]
        renewed = await peer.renew(second)
        assert renewed.held is None
        assert server.hkeys(own) == [second.id.encode()]


@pytest.mark.parametrize("damage", [*DAMAGED_ENTRIES, "type", "id"])
async def test_claims_with_damaged_entries_are_taken_back(site: MakeSite, damage: str) -> None:
    here = site()
    store = await here.open(retry_for=0)
    peer = await here.join(store)
    batch = here.make.instances(4)
    await store.enqueue(batch)
    claims = await peer.take(4)
    own = here.key(f"own:{peer.incarnation}")
    assert await store.cancel([claims[3].id], request=here.make.request()) == [State.PROCESSING]
    with connect(here) as server:
        if damage == "type":
            server.delete(own)
            server.rpush(own, "foreign")
        elif damage == "id":
            server.hset(own, b"\xff" + claims[1].id.encode()[1:], server.hget(own, claims[1].id) or b"")
            server.hdel(own, claims[1].id)
        else:
            for n in (1, 3):
                entry = server.hget(own, claims[n].id)
                assert isinstance(entry, bytes)
                server.hset(own, claims[n].id, DAMAGED_ENTRIES[damage](entry))
    if damage in DAMAGED_ENTRIES:
        assert await store.cancel([claims[1].id], request=here.make.request()) == [State.PROCESSING]
    await store.leave(peer.incarnation)
    states = {one.id: one.state for one in await store.get([one.id for one in batch]) if one}
    assert states[batch[0].id] == states[batch[2].id] == State.SCHEDULED
    assert states[batch[3].id] == State.CANCELLED
    assert states[batch[1].id] == (State.CANCELLED if damage in DAMAGED_ENTRIES else State.SCHEDULED)


async def test_the_record_decides_whether_a_claim_is_released(site: MakeSite) -> None:
    """The letters of the entries are damaged: `r` is missing or wrong."""
    here = site()
    store = await here.open(retry_for=0)
    peer, make = await here.join(store), here.make
    batch = [make.instance(key=str(n)) for n in range(4)]
    await store.enqueue(batch)
    claims = await peer.take(4)
    await store.cancel([one.id for one in claims[:2]], request=make.request())
    with connect(here) as server:
        for one in claims:
            own = here.key(f"own:{peer.incarnation}")
            entry = server.hget(own, one.id)
            assert isinstance(entry, bytes)
            right, wrong = (b"r ", b"s ") if one in claims[:2] else (b" ", b"r ")
            server.hset(own, one.id, entry.replace(right, wrong, 1))
    ends = [outcome(one) for one in (claims[0], claims[2])]
    assert await peer.commit(*ends) == [Ack.CANCELLED, Ack.DONE]
    assert await store.leave(peer.incarnation) == 2
    assert (await store.health()).counts["work"] == {State.SCHEDULED: 1, State.CANCELLED: 2, State.COMPLETED: 1}
    again = [make.instance(key=str(n)) for n in range(3)]
    assert [one.is_new for one in await store.enqueue(again)] == [True] * 3, "each unique key is free"


async def test_a_claim_whose_record_names_a_wrong_owner_ends(site: MakeSite) -> None:
    here = site()
    store = await here.open(retry_for=0)
    peer = await here.join(store)
    await store.enqueue(here.make.instances(2))
    claims = await peer.take(2)
    for one in claims:
        change(here, f"i:{one.id}", peer.incarnation.encode(), b"x" + peer.incarnation.encode()[1:])
    assert await peer.commit(outcome(claims[0])) == [Ack.DONE]
    assert await store.leave(peer.incarnation) == 1
    assert (await store.health()).counts["work"] == {State.SCHEDULED: 1, State.COMPLETED: 1}


async def test_damaged_answers_to_requests_stop_no_claim(site: MakeSite) -> None:
    here = site()
    store = await here.open(retry_for=0)
    peer, make = await here.join(store), here.make
    with connect(here) as server:
        server.hset(here.key(f"req:{peer.incarnation}"), mapping={"hint-claim": BAD, "commit": BAD, "claim": BAD})
    await store.enqueue(make.instances(3))
    _, claimed = await store.claim_on_hint(peer.incarnation, peer.want(2), request=make.request(), timeout=0)
    assert claimed is not None
    assert len(claimed.claims) == 2
    assert await peer.commit(*map(outcome, claimed.claims)) == [Ack.DONE] * 2


async def test_a_damaged_time_of_a_node_ends_no_lease(site: MakeSite) -> None:
    here = site()
    store = await here.open(retry_for=0)
    peer, other = await here.join(store), await here.join(store)
    for field, value in itertools.product(("renewed", "steady", "ttl", "running"), VALUES):
        with connect(here) as server:
            server.hset(here.key(f"node:{peer.incarnation}"), field, value)
            server.zadd(here.key("leases"), {"x" * 36: 1})
        assert {one.info.incarnation for one in await store.nodes()} >= {other.incarnation}
        assert await store.reap(10, reaper=peer.incarnation) == []
        assert not (await peer.renew()).dead
        assert not (await other.renew()).dead
        assert {one.info.incarnation for one in await store.nodes()} == {peer.incarnation, other.incarnation}


@pytest.mark.parametrize("score", ["1e300", "-1e300", "gone"])
async def test_a_damaged_lease_is_mended(site: MakeSite, score: str) -> None:
    here = site()
    store = await here.open(retry_for=0)
    peer, other = await here.join(store), await here.join(store)
    await store.enqueue(here.make.instances(1))
    claim = await peer.take_one()
    with connect(here) as server:
        if score == "gone":
            server.zrem(here.key("leases"), peer.incarnation)
        else:
            server.zadd(here.key("leases"), {peer.incarnation: float(score)})
    assert not (await other.renew()).dead
    assert await store.reap(10, reaper=other.incarnation) == []
    assert not (await peer.renew()).dead
    assert await peer.commit(outcome(claim)) == [Ack.DONE]


# -- indexes


async def test_wrong_entries_of_indexes_hide_nothing(site: MakeSite, caplog: pytest.LogCaptureFixture) -> None:
    here = site()
    store = await here.open(retry_for=0)
    peer, make = await here.join(store), here.make
    batch = [make.instance(tags=("tag",)) for _ in range(6)]
    await store.enqueue(batch)
    await peer.commit(*map(outcome, await peer.take(3)))
    indexes = ("2:work", "32:work", "t:tag")
    with connect(here) as server:
        for index in indexes:
            server.zadd(here.key(index), {BAD: 0, b"": 0, b"\xff" * 36: 0})
        server.hset(here.key("kinds"), BAD, "")
    with caplog.at_level(logging.ERROR, "peerjob.store"):
        for order in ("asc", "desc"):
            for query in (Query(order=order), Query(kind="work", order=order), Query(tag="tag", order=order)):
                assert len((await store.lookup(query)).records) == 6
        found: list[Record] = []
        cursor = None
        while True:
            page = await store.lookup(Query(limit=1, cursor=cursor))
            found += page.records
            if (cursor := page.cursor) is None:
                break
    assert [one.id for one in found] == [one.id for one in batch]
    assert await damaged(store) == 9
    assert len([one for one in caplog.records if "no id" in one.getMessage()]) == 9
    assert await store.due() == {"work": 3}
    with connect(here) as server:
        server.zadd(here.key("32:work"), {BAD: 0})
    assert await store.clear_instances(Filter()) == 3
    assert await store.expire(10) == 0
    assert await damaged(store) == 11
    assert (await store.health()).counts == {"work": {State.SCHEDULED: 3}}


async def test_a_damaged_count_begins_again(site: MakeSite) -> None:
    here = site()
    store = await here.open(retry_for=0)
    peer = await here.join(store)
    batch = here.make.instances(2)
    await store.enqueue(batch)
    with connect(here) as server:
        server.set(here.key("asides"), BAD)
        server.set(here.key("indexed"), BAD)
        server.set(here.key(f"i:{batch[0].id}"), BAD)
    assert await damaged(store) == 0
    assert [one.id for one in await peer.take(2)] == [batch[1].id]
    assert await damaged(store) == 1
    many = tuple(f"kind-{n}" for n in range(40))
    want = Want(kinds=dict.fromkeys(many, 1), limit=1)
    assert not (await store.claim(peer.incarnation, want, request=here.make.request())).dead


# -- coordination


async def test_an_unreadable_leader_is_none(site: MakeSite) -> None:
    here = site()
    store = await here.open(retry_for=0)
    elections = store.elections()
    await elections.open()
    here.cleanup.push_async_callback(elections.close)
    one, other = (Candidate(incarnation=here.make.id(), name=name) for name in "ab")
    await add(store, "s")
    fields = ("incarnation", "name", "term", "since", "ttl", "type", "terms", "type of terms")
    for field, value in itertools.product(fields, (BAD, b"", TOO_LARGE)):
        await elections.resign(one.incarnation)
        first = await elections.campaign(one, ttl_us=LONG_TTL_US)
        assert first.incarnation == one.incarnation, (field, value)
        with connect(here) as server:
            if field.startswith("type"):
                key = here.key("leader" if field == "type" else "terms")
                server.delete(key)
                server.set(key, value)
            elif field == "terms":
                server.hset(here.key("terms"), "store", value)
            else:
                server.hset(here.key("leader"), field, value)
        found = await elections.campaign(one, ttl_us=LONG_TTL_US)
        assert await elections.leader() == found
        assert found.term.number >= first.term.number
        assert await fire(here, store, "s", term=found.term) is FireStatus.DONE, (field, value)
        if (field, value) == ("incarnation", TOO_LARGE):
            await elections.resign(TOO_LARGE.decode())
            found = await elections.campaign(one, ttl_us=LONG_TTL_US)
        await elections.resign(found.incarnation)
        again = await elections.campaign(other, ttl_us=LONG_TTL_US)
        assert again.name == "b"
        assert again.term.number > found.term.number
        await elections.resign(other.incarnation)


async def add(store: LuaStore, name: str, expected: int = 0) -> int:
    put = SchedulePut(name=name, kind="work", definition=b"d", next_us=1_000, expected=expected)
    row = await store.put_schedule(put)
    assert row is not None
    return row.revision


async def fire(here: Site, store: LuaStore, name: str, *, term: Term | None = None) -> FireStatus:
    (row,) = await store.get_schedules([name])
    assert row is not None
    one = Fire(
        schedule=name,
        revision=row.revision,
        nominal_us=row.next_us or 0,
        next_us=(row.next_us or 0) + 1_000,
        outcome=FireOutcome.MISSED,
        request=here.make.id(),
    )
    (answer,) = await store.fire([one], term=term)
    return answer.status


@pytest.mark.parametrize("value", [*VALUES, None])
async def test_an_unreadable_revision_is_mended(site: MakeSite, value: bytes | None) -> None:
    here = site()
    store = await here.open(retry_for=0)
    revisions = [await add(store, name) for name in "abc"]
    with connect(here) as server:
        if value is None:
            server.delete(here.key("revisions"))
            server.set(here.key("revisions"), "foreign")
        else:
            server.hset(here.key("revisions"), mapping={"latest": value, "floor": value})
    page = await store.changed_schedules(0)
    assert [one.name for one in page.rows] == ["a", "b", "c"]
    assert page.revision == revisions[2]
    assert (await store.changed_schedules(page.revision)).rows == ()
    assert await store.remove_schedule("a", request=here.make.request())
    assert await add(store, "d") > revisions[2]
    changed = await store.changed_schedules(page.revision)
    assert {(one.name, one.removed) for one in changed.rows} >= {("a", True), ("d", False)} or changed.reset
    with connect(here) as server:
        latest = server.hget(here.key("revisions"), "latest")
    assert isinstance(latest, bytes)
    assert int(latest) > revisions[2]


async def test_an_unreadable_schedule_is_left_out(site: MakeSite, caplog: pytest.LogCaptureFixture) -> None:
    here = site()
    store = await here.open(retry_for=0)
    for name in "abc":
        await add(store, name)
    fields = ("kind", "definition", "revision", "next", "paused", "note", "created", "updated", "last", "trimmed")
    for field, value in itertools.product(fields, (BAD, None)):
        with connect(here) as server:
            if value is None:
                server.hdel(here.key("schedule:b"), field)
            else:
                server.hset(here.key("schedule:b"), field, value)
        readable = ["a", "b", "c"] if (field, value) == ("definition", BAD) else ["a", "c"]
        with caplog.at_level(logging.ERROR, "peerjob.store"):
            for _ in range(2):
                assert sorted(one.name for one in (await store.changed_schedules(0)).rows) == readable
                assert [one.name for one in await store.get_schedules(["a", "b", "c"]) if one] == readable
                assert await damaged(store) == 3 - len(readable)
        assert await fire(here, store, "a") is FireStatus.DONE
        if len(readable) == 2:
            await add(store, "b")
            assert len([one for one in await store.get_schedules(["a", "b", "c"]) if one]) == 3
            assert await fire(here, store, "b") is FireStatus.DONE
    assert len([one for one in caplog.records if "'b'" in one.getMessage()]) == 1


async def test_a_damaged_schedule_of_a_call_stops_no_other_fire(site: MakeSite) -> None:
    here = site()
    store = await here.open(retry_for=0)
    revisions = {name: await add(store, name) for name in "abc"}
    with connect(here) as server:
        server.hset(here.key("schedule:b"), mapping={"last": BAD, "trimmed": BAD, "stretch": BAD})
        server.zadd(here.key("gaps:c"), {b"\x82\xaanominal_us\xa0\xa5count\xa1x": 500})
        server.zadd(here.key("fired:c"), {BAD: 1_000})
    fires = [
        Fire(
            schedule=name,
            revision=revision,
            nominal_us=1_000,
            next_us=2_000,
            outcome=FireOutcome.MISSED,
            request=here.make.id(),
        )
        for name, revision in revisions.items()
    ]
    assert [one.status for one in await store.fire(fires, term=None)] == [FireStatus.DONE] * 3
    assert len((await store.fires("c")).records) == 1


# -- kinds, descriptors, hints, activity


@pytest.mark.parametrize("size", [3, 24, 30])
async def test_a_cut_descriptor_is_left_out_and_published_again(
    site: MakeSite, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    here = site()
    store = await here.open(retry_for=0)
    one, other = (
        KindDescriptor(kind=kind, digest=kind.encode() * DIGEST_BYTES, body=b"body of it", schema=b"schema")
        for kind in "ab"
    )
    await store.publish_descriptors([one, other])
    with connect(here) as server:
        stored = server.hget(here.key("descriptors"), "a")
        assert isinstance(stored, bytes)
        server.hset(here.key("descriptors"), "a", stored[:size])
    with caplog.at_level(logging.ERROR, "peerjob.store"):
        for _ in range(2):
            assert await store.descriptors(["a", "b"]) == [(), (other,)]
            assert await damaged(store) == 1
    assert len([line for line in caplog.records if "descriptor" in line.getMessage()]) == 1
    await store.publish_descriptors([one, other])
    assert await store.descriptors(["a", "b"]) == [(one,), (other,)]
    assert await damaged(store) == 0


async def test_a_damaged_hint_hides_no_other(site: MakeSite) -> None:
    here = site()
    store = await here.open(retry_for=0)
    peer = await here.join(store)
    with connect(here) as server:
        server.rpush(here.key(f"wake:{peer.incarnation}"), BAD, b"", b"?x", b"w")
    assert [one.what for one in await store.next_hints(peer.incarnation, 0)] == ["work"]


# -- keys of another type


async def test_a_check_names_the_keys_of_another_type(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    peer = await here.join(store)
    await store.enqueue(here.make.instances(3))
    await peer.take(1)
    await add(store, "s")
    assert not [one for one in await diagnose_lua(here.server.url, here.namespace) if one.subject == "keys"]
    with connect(here) as server:
        for key in ("q:work", "revisions"):
            server.delete(here.key(key))
            server.rpush(here.key(key), "foreign")
    found = [one for one in await diagnose_lua(here.server.url, here.namespace) if one.subject == "keys"]
    assert [one.text.split(" is ")[0] for one in found] == [here.key("q:work"), here.key("revisions")]
    assert {one.verdict for one in found} == {Severity.FAIL}
    assert "a list, not a zset" in found[0].text


async def test_a_claim_that_was_set_aside_is_counted_once(site: MakeSite) -> None:
    here = site()
    store = await here.open(retry_for=0)
    peer, make = await here.join(store), here.make
    first, second = batch = make.instances(2)
    await store.enqueue(batch)
    claims = (await store.claim(peer.incarnation, peer.want(2), request=make.request())).claims
    with connect(here) as server:
        for new in batch:
            server.set(here.key(f"i:{new.id}"), BAD)
    assert await store.get([first.id, second.id]) == [None, None]
    by_id = {claim.id: claim for claim in claims}
    assert await peer.end(by_id[first.id]) is Ack.LOST
    await store.leave(peer.incarnation)
    assert await damaged(store) == 2
