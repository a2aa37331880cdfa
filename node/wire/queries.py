"""Queries and filters, on the wire."""

from __future__ import annotations

from peerjob.durations import to_micros
from peerjob.errors import OptionError
from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.query import MAX_LIMIT, Filter, Query
from peerjob.state import Level, State

from .values import given_moment, given_span, moment_stamp, span, state_number

LEVELS = sum(Level)


def query_of(message: pb.Query) -> Query:
    """What a client looks for; raises OptionError. Without a limit: everything."""
    state = State(message.state) if message.state else None
    if state is not None and state & ~State.ALL:
        raise OptionError("state", message.state, f"numbers of states added up, at most {int(State.ALL)}")
    level = message.level if message.HasField("level") else None
    if level is not None and not 0 <= level <= LEVELS:
        raise OptionError("level", level, f"numbers of levels added up, at most {LEVELS}")
    return Query(
        kind=message.kind if message.HasField("kind") else None,
        uuid=message.uuid if message.HasField("uuid") else None,
        state=state,
        level=level,
        tag=message.tag if message.HasField("tag") else None,
        before=given_moment("before", message.before) if message.HasField("before") else None,
        after=given_moment("after", message.after) if message.HasField("after") else None,
        limit=message.limit if message.HasField("limit") else MAX_LIMIT,
        cursor=message.cursor if message.HasField("cursor") else None,
        order="desc" if message.descending else "asc",
    )


def cancel_query_of(message: pb.Query) -> Query:
    """Which instances to cancel or to repeat; raises OptionError when nothing is said, not even that it is all."""
    query = query_of(message)
    criteria = (query.kind, query.id, query.state, query.tag, query.before, query.after)
    if not message.all and all(one is None for one in criteria):
        raise OptionError("query", None, "a criterion, or all = true to cancel everything")
    return query


def query_message(query: Query | None) -> pb.Query:
    """The inverse of `query_of`; it wants the encoded view, and means everything where nothing is said."""
    query = query or Query()
    return pb.Query(
        kind=query.kind,
        uuid=query.id,
        state=None if query.state is None else state_number(query.states),
        level=None if query.level is None else int(query.level),
        tag=query.tag,
        before=moment_stamp(query.before),
        after=moment_stamp(query.after),
        limit=query.limit,
        cursor=query.cursor,
        descending=query.order == "desc",
        all=True,
        view=pb.INSTANCE_VIEW_ENCODED,
    )


def filter_of(message: pb.Filter) -> Filter:
    """Which final instances a client wants cleared; raises OptionError."""
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
    )
