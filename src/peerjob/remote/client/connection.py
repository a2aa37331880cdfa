"""Connections to nodes: to one at a time, and to the next when it goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from peerjob.model.clock import Clock
from peerjob.model.errors import (
    AuthError,
    NodeStateError,
    NodeStoppedError,
    NodeUnavailableError,
    OptionError,
    PayloadTooLargeError,
    RemoteError,
    UnauthenticatedError,
)
from peerjob.node.observe.listen_address import GRPC_PORT
from peerjob.remote.wire import rpcs
from peerjob.remote.wire.errors import error_in
from peerjob.remote.wire.rpcs import Resend, Rpc
from peerjob.remote.wire.tls import ClientTls
from peerjob.remote.wire.values import parsed

from .node_address import Code, NodeAddress, SilentError
from .tls_mismatch import mismatch

Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)

TRY = 1.0
"""Seconds for one address to connect, before the next is tried."""
PAUSE = 0.1
"""Seconds between two rounds over all addresses."""
PATIENCE = 5.0
"""Most seconds with a node that hangs, while there are others."""


class LostError(NodeUnavailableError):
    """The node that answered a stream went away; another one may be reached."""


class Connection:
    """Makes calls, to whichever node answers.

    `timeout` bounds one call and `connect_timeout` the search for a node, in seconds; `max_message` bounds a request.
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
        """The context of the trace in which a call is made; only a client that traces sends one."""
        self._peers: list[NodeAddress] = []
        self._current = 0

    def open(self) -> None:
        """Within the event loop that will make the calls; connects with the first of them."""
        credentials = None if self._tls is None else self._tls.credentials()
        for address in self.addresses:
            if credentials is None:
                channel = grpc.aio.insecure_channel(address, options=self._options())
            else:
                channel = grpc.aio.secure_channel(address, credentials, options=self._options())
            self._peers.append(NodeAddress(address, channel, self._metadata))

    async def close(self) -> None:
        """Cancel what is under way; idempotent."""
        peers, self._peers = self._peers, []
        for peer in peers:
            await peer.channel.close()

    async def call(self, rpc: Rpc[Q, A], request: Q, *, timeout: float | None = None) -> A:
        """One call to its answer; raises what the node raised, NodeUnavailableError, TimeoutError or RemoteError."""
        data = self._sized(rpc, request)
        loop = asyncio.get_running_loop()
        seconds = self._timeout if timeout is None else timeout
        deadline, late = loop.time() + seconds, f"{rpc.name} was not answered within {seconds:g} s"
        patience = self._patience(seconds)
        while True:
            peer = await self._ready()
            try:
                answer = await peer.ask(
                    rpc,
                    data,
                    timeout=max(deadline - loop.time(), 0.001),
                    more=tuple(self.carrier().items()),
                    patience=patience,
                    repeatable=rpc.resend is Resend.ALWAYS,
                )
            except SilentError:
                self._leave(peer, hangs=True)
                if loop.time() >= deadline:
                    raise TimeoutError(late) from None
            except grpc.aio.AioRpcError as error:
                failure = self._failure(error, late)
                if isinstance(failure, TimeoutError):
                    self._leave(peer, hangs=True)  # the next call need not wait for it
                if not _elsewhere(failure, rpc) or loop.time() >= deadline:
                    raise failure from None
                self._leave(peer)
            else:
                return _answer(rpc, answer)

    async def stream(
        self, rpc: Rpc[Q, A], request: Q, on_begin: Callable[[], Awaitable[object]] | None = None
    ) -> AsyncGenerator[A, None]:
        """The answers of one call, to one node; raises LostError when that node goes away.

        `on_begin` is called when the node says that it has begun.
        """
        data = self._sized(rpc, request)
        peer = await self._ready()
        call = peer.channel.unary_stream(rpc.path)(data, metadata=self._metadata)
        try:
            if on_begin is not None and await call.initial_metadata():
                await on_begin()
            async for answer in call:
                yield _answer(rpc, answer)
        except grpc.aio.AioRpcError as error:
            failure = self._failure(error, f"{rpc.name} was not answered in time")
            if isinstance(failure, NodeUnavailableError | NodeStoppedError):
                self._leave(peer)
                raise LostError(self.addresses, str(failure)) from None
            raise failure from None
        finally:
            call.cancel()

    async def _ready(self) -> NodeAddress:
        """A node that is connected, rather one that did not hang lately; raises NodeUnavailableError."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._connect_timeout
        while True:
            for avoided in (False, True):
                for _ in self._peers:
                    peer = self._peers[self._current]
                    if peer.avoided is avoided and await _connected(peer.channel, min(until, loop.time() + TRY)):
                        return peer
                    self._current = (self._current + 1) % len(self._peers)
            if not self._peers:
                raise NodeStateError("this client is not started, or was stopped; use `async with`")
            if loop.time() >= until:
                raise await self._unreachable()
            await asyncio.sleep(PAUSE * (1 + self._clock.random.uniform(-0.1, 0.1)))

    async def _unreachable(self) -> NodeUnavailableError:
        """Why an address cannot be reached; what gRPC says about it, it tells only whoever makes a call."""
        tls = self._tls
        shown = tls is not None and tls.certificate is not None
        peer = self._peers[self._current]
        found = await mismatch(peer.address, tls=tls is not None, certificate=shown, within=TRY)
        if found is not None:
            return found
        try:
            await peer.ask(rpcs.GET_VERSION, b"", timeout=TRY)
        except grpc.aio.AioRpcError as error:
            return NodeUnavailableError(self.addresses, f"no node can be reached: {error.details()}")
        return NodeUnavailableError(self.addresses, "no node could be reached in time")

    def _patience(self, seconds: float) -> float | None:
        """How long a node may hang before the next gets its turn; None when there is no other."""
        return min(PATIENCE, seconds / (len(self._peers) + 1)) if len(self._peers) > 1 else None

    def _leave(self, peer: NodeAddress, *, hangs: bool = False) -> None:
        """Let the next call go to another node."""
        if hangs:
            peer.avoid()
        if self._peers and self._peers[self._current] is peer:
            self._current = (self._current + 1) % len(self._peers)

    def _sized(self, rpc: Rpc[Q, A], request: Q) -> bytes:
        data = request.SerializeToString()
        if len(data) > self._max_message:
            raise PayloadTooLargeError(f"request of {rpc.name}", len(data), self._max_message)
        return data

    def _failure(self, error: grpc.aio.AioRpcError, late: str) -> Exception:
        found = error_in(tuple(error.trailing_metadata() or ()))
        if found is not None:
            return found
        code, text = error.code(), error.details() or ""
        match code:
            case Code.UNAVAILABLE | Code.CANCELLED:
                # CANCELLED is said by a server that drops calls; calls that are cancelled here do not come here
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
            ("grpc.max_receive_message_length", -1),  # a node bounds what it sends
            ("grpc.max_send_message_length", -1),  # bounded by us, so that the error tells the sizes
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 5_000),  # how long one attempt may take, far away or on a busy machine
            ("grpc.max_reconnect_backoff_ms", 1_000),
            ("grpc.use_local_subchannel_pool", 1),
            # how streams find out about a node that hangs; without ping_timeout gRPC waits 60 s for its answer
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
        text = f"the answer to {rpc.name} is no {rpc.response.DESCRIPTOR.full_name}: who answers is no node of peerjob"
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


def _elsewhere(failure: Exception, rpc: Rpc[Any, Any]) -> bool:
    """Whether another node may be asked instead."""
    if isinstance(failure, NodeStoppedError):
        return True  # said by a node that did nothing
    return isinstance(failure, NodeUnavailableError) and rpc.resend is not Resend.NEVER


def split_target(target: str) -> list[str]:
    """The addresses in "host:port,host:port"; the port may be left out. Raises OptionError."""
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
