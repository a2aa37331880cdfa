"""Brings children into order, and splits them into calls of `Store.spawn`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from msgspec import structs

from peerjob.model.durable import MAX_CHILDREN_CALL, MAX_NEEDS_CALL
from peerjob.model.record import MAX_BATCH_BYTES, NewChild


def in_claim_order(children: Sequence[NewChild]) -> list[NewChild]:
    """Children in the order in which nodes claim them: after those that they need, and else by id.

    What a claim or a commit needs of several children is then next to each other in the memory of a server.
    """
    levels: dict[str, int] = {}
    for child in children:
        needs = child.needs
        levels[child.instance.id] = 1 + max(levels.get(need.id, 0) for need in needs) if needs else 1
    # a text and no tuple: Python's collector looks at each new tuple
    return sorted(children, key=lambda child: f"{levels[child.instance.id]:06} {child.instance.id}")


def pages_of(children: Sequence[NewChild]) -> Iterator[list[NewChild]]:
    """Yield calls within the limits of children, needs and bytes. A child with more needs is open for some calls."""
    page, needs, size = list[NewChild](), 0, 0
    for part in _parts(children):
        weight = len(part.instance.spec)
        if page and (
            len(page) >= MAX_CHILDREN_CALL
            or needs + len(part.needs) > MAX_NEEDS_CALL
            or size + weight > MAX_BATCH_BYTES
        ):
            yield page
            page, needs, size = [], 0, 0
        page.append(part)
        needs += len(part.needs)
        size += weight
    if page:
        yield page


def _parts(children: Iterable[NewChild]) -> Iterator[NewChild]:
    for child in children:
        needs = child.needs
        while len(needs) > MAX_NEEDS_CALL:
            yield structs.replace(child, needs=needs[:MAX_NEEDS_CALL], more=True)
            needs = needs[MAX_NEEDS_CALL:]
        yield structs.replace(child, needs=needs) if needs is not child.needs else child
