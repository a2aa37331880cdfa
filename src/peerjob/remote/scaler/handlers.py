"""Handlers of KEDA's RPCs."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator

import grpc

from peerjob.model.errors import OptionError, StoreError
from peerjob.node.node import Node
from peerjob.proto.externalscaler import externalscaler_pb2 as pb
from peerjob.remote.server.rpc_service import Context

from .demand import FRESH, DemandReader
from .metadata import Trigger, read_trigger

METRIC = "peerjob-jobs"
"""The name of the only metric. A trigger names the kinds that count, and KEDA numbers the triggers."""

logger = logging.getLogger("peerjob.scaler")


class ScalerRpcs:
    """Returns the demand of a node's namespace for a trigger."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._demand = DemandReader(node)

    async def is_active(self, request: pb.ScaledObjectRef, context: Context) -> pb.IsActiveResponse:
        trigger = self._trigger(request)
        return pb.IsActiveResponse(result=trigger.active(await self._jobs(trigger, context)))

    async def stream_is_active(
        self, request: pb.ScaledObjectRef, context: Context
    ) -> AsyncGenerator[pb.IsActiveResponse, None]:
        """Sends the state at once and after each change. An outage of the store changes nothing."""
        trigger = self._trigger(request)
        sent: bool | None = None
        while True:
            try:
                active = trigger.active((await self._demand.read()).jobs(trigger))
            except (StoreError, TimeoutError) as error:
                logger.debug("the demand cannot be read: %r", error)
            else:
                if active is not sent:
                    sent = active
                    yield pb.IsActiveResponse(result=active)
            await asyncio.sleep(FRESH)

    async def get_metric_spec(self, request: pb.ScaledObjectRef, context: Context) -> pb.GetMetricSpecResponse:
        target = self._trigger(request).jobs_per_replica
        spec = pb.MetricSpec(metricName=METRIC, targetSize=math.ceil(target), targetSizeFloat=target)
        return pb.GetMetricSpecResponse(metricSpecs=[spec])

    async def get_metrics(self, request: pb.GetMetricsRequest, context: Context) -> pb.GetMetricsResponse:
        if request.metricName not in ("", METRIC):
            raise OptionError("metricName", request.metricName, METRIC)
        jobs = await self._jobs(self._trigger(request.scaledObjectRef), context)
        value = pb.MetricValue(metricName=METRIC, metricValue=jobs, metricValueFloat=jobs)
        return pb.GetMetricsResponse(metricValues=[value])

    async def _jobs(self, trigger: Trigger, context: Context) -> int:
        try:
            return (await self._demand.read()).jobs(trigger)
        except (StoreError, TimeoutError) as error:
            logger.info("KEDA gets no answer: %s", str(error) or "the store does not answer in time")
            # the error leaves out the address of the store, since callers of the scaler need no token
            text = f"the store of node {self._node.name!r} does not answer"
            await context.abort(grpc.StatusCode.UNAVAILABLE, text)
            raise AssertionError("abort raises") from None

    def _trigger(self, request: pb.ScaledObjectRef) -> Trigger:
        return read_trigger(request.scalerMetadata, self._node.num_workers)
