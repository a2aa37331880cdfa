"""The verbs `publish_kinds`, `published_kinds`, `publish_descriptors` and `descriptors`.

A published kind is a key that ends with its lease. A second key has its descriptors, the latest published first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from peerjob.model.errors import StoreUnavailableError
from peerjob.model.published import MAX_DESCRIPTORS, KindDescriptor
from peerjob.model.record import Moment, check_batch
from peerjob.model.spec import reader
from peerjob.store.kv.format.base import (
    MAX_REQUEST_BYTES,
    MAX_TRANSACTIONS,
    Compare,
    Put,
    Transaction,
    apply_all,
    bytes_of,
    mod_of,
)
from peerjob.store.kv.format.rows import encode, number_of
from peerjob.store.kv.write.context import KVCommands, retried
from peerjob.store.kv.write.writer import ROUNDS

_PUBLISHED_PARTS = 4
"""A kind is published again when its lease time, `kinds_kept_us`, divided by this number has passed."""


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    """A descriptor, and when it was published."""

    at_us: Moment
    digest: bytes
    body: bytes
    schema: bytes = b""


_read: Callable[[bytes], tuple[_Stored, ...]] = reader(tuple[_Stored, ...], "descriptors of a kind")


class DescriptorCommands(KVCommands):
    """The verbs about published kinds."""

    @retried
    async def publish_kinds(self, kinds: Sequence[str]) -> None:
        check_batch(len(kinds))
        await self._publish(kinds)

    async def _publish(self, kinds: Sequence[str]) -> None:
        kept_us, now_us = self._context.limits.kinds_kept_us, self._clock.time_us()
        keys = [self._keys.catalogued(kind) for kind in kinds]
        stale = [
            key
            for key, entry in zip(keys, await self._kv.get(keys), strict=True)
            if entry is None or number_of(entry.value) < now_us - kept_us // _PUBLISHED_PARTS
        ]
        if stale:
            lease = await self._kv.grant(kept_us)
            await apply_all(self._kv, [Transaction([], [Put(key, str(now_us).encode(), lease)]) for key in stale])

    @retried
    async def published_kinds(self, kinds: Sequence[str]) -> list[bool]:
        check_batch(len(kinds))
        entries = await self._kv.get([self._keys.catalogued(kind) for kind in kinds])
        return [entry is not None for entry in entries]

    @retried
    async def publish_descriptors(self, descriptors: Sequence[KindDescriptor]) -> list[bool]:
        check_batch(len(descriptors))
        await self._publish([descriptor.kind for descriptor in descriptors])
        missing: dict[str, bool] = {}
        left, lease = list(descriptors), 0
        for _ in range(ROUNDS):
            now_us, kept_us = self._clock.time_us(), self._context.limits.kinds_kept_us
            keys = [self._keys.descriptor(descriptor.kind) for descriptor in left]
            writes: list[tuple[KindDescriptor, Transaction]] = []
            for descriptor, key, entry in zip(left, keys, await self._kv.get(keys), strict=True):
                stored = self._context.decoded(entry, key, _read) or ()
                published = _published(descriptor, stored, now_us, fresh_us=kept_us // _PUBLISHED_PARTS)
                missing[descriptor.kind] = not published[0].schema
                if published != stored:
                    lease = lease or await self._kv.grant(kept_us)
                    writes.append(
                        (
                            descriptor,
                            Transaction([Compare(key, mod=mod_of(entry))], [Put(key, encode(published), lease)]),
                        )
                    )
            left = list[KindDescriptor]()
            for part in _requests(writes):
                answers = (await self._kv.txn([transaction for _, transaction in part])).answers
                left += [descriptor for (descriptor, _), answer in zip(part, answers, strict=True) if answer is None]
            if not left:
                return [missing[descriptor.kind] for descriptor in descriptors]
        raise StoreUnavailableError(self._context.url, "the descriptors of a kind change again and again")

    @retried
    async def descriptors(self, kinds: Sequence[str]) -> list[tuple[KindDescriptor, ...]]:
        check_batch(len(kinds))
        keys = [self._keys.descriptor(kind) for kind in kinds]
        stored_lists = [
            self._context.decoded(entry, key, _read) or ()
            for key, entry in zip(keys, await self._kv.get(keys), strict=True)
        ]
        return [
            tuple(
                KindDescriptor(kind=kind, digest=published.digest, body=published.body, schema=published.schema)
                for published in stored
            )
            for kind, stored in zip(kinds, stored_lists, strict=True)
        ]


def _requests(
    writes: Sequence[tuple[KindDescriptor, Transaction]],
) -> Iterator[list[tuple[KindDescriptor, Transaction]]]:
    """The writes in parts that fit into a request: each transaction writes all descriptors of its kind."""
    part: list[tuple[KindDescriptor, Transaction]] = []
    size = 0
    for descriptor, transaction in writes:
        own_size = bytes_of(transaction.compares, transaction.ops)
        if part and (len(part) == MAX_TRANSACTIONS or size + own_size > MAX_REQUEST_BYTES):
            yield part
            part, size = [], 0
        part.append((descriptor, transaction))
        size += own_size
    if part:
        yield part


def _published(new: KindDescriptor, stored: tuple[_Stored, ...], now_us: int, *, fresh_us: int) -> tuple[_Stored, ...]:
    """The descriptors of a kind after one was published; the same object if nothing changes."""
    old = next((published for published in stored if published.digest == new.digest), None)
    schema = new.schema if old is None else old.schema or new.schema
    if old is not None and old is stored[0] and now_us - old.at_us < fresh_us and old.schema == schema:
        return stored
    others = [published for published in stored if published is not old][: MAX_DESCRIPTORS - 1]
    return (_Stored(now_us, new.digest, new.body, schema), *others)
