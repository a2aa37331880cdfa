"""Handlers about the cluster, and about the node that answers."""

from __future__ import annotations

from peerjob.node.node import Node
from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.remote.wire.cluster import MAX_WORKERS, leader_message, node_message, worker_message
from peerjob.remote.wire.values import given_count

from .instances import wait_seconds
from .rpc_service import Context


class ClusterRpcs:
    """Shows nodes, the leader and workers; resizes and drains this node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def list_nodes(self, request: pb.ListNodesRequest, context: Context) -> pb.ListNodesResponse:
        return pb.ListNodesResponse(nodes=map(node_message, await self._node.nodes()))

    async def get_leader(self, request: pb.GetLeaderRequest, context: Context) -> pb.GetLeaderResponse:
        leader = await self._node.leader()
        return pb.GetLeaderResponse(leader=None if leader is None else leader_message(leader))

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
