"""ORDER, judged at the claim."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from peerjob.model.record import Record, is_suspect
from peerjob.model.state import State

from .evidence import Evidence, Order, Violation

MAX_PASSED = 4
"""Claims in which a node may take later instances first, where order is kept within a window."""
UNDER_WAY_US = 1_000_000
"""How long a request may be under way there before an instance can be claimed."""


@dataclass(frozen=True)
class _First:
    """The first time an instance waits: its place in the order, from when it is ready, and until when."""

    id: str
    place: tuple[int, int, str]
    ready_us: int
    claimed_us: int | None
    node: str
    left_us: int


def order(evidence: Evidence) -> Iterator[Violation]:
    """ORDER: of one kind, no instance is claimed while one with a better place waits.

    The place is (priority, due time, id). The check looks at the first claim of each instance that a caller scheduled,
    as its due time is known then: it is no earlier than the time at which the store took the instance. Three kinds of
    instances may be passed over: a suspect, one that waits for a schedule's slot, and one that was delayed, until a
    node has moved it to the due ones. Nodes whose clocks differ are not judged, nor are instances that wait for keys.
    On a store with order within a window, each incarnation may pass an instance over in a few of its claims.
    """
    if evidence.skew_us or evidence.key_concurrency or not (evidence.strict or evidence.starts):
        return
    by_kind: dict[str, list[_First]] = {}
    for one in evidence.orders.values():
        record = evidence.records.get(one.id)
        if record is None or record.history[0].count > 1 or record.slot:
            continue
        by_kind.setdefault(record.kind, []).append(_first(one, record, evidence.ended_us))
    for firsts in by_kind.values():
        waiting = [
            first
            for first in firsts
            if not evidence.orders[first.id].delayed
            and not is_suspect(evidence.records[first.id].crashes, evidence.records[first.id].losses)
        ]
        for first in waiting:
            passing = _passing(first, firsts, 0 if evidence.strict else UNDER_WAY_US)
            claims = {(taken.node, taken.claimed_us) for taken in passing}
            by_node = Counter(node for node, _ in claims)
            if any(evidence.strict or count > MAX_PASSED * evidence.starts[node] for node, count in by_node.items()):
                yield Violation(
                    "ORDER",
                    first.id,
                    f"with the place {first.place} it waited from {first.ready_us} to {first.left_us}, while "
                    f"{len(claims)} claims took others, such as {passing[0].id} with the place {passing[0].place} "
                    f"at {passing[0].claimed_us}",
                )


def _passing(first: _First, firsts: list[_First], under_way_us: int) -> list[_First]:
    """Those that were claimed before one with a better place, which was there to claim."""
    ready_us = first.ready_us + under_way_us
    return [
        taken
        for taken in firsts
        if taken.claimed_us is not None and first.place < taken.place and ready_us < taken.claimed_us < first.left_us
    ]


def _first(one: Order, record: Record, ended_us: int) -> _First:
    ready_us = record.history[0].at_us
    if one.told_us > ready_us + UNDER_WAY_US:  # a node that stood still had put the time into its request
        ready_us = one.told_us
    left = [entry for entry in record.history if entry.state not in (State.CREATED, State.SCHEDULED)]
    return _First(
        one.id,
        (record.priority, record.history[0].at_us, one.id),
        ready_us,
        left[0].at_us if left and left[0].state is State.PROCESSING else None,
        left[0].node if left else "",
        left[0].at_us if left else ended_us,
    )
