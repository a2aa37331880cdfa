"""The gRPC service of a node, for clients and jobctl."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any, cast

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from peerjob.model.arguments import typed
from peerjob.model.audit import DENIED
from peerjob.model.durations import Duration, to_seconds
from peerjob.model.errors import OptionError
from peerjob.model.listen_address import GRPC_PORT, is_loopback
from peerjob.model.rate_limiter import RateLimiter
from peerjob.model.rights import Principal
from peerjob.model.trusted_proxies import TrustedProxies
from peerjob.node.node import Node
from peerjob.remote.wire.rpcs import RPCS, SERVICE
from peerjob.remote.wire.tls import ServerTls

from .audit import audited
from .cluster import ClusterRpcs
from .connection_shares import ConnectionShares
from .flows import FlowRpcs
from .grpc_server import MAX_CONNECTIONS, GrpcServer
from .health import HealthReporter
from .instances import InstanceRpcs
from .interceptor import AccessInterceptor
from .jwt import Jwt
from .rpc_service import RpcService, handlers_of
from .schedules import ScheduleRpcs
from .scopes import scoped
from .streams import StreamRpcs
from .tokens import Tokens
from .verb_handlers import verb_handlers

MAX_MESSAGE = 16 << 20
REFLECTED = (SERVICE.full_name, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection")


class Server(GrpcServer):
    """The gRPC service of a node, as an async context manager, or with `start()` and `stop()`.

    `listen` is "host:port"; port 0 picks a free one (see `port`). Off loopback, the server needs `tokens` over TLS or
    client certificates; otherwise it raises OptionError, unless `insecure` is set. `jwt` accepts
    tokens of an identity provider, beside `tokens` or instead of them. `max_message` limits a message, in
    bytes, `rate` the calls per second from one address (default: no limit), and `max_connections` the connections.
    `trusted_proxies` are addresses and networks, such as "10.0.0.0/8": behind them, the address of a caller is that in
    X-Forwarded-For. The server neither starts nor stops the node.
    """

    option = "listen"
    default_port = GRPC_PORT
    purpose = "serves gRPC"
    logger = logging.getLogger("peerjob.server")

    @typed
    def __init__(
        self,
        node: Node,
        listen: str = f"127.0.0.1:{GRPC_PORT}",
        *,
        tls: ServerTls | None = None,
        tokens: Tokens | None = None,
        jwt: Jwt | None = None,
        insecure: bool = False,
        max_message: int = MAX_MESSAGE,
        rate: float | None = None,
        max_connections: int = MAX_CONNECTIONS,
        trusted_proxies: Iterable[str] = (),
    ) -> None:
        super().__init__(node, listen, tls=tls, max_message=max_message, max_connections=max_connections)
        self._trail = node.audit_trail
        proxies = TrustedProxies(trusted_proxies)
        self._access = AccessInterceptor(
            [authenticator for authenticator in (tokens, jwt) if authenticator is not None],
            namespace=node.namespace,
            limiter=None if rate is None else RateLimiter(rate, node.clock),
            clock=node.clock,
            on_refused=self._refused,
            proxies=proxies,
        )
        self._connections = ConnectionShares(
            node.clock, port=lambda: self.port, most=self._max_connections, proxies=proxies
        )
        if not insecure:
            _refuse_open_access(listen, self.host, tls, has_tokens=tokens is not None or jwt is not None)
        self._health: HealthReporter | None = None

    def _make_service(self) -> RpcService:
        node = self._node
        parts = (InstanceRpcs(node), FlowRpcs(node), StreamRpcs(node), ScheduleRpcs(node), ClusterRpcs(node))
        handlers = audited(self._trail, scoped(node, verb_handlers(node) | handlers_of(SERVICE, parts)))
        waits = {rpc.name for rpc in RPCS.values() if rpc.waits}
        return RpcService(node, SERVICE, handlers, waits=waits, max_message=self._max_message)

    def _interceptors(self) -> Sequence[grpc.aio.ServerInterceptor]:
        return (self._access,)

    async def _prepare(self, server: grpc.aio.Server) -> None:
        health = HealthReporter(self._node)
        health_pb2_grpc.add_HealthServicer_to_server(health.servicer, cast(Any, server))
        reflection.enable_server_reflection(REFLECTED, cast(Any, server))
        await health.show()
        self._health = health

    async def start(self) -> None:
        """Listen; raises OptionError for an address that is not free, NodeStateError if the server listens already."""
        await super().start()
        self._access.calls.start()
        self._connections.start()
        if self._health is not None:
            self._health.start()

    async def stop(self, grace: Duration = 5.0) -> None:
        """Refuse new calls, end streams and waits, give other calls `grace` to end; idempotent."""
        to_seconds(grace, "grace")
        # the store can be closed before the last calls have ended
        await self._trail.flush_now()
        health, self._health = self._health, None
        if health is not None:
            await health.stop()
        await super().stop(grace)
        await self._access.calls.stop()
        await self._connections.stop()
        await self._trail.stop()

    def _refused(self, path: str, principal: Principal, address: str) -> None:
        rpc = RPCS.get(path.rpartition("/")[2])
        if rpc is not None and rpc.acts:
            self._trail.add(rpc.name, principal.name, address, "", None, DENIED)


def _refuse_open_access(listen: str, host: str, tls: ServerTls | None, *, has_tokens: bool) -> None:
    if is_loopback(host) or (tls is not None and (has_tokens or tls.client_ca is not None)):
        return
    missing = (
        "tls=, so that tokens are encrypted on the way,"
        if has_tokens
        else "tls= with tokens= or with a client_ca, so that not everybody may call,"
    )
    raise OptionError("listen", listen, f"an address of loopback, or {missing} or insecure=True")
