"""Limits the RPCs of a caller to the kinds of its token, as the table `SCOPES` says."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from inspect import isasyncgenfunction
from typing import Any, cast

from google.protobuf.message import Message

from peerjob.model.errors import AuthError, UnknownInstanceError, UnknownKindError, UnknownScheduleError
from peerjob.model.own_cursors import own_cursor
from peerjob.model.query import Query
from peerjob.model.rights import Rights
from peerjob.node.node import Node
from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.remote.wire.activity import without_others
from peerjob.remote.wire.queries import query_of
from peerjob.remote.wire.rpcs import SCOPES, Scope

from .principals import caller
from .rpc_service import Context


def scoped(node: Node, handlers: Mapping[str, Any]) -> dict[str, Any]:
    """The handlers, limited to the kinds of each caller. Raises KeyError for an RPC without a scope."""
    return {name: _scoped(node, name, SCOPES[name], serve) for name, serve in handlers.items()}


def _scoped(node: Node, name: str, scope: Scope, serve: Any) -> Any:
    async def answer(request: Any, context: Context) -> Message:
        rights = caller().rights
        if not rights.kinds:
            complete: Message = await serve(request, context)
            return complete
        await _check(node, name, scope, request, rights)
        if name == "CountInstances":
            return pb.CountInstancesResponse(count=await _count(node, query_of(request.query), rights))
        given = request.query.cursor if name in _PAGES else ""
        while True:
            try:
                response = await serve(request, context)
            except UnknownKindError as error:
                # the error lists the kinds that are known
                raise UnknownKindError(error.kind, [kind for kind in error.known if rights.include(kind)]) from None
            found = _filtered(response, rights)
            if name not in _PAGES or not response.cursor or _set_own_cursor(name, response, request.query, given):
                return found
            request.query.cursor = response.cursor

    async def stream(request: Any, context: Context) -> AsyncIterator[Message]:
        rights = caller().rights
        if rights.kinds:
            await _check(node, name, scope, request, rights)
        messages: AsyncGenerator[Any, None] = serve(request, context)
        async with aclosing(messages):
            async for message in messages:
                if scope is not Scope.FILTERED or rights.include(message.instance.kind):
                    yield message

    return stream if isasyncgenfunction(serve) else answer


async def _check(node: Node, name: str, scope: Scope, request: Any, rights: Rights) -> None:
    """Raise the error of a call that is about another kind."""
    match scope:
        case Scope.WHOLE:
            raise AuthError(f"{name} concerns all kinds, and this token is limited to {_listed(rights)}")
        case Scope.INSTANCE if isinstance(request, pb.RetryInstanceRequest):
            if not rights.include(await kind_to_retry(node, request)):
                raise UnknownInstanceError(request.uuid)
        case Scope.INSTANCE:
            await _check_instance(node, request.uuid, rights)
        case Scope.SCHEDULE:
            if not rights.include((await node.lookup_schedule(request.name)).kind):
                raise UnknownScheduleError(request.name)
        case Scope.QUERY | Scope.FILTERED if "query" in request.DESCRIPTOR.fields_by_name:
            query = query_of(request.query)
            if query.kind is not None:
                check_included(query.kind, rights)
            elif query.id is not None:
                await _check_instance(node, query.id, rights)
            elif scope is Scope.QUERY:
                raise AuthError(f"{name} needs a kind in its query, since this token is limited to {_listed(rights)}")
        case _:
            pass  # the handler checks the kinds of calls, for it knows their aliases


def check_included(kind: str, rights: Rights) -> None:
    """Raise AuthError for a kind that the rights are not about."""
    if not rights.include(kind):
        raise not_included(f"kind {kind!r}", rights)


def not_included(what: str, rights: Rights) -> AuthError:
    """The error for a kind that the rights are not about. `what` names no kind that the caller has not given."""
    return AuthError(f"{what} is not one of {_listed(rights)}, to which this token is limited")


async def _check_instance(node: Node, uuid: str, rights: Rights) -> None:
    if not rights.include((await node.lookup_instance(uuid)).kind):
        raise UnknownInstanceError(uuid)


async def kind_to_retry(node: Node, request: pb.RetryInstanceRequest) -> str:
    """The kind of the instance to retry. If that was removed, a repeat takes the kind of what the first call made."""
    ids = [request.uuid, *([request.new_uuid] if request.HasField("new_uuid") else [])]
    for id in ids:
        with contextlib.suppress(UnknownInstanceError):
            return (await node.lookup_instance(id)).kind
    raise UnknownInstanceError(request.uuid)


async def _count(node: Node, query: Query, rights: Rights) -> int:
    if query.kind is not None or query.id is not None:
        return await node.count(query)
    kinds = [kind for kind in (await node.stats()).counts if rights.include(kind)]
    return sum([await node.count(replace(query, kind=kind)) for kind in kinds])


def _listed(rights: Rights) -> str:
    return ", ".join(rights.kinds)


# -- answers ---------------------------------------------------------------------------------------------------------


def _filtered(response: Any, rights: Rights) -> Message:
    """The response without what belongs to other kinds."""
    kind = cast("type[Message]", type(response))
    change = _FILTERS.get(kind)
    if change is not None:
        change(response, rights)
    found: Message = response
    return found


_PAGES = {"LookupInstances": "instances", "LookupHistory": "entries", "LookupLogs": "lines"}
"""RPCs whose response has a cursor, and the field of what the caller sees. One that acts needs a kind in its query."""


def _set_own_cursor(name: str, response: Any, query: pb.Query, given: str) -> bool:
    """Replace the cursor by one without the id of another kind; False if more must be read for that."""
    items = getattr(response, _PAGES[name])
    seen = items[-1].uuid if items else None
    cursor = own_cursor(response.cursor, seen, given or None, "desc" if query.descending else "asc")
    if cursor is None:
        return False
    response.cursor = cursor
    return True


def _keep(field: str) -> Callable[[Any, Rights], None]:
    """Keep the items of a repeated field whose kind is included."""

    def change(response: Any, rights: Rights) -> None:
        kept = [one for one in getattr(response, field) if rights.include(one.kind)]
        response.ClearField(field)
        getattr(response, field).extend(kept)

    return change


def _stats(response: pb.GetStatsResponse, rights: Rights) -> None:
    _keep("counts")(response, rights)
    for kind in [kind for kind in response.unserved if not rights.include(kind)]:
        del response.unserved[kind]


def _activity(response: pb.GetActivityResponse, rights: Rights) -> None:
    _keep("kinds")(response, rights)
    without_others(response)


def _nodes(response: pb.ListNodesResponse, rights: Rights) -> None:
    for node in response.nodes:
        kept = [kind for kind in node.kinds if rights.include(kind)]
        del node.kinds[:]
        node.kinds.extend(kept)
        node.ClearField("descriptors")  # one for each kind, also for those that are left out
        for kind in [kind for kind in node.signatures if not rights.include(kind)]:
            del node.signatures[kind]


def _workers(response: pb.ListWorkersResponse, rights: Rights) -> None:
    for worker in response.workers:
        if worker.HasField("kind") and not rights.include(worker.kind):
            worker.ClearField("kind")
            worker.ClearField("instance")


_FILTERS: dict[type[Message], Callable[[Any, Rights], None]] = {
    pb.ListRegisteredJobsResponse: _keep("jobs"),
    pb.LookupInstancesResponse: _keep("instances"),
    pb.LookupHistoryResponse: _keep("entries"),
    pb.LookupLogsResponse: _keep("lines"),
    pb.ListSchedulesResponse: _keep("schedules"),
    pb.GetStatsResponse: _stats,
    pb.GetActivityResponse: _activity,
    pb.ListNodesResponse: _nodes,
    pb.ListWorkersResponse: _workers,
}
