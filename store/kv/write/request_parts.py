"""Cuts a batch of changes into requests that etcd accepts.

etcd takes at most 128 compares and operations in a transaction, and a nested one has only what its parent leaves. A
request is sent in one of two forms (`store/etcd/transaction.py`):

* Narrow: `also` has the compares of all transactions, so that transactions and compares share the limit.
* Wide: all compares are outside, so that only the operations of one transaction share it with them. If a compare fails,
  each transaction is sent a second time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from peerjob.store.kv.format.base import (
    MAX_REQUEST_BYTES,
    MAX_TRANSACTION_OPS,
    MAX_TRANSACTIONS,
    MAX_WIDE_TRANSACTIONS,
    MAX_WIDTH,
    bytes_of,
)

from .transaction_plan import Change


class _Request:
    """The size of the changes of one request."""

    def __init__(self, guards: int, beside: int) -> None:
        self._guards = guards
        self._beside = beside
        self._transactions = self._compares = self._most = self._ended = self._bytes = 0
        self._queues: set[str] = set()
        self._kinds: set[str] = set()

    def add(self, change: Change, size: int) -> None:
        self._transactions += 1
        self._bytes += size
        self._compares += len(change.compares)
        # a queue that not all changes need is compared by those that do
        self._most = max(self._most, len(change.compares) + len(change.adds))
        self._ended += len(change.ended)
        for queue, _ in change.adds:
            self._queues.add(queue)
        for kind, _, _ in change.shifts:
            self._kinds.add(kind)

    @property
    def fits(self) -> bool:
        if self._bytes > MAX_REQUEST_BYTES:
            return False
        queues, kinds, nested = len(self._queues), len(self._kinds), self._transactions + 1
        compares = self._compares + len(self._queues | self._kinds)
        if self._transactions <= MAX_TRANSACTIONS and nested + compares <= MAX_WIDTH:
            return True
        outside = max(nested, compares + self._guards)
        inner = max(MAX_TRANSACTION_OPS, self._most + self._guards + queues, kinds + self._ended + self._beside)
        return self._transactions <= MAX_WIDE_TRANSACTIONS and outside + inner <= MAX_WIDTH


def cut(changes: Sequence[Change], *, guards: int = 0, beside: int = 0) -> Iterator[Sequence[Change]]:
    """Cut a batch into requests, by the limits on transactions, compares, operations and bytes.

    Each request also has so many `guards`, and so many operations and reads `beside` those of its changes.
    """
    start, request = 0, _Request(guards, beside)
    for at, change in enumerate(changes):
        heavy = len(change.ops) > MAX_TRANSACTION_OPS
        size = bytes_of(change.compares, change.ops)
        request.add(change, size)
        if at > start and (heavy or not request.fits):
            yield changes[start:at]
            start, request = at, _Request(guards, beside)
            request.add(change, size)
        if heavy:
            yield changes[start : at + 1]
            start, request = at + 1, _Request(guards, beside)
    if start < len(changes):
        yield changes[start:]
