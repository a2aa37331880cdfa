"""Leftovers: data of a namespace that nothing owns, after all nodes have left and all instances were removed.

Each key that stays has an expiry, or stands in a list below with its reason. A key or an entry that names an ended
incarnation needs a reason even if it expires.
"""

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import redis.asyncio

from peerjob.store.base import Store
from peerjob.store.kv.format.base import Range
from peerjob.store.kv.format.keys import prefix_end
from peerjob.store.kv.store import KVStore
from peerjob.store.lua.client.driver import prefix
from peerjob.store.lua.store import LuaStore

_PUBLISHED = "nodes can come back: a kind stays known for `StoreLimits.kinds_kept_us`"
_PRESENT = "schedules outlive nodes and instances"
_NUMBERS = "a number that must not go back"
_LATEST = "the latest entries, of a bounded number"
_LATE_JOIN = "a join that arrives late must not bring the incarnation back"
_REJOIN = "if the process proves to be alive, its crashes become losses"
_WAITER = "a node that waits registers again each second, and the lease ends with a node that has died"
_UNREAD = (
    "the end of an instance is told to each node that waits for it, and the lease ends with a hint that no node reads"
)

OF_LUA: Mapping[str, str] = {
    "layout": "the version of the stored form, which each release checks",
    "flows": "that version again, in case the server loses the key `layout`",
    "catalogue": _PUBLISHED,
    "descriptors": _PUBLISHED,
    "terms": _NUMBERS,
    "revisions": _NUMBERS,
    "removed": f"removals of schedules: {_LATEST}",
    "schedules": _PRESENT,
    "schedule": _PRESENT,
    "fired": _PRESENT,
    "gaps": _PRESENT,
    "aside": f"what was set aside, for an operator: {_LATEST}",
    "asides": _NUMBERS,
    "activity": _LATEST,
    "audit": _LATEST,
}
"""Keys on Redis and Valkey that belong to the namespace, by their first part; each with the reason why it stays."""
OF_KV: Mapping[str, str] = {
    "layout": OF_LUA["layout"],
    "durable": "marks the layout, as long as the namespace exists",
    "counted": "when the counters were last compared with the indexes",
    "schedules": _NUMBERS,
    "schedule": _PRESENT,
    "next": _PRESENT,
    "changed": _PRESENT,
    "removed": OF_LUA["removed"],
    "ledger": _PRESENT,
    "term": _NUMBERS,
    "leader": "the coordinator's token, a part of its name; and the last resignation, which wakes candidates",
    "aside": OF_LUA["aside"],
    "activity": _LATEST,
    "audit": _LATEST,
    **dict.fromkeys(("head", "count", "group", "groups"), "of kinds, until retention forgets a kind that is not used"),
}
"""The same on a key-value store."""
OF_ENDED: Mapping[str, str] = {
    "req": _LATE_JOIN,
    "ended": _LATE_JOIN,
    "charged": _REJOIN,
    "clocks": "a join again begins a new lease, and one that was given up leaves the last one to its end",
    "watch": _WAITER,
    "hint": _UNREAD,
    "wake": _UNREAD,
}
"""Keys of an incarnation that has ended, by their first part; all of them expire."""

NO_EXPIRY = -1
"""What a server says of a key that stays. Of a key that has expired since it was listed, it says -2."""


async def leftovers_of(store: Store) -> Sequence[str]:
    """Keys that should be gone: they do not expire, and no list has a reason for them."""
    if isinstance(store, LuaStore):
        async with _client(store) as (client, start):
            found = [key for key in await _scan(client, start) if await client.pttl(start + key) == NO_EXPIRY]
            left = [key for key in found if key.split(":", maxsplit=1)[0] not in OF_LUA]
            published = {*await _entries(client, f"{start}catalogue")}
            described = await _entries(client, f"{start}descriptors")
            return [*left, *(f"descriptors of {kind}" for kind in described if kind not in published)]
    return [key for key, lease in await _all(store) if not lease and key.split("/", maxsplit=1)[0] not in OF_KV]


async def traces_of(store: Store, ended: Sequence[str]) -> Sequence[str]:
    """Keys and entries that name an incarnation that has ended, and that no list has a reason for."""
    if isinstance(store, LuaStore):
        async with _client(store) as (client, start):
            traces: list[str] = []
            for key in await _scan(client, start):
                if key.split(":", maxsplit=1)[0] not in OF_ENDED or await client.pttl(start + key) == NO_EXPIRY:
                    texts = (key, *await _entries(client, start + key))
                    traces += [f"{key} has {one}" for one in ended if any(one in text for text in texts)]
            return traces
    return [
        key
        for key, lease in await _all(store)
        if any(one in key for one in ended) and not (lease and key.split("/", maxsplit=1)[0] in OF_ENDED)
    ]


async def kinds_left(store: KVStore) -> Sequence[str]:
    """Keys of kinds, in a namespace in which retention has had the time to forget every kind."""
    private: Any = store
    keys, kv = private._context.keys, private._context.kv
    prefixes = [f"{keys.root}{part}/" for part in ("count", "group", "groups", "head/ready", "head/order", "head/by")]
    found = await kv.read([Range(prefix, prefix_end(prefix), keys_only=True) for prefix in prefixes])
    of_no_kind = f"{keys.count}/"
    return [key[len(keys.root) :] for one in found for key, _ in one.items if not key.startswith(of_no_kind)]


async def _all(store: Store) -> list[tuple[str, int]]:
    """The keys of a key-value store without their namespace, each with its lease."""
    assert isinstance(store, KVStore)
    private: Any = store
    keys, kv = private._context.keys, private._context.kv
    (found,) = await kv.read([Range(keys.root, prefix_end(keys.root))])
    return [(key[len(keys.root) :], entry.lease) for key, entry in found.items]


@contextlib.asynccontextmanager
async def _client(store: LuaStore) -> AsyncGenerator[tuple[Any, str]]:
    """A client of the server, and the prefix of the namespace."""
    private: Any = store
    host = store.url.partition("://")[2].partition("?")[0]  # the options are those of peerjob
    async with redis.asyncio.Redis.from_url(
        f"redis://{host}", decode_responses=True, encoding_errors="replace"
    ) as client:
        yield client, prefix(private._driver.namespace)


async def _scan(client: Any, start: str) -> list[str]:
    return [key[len(start) :] async for key in client.scan_iter(match=f"{start}*", count=1000)]


async def _entries(client: Any, key: str) -> list[str]:
    """The fields, members or elements of a key, as text; those of a hash without their values."""
    match await client.type(key):
        case "hash":
            return list(await client.hkeys(key))
        case "zset":
            return list(await client.zrange(key, 0, -1))
        case "set":
            return list(await client.smembers(key))
        case "list":
            return list(await client.lrange(key, 0, -1))
        case _:
            return []
