"""Leftovers: data of a namespace that nothing owns, after all nodes have left and all instances were removed."""

from collections.abc import Sequence
from typing import Any, cast

import redis.asyncio

from peerjob.store.base import Store
from peerjob.store.kv.base import Range
from peerjob.store.kv.keys import prefix_end
from peerjob.store.kv.store import KVStore
from peerjob.store.lua.driver import prefix
from peerjob.store.lua.store import LuaStore

_OF_NAMESPACE = {
    "layout",
    "catalogue",
    "descriptors",
    "terms",
    "revisions",
    "removed",
    "schedules",
    "aside",
    "asides",
    "activity",
}
"""Keys on Redis and Valkey that belong to the namespace itself, or to its schedules."""
_OF_SCHEDULES = {"schedule", "fired", "gaps"}
_OF_STORE = {
    "layout",
    "counted",
    "schedules",
    "schedule",
    "next",
    "changed",
    "removed",
    "ledger",
    "term",
    "leader",
    "aside",
    "activity",
}
"""The same on a key-value store, by the first part of a key."""
_HEADS = {"head", "count", "group", "groups"}
"""Of kinds; retention removes them when they have not been used for a while."""


async def leftovers_of(store: Store) -> Sequence[str]:
    """Keys that should be gone; keys that expire by themselves do not count."""
    private: Any = store
    if isinstance(store, LuaStore):
        return await _on_server(store.url, prefix(private._driver.namespace))
    assert isinstance(store, KVStore)
    keys, kv = private._context.keys, private._context.kv
    (found,) = await kv.read([Range(keys.root, prefix_end(keys.root))])
    left = [(key[len(keys.root) :], entry) for key, entry in found.items if not entry.lease]
    return [key for key, _ in left if key.split("/")[0] not in _OF_STORE | _HEADS]


async def kinds_left(store: KVStore) -> Sequence[str]:
    """Keys of kinds, in a namespace in which retention has had the time to forget every kind."""
    private: Any = store
    keys, kv = private._context.keys, private._context.kv
    prefixes = [f"{keys.root}{part}/" for part in ("count", "group", "groups", "head/ready", "head/order", "head/by")]
    found = await kv.read([Range(prefix, prefix_end(prefix), keys_only=True) for prefix in prefixes])
    of_no_kind = f"{keys.count}/"
    return [key[len(keys.root) :] for one in found for key, _ in one.items if not key.startswith(of_no_kind)]


async def _on_server(url: str, start: str) -> Sequence[str]:
    host = url.partition("://")[2].partition("?")[0]  # the options are those of peerjob
    client = redis.asyncio.Redis.from_url(f"redis://{host}", decode_responses=True)
    left: list[str] = []
    try:
        found = cast("list[str]", [key async for key in client.scan_iter(match=f"{start}*", count=1000)])
        for key in found:
            name = key[len(start) :]
            if name in _OF_NAMESPACE or name.split(":")[0] in _OF_SCHEDULES or await client.pttl(key) >= 0:
                continue
            left.append(name)
    finally:
        await client.aclose()
    return left
