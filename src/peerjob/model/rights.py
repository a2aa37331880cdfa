"""Callers of a service, such as the gRPC service or the dashboard, and their rights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Protocol, Self

from .arguments import check_fields
from .clock import to_us
from .errors import OptionError
from .limits import MAX_KIND, checked_text

SYSTEM = "system."
"""The prefix of the kinds of peerjob's own jobs. Only an admin is allowed to use them, since the jobs remove data."""
FIELDS = ("kinds", "namespaces", "until")
ROLES = "reader, operator or admin"
EXAMPLES = "kinds=mail.*,report, namespaces=prod,dev or until=2027-01-31T00:00:00Z"


class Role(IntEnum):
    """What a caller may do. Each role includes the ones before it."""

    READER = 1
    """The right to read."""
    OPERATOR = 2
    """The rights of a reader, and to schedule, cancel and retry instances and to change schedules."""
    ADMIN = 3
    """The rights of an operator, and to clear data, resize workers and drain nodes."""


@dataclass(frozen=True, kw_only=True)
class Rights:
    """What a caller may do: a role, within some kinds and namespaces, until some time. Raises OptionError.

    `kinds` are names of kinds, or prefixes that end with `*`. An empty tuple means all kinds, or all namespaces.
    """

    role: Role
    kinds: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    until: datetime | None = None

    def __post_init__(self) -> None:
        check_fields(self, Rights)
        for kind in self.kinds:
            if "*" in checked_text("kinds", kind, MAX_KIND)[:-1]:
                raise OptionError("kinds", kind, "a kind, or a prefix that ends with *")
        if self.until is not None and self.until.tzinfo is None:
            raise OptionError("until", self.until.isoformat(), "a time with a zone, such as 2027-01-31T00:00:00Z")

    @classmethod
    def parse(cls, option: str, words: Sequence[str]) -> Self:
        """Read a role and the fields after it; raises OptionError that names `option`."""
        try:
            role = Role[words[0].upper()]
            given = dict(_field(word) for word in words[1:])
            until = datetime.fromisoformat(given["until"]) if "until" in given else None
            return cls(role=role, kinds=_list(given, "kinds"), namespaces=_list(given, "namespaces"), until=until)
        except (LookupError, ValueError, OptionError):
            raise OptionError(option, " ".join(words), f"{ROLES}, then {EXAMPLES}") from None

    def words(self) -> list[str]:
        """The inverse of `parse`."""
        given = {
            "kinds": ",".join(self.kinds),
            "namespaces": ",".join(self.namespaces),
            "until": "" if self.until is None else self.until.isoformat(),
        }
        return [self.role.name.lower(), *(f"{name}={value}" for name, value in given.items() if value)]

    def include(self, kind: str) -> bool:
        """Whether these rights are about a kind."""
        return not self.kinds or any(
            kind.startswith(pattern[:-1]) if pattern.endswith("*") else kind == pattern for pattern in self.kinds
        )

    def expired(self, now_us: int) -> bool:
        """Whether the time of these rights is over."""
        return self.until is not None and to_us(self.until) <= now_us


@dataclass(frozen=True, kw_only=True)
class Principal:
    """An authenticated caller."""

    name: str
    rights: Rights
    credential: str = field(default="", repr=False)
    """Identifies the caller: the hash of its token, or the subject of its JWT."""
    key: str = field(default="", repr=False)
    """Identifies the key that signed its JWT."""

    def __post_init__(self) -> None:
        check_fields(self, Principal, secrets=("credential", "key"))


ANYBODY = Principal(name="anonymous", rights=Rights(role=Role.ADMIN))
"""The caller of a server without tokens."""


class Authenticator(Protocol):
    """Knows the callers of a server by what they send as a token."""

    async def principal_of(self, token: str) -> Principal | None:
        """The caller with a token; None for an unknown token. Raises UnauthenticatedError that says what is wrong."""
        ...

    def knows(self, principal: Principal) -> bool:
        """Whether the token of a caller that was known still gives the same rights. It may have expired."""
        ...


def is_field(word: str) -> bool:
    """Whether a word in a line of rights is a field, such as kinds=a.*; a misspelled field is one, too."""
    return "=" in word


def _field(word: str) -> tuple[str, str]:
    name, _, value = word.partition("=")
    if name not in FIELDS or not value:
        raise ValueError(word)
    return name, value


def _list(given: dict[str, str], name: str) -> tuple[str, ...]:
    values = tuple(given[name].split(",")) if name in given else ()
    if not all(values):
        raise ValueError(values)
    return values
