"""The kinds of a node, stored once for all nodes that have the same.

A node row is read by every claim, renewal and reap. The row of a node with many kinds therefore names its kinds by a
digest, and the kinds stand apart, in parts that fit into one value. A join writes the stamp of the kinds before it
writes the row, and compares it there; the removal of unused kinds compares the stamp from before it read the rows.
So a removal never takes kinds that a row names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from peerjob.model.record import NodeInfo

from .base import MAX_REQUEST_BYTES, Compare, Delete, KeyValue, Put, Range, Step
from .keys import Keys, prefix_end
from .rows import NodeRow, encode, kinds_of, node_of

_FEW = 16
"""Most kinds that a node row names itself."""
_MAX_KNOWN = 100
_PART_BYTES = MAX_REQUEST_BYTES // 2
_Set = tuple[tuple[str, ...], dict[str, str]]
"""Kinds, and the signatures that are known of them."""


class KindSets:
    """Writes, reads and removes the kinds of nodes."""

    def __init__(self, kv: KeyValue, keys: Keys) -> None:
        self._kv = kv
        self._keys = keys
        self._known: dict[str, _Set] = {}

    async def stored(self, node: NodeInfo) -> tuple[NodeRow, list[Compare]]:
        """The row of a node whose kinds are stored now, and what the step that writes the row compares."""
        if len(node.kinds) <= _FEW:
            return NodeRow(node), []
        parts = [encode(part) for part in _parts(node)]
        digest = hashlib.sha256(b"".join(parts)).hexdigest()[:32]
        stamp, prefix = self._keys.kinds + digest, f"{self._keys.kinds}{digest}/"
        (found,) = await self._kv.get([stamp])
        if found is None:
            for number, part in enumerate(parts):
                await self._kv.txn([Step([], [Put(f"{prefix}{number:04d}", part)])])
        applied = await self._kv.txn([Step([], [Put(stamp, str(len(parts)).encode())])])
        self._remember(
            digest, node.kinds, {kind: node.signatures[kind] for kind in node.kinds if kind in node.signatures}
        )
        others = {kind: hash for kind, hash in node.signatures.items() if kind not in set(node.kinds)}
        short = msgspec.structs.replace(node, kinds=(), signatures=others)
        return NodeRow(short, kinds=digest), [Compare(stamp, mod=applied.revision)]

    async def whole(self, rows: Iterable[NodeRow]) -> list[NodeInfo]:
        """What these nodes show, with their kinds."""
        rows = list(rows)
        # apart from what is kept, as that may be less than these nodes have
        sets = {digest: await self._set(digest) for digest in dict.fromkeys(row.kinds for row in rows) if digest}
        return [_whole(row, *sets[row.kinds]) if row.kinds else row.info for row in rows]

    async def _set(self, digest: str) -> _Set:
        """The kinds of a set and their signatures; none for one that was removed."""
        known = self._known.get(digest)
        if known is not None:
            return known
        prefix = f"{self._keys.kinds}{digest}/"
        (found,) = await self._kv.read([Range(prefix, prefix_end(prefix))])
        kinds = [one for _, entry in found.items for one in kinds_of(entry.value)]
        signatures = {kind: signature for kind, signature in kinds if signature is not None}
        read = tuple(kind for kind, _ in kinds), signatures
        if kinds:
            self._remember(digest, *read)
        return read

    async def remove_unused(self) -> None:
        """Remove kinds that no node row names."""
        kv, keys = self._kv, self._keys
        (stored,) = await kv.read([Range(keys.kinds, prefix_end(keys.kinds), keys_only=True)])
        stamps = {key: entry.mod for key, entry in stored.items if "/" not in key[len(keys.kinds) :]}
        if not stamps:
            return
        (rows,) = await kv.read([Range(keys.node, prefix_end(keys.node))])
        named = {keys.kinds + node_of(entry.value).kinds for _, entry in rows.items}
        for stamp, mod in stamps.items():
            if stamp not in named:
                parts = f"{stamp}/"
                await kv.txn([Step([Compare(stamp, mod=mod)], [Delete(stamp), Delete(parts, prefix_end(parts))])])

    def _remember(self, digest: str, kinds: tuple[str, ...], signatures: dict[str, str]) -> None:
        if len(self._known) >= _MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[digest] = (kinds, signatures)


def _whole(row: NodeRow, kinds: tuple[str, ...], signatures: dict[str, str]) -> NodeInfo:
    return msgspec.structs.replace(row.info, kinds=kinds, signatures=row.info.signatures | signatures)


def _parts(node: NodeInfo) -> Iterable[list[tuple[str, str | None]]]:
    part: list[tuple[str, str | None]] = []
    size = 0
    for kind in node.kinds:
        part.append((kind, node.signatures.get(kind)))
        size += 4 * len(kind) + 40
        if size > _PART_BYTES:
            yield part
            part, size = [], 0
    yield part
