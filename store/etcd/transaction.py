"""Requests of transactions in the form of etcd, whose own transactions can be nested.

Guards are the compares of the whole request. Each transaction becomes a nested one of etcd, with its own compares,
which etcd evaluates on the state before the whole request. `also` needs the compares of all transactions, so it is a
nested one with all of them. If that exceeds the limits of etcd, all compares are outside, the success branch has the
operations of all transactions, and the failure branch has the nested ones.

Both forms have most compares twice, and etcd evaluates each. If no conflict is expected, an `AtomicRequest` is sent
first. It has each compare once, outside, and the operations of many transactions in one nested one: all or nothing. If
a compare fails, nothing is done, and the transactions are sent as above.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, islice
from typing import Any

from peerjob.store.kv.format.base import Applied, Compare, Entry, Found, Range, Transaction

from . import wire

MAX_OPERATIONS = 128
"""What etcd accepts in one transaction by default: `--max-txn-ops`."""
_NOTHING = Found((), 0)
_NO_READS: tuple[Found, ...] = ()


class AtomicRequest:
    """A request that does nothing if one compare fails: the cheapest form for etcd."""

    def __init__(self, transactions: Sequence[Transaction], also: Transaction, guards: Sequence[Compare] = ()) -> None:
        self._transactions = transactions
        self._also = also
        compares = dict.fromkeys(map(wire.compare, guards))
        for transaction in (*transactions, also):
            compares.update(dict.fromkeys(map(wire.compare, transaction.compares)))
        branches, along = [*map(_branch, transactions)], _branch(also)
        operations_left = MAX_OPERATIONS - max(len(compares), len(transactions) + 1)
        self.fits = max(map(len, [along, *branches])) <= operations_left
        self._groups = _grouped(branches, operations_left)
        nested = (wire.nested(chain.from_iterable(branches[start:end])) for start, end in self._groups)
        self.data = b"".join([*compares, *nested, wire.nested(along)])

    def applied(self, reply: Any) -> Applied | None:
        """The result in a reply; None if nothing was done."""
        if not reply.succeeded:
            return None
        answers: list[Sequence[Found]] = []
        for (start, end), response in zip(self._groups, reply.responses, strict=False):
            replies = iter(response.response_txn.responses)
            answers += [
                _found(transaction, [*islice(replies, len(transaction.ops) + len(transaction.reads))])
                for transaction in self._transactions[start:end]
            ]
        return Applied(reply.header.revision, answers, _answers(self._also, reply.responses[-1].response_txn))


def _grouped(branches: Sequence[Sequence[bytes]], operations_left: int) -> list[tuple[int, int]]:
    """Group branches, in order, into as few nested transactions as possible, each of at most `operations_left`."""
    groups: list[tuple[int, int]] = []
    start = size = 0
    for at, branch in enumerate(branches):
        if size + len(branch) > operations_left and at > start:
            groups.append((start, at))
            start, size = at, 0
        size += len(branch)
    return [*groups, (start, len(branches))]


class SeparateRequest:
    """A request whose transactions succeed or fail one by one."""

    def __init__(
        self, transactions: Sequence[Transaction], also: Transaction | None, guards: Sequence[Compare] = ()
    ) -> None:
        self._transactions = transactions
        self._also = also
        self._outside = self._bare = False
        compares = [[*map(wire.compare, transaction.compares)] for transaction in transactions]
        outer = [*map(wire.compare, guards)]
        parts = self._nested(compares, outer) if also is None else self._with(also, compares, outer)
        self.data = b"".join(parts)

    def _nested(self, compares: Sequence[list[bytes]], outer: Sequence[bytes]) -> list[bytes]:
        return [
            *outer,
            *(
                wire.nested(held + _branch(transaction))
                for held, transaction in zip(compares, self._transactions, strict=True)
            ),
        ]

    def _with(self, also: Transaction, compares: Sequence[list[bytes]], outer: Sequence[bytes]) -> list[bytes]:
        transactions = self._transactions
        every = list(dict.fromkeys([part for held in compares for part in held] + [*map(wire.compare, also.compares)]))
        inner = max(
            (
                max(len(transaction.compares), len(transaction.ops) + len(transaction.reads))
                for transaction in transactions
            ),
            default=0,
        )
        along = len(also.ops) + len(also.reads)
        if max(len(outer), len(transactions) + 1) + max(inner, len(every), along) <= MAX_OPERATIONS:
            return [*self._nested(compares, outer), wire.nested(every + _branch(also))]
        self._outside = True
        every = list(dict.fromkeys([*outer, *every]))
        inner = max(inner, max((len(transaction.compares) for transaction in transactions), default=0) + len(outer))
        self._bare = max(len(every), len(transactions) + 1) + max(inner, along) > MAX_OPERATIONS
        last = _branch(also) if self._bare else [wire.nested(_branch(also))]
        return [
            *every,
            *(wire.nested(_branch(transaction)) for transaction in transactions),
            *last,
            *(
                wire.nested([*outer, *held, *_branch(transaction)], otherwise=True)
                for held, transaction in zip(compares, transactions, strict=True)
            ),
        ]

    def applied(self, reply: Any) -> Applied:
        """The result in a reply."""
        transactions, also, replies = self._transactions, self._also, reply.responses
        if not reply.succeeded and not self._outside:
            return Applied(reply.header.revision, [None] * len(transactions), refused=True)
        answers = [
            _answers(transaction, reply.response_txn) for transaction, reply in zip(transactions, replies, strict=False)
        ]
        if also is None or not reply.succeeded:
            refused = not reply.succeeded and all(answer is None for answer in answers)
            return Applied(reply.header.revision, answers, refused=refused)
        rest = replies[len(transactions) :]
        last = _found(also, rest) if self._bare else _answers(also, rest[0].response_txn)
        return Applied(reply.header.revision, answers, last)


def reading(ranges: Iterable[Range]) -> bytes:
    """The bytes of a request that only reads."""
    return b"".join(map(wire.read, ranges))


def found(reply: Any) -> Found:
    """The reply of a range."""
    if not reply.count:
        return _NOTHING
    return Found([(kv.key.decode(), Entry(kv.value, kv.mod_revision, kv.lease)) for kv in reply.kvs], reply.count)


def entry(reply: Any) -> Entry | None:
    """The reply of a range of one key."""
    if not reply.count:
        return None
    kv = reply.kvs[0]
    return Entry(kv.value, kv.mod_revision, kv.lease)


def _answers(transaction: Transaction, reply: Any) -> Sequence[Found] | None:
    if not reply.succeeded:
        return None
    return _found(transaction, reply.responses)


def _found(transaction: Transaction, replies: Sequence[Any]) -> Sequence[Found]:
    return (
        [found(reply.response_range) for reply in replies[len(transaction.ops) :]] if transaction.reads else _NO_READS
    )


def _branch(transaction: Transaction) -> list[bytes]:
    return [*map(wire.write, transaction.ops), *map(wire.read, transaction.reads)]
