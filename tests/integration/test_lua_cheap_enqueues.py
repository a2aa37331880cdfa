"""The cheap ways to enqueue plain instances: each writes what the general one writes, or leaves it to another one."""

import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis

from peerjob.model.query import Query
from peerjob.model.record import NewInstance
from peerjob.model.state import State
from peerjob.store.lua.commands.arrivals import alike_arguments, enqueue_arguments, plain_arguments
from peerjob.store.lua.scripts.script import Reply
from peerjob.store.lua.store import LuaStore
from support.lua_site import MakeSite, Site, with_each_driver
from support.waiting import IN_TIME

CHEAP = ("enqueue_one", "enqueue_alike", "enqueue_indexed", "enqueue_waking")
NODE = "näher"
MANY = tuple(f"kind-{number}" for number in range(40))
"""Kinds of a set that has an index."""


async def run(store: Any, script: str, *instances: NewInstance) -> Reply:
    """The reply of a script that enqueues."""
    match script:
        case "enqueue":
            arguments: Any = enqueue_arguments(instances, NODE)
        case "enqueue_alike":
            arguments = alike_arguments(instances, NODE)
        case _:
            arguments = plain_arguments(instances[0], NODE)
    (reply,) = await store._driver.run((script, arguments))
    return reply


def stored(here: Site, instance: NewInstance) -> tuple[object, ...]:
    """What the server has of an instance: record, spec, and entries of its queue and index; without id and time."""
    id = instance.id.encode()
    with redis.Redis(port=here.server.port) as connected:
        client: Any = connected
        record, spec = (client.get(here.key(f"{letter}:{instance.id}")) for letter in "ia")
        queued = client.zrange(here.key(f"q:{instance.kind}"), 0, -1, withscores=True)
        indexed = client.zrange(here.key(f"2:{instance.kind}"), 0, -1, withscores=True)
        known = client.hget(here.key("kinds"), instance.kind)
    assert isinstance(record, bytes), "it is stored"
    at = record[9:17]
    (now,) = struct.unpack(">d", at)
    assert record.count(at) == 4, "due, changed, Created, Scheduled"
    (entry,) = [entry for entry in queued if entry[0].endswith(id)]
    assert entry[0] == b"%016d" % now + id
    assert (id, 0) in indexed
    return record.replace(at, b"time"), spec, entry[1], known


@pytest.mark.parametrize("script", CHEAP)
@pytest.mark.parametrize(
    "options", [{}, {"priority": -7, "retention_us": 2**52, "max_crashes": 9}], ids=["", "options"]
)
async def test_each_script_writes_what_the_general_one_writes(
    site: MakeSite, script: str, options: dict[str, int]
) -> None:
    here = site()
    store = await here.open()
    usual, cheap = (here.make.instance(kind="größe", spec=b"\0\xff", **options) for _ in range(2))  # type: ignore[arg-type]
    assert await run(store, "enqueue", usual) == 1
    assert await run(store, script, cheap) == 1
    assert stored(here, cheap) == stored(here, usual)
    first, second = (await store.lookup(Query())).records
    assert [entry.node for entry in first.history] == [entry.node for entry in second.history] == [NODE, NODE]


@pytest.mark.parametrize("script", ["enqueue", "enqueue_alike"])
async def test_a_batch_of_one_template_is_stored_as_each_instance_of_a_mixed_batch(site: MakeSite, script: str) -> None:
    here = site()
    store = await here.open()
    alike, mixed = (here.make.instances(2, priority=3, max_crashes=9) for _ in range(2))
    assert await run(store, script, *alike) == 1
    await store.enqueue([*mixed, here.make.instance(tags=("other",))], node=NODE)
    assert len({stored(here, new) for new in (*alike, *mixed)}) == 1


async def test_a_batch_of_one_template_stores_no_instance_again(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    twice, removed, other = here.make.instances(3)
    assert [answer.repeated for answer in await store.enqueue([twice, twice])] == [False, True]
    here.server.command("SET", here.key(f"gone:{removed.id}"), "")
    here.server.command("SET", here.key("gone"), "")
    assert [answer.repeated for answer in await store.enqueue([removed, other])] == [True, False]
    assert [answer.repeated for answer in await store.enqueue([twice, other])] == [True, True]
    assert [record.id for record in (await store.lookup(Query())).records] == [twice.id, other.id]


async def test_a_batch_of_one_template_wakes_an_idle_node_by_the_cheap_script(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    peer, other = await here.join(store), await here.join(store, kinds=["other"])
    await peer.take(1)
    await other.take(1)
    batches = [here.make.instances(2) for _ in range(2)]
    assert [await run(store, "enqueue_alike", *batch) for batch in batches] == [1, 1]
    assert [hint.what for hint in await store.next_hints(peer.incarnation, IN_TIME)] == ["work"]
    assert here.server.command("EXISTS", here.key(f"wake:{other.incarnation}")) == 0
    assert [claim.id for claim in await peer.take(5)] == [new.id for batch in batches for new in batch]


async def test_a_batch_of_one_template_enters_the_index_of_heads(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    peer = await here.join(store, kinds=MANY)
    await peer.take(1)
    batch = here.make.instances(2, kind=MANY[1])
    await store.enqueue(batch)
    assert [claim.id for claim in await peer.take(3)] == [new.id for new in batch]


async def idle(here: Site, store: LuaStore) -> None:
    await (await here.join(store)).take(1)


async def index(here: Site, store: LuaStore) -> None:
    peer = await here.join(store, kinds=MANY)
    await peer.take(1)
    await store.enqueue([here.make.instance(kind=MANY[0])])  # no node is idle


async def lose_layout(here: Site, store: LuaStore) -> None:
    here.server.command("DEL", here.key("layout"))


async def watch(here: Site, store: LuaStore) -> None:
    here.server.command("SET", here.key("watching"), "", "PX", 60_000)


@with_each_driver
@pytest.mark.parametrize(
    ("prepare", "replies"),
    [(idle, [0, 1, 1, 1]), (watch, [0, 0, 0, 0]), (index, [0, 0, 3, 3]), (lose_layout, [0, 0, 1, 1])],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_a_script_does_nothing_where_another_one_has_more_to_do(
    site: MakeSite, prepare: Callable[[Site, LuaStore], Awaitable[None]], replies: list[int]
) -> None:
    here = site()
    store = await here.open()
    await prepare(here, store)
    for script, reply in zip(CHEAP, replies, strict=True):
        instance, before = here.make.instance(), here.dump()
        assert await run(store, script, instance) == reply, script
        assert reply or here.dump() == before
        await prepare(here, store) if prepare is lose_layout else None
    more = [here.make.instance() for _ in range(3)]
    for instance in more:
        (answer,) = await store.enqueue([instance])
        assert (answer.is_new, answer.repeated) == (True, False)
        (again,) = await store.enqueue([instance])
        assert (again.is_new, again.repeated) == (True, True)
    found = {one.id: one.state for one in (await store.lookup(Query())).records}
    assert {found[one.id] for one in more} == {State.SCHEDULED}


@pytest.mark.parametrize("key", ["i", "gone"])
async def test_a_script_stores_no_instance_again(site: MakeSite, key: str) -> None:
    here = site()
    store = await here.open()
    instance = here.make.instance()
    here.server.command("SET", here.key(f"{key}:{instance.id}"), "")
    here.server.command("SET", here.key("gone"), "")
    before = here.dump()
    assert [await run(store, script, instance) for script in CHEAP] == [0, 0, -1, -1]
    assert here.dump() == before
