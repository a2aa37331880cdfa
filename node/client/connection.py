"""Connections to nodes: to one at a time, and to the next when it goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from peerjob.clock import Clock
from peerjob.errors import (
    AuthError,
    NodeStateError,
    NodeStoppedError,
    NodeUnavailableError,
    OptionError,
    PayloadTooLargeError,
    RemoteError,
    UnauthenticatedError,
)
from peerjob.node.listening import GRPC_PORT
from peerjob.node.wire.errors import error_in
from peerjob.node.wire.tls import ClientTls
from peerjob.node.wire.values import parsed
from peerjob.proto.job.v1 import service_pb2 as pb

from .mismatch import mismatch

M = TypeVar("M", bound=Message)

SERVICE = pb.DESCRIPTOR.services_by_name["JobService"]
ONCE = frozenset(
    {"RetryInstances", "RetryInstance", "TriggerSchedule", "RemoveSchedule"}
    | {"CancelInstances", "CancelInstance", "ClearInstances", "ClearHistory", "ClearLogs", "Clear"}
    | {"ResizeWorkers", "Drain"}
)
"""What is not asked again when nobody knows whether it was done. What schedules is: its instance has an id already."""
TRY = 1.0
"""Seconds for one address to connect, before the next is tried."""
PAUSE = 0.1
"""Seconds between two rounds over all addresses."""

Code = grpc.StatusCode


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
        self._channels: list[Any] = []
        self._current = 0

    def open(self) -> None:
        """Within the event loop that will make the calls; connects with the first of them."""
        credentials = None if self._tls is None else self._tls.credentials()
        for address in self.addresses:
            if credentials is None:
                channel = grpc.aio.insecure_channel(address, options=self._options())
            else:
                channel = grpc.aio.secure_channel(address, credentials, options=self._options())
            self._channels.append(channel)

    async def close(self) -> None:
        """Cancel what is under way; idempotent."""
        channels, self._channels = self._channels, []
        for channel in channels:
            await channel.close()

    async def call(self, name: str, request: Message, kind: type[M], *, timeout: float | None = None) -> M:
        """One call to its answer; raises what the node raised, NodeUnavailableError, TimeoutError or RemoteError."""
        data = self._sized(name, request)
        loop = asyncio.get_running_loop()
        seconds = self._timeout if timeout is None else timeout
        deadline = loop.time() + seconds
        while True:
            channel = await self._ready()
            left = deadline - loop.time()
            try:
                answer = await channel.unary_unary(f"/{SERVICE.full_name}/{name}")(
                    data, timeout=max(left, 0.001), metadata=(*self._metadata, *self.carrier().items())
                )
            except grpc.aio.AioRpcError as error:
                failure = self._failure(error, f"{name} was not answered within {seconds:g} s")
                if isinstance(failure, TimeoutError):
                    self._next_after(channel)  # it may hang, and the next call need not wait for it
                if not _elsewhere(failure, name) or loop.time() >= deadline:
                    raise failure from None
                self._next_after(channel)
            else:
                return _answer(name, kind, answer)

    async def stream(
        self, name: str, request: Message, kind: type[M], on_begin: Callable[[], Awaitable[object]] | None = None
    ) -> AsyncGenerator[M, None]:
        """The answers of one call, to one node; raises LostError when that node goes away.

        `on_begin` is called when the node says that it has begun.
        """
        data = self._sized(name, request)
        channel = await self._ready()
        call = channel.unary_stream(f"/{SERVICE.full_name}/{name}")(data, metadata=self._metadata)
        try:
            if on_begin is not None and await call.initial_metadata():
                await on_begin()
            async for answer in call:
                yield _answer(name, kind, answer)
        except grpc.aio.AioRpcError as error:
            failure = self._failure(error, f"{name} was not answered in time")
            if isinstance(failure, NodeUnavailableError | NodeStoppedError):
                self._next_after(channel)
                raise LostError(self.addresses, str(failure)) from None
            raise failure from None
        finally:
            call.cancel()

    async def _ready(self) -> Any:
        """The channel of a node that is connected; raises NodeUnavailableError."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._connect_timeout
        while True:
            for _ in self._channels:
                channel = self._channels[self._current]
                if await _connected(channel, min(until, loop.time() + TRY)):
                    return channel
                self._current = (self._current + 1) % len(self._channels)
            if not self._channels:
                raise NodeStateError("this client is not started, or was stopped; use `async with`")
            if loop.time() >= until:
                raise await self._unreachable()
            await asyncio.sleep(PAUSE * (1 + self._clock.random.uniform(-0.1, 0.1)))

    async def _unreachable(self) -> NodeUnavailableError:
        """Why an address cannot be reached; what gRPC says about it, it tells only whoever makes a call."""
        tls = self._tls
        shown = tls is not None and tls.certificate is not None
        found = await mismatch(self.addresses[self._current], tls=tls is not None, certificate=shown, within=TRY)
        if found is not None:
            return found
        try:
            await self._channels[self._current].unary_unary(f"/{SERVICE.full_name}/GetVersion")(b"", timeout=TRY)
        except grpc.aio.AioRpcError as error:
            return NodeUnavailableError(self.addresses, f"no node can be reached: {error.details()}")
        return NodeUnavailableError(self.addresses, "no node could be reached in time")

    def _next_after(self, channel: Any) -> None:
        if self._channels and self._channels[self._current] is channel:
            self._current = (self._current + 1) % len(self._channels)

    def _sized(self, name: str, request: Message) -> bytes:
        data = request.SerializeToString()
        if len(data) > self._max_message:
            raise PayloadTooLargeError(f"request of {name}", len(data), self._max_message)
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
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1_000),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.keepalive_time_ms", 20_000),
            ("grpc.keepalive_timeout_ms", 5_000),
            ("grpc.enable_retries", 0),
        ]
        if self._tls is not None and self._tls.server_name is not None:
            options.append(("grpc.ssl_target_name_override", self._tls.server_name))
        return options


def _answer(name: str, kind: type[M], data: bytes) -> M:
    try:
        return parsed(kind, data)
    except OptionError:
        text = f"the answer to {name} is no {kind.DESCRIPTOR.full_name}: who answers is no node of peerjob"
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


def _elsewhere(failure: Exception, name: str) -> bool:
    """Whether another node may be asked instead."""
    if isinstance(failure, NodeStoppedError):
        return True  # said by a node that did nothing
    return isinstance(failure, NodeUnavailableError) and name not in ONCE


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
