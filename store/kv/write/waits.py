"""How a wait begins and ends."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from peerjob.model.durable import Wait
from peerjob.model.record import LAST_MOMENT_US
from peerjob.store.kv.format.base import Compare, Put
from peerjob.store.kv.format.keys import timed
from peerjob.store.kv.format.limit_rows import gate_of, limit_key_of
from peerjob.store.kv.format.rows import Row
from peerjob.store.kv.format.thread_rows import NO_THREAD, thread_of, wait_of, with_thread

from .gates import Arrival, GatePlan, Gates
from .transaction_plan import TransactionPlan


def with_wait(row: Row, wait: Wait, *, is_over: bool) -> Row:
    """The record of a Scheduled instance that begins to wait, under its fence.

    `is_over` says that the signal is there, or that no need is left: then the instance enters its queue at once.
    """
    thread = thread_of(row) or NO_THREAD
    if is_over:
        return with_thread(row, replace(thread, waits=False))
    until_us = None if wait.until_us is None else min(wait.until_us, LAST_MOMENT_US)
    waiting = replace(
        thread,
        waits=True,
        fence=row.fence,
        until_us=until_us,
        awaits=wait.signals,
        needs=wait.needs,
        before_us=row.due_us,
    )
    return with_thread(row if until_us is None else replace(row, due_us=until_us), waiting)


def is_entered(row: Row, now_us: int) -> bool:
    """Whether the time of a wait has come, so that nothing else ends it."""
    thread = wait_of(row)
    return thread is None or (thread.until_us is not None and thread.until_us <= now_us)


def without_wait(row: Row) -> Row:
    """The record of an instance whose wait is ended by something else than time."""
    thread = thread_of(row) or NO_THREAD
    due_us = row.due_us if thread.until_us is None else thread.before_us
    return with_thread(replace(row, due_us=due_us), replace(thread, waits=False))


def enter(plan: TransactionPlan, id: str, row: Row, after: Row, delayed_mod: int) -> bool:
    """Plan that an instance whose wait is over enters its queue, besides its record; `after` is `without_wait(row)`.

    `delayed_mod` is the revision of its entry in the delayed queue, 0 if there is none. False if a claim has moved that
    entry, because the time of the wait has come: the instance is in its queue already.
    """
    thread = wait_of(row)
    if thread is None or thread.until_us is None:
        plan.leave_outside(id, row)
    elif not delayed_mod:
        return False
    else:
        entry = plan.keys.delayed(id) + timed(row.due_us, id)
        plan.compares.append(Compare(entry, mod=delayed_mod))
        plan.leave_delayed(entry, id, row.kind, has_limit_key=gate_of(row) is not None)
    limit_key = limit_key_of(after)
    plan.add_to_queue(id, after.kind, after.priority, after.due_us, suspect=after.suspect, limit_key=limit_key)
    # an entry that is deleted and written again in one transaction is written only
    puts = {op.key for op in plan.ops if isinstance(op, Put)}
    plan.ops[:] = [op for op in plan.ops if isinstance(op, Put) or op.key not in puts]
    return True


async def gates_of(
    gates: Gates, entering: Iterable[tuple[str, Row]], now_us: int, *, is_new: bool = False
) -> GatePlan | None:
    """Read the limit keys of instances that enter their queues."""
    coming = [(id, row, limit_key) for id, row in entering if (limit_key := limit_key_of(row)) is not None]
    plan = await gates.plan((row.kind, limit_key[0]) for _, row, limit_key in coming)
    if plan is not None:
        plan.expect(
            Arrival((row.kind, limit_key[0]), limit_key[1], is_new, row.priority, row.due_us, id)
            for id, row, limit_key in coming
            if row.due_us <= now_us
        )
    return plan
