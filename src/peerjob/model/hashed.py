"""Numbers that a text determines: all nodes have the same one, and a repeat has it again."""

from __future__ import annotations

import hashlib

_FINE = 2**32


def hashed_up_to(limit: int, text: str) -> int:
    """A whole number from 0 to `limit`, evenly spread over the texts."""
    drawn = int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
    return drawn * (limit + 1) >> 64


def hashed_share(text: str) -> float:
    """A number from 0 to 1, evenly spread over the texts."""
    return hashed_up_to(_FINE, text) / _FINE
