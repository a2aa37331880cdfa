"""What KEDA does with an external scaler: calls by the names of its protocol, and nothing of ours."""

from typing import Any

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass

from peerjob.proto.externalscaler import externalscaler_pb2 as pb
from peerjob.remote.scaler.server import SERVICE
from support.waiting import PATIENCE


class Keda:
    """Calls a scaler as KEDA does."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel: Any = channel

    async def call(self, name: str, request: Any) -> Any:
        sending = self._channel.unary_unary(f"/{SERVICE.full_name}/{name}")
        data = await sending(request.SerializeToString(), timeout=PATIENCE)
        return GetMessageClass(SERVICE.methods_by_name[name].output_type).FromString(data)

    async def jobs(self, **metadata: str) -> int:
        request = pb.GetMetricsRequest(scaledObjectRef=ref(metadata), metricName="peerjob-jobs")
        (value,) = (await self.call("GetMetrics", request)).metricValues
        assert value.metricName == "peerjob-jobs"
        assert value.metricValue == value.metricValueFloat
        return int(value.metricValue)

    async def active(self, **metadata: str) -> bool:
        return bool((await self.call("IsActive", ref(metadata))).result)

    def stream(self, **metadata: str) -> Any:
        call = self._channel.unary_stream(f"/{SERVICE.full_name}/StreamIsActive")
        return call(ref(metadata).SerializeToString())

    @staticmethod
    async def is_active(stream: Any) -> bool:
        """The next state on a stream: whether the target is active."""
        return bool(pb.IsActiveResponse.FromString(await stream.read()).result)

    async def refusal(self, name: str, request: Any) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(name, request)
        return caught.value.code(), caught.value.details() or ""


def ref(metadata: dict[str, str]) -> pb.ScaledObjectRef:
    return pb.ScaledObjectRef(name="nodes", namespace="jobs", scalerMetadata=metadata)
