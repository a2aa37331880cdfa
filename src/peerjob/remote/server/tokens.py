"""Tokens, and the rights that they give to callers."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from peerjob.model.arguments import check_fields, several, typed, typed_except_secrets
from peerjob.model.errors import OptionError
from peerjob.model.rights import EXAMPLES, ROLES, Authenticator, Principal, Rights, Role, is_field


@dataclass(frozen=True, kw_only=True)
class Token:
    """A token that the server accepts, known by its hash."""

    digest: str
    """SHA-256 of the token, in hexadecimal."""
    rights: Rights
    name: str = ""
    """The owner of the token, shown to people and in the audit log."""

    def __post_init__(self) -> None:
        check_fields(self, Token, secrets=("digest",))

    @classmethod
    @typed_except_secrets("token")
    def of(
        cls,
        token: str,
        role: Role,
        name: str = "",
        *,
        kinds: Iterable[str] = (),
        namespaces: Iterable[str] = (),
        until: datetime | None = None,
    ) -> Self:
        """The entry of a token in clear text. Empty `kinds` or `namespaces` mean all of them. Raises OptionError."""
        rights = Rights(
            role=role,
            kinds=several("kinds", kinds, str, "names of kinds"),
            namespaces=several("namespaces", namespaces, str, "names of namespaces"),
            until=until,
        )
        return cls(digest=hash_token(token), rights=rights, name=name)

    @property
    def principal(self) -> Principal:
        """The caller that has this token."""
        return Principal(name=self.name or f"token {self.digest[:8]}", rights=self.rights, credential=self.digest)

    def line(self) -> str:
        """The line of this token in a tokens file."""
        role, *fields = self.rights.words()
        return " ".join(word for word in (role, self.digest, self.name, *fields) if word)


class Tokens(Authenticator):
    """The tokens that a server accepts."""

    def __init__(self, tokens: Iterable[Token]) -> None:
        self._principals = tuple(token.principal for token in several("tokens", tokens, Token, "Tokens in a list"))

    @classmethod
    @typed
    def load(cls, path: str | Path) -> Self:
        """Read a tokens file. Raises OptionError.

        Each line has a role, a SHA-256 in hexadecimal, and optionally a name, kinds=, namespaces= and until=.
        """
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise OptionError("tokens", str(path), f"a file of tokens that can be read ({error})") from None
        numbered = [(number, line.split()) for number, line in enumerate(lines, 1)]
        return cls(
            _token(f"{path}, line {number}", words) for number, words in numbered if words and words[0][0] != "#"
        )

    async def principal_of(self, token: str) -> Principal | None:
        return self.find(token)

    def find(self, token: str) -> Principal | None:
        """The caller with a token; None for an unknown token."""
        digest, match = hash_token(token), None
        # all tokens are compared: a search that ends at the match would reveal the position of the match by its time
        for principal in self._principals:
            if hmac.compare_digest(principal.credential, digest):
                match = principal
        return match

    def knows(self, principal: Principal) -> bool:
        return principal in self._principals

    def __len__(self) -> int:
        return len(self._principals)


def hash_token(token: str) -> str:
    """The hash that is kept of a token. A fast hash is enough, since tokens are long and random."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _token(line: str, words: list[str]) -> Token:
    fields = [word for word in words[2:] if is_field(word)]
    name = " ".join(word for word in words[2:] if not is_field(word))
    try:
        digest = words[1].lower()
        if len(bytes.fromhex(digest)) != hashlib.sha256().digest_size:
            raise ValueError(digest)
        return Token(digest=digest, rights=Rights.parse("tokens", [words[0], *fields]), name=name)
    except (IndexError, ValueError, OptionError):
        # the line is not shown, since it can contain a token by mistake
        raise OptionError("tokens", line, f"{ROLES}, and a SHA-256, then a name, {EXAMPLES}") from None
