"""LIMIT and RATE."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from peerjob.model.durable import FLOW_KIND
from peerjob.model.record import Record
from peerjob.model.spec import decode_spec
from peerjob.model.state import State

from .evidence import Evidence, Run, Violation
from .owners import lost_touch

KEYS = 3
"""How many keys the instances of a kind have."""

Period = tuple[int, int]
"""The times at which a claim or a body began and ended."""


def limit_key(token: str) -> str:
    """The key of the instance with a token."""
    return f"key/{sum(token.encode()) % KEYS}"


def limit(evidence: Evidence) -> Iterator[Violation]:
    """LIMIT: no more instances are claimed at a time than the concurrency of their limit, and of their key.

    * By the histories: from a claim to the next entry. Not judged where the time of an entry is not that of
      its transaction: if clocks differ, or if requests are under way for a time.
    * By the bodies: those that began and have not ended. A body is not counted whose node was away or had lost its
      claims, since its claim can end before it does.
    """
    claims = {id: list(_claims(record)) for id, record in evidence.records.items() if evidence.tells_times}
    bodies: dict[str, list[Period]] = {}
    for run in evidence.runs:
        if not lost_touch(evidence, run) and not evidence.away(run, "killed"):
            bodies.setdefault(run.id, []).append((run.begin_us, _end_us(evidence, run)))
    for what, periods in (("claims", claims), ("bodies", bodies)):
        for name, most, counted in _limits(evidence):
            count = _at_once([period for id in counted for period in periods.get(id, ())])
            if most and count > most:
                yield Violation("LIMIT", name, f"{count} {what} at once, and its concurrency is {most}")


def rate(evidence: Evidence) -> Iterator[Violation]:
    """RATE: of each two claims of a limit and those between them, there are at most burst + time * rate.

    Not judged where the time of an entry is not that of its transaction.
    """
    numbers = evidence.limit
    if not numbers.period_us or not evidence.tells_times:
        return
    limited = [record for record in evidence.records.values() if record.kind != FLOW_KIND]
    starts = sorted(begin_us for record in limited for begin_us, _ in _claims(record))
    for first, start_us in enumerate(starts):
        for last in range(first + numbers.burst, len(starts)):
            if (last - first + 1 - numbers.burst) * numbers.period_us > starts[last] - start_us:
                text = f"{last - first + 1} claims within {starts[last] - start_us} µs"
                yield Violation("RATE", "shared", f"{text}, and the limit is {numbers}")
                return


def _limits(evidence: Evidence) -> Iterator[tuple[str, int, list[str]]]:
    """Each limit: its name, its concurrency, and the instances that it counts."""
    limited = {id: record for id, record in evidence.records.items() if record.kind != FLOW_KIND}
    yield "shared", evidence.limit.concurrency, list(limited)
    by_key: dict[tuple[str, str], list[str]] = {}
    for id, record in limited.items():
        by_key.setdefault(_key(record), []).append(id)
    for (kind, key), ids in by_key.items():
        yield f"key {key} of {kind}", evidence.key_concurrency, ids


def _key(record: Record) -> tuple[str, str]:
    """Kind and limit key of an instance."""
    token = decode_spec(record.spec).arguments()[0][0]
    return record.kind, limit_key(str(token))


def _claims(record: Record) -> Iterator[Period]:
    """The claims of an instance that its history shows."""
    for entry, following in pairwise(record.history):
        if entry.state is State.PROCESSING and entry.count == 1:
            yield entry.at_us, following.at_us


def _end_us(evidence: Evidence, run: Run) -> int:
    over_us = evidence.over_us(run)
    return evidence.ended_us if over_us is None else over_us


def _at_once(periods: Sequence[Period]) -> int:
    """Most periods that overlap; one that ends where another begins does not overlap with it."""
    changes = sorted(
        [(begin_us, 1) for begin_us, end_us in periods if begin_us < end_us]
        + [(end_us, -1) for begin_us, end_us in periods if begin_us < end_us]
    )
    count = most = 0
    for _, change in changes:
        count += change
        most = max(most, count)
    return most
