"""The server: listens for clients of one node."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Self, cast

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from peerjob.durations import Duration, to_seconds
from peerjob.errors import NodeStateError, OptionError
from peerjob.node.listening import GRPC_PORT, is_loopback, parse_listen
from peerjob.node.node import Node
from peerjob.node.wire.tls import ServerTls

from .cluster import ClusterRpcs
from .door import Door
from .health import HealthReporter
from .instances import InstanceRpcs
from .rates import Rates
from .roles import Tokens
from .rpc import SERVICE, Dispatch
from .schedules import ScheduleRpcs
from .streams import StreamRpcs

MAX_MESSAGE = 16 << 20
MAX_STREAMS = 2_000
"""Calls at a time on one connection."""
LAST_WORDS = 0.2
"""Seconds for the answers to leave."""
MAX_PENDING = 20_000
"""Calls that wait to be taken up; more are refused."""
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
        self._host, self._asked_port = parse_listen("listen", listen, example=GRPC_PORT)
        self._tls = tls
        self._tokens = tokens
        self._max_message = max_message
        self._rates = None if rate is None else Rates(rate, node.clock)
        if not insecure:
            _refuse_open_door(listen, self._host, tls, tokens)
        self._server: grpc.aio.Server | None = None
        self._dispatch: Dispatch | None = None
        self._health: HealthReporter | None = None
        self._port = 0

    async def start(self) -> None:
        """Listen; raises OptionError for an address that cannot be had, NodeStateError when it listens already."""
        if self._server is not None:
            raise NodeStateError(f"this server listens on port {self._port} already")
        node = self._node
        parts = (InstanceRpcs(node), StreamRpcs(node), ScheduleRpcs(node), ClusterRpcs(node))
        dispatch = Dispatch(node, parts, max_message=self._max_message)
        guarded = self._tokens is not None or self._rates is not None
        door = (Door(tokens=self._tokens, rates=self._rates),) if guarded else ()
        server = grpc.aio.server(interceptors=door, options=self._options())
        server.add_generic_rpc_handlers((dispatch.generic_handler(),))
        health = HealthReporter(node)
        health_pb2_grpc.add_HealthServicer_to_server(health.servicer, cast(Any, server))
        reflection.enable_server_reflection(REFLECTED, cast(Any, server))
        target = f"{self._host}:{self._asked_port}"
        try:
            if self._tls is None:
                self._port = server.add_insecure_port(target)
            else:
                self._port = server.add_secure_port(target, self._tls.credentials())
        except RuntimeError:
            raise OptionError("listen", target, "an address of this machine that nobody else listens on") from None
        await health.show()
        await server.start()
        self._server, self._dispatch, self._health = server, dispatch, health
        health.start()
        logger.info("node %r serves gRPC on %s:%d", node.name, self._host, self._port)

    async def stop(self, grace: Duration = 5.0) -> None:
        """Take no new calls, end streams and waits, give other calls `grace` to end; idempotent."""
        seconds = to_seconds(grace, "grace")
        server, dispatch, health = self._server, self._dispatch, self._health
        self._server = self._dispatch = self._health = None
        if server is None or dispatch is None or health is None:
            return
        await health.stop()
        refusing = asyncio.get_running_loop().create_task(server.stop(seconds + 1))
        await asyncio.sleep(0)
        await dispatch.stop(seconds)
        await asyncio.wait({refusing}, timeout=LAST_WORDS)
        if not refusing.done():  # somebody watches the health
            await server.stop(0)
        await refusing

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    @property
    def port(self) -> int:
        """The port that it listens on; 0 before the start."""
        return self._port

    @property
    def target(self) -> str:
        """What a client is to be given, on this machine."""
        return f"{self._host}:{self._port}"

    def _options(self) -> list[tuple[str, Any]]:
        return [
            ("grpc.max_receive_message_length", self._max_message),
            ("grpc.max_send_message_length", -1),  # bounded by us, so that the caller is told
            ("grpc.max_concurrent_streams", MAX_STREAMS),
            # what arrives faster than it is taken up waits; by default gRPC drops it by chance, as CANCELLED
            ("grpc.server.max_pending_requests", MAX_PENDING),
            ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING),
            ("grpc.so_reuseport", 0),
            # finds out about clients that vanished, and puts up with clients that find out about us
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ]


def _refuse_open_door(listen: str, host: str, tls: ServerTls | None, tokens: Tokens | None) -> None:
    if is_loopback(host) or (tls is not None and (tokens is not None or tls.client_ca is not None)):
        return
    lacking = (
        "tls=, so that tokens do not travel in clear,"
        if tokens is not None
        else "tls= with tokens= or with a client_ca, so that not everybody may call,"
    )
    raise OptionError("listen", listen, f"an address of loopback, or {lacking} or insecure=True")
