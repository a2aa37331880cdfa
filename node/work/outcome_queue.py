"""Outcomes on their way to the store, grouped into commits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from peerjob.model.record import MAX_BATCH, MAX_BATCH_BYTES, Outcome

from .run import Run

MAX_PENDING = 1_000
MAX_PENDING_BYTES = 8 << 20

Entry = tuple[Run, Outcome]


class OutcomeQueue:
    """A bounded buffer of outcomes. None is ever dropped; at the bound the node starts nothing new."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._entries: deque[Entry] = deque()
        self._bytes = 0
        self._wake = wake

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def full(self) -> bool:
        return len(self._entries) >= MAX_PENDING or self._bytes >= MAX_PENDING_BYTES

    def add(self, run: Run, outcome: Outcome) -> None:
        self._entries.append((run, outcome))
        self._bytes += size_of(outcome)
        self._wake()

    def take(self) -> list[Entry]:
        """The next batch: at most MAX_BATCH outcomes and about MAX_BATCH_BYTES, but always one if there is any.

        All of them are of one incarnation, since a commit is.
        """
        entries, batch, size = self._entries, list[Entry](), 0
        while entries and len(batch) < MAX_BATCH:
            run, outcome = entries[0]
            weight = size_of(outcome)
            if batch and (size + weight > MAX_BATCH_BYTES or run.incarnation != batch[0][0].incarnation):
                break
            size += weight
            batch.append(entries.popleft())
        self._bytes -= size
        return batch


def size_of(outcome: Outcome) -> int:
    """About how many bytes an outcome takes."""
    size = 100
    if outcome.result is not None:
        size += len(outcome.result)
    if outcome.error is not None:
        size += len(outcome.error)
    for line in outcome.logs:
        size += len(line.message) + 40
    return size
