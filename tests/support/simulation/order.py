"""ORDER, judged at the claim."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from peerjob.record import Record, is_suspect
from peerjob.state import State

from .evidence import Evidence, Order, Violation


@dataclass(frozen=True)
class _First:
    """The first time an instance waits: its place in the order, from when it is ready, and until when."""

    id: str
    place: tuple[int, int, str]
    ready_us: int
    claimed_us: int | None
    left_us: int


def order(evidence: Evidence) -> Iterator[Violation]:
    """ORDER: of one kind, no instance is claimed while one with a better place waits.

    The place is (priority, due time, id). The check looks at the first claim of each instance that a caller scheduled,
    as its due time is known then: it is no earlier than the time at which the store took the instance. Three kinds of
    instances may be passed over: a suspect, one that waits for a schedule's slot, and one that was delayed, until a
    node has moved it to the due ones. A store without strict order is not judged, and neither are nodes whose clocks
    differ.
    """
    if not evidence.strict or evidence.skew_us:
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
        for taken in firsts:
            if taken.claimed_us is None:
                continue
            for first in waiting:
                if first.place < taken.place and first.ready_us < taken.claimed_us < first.left_us:
                    yield Violation(
                        "ORDER",
                        taken.id,
                        f"claimed at {taken.claimed_us} with the place {taken.place}, while {first.id} with the place "
                        f"{first.place} waited from {first.ready_us} to {first.left_us}",
                    )


def _first(one: Order, record: Record, ended_us: int) -> _First:
    left = [entry for entry in record.history if entry.state not in (State.CREATED, State.SCHEDULED)]
    return _First(
        one.id,
        (record.priority, record.history[0].at_us, one.id),
        record.history[0].at_us,
        left[0].at_us if left and left[0].state is State.PROCESSING else None,
        left[0].at_us if left else ended_us,
    )
