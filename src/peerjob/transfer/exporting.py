"""Exports a namespace: its schedules and its unfinished instances, a page at a time."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import msgspec

from peerjob.model.arguments import typed_except_secrets
from peerjob.model.capabilities import Health
from peerjob.model.clock import Clock
from peerjob.model.errors import NodeStateError, PayloadTooLargeError
from peerjob.model.firing import ScheduleRow
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.store.drivers import check_exists
from peerjob.version import __version__

from .instances import moved_instances
from .lines import FORMAT, MAX_LINE, End, Header, MovedInstance, MovedSchedule, MovedSteps, line_of, opened


@typed_except_secrets("store")
async def export_namespace(
    store: str, *, namespace: str = "default", clock: Clock | None = None
) -> AsyncGenerator[bytes]:
    """Yield the lines of an export of the namespace at a store's URL. The source is not changed.

    Raises OptionError for a SQLite file that does not exist.
    Raises NodeStateError if a node of the namespace is alive at the beginning or at the end, since it claims jobs,
    fires schedules or takes new jobs, and if a node that has left again changed a schedule or the number of instances
    in a state. An instance that ran on a dead node is exported as queued, with one more loss. One that waits for its
    children is exported as queued, too: its next run waits for them anew.
    """
    check_exists(store)
    async with opened(store, namespace, clock) as source:
        await _check_no_node(source, namespace)
        # before the first read, so that the end of the export shows each change since then
        health = await source.health()
        rows, revision = await _schedules(source)
        yield line_of(
            Header(
                format=FORMAT,
                release=__version__,
                namespace=namespace,
                schedules=len(rows),
                instances=sum(
                    count
                    for states in health.counts.values()
                    for state, count in states.items()
                    if state & State.ACTIVE
                ),
                undecodable=health.undecodable,
            )
        )
        for row in rows:
            yield line_of(_moved_schedule(row))
        count = lines_of_steps = 0
        async for moved in moved_instances(source):
            count += isinstance(moved, MovedInstance)
            lines_of_steps += isinstance(moved, MovedSteps)
            line = line_of(moved)
            if len(line) > MAX_LINE:
                raise PayloadTooLargeError(f"the line of instance {moved.id}", len(line), MAX_LINE)
            yield line
        # a node that joined meanwhile can have changed what was read before, even if it has left again
        await _check_no_node(source, namespace)
        await _check_unchanged(source, namespace, health, revision)
        yield line_of(End(schedules=len(rows), instances=count, steps=lines_of_steps))


async def _check_no_node(store: Store, namespace: str) -> None:
    alive = [view.name for view in await store.nodes()]
    if alive:
        more = f" and {len(alive) - 5} more" if len(alive) > 5 else ""
        raise NodeStateError(
            f"namespace {namespace!r} at {store.url} is in use by {', '.join(alive[:5])}{more}: stop all its nodes, "
            "and after a kill wait for the end of the lease (5 s by default)"
        )


async def _check_unchanged(store: Store, namespace: str, before: Health, revision: int) -> None:
    now, schedules = await store.health(), await store.changed_schedules(revision)
    # the number of unreadable values grows when the export itself meets one
    if now.counts != before.counts or schedules.rows or schedules.reset:
        raise NodeStateError(
            f"namespace {namespace!r} at {store.url} changed during the export, so one of its nodes ran for a "
            "moment: keep all its nodes stopped, and export again"
        )


async def _schedules(store: Store) -> tuple[list[ScheduleRow], int]:
    """All schedules, and the revision up to which they were read."""
    rows, revision, more = list[ScheduleRow](), 0, True
    while more:
        page = await store.changed_schedules(revision)
        rows += [row for row in page.rows if not row.removed]
        revision, more = page.revision, page.more
    return rows, revision


def _moved_schedule(row: ScheduleRow) -> MovedSchedule:
    moved = msgspec.convert(row, MovedSchedule, from_attributes=True)
    return msgspec.structs.replace(moved, last_us=max(row.last_us, row.trimmed_us))
