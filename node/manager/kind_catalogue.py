"""Publishes the kinds that this node runs, and knows which kinds are published and which a live node runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

from peerjob.cluster.role import BackgroundRole
from peerjob.model.clock import Clock
from peerjob.model.errors import StoreError, StoreFullError
from peerjob.model.record import MAX_BATCH
from peerjob.store.base import Store

logger = logging.getLogger("peerjob.node")

PUBLISH_INTERVAL = 6 * 3600.0
"""Seconds between two publications. The store forgets a kind that was not published for a long time."""
MAX_SERVED_AGE = 5.0
"""Seconds for which one read of the kinds of live nodes is used."""
MAX_COUNT_AGE = 60.0
"""Seconds for which one count of the kinds of the namespace is used."""
MAX_REMEMBERED = 20_000
"""Most kinds that are remembered as known, and most that are remembered as warned about; a full set is emptied."""


class KindCatalogue(BackgroundRole):
    """The kinds of the namespace, as far as this node has read them."""

    name = "catalogue"

    def __init__(
        self, *, clock: Clock, store: Store, node: str, kinds: Callable[[], Sequence[str]], max_kinds: int
    ) -> None:
        super().__init__(clock)
        self._max_kinds = max_kinds
        self._admitted: set[str] = set()
        self._room = 0
        self._counted_at: float | None = None
        self._store = store
        self._node = node
        self._kinds = kinds
        self._changed = asyncio.Event()
        self._known: set[str] = set()
        self._warned: set[str] = set()
        self._served: frozenset[str] = frozenset()
        self._looked_at: float | None = None

    def changed(self) -> None:
        """Publish the kinds soon, because they have changed."""
        self._changed.set()

    async def settle(self) -> None:
        """Publish the kinds before the node claims; after an error of the store, the role tries again."""
        with contextlib.suppress(StoreError):
            await self.publish()

    async def publish(self) -> None:
        """Publish every kind that this node runs; raises StoreError."""
        kinds = self._kinds()
        for at in range(0, len(kinds), MAX_BATCH):
            await self._store.publish_kinds(kinds[at : at + MAX_BATCH])

    async def run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PUBLISH_INTERVAL):
                    await self._changed.wait()
            self._changed.clear()
            try:
                await self.publish()
            except BaseException:
                self._changed.set()
                raise

    async def knows(self, kind: str) -> bool:
        """Whether a node of the namespace published a kind or runs it. Asks the store unless the kind is remembered."""
        if kind in self._known:
            return True
        (known,) = await self._store.published_kinds([kind])
        if known:
            _remember(self._known, kind)
        # ask the live nodes too: a node can run a kind that it failed to publish, or that the store has lost
        return known or kind in await self.served()

    async def admit(self, kind: str) -> None:
        """Raise StoreFullError if a kind that no node has published would exceed the limit of kinds.

        Each node counts the kinds once a minute, so several nodes together can exceed the limit for a minute.
        """
        if kind in self._admitted or await self.knows(kind):
            return
        now = asyncio.get_running_loop().time()
        if self._counted_at is None or now - self._counted_at >= MAX_COUNT_AGE:
            counts = (await self._store.health()).counts
            self._counted_at = now
            self._room = self._max_kinds - len(counts)
            self._admitted = set(counts)
        if kind in self._admitted:
            return
        if self._room <= 0:
            raise StoreFullError(
                f"no room for another kind: the namespace has {self._max_kinds:,} kinds or more, the limit "
                f"(StoreLimits.max_kinds), and no node has published {kind!r}"
            )
        self._room -= 1
        self._admitted.add(kind)

    async def check_served(self, kind: str) -> bool:
        """Whether a live node runs a kind, as of the last few seconds. Warns once for each kind that none runs."""
        try:
            if kind in await self.served():
                return True
        except StoreError:
            # the store does not answer, so a live node possibly runs the kind: do not warn
            return True
        if kind not in self._warned:
            _remember(self._warned, kind)
            logger.warning(
                "node %r scheduled an instance of kind %r, which no live node runs; it waits for a node that does",
                self._node,
                kind,
            )
        return False

    def needs_no_look(self, kind: str) -> bool:
        """Whether the last few seconds showed that a kind is served, or that it is admitted and warned about."""
        checked = kind in self._served or (kind in self._warned and (kind in self._known or kind in self._admitted))
        return checked and self._is_fresh()

    async def served(self) -> frozenset[str]:
        """The kinds that live nodes run, as of the last few seconds; raises StoreError."""
        if not self._is_fresh():
            nodes = await self._store.nodes()
            self._served = frozenset(kind for node in nodes for kind in node.info.kinds)
            self._looked_at = asyncio.get_running_loop().time()
        return self._served

    def _is_fresh(self) -> bool:
        looked_at = self._looked_at
        return looked_at is not None and asyncio.get_running_loop().time() - looked_at < MAX_SERVED_AGE


def _remember(kinds: set[str], kind: str) -> None:
    if len(kinds) >= MAX_REMEMBERED:
        kinds.clear()
    kinds.add(kind)
