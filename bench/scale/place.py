"""A namespace of a cell: its store, its peers, and the instances that wait in it."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from uuid import uuid4

from peerjob.model.caps import Caps
from peerjob.model.clock import SystemClock
from peerjob.model.limits import MAX_NODE_KINDS
from peerjob.model.record import MAX_BATCH, MAX_BATCH_BYTES, Claim, NewInstance, StoreLimits, Want
from peerjob.store.base import Store
from peerjob.store.drivers import open_store
from peerjob.testing.factories import LONG_TTL_US, Factory, Peer, outcome

from .cells import Cell
from .engines import Site

BATCH = 10
"""Instances of a claim and of a commit."""
TOGETHER = 8
"""Concurrent calls that fill a queue."""


@dataclass(kw_only=True)
class Place:
    """A namespace whose first peer runs the kinds, at most 5,000; a second peer has the other kinds."""

    site: Site
    cell: Cell
    namespace: str
    store: Store
    make: Factory
    worker: Peer
    kinds: Sequence[str]
    """The kinds of the worker."""
    filled_bytes: float = 0.0
    """Bytes of the store for each waiting instance."""
    _next: int = 0
    _caps: dict[str, Caps] = field(default_factory=dict[str, Caps])

    def new(self, kind: str = "") -> NewInstance:
        """An instance of the next kind of the worker."""
        self._next += 1
        kind = kind or self.kinds[self._next % len(self.kinds)]
        return self.make.instance(kind=kind, spec=b"x" * self.cell.payload)

    async def fill(self, count: int) -> None:
        """Queue instances, in turn of all kinds of the worker."""
        size = max(1, min(MAX_BATCH, MAX_BATCH_BYTES // max(1, self.cell.payload)))
        limit = asyncio.Semaphore(TOGETHER)

        async def add(batch: int) -> None:
            async with limit:
                await self.store.enqueue([self.new() for _ in range(batch)])

        for start in range(0, count, size * TOGETHER):
            left = min(size * TOGETHER, count - start)
            await asyncio.gather(*(add(min(size, left - at)) for at in range(0, left, size)))

    async def take(self, peer: Peer, limit: int = BATCH) -> tuple[Claim, ...]:
        # a node makes a set of its kinds once, too: for thousands of kinds, it takes longer than the claim
        caps = self._caps.get(peer.name)
        if caps is None or caps.default != limit:
            caps = self._caps[peer.name] = Caps(peer.info.kinds, limit)
        want = Want(kinds=caps, limit=limit)
        return (await peer.claim(want)).claims

    async def end(self, peer: Peer, claims: Sequence[Claim]) -> None:
        await peer.commit(*map(outcome, claims))


def fresh_store(site: Site, namespace: str) -> tuple[Store, Factory]:
    clock = SystemClock()
    limits = StoreLimits()
    return open_store(site.url, namespace=namespace, clock=clock, limits=limits), Factory(clock)


@asynccontextmanager
async def opened(site: Site, cell: Cell) -> AsyncGenerator[Place]:
    """A new namespace with a worker, and with the queue of the cell."""
    namespace = f"scale-{uuid4().hex[:12]}"
    store, make = fresh_store(site, namespace)
    names = [f"shop.orders.tasks.kind_{number}" for number in range(cell.kinds)]
    kinds = names[: max(1, min(MAX_NODE_KINDS, cell.kinds // 2))]
    async with AsyncExitStack() as cleanup:
        cleanup.push_async_callback(store.close)
        await store.open()
        others = names[len(kinds) :]
        for number, held in enumerate(others[at : at + MAX_NODE_KINDS] for at in range(0, len(others), MAX_NODE_KINDS)):
            await Peer(store=store, info=make.node(f"other-{number}", held), make=make).join(LONG_TTL_US)
        worker = await Peer(store=store, info=make.node("worker", kinds), make=make).join(LONG_TTL_US)
        place = Place(
            site=site,
            cell=cell,
            namespace=namespace,
            store=store,
            make=make,
            worker=worker,
            kinds=kinds,
        )
        before = site.memory()
        await place.fill(cell.queued)
        place.filled_bytes = (site.memory() - before) / cell.queued
        yield place
