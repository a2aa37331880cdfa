"""One gRPC service on one address: how it listens, and how it stops so that every caller is told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc

from peerjob.model.errors import NodeStateError, OptionError
from peerjob.node.observe.listen_address import parse_listen
from peerjob.remote.wire.tls import ServerTls

from .certificates import Certificates
from .rpc_service import RpcService

MAX_STREAMS = 2_000
"""Calls at a time on one connection."""
LAST_WORDS = 0.2
"""Seconds for the answers to leave."""
MAX_PENDING = 20_000
"""Calls that wait to be taken up; more are refused."""


class GrpcEndpoint:
    """Listens on "host:port", with or without TLS; `option` names the address in errors, `example` is a port for them.

    `max_message` bounds a request, in bytes.
    """

    def __init__(self, option: str, listen: str, *, example: int, tls: ServerTls | None, max_message: int) -> None:
        self.host, self._asked_port = parse_listen(option, listen, example=example)
        self._option = option
        self._tls = tls
        self._max_message = max_message
        self._certificates: Certificates | None = None
        self._server: grpc.aio.Server | None = None
        self.dispatch: RpcService | None = None
        """What serves; None while it does not listen."""
        self.port = 0
        """The port that it listens on; 0 before the start."""

    def prepare(self, dispatch: RpcService, door: Sequence[grpc.aio.ServerInterceptor] = ()) -> grpc.aio.Server:
        """A server that has its port and does not listen yet; what else it is to serve is added to it.

        Raises OptionError for an address that cannot be had, NodeStateError when it listens already.
        """
        if self._server is not None:
            raise NodeStateError(f"this server listens on port {self.port} already")
        server = grpc.aio.server(interceptors=door, options=self._options())
        server.add_generic_rpc_handlers((dispatch.generic_handler(),))
        target = f"{self.host}:{self._asked_port}"
        try:
            if self._tls is None:
                self.port = server.add_insecure_port(target)
            else:
                self._certificates = Certificates(self._tls)
                self.port = server.add_secure_port(target, self._certificates.credentials)
        except RuntimeError:
            expected = "an address of this machine that nobody else listens on"
            raise OptionError(self._option, target, expected) from None
        return server

    async def start(self, server: grpc.aio.Server, dispatch: RpcService) -> None:
        """Listen with what was prepared."""
        await server.start()
        self._server, self.dispatch = server, dispatch

    async def stop(self, seconds: float) -> None:
        """Take no new calls, end streams and waits, give other calls so long to end; idempotent."""
        server, dispatch = self._server, self.dispatch
        self._server = self.dispatch = None
        if server is None or dispatch is None:
            return
        refusing = asyncio.get_running_loop().create_task(server.stop(seconds + 1))
        await asyncio.sleep(0)
        await dispatch.stop(seconds)
        await asyncio.wait({refusing}, timeout=LAST_WORDS)
        if not refusing.done():  # somebody watches the health
            await server.stop(0)
        await refusing

    @property
    def target(self) -> str:
        """What a client is to be given, on this machine."""
        return f"{self.host}:{self.port}"

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
            ("grpc.http2.ping_timeout_ms", 10_000),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ]
