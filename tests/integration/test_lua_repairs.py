"""A repair on a Redis or Valkey server has its effect, and a second repair finds nothing."""

from __future__ import annotations

import pytest
import redis

from peerjob.model.firing import Overlap
from peerjob.testing.store_conformance.timetable import ScheduleSuite, names_of
from support.lua_site import MakeSite, Site

pytestmark = pytest.mark.parametrize("site", ["redis", "valkey"], indirect=True)
rules = ScheduleSuite()


def connect(here: Site) -> redis.Redis:
    return redis.Redis(port=here.server.port)


@pytest.mark.parametrize("lost", ["latest", "both", "the key", "the type"])
async def test_a_reader_hears_of_a_removal_although_the_revisions_were_lost(site: MakeSite, lost: str) -> None:
    """The removals that the server remembers tell the latest revision: a reader ends there, and reads nothing twice."""
    here = site()
    store = await here.open(retry_for=0)
    for name in "abc":
        await rules.schedule(store, name)
    before = await store.changed_schedules(0)
    assert await store.remove_schedule("a", request=here.make.request())
    removed = (await store.changed_schedules(before.revision)).revision
    with connect(here) as server:
        key = here.key("revisions")
        if lost in ("latest", "both"):
            server.hset(key, mapping=dict.fromkeys(("latest", "floor") if lost == "both" else ("latest",), b"\xff"))
        else:
            server.delete(key)
        if lost == "the type":
            server.set(key, "foreign")
    page = await store.changed_schedules(before.revision)
    if page.reset:
        assert names_of(page.rows) == ["b", "c"]
    else:
        assert [(one.name, one.removed) for one in page.rows] == [("a", True)]
    assert page.revision == removed
    for revision in (page.revision, removed):
        after = await store.changed_schedules(revision)
        assert (after.rows, after.reset, after.revision) == ((), False, removed)


@pytest.mark.parametrize("index", ["delayed", "slots", "watched"])
async def test_a_clear_removes_the_entries_of_instances_that_vanished(site: MakeSite, index: str) -> None:
    here = site()
    store = await here.open(retry_for=0)
    peer = await here.join(store)
    await rules.schedule(store)
    if index == "slots":
        gone, _ = [(await rules.fired(store, number, overlap=Overlap.QUEUE)).instance for number in range(2)]
    else:
        late = here.make.instance(delay_us=3_600_000_000)
        await store.enqueue([late])
        await store.watch_final(peer.incarnation, [late.id])
        gone = late.id
    with connect(here) as server:
        assert server.exists(here.key(index))
        assert server.delete(here.key(f"i:{gone}"))
        assert server.zrem(here.key("2:work"), gone), "the index of its state names it no more"
        await store.clear()
        assert not server.exists(here.key(index))
        assert not server.exists(here.key("slot:s"))
    record = await rules.fired(store, 2 if index == "slots" else 0, overlap=Overlap.SKIP)
    assert await rules.held(store) == (record.instance, ())
    assert [claim.id for claim in await peer.take()] == [record.instance]
