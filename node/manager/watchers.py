"""Live streams of events of many instances: states, log lines and progress; `followers` has those of single ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Iterable
from typing import Any

from peerjob.cluster.role import BackgroundRole, wait_set
from peerjob.handles.entries import HistoryEntry, LogEntry
from peerjob.handles.instance import Event, Instance
from peerjob.handles.manager import Manager
from peerjob.model.clock import Clock
from peerjob.model.errors import NodeStateError
from peerjob.model.ids import id_time_us
from peerjob.model.query import Query
from peerjob.model.record import MAX_BATCH, LogLine, Record
from peerjob.model.state import State
from peerjob.store.base import Store

from .batches import RecordReader
from .followers import POLL, STOPPED, Followers

WATCH_TTL = 10.0
"""Seconds for which the store sends change hints after one call of `watch_changes`."""
MAX_WAITING = 10_000
"""Most changed ids that wait to be read (a poll finds the others), and most unread events of one reader."""
MAX_FINAL = 10_000
"""Most final instances that are remembered, so that their late log lines are sent once."""


class _Sent:
    """How much of one instance was sent to the streams."""

    __slots__ = ("entries", "log_cursor", "progress")

    def __init__(self) -> None:
        self.entries = 0
        self.log_cursor: str | None = None
        self.progress: bytes | None = None


class _Stream:
    """One reader: its query, and the events that it has not read yet."""

    def __init__(self, query: Query) -> None:
        self.scope = (query.kind, query.id, query.tag)
        self.newest = ""
        """The id of the newest instance when the stream began."""
        self._between = (query.after_us, query.before_us)
        self._states = query.states
        self._level = None if query.level is None else int(query.level)
        self._waiting: list[Event] = []
        self._wake = asyncio.Event()
        self._end_reason: str | None = None

    def matches(self, record: Record) -> bool:
        kind, id, tag = self.scope
        if (
            (id is not None and record.id != id)
            or (kind is not None and record.kind != kind)
            or (tag is not None and tag not in record.tags)
        ):
            return False
        after, before = self._between
        created = id_time_us(record.id)
        return (after is None or created >= after) and (before is None or created < before)

    def send(self, events: Iterable[Event]) -> None:
        self._waiting += [event for event in events if self._wants(event)]
        if len(self._waiting) > MAX_WAITING:
            self.end(f"the reader of watch() is more than {MAX_WAITING:,} events behind; call watch() again")
        elif self._waiting:
            self._wake.set()

    def end(self, reason: str) -> None:
        self._waiting = []
        self._end_reason = reason
        self._wake.set()

    async def next(self) -> list[Event]:
        """The events since the last call, at least one."""
        await self._wake.wait()
        if self._end_reason is not None:
            raise NodeStateError(self._end_reason)
        self._wake.clear()
        events, self._waiting = self._waiting, []
        return events

    def _wants(self, event: Event) -> bool:
        if event.log is not None:
            return self._level is None or bool(self._level & event.log.line.level)
        return event.entry is None or bool(event.state & self._states)


class Watchers(BackgroundRole):
    """Reads each changed instance once while there are streams, and sends events to the streams that match.

    Hints name changed instances. Each poll reads the active instances again, so a lost hint only delays events.
    """

    name = "watchers"

    def __init__(
        self, clock: Clock, store: Store, records: RecordReader, incarnation: Callable[[], str], manager: Manager
    ) -> None:
        super().__init__(clock)
        self.followers = Followers(clock=clock, store=store, read=records.record, ask_for_hints=self._register)
        self._store = store
        self._incarnation = incarnation
        self._manager = manager
        self._streams: set[_Stream] = set()
        self._joining: dict[_Stream, asyncio.Future[None]] = {}
        self._active: dict[str, _Sent] = {}
        self._final: dict[str, _Sent] = {}
        self._changed: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._registered: tuple[str, float] | None = None
        self._stopped = False

    @property
    def watches(self) -> bool:
        """Whether a caller watches changes."""
        return bool(self._streams or self._joining or self.followers.follows)

    def changed(self, id: str) -> None:
        self.followers.changed(id)
        if (self._streams or self._joining) and len(self._changed) < MAX_WAITING:
            self._changed[id] = None
            self._wake.set()

    async def stop(self) -> None:
        """Stop, and end every stream with NodeStateError."""
        self._stopped = True
        self.followers.stop()
        await super().stop()
        for stream in self._streams:
            stream.end(STOPPED)
        self._refuse(self._joining, NodeStateError(STOPPED))

    async def events(
        self, query: Query, on_begin: Callable[[], Awaitable[object]] | None = None
    ) -> AsyncIterator[Event]:
        """Yield the events of matching instances from now on."""
        if self._stopped:
            raise NodeStateError(STOPPED)
        stream = _Stream(query)
        joined = self._joining[stream] = asyncio.get_running_loop().create_future()
        self._wake.set()
        try:
            await joined
            if on_begin is not None:
                await on_begin()
            while True:
                for event in await stream.next():
                    yield event
        finally:
            self._joining.pop(stream, None)
            self._streams.discard(stream)

    async def run(self) -> None:
        due = 0.0
        while True:
            self._wake.clear()
            if not self._streams and not self._joining:
                for remembered in (self._active, self._final, self._changed):
                    remembered.clear()
                await self._wake.wait()
                continue
            poll = bool(self._joining) or self.clock.elapsed() >= due
            await self._read(poll=poll)
            if poll:
                due = self.clock.elapsed() + self.spread(POLL)
            await wait_set(self._wake, due - self.clock.elapsed())

    async def _read(self, *, poll: bool) -> None:
        """Read the changed instances, and on a poll also the active ones; let the joining streams begin after that."""
        joining, self._joining = self._joining, {}
        changed, self._changed = self._changed, {}
        ids = changed
        try:
            await self._register()
            newest = await self._newest() if joining else ""
            if poll:
                scopes = {stream.scope for stream in (*self._streams, *joining)}
                records = await self._lookup({(kind, tag) for kind, id, tag in scopes if id is None})
                for record in records.values():
                    await self._send(record, joining, hinted=record.id in changed)
                single = {id for _, id, _ in scopes if id is not None and id not in self._final}
                ids = dict.fromkeys(id for id in (*changed, *single, *self._active) if id not in records)
            await self._get(list(ids), joining, changed)
        except BaseException as error:
            self._changed = changed | self._changed
            self._refuse(joining, error if isinstance(error, Exception) else NodeStateError("the node has stopped"))
            raise
        for stream, joined in joining.items():
            if not joined.done():
                stream.newest = newest
                self._streams.add(stream)
                joined.set_result(None)

    def _refuse(self, joining: dict[_Stream, asyncio.Future[None]], error: Exception) -> None:
        for joined in joining.values():
            if not joined.done():
                joined.set_exception(error)

    async def _register(self) -> None:
        incarnation, now = self._incarnation(), self.clock.elapsed()
        if self._registered is None or self._registered[0] != incarnation or now >= self._registered[1]:
            await self._store.watch_changes(incarnation, WATCH_TTL)
            self._registered = (incarnation, now + WATCH_TTL / 3)

    async def _newest(self) -> str:
        page = await self._store.lookup(Query(order="desc", limit=1))
        return page.records[0].id if page.records else ""

    async def _lookup(self, scopes: set[tuple[str | None, str | None]]) -> dict[str, Record]:
        """Return the active instances, by id, of these pairs of kind and tag."""
        if (None, None) in scopes:
            scopes = {(None, None)}
        records: dict[str, Record] = {}
        for kind, tag in scopes:
            cursor: str | None = None
            while True:
                query = Query(kind=kind, tag=tag, state=State.ACTIVE, limit=1000, cursor=cursor)
                page = await self._store.lookup(query)
                records.update((record.id, record) for record in page.records)
                cursor = page.cursor
                if cursor is None:
                    break
        return records

    async def _get(self, ids: list[str], joining: Iterable[_Stream], hinted: Container[str]) -> None:
        for start in range(0, len(ids), MAX_BATCH):
            part = ids[start : start + MAX_BATCH]
            for id, record in zip(part, await self._store.get(part), strict=True):
                if record is None:
                    self._active.pop(id, None)
                else:
                    await self._send(record, joining, hinted=id in hinted)

    async def _send(self, record: Record, joining: Iterable[_Stream], *, hinted: bool) -> None:
        streams = [stream for stream in self._streams if stream.matches(record)]
        sent = self._active.get(record.id) or self._final.get(record.id)
        if not streams:
            self._active.pop(record.id, None)
            if any(stream.matches(record) for stream in joining):
                # remember the present state, because a joining stream sends only later changes
                sent = sent or _Sent()
                _, cursor = await self._new_lines(record, sent)
                self._remember(record, sent, cursor)
            return
        unknown, sent = sent is None, sent or _Sent()
        instance: Instance[Any] = Instance(self._manager, record)
        lines, cursor = await self._new_lines(record, sent)
        events = [
            Event(what="log", instance=instance, state=record.state, log=LogEntry(record.id, record.kind, line))
            for line in lines
        ]
        if record.progress is not None and record.progress != sent.progress:
            events.append(Event(what="progress", instance=instance, state=record.state))
        new_entries = min(_entries(record) - sent.entries, len(record.history))
        states = [
            Event(
                what="state",
                instance=instance,
                state=transition.state,
                entry=HistoryEntry(record.id, record.kind, transition),
            )
            for transition in record.history[len(record.history) - new_entries :]
        ]
        for stream in streams:
            if unknown and record.state.is_final and record.id <= stream.newest:
                # an instance this old was probably final when the stream began, so at most its last state is new
                stream.send(events + states[-1:] if hinted else ())
            else:
                stream.send(events + states)
        self._remember(record, sent, cursor)

    def _remember(self, record: Record, sent: _Sent, cursor: str | None) -> None:
        sent.entries, sent.progress, sent.log_cursor = _entries(record), record.progress, cursor
        if not record.state.is_final:
            self._active[record.id] = sent
            return
        self._active.pop(record.id, None)
        self._final.pop(record.id, None)
        self._final[record.id] = sent
        if len(self._final) > MAX_FINAL:
            del self._final[next(iter(self._final))]

    async def _new_lines(self, record: Record, sent: _Sent) -> tuple[list[LogLine], str | None]:
        """Return the log lines that were not sent, and the cursor after the last line."""
        lines: list[LogLine] = []
        cursor = sent.log_cursor
        while record.fence:  # a fence of 0 means that the instance was never claimed and has no log lines
            page = await self._store.logs(record.id, cursor=cursor)
            cursor = page.cursor
            if not page.lines:
                break
            lines += page.lines
        return lines, cursor


def _entries(record: Record) -> int:
    return sum(entry.count for entry in record.history)
