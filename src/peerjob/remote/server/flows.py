# pyright: reportPrivateUsage=false
"""Handlers about flows, signals and steps."""

from __future__ import annotations

from typing import Any

from peerjob.model.durable import MAX_MEMBERS
from peerjob.model.errors import OptionError
from peerjob.model.signal import Signal
from peerjob.node.manager.loop_pauses import pause_after
from peerjob.node.node import Node
from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.remote.wire.flows import flow_of, signal_value, step_message
from peerjob.remote.wire.instances import ENCODED, instance_message

from .instances import check_kinds
from .rpc_service import Context


class FlowRpcs:
    """Schedules flows, gives signals, and lists steps."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def schedule_flow(self, request: pb.ScheduleFlowRequest, context: Context) -> pb.ScheduleFlowResponse:
        if len(request.members) > MAX_MEMBERS:
            raise OptionError("members", len(request.members), f"at most {MAX_MEMBERS:,}; use context.map in a body")
        await check_kinds(self._node, [member.call for member in request.members])
        flow = flow_of(request, self._node.find_job)
        await pause_after(request.ByteSize())
        id = request.uuid if request.HasField("uuid") else None
        made = await self._node.schedule_flow(flow, tags=request.tags, id=id)
        unserved = [
            kind for kind in sorted({member.call.job.kind for member in flow}) if not await self._node.is_served(kind)
        ]
        message = instance_message(made.record, encoded=request.view == ENCODED)
        return pb.ScheduleFlowResponse(instance=message, repeated=not made.is_new, unserved=unserved)

    async def signal(self, request: pb.SignalRequest, context: Context) -> pb.SignalResponse:
        signal = Signal[Any](request.name, Any)
        return pb.SignalResponse(accepted=await self._node.signal(request.uuid, signal, signal_value(request)))

    async def get_steps(self, request: pb.GetStepsRequest, context: Context) -> pb.GetStepsResponse:
        page = await self._node._step_page(request.uuid, request.cursor if request.HasField("cursor") else None)
        return pb.GetStepsResponse(steps=map(step_message, page.steps), cursor=page.cursor)
