"""Handlers of the RPCs that map to one verb of the manager, made from the table of RPCs."""

from __future__ import annotations

from typing import Any, cast

from google.protobuf.message import Message

from peerjob.node.node import Node
from peerjob.remote.wire.rpcs import RPCS, SCOPES, Scope, VerbRpc

from .access import check_schedule
from .rpc_service import Context, Unary
from .scopes import visible


def verb_handlers(node: Node) -> dict[str, Unary]:
    """By the name of the RPC."""
    rows = cast("list[VerbRpc[Any, Any, Any, Any]]", [rpc for rpc in RPCS.values() if isinstance(rpc, VerbRpc)])
    return {rpc.name: _handler(node, rpc) for rpc in rows}


def _handler(node: Node, rpc: VerbRpc[Any, Any, Any, Any]) -> Unary:
    async def handle(request: Any, context: Context) -> Message:
        criteria = rpc.criteria.read(request)
        if rpc.changes_schedule:
            await check_schedule(node, request.name)
        manager = visible(node) if SCOPES[rpc.name] is Scope.FILTERED else node
        response: Message = rpc.response(**rpc.result.write(await rpc.verb(manager, criteria)))
        return response

    return handle
