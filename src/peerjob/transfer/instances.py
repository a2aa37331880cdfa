"""Reads the unfinished instances of a namespace: each with its steps, and its children after it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import product

from peerjob.model.durable import FLOW_KIND, FLOW_MADE, MAX_STEP_BYTES, MAX_STEPS_CALL, Step, StepPage
from peerjob.model.ids import id_time_us
from peerjob.model.pages import pages
from peerjob.model.query import Query
from peerjob.model.record import MAX_BATCH, Record
from peerjob.model.state import State
from peerjob.model.stored_limit import LimitKey
from peerjob.store.base import Store

from .lines import MovedInstance, MovedSteps

_MAX_BESIDE = 1 << 16
"""Most bytes of steps in the line of their instance, so that both fit into one request to each store."""


@dataclass
class _Open:
    """An instance that later lines complete."""

    record: Record
    has_open_children: bool = False


async def moved_instances(store: Store) -> AsyncIterator[MovedInstance | MovedSteps]:
    """All instances that are not final and have no parent; after a page of them, their children.

    The children of a parent that has ended, which the store is about to cancel, are left out.
    """
    async for page in _pages(store, Query(state=State.ACTIVE, limit=MAX_BATCH)):
        levels: list[list[_Open]] = [[]]
        async for line in _instances(store, [record for record in page if not record.parent], levels[0]):
            yield line
        while levels[-1]:
            levels.append([])
            async for line in _children(store, levels[-2], levels[-1]):
                yield line
        # a child is whole before its parent can run
        for level in reversed(levels):
            for opening in level:
                async for steps in _steps(store, opening):
                    yield steps


async def _pages(store: Store, query: Query) -> AsyncIterator[tuple[Record, ...]]:
    async for page in pages(lambda cursor: store.lookup(query.at(cursor))):
        yield page.records


async def _children(store: Store, parents: Sequence[_Open], opened: list[_Open]) -> AsyncIterator[MovedInstance]:
    # a child can read the results of others, so those that are final come first
    for state, parent in product((State.FINAL, State.ACTIVE), parents):
        if not parent.record.has_children:
            continue
        async for page in _pages(store, Query(parent=parent.record.id, state=state, limit=MAX_BATCH)):
            async for line in _instances(store, page, opened):
                parent.has_open_children = parent.has_open_children or line.open
                yield line


async def _instances(store: Store, page: Sequence[Record], opened: list[_Open]) -> AsyncIterator[MovedInstance]:
    """The lines of some instances; `opened` gets those that later lines complete."""
    keys = await store.limit_keys([record.id for record in page]) if page else []
    for record, key in zip(page, keys, strict=True):
        if record.state.is_final:
            yield _moved(record, key, state=str(record.state), result=record.result, error=record.error)
            continue
        steps = await _few_steps(store, record)
        if steps is None:
            opened.append(_Open(record))
        yield _moved(record, key, steps=steps or (), is_open=steps is None or _waits_as_child(record))


async def _few_steps(store: Store, record: Record) -> tuple[Step, ...] | None:
    """The steps of an instance, if its line can have them all; None if the instance has children or more steps."""
    if record.has_children:
        return None
    page = await store.steps(record.id) if record.has_steps else StepPage()
    size = sum(len(step.name) + len(step.value) for step in page.steps)
    return page.steps if page.cursor is None and len(page.steps) <= MAX_STEPS_CALL and size <= _MAX_BESIDE else None


def _waits_as_child(record: Record) -> bool:
    """Whether an instance is open, or a child that has never run since it waits for other children.

    The edges do not move. The parent, whose next run tells the needs of its open children again, is queued.
    """
    wait = record.wait
    return record.open or (bool(record.parent) and wait is not None and wait.needs and not record.has_children)


async def _steps(store: Store, opening: _Open) -> AsyncIterator[MovedSteps]:
    """The steps of an instance; the last line closes it."""
    record, part, size = opening.record, list[Step](), 0
    stays_open = _waits_as_child(record)

    async def read(cursor: str | None) -> StepPage:
        return await store.steps(record.id, cursor=cursor) if record.has_steps else StepPage()

    async for page in pages(read):
        for step in page.steps:
            if record.kind == FLOW_KIND and step.name == FLOW_MADE and opening.has_open_children:
                continue
            if len(part) == MAX_STEPS_CALL or size + len(step.value) > MAX_STEP_BYTES:
                yield MovedSteps(id=record.id, parent=record.parent, steps=tuple(part), open=True)
                part, size = [], 0
            part.append(step)
            size += len(step.value)
    yield MovedSteps(id=record.id, parent=record.parent, steps=tuple(part), open=stays_open)


def _moved(
    record: Record,
    key: LimitKey | None,
    *,
    steps: tuple[Step, ...] = (),
    is_open: bool = False,
    state: str = "",
    result: bytes | None = None,
    error: bytes | None = None,
) -> MovedInstance:
    # the claim counted the run as an attempt, which the loss of its node takes back
    loss = int(record.state is State.PROCESSING)
    wait, due_us = record.wait, record.due_us
    if wait is not None and wait.until_us is not None:
        # the due time before the wait is not known
        due_us = min(due_us, id_time_us(record.id))
    # one that is open here, or waits for children, runs again from its top, and then waits anew
    waits = None if is_open or wait is None or wait.needs else wait
    return MovedInstance(
        id=record.id,
        kind=record.kind,
        spec=record.spec,
        priority=record.priority,
        due_us=due_us,
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
        parent=record.parent,
        steps=steps,
        signals=() if waits is None else waits.signals,
        until_us=None if waits is None else waits.until_us,
        open=is_open,
        state=state,
        result=result,
        error=error,
    )
