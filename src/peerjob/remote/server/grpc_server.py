"""What every gRPC server of a node has in common: an address, TLS, a start, and a stop that answers every caller."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import grpc

from peerjob.model.arguments import whole_number
from peerjob.model.durations import Duration, to_seconds
from peerjob.model.errors import NodeStateError
from peerjob.model.grpc_import import begin_grpc, owned
from peerjob.model.limits import MAX_SIZE
from peerjob.model.listen_address import address_not_free, parse_listen
from peerjob.model.startable import Startable
from peerjob.node.node import Node
from peerjob.remote.wire.compression import UNCOMPRESSED
from peerjob.remote.wire.tls import ServerTls

from .certificates import Certificates
from .rpc_service import RpcService

MAX_STREAMS = 2_000
"""The most open calls on one connection. The client queues further calls."""
MAX_PENDING = 10_000
"""The most calls that wait for the server to start them. The server refuses further calls."""
MAX_CONNECTIONS = 1_000
"""The most connections. The server closes further ones at once."""
HANDSHAKE_SECONDS = 10
"""The seconds in which a client must finish TLS and begin HTTP/2."""
IDLE_SECONDS = 300
"""The seconds after which the server closes a connection without calls. The client then connects for its next call."""
FLUSH_SECONDS = 0.2
"""Seconds in which a stopping server sends the last answers, before it closes connections that still have calls."""


class GrpcServer(Startable):
    """Serves gRPC for a node, as an async context manager, or with `start()` and `stop()`.

    `listen` is "host:port"; port 0 picks a free one (see `port`). `max_message` limits a request and a response, in
    bytes, and `max_connections` the connections. The server neither starts nor stops the node.
    """

    option: ClassVar[str]
    """The name of the option `listen` in error messages."""
    default_port: ClassVar[int]
    purpose: ClassVar[str]
    """The log line of the start: "node 'a' <purpose> on host:port"."""
    logger: ClassVar[logging.Logger]

    def __init__(
        self, node: Node, listen: str, *, tls: ServerTls | None, max_message: int, max_connections: int
    ) -> None:
        self.host, self._asked_port = parse_listen(self.option, listen, example=self.default_port)
        self._node = node
        self._tls = tls
        self._max_message = whole_number("max_message", max_message, 1, MAX_SIZE)
        self._max_connections = whole_number("max_connections", max_connections, 1, 1_000_000)
        self._certificates: Certificates | None = None
        self._server: grpc.aio.Server | None = None
        self._service: RpcService | None = None
        self._port = 0

    @abstractmethod
    def _make_service(self) -> RpcService:
        """The RPCs that this server serves."""

    def _interceptors(self) -> Sequence[grpc.aio.ServerInterceptor]:
        return ()

    async def _prepare(self, server: grpc.aio.Server) -> None:  # most servers need no other service
        """Add other services, before the server listens."""

    async def start(self) -> None:
        """Listen; raises OptionError for an address that is not free, NodeStateError if the server listens already."""
        if self._server is not None:
            raise NodeStateError(f"this server listens on port {self.port} already")
        begin_grpc()
        service = self._make_service()
        options = server_options(self._max_message, self._max_connections)
        server = owned(grpc.aio.server(interceptors=self._interceptors(), options=options))
        server.add_generic_rpc_handlers((service.generic_handler(),))
        address = f"{self.host}:{self._asked_port}"
        try:
            if self._tls is None:
                self._port = server.add_insecure_port(address)
            else:
                self._certificates = Certificates(self._tls)
                self._port = server.add_secure_port(address, self._certificates.credentials)
        except RuntimeError:
            raise address_not_free(self.option, address) from None
        await self._prepare(server)
        await server.start()
        self._server, self._service = server, service
        self.logger.info("node %r %s on %s", self._node.name, self.purpose, self.target)

    async def stop(self, grace: Duration = 5.0) -> None:
        """Refuse new calls, end streams and waits, give other calls `grace` to end; idempotent."""
        seconds = to_seconds(grace, "grace")
        server, service = self._server, self._service
        self._server = self._service = None
        if server is None or service is None:
            return
        refusing = asyncio.get_running_loop().create_task(server.stop(seconds + 1))
        await asyncio.sleep(0)
        await service.stop(seconds)
        await asyncio.wait({refusing}, timeout=FLUSH_SECONDS)
        if not refusing.done():
            # a health watch by a client has no end, so the server cancels the watch
            await server.stop(0)
        await refusing

    @property
    def port(self) -> int:
        """The port that the server listens on; 0 before the start."""
        return self._port

    @property
    def target(self) -> str:
        """The address for clients on this machine."""
        return f"{self.host}:{self.port}"


def server_options(max_message: int, max_connections: int = MAX_CONNECTIONS) -> list[tuple[str, Any]]:
    """The gRPC options of a server; `max_message` limits a request, in bytes."""
    return [
        ("grpc.max_receive_message_length", max_message),
        UNCOMPRESSED,
        # no limit by gRPC: RpcService limits responses, with an error that names the sizes
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", MAX_STREAMS),
        ("grpc.max_allowed_incoming_connections", max_connections),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
        ("grpc.max_connection_idle_ms", IDLE_SECONDS * 1000),
        # with probes, gRPC takes up to 16 MiB of each message that no handler reads yet
        ("grpc.http2.bdp_probe", 0),
        # with these limits, a burst of calls waits; with the default limits, gRPC cancels random calls of the burst
        ("grpc.server.max_pending_requests", MAX_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING),
        ("grpc.so_reuseport", 0),
        # the server pings clients to notice vanished ones, and accepts a ping from a client every 5 s
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.ping_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ]
