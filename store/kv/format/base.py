"""The key-value store that the engine needs: a driver is one class with this protocol.

Keys are ASCII text, ordered by code point. Values are bytes. Every write has a revision, a number that only grows.
An entry has the revision of its last write.

The engine keeps these limits, so drivers may rely on them:

* A request has at most MAX_WIDE_TRANSACTIONS transactions, and MAX_REQUEST_BYTES unless it has one transaction only.
* A transaction has at most MAX_TRANSACTION_OPS operations, unless it is the only one.
* No two transactions of a request write the same key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from peerjob.model.capabilities import Capabilities
from peerjob.model.errors import StoreUnavailableError

MAX_TRANSACTIONS = 60
"""Most transactions in one request, unless it is wide; the engine cuts a larger batch into several requests."""
MAX_WIDE_TRANSACTIONS = 97
"""Most transactions in a wide request, whose other parts are small, see `store/kv/write/request_parts.py`."""
MAX_WIDTH = 122
"""Most transactions plus compares in a request of several transactions, `also` included: etcd accepts 128. The rest is
for the reads, the answers and the guard of each request."""
MAX_TRANSACTION_OPS = 24
"""Most operations in a transaction that shares a request with other transactions."""
MAX_REQUEST_BYTES = 512 << 10
"""Most bytes in a request of several transactions. A driver that puts each transaction twice into a
request still stays within etcd's limit of 1.5 MiB."""
MAX_ALONE_BYTES = 5 << 18
"""Most bytes of result, error, progress and log lines that one transaction stores for an instance: a
result of 1 MiB and 256 KiB of lines."""


class LeaseEndedError(StoreUnavailableError):
    """The lease that a request names has ended; the request changed nothing."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A stored value."""

    value: bytes
    mod: int
    """The revision at which the value was last written."""
    lease: int = 0


class Range(msgspec.Struct, frozen=True, gc=False):
    """A read of the keys in [start, end), or of the key `start` if there is no end."""

    start: str
    end: str = ""
    limit: int = 0
    """Most entries in the answer; with 0, the answer has all entries of the range."""
    keys_only: bool = False
    """Whether the answer has keys without values, so that the answer is smaller."""
    reverse: bool = False


class Found(msgspec.Struct, frozen=True):
    """The entries of a range, in order."""

    items: Sequence[tuple[str, Entry]]
    count: int
    """Number of entries in the range, even if the limit of the read cut the answer."""

    @property
    def more(self) -> bool:
        """Whether the range has further entries, which the limit of the read cut off."""
        return self.count > len(self.items)

    @property
    def next_key(self) -> str:
        """Where a read of the rest begins."""
        return f"{self.items[-1][0]}!"


class Compare(msgspec.Struct, frozen=True, gc=False):
    """A condition on the state before the request."""

    key: str
    mod: int = 0
    """The compare holds if the key was last written at this revision. With 0, the compare
    holds if the key does not exist."""
    below: str = ""
    """If set, the compare holds if the key exists and the value of the key sorts before this text."""
    end: str = ""
    """If set, the compare holds if no key is in [key, end)."""


class Put(msgspec.Struct, frozen=True, gc=False):
    """Write a value. With a lease, the key is deleted when the lease ends."""

    key: str
    value: bytes
    lease: int = 0


class Delete(msgspec.Struct, frozen=True, gc=False):
    """Delete a key, or all keys in [key, end). A key that does not exist is no error."""

    key: str
    end: str = ""


Op = Put | Delete


def bytes_of(compares: Sequence[Compare], ops: Sequence[Op]) -> int:
    """About how many bytes of a request a transaction uses."""
    size = 24 * (len(compares) + len(ops))
    for compare in compares:
        size += len(compare.key) + len(compare.below) + len(compare.end)
    for op in ops:
        size += len(op.key) + (len(op.value) if isinstance(op, Put) else len(op.end))
    return size


class Transaction(msgspec.Struct, frozen=True):
    """Operations that are applied in order if all compares hold; the reads are answered afterwards."""

    compares: Sequence[Compare]
    ops: Sequence[Op]
    reads: Sequence[Range] = ()


class Applied(msgspec.Struct, frozen=True):
    """The result of a request."""

    revision: int
    """The revision of all writes of the request."""
    answers: Sequence[Sequence[Found] | None]
    """For each transaction, the answers to its reads, or None if one of its compares did not hold."""
    also: Sequence[Found] | None = None
    """The answers to the reads of the transaction `also`, or None if `also` was not applied."""
    refused: bool = False
    """Whether no transaction was applied, possibly because a guard did not hold."""


class Watch(Protocol):
    """Reports keys that were put, as hints: some may be missed or reported twice."""

    async def changed(self, timeout: float) -> Mapping[str, bytes] | None:
        """Keys that were put since the last call, with their values. Waits up to `timeout` seconds for one.

        None: some were missed, so the caller must read the keys.
        """
        ...

    def wake(self) -> None:
        """End the wait of `changed` now, from the event loop of the watch."""
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
    def reports_ends(self) -> bool:
        """Whether a watch can report deleted keys (`ends` of `watch`). If not, `remaining` must be cheap."""
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

    async def txn(
        self, transactions: Sequence[Transaction], also: Transaction | None = None, guards: Sequence[Compare] = ()
    ) -> Applied:
        """Apply, atomically, each transaction whose compares hold.

        `also` is applied if its compares hold and all transactions were applied. If a guard does not hold, nothing is
        applied.
        """
        ...

    def watch(self, *prefixes: str, ends: Sequence[str] = ()) -> Watch:
        """Watch the keys with one of these prefixes, from now on.

        Keys with a prefix in `ends` are reported when they are deleted, with an empty value. `ends` is given only if
        `reports_ends`.
        """
        ...

    async def grant(self, ttl_us: int) -> int:
        """Make a lease; the answer is its number, which is never 0."""
        ...

    async def keepalive(self, lease: int) -> bool:
        """Extend a lease to its full time; False if it has ended."""
        ...

    async def extend(self, lease: int, ranges: Sequence[Range]) -> tuple[bool, list[Found]]:
        """`keepalive` and `read`, at the same time or in any order, in one request if the server can."""
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


async def apply_all(
    kv: KeyValue, transactions: Sequence[Transaction], guards: Sequence[Compare] = ()
) -> list[Sequence[Found] | None]:
    """Apply independent transactions, in as many requests as they need; the answers are those of `Applied.answers`."""
    answers: list[Sequence[Found] | None] = []
    for at in range(0, len(transactions), MAX_TRANSACTIONS):
        answers += (await kv.txn(transactions[at : at + MAX_TRANSACTIONS], guards=guards)).answers
    return answers
