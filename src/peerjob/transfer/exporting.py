"""Exports a namespace: its schedules and its unfinished instances, a page at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from peerjob.model.arguments import typed_except_secrets
from peerjob.model.capabilities import Health
from peerjob.model.clock import Clock
from peerjob.model.errors import NodeStateError, PayloadTooLargeError
from peerjob.model.firing import ScheduleRow
from peerjob.model.query import Query
from peerjob.model.record import MAX_BATCH, Record
from peerjob.model.state import State
from peerjob.model.stored_limit import LimitKey
from peerjob.store.base import Store
from peerjob.version import __version__

from .lines import FORMAT, MAX_LINE, End, Header, MovedInstance, MovedSchedule, line_of, opened

MAX_ASKED = 32
"""Most instances whose children are asked for at the same time."""


@typed_except_secrets("store")
async def export_namespace(
    store: str, *, namespace: str = "default", clock: Clock | None = None
) -> AsyncGenerator[bytes]:
    """Yield the lines of an export of the namespace at a store's URL. The source is not changed.

    Raises NodeStateError if a node of the namespace is alive at the beginning or at the end, since it claims jobs,
    fires schedules or takes new jobs, and if a node that has left again changed a schedule or the number of instances
    in a state. Raises it also for unfinished instances with steps, signals, children or a wait, which an export does
    not have. An instance that ran on a dead node is exported as queued, with one more loss.
    """
    async with opened(store, namespace, clock) as source:
        await _check_no_node(source, namespace)
        await _check_none_durable(source, namespace)
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
        count = 0
        async for record, key in _unfinished(source):
            count += 1
            line = line_of(_moved_instance(record, key))
            if len(line) > MAX_LINE:
                raise PayloadTooLargeError(f"the line of instance {record.id}", len(line), MAX_LINE)
            yield line
        # a node that joined meanwhile can have changed what was read before, even if it has left again
        await _check_no_node(source, namespace)
        await _check_unchanged(source, namespace, health, revision)
        yield line_of(End(schedules=len(rows), instances=count))


async def _check_no_node(store: Store, namespace: str) -> None:
    alive = [view.name for view in await store.nodes()]
    if alive:
        more = f" and {len(alive) - 5} more" if len(alive) > 5 else ""
        raise NodeStateError(
            f"namespace {namespace!r} at {store.url} is in use by {', '.join(alive[:5])}{more}: stop all its nodes, "
            "and after a kill wait for the end of the lease (5 s by default)"
        )


async def _check_none_durable(store: Store, namespace: str) -> None:
    """Raise NodeStateError if an unfinished instance has what an export would lose."""
    durable: list[str] = []
    query = Query(state=State.CREATED | State.ACTIVE, limit=MAX_BATCH)
    while True:
        page = await store.lookup(query)
        for at in range(0, len(page.records), MAX_ASKED):
            part = page.records[at : at + MAX_ASKED]
            answers = await asyncio.gather(*(_is_durable(store, record) for record in part))
            durable += [record.id for record, is_durable in zip(part, answers, strict=True) if is_durable]
        if page.cursor is None:
            break
        query = query.at(page.cursor)
    if durable:
        more = f" and {len(durable) - 5:,} more" if len(durable) > 5 else ""
        raise NodeStateError(
            f"namespace {namespace!r} at {store.url} has {len(durable):,} unfinished instances with steps, signals, "
            f"children or a wait, which an export would lose: {', '.join(durable[:5])}{more}. Start a node, and let "
            "them end or cancel them; `jobctl show UUID` shows what they wait for"
        )


async def _is_durable(store: Store, record: Record) -> bool:
    if record.parent or record.open or record.wait is not None or record.has_steps:
        return True
    # only a body makes children
    return bool(record.fence and (await store.lookup(Query(parent=record.id, limit=1))).records)


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


async def _unfinished(store: Store) -> AsyncIterator[tuple[Record, LimitKey | None]]:
    query = Query(state=State.ACTIVE, limit=MAX_BATCH)
    while True:
        page = await store.lookup(query)
        keys = await store.limit_keys([record.id for record in page.records]) if page.records else []
        for pair in zip(page.records, keys, strict=True):
            yield pair
        if page.cursor is None:
            return
        query = query.at(page.cursor)


def _moved_schedule(row: ScheduleRow) -> MovedSchedule:
    return MovedSchedule(
        name=row.name,
        kind=row.kind,
        definition=row.definition,
        next_us=row.next_us,
        paused=row.paused,
        note=row.note,
        last_us=max(row.last_us, row.trimmed_us),
    )


def _moved_instance(record: Record, key: LimitKey | None) -> MovedInstance:
    # the claim counted the run as an attempt, which the loss of its node takes back
    loss = int(record.state is State.PROCESSING)
    return MovedInstance(
        id=record.id,
        kind=record.kind,
        spec=record.spec,
        priority=record.priority,
        due_us=record.due_us,
        attempts=record.attempts - loss,
        crashes=record.crashes,
        losses=record.losses + loss,
        key=record.key,
        tags=record.tags,
        retention_us=record.retention_us,
        max_crashes=record.max_crashes,
        slot=record.slot,
        limit_key="" if key is None else key.key,
        key_concurrency=0 if key is None else key.concurrency,
    )
