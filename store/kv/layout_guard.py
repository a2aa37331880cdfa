"""The key-value store of the verbs: each transaction compares the layout of the namespace.

This costs a transaction one compare, of the revision of the layout key. If the transaction is refused, the layout may
have changed, so the key is read again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from peerjob.model.record import Capabilities
from peerjob.store.layout import LAYOUT, check_layout

from .base import Applied, Compare, Delete, Entry, Found, KeyValue, LeaseEndedError, Put, Range, Step, Watch
from .keys import below

_WIPED_AT_ONCE = 1_000


class GuardedKeyValue:
    """A `KeyValue` that raises LayoutError instead of changing a namespace with another layout."""

    def __init__(self, kv: KeyValue, *, key: str, namespace: str, url: str) -> None:
        self._kv = kv
        self._key = key
        self._namespace = namespace
        self._url = url
        self._guard: Compare | None = None
        self.on_lease_ended: Callable[[], None] = lambda: None
        """Called when the server does not know the lease of a put, for example after the
        server was wiped or restored."""

    @property
    def capabilities(self) -> Capabilities:
        return self._kv.capabilities

    @property
    def identity(self) -> str:
        return self._kv.identity

    @property
    def full(self) -> bool:
        return self._kv.full

    async def open(self) -> None:
        await self._kv.open()

    async def close(self) -> None:
        await self._kv.close()

    def separate(self) -> GuardedKeyValue:
        return GuardedKeyValue(self._kv.separate(), key=self._key, namespace=self._namespace, url=self._url)

    async def get(self, keys: Sequence[str]) -> list[Entry | None]:
        return await self._kv.get(keys)

    async def read(self, ranges: Sequence[Range]) -> list[Found]:
        return await self._kv.read(ranges)

    async def txn(self, steps: Sequence[Step], also: Step | None = None, guards: Sequence[Compare] = ()) -> Applied:
        guard = self._guard or await self.read_layout()
        while True:
            try:
                applied = await self._kv.txn(steps, also, (guard, *guards))
            except LeaseEndedError:
                self.on_lease_ended()
                raise
            if not applied.refused or guard == (now := await self.read_layout()):
                return applied
            guard = now

    async def read_layout(self) -> Compare:
        """A compare that holds while the namespace has this version's layout. A new namespace gets that layout."""
        while True:
            (entry,) = await self._kv.get([self._key])
            if entry is not None:
                check_layout(entry.value.decode(errors="replace"), namespace=self._namespace, url=self._url)
                self._guard = Compare(self._key, mod=entry.mod)
                return self._guard
            await self._kv.txn([Step([Compare(self._key)], [Put(self._key, str(LAYOUT).encode())])])

    async def wipe(self, root: str) -> int:
        """Delete every key of the namespace, with any layout; the answer is their number."""
        await self._kv.open()
        removed = 0
        while True:
            (found,) = await self._kv.read([below(root, _WIPED_AT_ONCE, keys_only=True)])
            if not found.items:
                return removed
            last = found.items[-1][0]
            await self._kv.txn([Step([], [Delete(found.items[0][0], f"{last}\0")])])
            removed += len(found.items)

    def watch(self, *prefixes: str) -> Watch:
        return self._kv.watch(*prefixes)

    async def grant(self, ttl_us: int) -> int:
        return await self._kv.grant(ttl_us)

    async def keepalive(self, lease: int) -> bool:
        return await self._kv.keepalive(lease)

    async def revoke(self, lease: int) -> None:
        await self._kv.revoke(lease)

    async def remaining(self, leases: Sequence[int]) -> list[int]:
        return await self._kv.remaining(leases)
