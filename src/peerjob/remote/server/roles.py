"""Who may call what: tokens with roles."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Self

from peerjob.model.errors import AuthError, OptionError, UnauthenticatedError

from .rpc_service import SERVICE


class Role(IntEnum):
    """What a caller may do; each may all that the ones before it may."""

    READER = 1
    """Look."""
    OPERATOR = 2
    """Schedule, cancel, repeat, and change schedules."""
    ADMIN = 3
    """Clear, resize and drain."""


_READER = (
    {"GetVersion", "GetInstance", "GetStats", "GetSchedule", "GetLeader", "CountInstances", "NextFires", "ExplainCron"}
    | {"ListRegisteredJobs", "ListSchedules", "ListFires", "ListNodes", "ListWorkers"}
    | {"LookupInstances", "LookupHistory", "LookupLogs", "ReadLogs", "WaitInstance", "WaitInstances", "Watch"}
)
_OPERATOR = (
    {"ScheduleJob", "ScheduleJobs", "CancelInstances", "CancelInstance", "RetryInstances", "RetryInstance"}
    | {"PutSchedule", "PauseSchedule", "ResumeSchedule", "TriggerSchedule", "RemoveSchedule", "Backfill"}
)  # fmt: skip
NEEDED: dict[str, Role] = (
    {"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Role.READER}
    | {f"/{SERVICE.full_name}/{name}": Role.READER for name in _READER}
    | {f"/{SERVICE.full_name}/{name}": Role.OPERATOR for name in _OPERATOR}
)
"""By path; what is not listed needs `Role.ADMIN`, so that a new RPC is closed until it is listed."""
SYSTEM = "system."
"""How the kinds of peerjob's own jobs begin: they remove what only an admin may remove."""
_caller: ContextVar[Role] = ContextVar("caller", default=Role.ADMIN)
"""The role in which the RPC of this task is called; without tokens everyone may do everything."""


def called_by(role: Role) -> None:
    """Note the role of the caller, for the rest of this RPC."""
    _caller.set(role)


def may_use_system() -> bool:
    """Whether the caller may act on the kinds that begin with `SYSTEM`."""
    return _caller.get() >= Role.ADMIN


def check_kind(kind: str) -> None:
    """Raise AuthError for a kind that the caller may not act on."""
    if kind.startswith(SYSTEM) and not may_use_system():
        raise AuthError(f"kind {kind!r} needs the role admin, and this token has {_caller.get().name.lower()}")


@dataclass(frozen=True, kw_only=True)
class Token:
    """A token that is let in, known by its hash."""

    digest: str
    """SHA-256 of the token, in hexadecimal."""
    role: Role
    name: str = ""
    """For people: whose it is."""

    @classmethod
    def of(cls, token: str, role: Role, name: str = "") -> Self:
        """The entry for a token in clear."""
        return cls(digest=hash_token(token), role=role, name=name)

    def line(self) -> str:
        """As it stands in a file of tokens."""
        return f"{self.role.name.lower()} {self.digest} {self.name}".rstrip()


class Tokens:
    """The tokens that are let in."""

    def __init__(self, tokens: Iterable[Token]) -> None:
        self._tokens = tuple(tokens)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file with a line for each: role, SHA-256 in hexadecimal, and a name. Raises OptionError."""
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError("tokens", str(path), f"a file of tokens that can be read ({error})") from None
        numbered = [(number, line.split(None, 2)) for number, line in enumerate(lines, 1)]
        return cls(_token(str(path), number, words) for number, words in numbered if words and words[0][0] != "#")

    def role_of(self, token: str) -> Role | None:
        """What the bearer may do; None for a token that is unknown."""
        digest, found = hash_token(token), None
        for one in self._tokens:  # all of them, so that the time tells nothing
            if hmac.compare_digest(one.digest, digest):
                found = one.role
        return found

    def __len__(self) -> int:
        return len(self._tokens)


def hash_token(token: str) -> str:
    """What is kept of a token; tokens are long and random, so that a fast hash does."""
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
    """The role in which this caller may call that, or why not."""
    given = [value for key, value in metadata if key == "authorization"]
    if not given:
        return UnauthenticatedError("a token is needed: authorization: Bearer <token>")
    scheme, _, token = str(given[-1]).partition(" ")
    role = tokens.role_of(token.strip()) if scheme.casefold() == "bearer" else None
    if role is None:
        return UnauthenticatedError("the token is not known here")
    needed = NEEDED.get(path, Role.ADMIN)
    if role < needed:
        name = path.rpartition("/")[2]
        return AuthError(f"{name} needs the role {needed.name.lower()}, and this token has {role.name.lower()}")
    return role
