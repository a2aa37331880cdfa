"""A memory store's data with the limits and the costs of etcd: it refuses what etcd would refuse, and counts reads.

The limits say what fits into one transaction of etcd. The engine makes no larger request.

The guards are compares of the whole request. `SeparateRequest` in `store/etcd/transaction.py` sends a request in one of
two ways:

* Nested: each transaction becomes a nested one of etcd, and so does `also`, which then needs the compares of all.
* Outside: all compares are outside. The success branch has the operations of all transactions; the failure branch has
  the nested ones, with the guards. This allows more compares, but sends the operations twice.

Its `AtomicRequest` is used only if it fits.

etcd takes the longest of the three lists of its transaction: compares, success operations and failure operations. Its
length must be at most `--max-txn-ops`, 128 by default, and a nested transaction may use only what its parent leaves of
that number. A key must not be written twice. A test compares these rules with a server.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from peerjob.store.etcd.transaction import MAX_OPERATIONS
from peerjob.store.kv.format.base import (
    Applied,
    Compare,
    Entry,
    Found,
    LeaseEndedError,
    Put,
    Range,
    Transaction,
    bytes_of,
)
from peerjob.store.memory.data import MemoryData, SortedKeys

MAX_BYTES = 3 << 19


class RequestRefusedError(AssertionError):
    """etcd would refuse this request."""


def check(transactions: Sequence[Transaction], also: Transaction | None, guards: Sequence[Compare] = ()) -> None:
    """Raise RequestRefusedError if a request exceeds a limit."""
    every = [*transactions, also] if also is not None else list(transactions)
    _check_keys(every)
    compares: set[Compare] = {compare for transaction in every for compare in transaction.compares}
    inner = max((_width(transaction) for transaction in transactions), default=0)
    size = sum(bytes_of(transaction.compares, transaction.ops) for transaction in every) + bytes_of(guards, ())
    along = 0 if also is None else len(also.ops) + len(also.reads)
    if also is None:
        fits = max(len(guards), len(transactions)) + inner <= MAX_OPERATIONS and size <= MAX_BYTES
    else:
        nested = (
            max(len(guards), len(transactions) + 1) + max(inner, len(compares), along) <= MAX_OPERATIONS
            and size <= MAX_BYTES
        )
        compares |= set(guards)
        inner = max(inner, max((len(transaction.compares) for transaction in transactions), default=0) + len(guards))
        within = max(len(compares), len(transactions) + 1) + max(inner, along)
        bare = max(len(compares), len(transactions) + along) + inner
        fits = nested or (min(within, bare) <= MAX_OPERATIONS and 2 * size <= MAX_BYTES)
    if not fits:
        raise RequestRefusedError(
            f"{len(transactions)} transactions of up to {inner}, {len(compares)} compares, "
            f"{along} operations in also, {size} bytes"
        )


def _width(transaction: Transaction) -> int:
    return max(len(transaction.compares), len(transaction.ops) + len(transaction.reads))


def _check_keys(transactions: Sequence[Transaction]) -> None:
    put: set[str] = set()
    for transaction in transactions:
        for op in transaction.ops:
            if isinstance(op, Put):
                if op.key in put:
                    raise RequestRefusedError(f"{op.key} is written twice")
                put.add(op.key)
    for transaction in transactions:
        for op in transaction.ops:
            if not isinstance(op, Put):
                for key in put:
                    if op.key <= key < op.end if op.end else op.key == key:
                        raise RequestRefusedError(f"{key} is written and removed")


def hold_to_etcd(data: MemoryData) -> None:
    """Let a store's data refuse from now on what etcd would refuse."""
    apply = data.apply

    def checked(
        transactions: Sequence[Transaction], also: Transaction | None, guards: Sequence[Compare] = ()
    ) -> Applied:
        check(transactions, also, guards)
        for transaction in [*transactions, also] if also is not None else transactions:
            for op in transaction.ops:
                if isinstance(op, Put) and op.lease and op.lease not in data._leases:  # pyright: ignore[reportPrivateUsage]
                    raise LeaseEndedError("memory://", "the lease has ended")
        return apply(transactions, also, guards)

    data.apply = checked  # type: ignore[method-assign]


@dataclass
class Costs:
    """The cost of reads on etcd, which visits all keys of a range and those deleted since the last compaction."""

    reads: int = 0
    worst: int = 0
    """The number of keys and tombstones in the most expensive range."""
    worst_range: tuple[str, str] = ("", "")
    most_values: int = 0
    """The largest number of values that one range read. In descending order, etcd reads all of them despite a limit."""


class EtcdData(MemoryData):
    """Data that is held to the limits of etcd, and that counts what its reads would cost there."""

    def __init__(self, *, max_keys: int | None = None) -> None:
        super().__init__(max_keys=max_keys)
        self.costs = Costs()
        self._deleted: set[str] = set()
        self._tombstones = SortedKeys()
        hold_to_etcd(self)

    def compact(self) -> None:
        """Forget deleted keys, as a compaction of etcd does."""
        self._deleted.clear()
        self._tombstones = SortedKeys()

    def get(self, keys: Sequence[str]) -> list[Entry | None]:
        self.costs.reads += len(keys)
        return super().get(keys)

    def range(self, wanted: Range) -> Found:
        found, costs = super().range(wanted), self.costs
        if wanted.end:
            visited = found.count + self._tombstones.count(wanted.start, wanted.end)
            costs.reads += 1
            if visited > costs.worst:
                costs.worst, costs.worst_range = visited, (wanted.start, wanted.end)
            costs.most_values = max(costs.most_values, found.count if wanted.reverse else len(found.items))
        return found

    def _put(self, key: str, value: bytes, revision: int, lease: int) -> None:
        super()._put(key, value, revision, lease)
        if key in self._deleted:
            self._deleted.discard(key)
            self._tombstones.remove(key)

    def _remove(self, key: str) -> None:
        super()._remove(key)
        self._deleted.add(key)
        self._tombstones.add(key)
