"""Stores and peers on an etcd, as the tests of the driver use them."""

import uuid
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from peerjob.model.clock import SystemClock
from peerjob.model.record import StoreLimits
from peerjob.store.base import Store
from peerjob.store.drivers import open_store
from peerjob.store.etcd.address import parse_address
from peerjob.store.etcd.driver import EtcdKeyValue
from peerjob.testing.factories import LONG_TTL_US, Factory, Peer


@dataclass(kw_only=True)
class EtcdSite:
    """Opens stores of one namespace, and drivers; all are closed with the test."""

    cleanup: AsyncExitStack
    namespace: str = field(default_factory=lambda: f"etcd-{uuid.uuid4().hex[:8]}")
    make: Factory = field(default_factory=lambda: Factory(SystemClock()))

    async def open(self, url: str, *, retry_for: float = 30.0) -> Store:
        store = open_store(
            url, namespace=self.namespace, clock=SystemClock(), limits=StoreLimits(), retry_for=retry_for
        )
        self.cleanup.push_async_callback(store.close)
        await store.open()
        return store

    async def join(self, store: Store, *, ttl_us: int = LONG_TTL_US) -> Peer:
        peer = Peer(store=store, info=self.make.node(), make=self.make)
        self.cleanup.push_async_callback(peer.close)
        return await peer.join(ttl_us)

    async def driver(self, url: str) -> EtcdKeyValue:
        kv = EtcdKeyValue(parse_address(url), SystemClock())
        self.cleanup.push_async_callback(kv.close)
        await kv.open()
        return kv
