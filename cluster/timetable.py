"""The schedules that a leader keeps in memory, in order of their next times."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from functools import cached_property

from peerjob.model.definition import Definition, decode_definition
from peerjob.model.firing import ScheduleRow
from peerjob.model.recurrence import Recurrence, recurrence_of

from .misfire import MIN_TOLERANCE_US

MAX_MOVED = 1_000
"""Most schedules that one call of `look` moves into the queues, so that each call is short."""


class TimetableEntry:
    """A schedule: its row by the last read, and its current next nominal time."""

    def __init__(self, row: ScheduleRow) -> None:
        self.row = row
        self.next_us = row.next_us
        self.alone = False
        """Whether the schedule is fired in a call of its own, since the store refused a call with several schedules."""

    # a definition is decoded only when needed, because a new leader loads thousands of schedules before its first fire

    @cached_property
    def definition(self) -> Definition:
        """The decoded definition; raises DecodeError."""
        return decode_definition(self.row.definition)

    @cached_property
    def recurrence(self) -> Recurrence:
        """The nominal times; raises DecodeError, or ScheduleError for a recurrence that this node cannot use."""
        return recurrence_of(self.definition)


class Timetable:
    """All schedules of a namespace, and the queues of schedules that are due.

    Late schedules have their own queue. Each takes one step and then goes to the end of the queue. So catching up after
    an outage does not delay schedules that are due now, nor other late schedules.
    """

    def __init__(self) -> None:
        self._entries: dict[str, TimetableEntry] = {}
        self._order: list[tuple[int, int, TimetableEntry]] = []
        self._timely: deque[TimetableEntry] = deque()
        self._late: deque[TimetableEntry] = deque()
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, row: ScheduleRow, not_before_us: int = 0) -> None:
        """Take a row that was read, unless a later row is known. The row of a removed schedule removes the entry."""
        old = self._entries.get(row.name)
        if old is not None and row.revision < old.row.revision:
            return
        if row.removed:
            self._entries.pop(row.name, None)
        else:
            entry = self._entries[row.name] = TimetableEntry(row)
            self.enter(entry, not_before_us)

    def drop(self, entry: TimetableEntry) -> None:
        """Remove a schedule, unless a later row replaced this entry."""
        if self.holds(entry):
            del self._entries[entry.row.name]

    def holds(self, entry: TimetableEntry) -> bool:
        """Whether this is the current entry of its schedule."""
        return self._entries.get(entry.row.name) is entry

    def enter(self, entry: TimetableEntry, not_before_us: int = 0) -> None:
        """Order a schedule by its next time, or by `not_before_us` if that is later.

        A schedule that is paused, has no next time, or is not current is in no order.
        """
        if entry.row.paused or entry.next_us is None or not self.holds(entry):
            return
        heapq.heappush(self._order, (max(entry.next_us, not_before_us), next(self._numbers), entry))
        if len(self._order) > 2 * len(self._entries) + 100:
            self._order = [item for item in self._order if self.holds(item[2])]
            heapq.heapify(self._order)

    def look(self, now_us: int) -> None:
        """Queue the schedules that are due now, at most 1,000."""
        for _ in range(MAX_MOVED):
            if not self._order or self._order[0][0] > now_us:
                return
            _, _, entry = heapq.heappop(self._order)
            if entry.next_us is not None:
                late = now_us - entry.next_us > MIN_TOLERANCE_US
                (self._late if late else self._timely).append(entry)

    def take_timely(self, limit: int) -> list[TimetableEntry]:
        """Take the first schedules from the queue of those that were on time."""
        return self._take(self._timely, limit)

    def take_late(self, limit: int) -> list[TimetableEntry]:
        """Take the first late schedules."""
        return self._take(self._late, limit)

    def next_due_us(self) -> int | None:
        """When the next schedule is due; None if no schedule is ordered."""
        return self._order[0][0] if self._order else None

    def _take(self, queue: deque[TimetableEntry], limit: int) -> list[TimetableEntry]:
        taken: list[TimetableEntry] = []
        while queue and len(taken) < limit:
            entry = queue.popleft()
            if self.holds(entry):
                taken.append(entry)
        return taken
