"""Handlers about schedules."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

from peerjob.model.clock import to_us
from peerjob.model.explain import checked_count, explain_text
from peerjob.node.manager.loop_pauses import map_with_pauses, pause_after
from peerjob.node.node import Node
from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.remote.wire.instances import ENCODED, instance_message
from peerjob.remote.wire.requests import call_of
from peerjob.remote.wire.schedules import fire_message, schedule_message
from peerjob.remote.wire.values import given_moment, stamp

from .access import check_schedule
from .instances import check_kinds
from .pages import MAX_BYTES
from .rpc_service import Context
from .scopes import visible


class ScheduleRpcs:
    """Lists, changes and triggers schedules, and explains cron texts."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def put_schedule(self, request: pb.PutScheduleRequest, context: Context) -> pb.PutScheduleResponse:
        await check_kinds(self._node, [request.job])
        call = call_of(request.job, self._node.find_job)
        await pause_after(request.job.ByteSize())
        await check_schedule(self._node, call.job.schedule_name)
        schedule = await self._node.add_schedule(call)
        unserved = not await self._node.is_served(schedule.kind)
        return pb.PutScheduleResponse(schedule=schedule_message(schedule), unserved=unserved)

    async def list_schedules(self, request: pb.ListSchedulesRequest, context: Context) -> pb.ListSchedulesResponse:
        response, size = pb.ListSchedulesResponse(), 0
        for schedule in await visible(self._node).schedules():
            if request.HasField("cursor") and schedule.name <= request.cursor:
                continue
            message = schedule_message(schedule)
            size += message.ByteSize() + 8
            if size > MAX_BYTES and response.schedules:
                response.cursor = response.schedules[-1].name
                break
            response.schedules.append(message)
        return response

    async def trigger_schedule(
        self, request: pb.TriggerScheduleRequest, context: Context
    ) -> pb.TriggerScheduleResponse:
        await check_schedule(self._node, request.name)
        made = await self._node.trigger_schedule(
            request.name, id=request.new_uuid if request.HasField("new_uuid") else None
        )
        if made is None:
            return pb.TriggerScheduleResponse()
        shown = instance_message(made.record, encoded=request.view == ENCODED)
        return pb.TriggerScheduleResponse(instance=shown)

    async def list_fires(self, request: pb.ListFiresRequest, context: Context) -> pb.ListFiresResponse:
        page = await self._node.fires(
            request.name,
            after=given_moment("after", request.after) if request.HasField("after") else None,
            before=given_moment("before", request.before) if request.HasField("before") else None,
            limit=request.limit if request.HasField("limit") else 100,
            cursor=request.cursor if request.HasField("cursor") else None,
        )
        return pb.ListFiresResponse(fires=map(fire_message, page), cursor=page.cursor)

    async def explain_cron(self, request: pb.ExplainCronRequest, context: Context) -> pb.ExplainCronResponse:
        count = checked_count(request.count if request.HasField("count") else 5)
        timezone = request.timezone if request.HasField("timezone") else self._node.timezone
        text, times = explain_text(request.cron, timezone)
        explained = replace(text, fires=tuple(await map_with_pauses(islice(times, count), lambda time: time)))
        return pb.ExplainCronResponse(
            words=explained.words,
            timezone=explained.timezone,
            times=[stamp(to_us(fire)) for fire in explained.fires],
            text=str(explained),
        )
