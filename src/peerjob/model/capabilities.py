"""What a store tells about itself: its guarantees, and counts of its namespace."""

from __future__ import annotations

import msgspec

from .state import State
from .stored_limit import LimitSupport


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Counts that need no scan."""

    counts: dict[str, dict[State, int]] = {}
    """Number of instances by kind and state."""
    delayed: int = 0
    nodes: int = 0
    undecodable: int = 0
    """Number of records that the store set aside because they cannot be decoded."""
    settling: int = 0
    """Number of ends of instances that `settle` has not followed up yet; above MAX_SETTLED, a store may count less."""


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """Guarantees and limits of a store."""

    engine: str
    """The kind of store: "memory", "sqlite", "redis", "valkey" or "etcd"."""
    durability: str
    """The protection of stored data against a crash of the store: "fsync", "everysec", "replicated", "os" or "none".

    "os": the data survives each process, and is lost only if the operating system ends before it has written the data.
    """
    confirmed_by: str = ""
    """The confirmation that each transaction waits for: "aof" or "replicas:<n>".

    "": each transaction waits only for the server's answer.
    """
    order: str = "strict"
    """The order of claims across nodes: "strict" or "windowed"."""
    clock: str = "server"
    """The clock that decides about due times: "server" or "nodes"."""
    shared: bool = True
    """Whether other processes can use the same store."""
    max_payload: int = 512 << 20
    limits: LimitSupport = LimitSupport()
    warnings: tuple[str, ...] = ()
    """Data that the server's present settings can lose, one sentence for each."""
