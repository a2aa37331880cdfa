"""Removing one instance with everything that belongs to it."""

from __future__ import annotations

from peerjob.state import State

from .base import Compare, Delete, Op
from .context import Context
from .counts import DELAYED, SLOT, Shift
from .keys import prefix_end, timed
from .rows import Row
from .writer import Change


def removal(context: Context, id: str, revision: int, row: Row, *, delayed_mod: int = 0) -> Change:
    """The change that removes an instance in any state; `delayed_mod` is the revision of its delayed entry."""
    keys = context.keys
    compares = [Compare(keys.state + id, mod=revision)]
    ops: list[Op] = [
        Delete(keys.state + id),
        Delete(keys.args + id),
        Delete(keys.by(row.kind, row.state) + id),
    ]
    shifts: list[Shift] = [(row.kind, SLOT[row.state], -1)]
    if row.has_out:
        ops.append(Delete(keys.out + id))
    if row.has_progress:
        ops.append(Delete(keys.progress + id))
    if row.log_next:
        ops.append(Delete(keys.log(id), prefix_end(keys.log(id))))
    ops.extend(Delete(keys.tag(tag) + id) for tag in row.tags)
    holds_key = not row.final or row.releasing
    if holds_key and row.key is not None:
        ops.append(Delete(keys.unique(row.kind, row.key)))
    if row.state is State.SCHEDULED:
        place = timed(row.due_us, id)
        ops.append(Delete(keys.ready(row.kind, row.priority, suspect=row.suspect) + place))
        compares.append(Compare(keys.delayed(id) + place, mod=delayed_mod))
        if delayed_mod:
            ops.append(Delete(keys.delayed(id) + place))
            shifts.append(("", DELAYED, -1))
    elif holds_key:
        ops.append(Delete(keys.owned(row.owner) + id))
    if row.final and not row.releasing:
        ops.append(Delete(keys.expiring(id) + timed(row.expires_us, id)))
    ops.append(Delete(keys.watch(id), prefix_end(keys.watch(id))))
    return Change(compares, ops, tuple(shifts))
