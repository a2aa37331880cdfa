"""A store that is closed leaves no connection, also if a call ends after that."""

import asyncio
from typing import Any

from peerjob.store.lua.client.driver import Driver
from peerjob.store.lua.store import LuaStore
from support.lua_site import MakeSite, Site, with_each_driver
from support.waiting import PATIENCE, until


def driver_of(store: LuaStore) -> Driver:
    driver: Driver = vars(store)["_driver"]
    return driver


def has_connections(here: Site) -> bool:
    return "name=peerjob" in str(here.server.command("CLIENT", "LIST"))


def is_waiting(here: Site) -> bool:
    told: Any = here.server.command("INFO", "clients")
    return bool(told["blocked_clients"])


@with_each_driver
async def test_a_wait_that_has_its_answer_after_the_close_leaves_none(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    waiting = asyncio.create_task(driver_of(store).pop(here.key("list"), 1, PATIENCE))
    await until(lambda: is_waiting(here))
    await store.close()
    here.server.command("RPUSH", here.key("list"), "element")
    assert await waiting == [b"element"]
    await until(lambda: not has_connections(here))


@with_each_driver
async def test_a_call_after_the_close_leaves_none(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    await store.close()
    assert await store.nodes() == []
    await until(lambda: not has_connections(here))


@with_each_driver
async def test_a_call_after_the_close_ends_no_other_one(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    await store.close()
    driver = driver_of(store)
    here.server.command("CLIENT", "PAUSE", round(PATIENCE * 1000), "WRITE")
    short, long = (asyncio.create_task(driver.ask(call)) for call in (("PING",), ("INCR", here.key("number"))))
    assert await short == [b"PONG"]
    here.server.command("CLIENT", "UNPAUSE")
    assert await long == [1]
    await until(lambda: not has_connections(here))


@with_each_driver
async def test_a_store_that_opens_again_keeps_its_connections(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    await store.close()
    await store.open()
    assert await store.nodes() == []
    assert has_connections(here)
