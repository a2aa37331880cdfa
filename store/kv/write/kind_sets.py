"""The kinds of nodes with many kinds, stored once for all nodes with the same kinds.

Each claim, renewal and reap reads the row of a node. So the row of a node with many kinds has only the digest of its
kinds. The kinds are stored separately, in parts that fit into one value. A join writes the parts, then the stamp of the
kinds if the parts are still there. It compares the stamp when it writes the row. The removal of unused kinds reads the
stamps, then the rows, and compares the stamps when it deletes. So no removal deletes kinds that a row names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from msgspec.structs import replace

from peerjob.model.errors import StoreUnavailableError
from peerjob.model.record import NodeInfo
from peerjob.store.kv.format.base import MAX_REQUEST_BYTES, Compare, Delete, KeyValue, Put, Transaction
from peerjob.store.kv.format.keys import Keys, below, prefix_end
from peerjob.store.kv.format.rows import UNREADABLE_NODE, NodeRow, digests_of, encode, kinds_of, node_of

from .writer import ROUNDS

_MAX_KINDS_IN_ROW = 16
_MAX_KNOWN = 100
_PART_BYTES = MAX_REQUEST_BYTES // 2
_DIGESTS = "digests"
"""The last part of the key with the digests of the descriptors; an older release reads it as a part without kinds."""
_KindSet = tuple[tuple[str, ...], dict[str, str], bytes]
"""The kinds of a set, the signatures of those kinds that have a signature, and the digests of their descriptors."""


class KindSets:
    """Writes, reads and removes the kinds of nodes."""

    def __init__(self, kv: KeyValue, keys: Keys) -> None:
        self._kv = kv
        self._keys = keys
        self._known: dict[str, _KindSet] = {}

    async def stored(self, node: NodeInfo) -> tuple[NodeRow, list[Compare]]:
        """Store the kinds of a node; the answer is its row, and the compares for the write of the row."""
        if len(node.kinds) <= _MAX_KINDS_IN_ROW:
            return NodeRow(node), []
        parts = [encode(part) for part in _parts(node)]
        numbers = [f"{number:04d}" for number in range(len(parts))]
        if node.descriptors:
            parts.append(encode(node.descriptors))
            numbers.append(_DIGESTS)
        digest = hashlib.sha256(b"".join(parts)).hexdigest()[:32]
        stamp, prefix = self._keys.kinds + digest, f"{self._keys.kinds}{digest}/"
        compares, names = [_is_there(stamp)], [prefix + number for number in numbers]
        for _ in range(ROUNDS):
            applied = await self._kv.txn([Transaction(compares, [Put(stamp, str(len(parts)).encode())])])
            if applied.answers[0] is not None:
                break
            for name, part in zip(names, parts, strict=True):
                await self._kv.txn([Transaction([], [Put(name, part)])])
            compares = [_is_there(name) for name in names]
        else:
            raise StoreUnavailableError(self._keys.root[:-1], "the kinds of a joining node are removed again and again")
        signatures = {kind: node.signatures[kind] for kind in node.kinds if kind in node.signatures}
        self._remember(digest, (node.kinds, signatures, node.descriptors))
        own = set(node.kinds)
        others = {kind: hash for kind, hash in node.signatures.items() if kind not in own}
        short = replace(node, kinds=(), signatures=others, descriptors=b"")
        return NodeRow(short, kinds=digest), [Compare(stamp, mod=applied.revision)]

    async def whole(self, rows: Iterable[NodeRow]) -> list[NodeInfo]:
        """The nodes, with their kinds."""
        rows = list(rows)
        # each set is read once and kept until the end of the call, because the nodes can have more sets than the cache
        # keeps
        sets = {digest: await self._read_set(digest) for digest in dict.fromkeys(row.kinds for row in rows) if digest}
        return [_whole(row, *sets[row.kinds]) if row.kinds else row.info for row in rows]

    async def _read_set(self, digest: str) -> _KindSet:
        """The kinds of a set; empty if the set was deleted."""
        known = self._known.get(digest)
        if known is not None:
            return known
        (answer,) = await self._kv.read([below(f"{self._keys.kinds}{digest}/")])
        kinds = [pair for _, entry in answer.items for pair in kinds_of(entry.value)]
        digests = next((entry.value for key, entry in answer.items if key.endswith(f"/{_DIGESTS}")), None)
        signatures = {kind: signature for kind, signature in kinds if signature is not None}
        read = tuple(kind for kind, _ in kinds), signatures, b"" if digests is None else digests_of(digests)
        if kinds:
            self._remember(digest, read)
        return read

    async def remove_unused(self) -> None:
        """Delete kinds that no row names."""
        kv, keys = self._kv, self._keys
        (stored,) = await kv.read([below(keys.kinds, keys_only=True)])
        all_keys = {key: entry.mod for key, entry in stored.items}
        stamps = {key: mod for key, mod in all_keys.items() if "/" not in key[len(keys.kinds) :]}
        # a node that died before it wrote the stamp leaves parts; a node that is still writing them begins again
        for stamp in {key.rpartition("/")[0] for key in all_keys.keys() - stamps.keys()} - stamps.keys():
            await kv.txn([Transaction([Compare(stamp)], [Delete(f"{stamp}/", prefix_end(f"{stamp}/"))])])
        if not stamps:
            return
        (answer,) = await kv.read([below(keys.node)])
        rows = [node_of(entry.value) for _, entry in answer.items]
        if UNREADABLE_NODE in rows:
            return  # the kinds of that node are unknown until it writes its record anew
        named = {keys.kinds + row.kinds for row in rows}
        for stamp, mod in stamps.items():
            if stamp not in named:
                parts = f"{stamp}/"
                await kv.txn(
                    [Transaction([Compare(stamp, mod=mod)], [Delete(stamp), Delete(parts, prefix_end(parts))])]
                )

    def _remember(self, digest: str, kinds: _KindSet) -> None:
        if len(self._known) >= _MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[digest] = kinds


def _is_there(key: str) -> Compare:
    """Compare that a key of this file exists: every value of them is below this text."""
    return Compare(key, below="\U0010ffff")


def _whole(row: NodeRow, kinds: tuple[str, ...], signatures: dict[str, str], descriptors: bytes) -> NodeInfo:
    return replace(row.info, kinds=kinds, signatures=row.info.signatures | signatures, descriptors=descriptors)


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
