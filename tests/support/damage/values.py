"""The values that a store holds, read and replaced beside the product, with the tools of each server."""

from __future__ import annotations

import base64
import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import httpx
import msgspec
import redis

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_NUMBER = re.compile(r"[0-9a-f]{8}-[0-9a-f-]+|\d{12,}|[0-9a-f]{8,}|\d+")
_NAME = re.compile(r"[A-Z][A-Z0-9.]+|.*%.*")
_SHARDED = {"due", "expiry", "count"}
"""The first parts of keys whose last part before the place is one of sixteen shards."""


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """One stored value."""

    name: str
    """The class of the value: its key, with words in place of ids, numbers and names."""
    key: str
    kind: str = "string"
    """The type of the key on Redis; "string" on other stores."""
    part: bytes = b""
    """The field, member or index on Redis."""
    data: bytes
    score: float = 0
    lease: int = 0


class Holder(Protocol):
    """A store whose values can be read and damaged."""

    def url(self, namespace: str) -> str:
        """The URL of the store for a node of this namespace."""
        ...

    def values(self, namespace: str, names: Mapping[str, str]) -> list[Value]:
        """All values of a namespace. `names` gives words for ids."""
        ...

    def put(self, value: Value, data: bytes) -> None:
        """Replace the bytes of a value, as a damage would: with the same key and lease."""
        ...

    def remove(self, value: Value) -> None:
        """Delete the key of a value."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


def class_of(parts: Sequence[str], names: Mapping[str, str]) -> str:
    """The class of the key with these parts."""
    return "/".join(_word(part, names, sharded=at > 0 and parts[0] in _SHARDED) for at, part in enumerate(parts))


def _word(part: str, names: Mapping[str, str], *, sharded: bool) -> str:
    if sharded and len(part) == 1:
        return "S"
    if _UUID.fullmatch(part):
        return names.get(part, "ID")
    if _NAME.fullmatch(part):
        return "NAME"
    return _NUMBER.sub("N", _UUID.sub("ID", part))


class Etcd:
    """The values in an etcd."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._http = httpx.Client(base_url=f"http://{url.split('//')[1]}", timeout=30)

    def url(self, namespace: str) -> str:
        return self._url

    def values(self, namespace: str, names: Mapping[str, str]) -> list[Value]:
        found = self._call("range", key=b"\0", range_end=b"\0").get("kvs", ())
        pairs = ((base64.b64decode(one["key"]).decode(), one) for one in found)
        values: list[Value] = []
        for key, one in pairs:
            before, mark, rest = key.partition(f"{namespace}/")
            if mark and before in {"", "peerjob/"}:
                data = base64.b64decode(one.get("value", ""))
                name = class_of(rest.split("/"), names if data else {})
                values.append(Value(name=name, key=key, data=data, lease=int(one.get("lease", 0))))
        return values

    def close(self) -> None:
        self._http.close()

    def put(self, value: Value, data: bytes) -> None:
        self._call("put", key=value.key.encode(), value=data, ignore_lease=bool(value.lease))

    def remove(self, value: Value) -> None:
        self._call("deleterange", key=value.key.encode())

    def _call(self, verb: str, **fields: Any) -> dict[str, Any]:
        body = {
            name: base64.b64encode(field).decode() if isinstance(field, bytes) else field
            for name, field in fields.items()
        }
        answer: dict[str, Any] = self._http.post(f"/v3/kv/{verb}", json=body).raise_for_status().json()
        return answer


class Sqlite:
    """The values in SQLite files: one file for each namespace, as the nodes of one machine have it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def url(self, namespace: str) -> str:
        return f"sqlite://{self._file(namespace)}?sync=normal"

    def values(self, namespace: str, names: Mapping[str, str]) -> list[Value]:
        with closing(sqlite3.connect(self._file(namespace), timeout=30)) as file:
            rows = file.execute("SELECT key, value FROM kv").fetchall()
        return [
            Value(name=class_of(key.split("/")[1:], names if data else {}), key=f"{namespace}\n{key}", data=bytes(data))
            for key, data in rows
        ]

    def close(self) -> None:
        pass  # each call opens the file

    def put(self, value: Value, data: bytes) -> None:
        namespace, key = value.key.split("\n")
        with closing(sqlite3.connect(self._file(namespace), timeout=30)) as file, file:
            file.execute("UPDATE kv SET value = ? WHERE key = ?", (data, key))

    def remove(self, value: Value) -> None:
        namespace, key = value.key.split("\n")
        with closing(sqlite3.connect(self._file(namespace), timeout=30)) as file, file:
            file.execute("DELETE FROM kv WHERE key = ?", (key,))

    def _file(self, namespace: str) -> Path:
        return self._folder / f"{namespace}.db"


class Redis:
    """The values in a Redis or a Valkey: each field, member and element is a value."""

    def __init__(self, url: str) -> None:
        self._url = url
        # the package `redis` gives no narrower types to these calls
        self._server: Any = redis.Redis.from_url(url.replace("valkey://", "redis://"))

    def url(self, namespace: str) -> str:
        return self._url

    def values(self, namespace: str, names: Mapping[str, str]) -> list[Value]:
        return [
            value
            for key in sorted(self._server.scan_iter(match=f"*{namespace}}}*", count=5000))
            # with a layout that it does not know, a node on this engine stops with any such layout
            if not key.endswith(b":layout")
            for value in self._of_key(key, names)
        ]

    def _of_key(self, key: bytes, names: Mapping[str, str]) -> Iterable[Value]:
        kind = self._server.type(key).decode()
        text = key.decode("latin-1")
        parts = text.split("}", 1)[1].lstrip(":").split(":")
        name = class_of(parts, names)

        def value(data: bytes, part: bytes = b"", score: float = 0, field: str = "") -> Value:
            full = f"{name}.{_word(field, names, sharded=False)}" if field else name
            return Value(name=full, key=text, kind=kind, part=part, data=data, score=score)

        match kind:
            case "string":
                yield value(self._server.get(key))
            case "list":
                for at, data in enumerate(self._server.lrange(key, 0, -1)):
                    yield value(data, str(at).encode())
            case "set":
                for member in self._server.smembers(key):
                    yield value(member, member)
            case "zset":
                for member, score in self._server.zrange(key, 0, -1, withscores=True):
                    yield value(member, member, score)
            case "hash":
                for field, data in self._server.hgetall(key).items():
                    yield value(data, field, field=field.decode("latin-1"))
            case "none":
                pass  # the key was deleted after the scan
            case other:
                raise AssertionError(f"{text} has the type {other}, which this search does not know")

    def close(self) -> None:
        self._server.close()

    def put(self, value: Value, data: bytes) -> None:
        key = value.key.encode("latin-1")
        match value.kind:
            case "string":
                self._server.set(key, data, keepttl=True)
            case "list":
                self._server.lset(key, int(value.part), data)
            case "hash":
                self._server.hset(key, value.part, data)
            case "set":
                self._server.srem(key, value.part)
                self._server.sadd(key, data)
            case _:
                self._server.zrem(key, value.part)
                self._server.zadd(key, {data: value.score})

    def remove(self, value: Value) -> None:
        self._server.delete(value.key.encode("latin-1"))

    def put_score(self, value: Value, score: float) -> None:
        """Give a member of a sorted set another score."""
        self._server.zadd(value.key.encode("latin-1"), {value.part: score})

    def put_field(self, value: Value, field: bytes) -> None:
        """Give a field of a hash another name."""
        key = value.key.encode("latin-1")
        self._server.hdel(key, value.part)
        self._server.hset(key, field, value.data)

    def put_type(self, value: Value) -> None:
        """Replace the whole key by one of another type."""
        key = value.key.encode("latin-1")
        self._server.delete(key)
        if value.kind == "list":
            self._server.set(key, "x")
        else:
            self._server.rpush(key, "x")
