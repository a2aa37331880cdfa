"""From handlers to what gRPC calls: requests are parsed, errors become statuses, whoever waits is told of the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Sequence
from typing import Any, NoReturn, cast

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from peerjob.model.errors import NodeStateError, NodeStoppedError, PayloadTooLargeError, PeerjobError
from peerjob.node.node import Node
from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.remote.wire.errors import status_of
from peerjob.remote.wire.values import parsed

SERVICE = pb.DESCRIPTOR.services_by_name["JobService"]
LONG = frozenset({"Watch", "ReadLogs", "WaitInstance", "WaitInstances", "Drain", "StreamIsActive"})
"""RPCs that wait for something to happen: a server that stops waits for none of them."""

Context = Any
"""A grpc.aio.ServicerContext, which is generic in ways that say nothing here."""
Unary = Callable[[Any, Context], Awaitable[Message]]
Streaming = Callable[[Any, Context], AsyncGenerator[Message, None]]

logger = logging.getLogger("peerjob.server")


class RpcService:
    """Serves the RPCs of a service with the methods of `parts`, which bear the RPCs' names in snake case.

    `max_message` bounds a response, in bytes; gRPC itself bounds requests.
    """

    def __init__(
        self, node: Node, parts: Sequence[object], *, max_message: int, service: ServiceDescriptor = SERVICE
    ) -> None:
        self._node = node
        self._service = service
        self._max_message = max_message
        self._open: dict[asyncio.Task[Any], str] = {}
        self._ended: set[asyncio.Task[Any]] = set()
        self._stopping = False
        self._handlers = {method.name: self._handler(method, parts) for method in service.methods}

    def generic_handler(self) -> grpc.GenericRpcHandler:
        """What a server is given."""
        return grpc.method_handlers_generic_handler(self._service.full_name, self._handlers)

    async def stop(self, grace: float) -> None:
        """Refuse new calls, end streams and waits, let the other calls go on for `grace` seconds, and end them too.

        Whoever is ended is told that another node may serve.
        """
        self._stopping = True
        for task in [task for task, name in self._open.items() if name in LONG]:
            self._end_call(task)
        if self._open:
            await asyncio.wait(self._open, timeout=grace)
        for task in list(self._open):
            self._end_call(task)
        if self._open:
            await asyncio.wait(self._open)

    def _handler(self, method: MethodDescriptor, parts: Sequence[object]) -> grpc.RpcMethodHandler[Any, Any]:
        kind = GetMessageClass(method.input_type)
        serve = _method_of(parts, method.name)
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(cast(Any, self._streaming(method.name, kind, serve)))
        return grpc.unary_unary_rpc_method_handler(cast(Any, self._unary(method.name, kind, serve)))

    def _unary(self, name: str, kind: type[Message], serve: Unary) -> Callable[[bytes, Context], Awaitable[bytes]]:
        async def handle(request: bytes, context: Context) -> bytes:
            with self._opened(name), self._node.in_trace_of(context.invocation_metadata):
                try:
                    return self._sized(await serve(parsed(kind, request), context))
                except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # each becomes a status
                    await self._fail(name, error, context)

        return handle

    def _streaming(
        self, name: str, kind: type[Message], serve: Streaming
    ) -> Callable[[bytes, Context], AsyncIterator[bytes]]:
        async def handle(request: bytes, context: Context) -> AsyncIterator[bytes]:
            with self._opened(name):
                try:
                    async with contextlib.aclosing(serve(parsed(kind, request), context)) as messages:
                        async for message in messages:
                            yield self._sized(message)
                except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # each becomes a status
                    await self._fail(name, error, context)

        return handle

    @contextlib.contextmanager
    def _opened(self, name: str) -> Generator[None]:
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._open[task] = name
        try:
            yield
        finally:
            del self._open[task]
            self._ended.discard(task)

    def _end_call(self, task: asyncio.Task[Any]) -> None:
        self._ended.add(task)
        task.cancel()

    def _sized(self, message: Message) -> bytes:
        data = message.SerializeToString()
        if len(data) > self._max_message:
            raise PayloadTooLargeError("response", len(data), self._max_message)
        return data

    async def _fail(self, name: str, error: BaseException, context: Context) -> NoReturn:
        if isinstance(error, grpc.aio.AbortError):
            raise error  # the status is told already
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError):
            if task is None or task not in self._ended:
                raise error
            task.uncancel()
            if name not in LONG:
                # it may have been done, so nobody is told to go on elsewhere as if it had not
                text = f"node {self._node.name!r} stopped while it was about {name}"
                await context.abort(grpc.StatusCode.UNAVAILABLE, text)
            error = NodeStoppedError(f"node {self._node.name!r} is stopping")
        elif isinstance(error, NodeStateError) and (self._stopping or not self._node.running or name in LONG):
            error = NodeStoppedError(str(error))
        elif not isinstance(error, PeerjobError | TimeoutError):
            logger.error("%s failed", name, exc_info=error)
        status = status_of(cast(Exception, error))
        await context.abort(status.code, status.text, status.metadata)
        raise AssertionError("abort raises")


def _method_of(parts: Sequence[object], name: str) -> Any:
    """The method for an RPC; a release that has an RPC and no handler must not start."""
    snake = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
    [found] = [method for part in parts if (method := getattr(part, snake, None)) is not None]
    return found
