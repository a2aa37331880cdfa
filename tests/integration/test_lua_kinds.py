"""Sets of kinds on Redis and Valkey: their indexes, their life, and the cost of scripts."""

import random
from collections.abc import Iterable, Sequence
from typing import Any, Literal, cast

import pytest
import redis

from peerjob.model.caps import Caps
from peerjob.model.query import Filter, Query
from peerjob.model.record import Action, Claim, NewInstance, Want
from peerjob.model.state import State
from peerjob.store.lua.store import LuaStore
from peerjob.testing.factories import LONG_TTL_US, Peer, outcome
from support.lua_site import MakeSite, Site
from support.searches import seeds

MANY = 10_000
ORDERS: tuple[Literal["asc", "desc"], ...] = ("asc", "desc")


def names(count: int, prefix: str = "kind") -> tuple[str, ...]:
    return tuple(f"{prefix}-{number}" for number in range(count))


async def join(here: Site, store: LuaStore, kinds: Sequence[str]) -> Peer:
    peer = Peer(store=store, info=here.make.node(kinds=kinds), make=here.make)
    here.cleanup.push_async_callback(peer.close)
    return await peer.join(LONG_TTL_US)


def keys(here: Site, what: str) -> list[str]:
    return sorted(key for key in here.all_keys() if key.removeprefix(here.key("")).startswith(what))


HEADS = """
local found = {}
for n, kind in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local head = redis.call('ZRANGE', KEYS[2] .. kind, 0, 0, 'WITHSCORES')
  if head[1] then
    found[#found + 1] = head[2] .. ' ' .. head[1] .. kind
  end
end
return found
"""
INDEX = """
local found = {}
local entries = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for n = 1, #entries, 2 do
  found[#found + 1] = entries[n + 1] .. ' ' .. entries[n]
end
return found
"""


def indexes(here: Site, prefix: str) -> dict[str, set[str]]:
    """Set of kinds → entries of its stored index of heads; `prefix` is "head" or "shead"."""
    return {
        key.split(":")[-1]: set(cast("list[str]", here.server.command("EVAL", INDEX, 1, key)))
        for key in keys(here, f"{prefix}:")
    }


def heads_of(here: Site, name: str, queue: str) -> set[str]:
    """The entries that the index of a set must have."""
    found = here.server.command("EVAL", HEADS, 2, here.key(f"set:{name}"), here.key(f"{queue}:"))
    return set(cast("list[str]", found))


def members(here: Site, command: str, key: str) -> set[str]:
    return set(cast("Iterable[str]", here.server.command(command, here.key(key))))


@pytest.mark.parametrize("seed", seeds(range(3)))
async def test_an_index_tells_the_head_of_each_queue(  # noqa: C901  # its steps share the claims
    site: MakeSite, seed: int
) -> None:
    """Random operations of nodes with two large sets and a small one."""
    here = site()
    chance = random.Random(seed)
    store = await here.open()
    kinds = names(40)
    large, other = kinds[:30], kinds[15:]
    peers = [await join(here, store, of) for of in (large, other, kinds[:3], large)]
    held: list[tuple[Peer, Claim]] = []
    waiting: list[str] = []
    suspects = 0

    def new() -> NewInstance:
        one = here.make.instance(
            kind=chance.choice(kinds), priority=chance.randrange(3), delay_us=chance.choice((None, None, 1_000))
        )
        waiting.append(one.id)
        return one

    async def enqueue() -> None:
        """After some calls all nodes are awake, so the script for one instance runs."""
        for _ in range(chance.randrange(1, 6)):
            await store.enqueue([new() for _ in range(chance.choice((1, 1, 20)))])

    async def claim() -> None:
        peer = chance.choice(peers)
        others = {kind: chance.randrange(3) for kind in peer.info.kinds if chance.random() < 0.5}
        caps = Caps(peer.info.kinds, chance.choice((0, 2, 30)), others)
        want = Want(kinds=caps, limit=chance.choice((1, 5, 30)), suspects=chance.random() < 0.5)
        held.extend((peer, one) for one in (await peer.claim(want)).claims)

    async def end() -> None:
        for _ in range(min(len(held), 5)):
            peer, one = held.pop(chance.randrange(len(held)))
            await peer.end(one, chance.choice((Action.COMPLETE, Action.RETRY, Action.HAND_BACK, Action.SNOOZE)))

    async def cancel() -> None:
        await store.cancel(chance.sample(waiting, min(3, len(waiting))), request=here.make.request())

    async def leave() -> None:
        place = chance.randrange(len(peers))
        gone = peers[place]
        await store.leave(gone.incarnation)
        await replace(place)

    async def die() -> None:
        """Its instances become suspects when they are lost a second time."""
        place = chance.randrange(len(peers))
        held.extend((peers[place], one) for one in await peers[place].take(20))
        here.server.command("ZADD", here.key("leases"), 1, peers[place].incarnation)
        while await store.reap(100, reaper=peers[place - 1].incarnation):
            pass
        await replace(place)

    async def replace(place: int) -> None:
        gone = peers[place]
        held[:] = [(peer, one) for peer, one in held if peer is not gone]
        await store.expire(chance.choice((0, 1)))
        of = gone.info.kinds if len(gone.info.kinds) < 30 else chance.choice((large, other, kinds[5:35]))
        peers[place] = await join(here, store, of)

    async def clear() -> None:
        await store.clear_instances(Filter())
        await store.expire(100)

    for _ in range(80):
        await chance.choice((enqueue, claim, claim, end, cancel, leave, die, die, clear))()
        indexed = [key.split(":")[-1] for key in keys(here, "set:x")]
        for prefix, queue in (("head", "q"), ("shead", "s")):
            found = indexes(here, prefix)
            assert found.keys() <= set(indexed)
            for name in indexed:
                assert found.get(name, set()) == heads_of(here, name, queue)
        suspects += len(keys(here, "shead:"))
    assert suspects
    await store.clear()
    assert keys(here, "head:") + keys(here, "shead:") == []


async def test_claims_of_a_large_set_come_in_order(site: MakeSite) -> None:
    here = site()
    chance = random.Random(1)
    store = await here.open()
    kinds = names(200)
    peer = await join(here, store, kinds)
    due = peer.joined_us - 1_000_000
    batch = [
        here.make.instance(kind=chance.choice(kinds), priority=chance.randrange(3), due_us=due + chance.randrange(20))
        for _ in range(900)
    ]
    await store.enqueue(batch[:450])
    await store.enqueue(batch[450:])
    got: list[str] = []
    while claims := await peer.take(chance.choice((1, 7, 60))):
        got += [one.id for one in claims]
    assert got == [one.id for one in sorted(batch, key=lambda one: (one.priority, one.due_us, one.id))]


async def test_a_claim_of_more_queues_than_it_opens_skips_none(site: MakeSite) -> None:
    """A claim opens 200 queues. It must not go on in them past the head of a queue that it does not open."""
    here = site()
    store = await here.open()
    peer = await join(here, store, names(210))
    for priority in (1, 2):
        await store.enqueue([here.make.instance(kind=kind, priority=priority) for kind in names(210)])
    priorities: list[int] = []
    while claims := (await peer.claim(Want(kinds=Caps(peer.info.kinds, 500), limit=500))).claims:
        priorities += [claim.priority for claim in claims]
    assert priorities == [1] * 210 + [2] * 210


async def test_a_cap_holds_for_a_kind_of_a_large_set(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    kinds = names(50)
    peer = await join(here, store, kinds)
    batch = [here.make.instance(kind=kind) for kind in kinds[:3] for _ in range(10)]
    await store.enqueue(batch)
    caps = Caps(kinds, 2, {kinds[0]: 5, kinds[2]: 0})
    claimed = await peer.claim(Want(kinds=caps, limit=100))
    assert [one.id for one in claimed.claims] == [one.id for one in (*batch[:5], *batch[10:12])]
    assert [one.id for one in await peer.take()] == [one.id for one in (*batch[5:10], *batch[12:])]


async def test_a_wrong_entry_of_an_index_is_put_right(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    kinds = names(20)
    peer = await join(here, store, kinds)
    assert await peer.take() == ()
    (first, second) = batch = [here.make.instance(kind=kind) for kind in kinds[:2]]
    await store.enqueue(batch)
    (name,) = indexes(here, "head")
    for kind in (kinds[0], kinds[5]):
        here.server.command("ZADD", here.key(f"head:{name}"), 0, f"{'0' * 16}{here.make.id()}{kind}")
    assert [one.id for one in await peer.take()] == [first.id, second.id]
    assert indexes(here, "head") == {}


async def test_a_wrong_entry_of_an_index_of_suspects_loses_none(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    kinds = names(50)
    peer = await join(here, store, kinds)
    assert await peer.take() == ()
    first, second = (here.make.instance(kind=kinds[0], crashes=3) for _ in range(2))
    await store.enqueue([first, second])
    (index,), (entries,) = keys(here, "shead:"), indexes(here, "shead").values()
    score, _, head = next(iter(entries)).partition(" ")
    here.server.command("DEL", index)
    here.server.command("ZADD", index, score, head.replace(first.id, second.id))
    assert [(await peer.take_one()).id for _ in range(2)] == [first.id, second.id]


async def test_more_sets_than_have_an_index(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    common = names(20, "common")
    peers = [await join(here, store, (*common, f"own-{number}")) for number in range(18)]
    for peer in peers:
        assert await peer.take() == ()
    assert sorted(key.split(":")[-1][0] for key in keys(here, "set:")) == ["u"] * 2 + ["x"] * 16
    for number, peer in enumerate(peers):
        batch = [here.make.instance(kind=kind) for kind in (common[3], f"own-{number}")]
        await store.enqueue(batch)
        assert [one.id for one in await peer.take()] == [one.id for one in batch]
    for peer in peers:
        await store.leave(peer.incarnation)
    await store.expire(1)
    assert keys(here, "set:") + keys(here, "users:") + keys(here, "head:") + keys(here, "indexed") == []


async def test_kinds_are_forgotten_with_their_last_instance_and_node(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    kinds = names(600)
    peer, other = await join(here, store, kinds), await join(here, store, kinds[:2])
    for one in (peer, other):
        assert await one.take() == ()
    await store.enqueue([here.make.instance(kind="unserved"), here.make.instance(kind=kinds[0])])
    assert here.server.command("HLEN", here.key("kinds")) == 601
    await store.leave(peer.incarnation)
    await store.expire(1)
    assert members(here, "HKEYS", "kinds") == {*kinds[:2], "unserved"}
    await store.leave(other.incarnation)
    await store.clear()
    await store.expire(1)
    assert here.server.command("EXISTS", here.key("kinds"), here.key("sets"), here.key("unused")) == 0


async def test_a_set_is_registered_again_where_it_was_forgotten(site: MakeSite) -> None:
    """By the same store, which has the registration cached, and while another store forgets the set."""
    here = site()
    store = await here.open()
    kinds = names(700)
    peer = await join(here, store, kinds)
    assert await peer.take() == ()
    await store.enqueue(batch := [here.make.instance(kind=kind) for kind in kinds[::100]])
    await store.leave(peer.incarnation)
    await store._run("forget", 100)  # pyright: ignore[reportPrivateUsage]
    peer = await join(here, store, kinds)
    assert [one.id for one in await peer.take(3)] == [one.id for one in batch[:3]]
    await store.expire(1)
    here.server.command("HDEL", here.key(f"node:{peer.incarnation}"), "set")
    assert [one.id for one in await peer.take()] == [one.id for one in batch[3:]]


async def test_a_set_of_which_the_server_lost_a_part_is_sent_again(site: MakeSite) -> None:
    """A server that crashes between two parts may lose the first, and keep the node that joined before."""
    here = site()
    store = await here.open()
    kinds = names(700)
    peer = await join(here, store, kinds)
    run, parts = store._driver.run, 0  # pyright: ignore[reportPrivateUsage]

    async def losing(*calls: Any) -> list[Any]:
        nonlocal parts
        replies = await run(*calls)
        if calls[0][0] == "register":
            parts += 1
        if parts == 1:
            lost = [here.key(what) for what in ("kinds", "sets", "indexed")]
            lost += [key for what in ("set:", "users:", "head:") for key in keys(here, what)]
            here.server.command("DEL", *lost)
            here.server.command("HDEL", here.key(f"node:{peer.incarnation}"), "set")
            parts += 1
        return replies

    store._driver.run = losing  # type: ignore[method-assign]  # pyright: ignore[reportPrivateUsage]
    assert await peer.take() == ()
    some = kinds[::10]
    await store.enqueue([here.make.instance(kind=kind) for kind in some])
    assert {one.kind for one in await peer.take(100)} == set(some)


@pytest.mark.matrix("measures ten thousand kinds")
async def test_no_script_takes_long_at_ten_thousand_kinds(site: MakeSite) -> None:
    """The test counts the commands of each script, as the time depends on the machine."""
    here = site()
    store = await here.open()
    kinds = names(MANY)
    peer = await join(here, store, kinds[: MANY // 2])
    most: dict[str, int] = {}
    run = store._driver.run  # pyright: ignore[reportPrivateUsage]

    def commands() -> int:
        return cast("dict[str, int]", here.server.command("INFO", "stats"))["total_commands_processed"]

    async def counted(*calls: Any) -> list[Any]:
        before = commands()
        replies = await run(*calls)
        for name, _ in calls:
            most[name] = max(most.get(name, 0), commands() - before)
        return replies

    store._driver.run = counted  # type: ignore[method-assign]  # pyright: ignore[reportPrivateUsage]
    want = Want(kinds=Caps(kinds[: MANY // 2], 100), limit=100)
    assert (await peer.claim(want)).claims == ()
    for start in range(0, MANY, 500):
        await store.enqueue([here.make.instance(kind=kind) for kind in kinds[start : start + 500]])
    assert len((await peer.claim(want)).claims) == 100
    assert len((await store.health()).counts) == MANY
    assert len(await store.due()) == MANY - 100
    for order in ORDERS:
        page = await store.lookup(Query(limit=200, order=order))
        assert len(page.records) == 200
        assert page.cursor is not None
    assert len((await store.lookup(Query(state=State.PROCESSING))).records) == 100
    await peer.commit(*map(outcome, (await peer.claim(want)).claims))
    assert await store.clear_instances(Filter()) == 100
    await store.leave(peer.incarnation)
    await store.expire(10)
    await store.clear()
    assert max(most.values()) < 10_000, most


def asked(words: Sequence[str]) -> int:
    """The number of entries that a command reads; an unbounded read counts as very many."""
    if words[0] != "ZRANGE":
        return 0
    if "LIMIT" in words:
        return int(words[words.index("LIMIT") + 2])
    if "BYLEX" in words or "BYSCORE" in words:
        return 1 if words[2] == words[3] else MANY
    return MANY if int(words[3]) < 0 else int(words[3]) - int(words[2]) + 1


@pytest.mark.parametrize("count", [1, 10, 100])
async def test_a_page_costs_what_it_holds_and_one_look_at_each_index(site: MakeSite, count: int) -> None:
    """For ids in few indexes or in all of them, and from both ends."""
    here = site()
    store = await here.open()
    kinds = names(60)
    for kind in kinds:
        await store.enqueue([here.make.instance(kind=kind, tags=("t",)) for _ in range(5)])
    await store.enqueue(here.make.instances(100, kind=kinds[7]))
    whole = await found(store, Query(limit=1_000))
    queries = [Query(limit=count, order=order, tag=tag) for order in ORDERS for tag in (None, "t")]
    with redis.Redis(port=here.server.port, decode_responses=True) as client, client.monitor() as monitor:
        for query in queries:
            page = await store.lookup(query)
            later = await store.lookup(query.at(page.cursor))
            if query.tag is None:
                ids = whole if query.order == "asc" else whole[::-1]
                assert [one.id for one in (*page.records, *later.records)] == ids[: 2 * count]
            here.server.command("ECHO", "done")
            total = 0
            while not str((command := monitor.next_command() or {})["command"]).startswith("ECHO"):
                total += asked(str(command["command"]).split()) if command["client_type"] == "lua" else 0
            assert total <= 2 * (4 * count + len(kinds) * 8), query


async def found(store: LuaStore, query: Query) -> list[str]:
    return [record.id for record in (await store.lookup(query)).records]


async def test_dead_idle_nodes_of_one_set_keep_no_hint_from_another(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    dead = [await join(here, store, ("work", "dead")) for _ in range(20)]
    living = await join(here, store, ("work", "living"))
    for peer in (*dead, living):
        await peer.claim()
    for peer in dead:
        here.server.command("ZADD", here.key("leases"), 1, peer.incarnation)
    await store.enqueue(here.make.instances(1))
    assert [hint.what for hint in await store.next_hints(living.incarnation, 5)] == ["work"]


async def test_clearing_sweeps_a_namespace_of_many_kinds(site: MakeSite) -> None:
    """Damage leaves entries without a record; only clearing removes them."""
    here = site()
    store = await here.open()
    kinds = names(1_000)
    await join(here, store, kinds)
    for start in range(0, len(kinds), 500):
        await store.enqueue([here.make.instance(kind=kind, delay_us=60_000_000) for kind in kinds[start : start + 500]])
    here.server.command("ZADD", here.key("delayed"), 1, f"{here.make.id()}-5:gone")
    here.server.command("HSET", here.key("watched"), here.make.id(), "gone\\n")
    lost = here.make.id()
    here.server.command("HSET", here.key("slots"), lost, "report")
    here.server.command("ZADD", here.key("slot:report"), 1, lost)
    left_behind = {here.key(what) for what in ("delayed", "watched", "slots", "slot:report")}
    assert left_behind <= here.all_keys()
    await store.clear()
    assert not left_behind & here.all_keys()


async def test_a_step_of_a_clear_removes_no_more_than_its_limit(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    await store.enqueue(here.make.instances(10))
    steps: list[Any] = [await store._run("clear", 4, "0", 4) for _ in range(3)]  # pyright: ignore[reportPrivateUsage]
    assert [removed for removed, _ in steps] == [4, 4, 2]


async def test_the_only_instance_is_found_first_at_the_kind_that_ran_last(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    peer = await join(here, store, kinds := names(9))
    await peer.claim()
    await store.enqueue([due := here.make.instance(kind=kinds[5])])
    here.server.command("CONFIG", "RESETSTAT")
    claimed = await peer.claim(Want(kinds=Caps(kinds, 2, {kinds[5]: 4}), limit=1, suspects=False))
    assert [claim.id for claim in claimed.claims] == [due.id]
    stats = cast("dict[str, Any]", here.server.command("INFO", "commandstats"))
    assert stats["cmdstat_zrange"]["calls"] == 2, "at the delayed instances, and at one queue"


async def test_a_list_of_hints_that_no_node_reads_stays_short(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    peer = await join(here, store, ("work",))
    wake = here.key(f"wake:{peer.incarnation}")
    for before, after in ((0, 1), (999, 1000), (1000, 1000)):
        await peer.claim()
        here.server.command("DEL", wake)
        here.server.command("RPUSH", wake, *["f"] * before) if before else None
        await store.enqueue(here.make.instances(1))
        assert here.server.command("LLEN", wake) == after
        await peer.take()
