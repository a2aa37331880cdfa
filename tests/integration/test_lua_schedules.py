"""Faults of Redis and Valkey that concern schedules: full memory, foreign values, lost answers, clock steps."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from peerjob.model.errors import StoreFullError, StoreUnavailableError
from peerjob.model.firing import Candidate, FireOutcome, FireStatus, Overlap, ScheduleRow
from peerjob.model.record import Ack, Action, StoreLimits
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.testing.factories import LONG_TTL_US, Peer, outcome
from peerjob.testing.store_conformance.timetable import ScheduleSuite, nth
from support.lua_site import MakeSite, Site, first_layout_record, with_each_driver
from support.records import logged
from support.shifted import ShiftedClock
from support.waiting import PATIENCE

HOUR = 3_600.0
LOOKS = 5
"""Renewals, at least one of which is answered quickly."""
Call = Callable[[], Awaitable[object]]
rules = ScheduleSuite()


async def made(store: Store, number: int, overlap: Overlap, name: str = "s") -> str:
    """Fire, and return the new instance."""
    record = await rules.fired(store, number, name=name, overlap=overlap, queue_limit=5)
    assert record.instance
    return record.instance


async def slot_of(store: Store, name: str = "s") -> list[str]:
    """The holder of a slot, and the waiting instances."""
    row = await rules.row(store, name)
    return [row.holder, *row.parked]


# -- a full server


async def test_a_full_server_accounts_for_times_but_makes_no_instance(site: MakeSite) -> None:
    here = site()
    store = await here.open(retry_for=0)
    peer = await here.join(store)
    row = await rules.schedule(store)
    other = await rules.schedule(store, "other")
    first = await made(store, 0, Overlap.QUEUE)
    second = await made(store, 1, Overlap.QUEUE)
    here.server.command("CONFIG", "SET", "maxmemory", "1kb")

    before = await rules.all_of(store)
    with pytest.raises(StoreFullError):
        await rules.send(store, rules.a_fire(row, 2), rules.stretch(other, 0, 4))
    with pytest.raises(StoreFullError):
        await rules.put(store, other, note="new")
    assert await rules.all_of(store) == before
    await rules.done(store, rules.stretch(row, 2, 4), rules.stretch(other, 0, 4))
    assert [record.count for record in await rules.ledger(store, "other")] == [5]

    (claim,) = await peer.take(1)
    assert (claim.id, await peer.end(claim)) == (first, Ack.DONE)
    assert [claim.id for claim in await peer.take()] == [second]
    assert await store.remove_schedule("other", request="r1")
    elections = store.elections()
    await elections.open()
    one = Candidate(incarnation=peer.incarnation, name="node")
    assert (await elections.campaign(one, ttl_us=LONG_TTL_US)).name == "node"
    await elections.resign(peer.incarnation)
    assert await elections.leader() is None
    await elections.close()


# -- foreign values


async def fails_unchanged(here: Site, foreign: str, *calls: Call) -> None:
    """Replace a key by a foreign value: a call that needs the key fails, and writes nothing."""
    with here.foreign(foreign):
        before = here.dump()
        for call in calls:
            with pytest.raises(Exception, match=r"WRONGTYPE|wrong kind"):
                await call()
            assert here.dump() == before, foreign


async def test_a_foreign_key_fails_a_call_before_it_writes(site: MakeSite) -> None:
    here = site()
    store = await here.open(retry_for=0)
    peer = await here.join(store)
    row = await rules.schedule(store)
    await made(store, 0, Overlap.QUEUE)
    await made(store, 1, Overlap.QUEUE)
    held = await peer.take()
    row = await rules.row(store)
    fire = rules.a_fire(row, 2, overlap=Overlap.REPLACE)
    account = rules.stretch(row, 2, 4)
    wake = f"wake:{peer.incarnation}"
    here.server.command("DEL", here.key(wake))

    for foreign in ("schedule:s", "fired:s", "gaps:s"):
        await fails_unchanged(here, foreign, lambda: rules.send(store, fire), lambda: rules.send(store, account))
    for foreign in ("slot:s", "slots", "2:work", "8:work", "q:work", "delayed", wake):
        await fails_unchanged(here, foreign, lambda: rules.send(store, fire))
    for foreign in ("slot:s", "slots", "q:work"):
        await fails_unchanged(here, foreign, lambda: peer.commit(*map(outcome, held)))
    # A foreign key "revisions" is replaced: the schedules tell the latest revision.
    for foreign in ("schedules", "gaps:s", "fired:s", "slot:s", wake):
        await fails_unchanged(here, foreign, lambda: rules.put(store, row, note="new"))
    for foreign in ("schedules", "removed", wake):
        await fails_unchanged(here, foreign, lambda: store.remove_schedule("s", request="r2"))

    await rules.done(store, fire)
    assert set(await peer.commit(*map(outcome, held))) == {Ack.CANCELLED}
    assert fire.instance is not None
    assert [claim.id for claim in await peer.take()] == [fire.instance.id]


@pytest.mark.parametrize(
    ("harm", "claimed"),
    [
        *((harm, claimed) for harm in ("text", "hash", "gone") for claimed in (False, True)),
        ("no arguments", False),
    ],
)
async def test_a_holder_that_cannot_be_read_leaves_its_slot(
    site: MakeSite, harm: str, claimed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    here = site()
    store = await here.open(retry_for=0)
    peer = await here.join(store)
    await rules.schedule(store)
    holder, waiting = await made(store, 0, Overlap.QUEUE), await made(store, 1, Overlap.QUEUE)
    claims = await peer.take() if claimed else ()
    if harm == "no arguments":
        here.server.command("DEL", here.key(f"a:{holder}"))
    else:
        here.server.command("DEL", here.key(f"i:{holder}"))
    if harm == "text":
        here.server.command("SET", here.key(f"i:{holder}"), "not a record")
    elif harm == "hash":
        here.server.command("HSET", here.key(f"i:{holder}"), "a", "b")

    with caplog.at_level(logging.ERROR, "peerjob.store"):
        if claimed:
            assert await peer.commit(*map(outcome, claims)) == [Ack.LOST]
        else:
            assert await peer.take() == ()
    assert await slot_of(store) == [waiting]
    assert [claim.id for claim in await peer.take()] == [waiting]
    assert here.server.command("HKEYS", here.key("slots")) == [waiting]
    assert (await store.health()).undecodable == 1


@pytest.mark.parametrize("overlap", [Overlap.SKIP, Overlap.QUEUE, Overlap.REPLACE])
async def test_a_fire_passes_on_the_slot_of_what_vanished(site: MakeSite, overlap: Overlap) -> None:
    here = site()
    store = await here.open(retry_for=0)
    peer = await here.join(store)
    await rules.schedule(store)
    await made(store, 0, Overlap.QUEUE)
    (claim,) = await peer.take()
    waiting = await made(store, 1, Overlap.QUEUE)
    for part in "ial":
        here.server.command("DEL", here.key(f"{part}:{claim.id}"))
    assert await slot_of(store) == [claim.id, waiting]

    record = await rules.fired(store, 2, overlap=overlap, queue_limit=2)
    wanted = {
        Overlap.SKIP: ([waiting], [waiting]),
        Overlap.QUEUE: ([waiting, record.instance], [waiting]),
        Overlap.REPLACE: ([record.instance], [record.instance]),
    }
    assert (await slot_of(store), [claim.id for claim in await peer.take()]) == wanted[overlap]


async def test_what_cannot_be_read_in_a_ledger_is_passed_over(site: MakeSite, caplog: pytest.LogCaptureFixture) -> None:
    here = site()
    store = await here.open(limits=StoreLimits(fires_kept_us=1 << 52))
    row = await rules.schedule(store)
    await rules.done(store, rules.a_fire(row), rules.stretch(row, 1, 3))
    for key in ("fired:s", "gaps:s"):
        here.server.command("DEL", here.key(key))
        for number in range(6):
            here.server.command("ZADD", here.key(key), nth(number), f"rubbish {number} of {key}")
    await rules.done(store, rules.stretch(row, 4, 5), rules.a_fire(row, 6))
    with caplog.at_level(logging.ERROR, "peerjob.store"):
        assert [record.nominal_us for record in await rules.ledger(store)] == [nth(6), nth(4)]
    assert len(logged(caplog, logging.ERROR)) == 12


# -- the format of a record


async def test_a_record_of_the_first_release_lives_on(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    peer = await here.join(store)
    for key in ("", "k"):
        new = here.make.instance(key=key or None)
        await store.enqueue([new])
        raw = first_layout_record(key=key, at_us=(await rules.read(store, new.id)).due_us)
        here.server.command("SET", here.key(f"i:{new.id}"), raw)
        (claim,) = await peer.take()
        assert await peer.end(claim, Action.RETRY) is Ack.DONE
        assert (await rules.read(store, new.id)).key == (key or None)
        (claim,) = await peer.take()
        assert await peer.end(claim) is Ack.DONE
        assert (await rules.read(store, new.id)).state is State.COMPLETED


@pytest.mark.parametrize("rich", [False, True], ids=["bare", "with all parts"])
async def test_a_record_keeps_its_slot_through_every_script(site: MakeSite, rich: bool) -> None:
    here = site()
    store = await here.open()
    peer = await here.join(store)
    row = await rules.schedule(store, "naïve schedule\n")
    new = here.make.instance(key="k", tags=("a", "b")) if rich else here.make.instance()
    await rules.done(store, rules.a_fire(row, instance=new, overlap=Overlap.SKIP))
    raw = here.server.command("GETRANGE", here.key(f"i:{new.id}"), 2, 2)
    assert raw == chr(2 + 32 + 64 if rich else 64)

    parts = {"progress": b"half", "logs": (here.make.line("line"),)} if rich else {}
    for action in (Action.REPORT, Action.SNOOZE, Action.HAND_BACK, Action.RETRY):
        (claim,) = await peer.take()
        await peer.end(claim, action, **parts)  # type: ignore[arg-type]
        record = await rules.read(store, new.id)
        assert (record.slot, record.key, record.tags) == (row.name, new.key, new.tags), action
        if action is Action.REPORT:
            await peer.end(claim, Action.HAND_BACK)
    await store.cancel([new.id], request=here.make.request())
    assert ((await rules.read(store, new.id)).slot, await slot_of(store, row.name)) == ("", [""])
    assert here.server.command("EXISTS", here.key("slots")) == 0


# -- fires


async def test_what_was_backfilled_ahead_is_not_fired_again(site: MakeSite) -> None:
    store = await site().open()
    row = await rules.schedule(store)
    backfilled = await rules.fired(store, 0, FireOutcome.BACKFILLED)
    (answer,) = await rules.send(store, rules.a_fire(row, 0))
    assert (answer.status, answer.record) == (FireStatus.KNOWN, None)
    assert await rules.ledger(store) == [backfilled]
    assert (await store.health()).counts["work"] == {State.SCHEDULED: 1}
    assert (await rules.row(store)).next_us == nth(1)
    await rules.fired(store, 1)


@with_each_driver
async def test_lost_answers_fire_nothing_twice(site: MakeSite) -> None:
    here = site()
    proxy, url = await here.behind_proxy()
    store = await here.open(url=url)
    direct = await here.open()
    row = await rules.schedule(direct)
    proxy.cuts = 2
    # the first takes the slot, the others are one stretch
    fires = [rules.a_fire(row, number, overlap=Overlap.SKIP) for number in range(6)]
    records = await rules.done(store, *fires)
    assert [record.outcome for record in records] == [FireOutcome.FIRED] + [FireOutcome.SKIPPED] * 5
    assert [record.count for record in await rules.ledger(direct)] == [5, 1]
    proxy.cuts = 1
    await rules.done(store, rules.a_fire(row, 6), rules.stretch(row, 7, 9), rules.a_fire(row, 1, FireOutcome.TRIGGERED))
    ledger = await rules.ledger(direct)
    assert [record.count for record in ledger] == [3, 1, 1, 5, 1]
    assert (await direct.health()).counts["work"] == {State.SCHEDULED: 3}


async def test_a_released_instance_wakes_a_sleeper(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    busy, sleeper = await here.join(store), await here.join(store)
    await rules.schedule(store)
    await made(store, 0, Overlap.QUEUE)
    (claim,) = await busy.take()
    waiting = await made(store, 1, Overlap.QUEUE)
    assert await sleeper.take() == ()
    await busy.end(claim)
    assert "work" in [hint.what for hint in await store.next_hints(sleeper.incarnation, PATIENCE)]
    assert [claim.id for claim in await sleeper.take()] == [waiting]


async def test_fires_of_one_call_wake_one_sleeper_each(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    sleepers = [await here.join(store) for _ in range(8)]
    row = await rules.schedule(store)
    for sleeper in sleepers:
        while await store.next_hints(sleeper.incarnation, 0.001):
            pass
        assert await sleeper.take() == ()
    await rules.done(store, *(rules.a_fire(row, number) for number in range(3)))
    hints = [await store.next_hints(sleeper.incarnation, 0.01) for sleeper in sleepers]
    assert [hint.what for some in hints for hint in some] == ["work"] * 3


async def test_nothing_is_left_of_a_schedule_that_went(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    peer = await here.join(store)
    row: ScheduleRow | None = await rules.schedule(store)
    for number in range(5):
        await made(store, number, Overlap.QUEUE)
    await store.remove_schedule("s", request="r3")
    while claims := await peer.take():
        await peer.commit(*map(outcome, claims))
    await store.clear()
    row = await rules.schedule(store)
    await made(store, 0, Overlap.QUEUE)
    await peer.take()
    await rules.done(store, rules.stretch(row, 1, 3))
    await store.clear()
    await store.remove_schedule("s", request="r4")
    await store.leave(peer.incarnation)
    await store.expire(100)
    kept = {key.removeprefix(here.key("")).split(":")[0] for key in here.all_keys()}
    assert kept <= {"layout", "req", "removal", "removed", "revisions", "gone"}


# -- the server's clock, and a server that lost its last second


async def test_the_server_s_clock_ends_a_term_not_that_of_a_node(site: MakeSite) -> None:
    here = site()
    fast = await here.open(retry_for=0, clock=ShiftedClock(HOUR))
    one, two = (await here.open()).elections(), fast.elections()
    for elections in (one, two):
        here.cleanup.push_async_callback(elections.close)
        await elections.open()
    first, second = (Candidate(incarnation=here.make.id(), name=name) for name in ("first", "second"))

    def left_ms() -> int:
        left = here.server.command("PTTL", here.key("leader"))
        assert isinstance(left, int)
        return left

    leader = await one.campaign(first, ttl_us=60_000_000)
    assert 30_000 < left_ms() <= 60_000
    assert await two.campaign(second, ttl_us=60_000_000) == leader
    assert await one.campaign(first, ttl_us=30_000_000) == leader
    assert 0 < left_ms() <= 30_000
    here.server.command("PEXPIRE", here.key("leader"), 50)
    await asyncio.sleep(0.1)
    assert await two.leader() is None
    later = await two.campaign(second, ttl_us=60_000_000)
    assert (later.name, later.term.number > leader.term.number) == ("second", True)
    assert later.since_us - leader.since_us > HOUR * 1_000_000


async def test_a_renewal_tells_how_far_the_node_s_clock_is_ahead(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    peer = await here.join(store)
    assert abs([await peer.renew() for _ in range(LOOKS)][-1].ahead_us) < 500_000
    fast = await here.open(retry_for=0, clock=ShiftedClock(HOUR))
    early = Peer(store=fast, info=peer.info, make=here.make)
    here.cleanup.push_async_callback(early.close)
    assert abs([await early.renew() for _ in range(LOOKS)][-1].ahead_us - HOUR * 1_000_000) < 500_000


async def test_a_slow_answer_does_not_blur_earlier_measurements(site: MakeSite) -> None:
    here = site()
    peer = await here.join(await here.open())
    known_us = [await peer.renew() for _ in range(LOOKS)][-1].ahead_us
    here.server.pause()
    renewal = asyncio.create_task(peer.renew())
    await asyncio.sleep(0.5)  # the delay itself
    here.server.resume()
    assert abs((await renewal).ahead_us - known_us) < 50_000


async def test_what_a_server_lost_is_not_taken_for_what_came_instead(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    elections = store.elections()
    here.cleanup.push_async_callback(elections.close)
    await elections.open()
    kept = await rules.schedule(store, "kept")
    here.server.command("SAVE")
    lost = await rules.schedule(store, "lost")
    leader = await elections.campaign(Candidate(incarnation=here.make.id(), name="lost"), ttl_us=LONG_TTL_US)
    here.server.kill()
    here.server.start()

    page = await store.changed_schedules(lost.revision)
    assert (page.reset, [row.name for row in page.rows]) == (True, ["kept"])
    assert (await store.changed_schedules(page.revision)).rows == ()
    new = await rules.schedule(store, "new")
    assert new.revision > lost.revision > kept.revision
    assert [row.name for row in (await store.changed_schedules(lost.revision)).rows] == ["new"]
    while True:
        try:
            anew = await elections.campaign(Candidate(incarnation=here.make.id(), name="new"), ttl_us=LONG_TTL_US)
            break
        except StoreUnavailableError:
            await asyncio.sleep(0.01)
    assert anew.term.number > leader.term.number
