"""Numbers that a text determines: all nodes have the same one, and a repeat has it again."""

from __future__ import annotations

import hashlib

MAX_HASH = 2**32
"""A limit that is large enough for a share between 0 and 1."""


def hashed_up_to(limit: int, text: str) -> int:
    """A whole number from 0 to `limit`, evenly spread over the texts."""
    drawn = int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
    return drawn * (limit + 1) >> 64
