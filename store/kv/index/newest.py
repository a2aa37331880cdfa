"""Reads the newest ids of some indexes, without the cost of the others.

To answer a range in descending order, etcd reads every value of the range, even beyond the limit. In ascending order it
reads as many values as the limit says, and only counts the other keys. So the newest ids are read in ascending order,
from windows that are narrow enough. A window with too many ids is divided into parts, whose keys are counted. The parts
with the newest ids are read, or divided again. Only the ids of one millisecond are read in descending order.

Ids contain milliseconds. A window is a range of ids, "" for an open end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice, pairwise

import msgspec

from peerjob.model.ids import MAX_SKEW_US, id_time_us
from peerjob.store.kv.format.base import Found, KeyValue, Range
from peerjob.store.kv.format.keys import prefix_end

MAX_RANGES = 100
"""Most ranges in one request."""
MIN_WINDOW_US = 20_000
MAX_WINDOW_US = 100 * 86_400_000_000
WINDOW_FACTOR = 8
_MAX_PARTS = 16
"""Most parts of a divided window."""
_QUIET_FACTOR = 4
_MAX_KNOWN = 1_000
"""A store remembers where the newest page began for at most this number of lists."""


class Window(msgspec.Struct, frozen=True):
    """A range of ids."""

    start: str
    end: str

    def range_of(self, index: str, limit: int, *, reverse: bool = False) -> Range:
        """The read of the ids of an index in this window."""
        first, last = index + self.start, index + self.end if self.end else prefix_end(index)
        return Range(first, max(first, last), limit, keys_only=True, reverse=reverse)

    def parts(self, count: int, now_us: int) -> list[Window]:
        """The window in `count` parts, the newest first; fewer if it spans few milliseconds."""
        low = id_time_us(self.start) // 1000 if self.start else 0
        high = (id_time_us(self.end) if self.end else max(now_us, low * 1000) + MAX_SKEW_US) // 1000 + 1
        cuts = [id_at((low + (high - low) * part // count) * 1000) for part in range(1, count)]
        bounds = [self.start, *(cut for cut in dict.fromkeys(cuts) if self._has(cut)), self.end]
        return [Window(*pair) for pair in pairwise(bounds)][::-1]

    def _has(self, id: str) -> bool:
        return self.start < id and (not self.end or id < self.end)


class _Page(msgspec.Struct, frozen=True):
    """The newest page of a list, as last read."""

    first: str
    """The oldest id of the page."""
    read_us: int

    def is_quiet(self, now_us: int) -> bool:
        """Whether about as many ids as a page has, and no more, are expected since then."""
        return now_us - self.read_us <= _QUIET_FACTOR * (self.read_us - id_time_us(self.first))


class NewestIds:
    """Reads the newest ids, and remembers where the newest pages began."""

    def __init__(self, kv: KeyValue) -> None:
        self._kv = kv
        self._pages: dict[tuple[int, int], _Page] = {}

    async def read(
        self, indexes: Sequence[str], within: tuple[str, str], limit: int, now_us: int
    ) -> tuple[list[str], bool]:
        """The newest `limit` ids within a range, the newest first, and whether there are more."""
        start, end = within
        key = hash(tuple(indexes)), limit
        known = None if end else self._pages.get(key)
        quiet = known is not None and known.is_quiet(now_us)
        reading = _Reading(self._kv, indexes, limit, now_us)
        windows = _windows(start, end, now_us, known.first if known is not None else "", quiet=quiet)
        # few ids are after now, by a clock that is ahead
        first = 2 if not end and not quiet and 2 * len(indexes) <= MAX_RANGES else 1
        await reading.add([*islice(windows, first)])
        for window in windows:
            if reading.done:
                break
            await reading.add([window])
        ids = sorted(reading.ids, reverse=True)
        if not end and len(ids) >= limit:
            if len(self._pages) >= _MAX_KNOWN:
                self._pages.clear()
            self._pages[key] = _Page(ids[limit - 1], now_us)
        return ids[:limit], reading.cut or reading.at > start or len(ids) > limit


class _Reading:
    """The ids that one read has found so far."""

    def __init__(self, kv: KeyValue, indexes: Sequence[str], limit: int, now_us: int) -> None:
        self._kv = kv
        self._indexes = indexes
        self._limit = limit
        self._now_us = now_us
        self.ids: set[str] = set()
        self.at = "~"
        """All ids after this one have been read, unless `cut`."""
        self.cut = False
        """Whether the last range had more ids than wanted."""

    @property
    def done(self) -> bool:
        return len(self.ids) >= self._limit

    async def add(self, windows: Sequence[Window]) -> None:
        """Add the ids of windows, the newest first, until there are enough."""
        for window, answers in zip(windows, await self._read(windows, 2 * self._limit), strict=True):
            if len(self.ids) >= self._limit:
                return
            if any(answer.more for answer in answers):
                await self._divide(window)
            else:
                self._take(window, answers)

    def _take(self, window: Window, answers: Sequence[Found]) -> None:
        for index, answer in zip(self._indexes, answers, strict=True):
            self.ids.update(key[len(index) :] for key, _ in answer.items)
        self.at = window.start

    async def _divide(self, window: Window) -> None:
        """Add the newest ids of a window with too many."""
        parts = window.parts(max(2, min(_MAX_PARTS, MAX_RANGES // len(self._indexes))), self._now_us)
        if len(parts) == 1:
            (answers,) = await self._read([window], self._limit, reverse=True)
            self._take(window, answers)
            self.cut = any(answer.more for answer in answers)
            return
        few: list[Window] = []
        count = 0
        for part, answers in zip(parts, await self._read(parts, 1), strict=True):
            if max(answer.count for answer in answers) > self._limit:
                await self._add_joined(few)
                if not self.done:
                    await self._divide(part)
                few, count = [], 0
            else:
                few.append(part)
                count += sum(answer.count for answer in answers)
                if count >= self._limit - len(self.ids):
                    await self._add_joined(few)
                    few, count = [], 0
            if self.done:
                return
        await self._add_joined(few)

    async def _add_joined(self, parts: Sequence[Window]) -> None:
        if parts:
            await self.add([Window(parts[-1].start, parts[0].end)])

    async def _read(self, windows: Sequence[Window], limit: int, *, reverse: bool = False) -> list[list[Found]]:
        """The answers for each window and index. A window is read as of one moment if it has few indexes."""
        count = len(self._indexes)
        ranges = [window.range_of(index, limit, reverse=reverse) for window in windows for index in self._indexes]
        answers: list[Found] = []
        for at in range(0, len(ranges), MAX_RANGES):
            answers += await self._kv.read(ranges[at : at + MAX_RANGES])
        return [answers[at : at + count] for at in range(0, len(answers), count)]


def id_at(time_us: int) -> str:
    """The smallest id of an instance that was created at a time; ids have milliseconds."""
    digits = f"{min(max(0, -(-time_us // 1000)), 2**48 - 1):012x}"
    return f"{digits[:8]}-{digits[8:]}"


def _windows(start: str, end: str, now_us: int, first: str, *, quiet: bool) -> Iterator[Window]:
    """Ranges of ids to read one after the other, the newest first: each spans eight times more than the one before.

    `first` is where the last newest page began: that page and the ids after it are most likely enough. If few ids are
    expected after it, they are read at once.
    """
    first = first if first > start else ""
    if first and quiet:
        yield Window(first, end)
        end, first = first, ""
    at_us, width_us = id_time_us(end) if end else now_us, MIN_WINDOW_US
    if not end and start < (now := id_at(now_us)):
        yield Window(now, end)
        end = now
    while width_us < MAX_WINDOW_US and (middle := id_at(at_us - width_us)) > start:
        if middle < first < end:
            yield Window(first, end)
            end, first = first, ""
        yield Window(middle, end)
        end, at_us, width_us = middle, at_us - width_us, width_us * WINDOW_FACTOR
    yield Window(start, end)
