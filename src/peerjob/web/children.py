"""The children of an instance, as its page shows them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from peerjob.handles.flow_instance import graph_of
from peerjob.handles.instance import Instance
from peerjob.handles.manager import Manager
from peerjob.model.durable import FLOW_KIND
from peerjob.model.errors import DecodeError
from peerjob.model.graph import Graph
from peerjob.model.query import Query

from .flow_tree import MAX_CHILDREN, Part, blockers, parts_of

PAGE = 500


@dataclass(frozen=True, kw_only=True)
class Children:
    """What the page shows of the children."""

    counts: dict[str, int]
    """State → number of the children that were read."""
    more: bool
    """Whether there are more children than were read."""
    parts: list[Part]
    """The children in their order, to be drawn; none if there are more than were read."""
    blockers: list[Part]


async def children_of(manager: Manager, instance: Instance[Any]) -> Children | None:
    """The children of an instance; None if it has none."""
    graph = _graph_of(instance)
    read, query = dict[str, Instance[Any]](), Query(parent=instance, limit=PAGE)
    while len(read) < MAX_CHILDREN:
        page = await manager.lookup_instances(query)
        read |= {child.id: child for child in page}
        query = query.at(page.cursor)
        if page.cursor is None:
            break
    if not read and graph is None:
        return None
    if graph is not None:
        parts = parts_of(graph, instance.id, read)
    else:
        parts = [Part(id=child.id, kind=child.kind, instance=child) for child in read.values()]
    states = Counter("not made" if part.instance is None else str(part.instance.state) for part in parts)
    more = query.cursor is not None
    return Children(counts=dict(states.most_common()), more=more, parts=[] if more else parts, blockers=blockers(parts))


def _graph_of(instance: Instance[Any]) -> Graph | None:
    if instance.kind != FLOW_KIND:
        return None
    try:
        return graph_of(instance.record)
    except (DecodeError, ValueError, TypeError):
        return None
