"""Tokens and the roles that they give to callers."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from peerjob.model.errors import AuthError, OptionError, UnauthenticatedError, UnknownScheduleError
from peerjob.node.node import Node
from peerjob.remote.wire.rpcs import RPCS, Role

REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
NEEDED_ROLES: dict[str, Role] = {REFLECTION: Role.READER} | {rpc.path: rpc.role for rpc in RPCS.values()}
"""The role that a call needs, by path. Any other path needs `Role.ADMIN`."""
SYSTEM = "system."
"""The prefix of the kinds of peerjob's own jobs. Only an admin is allowed to use them, since the jobs remove data."""
_caller_role: ContextVar[Role] = ContextVar("caller_role", default=Role.ADMIN)
"""The role of the caller of this task's RPC. Without tokens, each caller is an admin."""


def set_caller_role(role: Role) -> None:
    """Set the role of the caller for the rest of this RPC."""
    _caller_role.set(role)


def may_use_system() -> bool:
    """Whether the caller may act on the kinds that begin with `SYSTEM`."""
    return _caller_role.get() >= Role.ADMIN


def check_kind(kind: str) -> None:
    """Raise AuthError for a kind that the caller may not act on."""
    if kind.startswith(SYSTEM) and not may_use_system():
        raise AuthError(f"kind {kind!r} needs the role admin, and this token has {_caller_role.get().name.lower()}")


async def check_schedule(node: Node, name: str) -> None:
    """Raise AuthError for a schedule of a kind that the caller may not act on."""
    if not may_use_system():
        with contextlib.suppress(UnknownScheduleError):
            check_kind((await node.lookup_schedule(name)).kind)


@dataclass(frozen=True, kw_only=True)
class Token:
    """A token that the server accepts, known by its hash."""

    digest: str
    """SHA-256 of the token, in hexadecimal."""
    role: Role
    name: str = ""
    """The owner of the token, only shown to people."""

    @classmethod
    def of(cls, token: str, role: Role, name: str = "") -> Self:
        """The entry of a token in clear text."""
        return cls(digest=hash_token(token), role=role, name=name)

    def line(self) -> str:
        """The line of this token in a tokens file."""
        return f"{self.role.name.lower()} {self.digest} {self.name}".rstrip()


class Tokens:
    """The tokens that a server accepts."""

    def __init__(self, tokens: Iterable[Token]) -> None:
        self._tokens = tuple(tokens)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a tokens file. Each line has a role, a SHA-256 in hexadecimal, and a name. Raises OptionError."""
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError("tokens", str(path), f"a file of tokens that can be read ({error})") from None
        numbered = [(number, line.split(None, 2)) for number, line in enumerate(lines, 1)]
        return cls(_token(str(path), number, words) for number, words in numbered if words and words[0][0] != "#")

    def role_of(self, token: str) -> Role | None:
        """The role of a token; None for an unknown one."""
        digest, found = hash_token(token), None
        # all tokens are compared: a search that ends at the match would reveal the place of the match by its time
        for one in self._tokens:
            if hmac.compare_digest(one.digest, digest):
                found = one.role
        return found

    def __len__(self) -> int:
        return len(self._tokens)


def hash_token(token: str) -> str:
    """The hash that is kept of a token. A fast hash is enough, since tokens are long and random."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _token(path: str, number: int, words: list[str]) -> Token:
    try:
        role, digest = Role[words[0].upper()], words[1].lower()
        if len(bytes.fromhex(digest)) != hashlib.sha256().digest_size:
            raise ValueError(digest)
    except (KeyError, IndexError, ValueError):
        raise OptionError("tokens", f"{path}, line {number}", "reader, operator or admin, and a SHA-256") from None
    return Token(digest=digest, role=role, name=words[2] if len(words) > 2 else "")


def role_in(tokens: Tokens, path: str, metadata: Iterable[tuple[str, Any]]) -> Role | AuthError:
    """The caller's role, or the error if it does not suffice for this path."""
    given = [value for key, value in metadata if key == "authorization"]
    if not given:
        return UnauthenticatedError("a token is needed: authorization: Bearer <token>")
    scheme, _, token = str(given[-1]).partition(" ")
    role = tokens.role_of(token.strip()) if scheme.casefold() == "bearer" else None
    if role is None:
        return UnauthenticatedError("the token is not known here")
    needed = NEEDED_ROLES.get(path, Role.ADMIN)
    if role < needed:
        name = path.rpartition("/")[2]
        return AuthError(f"{name} needs the role {needed.name.lower()}, and this token has {role.name.lower()}")
    return role
