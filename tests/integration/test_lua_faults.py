"""Faults of Redis and Valkey: restarts, full memory, lost scripts, foreign values, lost answers."""

import asyncio
import contextlib
import hashlib
import logging
import threading
import uuid
from collections.abc import Awaitable
from typing import Any

import pytest
import redis
import uvloop

from peerjob.model.capabilities import Capabilities
from peerjob.model.errors import LayoutError, StoreFullError, StoreUnavailableError
from peerjob.model.query import Filter, Query
from peerjob.model.record import Ack, Action, StoreLimits
from peerjob.model.state import State
from peerjob.store.lua.client.address import parse_address
from peerjob.store.lua.client.glide_driver import GlideDriver
from peerjob.store.lua.client.redis_driver import RedisDriver
from peerjob.store.lua.commands.queue_commands import wake_list
from peerjob.store.lua.scripts.script import Script, load_scripts
from peerjob.testing.factories import LONG_TTL_US, Peer, outcome
from support.lab.proxy import FaultProxy
from support.lua_site import MakeSite, with_each_driver, with_each_driver_and_server
from support.records import logged
from support.servers import Server
from support.stalls import Stalls, now_us
from support.waiting import IN_TIME, PATIENCE, until

# -- a server that goes away


@with_each_driver
async def test_calls_wait_for_a_server_that_restarts(site: MakeSite) -> None:
    here = site(appendonly=True)
    store = await here.open()
    peer = await here.join(store)
    batch = here.make.instances(30)
    await store.enqueue(batch)
    held = await peer.take(10)
    hints = asyncio.create_task(store.next_hints(peer.incarnation, PATIENCE))
    await asyncio.sleep(0)

    here.server.stop()
    calls: list[Awaitable[object]] = [
        asyncio.create_task(peer.take(5)),
        asyncio.create_task(store.enqueue(here.make.instances(3))),
        asyncio.create_task(store.commit(peer.incarnation, [*map(outcome, held)], request=here.make.request())),
        asyncio.create_task(store.cancel([batch[-1].id], request=here.make.request())),
    ]
    done, _ = await asyncio.wait([asyncio.ensure_future(call) for call in calls], timeout=0.3)
    assert not done
    with pytest.raises(StoreUnavailableError):  # the reaper must check its own lease again
        await store.reap(10, reaper=peer.incarnation)
    here.server.start()
    taken, added, acks, cancelled = await asyncio.gather(*calls)
    assert [len(part) for part in (taken, added, acks, cancelled)] == [5, 3, 10, 1]  # type: ignore[arg-type]

    await store.watch_changes(peer.incarnation, 60)
    await store.enqueue(here.make.instances(1))
    assert (await hints)[0].what == "change"
    while claims := await peer.take():
        await peer.commit(*map(outcome, claims))
    assert (await store.health()).counts["work"] == {State.PROCESSING: 5, State.COMPLETED: 28, State.CANCELLED: 1}


@with_each_driver
async def test_a_server_that_stays_away_is_reported(site: MakeSite) -> None:
    here = site()
    store = await here.open(retry_for=0.3)
    peer = await here.join(store)
    await peer.renew()
    here.server.kill()
    with pytest.raises(StoreUnavailableError, match=f"127.0.0.1:{here.server.port}"):
        await peer.take()
    with pytest.raises(StoreUnavailableError):
        await store.next_hints(peer.incarnation, 0.1)
    with pytest.raises(StoreUnavailableError):
        await peer.renew()


@with_each_driver
async def test_opening_fails_in_time(site: MakeSite) -> None:
    here = site()
    here.server.kill()
    url = here.server.url.replace("//", "//user:secret@")
    async with asyncio.timeout(IN_TIME):
        with pytest.raises(StoreUnavailableError) as refused:
            await here.open(url=url)
    assert "secret" not in str(refused.value)

    here.server.start()
    here.server.pause()
    async with asyncio.timeout(IN_TIME):
        with pytest.raises(StoreUnavailableError):
            await here.open()
    here.server.resume()


@with_each_driver
async def test_a_lease_that_cannot_be_renewed_says_so_in_time(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    peer = await here.join(store)
    await peer.renew()
    here.server.pause()
    with Stalls() as stalls:
        began_us = now_us()
        with pytest.raises(StoreUnavailableError):
            await peer.renew(ttl_us=10_000_000)
        assert stalls.took(began_us) < 10, "the lease ended before"
    here.server.resume()
    assert not (await peer.renew()).dead


@with_each_driver
async def test_forgotten_scripts_are_loaded_again(site: MakeSite) -> None:
    here = site()
    store = await here.open(retry_for=0)
    peer = await here.join(store)
    await store.enqueue(here.make.instances(3))
    claims = await peer.take(1)
    here.server.command("SCRIPT", "FLUSH")
    acks, claimed = await store.turn(
        peer.incarnation, [*map(outcome, claims)], peer.want(), request=here.make.request()
    )
    assert acks == [Ack.DONE]
    assert len(claimed.claims) == 2


@with_each_driver
async def test_a_server_gets_only_the_scripts_that_are_called(site: MakeSite) -> None:
    """All scripts would take 60 ms and 7 MB of the server."""
    here = site()
    store = await here.open()
    here.server.command("SCRIPT", "FLUSH")
    await store.enqueue(here.make.instances(1))
    memory = here.server.command("INFO", "memory")
    assert isinstance(memory, dict)
    assert memory["number_of_cached_scripts"] <= 7  # up to two try it before the general one; four are always loaded


@with_each_driver
async def test_a_server_gets_the_script_of_a_claim_last(site: MakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn of another client between two loads must not run its claim alone."""
    here = site()
    driver: Any = vars(await here.open())["_driver"]
    here.server.command("SCRIPT", "FLUSH")
    send, loaded = driver._send, list[str]()

    def noted(commands: Any, *given: Any, **named: Any) -> Any:
        loaded.extend(command[2] for command in commands if command[:2] == ("SCRIPT", "LOAD"))
        return send(commands, *given, **named)

    monkeypatch.setattr(driver, "_send", noted)
    await driver.run(("confirm", ()))
    assert loaded[-1] == load_scripts()["claim"].source


@with_each_driver_and_server
async def test_scripts_that_are_forgotten_again_and_again_fail_no_call(site: MakeSite) -> None:
    """Another program removes the scripts between any two commands of the store."""
    here = site()
    store = await here.open(retry_for=10)
    driver = vars(store)["_driver"]
    send = driver._send

    async def flushing(*arguments: Any, **options: Any) -> Any:
        here.server.command("SCRIPT", "FLUSH")
        return await send(*arguments, **options)

    driver._send = flushing
    for _ in range(3):
        assert [one.is_new for one in await store.enqueue(here.make.instances(1))] == [True]
    assert (await store.health()).counts == {"work": {State.SCHEDULED: 3}}
    peer = await here.join(store)
    _, claimed = await store.claim_on_hint(peer.incarnation, peer.want(1), request=here.make.request(), timeout=0)
    assert claimed is not None
    assert await peer.commit(*map(outcome, claimed.claims)) == [Ack.DONE]


@with_each_driver_and_server
async def test_a_script_that_an_administrator_kills_is_an_outage(site: MakeSite) -> None:
    """The script has written nothing, and a retry may succeed: the request is not to blame."""
    here = site()
    here.server.command("CONFIG", "SET", "busy-reply-threshold", 1)
    driver = vars(await here.open())["_driver"]
    source = "while true do end"
    sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
    vars(driver)["_scripts"] = {**load_scripts(), "endless": Script("endless", (source,), sha)}
    running = asyncio.create_task(driver.run(("endless", ())))

    def killed() -> bool:
        with contextlib.suppress(redis.ResponseError):  # it does not run yet
            here.server.command("SCRIPT", "KILL")
            return True
        return False

    await until(lambda: asyncio.to_thread(killed))
    with pytest.raises(StoreUnavailableError, match="Script killed by user"):
        await running


async def test_after_an_outage_the_living_have_time_to_come_back(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    peer = await here.join(store)
    await store.enqueue(here.make.instances(1))
    await peer.take_one()
    ttl_us, ended_us = 60_000_000, peer.joined_us - 1
    here.server.command("ZADD", here.key("leases"), ended_us, peer.incarnation)
    here.server.command("HSET", here.key(f"node:{peer.incarnation}"), "renewed", ended_us - ttl_us)
    reaper = await here.join(store)
    assert not (await reaper.renew()).dead
    assert await store.reap(10, reaper=reaper.incarnation) == [], "it has renewed for less than the lease of the other"
    here.server.command("HSET", here.key(f"node:{reaper.incarnation}"), "steady", reaper.joined_us - ttl_us)
    assert len(await store.reap(10, reaper=reaper.incarnation)) == 1


# -- a full server


@with_each_driver
async def test_a_full_server_takes_no_more_but_finishes_all(site: MakeSite) -> None:
    here = site(maxmemory="16mb")  # the scripts take 7 MB, and 3 MB more while they run
    store = await here.open(retry_for=0)
    peer = await here.join(store)
    accepted: list[str] = []
    refused: list[str] = []
    while not refused:
        batch = here.make.instances(20, spec=b"x" * 5_000, tags=("t",))
        ids = [new.id for new in batch]
        try:
            await store.enqueue(batch)
            accepted += ids
        except StoreFullError:
            refused = ids
    assert accepted
    assert await store.get(refused) == [None] * len(refused)
    assert (await store.health()).counts["work"] == {State.SCHEDULED: len(accepted)}

    assert not (await peer.renew()).dead
    for name in ("first", "second"):
        other = await here.join(store, ttl_us=1_000)
        claims = await other.take(5)
        assert len(claims) == 5, name
        await asyncio.sleep(0.01)
        assert len(await store.reap(100, reaper=peer.incarnation)) == 5
    await store.cancel(accepted[:3], request=here.make.request())
    finished = 3
    while claims := await peer.take():
        logs = (here.make.line("done"),)
        acks = await peer.commit(*(outcome(claim, result=b"r", logs=logs) for claim in claims))
        assert set(acks) == {Ack.DONE}
        finished += len(acks)
    assert finished == len(accepted)
    while await store.clear_instances(Filter()):
        pass
    assert len(await store.enqueue(here.make.instances(20, spec=b"x" * 5_000))) == 20


# -- foreign values


@pytest.mark.parametrize("harm", ["text", "hash", "gone", "cut", "no arguments"])
async def test_what_cannot_be_read_is_set_aside(site: MakeSite, harm: str, caplog: pytest.LogCaptureFixture) -> None:
    here = site()
    store = await here.open(retry_for=0)
    peer = await here.join(store)

    def spoil(id: str) -> None:
        key = here.key(f"i:{id}")
        if harm == "cut":
            cut = "return redis.call('SET', KEYS[1], string.sub(redis.call('GET', KEYS[1]), 1, 60))"
            here.server.command("EVAL", cut, 1, key)
        elif harm == "no arguments":
            here.server.command("DEL", here.key(f"a:{id}"))
        else:
            here.server.command("DEL", key)
            if harm == "text":
                here.server.command("SET", key, "not a record")
            elif harm == "hash":
                here.server.command("HSET", key, "a", "b")

    batch = here.make.instances(6)
    await store.enqueue(batch)
    with caplog.at_level(logging.ERROR, "peerjob.store"):
        spoil(batch[0].id)
        spoil(batch[2].id)
        claims = await peer.take(2)
        assert [claim.id for claim in claims] == [batch[1].id, batch[3].id]
        assert (await store.health()).undecodable == 2

        if harm != "no arguments":
            spoil(claims[0].id)
            assert await peer.commit(*map(outcome, claims)) == [Ack.LOST, Ack.DONE]
            assert (await store.health()).undecodable == 3
        else:
            assert await peer.commit(*map(outcome, claims)) == [Ack.DONE, Ack.DONE]

        spoil(batch[4].id)
        page = await store.lookup(Query(state=State.SCHEDULED))
        assert [record.id for record in page.records] == [batch[5].id]
        assert await store.get([batch[4].id]) == [None]
        assert [claim.id for claim in await peer.take()] == [batch[5].id]
    reported = [record.getMessage() for record in logged(caplog, logging.ERROR)]
    health = await store.health()
    assert len(reported) == health.undecodable
    assert len(set(reported)) == len(reported)
    assert sum(health.counts["work"].values()) == 6 - health.undecodable
    assert here.server.command("LLEN", here.key("aside")) == health.undecodable


async def test_a_foreign_key_fails_a_call_before_it_writes(site: MakeSite) -> None:
    here = site()
    store = await here.open(retry_for=0)
    peer = await here.join(store)
    batch = here.make.instances(4)
    await store.enqueue(batch)
    held = await peer.take(2)
    for foreign in ("32:work", "f:work", f"req:{peer.incarnation}", "4:work", "watched"):
        with here.foreign(foreign):
            before = here.dump()
            with pytest.raises(Exception, match=r"WRONGTYPE|wrong kind"):
                await peer.commit(*map(outcome, held))
            assert here.dump() == before
    assert await peer.commit(*map(outcome, held)) == [Ack.DONE, Ack.DONE]


# -- lost answers


@with_each_driver
async def test_lost_answers_lose_and_repeat_nothing(site: MakeSite) -> None:
    here = site()
    proxy, url = await here.behind_proxy()
    store = await here.open(url=url)
    peer = await here.join(store)
    direct = await here.open()
    batch = here.make.instances(30)
    done = 0

    proxy.cuts = 1
    assert all(answer.is_new for answer in await store.enqueue(batch))
    for _ in range(5):
        proxy.cuts = 2
        claims = await peer.take(6)
        assert len(claims) == 6
        assert (await direct.health()).counts["work"][State.PROCESSING] == 6
        proxy.cuts = 1
        retried = peer.commit(
            *map(outcome, claims[:4]), *(outcome(claim, Action.RETRY, delay_us=LONG_TTL_US) for claim in claims[4:])
        )
        assert set(await retried) == {Ack.DONE}
        done += 4
    assert (await direct.health()).counts["work"] == {State.COMPLETED: done, State.SCHEDULED: 30 - done}
    proxy.cuts = 1
    assert await store.cancel([batch[5].id], request=here.make.request()) == [State.SCHEDULED]


@with_each_driver
@pytest.mark.parametrize("count", [1, 2])
async def test_a_refusal_by_the_general_script_is_unsure_after_a_lost_answer_of_a_cheap_one(
    site: MakeSite, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cheap script has stored the instances, and does nothing when it comes again."""
    here = site()
    proxy, url = await here.behind_proxy()
    store = await here.open(url=url)
    await store.enqueue(here.make.instances(count))  # the server has the script from now on
    driver: Any = vars(store)["_driver"]
    run, scripts = driver.run_durably, list[str]()

    def fill(*calls: Any) -> Any:
        scripts.append(calls[0][0])
        if len(set(scripts)) == 2:
            here.server.command("CONFIG", "SET", "maxmemory", 1)
        return run(*calls)

    monkeypatch.setattr(driver, "run_durably", fill)
    batch = here.make.instances(count)
    proxy.cuts = 1
    with pytest.raises(StoreFullError) as caught:
        await store.enqueue(batch)
    assert scripts[0] == scripts[1] != scripts[2]
    assert caught.value.is_unsure
    assert None not in await store.get([new.id for new in batch])


@with_each_driver
async def test_a_driver_sends_nothing_twice(site: MakeSite) -> None:
    here = site()
    proxy, url = await here.behind_proxy()
    store = await here.open(url=url, retry_for=0)
    await store.enqueue(here.make.instances(2))
    here.server.command("CONFIG", "RESETSTAT")
    proxy.cuts = 1
    with pytest.raises(StoreUnavailableError):
        await store.enqueue(here.make.instances(2))
    stats = here.server.command("INFO", "commandstats")
    assert isinstance(stats, dict)
    assert stats["cmdstat_evalsha"]["calls"] == 1


# -- capabilities of a server, and its memory


@with_each_driver
async def test_promises_follow_the_server(site: MakeSite) -> None:
    here = site(policy="allkeys-lru")

    async def promised() -> Capabilities:
        return (await here.open()).capabilities

    first = await promised()
    assert (first.engine, first.durability) == (here.server.kind, "none")
    assert any("maxmemory-policy" in warning for warning in first.warnings)
    assert any("appendonly" in warning for warning in first.warnings)
    here.server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    here.server.command("CONFIG", "SET", "appendonly", "yes")
    everysec = await promised()
    assert (everysec.durability, everysec.warnings) == ("everysec", ())
    here.server.command("CONFIG", "SET", "appendfsync", "always")
    assert (await promised()).durability == "fsync"


@with_each_driver
async def test_a_newer_layout_is_refused(site: MakeSite) -> None:
    here = site()
    await here.open()
    here.server.command("SET", here.key("layout"), "99")
    with pytest.raises(LayoutError, match="99"):
        await here.open()


async def test_a_finished_job_takes_little_memory(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    peer = await here.join(store)

    def used() -> int:
        info = here.server.command("INFO", "memory")
        assert isinstance(info, dict)
        return int(info["used_memory"])

    before = used()
    for _ in range(10):
        await store.enqueue(here.make.instances(500, spec=b"x" * 50, tags=("a tag",)))
    while claims := await peer.take(500):
        await peer.commit(*(outcome(claim, result=b"result") for claim in claims))
    assert (used() - before) / 5000 < 2048


async def test_nothing_grows_for_ever(site: MakeSite) -> None:
    here = site()
    limits = StoreLimits(max_final_per_kind=20)
    store = await here.open(limits=limits)
    watcher = await here.join(store)
    await store.watch_changes(watcher.incarnation, 60)
    for _ in range(12):
        peer = await here.join(store)
        await store.enqueue(here.make.instances(100, tags=("t",)))
        claims = await peer.take()
        await store.watch_final(watcher.incarnation, [claims[0].id])
        await store.cancel([claims[0].id], request=here.make.request())
        await store.run_now([claims[0].id], request=here.make.request())
        logs = (here.make.line("line"),)
        await peer.commit(*(outcome(claim, result=b"r", logs=logs) for claim in claims))
        await store.leave(peer.incarnation)
    assert here.server.command("LLEN", wake_list(here.namespace, watcher.incarnation)) == 1000
    while await store.expire(100):
        pass
    assert sum((await store.health()).counts["work"].values()) == 20

    await store.leave(watcher.incarnation)
    await store.clear()
    kept = {key.removeprefix(here.key("")).split(":")[0] for key in here.all_keys()}
    assert kept <= {"layout", "req", "cancel", "now", "changes", "watching", "gone"}
    keys = sorted(here.all_keys() - {here.key("layout"), here.key("changes")})
    with redis.Redis(port=here.server.port) as server, server.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.pttl(key)
        ttls: list[int] = pipeline.execute()
    never = -1  # -2 is the answer for a key that has ended meanwhile
    assert [key for key, ttl in zip(keys, ttls, strict=True) if ttl == never] == []


async def test_a_claim_carries_a_bounded_load(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    peer = Peer(store=store, info=here.make.node("both", ("a", "b")), make=here.make)
    await peer.join()
    batch = [here.make.instance(kind="ab"[number % 2], spec=bytes(300_000)) for number in range(8)]
    for new in batch:
        await store.enqueue([new])
    huge = here.make.instance(kind="a", spec=bytes(2_000_000))
    await store.enqueue([huge])
    loads: list[list[str]] = []
    while claims := await peer.take(500):
        loads.append([claim.id for claim in claims])
    assert [len(load) for load in loads] == [3, 3, 2, 1]
    assert [id for load in loads for id in load] == [*(new.id for new in batch), huge.id]


async def test_rubbish_among_the_delayed_is_set_aside(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    peer = await here.join(store)
    here.server.command("ZADD", here.key("delayed"), 1, "rubbish")
    await store.enqueue(here.make.instances(1))
    assert len(await peer.take()) == 1
    health = await store.health()
    assert (health.delayed, health.undecodable) == (0, 1)


def test_glide_outlives_the_loop_that_read_its_answers(glide_url: str) -> None:
    """The event loop of the first GLIDE client serves all clients of a process; ours must survive its end."""

    def new_driver() -> GlideDriver:
        return GlideDriver(parse_address(glide_url), namespace=f"loops-{uuid.uuid4().hex[:8]}", call_timeout=0.3)

    async def use(driver: GlideDriver) -> None:
        for _ in range(100):
            with contextlib.suppress(StoreUnavailableError):
                await driver.run(("nodes", ()))
                return
        raise AssertionError("it never answered again")

    one, other = new_driver(), new_driver()
    first = asyncio.new_event_loop()
    thread = threading.Thread(target=first.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(use(one), first).result(PATIENCE)
    with asyncio.Runner() as second:
        second.run(use(other))
        asyncio.run_coroutine_threadsafe(one.close(), first).result(PATIENCE)
        first.call_soon_threadsafe(first.stop)
        thread.join()
        first.close()
        second.run(use(other))
        second.run(other.close())


def test_a_connection_that_was_reset_while_idle_fails_no_call_on_uvloop(redis_server: Server, namespace: str) -> None:
    """Uvloop raises RuntimeError for a write to a closed transport."""

    async def calls() -> None:
        async with FaultProxy(redis_server.port) as proxy:
            driver = RedisDriver(parse_address(f"redis://127.0.0.1:{proxy.port}"), namespace=namespace)
            await driver.open()
            await asyncio.gather(*(driver.info() for _ in range(5)))
            idle = [*vars(driver)["_free"]]
            assert len(idle) > 1
            proxy.drop()
            await until(lambda: all(connection.is_closed for connection in idle))
            assert await driver.info()
            await driver.close()

    uvloop.run(calls())
