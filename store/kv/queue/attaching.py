"""Instances come to need children: the first step of a wait for needs.

Each need is one transaction, with the compare that the child is not over. So the end of the child comes before, and
the need is over, or after, and then the settling of that end finds the edge. No transaction here ends an instance.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from peerjob.model.durable import Need
from peerjob.model.errors import StoreUnavailableError
from peerjob.model.state import State
from peerjob.store.kv.format.base import Compare, Delete, Entry, Op, Put, Transaction
from peerjob.store.kv.format.rows import Row, encode
from peerjob.store.kv.format.thread_rows import StoredEdge, edge_of, thread_of
from peerjob.store.kv.write.context import KVContext
from peerjob.store.kv.write.writer import ROUNDS

_PART = 40
"""Most needs that one request attaches."""


class NewNeed(msgspec.Struct, frozen=True):
    """A need of an instance, under a fence."""

    dependant: str
    fence: int
    parent: str
    """The parent of the child."""
    need: Need
    comes_later: bool = False
    """Whether the same call adds the child after the dependant: then it did not exist when the need was given."""

    @property
    def must_complete(self) -> bool:
        return self.need.when == "completed"


async def attach(
    context: KVContext, guard: Compare, needs: Sequence[NewNeed], settles: list[str] | None = None
) -> bool:
    """Attach needs while a guard holds; False if it did not hold any more.

    `settles` gets the keys below `settle/` that were written.
    """
    pending = list(needs)
    for _ in range(8 * ROUNDS):
        if not pending:
            return True
        part, rest = pending[:_PART], pending[_PART:]
        keys = context.keys
        states = await context.kv.get([keys.state + new.need.id for new in part])
        edges = await context.kv.get([keys.edges(new.need.id) + new.dependant for new in part])
        planned = [
            (new, transaction)
            for new, state, edge in zip(part, states, edges, strict=True)
            if (transaction := await _planned(context, new, state, edge)) is not None
        ]
        if planned:
            applied = await context.kv.txn([transaction for _, transaction in planned], guards=[guard])
            if applied.refused:
                return False
            for (new, transaction), answer in zip(planned, applied.answers, strict=True):
                if answer is None:
                    rest.append(new)
                elif settles is not None:
                    settles += (op.key for op in transaction.ops if op.key.startswith(keys.settling))
        pending = rest
    raise StoreUnavailableError(context.url, "too many writers at once")


async def _planned(context: KVContext, new: NewNeed, state: Entry | None, edge: Entry | None) -> Transaction | None:
    """The transaction that attaches a need; None if the need is over, or attached already."""
    keys, id = context.keys, new.need.id
    marker = keys.needs(new.dependant, new.fence) + id
    row = None if state is None else await context.row_of(id, state)
    thread = None if row is None else thread_of(row)
    if new.comes_later or state is None or row is None or thread is None or thread.parent != new.parent:
        return _failed(context, new, marker, None)
    if not row.keeps:
        return None if row.state is State.COMPLETED else _failed(context, new, marker, row)
    old = None if edge is None else edge_of(edge.value)
    # a child that was needed as "completed" before stays so
    must_complete = new.must_complete or (old is not None and old.fence == new.fence and old.must_complete)
    attached = StoredEdge(new.fence, must_complete)
    if old == attached:
        return None
    ops: list[Op] = [Put(keys.edges(id) + new.dependant, encode(attached)), Put(marker, b"")]
    if old is not None and old.fence != new.fence:
        ops.append(Delete(keys.needs(new.dependant, old.fence) + id))
    return Transaction([Compare(keys.state + id, mod=state.mod)], ops)


def _failed(context: KVContext, new: NewNeed, marker: str, row: Row | None) -> Transaction | None:
    """What follows from the need of a child that did not complete: the settling cancels the instance that needs it."""
    if not new.must_complete:
        return None
    key = context.keys.failed(new.dependant, new.fence, new.need.id)
    return Transaction([], [Put(marker, b""), Put(key, str(0 if row is None else int(row.state)).encode())])
