"""Stores of a later release, which add a tail or an `extra` map to each record that they write."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from peerjob.model.clock import Clock
from peerjob.model.record import StoreLimits
from peerjob.store.base import Store
from peerjob.store.drivers import open_store
from peerjob.store.kv.format.base import Applied, Compare, KeyValue, Put, Transaction
from peerjob.store.kv.format.keys import Keys
from peerjob.store.kv.store import KVStore
from peerjob.store.lua.scripts.script import Script, load_scripts
from peerjob.store.lua.store import LuaStore

TAIL = b"\x07\x00\x05later\x08\x00\x02\x00\xff"
"""Two entries: tag, length, bytes."""
EXTRA = msgspec.msgpack.encode({"later": [1, b"\x00"], "5": 2.5})

_ENCODE = "local function encode(record)\n"
_NEW_RECORD = "local function new_record("
_IN_PARTS = {"enqueue_one", "enqueue_indexed", "enqueue_waking"}
"""The scripts that make the record of a plain instance of its parts."""


def newer_store(url: str, *, namespace: str, clock: Clock, limits: StoreLimits) -> Store:
    """The store that a URL names, as a later release would write to it; not opened yet."""
    store = open_store(url, namespace=namespace, clock=clock, limits=limits)
    if isinstance(store, LuaStore):
        private: Any = store
        private._driver._scripts = _with_tails(load_scripts())
    elif isinstance(store, KVStore):
        extend(store, namespace)
    return store


def extend(store: KVStore, namespace: str) -> None:
    """Let a store on a key-value store write records as a later release."""
    private: Any = store
    private._kv._kv = _ExtendedKeyValue(private._kv._kv, Keys(namespace).state)


async def kept(store: Store, id: str) -> bytes | None:
    """The bytes of the later release in a record; None if there is no record."""
    if isinstance(store, LuaStore):
        private: Any = store
        ((raw, _),) = await private._driver.run(("read", (1 << 20, id)))
        return None if raw is None else bytes(raw[-len(TAIL) :])
    private = store
    context = private._context
    (entry,) = await context.kv.get([context.keys.state + id])
    return None if entry is None else bytes(entry.value[-len(EXTRA) :])


def written(store: Store) -> bytes:
    """The bytes that the later release adds to each record."""
    return TAIL if isinstance(store, LuaStore) else EXTRA


def _with_tails(scripts: Mapping[str, Script]) -> Mapping[str, Script]:
    changed: dict[str, Script] = {}
    literal = "".join(f"\\{byte:03d}" for byte in TAIL)
    for script in scripts.values():
        source = script.source.replace(_ENCODE, f"{_ENCODE}  record.tail = record.tail or '{literal}'\n")
        if script.name in _IN_PARTS:
            source = _with_tail_of_parts(source, literal)
        elif _NEW_RECORD in source:
            source = _with_tail_from_birth(source, literal)
        sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        changed[script.name] = Script(script.name, (source,), sha)
    return changed


def _with_tail_from_birth(source: str, literal: str) -> str:
    """A new record is plain text: its flags are the third byte, and the texts behind a flag come last."""
    head, _, rest = source.partition(_NEW_RECORD)
    born = f"""
local function new_record(...)
  local text = new_record_plainly(...)
  if byte(text, 3) == 0 then
    text = text .. string.rep('\\000', 20)
  end
  return sub(text, 1, 2) .. string.char(byte(text, 3) + 128) .. sub(text, 4) .. pack('>I4c0', {len(TAIL)}, '{literal}')
end
"""
    body, end, after = rest.partition("\nend\n")
    return f"{head}local function new_record_plainly({body}{end}{born}{after}"


def _with_tail_of_parts(source: str, literal: str) -> str:
    """The client sends the record of a plain instance: its flags are in the first part, and the last part ends it."""
    first, end, rest = source.partition("\n")
    changed = f"""
ARGV[3] = string.sub(ARGV[3], 1, 2) .. string.char(string.byte(ARGV[3], 3) + 128) .. string.sub(ARGV[3], 4)
ARGV[6] = ARGV[6] .. string.rep('\\000', 20) .. struct.pack('>I4c0', {len(TAIL)}, '{literal}')
"""
    return f"{first}{end}{changed}{rest}"


class _ExtendedKeyValue:
    """A key-value store that writes records with an `extra` map."""

    def __init__(self, kv: KeyValue, prefix: str) -> None:
        self._inner = kv
        self._prefix = prefix

    async def txn(
        self, transactions: Sequence[Transaction], also: Transaction | None = None, guards: Sequence[Compare] = ()
    ) -> Applied:
        return await self._inner.txn([self._extended(transaction) for transaction in transactions], also, guards)

    def _extended(self, transaction: Transaction) -> Transaction:
        ops = [
            Put(op.key, _with_extra(op.value), op.lease)
            if isinstance(op, Put) and op.key.startswith(self._prefix)
            else op
            for op in transaction.ops
        ]
        return Transaction(transaction.compares, ops, transaction.reads)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _with_extra(value: bytes) -> bytes:
    return value[:-1] + EXTRA if value.endswith(b"\x80") else value
