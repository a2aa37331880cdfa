"""The schedules that a leader keeps in memory, in the order in which they fall due."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from functools import cached_property

from peerjob.model.definition import Definition, decode_definition
from peerjob.model.firing import ScheduleRow
from peerjob.model.recurrence import Recurrence, recurrence_of

from .misfire import MIN_TOLERANCE_US

MOVED = 1_000
"""Most schedules that one look moves out of the order of due times."""


class TimetableEntry:
    """One schedule: its row as it was last read, and its next nominal time as it is now."""

    def __init__(self, row: ScheduleRow) -> None:
        self.row = row
        self.next_us = row.next_us
        self.alone = False
        """Whether it is fired in a call of its own, since a call with others was refused as a whole."""

    # read when they are needed: a new leader has thousands of rows to load before its first fire

    @cached_property
    def definition(self) -> Definition:
        """Raises DecodeError."""
        return decode_definition(self.row.definition)

    @cached_property
    def recurrence(self) -> Recurrence:
        """Raises DecodeError, or ScheduleError for a recurrence that cannot be used here."""
        return recurrence_of(self.definition)


class Timetable:
    """Every schedule of a namespace, and which of them are due.

    Those that are late stand in a line of their own, for one step each and then at its end again: so catching up after
    an outage holds up nothing that is due now, and no schedule waits for another that has much to catch up on.
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
        """Take over a row as it was read, unless a later one is here; one that was removed is forgotten."""
        old = self._entries.get(row.name)
        if old is not None and row.revision < old.row.revision:
            return
        if row.removed:
            self._entries.pop(row.name, None)
        else:
            entry = self._entries[row.name] = TimetableEntry(row)
            self.enter(entry, not_before_us)

    def drop(self, entry: TimetableEntry) -> None:
        """Forget a schedule, unless another row took the place of this one."""
        if self.holds(entry):
            del self._entries[entry.row.name]

    def holds(self, entry: TimetableEntry) -> bool:
        """Whether this is what is known of its schedule, and nothing later is."""
        return self._entries.get(entry.row.name) is entry

    def enter(self, entry: TimetableEntry, not_before_us: int = 0) -> None:
        """Give a schedule that has none a place by its next time, but not before a moment.

        One that is paused, has no next time, or is not held any more gets none.
        """
        if entry.row.paused or entry.next_us is None or not self.holds(entry):
            return
        heapq.heappush(self._order, (max(entry.next_us, not_before_us), next(self._numbers), entry))
        if len(self._order) > 2 * len(self._entries) + 100:
            self._order = [place for place in self._order if self.holds(place[2])]
            heapq.heapify(self._order)

    def look(self, now_us: int) -> None:
        """Line up what has fallen due, at most 1,000 at a time."""
        for _ in range(MOVED):
            if not self._order or self._order[0][0] > now_us:
                return
            _, _, entry = heapq.heappop(self._order)
            if entry.next_us is not None:
                late = now_us - entry.next_us > MIN_TOLERANCE_US
                (self._late if late else self._timely).append(entry)

    def take_timely(self, limit: int) -> list[TimetableEntry]:
        """The first of those that are due, and were not late when they were lined up."""
        return self._take(self._timely, limit)

    def take_late(self, limit: int) -> list[TimetableEntry]:
        """The first of those that are late."""
        return self._take(self._late, limit)

    def next_look_us(self) -> int | None:
        """When the next schedule falls due; None: none will."""
        return self._order[0][0] if self._order else None

    def _take(self, line: deque[TimetableEntry], limit: int) -> list[TimetableEntry]:
        taken: list[TimetableEntry] = []
        while line and len(taken) < limit:
            entry = line.popleft()
            if self.holds(entry):
                taken.append(entry)
        return taken
