"""Makes gRPC methods of handlers: parses requests, turns errors into statuses, and ends open calls at a stop."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Container, Mapping, Sequence
from typing import Any, NoReturn, cast
from urllib.parse import unquote

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from peerjob.model.child_tasks import AsyncClosing
from peerjob.model.errors import NodeStateError, NodeStoppedError, PayloadTooLargeError, PeerjobError
from peerjob.node.node import Node
from peerjob.remote.wire.errors import status_of
from peerjob.remote.wire.values import parsed

Context = Any
"""A grpc.aio.ServicerContext. `Any` replaces the class, whose type parameters would check nothing in a handler."""
Unary = Callable[[Any, Context], Awaitable[Message]]
Streaming = Callable[[Any, Context], AsyncGenerator[Message, None]]

logger = logging.getLogger("peerjob.server")


class RpcService:
    """Serves the RPCs of a service with `handlers`, by RPC name; a missing handler raises KeyError.

    `waits` names the RPCs that wait for an event: a server that stops ends them at once. `max_message` limits a
    response, in bytes; gRPC itself limits requests.
    """

    def __init__(
        self,
        node: Node,
        service: ServiceDescriptor,
        handlers: Mapping[str, Any],
        *,
        waits: Container[str],
        max_message: int,
    ) -> None:
        self._node = node
        self._service = service
        self._waits = waits
        self._max_message = max_message
        self._open: dict[asyncio.Task[Any], str] = {}
        self._ended: set[asyncio.Task[Any]] = set()
        self._stopping = False
        self._methods = {method.name: self._method(method, handlers[method.name]) for method in service.methods}

    def generic_handler(self) -> grpc.GenericRpcHandler:
        """The service, in the form that a gRPC server takes."""
        return grpc.method_handlers_generic_handler(self._service.full_name, self._methods)

    async def stop(self, grace: float) -> None:
        """Refuse new calls, end streams and waits, give the other calls `grace` seconds, then end them too.

        The callers of ended waits and streams get NodeStoppedError, and may ask another node.
        """
        self._stopping = True
        for task in [task for task, name in self._open.items() if name in self._waits]:
            self._end_call(task)
        if self._open:
            await asyncio.wait(self._open, timeout=grace)
        for task in list(self._open):
            self._end_call(task)
        if self._open:
            await asyncio.wait(self._open)

    def _method(self, method: MethodDescriptor, serve: Any) -> grpc.RpcMethodHandler[Any, Any]:
        kind = GetMessageClass(method.input_type)
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(cast(Any, self._streaming(method.name, kind, serve)))
        return grpc.unary_unary_rpc_method_handler(cast(Any, self._unary(method.name, kind, serve)))

    def _unary(self, name: str, kind: type[Message], serve: Unary) -> Callable[[bytes, Context], Awaitable[bytes]]:
        async def handle(request: bytes, context: Context) -> bytes:
            task = self._opened(name)
            try:
                with self._node.in_trace_of(context.invocation_metadata):
                    try:
                        return self._sized(await serve(parsed(kind, request), context))
                    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # it becomes a gRPC status
                        await self._fail(name, error, context)
            finally:
                self._closed(task)

        return handle

    def _streaming(
        self, name: str, kind: type[Message], serve: Streaming
    ) -> Callable[[bytes, Context], AsyncIterator[bytes]]:
        async def handle(request: bytes, context: Context) -> AsyncIterator[bytes]:
            task = self._opened(name)
            try:
                try:
                    async with AsyncClosing(serve(parsed(kind, request), context)) as messages:
                        async for message in messages:
                            yield self._sized(message)
                except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # each error becomes a gRPC status
                    await self._fail(name, error, context)
            finally:
                self._closed(task)

        return handle

    def _opened(self, name: str) -> asyncio.Task[Any]:
        """Note that the call of this task is open."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._open[task] = name
        return task

    def _closed(self, task: asyncio.Task[Any]) -> None:
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
            raise error  # the handler itself has sent the gRPC status
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError):
            if task is None or task not in self._ended:
                raise error
            task.uncancel()
            if name not in self._waits:
                # the interrupted call has possibly taken effect, so the client must not retry the call on another node
                text = f"node {self._node.name!r} stopped during {name}"
                await context.abort(grpc.StatusCode.UNAVAILABLE, text)
            error = NodeStoppedError(f"node {self._node.name!r} is stopping")
        elif isinstance(error, NodeStateError) and (self._stopping or not self._node.running or name in self._waits):
            error = NodeStoppedError(str(error))
        elif not isinstance(error, PeerjobError | TimeoutError):
            logger.error("%s failed", name, exc_info=error)
        status = status_of(cast(Exception, error))
        await context.abort(status.code, status.text, status.metadata)
        raise AssertionError("abort raises")


def handlers_of(service: ServiceDescriptor, parts: Sequence[object]) -> dict[str, Any]:
    """The methods of `parts` that have the name of an RPC in snake case, by RPC name."""
    names = {re.sub(r"(?<!^)(?=[A-Z])", "_", method.name).lower(): method.name for method in service.methods}
    return {names[name]: getattr(part, name) for part in parts for name in names if hasattr(part, name)}


def host_of(peer: str) -> str:
    """The host in gRPC's name of a peer: "ipv4:127.0.0.1:41234" is 127.0.0.1, "ipv6:%5B::1%5D:41234" is ::1."""
    kind, _, rest = peer.partition(":")
    return unquote(rest.rpartition(":")[0]).strip("[]") if kind in ("ipv4", "ipv6") else peer
