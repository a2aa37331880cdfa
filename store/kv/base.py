"""The small key-value store that the engine stands on; a driver is one class that keeps this protocol.

Keys are ASCII text, ordered by code point. Values are bytes. Every write has a revision, a number that only grows;
an entry remembers the revision of its last write. Limits that every driver may rely on the engine to keep: at most
MAX_STEPS steps in a transaction, MAX_STEP_OPS operations in a step unless it is alone, MAX_REQUEST_BYTES in all
(one instance may always go alone), and no key written by two steps of one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from peerjob.model.errors import StoreUnavailableError
from peerjob.model.record import Capabilities

MAX_STEPS = 60
"""Most steps in one transaction."""
MAX_WIDTH = 122
"""Most steps and compares in one transaction, what goes along included, unless a step is alone: etcd takes 128."""
MAX_STEP_OPS = 24
"""Most operations in a step that is not alone."""
MAX_REQUEST_BYTES = 512 << 10
"""Most bytes in one transaction; a driver that must send steps twice is then still within etcd's 1.5 MiB."""
MAX_ALONE_BYTES = 5 << 18
"""Most bytes of what one instance brings along to a step: with a result of 1 MiB go 256 KiB of log lines."""


class LeaseEndedError(StoreUnavailableError):
    """The lease that a request names has ended; nothing of the request was done."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A stored value."""

    value: bytes
    mod: int
    """Revision of the last write."""
    lease: int = 0


class Range(msgspec.Struct, frozen=True, gc=False):
    """A read of the keys in [start, end), or of `start` alone when there is no end."""

    start: str
    end: str = ""
    limit: int = 0
    """Most entries to answer; 0: all."""
    keys_only: bool = False
    """Values are not needed."""
    reverse: bool = False


class Found(msgspec.Struct, frozen=True):
    """What a range holds, in order."""

    items: Sequence[tuple[str, Entry]]
    count: int
    """Entries in the range, whatever the limit."""


class Compare(msgspec.Struct, frozen=True, gc=False):
    """A condition, judged on the state before the whole transaction."""

    key: str
    mod: int = 0
    """Holds if the key was last written at this revision; 0: if it is absent."""
    below: str = ""
    """When given, holds instead if the key exists and its value is smaller than this text."""
    end: str = ""
    """When given, holds instead if no key is in [key, end)."""


class Put(msgspec.Struct, frozen=True, gc=False):
    """Write a value; with a lease, the key goes when the lease ends."""

    key: str
    value: bytes
    lease: int = 0


class Delete(msgspec.Struct, frozen=True, gc=False):
    """Remove a key, or those in [key, end); it is no error when there is none."""

    key: str
    end: str = ""


Op = Put | Delete


def bytes_of(compares: Sequence[Compare], ops: Sequence[Op]) -> int:
    """About how many bytes a step takes in a request."""
    size = 24 * (len(compares) + len(ops))
    for compare in compares:
        size += len(compare.key) + len(compare.below) + len(compare.end)
    for op in ops:
        size += len(op.key) + (len(op.value) if isinstance(op, Put) else len(op.end))
    return size


class Step(msgspec.Struct, frozen=True):
    """Operations that are done, in order, if all compares hold; reads are answered after them."""

    compares: Sequence[Compare]
    ops: Sequence[Op]
    reads: Sequence[Range] = ()


class Applied(msgspec.Struct, frozen=True):
    """What became of a transaction."""

    revision: int
    """Revision of everything that it wrote."""
    steps: Sequence[Sequence[Found] | None]
    """Per step the answers to its reads, or None when a compare did not hold."""
    also: Sequence[Found] | None = None
    refused: bool = False
    """Whether nothing was applied and a guard may be the reason."""


class Watch(Protocol):
    """The keys below some prefixes that were put, as hints: some may be missed or told twice."""

    async def changed(self, timeout: float) -> Mapping[str, bytes] | None:
        """Keys put since the last call, with their values, waiting up to `timeout` seconds for one.

        None: read again, some were missed.
        """
        ...

    def close(self) -> None: ...


class KeyValue(Protocol):
    """A transactional key-value store, used from one event loop.

    Fails with the errors of `peerjob.model.errors` only. A driver never sends a write twice: it raises
    StoreUnavailableError when it cannot tell whether one was applied, and LeaseEndedError for a put with a lease that
    the server does not have.
    """

    @property
    def capabilities(self) -> Capabilities:
        """What a store on it promises; known after `open`."""
        ...

    @property
    def identity(self) -> str:
        """Which server or cluster this is, as a part of what terms belong to; known after `open`.

        "memory", or "etcd:<cluster id>".
        """
        ...

    @property
    def full(self) -> bool:
        """Whether new instances are to be refused, so that work under way can still be finished."""
        ...

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def separate(self) -> KeyValue:
        """Another connection to the same data, not opened yet, for another event loop."""
        ...

    async def get(self, keys: Sequence[str]) -> list[Entry | None]:
        """Entries by key."""
        ...

    async def read(self, ranges: Sequence[Range]) -> list[Found]:
        """Answers to several reads, of one moment as far as one request can hold them."""
        ...

    async def txn(self, steps: Sequence[Step], also: Step | None = None, guards: Sequence[Compare] = ()) -> Applied:
        """Apply every step whose compares hold; and `also`, if its own hold and every step was applied. All at once.

        Where one of the guards does not hold, nothing is applied.
        """
        ...

    def watch(self, *prefixes: str) -> Watch:
        """Watch the keys below some prefixes, from now on."""
        ...

    async def grant(self, ttl_us: int) -> int:
        """A new lease; its number is not 0."""
        ...

    async def keepalive(self, lease: int) -> bool:
        """Extend a lease to its full time again; False when it has ended."""
        ...

    async def revoke(self, lease: int) -> None:
        """End a lease and remove its keys."""
        ...

    async def remaining(self, leases: Sequence[int]) -> list[int]:
        """Microseconds that each lease has left; 0 when it has ended."""
        ...
