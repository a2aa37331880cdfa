"""The external scaler of KEDA."""

from __future__ import annotations

import logging

from peerjob.model.arguments import typed
from peerjob.model.durations import Duration
from peerjob.node.node import Node
from peerjob.proto.externalscaler import externalscaler_pb2 as pb
from peerjob.remote.server.grpc_server import GrpcServer
from peerjob.remote.server.rpc_service import RpcService, handlers_of
from peerjob.remote.wire.tls import ServerTls

from .handlers import ScalerRpcs

SERVICE = pb.DESCRIPTOR.services_by_name["ExternalScaler"]
PORT = 9091
MAX_MESSAGE = 1 << 16
MAX_CONNECTIONS = 100
"""The most connections: KEDA needs few."""


class ScalerServer(GrpcServer):
    """KEDA's external scaler for the namespace of a node, as an async context manager, or with `start()` and `stop()`.

    It returns the numbers of jobs that wait and run, of the kinds that a trigger names, and nothing else. KEDA sends no
    token, so each caller that reaches the address gets an answer, unless `tls` has a `client_ca`. `listen` is
    "host:port"; port 0 picks a free one (see `port`). The scaler neither starts nor stops the node.
    """

    option = "scaler_listen"
    default_port = PORT
    purpose = "answers KEDA"
    logger = logging.getLogger("peerjob.scaler")

    @typed
    def __init__(self, node: Node, listen: str = f"127.0.0.1:{PORT}", *, tls: ServerTls | None = None) -> None:
        super().__init__(node, listen, tls=tls, max_message=MAX_MESSAGE, max_connections=MAX_CONNECTIONS)

    def _make_service(self) -> RpcService:
        handlers = handlers_of(SERVICE, [ScalerRpcs(self._node)])
        return RpcService(self._node, SERVICE, handlers, waits={"StreamIsActive"}, max_message=self._max_message)

    async def stop(self, grace: Duration = 1.0) -> None:
        """Refuse new calls, end streams, give other calls `grace` to end; idempotent."""
        await super().stop(grace)
