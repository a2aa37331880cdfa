"""Damage: the stored record of one instance becomes unreadable, as after a stray write."""

from __future__ import annotations

from typing import Any

import redis.asyncio

from peerjob.store.base import Store
from peerjob.store.kv.format.base import Put, Step
from peerjob.store.kv.store import KVStore
from peerjob.store.lua.client.driver import prefix

UNREADABLE = b"\xff\xfe"


async def damage(store: Store, id: str) -> None:
    """Replace the record of an instance by bytes that nothing can read."""
    private: Any = store
    if isinstance(store, KVStore):
        kv, keys = private._context.kv, private._context.keys
        await kv.txn([Step([], [Put(keys.state + id, UNREADABLE)])])
        return
    host = store.url.partition("://")[2].partition("?")[0]  # the options are those of peerjob
    async with redis.asyncio.Redis.from_url(f"redis://{host}") as client:
        await client.set(f"{prefix(private._driver.namespace)}i:{id}", UNREADABLE)
