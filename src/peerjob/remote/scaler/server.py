"""The external scaler: listens for KEDA."""

from __future__ import annotations

import logging
from typing import Self

from peerjob.model.durations import Duration, to_seconds
from peerjob.node.node import Node
from peerjob.proto.externalscaler import externalscaler_pb2 as pb
from peerjob.remote.server.grpc_server import GrpcEndpoint
from peerjob.remote.server.rpc_service import RpcService
from peerjob.remote.wire.tls import ServerTls

from .handlers import ScalerRpcs

SERVICE = pb.DESCRIPTOR.services_by_name["ExternalScaler"]
PORT = 9091
MAX_MESSAGE = 1 << 16

logger = logging.getLogger("peerjob.scaler")


class ScalerServer:
    """KEDA's external scaler for the namespace of a node, as an async context manager, or with `start()` and `stop()`.

    It tells how many jobs wait and run, of the kinds that a trigger names, and nothing else. KEDA can send no token, so
    whoever reaches the address is answered, unless `tls` has a `client_ca`. `listen` is "host:port", port 0 for any
    free one (see `port`). The node is not started or stopped by it.
    """

    def __init__(self, node: Node, listen: str = f"127.0.0.1:{PORT}", *, tls: ServerTls | None = None) -> None:
        self._node = node
        self._endpoint = GrpcEndpoint("scaler_listen", listen, example=PORT, tls=tls, max_message=MAX_MESSAGE)

    async def start(self) -> None:
        """Listen; raises OptionError for an address that cannot be had, NodeStateError when it listens already."""
        dispatch = RpcService(self._node, (ScalerRpcs(self._node),), max_message=MAX_MESSAGE, service=SERVICE)
        await self._endpoint.start(self._endpoint.prepare(dispatch), dispatch)
        logger.info("node %r answers KEDA on %s", self._node.name, self.target)

    async def stop(self, grace: Duration = 1.0) -> None:
        """Take no new calls, end streams, give other calls `grace` to end; idempotent."""
        await self._endpoint.stop(to_seconds(grace, "grace"))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    @property
    def port(self) -> int:
        """The port that it listens on; 0 before the start."""
        return self._endpoint.port

    @property
    def target(self) -> str:
        """What KEDA's scalerAddress is to be, on this machine."""
        return self._endpoint.target
