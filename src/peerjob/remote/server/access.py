"""Whether a caller may make a call, and change a schedule."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

from peerjob.model.errors import AuthError, UnauthenticatedError, UnknownScheduleError
from peerjob.model.rights import Principal, Role
from peerjob.node.node import Node
from peerjob.remote.wire.rpcs import RPCS

from .scopes import caller_scope

REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
NEEDED_ROLES: dict[str, Role] = {REFLECTION: Role.READER} | {rpc.path: rpc.role for rpc in RPCS.values()}
"""The role that a call needs, by path. With tokens, the server refuses any other path to all callers."""


def token_in(metadata: Iterable[tuple[str, Any]]) -> str:
    """The token of a call; raises UnauthenticatedError if there is none. The last one counts."""
    given = [value for key, value in metadata if key == "authorization"]
    if not given:
        raise UnauthenticatedError("a token is needed: authorization: Bearer <token>")
    scheme, _, token = str(given[-1]).partition(" ")
    if scheme.casefold() != "bearer":
        raise UnauthenticatedError("the token is not known here: expected authorization: Bearer <token>")
    return token.strip()


def check_call(path: str, principal: Principal, namespace: str) -> None:
    """Raise AuthError if a caller may not make a call at all."""
    rights, name = principal.rights, path.rpartition("/")[2]
    if rights.namespaces and namespace not in rights.namespaces:
        raise AuthError(f"this token has no rights in namespace {namespace!r}")
    needed = NEEDED_ROLES.get(path)
    if needed is None:
        raise AuthError(f"no token gives the right to call {name}")
    if rights.role < needed:
        raise AuthError(f"{name} needs the role {needed.name.lower()}, and this token has {rights.role.name.lower()}")


async def check_schedule(node: Node, name: str) -> None:
    """Raise AuthError for a schedule of a kind that the caller may not use."""
    scope = caller_scope()
    if scope.is_limited:
        with contextlib.suppress(UnknownScheduleError):
            kind = (await node.lookup_schedule(name)).kind
            if not scope.includes(kind):
                # names are those of the namespace, so the caller learns that this one is in use, and no more
                raise AuthError(f"schedule {name!r} cannot be set with this token: give the schedule another name")
            await scope.check_runs(node, [kind])
