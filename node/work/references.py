"""Reads what the references among the arguments of a member stand for, before the arguments are bound."""

from __future__ import annotations

from typing import Any

from peerjob.model.codec import decode_kept, encode_value, replace_references
from peerjob.model.ended import Ended
from peerjob.model.errors import EncodeError
from peerjob.model.graph import KEPT, kept_results, member_id
from peerjob.model.outputs import Ref
from peerjob.model.record import Record
from peerjob.model.spec import decode_error
from peerjob.model.state import State
from peerjob.node.body.binding import StoredArgumentError
from peerjob.store.base import Store

MAX_REFERENCES = 16 << 20
"""Most bytes of results that the references of one call stand for."""
MAX_READ = 32
"""Most records in one read: each can be as large as a result."""
_ADVICE = "let the members return names of what they store elsewhere, and pass names"


async def with_results(store: Store, kind: str, flow: str, arguments: bytes) -> bytes:
    """Return the arguments of a member of a flow, which have references, with results in their place.

    Raises StoredArgumentError for results of more than MAX_REFERENCES bytes in all, or that are no longer stored.
    """
    refs: set[Ref] = set()
    replace_references(arguments, refs.add)
    records = await _read(store, kind, flow, sorted({ref.member for ref in refs}))
    values = {ref: _ended(records[ref.member]) if ref.ended else _result(records[ref.member]) for ref in refs}
    try:
        return encode_value(replace_references(arguments, values.__getitem__))
    except EncodeError as error:
        raise StoredArgumentError(kind, [f"with the results of other members: {error.reason}; {_ADVICE}"]) from error


async def _read(store: Store, kind: str, flow: str, members: list[int]) -> dict[int, Record | bytes]:
    """The record of each member, or the result that an earlier run of the flow has kept."""
    ends: dict[int, Record | bytes] = {}
    size = 0
    for at in range(0, len(members), MAX_READ):
        part = members[at : at + MAX_READ]
        records = await store.get([member_id(flow, member) for member in part])
        for member, record in zip(part, records, strict=True):
            if record is not None:
                ends[member] = record
                size += len(record.result or record.error or b"")
        _check_size(kind, size)
    missing = [member for member in members if member not in ends]
    if missing:
        stored = await kept_of(store, flow)
        kept = {member: stored[member] for member in missing if member in stored}
        if len(kept) < len(missing):
            gone = next(member for member in missing if member not in kept)
            problem = f"the result of member {gone} of flow {flow} is no longer stored: run the flow again"
            raise StoredArgumentError(kind, [problem])
        _check_size(kind, size + sum(map(len, kept.values())))
        ends |= kept
    return ends


def _check_size(kind: str, size: int) -> None:
    if size > MAX_REFERENCES:
        problem = f"{size:,} bytes of results of other members, over the limit of {MAX_REFERENCES:,}: {_ADVICE}"
        raise StoredArgumentError(kind, [problem])


async def kept_of(store: Store, flow: str) -> dict[int, bytes]:
    """The results by member that a flow has kept of the flow that it repeats."""
    kept: dict[int, bytes] = {}
    cursor: str | None = None
    while True:
        page = await store.steps(flow, cursor=cursor)
        for step in page.steps:
            if step.name.startswith(KEPT):
                kept |= kept_results(step.value)
        cursor = page.cursor
        if cursor is None:
            return kept


def _result(end: Record | bytes) -> Any:
    result = end if isinstance(end, bytes) else end.result
    return decode_kept(result) if result else None


def _ended(end: Record | bytes) -> Ended[Any]:
    if isinstance(end, bytes):
        return Ended(State.COMPLETED, _result(end))
    if end.state is State.COMPLETED:
        return Ended(end.state, _result(end))
    return Ended(end.state, error=None if end.error is None else decode_error(end.error))
