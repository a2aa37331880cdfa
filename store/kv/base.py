"""The key-value store that the engine needs: a driver is one class with this protocol.

Keys are ASCII text, ordered by code point. Values are bytes. Every write has a revision, a number that only grows.
An entry has the revision of its last write.

The engine keeps these limits, so drivers may rely on them:

* A transaction has at most MAX_STEPS steps, and MAX_REQUEST_BYTES unless it has one step only.
* A step has at most MAX_STEP_OPS operations, unless it is the only one.
* No two steps of a transaction write the same key.
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
"""Most steps and compares in one transaction, `also` included, unless it has one step only: etcd accepts 128."""
MAX_STEP_OPS = 24
"""Most operations in a step, unless it is the only one."""
MAX_REQUEST_BYTES = 512 << 10
"""Most bytes in one transaction: a driver that sends steps twice still stays within etcd's 1.5 MiB."""
MAX_ALONE_BYTES = 5 << 18
"""Most bytes of the payload of one instance in a step: a result of 1 MiB and 256 KiB of log lines."""


class LeaseEndedError(StoreUnavailableError):
    """The lease that a request names has ended; the request changed nothing."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A stored value."""

    value: bytes
    mod: int
    """Revision of the last write."""
    lease: int = 0


class Range(msgspec.Struct, frozen=True, gc=False):
    """A read of the keys in [start, end), or of the key `start` if there is no end."""

    start: str
    end: str = ""
    limit: int = 0
    """Most entries in the answer; 0: all."""
    keys_only: bool = False
    """Whether the answer has no values."""
    reverse: bool = False


class Found(msgspec.Struct, frozen=True):
    """The entries of a range, in order."""

    items: Sequence[tuple[str, Entry]]
    count: int
    """Entries in the range, without the limit."""

    @property
    def more(self) -> bool:
        """Whether the limit cut the answer."""
        return self.count > len(self.items)

    @property
    def next_key(self) -> str:
        """Where a read of the rest begins."""
        return f"{self.items[-1][0]}!"


class Compare(msgspec.Struct, frozen=True, gc=False):
    """A condition on the state before the transaction."""

    key: str
    mod: int = 0
    """Holds if the key was last written at this revision; 0: if it is absent."""
    below: str = ""
    """If set, the compare holds if the key exists and its value is smaller than this text."""
    end: str = ""
    """If set, the compare holds if no key is in [key, end)."""


class Put(msgspec.Struct, frozen=True, gc=False):
    """Write a value. With a lease, the key is deleted when the lease ends."""

    key: str
    value: bytes
    lease: int = 0


class Delete(msgspec.Struct, frozen=True, gc=False):
    """Delete a key, or the keys in [key, end); there need not be any."""

    key: str
    end: str = ""


Op = Put | Delete


def bytes_of(compares: Sequence[Compare], ops: Sequence[Op]) -> int:
    """About how many bytes of a request a step uses."""
    size = 24 * (len(compares) + len(ops))
    for compare in compares:
        size += len(compare.key) + len(compare.below) + len(compare.end)
    for op in ops:
        size += len(op.key) + (len(op.value) if isinstance(op, Put) else len(op.end))
    return size


class Step(msgspec.Struct, frozen=True):
    """Operations that are applied in order if all compares hold; the reads are answered afterwards."""

    compares: Sequence[Compare]
    ops: Sequence[Op]
    reads: Sequence[Range] = ()


class Applied(msgspec.Struct, frozen=True):
    """The result of a transaction."""

    revision: int
    """Revision of all its writes."""
    steps: Sequence[Sequence[Found] | None]
    """Per step the answers to its reads, or None if a compare did not hold."""
    also: Sequence[Found] | None = None
    """The same for the step `also`."""
    refused: bool = False
    """Whether nothing was applied, possibly because of a guard."""


class Watch(Protocol):
    """Reports keys that were put, as hints: some may be missed or reported twice."""

    async def changed(self, timeout: float) -> Mapping[str, bytes] | None:
        """Keys that were put since the last call, with their values. Waits up to `timeout` seconds for one.

        None: some were missed, so the caller must read the keys.
        """
        ...

    def close(self) -> None: ...


class KeyValue(Protocol):
    """A transactional key-value store, used from one event loop.

    It raises only the errors of `peerjob.model.errors`. A driver never sends a write twice. If a write may have been
    applied, it raises StoreUnavailableError. For a put with a lease that the server does not have, it raises
    LeaseEndedError.
    """

    @property
    def capabilities(self) -> Capabilities:
        """The promises of a store on this driver; known after `open`."""
        ...

    @property
    def identity(self) -> str:
        """The server or cluster, as a part of the coordinator of terms: "memory", or "etcd:<cluster id>".

        Known after `open`.
        """
        ...

    @property
    def full(self) -> bool:
        """Whether new instances must be refused, to leave space for the end of those that exist."""
        ...

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def separate(self) -> KeyValue:
        """A further connection to the same data, not opened yet, for another event loop."""
        ...

    async def get(self, keys: Sequence[str]) -> list[Entry | None]:
        """The entries of these keys, in this order."""
        ...

    async def read(self, ranges: Sequence[Range]) -> list[Found]:
        """Answers to several reads, as of one moment if they fit into one request."""
        ...

    async def txn(self, steps: Sequence[Step], also: Step | None = None, guards: Sequence[Compare] = ()) -> Applied:
        """Apply, atomically, each step whose compares hold.

        `also` is applied if its compares hold and all steps were applied. If a guard does not hold, nothing is applied.
        """
        ...

    def watch(self, *prefixes: str) -> Watch:
        """Watch the keys with one of these prefixes, from now on."""
        ...

    async def grant(self, ttl_us: int) -> int:
        """Make a lease; the answer is its number, which is never 0."""
        ...

    async def keepalive(self, lease: int) -> bool:
        """Extend a lease to its full time; False if it has ended."""
        ...

    async def revoke(self, lease: int) -> None:
        """End a lease and delete its keys."""
        ...

    async def remaining(self, leases: Sequence[int]) -> list[int]:
        """Microseconds that each lease has left; 0 if it has ended."""
        ...


def mod_of(entry: Entry | None) -> int:
    """The revision of an entry; 0 if there is none."""
    return 0 if entry is None else entry.mod


async def apply_steps(kv: KeyValue, steps: Sequence[Step]) -> list[Sequence[Found] | None]:
    """Apply independent steps, in as many transactions as they need; the answers are those of `Applied.steps`."""
    answers: list[Sequence[Found] | None] = []
    for at in range(0, len(steps), MAX_STEPS):
        answers += (await kv.txn(steps[at : at + MAX_STEPS])).steps
    return answers
