"""Handlers about jobs and instances."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

from peerjob.handles.entries import LogEntry
from peerjob.handles.instance import Instance
from peerjob.model.durations import to_seconds
from peerjob.model.errors import OptionError, UnknownInstanceError
from peerjob.model.ids import checked_id
from peerjob.model.query import Query
from peerjob.node.manager.loop_pauses import map_with_pauses, pause_after
from peerjob.node.node import Node
from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.remote.wire.cluster import stats_message
from peerjob.remote.wire.instances import ENCODED, bare_message, history_message, instance_message, log_message
from peerjob.remote.wire.queries import acting_query_of, query_of
from peerjob.remote.wire.requests import MAX_BULK, call_of, ids_of
from peerjob.remote.wire.values import given_span, stamp
from peerjob.version import __version__

from .pages import messages_that_fit, page_of, part_of
from .rpc_service import Context
from .scopes import caller_scope, instance_to_retry, visible

API_VERSION = "v1"
MAX_WAIT = 30.0
"""The most seconds of one wait. A client that waits longer sends a new request, so that waits of lost clients end."""


class InstanceRpcs:
    """Schedules, looks up, waits for, cancels and retries instances."""

    def __init__(self, node: Node) -> None:
        self._node = node

    # -- jobs --------------------------------------------------------------------------------------------------------

    async def get_version(self, request: pb.VersionRequest, context: Context) -> pb.VersionResponse:
        return pb.VersionResponse(version=__version__, api_version=API_VERSION, time=stamp(self._node.clock.time_us()))

    # -- scheduling --------------------------------------------------------------------------------------------------

    async def schedule_job(self, request: pb.ScheduleJobRequest, context: Context) -> pb.ScheduleJobResponse:
        await check_kinds(self._node, [request])
        call = call_of(request, self._node.find_job)
        await pause_after(request.ByteSize())
        ids = ids_of([request])
        instance = await (self._node.schedule_as(ids[0], call) if ids else self._node.schedule(call))
        unserved = not await self._node.is_served(instance.kind)
        await pause_after(len(instance.record.spec))
        return _scheduled(instance, request, _message_in(request.view), unserved=unserved)

    async def schedule_jobs(self, request: pb.ScheduleJobsRequest, context: Context) -> pb.ScheduleJobsResponse:
        if len(request.jobs) > MAX_BULK:
            raise OptionError("jobs", len(request.jobs), f"at most {MAX_BULK:,} in one request")
        await check_kinds(self._node, request.jobs)
        calls = await map_with_pauses(request.jobs, lambda job: call_of(job, self._node.find_job))
        ids = ids_of(request.jobs)
        instances = await self._node.schedule_many(calls, ids=ids)
        unserved = {kind for kind in {instance.kind for instance in instances} if not await self._node.is_served(kind)}
        made = list(zip(instances, request.jobs, strict=True))
        show = _message_in(request.view)
        scheduled = await messages_that_fit(
            made,
            lambda pair: _scheduled(*pair, show, unserved=pair[0].kind in unserved),
            lambda pair: _scheduled(*pair, _bare, unserved=pair[0].kind in unserved),
        )
        return pb.ScheduleJobsResponse(scheduled=scheduled)

    # -- reading -----------------------------------------------------------------------------------------------------

    async def get_instance(self, request: pb.GetInstanceRequest, context: Context) -> pb.GetInstanceResponse:
        instance = await self._node.lookup_instance(request.uuid)
        return pb.GetInstanceResponse(instance=_message_in(request.view)(instance))

    async def lookup_instances(
        self, request: pb.LookupInstancesRequest, context: Context
    ) -> pb.LookupInstancesResponse:
        look_up = visible(self._node).lookup_instances
        instances, end = await page_of(look_up, _message_in(request.query.view), request.query)
        return pb.LookupInstancesResponse(instances=instances, **end)

    async def lookup_history(self, request: pb.LookupHistoryRequest, context: Context) -> pb.LookupHistoryResponse:
        entries, end = await page_of(visible(self._node).lookup_history, history_message, request.query)
        return pb.LookupHistoryResponse(entries=entries, **end)

    async def lookup_logs(self, request: pb.LookupLogsRequest, context: Context) -> pb.LookupLogsResponse:
        encoded = request.query.view == ENCODED

        def show(entry: LogEntry) -> pb.LogLine:
            return log_message(entry, encoded=encoded)

        lines, end = await page_of(visible(self._node).lookup_logs, show, request.query)
        return pb.LookupLogsResponse(lines=lines, **end)

    async def get_stats(self, request: pb.GetStatsRequest, context: Context) -> pb.GetStatsResponse:
        return stats_message(await visible(self._node).stats())

    # -- waiting -----------------------------------------------------------------------------------------------------

    async def wait_instance(self, request: pb.WaitInstanceRequest, context: Context) -> pb.WaitInstanceResponse:
        try:
            record = await self._node.wait_final(request.uuid, wait_seconds(request))
        except TimeoutError:
            return pb.WaitInstanceResponse(final=False)
        return pb.WaitInstanceResponse(final=True, instance=instance_message(record, encoded=request.view == ENCODED))

    async def wait_instances(self, request: pb.WaitInstancesRequest, context: Context) -> pb.WaitInstancesResponse:
        try:
            await self._node.wait(query_of(request.query), wait_seconds(request))
        except TimeoutError:
            return pb.WaitInstancesResponse(quiet=False)
        return pb.WaitInstancesResponse(quiet=True)

    # -- acting ------------------------------------------------------------------------------------------------------

    async def cancel_instances(
        self, request: pb.CancelInstancesRequest, context: Context
    ) -> pb.CancelInstancesResponse:
        pages = self._node.cancel_pages(acting_query_of(request.query))
        cancelled, cursor = await part_of(pages, whole=not request.in_parts, left=context.time_remaining())
        return pb.CancelInstancesResponse(
            instances=await messages_that_fit(cancelled, _message_in(request.query.view), _bare), cursor=cursor
        )

    async def retry_instances(self, request: pb.RetryInstancesRequest, context: Context) -> pb.RetryInstancesResponse:
        query = acting_query_of(request.query)
        await self._check_retry(query)
        scope, id = caller_scope(), request.request_uuid if request.HasField("request_uuid") else None
        pages = self._node.retry_pages(query, id=id, check=lambda old: scope.check_repeats(self._node, old))
        made, cursor = await part_of(pages, whole=not request.in_parts, left=context.time_remaining())
        return pb.RetryInstancesResponse(
            instances=await messages_that_fit(made, _message_in(request.query.view), _bare), cursor=cursor
        )

    async def retry_instance(self, request: pb.RetryInstanceRequest, context: Context) -> pb.RetryInstanceResponse:
        if (scope := caller_scope()).is_limited:
            await scope.check_repeats(self._node, [await instance_to_retry(self._node, request)])
        made = await self._node.retry_instance(
            request.uuid, id=request.new_uuid if request.HasField("new_uuid") else None
        )
        return pb.RetryInstanceResponse(instance=_message_in(request.view)(made))

    async def _check_retry(self, query: Query) -> None:
        """Raise AuthError if a query matches instances that the caller is not allowed to retry."""
        scope = caller_scope()
        if not scope.is_limited:
            return
        if query.kind is not None:
            await scope.check_runs(self._node, [query.kind])
        elif query.id is not None:
            with contextlib.suppress(UnknownInstanceError):
                await scope.check_repeats(self._node, [await self._node.lookup_instance(query.id)])
        else:
            await scope.check_system(self._node, query)


async def check_kinds(node: Node, requests: Iterable[pb.ScheduleJobRequest]) -> None:
    """Raise UnknownKindError for a kind that no node has published, unless the request allows it.

    Raises AuthError for a kind that the caller may not use.
    """
    requests = list(requests)
    await caller_scope().check_runs(node, {request.kind for request in requests})
    await node.check_known(request.kind for request in requests if not request.allow_unknown)


def wait_seconds(request: pb.WaitInstanceRequest | pb.WaitInstancesRequest | pb.DrainRequest) -> float:
    """The timeout of a wait, in seconds; raises OptionError."""
    if not request.HasField("timeout"):
        return MAX_WAIT
    return min(MAX_WAIT, to_seconds(given_span("timeout", request.timeout), "timeout"))


def _message_in(view: int) -> Callable[[Instance[Any]], pb.JobInstance]:
    return lambda instance: instance_message(instance.record, encoded=view == ENCODED)


def _bare(instance: Instance[Any]) -> pb.JobInstance:
    return bare_message(instance.record)


def _scheduled(
    instance: Instance[Any],
    request: pb.ScheduleJobRequest,
    message: Callable[[Instance[Any]], pb.JobInstance],
    *,
    unserved: bool,
) -> pb.ScheduleJobResponse:
    repeated = not instance.is_new and request.HasField("uuid") and instance.id == checked_id(request.uuid)
    return pb.ScheduleJobResponse(
        instance=message(instance),
        existed=not (instance.is_new or repeated),
        repeated=repeated,
        unserved=unserved,
    )
