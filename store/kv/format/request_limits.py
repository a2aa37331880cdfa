"""The size of a request that every driver must accept: what fits into one transaction of etcd.

The engine makes no larger request. In tests, the memory driver checks each request with `check`.

The guards are compares of the whole request. `StepwiseRequest` in `store/etcd/transaction.py` sends a transaction in
one of two ways:

* Nested: each step is a nested transaction, and so is `also`, which then needs the compares of all steps.
* Outside: all compares are outside. The success branch has the operations of all steps; the failure branch has the
  steps as nested transactions, with the guards. This allows more compares, but sends the operations twice.

Its `AtomicRequest` is used only if it fits.

etcd takes the longest of a transaction's three lists: compares, success operations and failure operations. Its length
must be at most `--max-txn-ops`, 128 by default, and a nested transaction may use only what its parent leaves of that
number. A key must not be written twice. A test compares these rules with a server.
"""

from __future__ import annotations

from collections.abc import Sequence

from .base import Compare, Put, Step, bytes_of

MAX_OPERATIONS = 128
MAX_BYTES = 3 << 19


class RequestRefusedError(AssertionError):
    """etcd would refuse this transaction."""


def check(steps: Sequence[Step], also: Step | None, guards: Sequence[Compare] = ()) -> None:
    """Raise RequestRefusedError if a transaction exceeds a limit."""
    every = [*steps, also] if also is not None else list(steps)
    _check_keys(every)
    compares: set[Compare] = {compare for step in every for compare in step.compares}
    inner = max((_width(step) for step in steps), default=0)
    size = sum(bytes_of(step.compares, step.ops) for step in every) + bytes_of(guards, ())
    along = 0 if also is None else len(also.ops) + len(also.reads)
    if also is None:
        fits = max(len(guards), len(steps)) + inner <= MAX_OPERATIONS and size <= MAX_BYTES
    else:
        nested = (
            max(len(guards), len(steps) + 1) + max(inner, len(compares), along) <= MAX_OPERATIONS and size <= MAX_BYTES
        )
        compares |= set(guards)
        inner = max(inner, max((len(step.compares) for step in steps), default=0) + len(guards))
        within = max(len(compares), len(steps) + 1) + max(inner, along)
        bare = max(len(compares), len(steps) + along) + inner
        fits = nested or (min(within, bare) <= MAX_OPERATIONS and 2 * size <= MAX_BYTES)
    if not fits:
        raise RequestRefusedError(
            f"{len(steps)} steps of up to {inner}, {len(compares)} compares, {along} operations in also, {size} bytes"
        )


def _width(step: Step) -> int:
    return max(len(step.compares), len(step.ops) + len(step.reads))


def _check_keys(steps: Sequence[Step]) -> None:
    put: set[str] = set()
    for step in steps:
        for op in step.ops:
            if isinstance(op, Put):
                if op.key in put:
                    raise RequestRefusedError(f"{op.key} is written twice")
                put.add(op.key)
    for step in steps:
        for op in step.ops:
            if not isinstance(op, Put):
                for key in put:
                    if op.key <= key < op.end if op.end else op.key == key:
                        raise RequestRefusedError(f"{key} is written and removed")
