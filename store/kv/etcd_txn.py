"""Transactions as etcd takes them.

Steps become nested transactions of one request, each with its own compares, which etcd judges on the state before
the whole request. What goes along needs the compares of all steps, so it is a nested transaction with all of them;
where that is over etcd's limits, all compares stand outside, with the operations of all steps in the branch where
they hold and the nested transactions in the other. `etcd_limits` says which fits.

A step that is alone is nested, too: what is nested, etcd charges nothing to its quota, so that work under way can be
finished also when there is no space left. New instances are refused long before (`etcd_space`).

A message is made in one go, of dicts: given a finished message as a part, protobuf copies all that is in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .base import Applied, Compare, Entry, Found, Op, Put, Range, Step
from .etcd_api import etcd
from .etcd_limits import MOST

_MOD, _CREATE, _VALUE = etcd.Compare.MOD, etcd.Compare.CREATE, etcd.Compare.VALUE
_EQUAL, _LESS = etcd.Compare.EQUAL, etcd.Compare.LESS
_DESCEND = etcd.RangeRequest.DESCEND
_NOTHING = Found((), 0)
_NO_READS: tuple[Found, ...] = ()
_Part = dict[str, Any]
"""The fields of a message."""


class Request:
    """A transaction, built once and read back once."""

    def __init__(self, steps: Sequence[Step], also: Step | None) -> None:
        self._steps = steps
        self._also = also
        self._outside = self._bare = False
        fields = {"success": [*map(_nested, steps)]} if also is None else self._with(steps, also)
        self.message = etcd.TxnRequest(**fields)

    def _with(self, steps: Sequence[Step], also: Step) -> _Part:
        every = dict.fromkeys(compare for step in (*steps, also) for compare in step.compares)
        inner = max((max(len(step.compares), len(step.ops) + len(step.reads)) for step in steps), default=0)
        along = len(also.ops) + len(also.reads)
        compares = [_compare(compare) for compare in every]
        if len(steps) + 1 + max(inner, len(compares), along) <= MOST:
            return {"success": [*map(_nested, steps), _request(compares, also)]}
        self._outside = True
        every_op = [_request([], step) for step in steps]
        self._bare = max(len(compares), len(steps) + 1) + max(inner, along) > MOST
        every_op += _branch(also) if self._bare else [_request([], also)]
        return {"compare": compares, "success": every_op, "failure": [*map(_nested, steps)]}

    def applied(self, reply: Any) -> Applied:
        """What the reply says."""
        steps, also, replies = self._steps, self._also, reply.responses
        answers = [_answers(step, one.response_txn) for step, one in zip(steps, replies, strict=False)]
        if also is None or (self._outside and not reply.succeeded):
            return Applied(reply.header.revision, answers)
        rest = replies[len(steps) :]
        last = _found(also, rest) if self._bare else _answers(also, rest[0].response_txn)
        return Applied(reply.header.revision, answers, last)


def reading(ranges: Iterable[Range]) -> Any:
    """A request that only reads."""
    return etcd.TxnRequest(success=[*map(_range, ranges)])


def found(reply: Any) -> Found:
    """What a range answered."""
    if not reply.count:
        return _NOTHING
    return Found([(kv.key.decode(), Entry(kv.value, kv.mod_revision, kv.lease)) for kv in reply.kvs], reply.count)


def entry(reply: Any) -> Entry | None:
    """What a range of one key answered."""
    if not reply.count:
        return None
    kv = reply.kvs[0]
    return Entry(kv.value, kv.mod_revision, kv.lease)


def _answers(step: Step, reply: Any) -> Sequence[Found] | None:
    if not reply.succeeded:
        return None
    return _found(step, reply.responses)


def _found(step: Step, replies: Sequence[Any]) -> Sequence[Found]:
    return [found(one.response_range) for one in replies[len(step.ops) :]] if step.reads else _NO_READS


def _nested(step: Step) -> _Part:
    return _request([*map(_compare, step.compares)], step)


def _request(compares: list[_Part], step: Step) -> _Part:
    return {"request_txn": {"compare": compares, "success": _branch(step)}}


def _branch(step: Step) -> list[_Part]:
    return [*map(_op, step.ops), *map(_range, step.reads)]


def _op(op: Op) -> _Part:
    if type(op) is Put:
        put: _Part = {"key": op.key.encode(), "value": op.value}
        if op.lease:
            put["lease"] = op.lease
        return {"request_put": put}
    return {"request_delete_range": {"key": op.key.encode(), "range_end": op.end.encode()}}  # type: ignore[union-attr]


def _range(wanted: Range) -> _Part:
    request: _Part = {"key": wanted.start.encode(), "range_end": wanted.end.encode()}
    if wanted.limit:
        request["limit"] = wanted.limit
    if wanted.keys_only:
        request["keys_only"] = True
    if wanted.reverse:
        request["sort_order"] = _DESCEND
    return {"request_range": request}


def _compare(compare: Compare) -> _Part:
    key = compare.key.encode()
    if compare.end:
        # holds for each of none
        end = compare.end.encode()
        return {"result": _EQUAL, "target": _CREATE, "key": key, "create_revision": 0, "range_end": end}
    if compare.below:
        return {"result": _LESS, "target": _VALUE, "key": key, "value": compare.below.encode()}
    return {"result": _EQUAL, "target": _MOD, "key": key, "mod_revision": compare.mod}
