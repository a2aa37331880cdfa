"""Live streams of what happens to instances: states, log lines and progress."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from peerjob.clock import Clock
from peerjob.cluster.role import Role
from peerjob.errors import NodeStateError
from peerjob.ids import id_time_us
from peerjob.instance import HistoryEntry, Instance, LogEntry
from peerjob.manager import Event, Manager
from peerjob.query import Query
from peerjob.record import MAX_BATCH, Record
from peerjob.state import State
from peerjob.store.base import Store

POLL = 1.0
WATCH_TTL = 10.0
MAX_WAITING = 10_000
"""Changed ids that a slow reader may have waiting; then it reads everything active again instead."""


class _Seen:
    """How much of one instance a stream has shown."""

    __slots__ = ("entries", "last_us", "log_cursor", "progress")

    def __init__(self) -> None:
        self.entries = 0
        self.last_us = 0
        self.log_cursor: str | None = None
        self.progress: bytes | None = None


class Watchers(Role):
    """Keeps the store hinting changes while anybody watches."""

    name = "watchers"

    def __init__(self, *, clock: Clock, store: Store, incarnation: Callable[[], str], manager: Manager) -> None:
        super().__init__(clock)
        self._store = store
        self._incarnation = incarnation
        self._manager = manager
        self._streams: set[_Stream] = set()
        self._wanted = asyncio.Event()

    def changed(self, id: str) -> None:
        for stream in self._streams:
            stream.changed(id)

    async def stop(self) -> None:
        """Stop, and end every stream with NodeStateError."""
        await super().stop()
        for stream in self._streams:
            stream.stop()

    async def run(self) -> None:
        while True:
            if not self._streams:
                self._wanted.clear()
                await self._wanted.wait()
            await self._store.watch_changes(self._incarnation(), WATCH_TTL)
            await self.pause(WATCH_TTL / 3)

    async def events(
        self, query: Query, on_begin: Callable[[], Awaitable[object]] | None = None
    ) -> AsyncIterator[Event]:
        """What happens from now on to what matches."""
        stream = _Stream(self._store, self._manager, query)
        await self._store.watch_changes(self._incarnation(), WATCH_TTL)
        await stream.catch_up()
        self._streams.add(stream)
        self._wanted.set()
        try:
            if on_begin is not None:
                await on_begin()
            while True:
                for event in await stream.next(POLL * (1 + self.clock.random.uniform(-0.1, 0.1))):
                    yield event
        finally:
            self._streams.discard(stream)


class _Stream:
    """One reader. Hints name what changed; each poll reads what is active again, so that a lost hint is only late."""

    def __init__(self, store: Store, manager: Manager, query: Query) -> None:
        self._store = store
        self._manager = manager
        self._query = query
        self._seen: dict[str, _Seen] = {}
        self._changed: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._newest = ""
        self._stopped = False

    def changed(self, id: str) -> None:
        if len(self._changed) < MAX_WAITING:
            self._changed[id] = None
        self._wake.set()

    def stop(self) -> None:
        self._stopped = True
        self._wake.set()

    async def catch_up(self) -> None:
        """Note what is there already: a stream tells only what comes."""
        for record in await self._active():
            seen = self._seen.setdefault(record.id, _Seen())
            seen.entries = _total(record)
            seen.progress = record.progress
            seen.log_cursor = await self._log_end(record.id)
        page = await self._store.lookup(Query(order="desc", limit=1))
        self._newest = page.records[0].id if page.records else ""

    async def next(self, poll: float) -> list[Event]:
        """The events since the last call; waits up to `poll` seconds for a hint."""
        try:
            async with asyncio.timeout(poll):
                await self._wake.wait()
        except TimeoutError:
            ids = dict.fromkeys([record.id for record in await self._active()] + list(self._seen))
        else:
            ids, self._changed = self._changed, {}
        if self._stopped:
            raise NodeStateError("the node that watched has stopped")
        self._wake.clear()
        events: list[Event] = []
        wanted = list(ids)
        for start in range(0, len(wanted), MAX_BATCH):
            for record in await self._store.get(wanted[start : start + MAX_BATCH]):
                if record is not None and self._matches(record):
                    events += await self._events_of(record)
        return events

    async def _active(self) -> list[Record]:
        records: list[Record] = []
        cursor: str | None = None
        while True:
            page = await self._store.lookup(
                Query(
                    kind=self._query.kind,
                    uuid=self._query.id,
                    tag=self._query.tag,
                    state=State.ACTIVE,
                    limit=1000,
                    cursor=cursor,
                )
            )
            records += page.records
            cursor = page.cursor
            if cursor is None:
                return records

    def _matches(self, record: Record) -> bool:
        query = self._query
        return (
            (query.id is None or record.id == query.id)
            and (query.kind is None or record.kind == query.kind)
            and (query.tag is None or query.tag in record.tags)
            and (query.after is None or _created_us(record) >= (query.after_us or 0))
            and (query.before is None or _created_us(record) < (query.before_us or 0))
        )

    async def _events_of(self, record: Record) -> list[Event]:
        seen = self._seen.get(record.id)
        if seen is None:
            if record.state.is_final and record.id <= self._newest and record.id not in self._changed:
                # finished before the stream began, and only looked at again
                seen = _Seen()
                seen.entries = max(0, _total(record) - 1)
            else:
                seen = _Seen()
            self._seen[record.id] = seen
        instance: Instance[Any] = Instance(self._manager, record)
        events = await self._log_events(record, instance, seen)
        if record.progress is not None and record.progress != seen.progress:
            seen.progress = record.progress
            events.append(Event(what="progress", instance=instance, state=record.state))
        fresh = _total(record) - seen.entries
        seen.entries = _total(record)
        for entry in record.history[len(record.history) - min(fresh, len(record.history)) :]:
            if entry.state & self._query.states:
                shown = HistoryEntry(record.id, record.kind, entry)
                events.append(Event(what="state", instance=instance, state=entry.state, entry=shown))
        if record.state.is_final:
            del self._seen[record.id]
            self._seen[record.id] = seen
            _forget_oldest(self._seen)
        return events

    async def _log_events(self, record: Record, instance: Instance[Any], seen: _Seen) -> list[Event]:
        level = self._query.level
        events: list[Event] = []
        while True:
            page = await self._store.logs(record.id, cursor=seen.log_cursor)
            seen.log_cursor = page.cursor
            for line in page.lines:
                if level is None or int(level) & line.level:
                    entry = LogEntry(record.id, record.kind, line)
                    events.append(Event(what="log", instance=instance, state=record.state, log=entry))
            if not page.lines:
                return events

    async def _log_end(self, id: str) -> str | None:
        cursor: str | None = None
        while True:
            page = await self._store.logs(id, cursor=cursor)
            cursor = page.cursor
            if not page.lines:
                return cursor


def _total(record: Record) -> int:
    return sum(entry.count for entry in record.history)


def _created_us(record: Record) -> int:
    return id_time_us(record.id)


def _forget_oldest(seen: dict[str, _Seen]) -> None:
    while len(seen) > MAX_WAITING:
        del seen[next(iter(seen))]
