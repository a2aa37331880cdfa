"""The manager's verbs over a store: looking up, counting, cancelling, retrying and clearing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar
from uuid import UUID

from msgspec import structs

from peerjob.handles.instance import HistoryEntry, Instance, LogEntry
from peerjob.handles.manager import Manager, Stats
from peerjob.model.clock import Clock, to_datetime
from peerjob.model.errors import OptionError, UnknownInstanceError
from peerjob.model.ids import IdSource, id_text
from peerjob.model.job import Job
from peerjob.model.query import Filter, Query, ResultPage
from peerjob.model.record import LogLine, LogPage, NodeView, Record
from peerjob.model.state import State
from peerjob.store.base import Store

from .batcher import Batcher

R = TypeVar("R")

PAGE = 500
LOOKS = 32
"""Most instances that are looked up together: each may be as large as a payload."""


class InstanceManager:
    """Reads and acts on stored instances on behalf of one manager. `now_us` is the store's time."""

    def __init__(self, *, store: Store, manager: Manager, clock: Clock, name: str, now_us: Callable[[], int]) -> None:
        self._store = store
        self._manager = manager
        self._clock = clock
        self._name = name
        self._now_us = now_us
        self._requests = IdSource(clock)
        self._looked_up = Batcher(store.get, _looks)

    # -- reading -----------------------------------------------------------------------------------------------------

    async def record(self, uuid: str | UUID) -> Record:
        """Raises UnknownInstanceError, or OptionError for what is no UUID."""
        id = checked_id(uuid)
        found = await self._looked_up.ask(id)
        if found is None:
            raise UnknownInstanceError(id)
        return found

    async def instance(self, uuid: str | UUID, job: Job[..., R, Any] | None = None) -> Instance[Any]:
        record = await self.record(uuid)
        if job is not None and record.kind not in (job.kind, *job.aliases):
            raise UnknownInstanceError(f"{record.id} of kind {job.kind!r} (it is of kind {record.kind!r})")
        return Instance(self._manager, record, job=job)

    async def instances(self, query: Query | None) -> ResultPage[Instance[Any]]:
        """A page that is full unless it is the last: the store's short pages are joined."""
        query = query or Query()
        found: list[Instance[Any]] = []
        cursor = query.cursor
        while True:
            page = await self._store.lookup(_page_of(query, cursor, query.limit - len(found)))
            found += [Instance(self._manager, record) for record in page.records]
            cursor = page.cursor
            if cursor is None or len(found) >= query.limit:
                return ResultPage(found, cursor)

    async def history(self, query: Query | None) -> ResultPage[HistoryEntry]:
        query = query or Query()
        page = await self.instances(_any_state(query))
        entries = [
            HistoryEntry(instance.id, instance.kind, entry)
            for instance in page
            for entry in instance.record.history
            if entry.state & query.states
        ]
        return ResultPage(entries, page.cursor)

    async def log_lines(self, query: Query | None) -> ResultPage[LogEntry]:
        query = query or Query()
        page = await self.instances(query)
        lines: list[LogEntry] = []
        for instance in page:
            lines += [
                LogEntry(instance.id, instance.kind, line)
                async for line in self.iter_logs(instance.id)
                if query.level is None or int(query.level) & line.level
            ]
        return ResultPage(lines, page.cursor)

    async def iter_logs(self, uuid: str | UUID) -> AsyncIterator[LogLine]:
        async for page in self.log_pages(uuid):
            for line in page.lines:
                yield line

    async def log_pages(self, uuid: str | UUID, cursor: str | None = None) -> AsyncIterator[LogPage]:
        """What is stored from a cursor on; no page is empty."""
        id = checked_id(uuid)
        while (page := await self._store.logs(id, cursor=cursor)).lines:
            # lines of processors and of the body are written apart, so that they are stored out of turn
            yield structs.replace(page, lines=tuple(sorted(page.lines, key=_time_of)))
            cursor = page.cursor

    async def count(self, query: Query | None) -> int:
        query = query or Query()
        if query.id is None and query.tag is None and query.before is None and query.after is None:
            return Stats(counts=(await self._store.health()).counts).total(query.states, query.kind)
        total, cursor = 0, None
        while True:
            page = await self._store.lookup(_page_of(query, cursor, PAGE))
            total += len(page.records)
            cursor = page.cursor
            if cursor is None:
                return total

    async def due(self, kinds: Sequence[str]) -> dict[str, int]:
        return await self._store.due(kinds)

    async def stats(self) -> Stats:
        health, nodes = await self._store.health(), await self._store.nodes()
        served = {kind for node in nodes for kind in node.info.kinds}
        waiting = {kind: states.get(State.SCHEDULED, 0) for kind, states in health.counts.items()}
        return Stats(
            unserved={kind: count for kind, count in waiting.items() if count and kind not in served},
            counts=health.counts,
            delayed=health.delayed,
            nodes=health.nodes,
            undecodable=health.undecodable,
        )

    async def nodes(self) -> list[NodeView]:
        views, now_us = await self._store.nodes(), self._now_us()
        return [structs.replace(view, age_us=max(0, now_us - view.renewed_us)) for view in views]

    # -- acting ------------------------------------------------------------------------------------------------------

    async def cancel(self, query: Query) -> list[Instance[Any]]:
        """Cancels page by page; what is scheduled meanwhile with an older id is not searched for again."""
        if not isinstance(query, Query):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise OptionError("query", query, "a Query; Query.all() cancels everything")
        cancelled: list[Instance[Any]] = []
        cursor = query.cursor
        active = query.states & State.ACTIVE
        while active:
            page = await self._store.lookup(_page_of(_with_state(query, active), cursor, PAGE))
            ids = [record.id for record in page.records]
            if ids:
                before = await self._store.cancel(ids, node=self._name, request=self._requests.one())
                done = [id for id, state in zip(ids, before, strict=True) if state is not None and not state.is_final]
                records = await self._store.get(done)
                cancelled += [Instance(self._manager, record) for record in records if record is not None]
            cursor = page.cursor
            if cursor is None:
                break
        return cancelled

    async def cancel_one(self, uuid: str | UUID) -> bool:
        id = checked_id(uuid)
        before = (await self._store.cancel([id], node=self._name, request=self._requests.one()))[0]
        if before is None:
            raise UnknownInstanceError(id)
        return not before.is_final

    async def clear_instances(self, filter: Filter | None) -> int:
        filter = _settled(filter, self._clock)
        total = 0
        while removed := await self._store.clear_instances(filter, limit=PAGE):
            total += removed
        return total

    async def clear_history(self, filter: Filter | None) -> int:
        return await _to_the_end(self._store.clear_history, _settled(filter, self._clock))

    async def clear_logs(self, filter: Filter | None) -> int:
        return await _to_the_end(self._store.clear_logs, _settled(filter, self._clock))


async def _to_the_end(step: Callable[..., Awaitable[tuple[int, str | None]]], filter: Filter) -> int:
    total = 0
    cursor: str | None = None
    while True:
        done, cursor = await step(filter, cursor=cursor)
        total += done
        if cursor is None:
            return total


def checked_id(uuid: object) -> str:
    """The id's text; raises OptionError for what is no UUID."""
    try:
        return id_text(uuid)  # type: ignore[arg-type]  # anything else raises
    except (ValueError, AttributeError, TypeError):
        raise OptionError("uuid", uuid, "a UUID") from None


def _page_of(query: Query, cursor: str | None, limit: int) -> Query:
    return replace(query, cursor=cursor, limit=max(1, limit))


def _with_state(query: Query, state: State) -> Query:
    return replace(query, state=state)


def _any_state(query: Query) -> Query:
    return replace(query, state=None)


def _settled(filter: Filter | None, clock: Clock) -> Filter:
    """The filter with an age turned into a time, so that every step judges by the same moment."""
    if filter is None:
        return Filter()
    if filter.older_than is None:
        return filter
    _, before = filter.bounds_us(clock.time_us())
    return Filter(after=filter.after, before=None if before is None else to_datetime(before))


def _time_of(line: LogLine) -> int:
    return line.at_us


def _looks(ids: Sequence[str]) -> list[Sequence[str]]:
    return [ids[at : at + LOOKS] for at in range(0, len(ids), LOOKS)]
