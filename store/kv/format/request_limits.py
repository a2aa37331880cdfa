"""The size of a request that every driver must accept: what fits into one transaction of etcd.

The engine makes no larger request. In tests, the memory driver checks each request with `check`.

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

from .base import Compare, Put, Transaction, bytes_of

MAX_OPERATIONS = 128
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
