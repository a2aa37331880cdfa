"""Transactions in the form of etcd.

Guards are the compares of the whole request. Steps become nested transactions, each with its own compares, which etcd
evaluates on the state before the whole request. `also` needs the compares of all steps, so it is a nested transaction
with all of them. If that exceeds the limits of etcd, all compares are outside, the success branch has the operations
of all steps, and the failure branch has the nested transactions. `limits` says which form fits.

Both forms have most compares twice, and etcd evaluates each. If no conflict is expected, an `AtomicRequest` is sent
first. It has each compare once, outside, and the operations of many steps in one nested transaction: all or nothing.
If a compare fails, nothing is done, and the steps are sent as above.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, islice
from typing import Any

from peerjob.store.kv.format.base import Applied, Compare, Entry, Found, Range, Step
from peerjob.store.kv.format.request_limits import MAX_OPERATIONS

from . import wire

_NOTHING = Found((), 0)
_NO_READS: tuple[Found, ...] = ()


class AtomicRequest:
    """A transaction that does nothing if one compare fails: the cheapest form for etcd."""

    def __init__(self, steps: Sequence[Step], also: Step, guards: Sequence[Compare] = ()) -> None:
        self._steps = steps
        self._also = also
        compares = dict.fromkeys(map(wire.compare, guards))
        for step in (*steps, also):
            compares.update(dict.fromkeys(map(wire.compare, step.compares)))
        branches, along = [*map(_branch, steps)], _branch(also)
        operations_left = MAX_OPERATIONS - max(len(compares), len(steps) + 1)
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
                _found(step, [*islice(replies, len(step.ops) + len(step.reads))]) for step in self._steps[start:end]
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


class StepwiseRequest:
    """A transaction whose steps succeed or fail one by one."""

    def __init__(self, steps: Sequence[Step], also: Step | None, guards: Sequence[Compare] = ()) -> None:
        self._steps = steps
        self._also = also
        self._outside = self._bare = False
        compares = [[*map(wire.compare, step.compares)] for step in steps]
        outer = [*map(wire.compare, guards)]
        parts = self._nested(compares, outer) if also is None else self._with(also, compares, outer)
        self.data = b"".join(parts)

    def _nested(self, compares: Sequence[list[bytes]], outer: Sequence[bytes]) -> list[bytes]:
        return [*outer, *(wire.nested(held + _branch(step)) for held, step in zip(compares, self._steps, strict=True))]

    def _with(self, also: Step, compares: Sequence[list[bytes]], outer: Sequence[bytes]) -> list[bytes]:
        steps = self._steps
        every = list(dict.fromkeys([part for held in compares for part in held] + [*map(wire.compare, also.compares)]))
        inner = max((max(len(step.compares), len(step.ops) + len(step.reads)) for step in steps), default=0)
        along = len(also.ops) + len(also.reads)
        if max(len(outer), len(steps) + 1) + max(inner, len(every), along) <= MAX_OPERATIONS:
            return [*self._nested(compares, outer), wire.nested(every + _branch(also))]
        self._outside = True
        every = list(dict.fromkeys([*outer, *every]))
        inner = max(inner, max((len(step.compares) for step in steps), default=0) + len(outer))
        self._bare = max(len(every), len(steps) + 1) + max(inner, along) > MAX_OPERATIONS
        last = _branch(also) if self._bare else [wire.nested(_branch(also))]
        return [
            *every,
            *(wire.nested(_branch(step)) for step in steps),
            *last,
            *(
                wire.nested([*outer, *held, *_branch(step)], otherwise=True)
                for held, step in zip(compares, steps, strict=True)
            ),
        ]

    def applied(self, reply: Any) -> Applied:
        """The result in a reply."""
        steps, also, replies = self._steps, self._also, reply.responses
        if not reply.succeeded and not self._outside:
            return Applied(reply.header.revision, [None] * len(steps), refused=True)
        answers = [_answers(step, reply.response_txn) for step, reply in zip(steps, replies, strict=False)]
        if also is None or not reply.succeeded:
            refused = not reply.succeeded and all(answer is None for answer in answers)
            return Applied(reply.header.revision, answers, refused=refused)
        rest = replies[len(steps) :]
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


def _answers(step: Step, reply: Any) -> Sequence[Found] | None:
    if not reply.succeeded:
        return None
    return _found(step, reply.responses)


def _found(step: Step, replies: Sequence[Any]) -> Sequence[Found]:
    return [found(reply.response_range) for reply in replies[len(step.ops) :]] if step.reads else _NO_READS


def _branch(step: Step) -> list[bytes]:
    return [*map(wire.write, step.ops), *map(wire.read, step.reads)]
