"""A store on an etcd that counts what the server refused."""

from collections.abc import Sequence

from peerjob.model.clock import SystemClock
from peerjob.model.record import StoreLimits
from peerjob.store.etcd.address import parse_address
from peerjob.store.etcd.driver import EtcdKeyValue
from peerjob.store.kv.base import Applied, Compare, Step
from peerjob.store.kv.store import KVStore


class CountingEtcd(EtcdKeyValue):
    """Counts the steps that the server refused because another client was faster."""

    changes = 0
    counters = 0

    async def txn(self, steps: Sequence[Step], also: Step | None = None, guards: Sequence[Compare] = ()) -> Applied:
        applied = await super().txn(steps, also, guards)
        if also is not None:
            failed = sum(answer is None for answer in applied.steps)
            self.changes += failed
            self.counters += applied.also is None and not failed
        return applied


def counting_store(url: str, namespace: str) -> tuple[CountingEtcd, KVStore]:
    """The client that counts, and a store that uses this client, for the etcd of a URL."""
    clock = SystemClock()
    etcd = CountingEtcd(parse_address(url), clock)
    return etcd, KVStore(etcd, url=url, namespace=namespace, clock=clock, limits=StoreLimits(), retry_for=30)
