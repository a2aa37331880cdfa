"""The server: listens for clients of one node."""

from __future__ import annotations

import logging
from typing import Any, Self, cast

from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from peerjob.model.durations import Duration, to_seconds
from peerjob.model.errors import OptionError
from peerjob.node.node import Node
from peerjob.node.observe.listen_address import GRPC_PORT, is_loopback
from peerjob.remote.wire.tls import ServerTls

from .cluster import ClusterRpcs
from .grpc_server import GrpcEndpoint
from .health import HealthReporter
from .instances import InstanceRpcs
from .interceptor import AccessInterceptor
from .rate_limiter import RateLimiter
from .roles import Tokens
from .rpc_service import SERVICE, RpcService
from .schedules import ScheduleRpcs
from .streams import StreamRpcs

MAX_MESSAGE = 16 << 20
REFLECTED = (SERVICE.full_name, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection")

logger = logging.getLogger("peerjob.server")


class Server:
    """The gRPC service of a node, as an async context manager, or with `start()` and `stop()`.

    `listen` is "host:port", port 0 for any free one (see `port`). Off loopback it raises OptionError, unless callers
    are told apart (by `tokens` over TLS, or by their certificates) or `insecure` says that this is meant.
    `max_message` bounds a message, in bytes, and `rate` the calls per second from one address (default: no bound). The
    node is not started or stopped by it.
    """

    def __init__(
        self,
        node: Node,
        listen: str = f"127.0.0.1:{GRPC_PORT}",
        *,
        tls: ServerTls | None = None,
        tokens: Tokens | None = None,
        insecure: bool = False,
        max_message: int = MAX_MESSAGE,
        rate: float | None = None,
    ) -> None:
        self._node = node
        self._endpoint = GrpcEndpoint("listen", listen, example=GRPC_PORT, tls=tls, max_message=max_message)
        self._tokens = tokens
        self._max_message = max_message
        self._rates = None if rate is None else RateLimiter(rate, node.clock)
        if not insecure:
            _refuse_open_door(listen, self._endpoint.host, tls, tokens)
        self._health: HealthReporter | None = None

    async def start(self) -> None:
        """Listen; raises OptionError for an address that cannot be had, NodeStateError when it listens already."""
        node = self._node
        parts = (InstanceRpcs(node), StreamRpcs(node), ScheduleRpcs(node), ClusterRpcs(node))
        dispatch = RpcService(node, parts, max_message=self._max_message)
        guarded = self._tokens is not None or self._rates is not None
        door = (AccessInterceptor(tokens=self._tokens, rates=self._rates),) if guarded else ()
        server = self._endpoint.prepare(dispatch, door)
        health = HealthReporter(node)
        health_pb2_grpc.add_HealthServicer_to_server(health.servicer, cast(Any, server))
        reflection.enable_server_reflection(REFLECTED, cast(Any, server))
        await health.show()
        await self._endpoint.start(server, dispatch)
        self._health = health
        health.start()
        logger.info("node %r serves gRPC on %s", node.name, self.target)

    async def stop(self, grace: Duration = 5.0) -> None:
        """Take no new calls, end streams and waits, give other calls `grace` to end; idempotent."""
        seconds = to_seconds(grace, "grace")
        health, self._health = self._health, None
        if health is not None:
            await health.stop()
        await self._endpoint.stop(seconds)

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
        """What a client is to be given, on this machine."""
        return self._endpoint.target


def _refuse_open_door(listen: str, host: str, tls: ServerTls | None, tokens: Tokens | None) -> None:
    if is_loopback(host) or (tls is not None and (tokens is not None or tls.client_ca is not None)):
        return
    lacking = (
        "tls=, so that tokens do not travel in clear,"
        if tokens is not None
        else "tls= with tokens= or with a client_ca, so that not everybody may call,"
    )
    raise OptionError("listen", listen, f"an address of loopback, or {lacking} or insecure=True")
