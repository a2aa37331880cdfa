"""The verbs for instances: look up, count, wait, watch, cancel, run now and clear; and the view of the cluster."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast
from uuid import UUID

from msgspec import structs

from peerjob.handles.entries import HistoryEntry, LogEntry
from peerjob.handles.instance import Event, Instance
from peerjob.handles.stats import Stats
from peerjob.handles.update import Position, Update
from peerjob.model.activity import Activity, given_minutes
from peerjob.model.audit import AuditRecord, given_audit_limit
from peerjob.model.child_tasks import AsyncClosing
from peerjob.model.clock import Clock, to_datetime
from peerjob.model.durable import FLOW_KIND, SIGNAL_MARK, SignalAnswer
from peerjob.model.durations import Duration, to_seconds
from peerjob.model.errors import NodeStateError, StoreUnavailableError, UnknownInstanceError
from peerjob.model.firing import Leader
from peerjob.model.ids import checked_id, checked_new_id
from peerjob.model.job import Job
from peerjob.model.pages import pages
from peerjob.model.published import DIGEST_BYTES
from peerjob.model.query import Filter, Query, ResultPage
from peerjob.model.record import LogLine, LogPage, NodeInfo, NodeView, Record
from peerjob.model.run_now import RunNow
from peerjob.model.signal import Signal, is_name_again
from peerjob.model.state import State
from peerjob.model.step_values import waits_for
from peerjob.node.body.signal_values import encode_signal
from peerjob.store.rules import FLOWS_LAYOUT

from .audit_trail import AuditTrail
from .jobs import BULK_PAGE, NodeJobManager

PAGE = 500
FOLLOW_INTERVAL = 0.5
"""Seconds between two reads of a log with `follow=True`."""


class NodeInstanceManager(NodeJobManager):
    """The verbs of a node for instances and for the cluster."""

    audit_trail: AuditTrail

    # -- reading -----------------------------------------------------------------------------------------------------

    async def _lookup_instance(self, uuid: str | UUID, job: Job[..., Any, Any] | None) -> Instance[Any]:
        return self._looked_up(await self._need_runtime().records.record(uuid), job)

    def lookup_directly(self, uuid: object, job: object = None) -> Instance[Any] | None:
        direct = self._need_runtime().direct_calls
        if direct is None or not isinstance(uuid, str | UUID) or not isinstance(job, Job | None):
            return None  # `lookup_instance` names what is of a wrong type
        id, began = checked_id(uuid), self.clock.elapsed()
        try:
            (record,) = direct.get([id])
        except StoreUnavailableError:
            if self.clock.elapsed() - began > direct.retry_for:
                raise
            return None
        if record is None:
            raise UnknownInstanceError(id)
        return self._looked_up(record, cast("Job[..., Any, Any] | None", job))

    def _looked_up(self, record: Record, job: Job[..., Any, Any] | None) -> Instance[Any]:
        if job is not None and record.kind not in (job.kind, *job.aliases):
            raise UnknownInstanceError(f"{record.id} of kind {job.kind!r} (it is of kind {record.kind!r})")
        return Instance(self, record, job=job)

    async def lookup_instances(self, query: Query | None = None) -> ResultPage[Instance[Any]]:
        """Look up a page that is full unless it is the last: short pages of the store are joined."""
        store, query = self._open_store(), query or Query()
        instances: list[Instance[Any]] = []
        cursor = query.cursor
        while True:
            page = await store.lookup(replace(query, cursor=cursor, limit=max(1, query.limit - len(instances))))
            instances += [Instance(self, record) for record in page.records]
            cursor = page.cursor
            if cursor is None or len(instances) >= query.limit:
                return ResultPage(instances, cursor)

    async def lookup_history(self, query: Query | None = None) -> ResultPage[HistoryEntry]:
        query = query or Query()
        page = await self.lookup_instances(replace(query, state=None))
        entries = [
            HistoryEntry(instance.id, instance.kind, entry)
            for instance in page
            for entry in instance.record.history
            if entry.state & query.states
        ]
        return ResultPage(entries, page.cursor)

    async def lookup_logs(self, query: Query | None = None) -> ResultPage[LogEntry]:
        query = query or Query()
        page = await self.lookup_instances(query)
        lines: list[LogEntry] = []
        for instance in page:
            lines += [
                LogEntry(instance.id, instance.kind, line)
                async for line in self.iter_logs(instance.id)
                if query.level is None or int(query.level) & line.level
            ]
        return ResultPage(lines, page.cursor)

    async def iter_logs(self, uuid: str | UUID, *, follow: bool = False) -> AsyncIterator[LogLine]:
        async for page in self.log_pages(uuid, follow=follow):
            for line in page.lines:
                yield line

    async def log_pages(
        self, uuid: str | UUID, *, cursor: str | None = None, follow: bool = False
    ) -> AsyncIterator[LogPage]:
        """Like `iter_logs`, in pages that are not empty, after the cursor of another page."""
        store, id = self._open_store(), checked_id(uuid)
        ended = not follow
        while True:
            while (page := await store.logs(id, cursor=cursor)).lines:
                # the body and the processors of an instance write separately, so the store can have lines out of order
                yield structs.replace(page, lines=tuple(sorted(page.lines, key=lambda line: line.at_us)))
                cursor = page.cursor
            if ended:
                return
            with contextlib.suppress(TimeoutError):
                await self.wait_final(id, FOLLOW_INTERVAL)
                # the store gets every line before the final state of the instance, so one more read gets all lines
                ended = True

    def keep_line(self, id: str, level: int, message: str, fields: Mapping[str, object] | None = None) -> None:
        if self._runtime is not None:
            self._runtime.log_lines.keep(id, level, message, fields=fields)

    async def count(self, query: Query | None = None) -> int:
        store, query = self._open_store(), query or Query()
        if (query.id, query.tag, query.parent, query.before, query.after) == (None,) * 5:
            return Stats(counts=(await store.health()).counts).total(query.states, query.kind)
        whole = replace(query, limit=PAGE)
        return sum([len(page.records) async for page in pages(lambda cursor: store.lookup(whole.at(cursor)))])

    async def due(self, kinds: Sequence[str] = ()) -> dict[str, int]:
        """How many instances of these kinds could be claimed now; without kinds, of each kind.

        Counts the queue of each kind, which on etcd takes longer for a longer queue. Call it now and then.
        """
        return await self._open_store().due(kinds)

    async def stats(self) -> Stats:
        store = self._open_store()
        health, nodes = await store.health(), await store.nodes()
        served = {kind for node in nodes for kind in node.info.open_kinds}
        waiting = {kind: states.get(State.SCHEDULED, 0) for kind, states in health.counts.items()}
        return Stats(
            unserved={kind: count for kind, count in waiting.items() if count and kind not in served},
            counts=health.counts,
            delayed=health.delayed,
            nodes=health.nodes,
            undecodable=health.undecodable,
            settling=health.settling,
        )

    async def activity(self, minutes: int = 60) -> Activity:
        return await self._need_runtime().activity.read(given_minutes(minutes))

    # -- waiting -----------------------------------------------------------------------------------------------------

    async def wait(self, query: Query | None = None, timeout: Duration | None = None) -> None:
        """Wait for the oldest matching instances to end, page by page, until a lookup finds none."""
        runtime = self._need_runtime()
        seconds = None if timeout is None else to_seconds(timeout)
        query = query or Query()
        active = replace(
            query, state=query.states & State.ACTIVE or State.ACTIVE, level=None, limit=100, cursor=None, order="asc"
        )
        async with self._passing(seconds):
            try:
                async with asyncio.timeout(seconds):
                    while page := await self.lookup_instances(active):
                        await asyncio.gather(*(runtime.waiters.final_or_removed(instance.id) for instance in page))
            except TimeoutError:
                left = await self.count(active)
                raise TimeoutError(f"{left} matching instance(s) are not final after {seconds:g} s") from None

    def watch(
        self, query: Query | None = None, *, on_begin: Callable[[], Awaitable[object]] | None = None
    ) -> AsyncIterator[Event]:
        return self._need_runtime().watchers.events(query or Query(), on_begin)

    async def watch_instance(self, uuid: str | UUID) -> AsyncIterator[Event]:
        async with AsyncClosing(self.updates(uuid)) as updates:
            async for update in updates:
                for event in update.events(self):
                    yield event

    def updates(self, uuid: str | UUID, after: Position | None = None) -> AsyncGenerator[Update]:
        """Like `watch_instance`, in the form that a stream can continue after it broke off."""
        return self._need_runtime().watchers.followers.updates(checked_id(uuid), after)

    # -- acting ------------------------------------------------------------------------------------------------------

    async def cancel_instances(self, query: Query) -> list[Instance[Any]]:
        cancelled: list[Instance[Any]] = []
        async for page in self.cancel_pages(query):
            cancelled += page
        return cancelled

    async def cancel_pages(self, query: Query) -> AsyncGenerator[ResultPage[Instance[Any]]]:
        """Like `cancel_instances`, page by page: a page has the cancelled instances, and the cursor of the next page.

        Pages are in the order of ids; an instance with an older id that is added later stays.
        """
        runtime = self._need_runtime()
        active, cursor = query.states & State.ACTIVE, query.cursor
        while active:
            page = await self._store.lookup(replace(query, state=active, cursor=cursor, limit=BULK_PAGE))
            ids = [record.id for record in page.records]
            cancelled: list[Instance[Any]] = []
            if ids:
                before = await self._store.cancel(ids, node=self.name, request=runtime.ids.one())
                done = [id for id, state in zip(ids, before, strict=True) if state is not None and not state.is_final]
                records = await self._store.get(done)
                cancelled = [Instance(self, record) for record in records if record is not None]
            for instance in cancelled:
                runtime.changes.cancelled(instance)
            cursor = page.cursor
            yield ResultPage(cancelled, cursor)
            if cursor is None:
                return

    async def cancel_instance(self, uuid: str | UUID) -> bool:
        runtime, id = self._need_runtime(), checked_id(uuid)
        (before,) = await self._store.cancel([id], node=self.name, request=runtime.ids.one())
        if before is None:
            raise UnknownInstanceError(id)
        if not before.is_final:
            runtime.changes.cancelled(await self.lookup_instance(id))
        return not before.is_final

    async def run_now(self, uuid: str | UUID, *, id: str | UUID | None = None) -> bool:
        runtime, of = self._need_runtime(), checked_id(uuid)
        request = runtime.ids.one() if id is None else checked_new_id(id, self.clock.time_us(), "id")
        (answer,) = await self._store.run_now([of], request=request)
        if answer is None:
            raise UnknownInstanceError(of)
        if answer is RunNow.PARKED:
            scheduled = State.SCHEDULED
            raise NodeStateError(f"instance {of} is {scheduled!s}, and waits for an earlier instance of its schedule")
        if answer is RunNow.SUSPENDED:
            waits = waits_for(await runtime.records.record(of)) or "a signal, a time or its children"
            raise NodeStateError(f"instance {of} is suspended, and waits for {waits}")
        if isinstance(answer, State):
            raise NodeStateError(f"instance {of} is {answer!s}; only one that waits can run now")
        return answer is RunNow.DUE_NOW

    async def _signal(self, id: str, signal: Signal[Any], value: Any) -> SignalAnswer:
        store, data = self._open_store(), encode_signal(signal, value)
        await store.require_layout(FLOWS_LAYOUT, "signals")
        answer = await store.signal(id, signal.name, data)
        if answer is SignalAnswer.OTHER:
            # the value of another type that a body has refused does not stand in the way of the next one
            wait = None if (record := (await store.get([id]))[0]) is None else record.wait
            for name in () if wait is None else wait.signals:
                if is_name_again(SIGNAL_MARK + name, signal.stored_name):
                    return await store.signal(id, name, data)
        return answer

    async def clear_instances(self, filter: Filter | None = None) -> int:
        store, filter = self._open_store(), _at_one_moment(filter, self.clock)
        total = 0
        while removed := await store.clear_instances(filter, limit=PAGE):
            total += removed
        return total

    async def clear_history(self, filter: Filter | None = None) -> int:
        return await _clear_pages(self._open_store().clear_history, _at_one_moment(filter, self.clock))

    async def clear_logs(self, filter: Filter | None = None) -> int:
        return await _clear_pages(self._open_store().clear_logs, _at_one_moment(filter, self.clock))

    async def clear(self) -> None:
        await self._need_runtime().clear()

    # -- cluster -----------------------------------------------------------------------------------------------------

    async def nodes(self) -> list[NodeView]:
        views, now_us = await self._open_store().nodes(), self._store_time_us()
        return [
            structs.replace(view, info=_shown(view.info), age_us=max(0, now_us - view.renewed_us)) for view in views
        ]

    async def leader(self) -> Leader | None:
        return self._need_runtime().election.leader

    async def audit(self, limit: int = 100) -> list[AuditRecord]:
        given_audit_limit(limit)
        # a lost answer of the store can repeat records
        return list({record.id: record for record in await self._open_store().audit(limit)}.values())

    def keep_audit(
        self,
        verb: str,
        *,
        principal: str,
        address: str = "",
        criteria: str = "",
        count: int | None = None,
        result: str = "ok",
    ) -> None:
        self.audit_trail.add(verb, principal, address, criteria, count, result)

    async def add_audit(self, records: Sequence[AuditRecord]) -> None:
        """Append records to the audit log. Only the audit trail of this node calls it."""
        await self._open_store().add_audit(records)


async def _clear_pages(clear: Callable[..., Awaitable[tuple[int, str | None]]], filter: Filter) -> int:
    total, cursor = 0, None
    while True:
        done, cursor = await clear(filter, cursor=cursor)
        total += done
        if cursor is None:
            return total


def _at_one_moment(filter: Filter | None, clock: Clock) -> Filter:
    """Replace the age in a filter by a time, so that each page of a clear compares with the same moment."""
    if filter is None:
        return Filter()
    if filter.older_than is None:
        return filter
    _, before = filter.bounds_us(clock.time_us())
    return Filter(after=filter.after, before=None if before is None else to_datetime(before))


def _shown(info: NodeInfo) -> NodeInfo:
    """A node without the kind that each node runs without being told, which is the last one."""
    if info.kinds[-1:] != (FLOW_KIND,):
        return info
    return structs.replace(info, kinds=info.kinds[:-1], descriptors=info.descriptors[:-DIGEST_BYTES])
