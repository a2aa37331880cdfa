"""The connection to the nodes: to one at a time, and to the next when that node goes away."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from peerjob.model.child_tasks import cancelled_after
from peerjob.model.clock import Clock
from peerjob.model.errors import (
    AuthError,
    NodeStateError,
    NodeStoppedError,
    NodeUnavailableError,
    OptionError,
    PayloadTooLargeError,
    RemoteError,
    StoreError,
    UnauthenticatedError,
)
from peerjob.model.grpc_import import begin_grpc, owned
from peerjob.model.listen_address import GRPC_PORT
from peerjob.remote.wire import rpcs
from peerjob.remote.wire.compression import UNCOMPRESSED
from peerjob.remote.wire.errors import error_in
from peerjob.remote.wire.rpcs import Resend, Rpc
from peerjob.remote.wire.tls import ClientTls
from peerjob.remote.wire.values import parsed

from .node_address import Code, NodeAddress, SilentError
from .tls_mismatch import mismatch

Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)

MAX_CONNECT = 1.0
"""Seconds to connect to one address, before the client tries the next address."""
ROUND_PAUSE = 0.1
"""Seconds between two rounds in which the client tries all addresses."""
MAX_SILENCE = 5.0
"""Seconds without an answer after which the client asks another node, if there are other addresses."""


_REASONS = {
    "certificate has expired": "the node's certificate has expired",
    "CERTIFICATE_VERIFY_FAILED": "no CA that the client trusts has signed the node's certificate",
    "Hostname Verification": "the node's certificate is for another name",
    "Domain name not found": "the name has no address",
}
"""Parts of gRPC's texts about a connection, and what each means; the first that fits counts."""


class StreamBrokenError(NodeUnavailableError):
    """The node of a stream went away; another node may answer."""


class Connection:
    """Sends calls to a node that answers.

    `timeout` limits one call and `connect_timeout` the search for a node, in seconds; `max_message` limits a request,
    in bytes.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        tls: ClientTls | None,
        token: str | None,
        timeout: float,
        connect_timeout: float,
        max_message: int,
        clock: Clock,
    ) -> None:
        self.addresses = tuple(addresses)
        self._tls = tls
        self._metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._max_message = max_message
        self._clock = clock
        self.carrier: Callable[[], dict[str, str]] = dict
        """Returns the trace headers of a call; no headers unless the client traces."""
        self._nodes: list[NodeAddress] = []
        self._process = 0
        """The id of the process that opened the channels."""
        self._current = 0

    @property
    def address(self) -> str:
        """The address of the node that gets the next call, unless it goes away."""
        return self._nodes[self._current].address if self._nodes else self.addresses[0]

    def open(self) -> None:
        """Create the channels, in the event loop that makes the calls. The first call connects.

        Raises NodeStateError in a forked child whose parent used gRPC before.
        """
        begin_grpc()
        self._process = os.getpid()
        credentials = None if self._tls is None else self._tls.credentials()
        for address in self.addresses:
            if credentials is None:
                channel = grpc.aio.insecure_channel(address, options=self._options())
            else:
                channel = grpc.aio.secure_channel(address, credentials, options=self._options())
            self._nodes.append(NodeAddress(address, owned(channel), self._metadata))

    async def close(self) -> None:
        """Cancel open calls; idempotent. It does nothing in a forked child, as the channels are those of the parent."""
        if self._process != os.getpid():
            return
        nodes, self._nodes = self._nodes, []
        for node in nodes:
            await node.channel.close()

    async def call(self, rpc: Rpc[Q, A], request: Q, *, timeout: float | None = None) -> A:
        """The answer to one call; raises the node's error, NodeUnavailableError, TimeoutError or RemoteError."""
        data = self._sized(rpc, request)
        loop = asyncio.get_running_loop()
        seconds = self._timeout if timeout is None else timeout
        deadline, late = loop.time() + seconds, f"{rpc.name} was not answered within {seconds:g} s"
        max_silence, may_be_done = self._max_silence(seconds), False
        while True:
            node = await self._ready()
            try:
                answer = await node.ask(
                    rpc,
                    data,
                    timeout=max(deadline - loop.time(), 0.001),
                    more=tuple(self.carrier().items()),
                    max_silence=max_silence,
                    repeatable=rpc.resend is Resend.ALWAYS,
                )
            except SilentError:
                self._leave(node, hangs=True)
                may_be_done = True
                if loop.time() >= deadline:
                    raise TimeoutError(late) from None
            except grpc.aio.AioRpcError as error:
                failure = self._failure(error, late)
                if isinstance(failure, TimeoutError):
                    # prefer other nodes, so that the next call does not wait for this node too
                    self._leave(node, hangs=True)
                if isinstance(failure, StoreError):
                    failure.is_unsure |= may_be_done
                if not _elsewhere(failure, rpc) or loop.time() >= deadline:
                    raise failure from None
                may_be_done |= not isinstance(failure, NodeStoppedError)
                self._leave(node)
            else:
                return _answer(rpc, answer)

    async def stream(
        self, rpc: Rpc[Q, A], request: Q, on_begin: Callable[[], Awaitable[object]] | None = None
    ) -> AsyncGenerator[A, None]:
        """The answers to one call, from one node; raises StreamBrokenError if that node goes away.

        `on_begin` is called when the node has begun to watch.
        """
        data = self._sized(rpc, request)
        node = await self._ready()
        call = node.channel.unary_stream(rpc.path)(data, metadata=self._metadata)
        with cancelled_after(call):
            try:
                if on_begin is not None and await call.initial_metadata():
                    await on_begin()
                async for answer in call:
                    yield _answer(rpc, answer)
            except grpc.aio.AioRpcError as error:
                failure = self._failure(error, f"{rpc.name} was not answered in time")
                if isinstance(failure, NodeUnavailableError | NodeStoppedError):
                    self._leave(node)
                    raise StreamBrokenError(self.addresses, str(failure)) from None
                raise failure from None

    async def _ready(self) -> NodeAddress:
        """A connected node, preferably one that did not hang recently; raises NodeUnavailableError."""
        if self._nodes:
            begin_grpc()
        loop = asyncio.get_running_loop()
        until = loop.time() + self._connect_timeout
        while True:
            for avoided in (False, True):
                for _ in self._nodes:
                    node = self._nodes[self._current]
                    if node.avoided is avoided and await _connected(
                        node.channel, min(until, loop.time() + MAX_CONNECT)
                    ):
                        return node
                    self._current = (self._current + 1) % len(self._nodes)
            if not self._nodes:
                raise NodeStateError("this client is not started, or was stopped; use `async with`")
            if loop.time() >= until:
                raise await self._unreachable()
            await asyncio.sleep(ROUND_PAUSE * (1 + self._clock.random.uniform(-0.1, 0.1)))

    async def _unreachable(self) -> NodeUnavailableError:
        """The reason why no node can be reached. gRPC names the reason only in the error of a call, so make a call."""
        tls = self._tls
        shown = tls is not None and tls.certificate is not None
        node = self._nodes[self._current]
        reason = await mismatch(node.address, tls=tls is not None, certificate=shown, within=MAX_CONNECT)
        if reason is not None:
            return reason
        try:
            await node.ask(rpcs.GET_VERSION, b"", timeout=MAX_CONNECT)
        except grpc.aio.AioRpcError as error:
            return NodeUnavailableError(self.addresses, f"no node can be reached: {_reason(error.details() or '')}")
        return NodeUnavailableError(self.addresses, "no node could be reached in time")

    def _max_silence(self, seconds: float) -> float | None:
        """The seconds without an answer after which the client asks the next node; None if there is no other node."""
        return min(MAX_SILENCE, seconds / (len(self._nodes) + 1)) if len(self._nodes) > 1 else None

    def _leave(self, node: NodeAddress, *, hangs: bool = False) -> None:
        """Send the next call to another node."""
        if hangs:
            node.avoid()
        if self._nodes and self._nodes[self._current] is node:
            self._current = (self._current + 1) % len(self._nodes)

    def _sized(self, rpc: Rpc[Q, A], request: Q) -> bytes:
        data = request.SerializeToString()
        if len(data) > self._max_message:
            raise PayloadTooLargeError(f"request of {rpc.name}", len(data), self._max_message)
        return data

    def _failure(self, error: grpc.aio.AioRpcError, late: str) -> Exception:
        reported = error_in(tuple(error.trailing_metadata() or ()))
        if reported is not None:
            return reported
        code, text = error.code(), error.details() or ""
        match code:
            case Code.UNAVAILABLE | Code.CANCELLED:
                # the server dropped the call: a cancellation by the caller raises CancelledError, not AioRpcError
                return NodeUnavailableError(self.addresses, text)
            case Code.DEADLINE_EXCEEDED:
                return TimeoutError(late)
            case Code.UNAUTHENTICATED:
                return UnauthenticatedError(text)
            case Code.PERMISSION_DENIED:
                return AuthError(text)
            case _:
                return RemoteError(code.name, text)

    def _options(self) -> list[tuple[str, Any]]:
        options: list[tuple[str, Any]] = [
            # no limits by gRPC: nodes limit responses, and _sized() limits requests with an error that names the sizes
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            UNCOMPRESSED,
            ("grpc.initial_reconnect_backoff_ms", 100),
            # the time for one attempt to connect, which a distant or busy node needs
            ("grpc.min_reconnect_backoff_ms", 5_000),
            ("grpc.max_reconnect_backoff_ms", 1_000),
            ("grpc.use_local_subchannel_pool", 1),
            # pings detect a node that hangs during a stream; without ping_timeout_ms, gRPC waits 60 s for an answer
            ("grpc.keepalive_time_ms", 10_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.http2.ping_timeout_ms", 10_000),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.enable_retries", 0),
        ]
        if self._tls is not None and self._tls.server_name is not None:
            options.append(("grpc.ssl_target_name_override", self._tls.server_name))
        return options


def _answer(rpc: Rpc[Q, A], data: bytes) -> A:
    try:
        return parsed(rpc.response, data)
    except OptionError:
        expected = rpc.response.DESCRIPTOR.full_name
        text = f"the answer to {rpc.name} is not a {expected}: the server is not a node of peerjob"
        raise RemoteError("DATA_LOSS", text) from None


async def _connected(channel: Any, until: float) -> bool:
    state = channel.get_state(try_to_connect=True)
    while state is not grpc.ChannelConnectivity.READY:
        if state in (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN):
            return False
        try:
            async with asyncio.timeout_at(until):
                await channel.wait_for_state_change(state)
        except TimeoutError:
            return False
        state = channel.get_state(try_to_connect=True)
    return True


def _reason(details: str) -> str:
    """The reason in gRPC's text, which repeats the address and names layers of gRPC."""
    plain = next((reason for part, reason in _REASONS.items() if part in details), None)
    return plain or details.rpartition("Failed to connect to remote host: ")[2]


def _elsewhere(failure: Exception, rpc: Rpc[Any, Any]) -> bool:
    """Whether the client is allowed to send the request to another node after a failure."""
    if isinstance(failure, NodeStoppedError):
        return True  # the node refused the call and changed nothing
    return isinstance(failure, NodeUnavailableError) and rpc.resend is not Resend.NEVER


def split_target(target: str) -> list[str]:
    """The addresses in "host:port,host:port". The port is optional. Raises OptionError."""
    addresses = [_address(target, part.strip()) for part in target.split(",")]
    return list(dict.fromkeys(addresses))


def _address(target: str, part: str) -> str:
    host, colon, port = part.rpartition(":")
    if not colon or part.endswith("]"):
        host, port = part, str(GRPC_PORT)
    bare = host.startswith("[") == host.endswith("]") and (host.startswith("[") or ":" not in host)
    if not host or not bare or not port.isdecimal() or not 1 <= int(port) <= 65_535 or "/" in part:
        raise OptionError("target", target, "host:port, or several of them separated by commas")
    return f"{host}:{port}"
