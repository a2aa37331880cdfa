"""The connection that all verbs use: it compares the layout of the namespace with each write."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from peerjob.model.capabilities import Capabilities
from peerjob.store.kv.format.base import Applied, Compare, Delete, KeyValue, LeaseEndedError, Put, Transaction
from peerjob.store.kv.format.keys import Keys, below
from peerjob.store.kv.format.layout import FLOWS_VALUE, LAYOUT_VALUE, mended_layout
from peerjob.store.rules import FLOWS_LAYOUT, LAYOUT, LIMITS_LAYOUT, check_layout

_WIPE_BATCH = 1_000


class GuardedKeyValue:
    """A `KeyValue` that raises LayoutError instead of changing a namespace with another layout.

    This costs a request one compare, of the revision of the layout key. If the request is refused, the layout
    may have changed, so the key is read again. A request that has this compare as a guard of its own depends on the
    limits of the namespace, each change of which writes the key. It is not sent again with the new revision.
    """

    def __init__(self, kv: KeyValue, *, keys: Keys, url: str) -> None:
        self._kv = kv
        self._keys = keys
        self._url = url
        self.stamp: Compare | None = None
        """A compare that holds while layout and limits of the namespace are those that this store saw last."""
        self.layout = LAYOUT
        """The layout of the namespace then."""
        self.open, self.close = kv.open, kv.close
        self.get, self.read, self.watch = kv.get, kv.read, kv.watch
        self.grant, self.keepalive, self.revoke, self.remaining = kv.grant, kv.keepalive, kv.revoke, kv.remaining
        self.extend = kv.extend
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
    def reports_ends(self) -> bool:
        return self._kv.reports_ends

    @property
    def full(self) -> bool:
        return self._kv.full

    @property
    def limited(self) -> bool:
        """Whether the namespace can have limits, by the layout that this store saw last."""
        return self.layout >= LIMITS_LAYOUT

    @property
    def durable(self) -> bool:
        """Whether the namespace can have steps, signals and children, by the layout that this store saw last.

        Only the writes of a store show a new layout to it, so a read asks `is_durable`.
        """
        return self.layout >= FLOWS_LAYOUT

    async def is_durable(self) -> bool:
        """Whether the namespace can have steps, signals and children."""
        if self.durable:
            return True
        (entry,) = await self._kv.get([self._keys.layout])
        return entry is not None and entry.value == FLOWS_VALUE

    def separate(self) -> GuardedKeyValue:
        return GuardedKeyValue(self._kv.separate(), keys=self._keys, url=self._url)

    async def txn(
        self, transactions: Sequence[Transaction], also: Transaction | None = None, guards: Sequence[Compare] = ()
    ) -> Applied:
        guard = self.stamp or await self.read_layout()
        pinned = any(compare.key == guard.key for compare in guards)
        while True:
            try:
                applied = await self._kv.txn(transactions, also, guards if pinned else (guard, *guards))
            except LeaseEndedError:
                self.on_lease_ended()
                raise
            if not applied.refused or guard == (now := await self.read_layout()) or pinned:
                return applied
            guard = now

    async def read_layout(self) -> Compare:
        """Read the layout again; the answer is the new `stamp`. A new namespace gets the layout of this release."""
        key = self._keys.layout
        while True:
            (entry,) = await self._kv.get([key])
            if entry is not None and await mended_layout(self._kv, self._keys, entry):
                continue
            if entry is not None:
                namespace = self._keys.root[:-1]
                check_layout(entry.value.decode(errors="replace"), namespace=namespace, url=self._url)
                self.layout = int(entry.value)
                self.stamp = Compare(key, mod=entry.mod)
                return self.stamp
            await self._kv.txn([Transaction([Compare(key)], [Put(key, LAYOUT_VALUE)])])

    async def wipe(self, root: str) -> int:
        """Delete every key of the namespace, with any layout; the answer is their number."""
        await self._kv.open()
        removed = 0
        while True:
            (answer,) = await self._kv.read([below(root, _WIPE_BATCH, keys_only=True)])
            if not answer.items:
                return removed
            last = answer.items[-1][0]
            await self._kv.txn([Transaction([], [Delete(answer.items[0][0], f"{last}\0")])])
            removed += len(answer.items)
