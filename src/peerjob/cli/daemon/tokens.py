"""The tokens file: jobd adds tokens to it as hashes, and reads it again on SIGHUP."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Self

from peerjob import OptionError, Token, Tokens
from peerjob.model.rights import Principal, Rights, is_field
from peerjob.remote.server.tokens import hash_token

TOKEN_BYTES = 32


class TokensFile(Tokens):
    """The tokens of a file, as of the last read. Raises OptionError if it cannot be read."""

    def __init__(self, path: Path) -> None:
        super().__init__(())
        self._path = path
        self._current = Tokens.load(path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        return cls(Path(path))

    def reload(self) -> None:
        """Read the file again; raises OptionError, and then keeps the tokens of the last read."""
        self._current = Tokens.load(self._path)

    def find(self, token: str) -> Principal | None:
        return self._current.find(token)

    def knows(self, principal: Principal) -> bool:
        return self._current.knows(principal)

    def __len__(self) -> int:
        return len(self._current)


def create(path: Path, rights: Rights, name: str) -> str:
    """Add a new token to a file and return it. A new file is readable by its owner only."""
    if len(name.split()) > 1 or not name.isprintable() or is_field(name):
        raise OptionError("--name", name, "a word without =")
    if path.exists():
        # an existing file that is not a tokens file raises an error before the command changes the file
        Tokens.load(path)
    token = f"pj_{secrets.token_urlsafe(TOKEN_BYTES)}"
    line = Token(digest=hash_token(token), rights=rights, name=name).line()
    try:
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            size = os.fstat(file).st_size
            ended = size == 0 or os.pread(file, 1, size - 1) == b"\n"
            os.write(file, f"{'' if ended else chr(10)}{line}\n".encode())
        finally:
            os.close(file)
    except OSError as error:
        raise OptionError("--tokens-file", str(path), f"a file that can be written ({error.strerror})") from None
    return token
