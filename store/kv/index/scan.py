"""A read of one queue, which begins at its head and reads windows.

The windows are as wide as earlier windows of the queue had to be. A position is `<time>/<id>`, or `<id>` in an index.
Windows are measured in numbers that sort like positions, so a window can cut even between a thousand entries of one
microsecond.
"""

from __future__ import annotations

import msgspec

from peerjob.store.kv.format.base import Entry, Found, Range
from peerjob.store.kv.format.keys import prefix_end

AFTER_ALL = "~"
"""A text that sorts after every position in a queue."""
_ID_BITS = 64
_EMPTY_FACTOR = 8
"""After an empty window, the next window is this many times wider: a read gets at most so many
times more entries than wanted."""
_MAX_GAP_MS = 100
"""The widest gap, in milliseconds, that a scan expects again: after a wider window, a read
could get too many new entries."""


class Head(msgspec.Struct, frozen=True):
    """The head of a queue, as read."""

    queue: str
    start: str
    mod: int
    group: str = ""
    """The group of kinds whose index has an entry for the queue; "" if no index has one."""

    @property
    def value(self) -> bytes:
        """The value of the key that stores the head."""
        return (f"{self.start} {self.group}" if self.group else self.start).encode()


class WindowWidth(msgspec.Struct):
    """The widths of the windows on a queue, as numbers that sort like positions."""

    coarse: int
    """The width of a window that spans several instants."""
    fine: int = 0
    """The width of a window within one instant; 0 unless many entries have the same instant."""
    gap: int = 0
    """The width of the last gap without entries: the instances of a batch have one time, so
    there is a gap between two batches."""
    short: bool = False
    """Whether the last read reached the end of the queue, so that the next scan reads the whole queue at a time."""
    first: int = 0
    """The first entry that the last scan found: the head can be far behind it, since each move of a head costs a
    request."""


class Scan:
    """A read of one queue, window by window."""

    def __init__(
        self, head: Head, until: str, now_us: int, window_widths: dict[str, WindowWidth], *, whole: bool = False
    ) -> None:
        self.head = head
        self.at = head.start
        """All entries before this position have been read."""
        self.done = not self.at < until
        self.positions: list[str] = []
        self.entries: list[Entry] = []
        self._until = until
        self._timed = "/by/" not in head.queue
        self._instant = 1 << _ID_BITS if self._timed else 1 << 16
        self._now = self._instant * (now_us if self._timed else now_us // 1000)
        self._newest = now_us // 1000 << 16
        self._widths = window_widths.get(head.queue) or window_widths.setdefault(
            head.queue, WindowWidth(self._instant, short=whole)
        )
        self._width = self._widths.fine or self._widths.coarse
        self._end = ""
        self._gap_from: int | None = None
        """The number of the position at which the current gap begins; None outside a gap."""

    def window(self, limit: int) -> Range:
        """The next window."""
        self._end = self._until
        if not self._widths.short:
            at = self._number(self.at)
            if self.at == self.head.start:
                at = max(at, self._widths.first)
            end = at + self._width
            if self._width < self._instant and end % self._instant > self._newest:
                # ids contain their creation time, so no new ids of this instant can appear: the window ends with the
                # instant
                end = (at // self._instant + 1) * self._instant
            if end < self._now:
                self._end = min(self._position(end), self._until)
        if not self.at < self._end:
            self._end = self._until
        queue = self.head.queue
        stop = prefix_end(queue) if self._end == AFTER_ALL else queue + self._end
        return Range(queue + self.at, stop, limit)

    def take(self, answer: Found, limit: int) -> None:
        """Add the entries of a window."""
        cut, start = len(self.head.queue), self.at
        for key, entry in answer.items:
            self.positions.append(key[cut:])
            self.entries.append(entry)
        if answer.count > len(answer.items):
            self.at = self.positions[-1] + "!"
        else:
            self.at = self._end
            self.done = self._end == self._until
        self._adapt(answer, start, 2 * max(limit, 8))

    def _adapt(self, answer: Found, start: str, wanted: int) -> None:
        """Set the width of the next window by the entries of the last one, so that the next one has about `wanted`."""
        widths, seen = self._widths, len(answer.items)
        over_gap = self._width == widths.gap
        widths.short = answer.count <= 4 * wanted and (widths.short or self.done)
        if widths.short and self.done:
            return  # the next scan reads the whole queue
        if seen == 0:
            # the wider window is for this scan only: the next scan meets another gap
            if self._gap_from is None:
                self._gap_from = self._number(start)
            self._width = self._width * 2 if over_gap else max(self._width * _EMPTY_FACTOR, widths.gap)
            if widths.fine and (
                self.done or self._width >= self._instant or self._number(self.at) % self._instant == 0
            ):
                widths.fine, self._width = 0, max(widths.coarse, widths.gap)
            return
        first, last = self._number(self.positions[-seen]), self._number(self.positions[-1])
        if seen == len(self.positions):
            widths.first = first
        if self._gap_from is not None:
            gap, max_gap = first - self._gap_from, _MAX_GAP_MS * self._instant * (1000 if self._timed else 1)
            if gap >= self._instant:
                widths.gap = min(gap * 5 // 4, max_gap)
            self._gap_from = None
        part = (last - first) * wanted // seen
        crowded = first // self._instant == last // self._instant
        if answer.count > 4 * wanted:
            if crowded:
                widths.fine = max(1, part)
                widths.coarse = max(self._instant, min(widths.coarse, self._width * wanted // answer.count))
            else:
                widths.coarse = max(self._instant, part)
        elif widths.fine and crowded and seen > 1:
            widths.fine = max(widths.fine, part)
        elif answer.count * 4 < wanted and not over_gap:
            widths.coarse = max(widths.coarse, self._width) * 4
        self._width = widths.fine or widths.coarse

    def _number(self, position: str) -> int:
        if not self._timed:
            return _id_number(position)
        time, _, id = position.partition("/")
        return int((time + "0" * 18)[:18]) << _ID_BITS | _id_number(id)

    def _position(self, number: int) -> str:
        digits = f"{number & (1 << _ID_BITS) - 1:016x}"
        id = f"{digits[:8]}-{digits[8:12]}-{digits[12:]}"
        return f"{number >> _ID_BITS:018d}/{id}" if self._timed else id


def _id_number(id: str) -> int:
    try:
        return int((id[:18].replace("-", "") + "0" * 16)[:16], 16)
    except ValueError:
        return 0
