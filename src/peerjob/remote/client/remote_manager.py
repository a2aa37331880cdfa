"""The verbs of the manager, as calls to a node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from google.protobuf.message import Message

from peerjob.handles.entries import HistoryEntry, LogEntry
from peerjob.handles.instance import Event, Instance
from peerjob.handles.manager import Manager
from peerjob.handles.registered_job import RegisteredJob
from peerjob.handles.schedule import Backfill, FireEntry, Schedule, ScheduleView, name_of
from peerjob.handles.stats import Stats
from peerjob.model.activity import Activity, given_minutes
from peerjob.model.arguments import typed, whole_number
from peerjob.model.audit import AuditRecord, given_audit_limit
from peerjob.model.child_tasks import AsyncClosing
from peerjob.model.clock import aware_us
from peerjob.model.durable import SignalAnswer, StepPage
from peerjob.model.durations import Duration, to_seconds
from peerjob.model.errors import UnknownInstanceError
from peerjob.model.firing import Leader
from peerjob.model.ids import checked_id
from peerjob.model.job import Job
from peerjob.model.limit import limit_numbers
from peerjob.model.limits import MAX_KIND, MAX_LIMIT_NAME, MAX_NOTE, checked_text
from peerjob.model.query import Filter, Query, ResultPage
from peerjob.model.record import LogLine, NodeView, Record
from peerjob.model.signal import Signal
from peerjob.model.stored_limit import InstanceLimits, KeyLimitPage, LimitPage
from peerjob.node.body.signal_values import encode_signal
from peerjob.node.manager.schedules import MAX_PREVIEW
from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.remote.wire import rpcs
from peerjob.remote.wire.cluster import stats_of
from peerjob.remote.wire.flows import step_of
from peerjob.remote.wire.instances import ENCODED, history_of, line_of, log_of, record_of
from peerjob.remote.wire.queries import query_message
from peerjob.remote.wire.rpcs import Rpc, VerbRpc
from peerjob.remote.wire.schedules import fire_of, row_of
from peerjob.remote.wire.updates import update_of
from peerjob.remote.wire.values import span, stamp

from .connection import Connection, StreamBrokenError
from .new_ids import NewIds

A = TypeVar("A", bound=Message)
C = TypeVar("C")
Q = TypeVar("Q", bound=Message)
R = TypeVar("R")
T = TypeVar("T")

WAIT = 20.0
"""Seconds of one wait on a node. The client repeats such a wait until the caller's timeout."""
ANSWER = 10.0
"""Seconds that the client adds to the timeout of a wait, so that the answer can arrive."""


class RemoteManager(Manager):
    """The verbs of the manager through a connection. Handles of the client use them too."""

    _connection: Connection
    _ids: NewIds
    """The ids for what calls make, so that they can be sent again."""

    async def _run(self, rpc: VerbRpc[C, Any, Any, R], criteria: C) -> R:
        """Run the verb of an RPC on a node."""
        return rpc.result.read(await self._connection.call(rpc, rpc.request(**rpc.criteria.write(criteria))))

    # -- reading -----------------------------------------------------------------------------------------------------

    async def _lookup_instance(self, uuid: str | UUID, job: Job[..., Any, Any] | None) -> Instance[Any]:
        request = pb.GetInstanceRequest(uuid=checked_id(uuid), view=ENCODED)
        answer = await self._connection.call(rpcs.GET_INSTANCE, request)
        record = record_of(answer.instance)
        if job is not None and record.kind not in (job.kind, *job.aliases):
            raise UnknownInstanceError(f"{record.id} of kind {job.kind!r} (it is of kind {record.kind!r})")
        return Instance(self, record, job=job)

    async def lookup_instances(self, query: Query | None = None) -> ResultPage[Instance[Any]]:
        query = query or Query()
        instances: list[Instance[Any]] = []
        cursor = query.cursor
        while True:
            # a node limits the size of a response, so a long list takes several requests
            wanted = replace(query, cursor=cursor, limit=query.limit - len(instances))
            request = pb.LookupInstancesRequest(query=query_message(wanted))
            answer = await self._connection.call(rpcs.LOOKUP_INSTANCES, request)
            instances += [Instance(self, record_of(instance)) for instance in answer.instances]
            cursor = _cursor(answer)
            if cursor is None or len(instances) >= query.limit:
                return ResultPage(instances, cursor)

    async def lookup_history(self, query: Query | None = None) -> ResultPage[HistoryEntry]:
        request = pb.LookupHistoryRequest(query=query_message(query))
        answer = await self._connection.call(rpcs.LOOKUP_HISTORY, request)
        return ResultPage(map(history_of, answer.entries), _cursor(answer))

    async def lookup_logs(self, query: Query | None = None) -> ResultPage[LogEntry]:
        request = pb.LookupLogsRequest(query=query_message(query))
        answer = await self._connection.call(rpcs.LOOKUP_LOGS, request)
        return ResultPage(map(log_of, answer.lines), _cursor(answer))

    async def iter_logs(self, uuid: str | UUID, *, follow: bool = False) -> AsyncIterator[LogLine]:
        request = pb.ReadLogsRequest(uuid=checked_id(uuid), view=ENCODED, follow=follow)
        async with AsyncClosing(self._continued(rpcs.READ_LOGS, request)) as answers:
            async for answer in answers:
                request.cursor = answer.cursor
                for message in answer.lines:
                    yield line_of(message)

    async def _step_page(self, id: str, cursor: str | None = None) -> StepPage:
        answer = await self._connection.call(rpcs.GET_STEPS, pb.GetStepsRequest(uuid=id, cursor=cursor))
        return StepPage(tuple(map(step_of, answer.steps)), _cursor(answer))

    async def count(self, query: Query | None = None) -> int:
        return await self._run(rpcs.COUNT_INSTANCES, query)

    async def stats(self) -> Stats:
        return stats_of(await self._connection.call(rpcs.GET_STATS, pb.GetStatsRequest()))

    async def activity(self, minutes: int = 60) -> Activity:
        return await self._run(rpcs.GET_ACTIVITY, given_minutes(minutes))

    # -- cluster -----------------------------------------------------------------------------------------------------

    async def registered_jobs(self, kind: str | None = None, *, schemas: bool = False) -> list[RegisteredJob]:
        listed = await self._run(rpcs.LIST_REGISTERED_JOBS, (kind, schemas))
        # a node of an older release returns all jobs
        return [job for job in listed if kind in (None, job.kind)]

    async def nodes(self) -> list[NodeView]:
        return await self._run(rpcs.LIST_NODES, None)

    async def leader(self) -> Leader | None:
        return await self._run(rpcs.GET_LEADER, None)

    async def audit(self, limit: int = 100) -> list[AuditRecord]:
        given_audit_limit(limit)
        return await self._run(rpcs.LIST_AUDIT, limit)

    # -- limits ------------------------------------------------------------------------------------------------------

    async def set_limit(
        self,
        name: str,
        *,
        concurrency: int | None = None,
        rate: str | None = None,
        burst: int | None = None,
        note: str = "",
    ) -> None:
        checked_text("name", name, MAX_LIMIT_NAME)
        limit_numbers(concurrency, rate, burst)
        setting = {"name": name, "concurrency": concurrency, "rate": rate, "burst": burst, "note": _explanation(note)}
        await self._run(rpcs.SET_LIMIT, setting)

    async def set_key_limit(self, kind: str, *, concurrency: int | None = None, note: str = "") -> None:
        limit_numbers(concurrency, None, None)
        setting = {"kind": checked_text("kind", kind, MAX_KIND), "concurrency": concurrency, "note": _explanation(note)}
        await self._run(rpcs.SET_KEY_LIMIT, setting)

    async def pause_kind(self, kind: str, note: str = "") -> None:
        await self._run(rpcs.PAUSE_KIND, {"kind": checked_text("kind", kind, MAX_KIND), "note": _explanation(note)})

    async def resume_kind(self, kind: str) -> None:
        await self._run(rpcs.RESUME_KIND, {"kind": checked_text("kind", kind, MAX_KIND)})

    async def _limit_page(self, cursor: str | None = None) -> LimitPage:
        return await self._run(rpcs.LIST_LIMITS, cursor)

    async def _key_limit_page(
        self, kind: str, prefix: str, waiting_only: bool, cursor: str | None = None
    ) -> KeyLimitPage:
        checked_text("kind", kind, MAX_KIND)
        checked_text("prefix", prefix, MAX_LIMIT_NAME, least=0)
        return await self._run(rpcs.LIST_KEY_LIMITS, (kind, prefix, waiting_only, cursor))

    async def _limits_of(self, uuid: str | UUID) -> InstanceLimits:
        return await self._run(rpcs.EXPLAIN_LIMITS, checked_id(uuid))

    # -- schedules ---------------------------------------------------------------------------------------------------

    async def schedules(self) -> list[Schedule]:
        schedules: list[Schedule] = []
        cursor: str | None = None
        while True:
            request = pb.ListSchedulesRequest(cursor=cursor)
            answer = await self._connection.call(rpcs.LIST_SCHEDULES, request)
            schedules += [Schedule(self, row_of(schedule)) for schedule in answer.schedules]
            cursor = _cursor(answer)
            if cursor is None:
                return schedules

    async def lookup_schedule(self, name: str) -> Schedule:
        return Schedule(self, await self._run(rpcs.GET_SCHEDULE, name_of(name)))

    async def pause_schedule(self, schedule: ScheduleView | str, note: str = "") -> Schedule:
        return Schedule(self, await self._run(rpcs.PAUSE_SCHEDULE, (name_of(schedule), note)))

    async def resume_schedule(self, schedule: ScheduleView | str) -> Schedule:
        return Schedule(self, await self._run(rpcs.RESUME_SCHEDULE, name_of(schedule)))

    async def trigger_schedule(
        self, schedule: ScheduleView | str, *, id: str | UUID | None = None
    ) -> Instance[Any] | None:
        request = pb.TriggerScheduleRequest(name=name_of(schedule), view=ENCODED, new_uuid=_given(id))
        answer = await self._ids.call(rpcs.TRIGGER_SCHEDULE, request, "new_uuid")
        return Instance(self, record_of(answer.instance)) if answer.HasField("instance") else None

    async def remove_schedule(self, schedule: ScheduleView | str) -> bool:
        return await self._run(rpcs.REMOVE_SCHEDULE, name_of(schedule))

    async def backfill(self, schedule: ScheduleView | str, start: datetime, end: datetime) -> Backfill:
        return await self._run(rpcs.BACKFILL, (name_of(schedule), start, end))

    async def fires(
        self,
        schedule: ScheduleView | str,
        *,
        after: datetime | None = None,
        before: datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> ResultPage[FireEntry]:
        name = name_of(schedule)
        request = pb.ListFiresRequest(
            name=name,
            after=None if after is None else stamp(aware_us("after", after)),
            before=None if before is None else stamp(aware_us("before", before)),
            limit=Query(limit=limit).limit,
            cursor=cursor,
        )
        answer = await self._connection.call(rpcs.LIST_FIRES, request)
        return ResultPage([fire_of(name, fire) for fire in answer.fires], _cursor(answer))

    async def next_fires(self, schedule: ScheduleView | str, n: int = 5) -> list[datetime]:
        return await self._run(rpcs.NEXT_FIRES, (name_of(schedule), whole_number("n", n, 1, MAX_PREVIEW)))

    # -- acting ------------------------------------------------------------------------------------------------------

    async def cancel_instances(self, query: Query) -> list[Instance[Any]]:
        return [instance async for part in self.cancel_pages(query) for instance in part]

    @typed
    async def cancel_pages(self, query: Query) -> AsyncGenerator[list[Instance[Any]]]:
        """Like `cancel_instances`, part by part: only one part is in memory at a time."""
        request = pb.CancelInstancesRequest(query=query_message(query), in_parts=True)
        async for part in self._in_parts(request, lambda: self._connection.call(rpcs.CANCEL_INSTANCES, request)):
            yield part

    async def cancel_instance(self, uuid: str | UUID) -> bool:
        return await self._run(rpcs.CANCEL_INSTANCE, checked_id(uuid))

    async def run_now(self, uuid: str | UUID, *, id: str | UUID | None = None) -> bool:
        request = pb.RunNowRequest(uuid=checked_id(uuid), request_uuid=_given(id))
        moved: bool = (await self._ids.call(rpcs.RUN_NOW, request, "request_uuid")).moved
        return moved

    async def _signal(self, id: str, signal: Signal[Any], value: Any) -> SignalAnswer:
        request = pb.SignalRequest(uuid=id, name=signal.name, encoded_value=encode_signal(signal, value))
        accepted = (await self._connection.call(rpcs.SIGNAL, request)).accepted
        return SignalAnswer.ACCEPTED if accepted else SignalAnswer.OTHER

    async def retry_instances(self, query: Query, *, id: str | UUID | None = None) -> list[Instance[Any]]:
        return [instance async for part in self.retry_pages(query, id=id) for instance in part]

    @typed
    async def retry_pages(self, query: Query, *, id: str | UUID | None = None) -> AsyncGenerator[list[Instance[Any]]]:
        """Like `retry_instances`, part by part: only one part is in memory at a time."""
        request = pb.RetryInstancesRequest(query=query_message(query), request_uuid=_given(id), in_parts=True)
        # the second part has the id of the first
        send = partial(self._ids.call, rpcs.RETRY_INSTANCES, request, "request_uuid")
        async for part in self._in_parts(request, send):
            yield part

    async def retry_instance(self, uuid: str | UUID, *, id: str | UUID | None = None) -> Instance[Any]:
        request = pb.RetryInstanceRequest(uuid=checked_id(uuid), view=ENCODED, new_uuid=_given(id))
        answer = await self._ids.call(rpcs.RETRY_INSTANCE, request, "new_uuid")
        return Instance(self, record_of(answer.instance))

    async def clear_instances(self, filter: Filter | None = None) -> int:
        return await self._run(rpcs.CLEAR_INSTANCES, filter)

    async def clear_history(self, filter: Filter | None = None) -> int:
        return await self._run(rpcs.CLEAR_HISTORY, filter)

    async def clear_logs(self, filter: Filter | None = None) -> int:
        return await self._run(rpcs.CLEAR_LOGS, filter)

    async def clear(self) -> None:
        await self._run(rpcs.CLEAR, None)

    async def _in_parts(
        self,
        request: pb.CancelInstancesRequest | pb.RetryInstancesRequest,
        send: Callable[[], Coroutine[Any, Any, pb.CancelInstancesResponse | pb.RetryInstancesResponse]],
    ) -> AsyncGenerator[list[Instance[Any]]]:
        """Act on many instances, with as many calls as it takes; each call has the whole timeout."""
        while True:
            answer = await send()
            cursor = _cursor(answer)
            yield [await self._whole_instance(instance) for instance in answer.instances]
            if cursor is None:
                return
            request.query.cursor = cursor

    async def _whole_instance(self, message: pb.JobInstance, job: Job[..., Any, Any] | None = None) -> Instance[Any]:
        """The complete instance: at the end of a long list, a node sends only the ids of instances."""
        if message.HasField("spec"):
            return Instance(self, record_of(message), job=job)
        return await self._lookup_instance(message.uuid, job)

    # -- waiting -----------------------------------------------------------------------------------------------------

    async def wait_final(self, uuid: str | UUID, timeout: Duration | None = None) -> Record:
        id, seconds = checked_id(uuid), None if timeout is None else to_seconds(timeout)

        async def wait(left: float) -> Record | None:
            request = pb.WaitInstanceRequest(uuid=id, timeout=span(round(left * 1_000_000)), view=ENCODED)
            answer = await self._connection.call(rpcs.WAIT_INSTANCE, request, timeout=left + ANSWER)
            return record_of(answer.instance) if answer.final else None

        record = await long_poll(wait, seconds)
        if record is None:
            raise TimeoutError(f"instance {id} is not final after {seconds:g} s")
        return record

    async def wait(self, query: Query | None = None, timeout: Duration | None = None) -> None:
        seconds = None if timeout is None else to_seconds(timeout)

        async def wait(left: float) -> bool | None:
            request = pb.WaitInstancesRequest(query=query_message(query), timeout=span(round(left * 1_000_000)))
            answer = await self._connection.call(rpcs.WAIT_INSTANCES, request, timeout=left + ANSWER)
            return answer.quiet or None

        if await long_poll(wait, seconds) is None:
            raise TimeoutError(f"matching instances are not final after {seconds:g} s")

    async def watch(
        self, query: Query | None = None, *, on_begin: Callable[[], Awaitable[object]] | None = None
    ) -> AsyncIterator[Event]:
        """State changes, log lines and progress of matching instances, from now on.

        If the node goes away, the watch continues on another, and calls `on_begin` again. Events in between are
        missing; look them up then.
        """
        request = pb.WatchRequest(query=query_message(query))
        while True:
            try:
                async with AsyncClosing(self._connection.stream(rpcs.WATCH, request, on_begin)) as answers:
                    async for answer in answers:
                        yield self._event_of(answer)
            except StreamBrokenError:
                continue

    async def watch_instance(self, uuid: str | UUID) -> AsyncIterator[Event]:
        """Like `Instance.watch`. If the node goes away, the watch continues on another, without a gap."""
        request = pb.WatchInstanceRequest(uuid=checked_id(uuid), view=ENCODED)
        async with AsyncClosing(self._continued(rpcs.WATCH_INSTANCE, request)) as answers:
            async for answer in answers:
                request.after.CopyFrom(answer.position)
                for event in update_of(answer).events(self):
                    yield event

    async def _continued(self, rpc: Rpc[Q, A], request: Q) -> AsyncGenerator[A]:
        """A stream to its end, on another node if one goes away.

        The caller writes into the request, at each answer, where the next node begins.
        """
        while True:
            try:
                async with AsyncClosing(self._connection.stream(rpc, request)) as answers:
                    async for answer in answers:
                        yield answer
                return
            except StreamBrokenError:
                continue

    def _event_of(self, message: pb.WatchResponse) -> Event:
        record = record_of(message.instance)
        instance = Instance[Any](self, record)
        match message.WhichOneof("what"):
            case "entry":
                entry = history_of(message.entry)
                return Event(what="state", instance=instance, state=entry.state, entry=entry)
            case "line":
                return Event(what="log", instance=instance, state=record.state, log=log_of(message.line))
            case _:
                return Event(what="progress", instance=instance, state=record.state)


async def long_poll(wait: Callable[[float], Awaitable[T | None]], seconds: float | None) -> T | None:
    """Repeat a wait on a node until it returns a value, or until the time is over."""
    loop = asyncio.get_running_loop()
    until = None if seconds is None else loop.time() + seconds
    while True:
        left = WAIT if until is None else max(0.0, min(WAIT, until - loop.time()))
        try:
            answer = await wait(left)
        except TimeoutError:
            answer = None  # the node hangs, so the client sends the next wait to another node
        if answer is not None or (until is not None and loop.time() >= until):
            return answer


def _explanation(note: str) -> str:
    return checked_text("note", note, MAX_NOTE, least=0)


def _given(id: str | UUID | None) -> str | None:
    return None if id is None else checked_id(id, "id")


def _cursor(message: Any) -> str | None:
    return message.cursor if message.HasField("cursor") else None
