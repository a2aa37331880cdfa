"""Whether a caller may make a call, and act on a kind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

from peerjob.model.errors import AuthError, UnauthenticatedError, UnknownScheduleError
from peerjob.model.rights import SYSTEM, Principal, Role
from peerjob.node.node import Node
from peerjob.remote.wire.rpcs import RPCS

from .principals import caller
from .scopes import not_included

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


def may_use_system() -> bool:
    """Whether the caller may act on the kinds that begin with `SYSTEM`."""
    return caller().rights.role >= Role.ADMIN


def is_limited() -> bool:
    """Whether there are kinds on which the caller may not act."""
    return bool(caller().rights.kinds) or not may_use_system()


def check_kind(kind: str, alias: str | None = None) -> None:
    """Raise AuthError for a kind that the caller may not act on. It names the alias, if the caller gave that."""
    rights = caller().rights
    if not rights.include(kind):
        raise not_included(f"kind {alias or kind!r}", rights)
    if kind.startswith(SYSTEM) and not may_use_system():
        raise AuthError(f"kind {kind!r} needs the role admin, and this token has {rights.role.name.lower()}")


async def check_runs(node: Node, kinds: Iterable[str]) -> None:
    """Raise AuthError for a kind or alias by which a node would run a kind that the caller may not act on.

    Other nodes can know aliases that `node` does not know.
    """
    if not is_limited():
        return
    kinds = list(kinds)
    for kind in kinds:
        known = node.find_job(kind)
        check_kind(kind if known is None else known.kind, alias=kind)
    for kind, runs in (await node.kinds_behind(kinds)).items():
        for one in sorted(runs):
            check_kind(one, alias=kind)


async def check_schedule(node: Node, name: str) -> None:
    """Raise AuthError for a schedule of a kind that the caller may not act on."""
    if is_limited():
        with contextlib.suppress(UnknownScheduleError):
            kind, rights = (await node.lookup_schedule(name)).kind, caller().rights
            if not rights.include(kind):
                # names are those of the namespace, so the caller learns that this one is in use, and no more
                raise AuthError(f"schedule {name!r} cannot be set with this token: give the schedule another name")
            await check_runs(node, [kind])
