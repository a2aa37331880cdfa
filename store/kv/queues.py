"""Queues in key order, and how to read their beginning without paying for the rest.

etcd counts every key in a range, and every key deleted there since it was compacted, whatever the limit. So no queue
is read as a whole. Each has a *head*, a key whose value is a lower bound of the places in it: whoever adds an entry
compares the head with its place and lowers it if it must, and whoever found the beginning empty moves it on,
comparing that the stretch is still empty. A read starts at the head and goes on in windows, which are as wide as
the last ones had to be. A place is `<time>/<id>`, or `<id>` in an index; a window is counted in numbers that sort
as places do, so that a thousand entries of one microsecond are still told apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from .base import MAX_STEPS, Compare, Delete, Entry, Found, KeyValue, Put, Range, Step
from .keys import LATEST_US, Keys, prefix_end

AFTER_ALL = "~"
"""Sorts after every place."""
_ID_BITS = 64
_WIDEN = 8
"""How much wider the next window is after one that was empty; so much more than wanted is read at worst."""
_MOST_GAP_MS = 100
"""The widest gap that is expected to come again, since what comes in within that time is read at once then."""
_ATTEMPTS = 8


class Head(msgspec.Struct, frozen=True):
    """A queue and where it begins, as read."""

    queue: str
    start: str
    mod: int


class Queues:
    """What one store knows of the queues: lower bounds of their heads, and the pace of reading."""

    def __init__(self, kv: KeyValue, keys: Keys) -> None:
        self._kv = kv
        self._keys = keys
        self._known: dict[str, str] = {}
        self._paces: dict[str, Pace] = {}
        self._reserved = keys.head(f"{keys.due}@/")

    # -- adding ---------------------------------------------------------------------------------------------------

    def guard(self, queue: str, place: str) -> Compare:
        """The condition under which entries from a place on may be added."""
        return Compare(self._keys.head(queue), below=place)

    def forget(self, queues: Iterable[str]) -> None:
        """Read these heads again before the next entry, since a guard did not hold."""
        for queue in queues:
            self._known.pop(queue, None)

    async def lower(self, places: Mapping[str, str]) -> None:
        """Make each of these queues begin before its place."""
        for _ in range(_ATTEMPTS):
            doubtful = [queue for queue, place in places.items() if not self._known.get(queue, place) < place]
            if not doubtful:
                return
            entries = await self._kv.get([self._keys.head(queue) for queue in doubtful])
            steps: list[Step] = []
            lowered: list[tuple[str, str]] = []
            for queue, entry in zip(doubtful, entries, strict=True):
                place = places[queue]
                if entry is not None and entry.value.decode() < place:
                    self._known[queue] = entry.value.decode()
                    continue
                head = self._keys.head(queue)
                start = place[:-1]
                guard = Compare(head, mod=0 if entry is None else entry.mod)
                steps.append(Step([guard], [Put(head, start.encode())]))
                lowered.append((queue, start))
            for at in range(0, len(steps), MAX_STEPS):
                applied = await self._kv.txn(steps[at : at + MAX_STEPS])
                for (queue, start), answer in zip(lowered[at : at + MAX_STEPS], applied.steps, strict=True):
                    if answer is not None:
                        self._known[queue] = start
        # whoever adds entries compares the heads, and comes back if they were moved once more

    # -- reading --------------------------------------------------------------------------------------------------

    def delayed_heads(self) -> Range:
        """The read of the heads of all queues of delayed instances."""
        prefix = self._keys.head(self._keys.due) + "/"
        return Range(prefix, prefix_end(prefix))

    def heads(self, found: Found) -> list[Head]:
        """The heads that such a read found, but for those of later releases."""
        heads: list[Head] = []
        for key, entry in found.items:
            if key.startswith(self._reserved):
                continue
            queue, start = self._keys.queue_of(key), entry.value.decode()
            self._note(queue, start)
            heads.append(Head(queue, start, entry.mod))
        return heads

    def scan(self, head: Head, *, now_us: int, until: str = AFTER_ALL) -> Scan:
        """Begin to read a queue."""
        if len(self._paces) > 50_000:
            self._paces.clear()
        return Scan(head, until, now_us, self._paces)

    async def read(self, scans: Sequence[Scan], limit: int) -> None:
        """Read the next window of each of these."""
        for scan, found in zip(scans, await self._kv.read([scan.window(limit) for scan in scans]), strict=True):
            scan.take(found, limit)

    async def first(self, scan: Scan, limit: int) -> None:
        """Go on until a scan has found `limit` entries, or there are no more."""
        while len(scan.places) < limit and not scan.done:
            await self.read([scan], limit - len(scan.places))

    async def earliest(self, heads: Sequence[Head]) -> str:
        """The first place in any of these queues, or AFTER_ALL; lets each begin where its first entry was found."""
        best = AFTER_ALL
        scans = [self.scan(head, now_us=LATEST_US) for head in heads]
        while going := [scan for scan in scans if not (scan.done or scan.places) and scan.at < best]:
            await self.read(going, 1)
            best = min([best, *(scan.places[0] for scan in going if scan.places)])
        await self.move_on(self.advance(scan.head, scan.places[0]) for scan in scans if scan.places)
        return best

    def advance(self, head: Head, place: str) -> Step | None:
        """The step that lets a queue begin just before a place, if nothing was added before it meanwhile."""
        start = place[:-1]
        if not head.start < start:
            return None
        key = self._keys.head(head.queue)
        empty = Compare(head.queue + head.start, end=head.queue + start)
        return Step([Compare(key, mod=head.mod), empty], [Put(key, start.encode())])

    def drop(self, head: Head) -> Step:
        """The step that forgets an empty queue."""
        key = self._keys.head(head.queue)
        empty = Compare(head.queue + head.start, end=prefix_end(head.queue))
        return Step([Compare(key, mod=head.mod), empty], [Delete(key)])

    async def move_on(self, steps: Iterable[Step | None]) -> None:
        """Apply such steps; what fails was overtaken, and costs a wider window later."""
        wanted = [step for step in steps if step is not None]
        for at in range(0, len(wanted), MAX_STEPS):
            await self._kv.txn(wanted[at : at + MAX_STEPS])
        self.forget(self._keys.queue_of(step.ops[0].key) for step in wanted)

    def _note(self, queue: str, start: str) -> None:
        if len(self._known) > 50_000:
            self._known.clear()
        self._known[queue] = start


class Pace(msgspec.Struct):
    """How wide the windows on a queue are, as numbers that sort as places do."""

    coarse: int
    """Spans instants."""
    fine: int = 0
    """Not 0: there is a crowd of one instant, to be read in such pieces first."""
    gap: int = 0
    """How wide the last gap was: a batch has one time, so between two batches there is nothing."""
    short: bool = False
    """The last read came to the end, so the queue is read as a whole until that is too much."""


class Scan:
    """A read of one queue from its head on, window by window."""

    def __init__(self, head: Head, until: str, now_us: int, paces: dict[str, Pace]) -> None:
        self.head = head
        self.at = head.start
        """Everything before this place has been read."""
        self.done = not self.at < until
        self.places: list[str] = []
        self.entries: list[Entry] = []
        self._until = until
        self._timed = "/by/" not in head.queue
        self._instant = 1 << _ID_BITS if self._timed else 1 << 16
        self._now = self._instant * (now_us if self._timed else now_us // 1000)
        self._newest = now_us // 1000 << 16
        self._pace = paces.get(head.queue) or paces.setdefault(head.queue, Pace(self._instant))
        self._width = self._pace.fine or self._pace.coarse
        self._end = ""
        self._gap_from: int | None = None
        """Where the gap begins that is being read."""

    def window(self, limit: int) -> Range:
        """The next piece to read."""
        at = self._number(self.at)
        end = at + self._width
        if self._width < self._instant and end % self._instant > self._newest:
            # ids tell when they were made: of what has one time, that was all
            end = (at // self._instant + 1) * self._instant
        whole = self._pace.short or end >= self._now
        self._end = self._until if whole else min(self._place(end), self._until)
        if not self.at < self._end:
            self._end = self._until
        queue = self.head.queue
        stop = prefix_end(queue) if self._end == AFTER_ALL else queue + self._end
        return Range(queue + self.at, stop, limit)

    def take(self, found: Found, limit: int) -> None:
        """Add what a window held."""
        cut, start = len(self.head.queue), self.at
        for key, entry in found.items:
            self.places.append(key[cut:])
            self.entries.append(entry)
        if found.count > len(found.items):
            self.at = self.places[-1] + "!"
        else:
            self.at = self._end
            self.done = self._end == self._until
        self._adapt(found, start, 2 * max(limit, 8))

    def _adapt(self, found: Found, start: str, wanted: int) -> None:
        """Let the next window hold about as much as is wanted, judging by what was seen."""
        pace, seen = self._pace, len(found.items)
        over_gap = self._width == pace.gap
        pace.short = found.count <= 4 * wanted and (pace.short or self.done)
        if seen == 0:
            # only this scan widens its windows further over a gap: the next one meets another
            if self._gap_from is None:
                self._gap_from = self._number(start)
            self._width = self._width * 2 if over_gap else max(self._width * _WIDEN, pace.gap)
            if pace.fine and (self.done or self._width >= self._instant or self._number(self.at) % self._instant == 0):
                pace.fine, self._width = 0, max(pace.coarse, pace.gap)
            return
        first, last = self._number(self.places[-seen]), self._number(self.places[-1])
        if self._gap_from is not None:
            gap, most = first - self._gap_from, _MOST_GAP_MS * self._instant * (1000 if self._timed else 1)
            if gap >= self._instant:
                pace.gap = min(gap * 5 // 4, most)
            self._gap_from = None
        part = (last - first) * wanted // seen
        crowd = first // self._instant == last // self._instant
        if found.count > 4 * wanted:
            if crowd:
                pace.fine = max(1, part)
                pace.coarse = max(self._instant, min(pace.coarse, self._width * wanted // found.count))
            else:
                pace.coarse = max(self._instant, part)
        elif pace.fine and crowd and seen > 1:
            pace.fine = max(pace.fine, part)
        elif found.count * 4 < wanted and not over_gap:
            pace.coarse = max(pace.coarse, self._width) * 4
        self._width = pace.fine or pace.coarse

    def _number(self, place: str) -> int:
        if not self._timed:
            return _id_number(place)
        time, _, id = place.partition("/")
        return int((time + "0" * 18)[:18]) << _ID_BITS | _id_number(id)

    def _place(self, number: int) -> str:
        digits = f"{number & (1 << _ID_BITS) - 1:016x}"
        id = f"{digits[:8]}-{digits[8:12]}-{digits[12:]}"
        return f"{number >> _ID_BITS:018d}/{id}" if self._timed else id


def _id_number(id: str) -> int:
    try:
        return int((id[:18].replace("-", "") + "0" * 16)[:16], 16)
    except ValueError:
        return 0
