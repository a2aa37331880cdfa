"""LEGAL-HISTORY and RETRIES."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from peerjob.model.record import MAX_HISTORY, Record, Transition
from peerjob.model.state import ARROWS, State

from .evidence import Evidence, Violation

COUNTED = ("retry ", "timed out; retry ")
"""How the note of a transition that counts as a retry begins."""
POISON = "poison"
"""The note of the end of an instance that has taken too many nodes down."""


def legal_history(evidence: Evidence) -> Iterator[Violation]:
    """LEGAL-HISTORY: states follow the arrows, and a history only grows.

    * A history begins with Created and Scheduled, unless its older entries are folded into one.
    * Each state follows the one before it along the arrows; times never go back; the last entry is the record's state.
    * At most one entry is final, and it is the last.
    * A history that was read earlier is the beginning of the one that is read later, unless entries were folded.
    * The history holds a claim exactly when the record has a fence.
    """
    for id, record in evidence.records.items():
        for problem in _problems(record):
            yield Violation("LEGAL-HISTORY", id, f"{problem}: {shown(record.history)}")
        earlier = list(evidence.snapshots.get(id, ()))
        if evidence.folded:
            continue
        for before, after in itertools.pairwise([*earlier, record.history]):
            if not _is_folded(after) and after[: len(before)] != before:
                yield Violation("LEGAL-HISTORY", id, f"{shown(before)} became {shown(after)}")


def _problems(record: Record) -> Iterator[str]:
    history, states = record.history, [entry.state for entry in record.history]
    if not history or states[-1] is not record.state:
        yield f"the record is {record.state!s}, unlike its history"
    if not _is_folded(history) and states[:2] != [State.CREATED, State.SCHEDULED]:
        yield "it does not begin with Created and Scheduled"
    for before, after in itertools.pairwise(history):
        if not after.state & ARROWS[before.state]:
            yield f"{after.state!s} follows {before.state!s}"
        if after.at_us < before.at_us:
            yield f"time goes back at {after.state!s}"
    if any(state.is_final for state in states[:-1]):
        yield "a final state is left"
    if len(history) > MAX_HISTORY:
        yield f"it has {len(history)} entries, more than {MAX_HISTORY}"
    if not _is_folded(history) and (record.fence > 0) != (State.PROCESSING in states):
        yield f"it does not fit fence {record.fence}"


def retries(evidence: Evidence) -> Iterator[Violation]:
    """RETRIES: at most `max_retries` retries after the first run, and nothing but a run that ended counts.

    * `attempts` is the number of claims less those that were handed back, snoozed or lost, according to the history.
    * No run has an attempt number above `max_retries` + 1, nor has the record.
    * A Terminated instance is poisoned exactly when it has more than `max_crashes` crashes.
    """
    runs = evidence.runs_of()
    for id, record in evidence.records.items():
        if not _is_folded(record.history) and record.attempts != counted(record.history):
            yield Violation(
                "RETRIES",
                id,
                f"it has {record.attempts} attempts, its history counts {counted(record.history)}: "
                f"{shown(record.history)}",
            )
        order = evidence.orders.get(id)
        if order is None:
            continue
        if order.max_retries is not None:
            most = max([record.attempts, *(run.attempt for run in runs.get(id, ()))])
            if most > order.max_retries + 1:
                yield Violation("RETRIES", id, f"attempt {most} of an instance with {order.max_retries} retries")
        poisoned = record.state is State.TERMINATED and record.history[-1].note == POISON
        if poisoned != (record.crashes > order.max_crashes) and record.state is State.TERMINATED:
            yield Violation(
                "RETRIES",
                id,
                f"{record.crashes} crashes of {order.max_crashes} that it may have: {shown(record.history)}",
            )


def counted(history: tuple[Transition, ...]) -> int:
    """The attempts that a history counts: claims, less those that came back without being counted."""
    attempts = 0
    for before, after in itertools.pairwise(history):
        if after.state is State.PROCESSING:
            attempts += 1
        elif before.state is State.PROCESSING and _is_uncounted(after):
            attempts -= 1
    return attempts


def _is_uncounted(after: Transition) -> bool:
    """Whether the run before a transition does not count: it came back without a retry, or poisoned its instance."""
    if after.state is State.SCHEDULED:
        return not after.note.startswith(COUNTED)
    return after.state is State.TERMINATED and after.note == POISON


def _is_folded(history: tuple[Transition, ...]) -> bool:
    return bool(history) and history[0].count > 1


def shown(history: tuple[Transition, ...]) -> str:
    """A history in one line."""
    return " → ".join(f"{entry.state!s}({entry.note})" if entry.note else str(entry.state) for entry in history)
