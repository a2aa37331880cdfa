"""The commands that read instances and counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from peerjob.model.capabilities import Health
from peerjob.model.errors import OptionError
from peerjob.model.ids import checked_id, id_time_us
from peerjob.model.query import Query
from peerjob.model.record import LogPage, Page, Record, check_batch
from peerjob.model.state import State

from .queues import due_instances
from .state import InstanceData, to_record
from .transaction import ReferenceTransaction

PAGE = 500
"""Most instances of one page that a command without a limit looks at."""


def get(transaction: ReferenceTransaction, ids: Sequence[str]) -> list[Record | None]:
    """Records by id."""
    check_batch(len(ids))
    instances = [transaction.state.instances.get(id) for id in ids]
    return [None if instance is None else to_record(instance) for instance in instances]


def lookup(transaction: ReferenceTransaction, query: Query) -> Page:
    """A page of the instances that match, in order of creation."""
    cursor = None if query.cursor is None else checked_id(query.cursor, "cursor")
    matching = [instance for instance in transaction.state.instances.values() if matches(instance, query)]
    matching.sort(key=lambda instance: instance.id, reverse=query.order == "desc")
    page, cursor = page_of(matching, cursor, query.limit, descending=query.order == "desc")
    return Page(tuple(map(to_record, page)), cursor)


def matches(instance: InstanceData, query: Query) -> bool:
    """Whether an instance has all criteria of a query."""
    created_us = created_us_of(instance.id)
    return (
        query.id in (None, instance.id)
        and query.kind in (None, instance.kind)
        and bool(instance.state & query.states)
        and query.parent_id in (None, instance.parent)
        and (query.tag is None or query.tag in instance.tags)
        and (query.after_us is None or created_us >= query.after_us)
        and (query.before_us is None or created_us < query.before_us)
    )


def created_us_of(id: str) -> int:
    """The time of creation that an id tells, to the millisecond."""
    return id_time_us(id)


def page_of(
    instances: Sequence[InstanceData], cursor: str | None, limit: int = PAGE, *, descending: bool = False
) -> tuple[list[InstanceData], str | None]:
    """The page behind a cursor, the id of the last instance that was read; and the next cursor."""
    left = list(instances)
    if cursor is not None:
        left = [instance for instance in left if (instance.id < cursor if descending else instance.id > cursor)]
    page = left[:limit]
    return page, page[-1].id if len(left) > limit else None


def logs(transaction: ReferenceTransaction, id: str, *, cursor: str | None = None, limit: int = 1000) -> LogPage:
    """Log lines from the line with the number `cursor` on."""
    if cursor is not None and not (cursor.isascii() and cursor.isdigit()):
        raise OptionError("cursor", cursor, "the cursor of a page")
    instance, start = transaction.state.instances.get(id), int(cursor or 0)
    if instance is None:
        return LogPage((), str(start))
    first = instance.logged - len(instance.logs)
    start = max(start, first)
    lines = instance.logs[start - first :][:limit]
    return LogPage(tuple(lines), str(start + len(lines)), instance.dropped)


def due(transaction: ReferenceTransaction, kinds: Sequence[str] = ()) -> dict[str, int]:
    """How many instances of each kind are due and not claimed."""
    return dict(
        Counter(instance.kind for instance in due_instances(transaction) if not kinds or instance.kind in kinds)
    )


def health(transaction: ReferenceTransaction) -> Health:
    """Counts by kind and state."""
    counts: dict[str, dict[State, int]] = {}
    for (kind, state), count in Counter(
        (instance.kind, instance.state) for instance in transaction.state.instances.values()
    ).items():
        counts.setdefault(kind, {})[state] = count
    nodes = sum(node.alive(transaction.now_us) for node in transaction.state.nodes.values())
    delayed, undecodable = len(transaction.state.delayed), transaction.state.undecodable
    return Health(counts=counts, delayed=delayed, nodes=nodes, undecodable=undecodable)
