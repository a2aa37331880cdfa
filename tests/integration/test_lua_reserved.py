"""Data of later releases: delayed members that begin with `@` stay and are not counted; tails are bounded."""

import struct
from typing import cast

import pytest
import redis

from peerjob.model.query import Query
from peerjob.model.state import State
from support.lua_site import MakeSite, Site
from support.waiting import PATIENCE


def reserve(here: Site, count: int, at: int = 1) -> None:
    """Add members of a later release to the delayed ones, all of them long due."""
    words = [word for n in range(count) for word in (str(at), f"@stripe:{n:05d}")]
    here.server.command("ZADD", here.key("delayed"), *words)


def reserved(here: Site) -> int:
    members = here.server.command("ZRANGE", here.key("delayed"), 0, -1)
    assert isinstance(members, list)
    return sum(str(member).startswith("@") for member in members)


async def test_they_hide_nothing_that_falls_due(site: MakeSite) -> None:
    """There are more members than a claim moves."""
    here = site()
    store = await here.open()
    peer, other = await here.join(store), await here.join(store)
    reserve(here, 1500)
    claimed = await peer.claim()
    assert (claimed.claims, claimed.next_due_us) == ((), None)

    (soon,) = here.make.instances(1, delay_us=60_000_000)
    late = here.make.instance(delay_us=3_600_000_000)
    await store.enqueue([late])
    await store.enqueue([soon])
    # the new earliest one wakes a node
    assert [hint.what for hint in await store.next_hints(peer.incarnation, PATIENCE)] == ["work"]
    (record,) = await store.get([soon.id])
    assert record is not None
    assert (await other.claim()).next_due_us == record.due_us

    past = here.make.instances(20, delay_us=1)
    await store.enqueue(past)
    assert await store.due() == {"work": 20}
    assert {claim.id for claim in await peer.take()} == {new.id for new in past}
    assert reserved(here) == 1500


async def test_they_count_nowhere_and_no_clearing_removes_them(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    reserve(here, 900)
    await store.enqueue(here.make.instances(3, delay_us=60_000_000))
    health = await store.health()
    assert (health.delayed, health.undecodable) == (3, 0)
    assert await store.due() == {}
    found = (await store.lookup(Query())).records
    await store.cancel([found[0].id], request=here.make.request())
    assert (await store.health()).delayed == 2
    # a damaged record has left a member of an unknown kind, which is removed
    here.server.command("ZADD", here.key("delayed"), 1, f"{here.make.id()}-5:gone")
    await store.clear()
    health = await store.health()
    assert (health.delayed, health.counts.get("work", {}).get(State.SCHEDULED)) == (0, None)
    assert reserved(here) == 900


@pytest.mark.parametrize("size", [0, 1536, 1537])
async def test_a_tail_has_a_bound_for_scripts_and_for_readers(site: MakeSite, size: int) -> None:
    here = site()
    store = await here.open()
    peer = await here.join(store)
    (one,) = here.make.instances(1, tags=("t",))
    await store.enqueue([one])
    key = here.key(f"i:{one.id}")
    with redis.Redis(port=here.server.port) as client:
        raw = bytearray(cast(bytes, client.get(key)))
        raw[2] |= 128
        client.set(key, bytes(raw) + struct.pack(">I", size) + b"\xff" * size)
    readable = size <= 1536
    assert [claim.id for claim in await peer.take()] == [one.id] * readable
    (record,) = await store.get([one.id])
    assert (record is not None) is readable
    assert (await store.health()).undecodable == (not readable)
