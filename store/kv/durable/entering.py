"""Instances whose wait is over enter their queues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from peerjob.store.kv.format.base import Compare, Op, Put, mod_of
from peerjob.store.kv.format.keys import timed
from peerjob.store.kv.format.rows import Row, encode
from peerjob.store.kv.format.thread_rows import wait_of
from peerjob.store.kv.write.context import KVContext
from peerjob.store.kv.write.gates import stamps
from peerjob.store.kv.write.hints import Wakeups
from peerjob.store.kv.write.transaction_plan import Change, TransactionPlan
from peerjob.store.kv.write.waits import enter, gates_of, is_entered, without_wait


class EndOfWait(msgspec.Struct, frozen=True):
    """The end of a wait: the record as read, and the record and the writes that come with it."""

    revision: int
    row: Row
    after: Row
    """The record with all changes besides the end of the wait."""
    ops: Sequence[Op] = ()
    compares: Sequence[Compare] = ()
    enters: bool = True


async def write_ends(
    context: KVContext, ends: Mapping[str, EndOfWait], guards: Sequence[Compare] = (), *, changed: Sequence[str] = ()
) -> set[str]:
    """Let instances enter their queues, in one transaction each; the answer is those whose transaction was applied.

    An instance that does not wait, or whose time has come, gets the other writes only.
    """
    keys, now_us = context.keys, context.clock.time_us()
    waiting = [id for id, end in ends.items() if end.enters and not is_entered(end.row, now_us)]
    delayed = [id for id in waiting if (thread := wait_of(ends[id].row)) is not None and thread.until_us is not None]
    stored = await context.kv.get([keys.delayed(id) + timed(ends[id].row.due_us, id) for id in delayed])
    mods = dict(zip(delayed, map(mod_of, stored), strict=True))
    entered = {id: without_wait(ends[id].after) for id in waiting}
    gates = await gates_of(context.gates, entered.items(), now_us)
    changes: list[Change] = []
    wakeups = Wakeups(changed=list(changed))
    for id, end in ends.items():
        plan = TransactionPlan(keys, now_us, gates=gates)
        enters = id in entered and enter(plan, id, end.row, entered[id], mods.get(id, 0))
        after = entered[id] if enters else end.after
        plan.ops += [*end.ops, Put(keys.state + id, encode(after))]
        changes.append(plan.change([Compare(keys.state + id, mod=end.revision), *end.compares]))
        wakeups.add_queued(plan)
    written = await context.writer.write(changes, guards=[*guards, *stamps(gates)])
    context.uncache(ends)
    done = {id for id, _ in written.applied(ends)}
    if not done:
        wakeups.changed = []
    await context.hints.send(wakeups, written)
    return done
