"""Removing one instance with everything that belongs to it."""

from __future__ import annotations

from peerjob.model.state import State

from .base import Compare, Delete, Put
from .context import KVContext
from .keys import prefix_end, timed
from .rows import GONE, Row
from .slots import StepPlan
from .writer import Change


def removal(context: KVContext, id: str, revision: int, row: Row, *, lease: int) -> Change:
    """The change that removes a final instance that nobody runs any more; see `remove_in`."""
    plan = StepPlan([], [], [])
    remove_in(context, plan, id, row, 0, 0, lease=lease)
    return context.change(plan, [Compare(context.keys.state + id, mod=revision)])


def remove_in(
    context: KVContext, plan: StepPlan, id: str, row: Row, delayed_mod: int, now_us: int, *, lease: int
) -> None:
    """StepPlan the removal of an instance in any state, all but the compare of its record.

    `delayed_mod` is the revision of its entry among the delayed ones, if it is there. With a `lease`, as long as that
    lasts, an empty record keeps the same instance from being enqueued again.
    """
    keys, ops = context.keys, plan.ops
    ops.append(Put(keys.state + id, GONE, lease) if lease else Delete(keys.state + id))
    if row.spec is None:
        ops.append(Delete(keys.args + id))
    context.leave(id, row, plan)
    if row.has_out:
        ops.append(Delete(keys.out + id))
    if row.has_progress:
        ops.append(Delete(keys.progress + id))
    if row.log_next:
        ops.append(Delete(keys.log(id), prefix_end(keys.log(id))))
    ops.extend(Delete(keys.tag(tag) + id) for tag in row.tags)
    if row.state is State.SCHEDULED:
        context.take_out(id, row, delayed_mod, plan)
    elif row.keeps:
        ops.append(Delete(keys.owned(row.owner) + id))
    else:
        ops.append(Delete(keys.expiring(row.expires_us) + timed(row.expires_us, id)))
    if row.keeps:
        context.give_up(id, row, now_us, plan)
    ops.append(Delete(keys.watch(id), prefix_end(keys.watch(id))))
