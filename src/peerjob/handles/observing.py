"""What a manager sees around an instance or a schedule, from which `reasons` makes sentences."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any

from peerjob.model.errors import RemoteError, UnknownInstanceError, UnknownScheduleError
from peerjob.model.query import Query
from peerjob.model.record import NodeView
from peerjob.model.state import State
from peerjob.model.stored_limit import MAX_HOLDERS, InstanceLimits

from .instance import Instance
from .manager import Manager
from .reasons import Observations, able, rank, why_schedule
from .schedule import Schedule

PAGE = 1_000
MAX_SEARCHED = 10_000
"""The most queued instances that are read to count the instances ahead of the given one."""


async def observe(
    manager: Manager, instance: Instance[Any], now: datetime, *, max_searched: int = MAX_SEARCHED
) -> Observations:
    """The state of the cluster around an instance, for `why_instance`."""
    nodes = await manager.nodes()
    busy: Counter[str] = Counter()
    limits = await _limits(manager, instance)
    holders = {kind: dict[str, str]() for view in limits.limits for kind in view.kinds} | {instance.kind: {}}
    if not instance.state.is_final:
        async for running in manager.iter_instances(Query(state=State.PROCESSING, limit=PAGE)):
            busy[running.node or ""] += 1
            of_kind = holders.get(running.kind, {})
            if running.id in limits.holders or len(of_kind) <= MAX_HOLDERS:
                of_kind[running.id] = running.node or "?"
    before, all_of_them = 0, True
    due = instance.state is State.SCHEDULED and instance.due_at <= now
    if due and able(instance.kind, nodes):
        before, all_of_them = await _before(manager, instance, nodes, now, max_searched)
    return Observations(
        now=now,
        instance=instance,
        nodes=nodes,
        slot_of=await _schedule(manager, instance.record.slot),
        busy=busy,
        limits=limits,
        running=holders,
        before=before,
        counted_all=all_of_them,
        children=await _children(manager, instance),
    )


async def explain_schedule(manager: Manager, schedule: Schedule, now: datetime) -> list[str]:
    """Sentences about a schedule, the reason first."""
    fires = await manager.fires(schedule, limit=1)
    return why_schedule(
        schedule,
        now=now,
        nodes=await manager.nodes(),
        leader=await manager.leader(),
        last=fires[0] if fires else None,
    )


async def _limits(manager: Manager, instance: Instance[Any]) -> InstanceLimits:
    if instance.state is not State.SCHEDULED:
        return InstanceLimits()
    try:
        return await manager._limits_of(instance.id)  # pyright: ignore[reportPrivateUsage]  # no public verb
    except UnknownInstanceError:  # it was removed meanwhile
        return InstanceLimits()
    except RemoteError as error:
        if error.code != "UNIMPLEMENTED":  # a node of an older release knows no limits
            raise
        return InstanceLimits()


async def _children(manager: Manager, instance: Instance[Any]) -> tuple[int, int] | None:
    """How many children are not over, and how many there are; None unless the instance waits for children."""
    if instance.record.wait is None or not instance.record.wait.needs or not instance.fence:
        return None  # one that never ran has no children: it needs other children of its parent
    unfinished = Query(parent=instance, state=State.CREATED | State.ACTIVE)
    return await manager.count(unfinished), await manager.count(Query(parent=instance))


async def _schedule(manager: Manager, name: str) -> Schedule | None:
    if not name:
        return None
    try:
        return await manager.lookup_schedule(name)
    except UnknownScheduleError:  # the schedule was removed after the instance was created
        return None


async def _before(
    manager: Manager, instance: Instance[Any], nodes: list[NodeView], now: datetime, max_searched: int
) -> tuple[int, bool]:
    """The number of due instances that are claimed before this one, and whether all queued instances were read."""
    kinds = {kind for node in able(instance.kind, nodes) for kind in node.info.open_kinds}
    query, seen, before = Query(state=State.SCHEDULED, limit=min(PAGE, max_searched)), 0, 0
    mine = rank(instance.record)
    while True:
        page = await manager.lookup_instances(query)
        seen += len(page)
        before += sum(
            instance.kind in kinds and instance.due_at <= now and rank(instance.record) < mine for instance in page
        )
        if page.cursor is None or seen >= max_searched:
            return before, page.cursor is None
        query = query.at(page.cursor)
