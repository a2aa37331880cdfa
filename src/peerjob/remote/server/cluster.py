"""Handlers about the node that answers."""

from __future__ import annotations

from peerjob.node.node import Node
from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.remote.wire.cluster import MAX_WORKERS, worker_message
from peerjob.remote.wire.values import given_count

from .instances import wait_seconds
from .rpc_service import Context


class ClusterRpcs:
    """Lists and resizes the workers of this node, and drains it."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def list_workers(self, request: pb.ListWorkersRequest, context: Context) -> pb.ListWorkersResponse:
        return pb.ListWorkersResponse(node=self._node.name, workers=map(worker_message, self._node.workers()))

    async def resize_workers(self, request: pb.ResizeWorkersRequest, context: Context) -> pb.ResizeWorkersResponse:
        await self._node.resize_workers(given_count("resize_workers", request.workers, MAX_WORKERS))
        return pb.ResizeWorkersResponse(workers=self._node.num_workers)

    async def drain(self, request: pb.DrainRequest, context: Context) -> pb.DrainResponse:
        try:
            await self._node.drain(wait_seconds(request))
        except TimeoutError:
            return pb.DrainResponse(drained=False)
        return pb.DrainResponse(drained=True)
