"""Handlers about nodes: mostly the node that answers."""

from __future__ import annotations

from peerjob.model.arguments import whole_number
from peerjob.model.errors import NodeStateError, NodeStoppedError
from peerjob.model.limits import MAX_WORKERS
from peerjob.node.node import Node
from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.remote.wire.cluster import worker_message
from peerjob.remote.wire.errors import status_of

from .instances import wait_seconds
from .rpc_service import Context
from .scopes import caller_scope


class ClusterRpcs:
    """Lists the workers of this node, and resizes and drains it or another node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def list_workers(self, request: pb.ListWorkersRequest, context: Context) -> pb.ListWorkersResponse:
        workers = map(caller_scope().worker, self._node.workers())
        return pb.ListWorkersResponse(node=self._node.name, workers=map(worker_message, workers))

    async def resize_workers(self, request: pb.ResizeWorkersRequest, context: Context) -> pb.ResizeWorkersResponse:
        workers = whole_number("resize_workers", request.workers, 1, MAX_WORKERS)
        name = await self._node.resize_workers(workers, node=_named(request))
        return pb.ResizeWorkersResponse(workers=workers, node=name)

    async def drain(self, request: pb.DrainRequest, context: Context) -> pb.DrainResponse:
        try:
            name = await self._node.wait_drained(wait_seconds(request), node=_named(request), is_begun=request.begun)
        except TimeoutError:
            return pb.DrainResponse(drained=False)
        except NodeStateError as error:
            if not self._node.running or isinstance(error, NodeStoppedError):
                raise
            # RpcService reads a NodeStateError of a wait as the end of this node, so that the client asks another node
            status = status_of(error)
            await context.abort(status.code, status.text, status.metadata)
            raise  # never reached: `abort` raises
        return pb.DrainResponse(drained=True, node=name)

    async def undrain(self, request: pb.UndrainRequest, context: Context) -> pb.UndrainResponse:
        return pb.UndrainResponse(node=await self._node.undrain(node=_named(request)))


def _named(request: pb.DrainRequest | pb.UndrainRequest | pb.ResizeWorkersRequest) -> str | None:
    return request.node if request.HasField("node") else None
