"""Steps, waits and children on Redis and Valkey: what the format and the scripts of this engine could break."""

import struct
from typing import cast

import pytest
import redis
from msgspec.structs import replace

from peerjob.model.durable import MAX_SETTLED, Need, Step, Wait
from peerjob.model.errors import StoreError
from peerjob.model.record import Ack, Action, Claim, Held, NewChild, StoreLimits
from peerjob.model.state import State
from peerjob.store.lua.commands.thread import unpack_thread
from peerjob.store.lua.store import LuaStore
from peerjob.store.rules import FLOWS_LAYOUT
from peerjob.testing.factories import Peer, outcome
from support.lua_site import MakeSite, Site
from support.waiting import PATIENCE

LATER = b"\x07\x00\x05later"
"""An entry of a later release in the tail of a record."""


async def opened(here: Site) -> LuaStore:
    store = await here.open()
    await store.require_layout(FLOWS_LAYOUT, "steps")
    return store


async def parent_of(here: Site, peer: Peer, *children: NewChild) -> Claim:
    """A running instance with these children."""
    await peer.store.enqueue(here.make.instances(1))
    claim = await peer.take_one()
    await peer.store.spawn(peer.incarnation, Held(claim.id, claim.fence), children)
    return claim


def child(here: Site, *needs: Need, more: bool = False) -> NewChild:
    return NewChild(instance=here.make.instance(), needs=needs, more=more)


def damage_thread(here: Site, id: str) -> None:
    """Write another size into the thread of a record, which is all of its tail."""
    with redis.Redis(port=here.server.port) as client:
        raw = bytearray(cast(bytes, client.get(here.key(f"i:{id}"))))
        at = max(
            at
            for at in range(len(raw))
            if raw[at] == 1 and len(raw) - at == struct.unpack_from(">H", raw, at + 1)[0] + 3
        )
        raw[at + 2] ^= 255
        client.set(here.key(f"i:{id}"), bytes(raw))


async def test_a_thread_keeps_the_tail_of_a_later_release(site: MakeSite) -> None:
    here = site()
    store = await opened(here)
    peer = await here.join(store)
    (new,) = here.make.instances(1, tags=("t",))
    await store.enqueue([new])
    with redis.Redis(port=here.server.port) as client:
        key = here.key(f"i:{new.id}")
        raw = bytearray(cast(bytes, client.get(key)))
        raw[2] |= 128
        client.set(key, bytes(raw) + struct.pack(">I", len(LATER)) + LATER)
        claim = await peer.take_one()
        assert not claim.linked
        assert await peer.report(claim, steps=(Step("a", b"1"),)) is Ack.DONE
        assert await peer.suspend(claim, Wait(signals=("go",))) is Ack.DONE
        assert bytes(cast(bytes, client.get(key))).endswith(LATER)
        await store.signal(new.id, "go", b"")
        assert await peer.end(await peer.take_one()) is Ack.DONE
        assert bytes(cast(bytes, client.get(key))).endswith(LATER)


async def test_a_lost_layout_comes_back_with_the_first_script(site: MakeSite) -> None:
    here = site()
    store = await opened(here)
    here.server.command("DEL", here.key("layout"))
    await store.enqueue(here.make.instances(1))
    assert here.server.command("GET", here.key("layout")) == str(FLOWS_LAYOUT)
    here.server.command("DEL", here.key("layout"))
    await here.open()
    assert here.server.command("GET", here.key("layout")) == str(FLOWS_LAYOUT)


async def test_a_server_without_its_data_gets_the_layout_at_the_next_step(site: MakeSite) -> None:
    here = site()
    store = await opened(here)
    here.server.command("FLUSHALL")
    peer = await here.join(store)
    await store.enqueue(here.make.instances(1))
    claim = await peer.take_one()
    assert here.server.command("GET", here.key("layout")) == "2"
    assert await peer.report(claim, steps=(Step("a", b"1"),)) is Ack.DONE
    assert here.server.command("GET", here.key("layout")) == str(FLOWS_LAYOUT)


async def test_the_turn_of_a_node_that_does_not_know_of_a_thread(site: MakeSite) -> None:
    """The claim of the turn has run before the commit, which then wakes a node for what is left."""
    here = site()
    store = await opened(here)
    peer = await here.join(store)
    await store.enqueue(here.make.instances(2))
    claim = await peer.take_one()
    assert await peer.report(claim, steps=(Step("a", b"1"),)) is Ack.DONE
    request = here.make.request()
    for _ in range(2):
        acks, claimed = await store.turn(
            peer.incarnation, [outcome(claim, linked=False)], peer.want(1), request=request
        )
        assert (acks, len(claimed.claims)) == ([Ack.DONE], 1)
    assert [record and record.state for record in await store.get([claim.id])] == [State.COMPLETED]


async def test_a_child_has_one_edge_however_often_its_parent_waits(site: MakeSite) -> None:
    here = site()
    store = await opened(here)
    peer = await here.join(store)
    one = child(here)
    claim = await parent_of(here, peer, one)
    (running,) = await peer.take()
    for name in ("a", "b", "c"):
        wait = Wait(signals=(name,), needs=True)
        assert await peer.suspend(claim, wait, needs=(Need(one.instance.id),)) is Ack.DONE
        assert here.server.command("ZCARD", here.key(f"d:{one.instance.id}")) == 1
        await store.signal(claim.id, name, b"")
        claim = await peer.take_one()
    assert await peer.suspend(claim, Wait(needs=True), needs=(Need(one.instance.id),)) is Ack.DONE
    assert await peer.take() == ()
    assert await peer.end(running) is Ack.DONE
    assert (await peer.take_one()).id == claim.id


async def test_a_turn_claims_the_instance_that_it_hands_back(site: MakeSite) -> None:
    """A signal came during the run, so the node does not know that the instance has a thread."""
    here = site()
    store = await opened(here)
    peer = await here.join(store)
    await store.enqueue(here.make.instances(1))
    claim = await peer.take_one()
    await store.signal(claim.id, "go", b"1")
    request, fences = here.make.request(), set[int]()
    for _ in range(2):
        given = outcome(claim, Action.HAND_BACK, linked=False)
        acks, claimed = await store.turn(peer.incarnation, [given], peer.want(1), request=request)
        assert (acks, claimed.next_due_us) == ([Ack.DONE], None)
        assert [again.id for again in claimed.claims] == [claim.id]
        fences.add(claimed.claims[0].fence)
    assert len(fences) == 1


@pytest.mark.parametrize("script", ["commit", "commit_linked"])
@pytest.mark.parametrize("letters", ["Y", "Cy"])
async def test_an_unknown_letter_of_an_outcome_writes_nothing(site: MakeSite, script: str, letters: str) -> None:
    here = site()
    store = await opened(here)
    peer = await here.join(store)
    await store.enqueue(here.make.instances(2))
    first, second = await peer.take()
    before = here.dump()
    arguments = (peer.incarnation, "commit", "r", 1, 1, 1, 1, 2, first.id, first.fence, "C")
    with pytest.raises(StoreError, match="outcome has the"):
        await store._run(script, *arguments, second.id, second.fence, letters, "1")  # pyright: ignore[reportPrivateUsage]
    assert here.dump() == before


async def test_a_damaged_child_strands_nothing(site: MakeSite) -> None:
    """What needs it goes on, its own children are cancelled, and its parent ends."""
    here = site()
    store = await opened(here)
    peer = await here.join(store)
    first = child(here)
    second = child(here, Need(first.instance.id, "completed"))
    third = child(here, Need(first.instance.id, "ended"))
    claim = await parent_of(here, peer, first, second, third)
    (running,) = await peer.take()
    grandchild = child(here, more=True)
    await store.spawn(peer.incarnation, Held(running.id, running.fence), [grandchild])
    damage_thread(here, first.instance.id)
    assert await store.get([first.instance.id]) == [None]
    assert (await peer.renew(claim, running)).settling
    assert (await store.health()).settling == 2
    assert not await store.settle()
    records = await store.get([second.instance.id, third.instance.id, grandchild.instance.id])
    notes = [(record.state, record.history[-1].note, record.wait) for record in records if record]
    assert notes == [
        (State.CANCELLED, f"needs {first.instance.id}, which is gone", None),
        (State.SCHEDULED, "", None),
        (State.CANCELLED, "its parent ended", None),
    ]
    assert not (await peer.renew(claim)).settling
    assert await peer.end(await peer.take_one()) is Ack.DONE
    assert await peer.end(claim) is Ack.DONE
    for left in ("m:*", "d:*", "settling"):
        assert here.server.command("KEYS", here.key(left).replace("{", "\\{")) == []


async def test_a_call_can_follow_up_more_than_a_command_does(site: MakeSite) -> None:
    here = site()
    store = await opened(here)
    peer = await here.join(store)
    first = child(here)
    second = child(here, Need(first.instance.id, "completed"))
    others = [child(here, Need(second.instance.id)) for _ in range(2 * MAX_SETTLED)]
    claim = await parent_of(here, peer, first, second)
    for at in range(0, len(others), MAX_SETTLED):
        await store.spawn(peer.incarnation, Held(claim.id, claim.fence), others[at : at + MAX_SETTLED])
    await peer.take_one()
    damage_thread(here, first.instance.id)
    assert await store.get([first.instance.id]) == [None]
    assert not await store.settle(10 * MAX_SETTLED)
    assert len(await peer.take()) == len(others)


async def test_what_exceeds_one_command_is_left_to_a_live_node(site: MakeSite) -> None:
    here = site()
    store = await opened(here)
    peer = await here.join(store)
    children = [child(here, more=True) for _ in range(MAX_SETTLED + 1)]
    claim = await parent_of(here, peer, *children)
    assert await peer.end(claim) is Ack.DONE
    assert [hint.what for hint in await store.next_hints(peer.incarnation, PATIENCE)] == ["settle"]
    assert (await store.health()).counts["work"] == {
        State.SCHEDULED: 1,
        State.COMPLETED: 1,
        State.CANCELLED: MAX_SETTLED,
    }
    assert (await peer.renew()).settling
    assert not await store.settle()
    assert (await store.health()).counts["work"][State.CANCELLED] == MAX_SETTLED + 1


async def test_ends_that_leave_other_needs_leave_nothing_to_follow_up(site: MakeSite) -> None:
    here = site()
    store = await opened(here)
    peer = await here.join(store)
    children = [child(here) for _ in range(2 * MAX_SETTLED)]
    claim = await parent_of(here, peer, *children)
    await peer.suspend(claim, Wait(needs=True), needs=tuple(Need(one.instance.id) for one in children))
    last, *running = await peer.take()
    await peer.commit(*map(outcome, running))
    assert await store.open_needs([claim.id]) == [1]
    assert not (await peer.renew(last)).settling
    await peer.end(last)
    assert (await peer.take_one()).id == claim.id


async def test_a_commit_leaves_ends_with_too_many_edges_to_follow_up(site: MakeSite) -> None:
    here = site()
    store = await opened(here)
    peer = await here.join(store)
    needed = [child(here) for _ in range(13)]
    claim = await parent_of(here, peer, *needed)
    waiting = [child(here, *(Need(one.instance.id) for one in needed)) for _ in range(MAX_SETTLED)]
    for at in range(0, MAX_SETTLED, 20):
        await store.spawn(peer.incarnation, Held(claim.id, claim.fence), waiting[at : at + 20])
    last, *running = await peer.take()
    await peer.commit(*map(outcome, running))
    assert (await peer.renew(last)).settling
    while await store.settle():
        pass
    assert await store.open_needs([one.instance.id for one in waiting]) == [1] * MAX_SETTLED
    await peer.end(last)
    assert len(await peer.take()) == MAX_SETTLED


@pytest.mark.parametrize("rest", ["settling", "m:{parent}", "d:{child}", "c:{parent}"])
async def test_a_foreign_key_stops_a_script_before_its_first_write(site: MakeSite, rest: str) -> None:
    here = site()
    store = await opened(here)
    peer = await here.join(store)
    first = child(here)
    claim = await parent_of(here, peer, first, child(here, Need(first.instance.id)))
    (running,) = await peer.take()
    ends = outcome(running if rest.startswith("d") else claim)
    given = outcome(claim, Action.REPORT, steps=(Step("a", b""),)) if rest.startswith("c") else ends
    with here.foreign(rest.format(parent=claim.id, child=running.id)):
        before = here.dump()
        with pytest.raises(StoreError, match="WRONGTYPE"):
            await store.commit(peer.incarnation, [given], request=here.make.request())
        assert here.dump() == before


async def test_a_node_leaves_while_a_cancelled_child_runs(site: MakeSite) -> None:
    here = site()
    store = await opened(here)
    peer, other = await here.join(store), await here.join(store)
    first = child(here)
    claim = await parent_of(here, peer, first)
    await other.take_one()
    assert await peer.suspend(claim, Wait(needs=True), needs=(Need(first.instance.id),)) is Ack.DONE
    await store.cancel([first.instance.id], request=here.make.request())
    assert await peer.take() == ()
    await store.leave(other.incarnation)
    assert [again.id for again in await peer.take()] == [claim.id]


async def test_a_cancelled_child_is_no_need_when_its_body_has_ended(site: MakeSite) -> None:
    here = site()
    store = await opened(here)
    peer = await here.join(store)
    first = child(here)
    claim = await parent_of(here, peer, first)
    running = await peer.take_one()
    await store.cancel([first.instance.id], request=here.make.request())
    assert await peer.suspend(claim, Wait(needs=True), needs=(Need(first.instance.id),)) is Ack.DONE
    assert await peer.take() == ()
    assert await peer.end(running, Action.RELEASE) is Ack.CANCELLED
    assert [again.id for again in await peer.take()] == [claim.id]


async def test_an_open_child_waits_when_its_needs_are_over(site: MakeSite) -> None:
    here = site()
    store = await opened(here)
    peer = await here.join(store)
    first = child(here)
    second = child(here, Need(first.instance.id), more=True)
    claim = await parent_of(here, peer, first, second)
    assert await peer.end(await peer.take_one()) is Ack.DONE
    assert await peer.take() == ()
    closed = NewChild(instance=second.instance)
    await store.spawn(peer.incarnation, Held(claim.id, claim.fence), [closed])
    assert [running.id for running in await peer.take()] == [second.instance.id]


async def test_no_child_runs_before_its_failed_need_is_followed_up(site: MakeSite) -> None:
    """The needs of more children have failed than one command cancels."""
    here = site()
    store = await opened(here)
    peer = await here.join(store)
    gone = Need(here.make.id(), "completed")
    await parent_of(here, peer, *(child(here, gone) for _ in range(MAX_SETTLED + 1)))
    assert await peer.take() == ()
    assert not await store.settle()
    assert (await store.health()).counts["work"] == {State.PROCESSING: 1, State.CANCELLED: MAX_SETTLED + 1}


async def test_a_signal_for_an_earlier_wait_moves_no_retry(site: MakeSite) -> None:
    """The thread still has the wait of the earlier run, under its fence."""
    here = site()
    store = await opened(here)
    peer = await here.join(store)
    claim = await parent_of(here, peer)
    assert await peer.suspend(claim, Wait(signals=("go",), until_us=1)) is Ack.DONE
    again = await peer.take_one()
    assert await peer.end(again, Action.RETRY, delay_us=3_600_000_000) is Ack.DONE
    (before,) = await store.get([claim.id])
    assert before is not None
    await store.signal(claim.id, "go", b"1")
    assert await peer.take() == ()
    assert await store.get([claim.id]) == [replace(before, has_steps=True)]
    assert (await store.health()).delayed == 1


async def test_what_it_cancels_expires(site: MakeSite) -> None:
    here = site()
    store = await here.open(limits=StoreLimits(retention_us=0))
    await store.require_layout(FLOWS_LAYOUT, "steps")
    peer = await here.join(store)
    first = child(here)
    claim = await parent_of(here, peer, first)
    assert await peer.end(claim) is Ack.DONE
    await store.expire(10)
    assert await store.get([claim.id, first.instance.id]) == [None, None]
    assert (await store.health()).counts == {}


async def test_the_end_of_a_cancelled_body_removes_no_other_instance(site: MakeSite) -> None:
    """A commit removes up to twice what it ends. The cancel has ended this one."""
    here = site()
    store = await here.open(limits=StoreLimits(retention_us=0))
    await store.require_layout(FLOWS_LAYOUT, "steps")
    peer, worker = await here.join(store), await here.join(store, kinds=("other",))
    claim = await parent_of(here, peer, NewChild(instance=here.make.instance(kind="other")))
    running, old = await worker.take_one(), here.make.instance(kind="other")
    await store.enqueue([old])
    await store.cancel([old.id], request=here.make.request())
    assert await peer.end(claim) is Ack.DONE
    assert await worker.end(running, Action.RELEASE) is Ack.CANCELLED
    assert await store.get([old.id]) != [None]


def test_a_thread_that_is_cut_is_an_error() -> None:
    with pytest.raises(ValueError, match="damaged"):
        unpack_thread(struct.pack(">BHBIHHIddBH", 1, 33, 0, 0, 0, 0, 0, 0.0, 0.0, 0, 0))
    assert unpack_thread(LATER) is None
