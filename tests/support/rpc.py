"""The gRPC service as a client of another language sees it: messages and statuses, and nothing else."""

from __future__ import annotations

import contextlib
import functools
import socket
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2_grpc

from peerjob import Clock, Node
from peerjob.node.manager.jobs import JobSource
from peerjob.remote.server.server import Server
from peerjob.remote.wire.rpcs import RPCS, SERVICE
from support.listening import listening, passed_on
from support.waiting import PATIENCE

Options = list[tuple[str, Any]]


class RawClient:
    """Calls RPCs by name. Failed calls raise grpc.aio.AioRpcError."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel: Any = channel

    async def call(self, name: str, request: Message, *, timeout: float = PATIENCE, token: str | None = None) -> Any:
        """The response."""
        return GetMessageClass(SERVICE.methods_by_name[name].output_type).FromString(
            await self.send(name, request.SerializeToString(), timeout=timeout, token=token)
        )

    async def send(
        self,
        name: str,
        data: bytes,
        *,
        timeout: float = PATIENCE,
        token: str | None = None,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> bytes:
        """The bytes of the response, or of the first of a stream, to bytes that need not be a message."""
        path = f"/{SERVICE.full_name}/{name}"
        metadata = (*(_metadata(token) or ()), *metadata)
        if not SERVICE.methods_by_name[name].server_streaming:
            return bytes(await self._channel.unary_unary(path)(data, timeout=timeout, metadata=metadata))
        call = self._channel.unary_stream(path)(data, timeout=timeout, metadata=metadata)
        async for first in call:
            call.cancel()
            return bytes(first)
        return b""

    def stream(self, name: str, request: Message, *, token: str | None = None) -> Any:
        """The call of a stream, whose responses are bytes."""
        method = self._channel.unary_stream(f"/{SERVICE.full_name}/{name}")
        return method(request.SerializeToString(), metadata=_metadata(token))

    def start(self, name: str, request: Message, *, token: str | None = None) -> Any:
        """A call that is not awaited."""
        method = self._channel.unary_unary(f"/{SERVICE.full_name}/{name}")
        return method(request.SerializeToString(), metadata=_metadata(token))

    async def code(self, name: str, request: Message | bytes, **options: Any) -> grpc.StatusCode:
        """The status of a call, OK included."""
        data = request if isinstance(request, bytes) else request.SerializeToString()
        try:
            await self.send(name, data, **options)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK


def _metadata(token: str | None) -> tuple[tuple[str, str], ...] | None:
    return None if token is None else (("authorization", f"Bearer {token}"),)


def open_calls(server: Server) -> int:
    """How many calls of a server are open."""
    service = server._service  # pyright: ignore[reportPrivateUsage]
    assert service is not None
    return len(service._open)  # pyright: ignore[reportPrivateUsage]


@contextlib.asynccontextmanager
async def health_client(target: str) -> AsyncGenerator[Any]:
    """A stub of grpc.health.v1 on a server without TLS."""
    async with grpc.aio.insecure_channel(target) as channel:
        yield health_pb2_grpc.HealthStub(cast(Any, channel))


@contextlib.asynccontextmanager
async def raw_client(target: str, options: Options | None = None) -> AsyncGenerator[RawClient]:
    """A client of a server without TLS."""
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        yield RawClient(channel)


@contextlib.asynccontextmanager
async def forwarding(server: Server, *, host: str = "127.0.0.1", delay: float = 0) -> AsyncGenerator[str]:
    """A way to a server, which sees calls come from `host`; what it says first is `delay` seconds under way."""
    async with listening(functools.partial(passed_on, port=server.port, host=host, delay=delay)) as port:
        yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def kept_port() -> Generator[int]:
    """A loopback port that no other test gets, for a server that stops and starts again on the same port."""
    with socket.socket() as keeper:
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that says so too may listen on it
        keeper.bind(("127.0.0.1", 0))
        yield keeper.getsockname()[1]


@contextlib.asynccontextmanager
async def served(
    *jobs: JobSource,
    store: str = "memory://",
    workers: int = 4,
    port: int = 0,
    clock: Clock | None = None,
    **options: Any,
) -> AsyncGenerator[tuple[Node, Server]]:
    """A node, in real time, that serves on loopback, by default on a free port."""
    node = Node(store, jobs=jobs, workers=workers, clock=clock)
    await node.start()
    try:
        async with Server(node, f"127.0.0.1:{port}", **options) as server:
            yield node, server
    finally:
        await node.stop(grace=0)


@contextlib.contextmanager
def losing_answer(target: str, *, answers: int = 0) -> Generator[str]:
    """The address of a server that passes calls on. It goes away instead of an answer to one that acts.

    Before that, it passes on some `answers` to ones that act.
    """
    left = answers
    server = grpc.server(ThreadPoolExecutor(4))

    def handler(name: str) -> Any:
        def handle(request: bytes, context: Any) -> bytes:
            nonlocal left
            with grpc.insecure_channel(target) as channel:
                answer: bytes = cast(Any, channel).unary_unary(f"/{SERVICE.full_name}/{name}")(request)
            left -= RPCS[name].acts
            if left < 0:
                server.stop(0)
                context.abort(grpc.StatusCode.UNAVAILABLE, "the answer was told to get lost")
            return answer

        return grpc.unary_unary_rpc_method_handler(cast(Any, handle))

    handlers = {method.name: handler(method.name) for method in SERVICE.methods}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE.full_name, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()
