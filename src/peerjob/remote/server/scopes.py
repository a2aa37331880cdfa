"""Limits the RPCs of a caller to the kinds of its rights, as the table `SCOPES` says."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from inspect import isasyncgenfunction
from typing import Any

from google.protobuf.message import Message

from peerjob.handles.instance import Instance
from peerjob.handles.kind_scope import KindScope
from peerjob.handles.manager import Manager
from peerjob.handles.scoped_manager import ScopedManager
from peerjob.model.child_tasks import AsyncClosing
from peerjob.model.durable import FLOW_KIND
from peerjob.model.errors import UnknownInstanceError, UnknownKindError
from peerjob.node.node import Node
from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.remote.wire.queries import query_of
from peerjob.remote.wire.rpcs import SCOPES, Scope

from .principals import caller
from .rpc_service import Context


def caller_scope() -> KindScope:
    """The rules of the rights of the caller of this task's RPC."""
    return KindScope(caller().rights)


def visible(node: Node) -> Manager:
    """The verbs of the node, for the kinds of the caller. RPCs whose scope is FILTERED answer from them."""
    rights = caller().rights
    return ScopedManager(node, rights, lookups=1) if rights.kinds else node


def scoped(node: Node, handlers: Mapping[str, Any]) -> dict[str, Any]:
    """The handlers, limited to the kinds of each caller. Raises KeyError for an RPC without a scope."""
    return {name: _scoped(node, name, SCOPES[name], serve) for name, serve in handlers.items()}


def _scoped(node: Node, name: str, scope: Scope, serve: Any) -> Any:
    async def answer(request: Any, context: Context) -> Message:
        await _check(node, name, scope, request)
        try:
            response: Message = await serve(request, context)
        except UnknownKindError as error:
            raise caller_scope().masked(error) from None
        return response

    async def stream(request: Any, context: Context) -> AsyncIterator[Message]:
        await _check(node, name, scope, request)
        messages: AsyncGenerator[Message, None] = serve(request, context)
        async with AsyncClosing(messages):
            async for message in messages:
                yield message

    return stream if isasyncgenfunction(serve) else answer


async def _check(node: Node, name: str, scope: Scope, request: Any) -> None:
    """Raise the error of a call that is about another kind."""
    if not caller().rights.kinds:
        return
    rules = caller_scope()
    match scope:
        case Scope.WHOLE:
            rules.refuse_whole(name)
        case Scope.INSTANCE if isinstance(request, pb.RetryInstanceRequest):
            if not rules.includes_instance(await instance_to_retry(node, request)):
                raise UnknownInstanceError(request.uuid)
        case Scope.INSTANCE:
            await rules.instance(node, request.uuid)
        case Scope.SCHEDULE:
            await rules.schedule(node, request.name)
        case Scope.FILTERED if name == "LookupInstances" and request.query.kind == FLOW_KIND:
            pass  # the answer has the flows whose members all are of the caller's kinds
        case Scope.QUERY | Scope.FILTERED if "query" in request.DESCRIPTOR.fields_by_name:
            await rules.check_query(node, query_of(request.query), acting=name if scope is Scope.QUERY else "")
        case _:
            pass  # the handler checks the kinds of calls, since it knows their aliases


async def instance_to_retry(node: Node, request: pb.RetryInstanceRequest) -> Instance[Any]:
    """The instance to retry. If that was removed, a repeat takes what the first call made."""
    ids = [request.uuid, *([request.new_uuid] if request.HasField("new_uuid") else [])]
    for id in ids:
        with contextlib.suppress(UnknownInstanceError):
            return await node.lookup_instance(id)
    raise UnknownInstanceError(request.uuid)
