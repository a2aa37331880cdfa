"""What etcd accepts in one transaction, held against the memory driver in tests.

A driver for etcd sends one transaction: if all compares hold, every step's operations and what goes along; else the
steps as nested transactions, each with its own compares. etcd counts compares and operations per transaction, a
nested one may only have what its parent left, and no key may be written twice.
"""

from __future__ import annotations

from collections.abc import Sequence

from .base import MAX_REQUEST_BYTES, Compare, Put, Step

MOST = 128


class RequestRefusedError(AssertionError):
    """etcd would refuse this transaction."""


def check(steps: Sequence[Step], also: Step | None) -> None:
    """Raise RequestRefusedError for a transaction over a limit."""
    every = [*steps, also] if also is not None else list(steps)
    compares: set[Compare] = set()
    if also is not None:
        compares.update(compare for step in every for compare in step.compares)
    along = 0 if also is None else len(also.ops) + len(also.reads)
    width = max(len(compares), len(steps) + along)
    if width > MOST:
        raise RequestRefusedError(f"{len(compares)} compares, {len(steps)} steps and {along} operations")
    for step in steps:
        inner = max(len(step.compares), len(step.ops) + len(step.reads))
        if inner > MOST - width:
            raise RequestRefusedError(f"a step of {inner} operations beside {width}: {step.ops}")
    _check_keys(every)
    size = sum(len(op.key) + len(op.value) for step in every for op in step.ops if isinstance(op, Put))
    if size > MAX_REQUEST_BYTES * 5 // 4 and len(steps) > 1:
        raise RequestRefusedError(f"{size} bytes")


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
                hit = [key for key in put if op.key <= key < op.end] if op.end else [op.key] if op.key in put else []
                if hit:
                    raise RequestRefusedError(f"{hit[0]} is written and removed")
