"""The descriptors of published kinds, as a store keeps them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

DIGEST_BYTES = 8
"""Bytes of the digest of a kind's descriptor."""
MAX_DESCRIPTORS = 4
"""Most descriptors of one kind that the store keeps: those that were published last."""


class KindDescriptor(msgspec.Struct, frozen=True, kw_only=True):
    """What a node publishes about a kind, for nodes and clients that lack its code. Opaque to a store."""

    kind: str
    digest: bytes
    """DIGEST_BYTES that identify the body. Equal descriptors of several nodes are stored once."""
    body: bytes
    schema: bytes = b""
    """The JSON schema of the arguments; empty: not made yet, or none."""


def digests_of(kinds: Sequence[str], descriptors: bytes) -> Iterator[tuple[str, bytes]]:
    """Each kind of a node with the digest of its descriptor, by `NodeInfo.descriptors`; b"" for a kind without one."""
    for number, kind in enumerate(kinds):
        digest = descriptors[DIGEST_BYTES * number : DIGEST_BYTES * (number + 1)]
        yield kind, digest if digest.strip(b"\0") else b""
