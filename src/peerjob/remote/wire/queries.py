"""Queries and filters, on the wire."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast

from peerjob.model.durations import to_micros
from peerjob.model.errors import OptionError
from peerjob.model.query import MAX_LIMIT, Filter, Query
from peerjob.model.state import State
from peerjob.proto.job.v1 import service_pb2 as pb

from .values import given_moment, given_span, moment_stamp, span, state_number

_Field = Literal["kind", "uuid", "state", "level", "tag", "parent"]
_Bound = Literal["before", "after", "older_than"]
_CRITERIA: tuple[Literal["kind", "uuid", "state", "tag", "parent", "before", "after"], ...] = (
    "kind",
    "uuid",
    "state",
    "tag",
    "parent",
    "before",
    "after",
)
_BOUNDS: tuple[_Bound, ...] = ("before", "after", "older_than")


def query_of(message: pb.Query) -> Query:
    """The query of a lookup; raises OptionError. Without a limit it matches everything.

    As in go-job, a criterion that is an empty text or the number 0 is not set.
    """
    return _query(message, lambda name: message.HasField(name) and bool(getattr(message, name)))


def knows_no_pages(message: pb.Query) -> bool:
    """Whether the client expects everything in one response, as go-job's clients do."""
    return not message.HasField("limit") and not message.cursor and not message.descending


def acting_query_of(message: pb.Query) -> Query:
    """The instances to cancel or to retry; raises OptionError for an empty criterion.

    A message without any criterion must set `all`.
    """
    given = [name for name in _CRITERIA if message.HasField(name)]
    if not given and not message.all:
        raise OptionError("query", None, "a criterion, or all = true for every instance")
    return _query(message, message.HasField)


def _query(message: pb.Query, is_set: Callable[[_Field], bool]) -> Query:
    return Query(
        kind=message.kind if is_set("kind") else None,
        uuid=message.uuid if is_set("uuid") else None,
        # the number as sent, not State(number): State(-1) would mean all states
        state=cast("State", int(message.state)) if is_set("state") else None,
        level=message.level if is_set("level") else None,
        tag=message.tag if is_set("tag") else None,
        parent=message.parent if is_set("parent") else None,
        before=given_moment("before", message.before) if message.HasField("before") else None,
        after=given_moment("after", message.after) if message.HasField("after") else None,
        limit=message.limit if message.HasField("limit") else MAX_LIMIT,
        cursor=message.cursor or None,
        order="desc" if message.descending else "asc",
    )


def query_message(query: Query | None) -> pb.Query:
    """The inverse of `query_of`, with the encoded view; an empty query matches everything."""
    query = query or Query()
    return pb.Query(
        kind=query.kind,
        uuid=query.id,
        state=None if query.state is None else state_number(query.states),
        level=None if query.level is None else int(query.level),
        tag=query.tag,
        parent=query.parent_id,
        before=moment_stamp(query.before),
        after=moment_stamp(query.after),
        limit=query.limit,
        cursor=query.cursor,
        descending=query.order == "desc",
        all=True,
        view=pb.INSTANCE_VIEW_ENCODED,
    )


def filter_of(message: pb.Filter) -> Filter:
    """The final instances to clear; raises OptionError. A message without any criterion must set `all`."""
    if not message.all and not any(message.HasField(name) for name in _BOUNDS):
        raise OptionError("filter", None, "before, after or older_than, or all = true for everything that is final")
    return Filter(
        before=given_moment("before", message.before) if message.HasField("before") else None,
        after=given_moment("after", message.after) if message.HasField("after") else None,
        older_than=given_span("older_than", message.older_than) if message.HasField("older_than") else None,
    )


def filter_message(filter: Filter | None) -> pb.Filter:
    """The inverse of `filter_of`."""
    filter = filter or Filter()
    return pb.Filter(
        before=moment_stamp(filter.before),
        after=moment_stamp(filter.after),
        older_than=None if filter.older_than is None else span(to_micros(filter.older_than, "older_than")),
        all=True,
    )
