"""Leftovers of damage, of nodes that are gone and of late calls are removed or expire."""

from typing import cast

from peerjob.model.durable import Step
from peerjob.model.query import Filter, Query
from peerjob.model.record import Ack, Action, Held, NewChild
from peerjob.store.rules import FLOWS_LAYOUT
from support.leftovers import leftovers_of
from support.lua_site import MakeSite
from support.waiting import until


async def test_a_lookup_takes_what_was_set_aside_out_of_the_index_of_its_tag(site: MakeSite) -> None:
    """An unreadable record shows no tags, so its entries in tag indexes stay until a lookup finds them."""
    here = site()
    store = await here.open()
    peer = await here.join(store)
    first, second, third = here.make.instances(3, tags=("t",))
    await store.enqueue([first, second, third])
    here.server.command("SET", here.key(f"i:{first.id}"), "junk")
    assert len(await peer.take()) == 2
    here.server.command("SET", here.key(f"i:{second.id}"), "junk")
    found = (await store.lookup(Query(tag="t"))).records
    assert [record.id for record in found] == [third.id]
    assert here.server.command("ZRANGE", here.key("t:t"), 0, -1) == [third.id]
    assert (await store.health()).undecodable == 2


async def test_clear_removes_what_was_set_aside(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    first, second, third = here.make.instances(3)
    await store.enqueue([first, second, third])
    assert await store.add_lines(first.id, [here.make.line("a line")])
    for one in (first, second):
        here.server.command("SET", here.key(f"i:{one.id}"), "junk")
    assert await store.get([first.id, second.id]) == [None, None]
    assert (await store.health()).undecodable == 2
    await store.enqueue([second])
    assert here.server.command("EXISTS", here.key(f"l:{first.id}")) == 1
    await store.clear()
    assert (await store.health()).undecodable == 0
    for what in ("bad:*", "a:*", "l:*", "i:*"):
        assert here.server.command("KEYS", here.key(what)) == []


async def test_each_key_of_what_was_set_aside_expires(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    await store.require_layout(FLOWS_LAYOUT, "steps")
    peer = await here.join(store)
    await store.enqueue(here.make.instances(1, spec=bytes(5_000)))
    claim = await peer.take_one()
    step = Step("step", b"value")
    assert await peer.end(claim, Action.REPORT, logs=(here.make.line("a line"),), steps=(step,)) is Ack.DONE
    assert await store.signal(claim.id, "approval", b"yes")
    child = NewChild(instance=here.make.instance(delay_us=3_600_000_000))
    await store.spawn(peer.incarnation, Held(claim.id, claim.fence), [child])
    here.server.command("SET", here.key(f"i:{claim.id}"), "junk")
    assert await store.get([claim.id]) == [None]
    await store.settle()
    assert await store.clear_instances(Filter()) == 1, "the end of its parent has cancelled the child"
    keys = [str(key) for key in cast("list[object]", here.server.command("KEYS", here.key(f"*{claim.id}*")))]
    assert len(keys) > 3
    assert [key for key in keys if int(str(here.server.command("PTTL", key))) < 0] == []


async def test_hints_that_a_node_has_not_read_end_with_it(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    peer = await here.join(store)
    assert await peer.take() == ()
    await store.enqueue(here.make.instances(1))
    assert here.server.command("LLEN", here.key(f"wake:{peer.incarnation}")) == 1
    await store.leave(peer.incarnation)
    assert here.server.command("KEYS", here.key("wake:*")) == []


async def test_waiters_that_are_gone_are_forgotten(site: MakeSite) -> None:
    """An instance that never ends does not collect the nodes that waited for it, one after the other."""
    here = site()
    store = await here.open()
    (late,) = here.make.instances(1, delay_us=3_600_000_000)
    await store.enqueue([late])
    last = ""
    for _ in range(5):
        waiter = await here.join(store)
        await store.watch_final(waiter.incarnation, [late.id])
        last = waiter.incarnation
        await store.leave(waiter.incarnation)
    stays = await here.join(store)
    await store.watch_final(stays.incarnation, [late.id])
    other = await here.join(store)
    await store.watch_final(other.incarnation, [late.id])
    await store.watch_final(stays.incarnation, [late.id])
    watching = str(here.server.command("HGET", here.key("watched"), late.id)).split()
    assert sorted(watching) == sorted([stays.incarnation, other.incarnation])
    assert last not in watching
    await store.cancel([late.id], request=here.make.request())
    for peer in (stays, other):
        assert ("final", late.id) in [(hint.what, hint.id) for hint in await store.next_hints(peer.incarnation, 5)]


async def test_a_node_that_leaves_after_it_was_marked_dead_leaves_nothing_for_ever(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    reaper, mortal = await here.join(store), await here.join(store, ttl_us=200_000)
    await store.enqueue(here.make.instances(3, max_crashes=10))
    claims = await mortal.take()
    for claim in claims:
        await mortal.report(claim, started=True)

    async def is_reaped() -> bool:
        await reaper.renew()
        return bool(await store.reap(1, reaper=reaper.incarnation))

    await until(is_reaped)
    assert await store.leave(mortal.incarnation) == 2
    charged = here.key(f"charged:{mortal.incarnation}")
    assert here.server.command("SCARD", charged) == 3
    assert int(str(here.server.command("PTTL", charged))) > 0


async def test_a_report_that_comes_after_the_node_left_is_no_key_for_ever(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    peer = await here.join(store)
    await store.enqueue(here.make.instances(1))
    claim = await peer.take_one()
    await peer.end(claim)
    await store.leave(peer.incarnation)
    here.server.command("DEL", here.key(f"req:{peer.incarnation}"))  # as if it had expired
    assert await peer.end(claim, Action.REPORT, logs=(here.make.line("late"),)) is Ack.DONE
    assert int(str(here.server.command("PTTL", here.key(f"req:{peer.incarnation}")))) > 0
    await store.clear()
    await store.expire(100)
    assert list(await leftovers_of(store)) == []


async def test_a_layout_that_was_lost_comes_back_with_the_next_write(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    here.server.command("FLUSHALL")
    await here.join(store)
    assert here.server.command("EXISTS", here.key("layout")) == 1
