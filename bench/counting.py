"""Counts what a store refused because another client was faster: on an etcd client, or on all clients of a driver."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol
from unittest import mock

from peerjob.model.clock import SystemClock
from peerjob.model.record import StoreLimits
from peerjob.store.etcd.address import parse_address
from peerjob.store.etcd.driver import EtcdKeyValue
from peerjob.store.kv.format.base import Applied, Compare, Transaction
from peerjob.store.kv.store import KVStore


class Refusals(Protocol):
    """What was refused: changes of instances, and changes of counters."""

    changes: int
    counters: int


def count_refusals(refusals: Refusals, applied: Applied, also: Transaction | None) -> None:
    """Add the transactions of a request that the server refused."""
    if also is not None:
        failed = sum(answer is None for answer in applied.answers)
        refusals.changes += failed
        refusals.counters += applied.also is None and not failed


class CountingEtcd(EtcdKeyValue):
    """Counts the transactions that the server refused because another client was faster."""

    changes = 0
    counters = 0

    async def txn(
        self, transactions: Sequence[Transaction], also: Transaction | None = None, guards: Sequence[Compare] = ()
    ) -> Applied:
        applied = await super().txn(transactions, also, guards)
        count_refusals(self, applied, also)
        return applied


class AllRefusals:
    """The refusals of all clients of a driver in this process."""

    changes = 0
    counters = 0


@contextmanager
def refusals_of(driver: type[Any]) -> Generator[AllRefusals]:
    """Count the refused transactions of all clients of a driver class while the context is open."""
    found, txn = AllRefusals(), driver.txn

    async def counted(
        self: Any, transactions: Sequence[Transaction], also: Transaction | None = None, guards: Sequence[Compare] = ()
    ) -> Applied:
        applied: Applied = await txn(self, transactions, also, guards)
        count_refusals(found, applied, also)
        return applied

    with mock.patch.object(driver, "txn", counted):
        yield found


def counting_store(url: str, namespace: str) -> tuple[CountingEtcd, KVStore]:
    """The client that counts, and a store that uses this client, for the etcd of a URL."""
    clock = SystemClock()
    etcd = CountingEtcd(parse_address(url), clock)
    return etcd, KVStore(etcd, url=url, namespace=namespace, clock=clock, limits=StoreLimits(), retry_for=30)
