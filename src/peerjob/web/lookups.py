"""Pages of instances, and the rows that show them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from peerjob.handles.instance import Instance
from peerjob.handles.manager import Manager
from peerjob.model.errors import DecodeError
from peerjob.model.latest import Latest
from peerjob.model.query import Query, ResultPage
from peerjob.model.state import State

from .filters import ROWS

MAX_SCANNED = 1_000
"""The most instances whose errors one page searches. A link continues the search."""
MAX_LOOKUPS = 20
"""The most lookups of one search."""
MAX_SHARED = 50
"""The most lists that live views share."""
SHARED_SECONDS = 5.0
MAX_ERROR = 200
"""The most characters of an error in a row."""


@dataclass(frozen=True, kw_only=True)
class InstanceRow:
    """An instance in a list, without its arguments and its result."""

    id: str
    kind: str
    state: State
    created_at: datetime
    due_at: datetime
    node: str
    attempts: int
    progress: float | None
    error: str
    schedule: str


def row_of(instance: Instance[Any]) -> InstanceRow:
    """The row of an instance. A damaged part of its record shows as such."""
    return InstanceRow(
        id=instance.id,
        kind=instance.kind,
        state=instance.state,
        created_at=instance.created_at,
        due_at=instance.due_at,
        node=instance.node or "",
        attempts=instance.attempts,
        progress=_progress(instance),
        error=error_text(instance).partition("\n")[0][:MAX_ERROR],
        schedule=_schedule(instance),
    )


def error_text(instance: Instance[Any]) -> str:
    """The class and the message of the last error; "" for none."""
    try:
        return "" if instance.error is None else str(instance.error)
    except DecodeError as error:
        return f"<{error}>"


def _progress(instance: Instance[Any]) -> float | None:
    try:
        return None if instance.progress is None else instance.progress.fraction
    except DecodeError:
        return None


def _schedule(instance: Instance[Any]) -> str:
    try:
        return instance.schedule or ""
    except DecodeError:
        return ""


async def page_of(manager: Manager, query: Query, error: str = "") -> ResultPage[InstanceRow]:
    """A page of rows. With `error`, only instances whose error contains the text, of at most 1,000 instances."""
    if not error:
        page = await manager.lookup_instances(query)
        return ResultPage(map(row_of, page), page.cursor)
    wanted, rows, scanned, cursor = error.casefold(), list[InstanceRow](), 0, query.cursor
    for _ in range(MAX_LOOKUPS):
        page = await manager.lookup_instances(replace(query, cursor=cursor, limit=ROWS - len(rows)))
        scanned, cursor = scanned + len(page), page.cursor
        rows += [row_of(instance) for instance in page if wanted in error_text(instance).casefold()]
        if cursor is None or len(rows) >= ROWS or scanned >= MAX_SCANNED:
            break
    return ResultPage(rows, cursor)


class SharedLists:
    """The first pages of lists that live views show. Equal lists share one read.

    A list is read again if a count has changed, and every five seconds for its progress.
    """

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._lists = Latest[Query, _SharedList](MAX_SHARED)
        self._reading = asyncio.Lock()

    async def page(self, query: Query, counts: object) -> ResultPage[InstanceRow]:
        """The rows of a query, while the sample has these counts."""
        async with self._reading:
            now, known = self._manager.clock.elapsed(), self._lists.get(query)
            if known is None or known.counts != counts or now - known.read_at >= SHARED_SECONDS:
                known = _SharedList(read_at=now, counts=counts, rows=await page_of(self._manager, query))
            self._lists[query] = known
            return known.rows


@dataclass(frozen=True, kw_only=True)
class _SharedList:
    read_at: float
    counts: object
    rows: ResultPage[InstanceRow]
