"""`jobctl why`: why an instance does not run, or a schedule does not fire."""

from __future__ import annotations

from collections import Counter
from typing import Annotated
from uuid import UUID

import typer

from peerjob.handles.instance import Instance
from peerjob.handles.schedule import Schedule
from peerjob.model.errors import UnknownScheduleError
from peerjob.model.query import Query
from peerjob.model.record import NodeView
from peerjob.model.state import State
from peerjob.remote.client.client import Client

from .commands import ClientSession, verb
from .reasons import Observations, able, rank, why_instance, why_schedule

PAGE = 1_000
MAX_SEARCHED = 10_000
"""The most queued instances that are read to count the instances ahead of the given one."""


def add_to(app: typer.Typer) -> None:
    """Add this verb to jobctl."""
    verb(app, "why")(why)


async def why(
    session: ClientSession,
    what: Annotated[
        str, typer.Argument(metavar="UUID|NAME", help="An instance, or the name of a schedule.", show_default=False)
    ],
) -> None:
    """Explain why an instance does not run, or why a schedule does not fire."""
    async with session.client() as client:
        if not _is_id(what):
            schedule = await client.lookup_schedule(what)
            fires = await client.fires(what, limit=1)
            reasons = why_schedule(
                schedule,
                now=session.now,
                nodes=await client.nodes(),
                leader=await client.leader(),
                last=fires[0] if fires else None,
            )
            _show(session, f"schedule {schedule.name} of {schedule.kind}", reasons)
            return
        instance = await client.lookup_instance(what)
        reasons = why_instance(await _observe(session, client, instance))
        traceback = "" if instance.error is None else instance.error.traceback
        _show(session, f"{instance.id} of {instance.kind}: {instance.state!s}", reasons, traceback)


async def _observe(session: ClientSession, client: Client, instance: Instance[object]) -> Observations:
    nodes = await client.nodes()
    busy: Counter[str] = Counter()
    if not instance.state.is_final:
        async for one in client.iter_instances(Query(state=State.PROCESSING, limit=PAGE)):
            busy[one.node or ""] += 1
    before, all_of_them = 0, True
    due = instance.state is State.SCHEDULED and instance.due_at <= session.now
    if due and able(instance.kind, nodes):
        before, all_of_them = await _before(session, client, instance, nodes)
    return Observations(
        now=session.now,
        instance=instance,
        nodes=nodes,
        slot_of=await _schedule(client, instance.record.slot),
        busy=busy,
        before=before,
        counted_all=all_of_them,
    )


async def _schedule(client: Client, name: str) -> Schedule | None:
    if not name:
        return None
    try:
        return await client.lookup_schedule(name)
    except UnknownScheduleError:  # the schedule was removed after the instance was created
        return None


async def _before(
    session: ClientSession, client: Client, instance: Instance[object], nodes: list[NodeView]
) -> tuple[int, bool]:
    """The number of due instances that are claimed before this one, and whether all queued instances were read."""
    kinds = {kind for node in able(instance.kind, nodes) for kind in node.info.open_kinds}
    query, seen, found = Query(state=State.SCHEDULED, limit=PAGE), 0, 0
    mine, now = rank(instance.record), session.now
    while True:
        page = await client.lookup_instances(query)
        seen += len(page)
        found += sum(one.kind in kinds and one.due_at <= now and rank(one.record) < mine for one in page)
        if page.cursor is None or seen >= MAX_SEARCHED:
            return found, page.cursor is None
        query = query.at(page.cursor)


def _is_id(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _show(session: ClientSession, subject: str, reasons: list[str], traceback: str = "") -> None:
    text = "\n".join([subject, *(f"  {one}" for one in reasons)])
    if traceback:
        text += f"\n\n{traceback.rstrip()}"
    session.out.text(text, {"subject": subject, "reasons": reasons, "traceback": traceback or None})
