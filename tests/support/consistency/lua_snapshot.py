"""All keys of a namespace on Redis or Valkey, decoded; raises DecodeError for a damaged record."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import redis.asyncio

from peerjob.model.record import Record
from peerjob.store.lua.client.driver import prefix
from peerjob.store.lua.commands.codec import unpack_record
from peerjob.store.lua.store import LuaStore

_FLAGS_AT, _RELEASING, _HAS_TAIL = 2, 1, 128
_LOG_SIZES = struct.Struct(">57xII")
_READ = """
local all = {}
for n, key in ipairs(KEYS) do
  local kind, entries = redis.call('TYPE', key)['ok'], {}
  if kind == 'string' then entries = {redis.call('GET', key)}
  elseif kind == 'hash' then entries = redis.call('HGETALL', key)
  elseif kind == 'zset' then entries = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  elseif kind == 'set' then entries = redis.call('SMEMBERS', key)
  elseif kind == 'list' then entries = redis.call('LRANGE', key, 0, -1) end
  all[n] = {kind, redis.call('PTTL', key), entries}
end
return all
"""
_MOST_KEYS = 5_000
"""Keys that one call reads."""


@dataclass(frozen=True)
class Stored:
    """A key: its type, its expiry in milliseconds, and what it holds."""

    type: str
    ttl_ms: int
    entries: list[bytes]

    @property
    def pairs(self) -> dict[str, bytes]:
        """The fields of a hash with their values, or the members of a sorted set with their scores."""
        pairs = zip(self.entries[::2], self.entries[1::2], strict=True)
        return {name.decode(errors="replace"): value for name, value in pairs}

    @property
    def members(self) -> set[str]:
        """The members of a set."""
        return {member.decode(errors="replace") for member in self.entries}


class Snapshot:
    """The keys of a namespace, without its prefix."""

    def __init__(self, keys: Mapping[str, Stored]) -> None:
        self.keys = keys
        self.records: dict[str, Record] = {}
        self.releasing: set[str] = set()
        """Cancelled instances whose bodies still run."""
        self.with_thread: set[str] = set()
        """Instances with a thread: no test has another tail."""
        self.log_sizes: dict[str, tuple[int, int]] = {}
        """By instance: how many lines it has logged, and the bytes of those that are stored."""
        for id, stored in self.named("i"):
            (raw,) = stored.entries
            self.records[id] = unpack_record(id, raw, b"")
            self.log_sizes[id] = _LOG_SIZES.unpack_from(raw)
            if raw[_FLAGS_AT] & _RELEASING:
                self.releasing.add(id)
            if raw[_FLAGS_AT] & _HAS_TAIL:
                self.with_thread.add(id)

    def named(self, part: str) -> Iterator[tuple[str, Stored]]:
        """The keys with this first part, by the rest of their names."""
        for key, stored in self.keys.items():
            first, colon, rest = key.partition(":")
            if colon and first == part:
                yield rest, stored

    def pairs(self, key: str) -> dict[str, bytes]:
        """The pairs of a key, none if it does not exist."""
        return self.keys[key].pairs if key in self.keys else {}

    def is_over(self, id: str) -> bool:
        """Whether an instance is final, and no body of it runs."""
        return self.records[id].state.is_final and id not in self.releasing

    @cached_property
    def gates(self) -> Mapping[str, Mapping[str, tuple[str, int, str]]]:
        """By kind: the instances with a limit key, each with its letter, its time and its key."""
        found: dict[str, dict[str, tuple[str, int, str]]] = defaultdict(dict)
        for kind, stored in self.named("g"):
            for id, text in stored.pairs.items():
                found[kind][id] = chr(text[0]), int(text[1:17]), text[21:].decode()
        return found


async def snapshot(store: LuaStore) -> Snapshot:
    """Read all keys of a namespace. No other client may write meanwhile."""
    private: Any = store
    host = store.url.partition("://")[2].partition("?")[0]  # the options are those of peerjob
    start = prefix(private._driver.namespace)
    async with redis.asyncio.Redis.from_url(f"redis://{host}") as client:
        names = [key async for key in client.scan_iter(match=f"{start}*", count=1000)]
        replies: list[Any] = []
        for at in range(0, len(names), _MOST_KEYS):
            part = names[at : at + _MOST_KEYS]
            replies += await client.eval(_READ, len(part), *part)
    keys = {
        name.decode(errors="replace")[len(start) :]: Stored(kind.decode(), ttl, entries)
        for name, (kind, ttl, entries) in zip(names, replies, strict=True)
        if kind != b"none"
    }
    return Snapshot(keys)
