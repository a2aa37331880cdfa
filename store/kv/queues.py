"""Queues in key order, and how to read their beginning without paying for the rest.

etcd counts every key in a range, and every key deleted there since it was compacted, whatever the limit. So no queue
is read as a whole. Each has a *head*, a key whose value is a lower bound of the places in it: whoever adds an entry
compares the head with its place and lowers it if it must, and whoever found the beginning empty moves it on,
comparing that the stretch is still empty. A read starts at the head and goes on in windows, which are as wide as
the last ones had to be. A place is `<time>/<id>`, or `<id>` in an index; a window is counted in numbers that sort
as places do, so that a thousand entries of one microsecond are still told apart.

The ready queues of a kind that has a group (`groups`) stand in an index, by where they begin. The index is such a queue
itself, and the step that changes the head of a ready queue changes its entry there. The value of a head is a place,
and after a blank the group; a blank sorts before every character of a place, so the comparison still holds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from .base import MAX_STEPS, Compare, Delete, Entry, Found, KeyValue, Op, Put, Range, Step
from .keys import LATEST_US, Keys, prefix_end

_FIRST = "0"
"""Sorts before every place."""
AFTER_ALL = "~"
"""Sorts after every place."""
_ID_BITS = 64
_WIDEN = 8
"""How much wider the next window is after one that was empty; so much more than wanted is read at worst."""
_MAX_GAP_MS = 100
"""The widest gap that is expected to come again, since what comes in within that time is read at once then."""
_ATTEMPTS = 8
_MAX_KNOWN = 50_000
"""Queues of which a store keeps the head and the width of the windows in mind."""
_NO_ID = "00000000-0000-0000"
"""Stands in an index where a queue begins at a time, whatever the id."""


class Head(msgspec.Struct, frozen=True):
    """A queue and where it begins, as read."""

    queue: str
    start: str
    mod: int
    group: str = ""
    """The index that the queue stands in."""

    @property
    def value(self) -> bytes:
        """What its key holds."""
        return (f"{self.start} {self.group}" if self.group else self.start).encode()


class Opening(msgspec.Struct, frozen=True):
    """What a step compares and writes to begin a queue."""

    compares: list[Compare]
    ops: list[Op]


class Queues:
    """What one store knows of the queues: lower bounds of their heads, and the pace of reading."""

    def __init__(self, kv: KeyValue, keys: Keys) -> None:
        self._kv = kv
        self._keys = keys
        self._known: dict[str, str] = {}
        self._window_widths: dict[str, WindowWidth] = {}
        self._reserved = keys.head(f"{keys.due}@/")

    # -- adding ---------------------------------------------------------------------------------------------------

    def guard(self, queue: str, place: str) -> Compare:
        """The condition under which entries from a place on may be added."""
        return Compare(self._keys.head(queue), below=place)

    def forget(self, queues: Iterable[str]) -> None:
        """Read these heads again before the next entry, since a guard did not hold."""
        for queue in queues:
            self._known.pop(queue, None)

    async def open(self, places: Mapping[str, str], *, alone: Collection[str] = ()) -> dict[str, Opening]:
        """Make each of these queues begin before its place.

        A queue that is in `alone` gets only one entry, so the step that adds it may begin the queue as well: the
        answer says how, unless the queue has begun already.
        """
        openings: dict[str, Opening] = {}
        for _ in range(_ATTEMPTS):
            unknown = [queue for queue in self._unopened(places) if queue not in openings]
            if not unknown:
                break
            steps: list[Step] = []
            lowered: list[Head] = []
            indexes: dict[str, str] = {}
            heads = await self._heads_to_write(unknown)
            for queue, (head, guards) in heads.items():
                place = places[queue]
                if head.mod and "" < head.start < place:
                    self._note(queue, head.start)
                    continue
                hidden = head.mod and not head.start  # by a head that cannot be read
                new = msgspec.structs.replace(head, start=_FIRST if hidden else place[:-1])
                opening = self._begun(head, new, guards, indexes)
                if head.mod or queue not in alone:
                    steps.append(Step(opening.compares, opening.ops))
                    lowered.append(new)
                else:
                    openings[queue] = opening
            if indexes:
                await self.open(indexes)
            await self._apply(steps, lowered, indexes)
        # whoever adds entries compares the heads, and comes back if they were moved once more
        return openings

    def are_open(self, places: Mapping[str, str]) -> bool:
        """Whether these queues are known to begin before these places."""
        return not self._unopened(places)

    def _unopened(self, places: Mapping[str, str]) -> list[str]:
        known = self._known
        return [queue for queue, place in places.items() if not known.get(queue, place) < place]

    def opened(self, places: Iterable[tuple[str, str]]) -> None:
        """A step has begun queues, with entries at these places."""
        for queue, place in places:
            self._note(queue, place[:-1])

    def reread(self, compares: Iterable[Compare]) -> None:
        """Read the heads again that a step compared in vain."""
        self.forget(self._keys.queue_of(compare.key) for compare in compares if compare.below)

    async def _heads_to_write(self, queues: Sequence[str]) -> dict[str, tuple[Head, list[Compare]]]:
        """The heads of queues, and what must hold for one to be written."""
        keys = self._keys
        kinds = {queue: keys.group + keys.ready_parts(queue)[0] for queue in queues if keys.is_ready(queue)}
        grouped = list(dict.fromkeys(kinds.values()))
        entries = await self._kv.get([*map(keys.head, queues), *grouped])
        groups = dict(zip(grouped, entries[len(queues) :], strict=True))
        heads: dict[str, tuple[Head, list[Compare]]] = {}
        for queue, entry in zip(queues, entries, strict=False):
            if entry is not None:
                head = self._head(queue, entry)
                heads[queue] = head, [Compare(keys.head(queue), mod=head.mod)]
                continue
            guards, group = [Compare(keys.head(queue))], ""
            if queue in kinds:
                found = groups[kinds[queue]]
                guards.append(Compare(kinds[queue], mod=0 if found is None else found.mod))
                group = "" if found is None else found.value.decode(errors="replace")
            heads[queue] = Head(queue, "", 0, group), guards
        return heads

    def _begun(self, old: Head, new: Head, guards: Sequence[Compare], indexes: dict[str, str]) -> Opening:
        """How a head is written, with its entry in the index; `indexes` learns of the entry."""
        compares, ops = [*guards], list[Op]([Put(self._keys.head(new.queue), new.value)])
        if new.group:
            index, place = self._entry(new)
            compares.append(self.guard(index, place))
            indexes[index] = min(place, indexes.get(index, place))
        ops += self._moved(old, new)
        return Opening(compares, ops)

    async def _apply(self, steps: Sequence[Step], heads: Sequence[Head], indexes: Iterable[str]) -> list[bool]:
        """Write heads; whether each was."""
        done: list[bool] = []
        for at in range(0, len(steps), MAX_STEPS):
            applied = await self._kv.txn(steps[at : at + MAX_STEPS])
            for head, answer in zip(heads[at : at + MAX_STEPS], applied.steps, strict=True):
                done.append(answer is not None)
                if answer is not None:
                    self._note(head.queue, head.start)
        if not all(done):
            self.forget(indexes)
        return done

    async def regroup(self, heads: Mapping[Head, tuple[str, int]]) -> bool:
        """Let heads stand in the index of another group; each comes with the group of its kind, and its revision."""
        keys = self._keys
        steps: list[Step] = []
        indexes: dict[str, str] = {}
        moved: list[Head] = []
        for head, (group, mod) in heads.items():
            new = msgspec.structs.replace(head, group=group)
            kind = keys.group + keys.ready_parts(head.queue)[0]
            guards = [Compare(keys.head(head.queue), mod=head.mod), Compare(kind, mod=mod)]
            opening = self._begun(head, new, guards, indexes)
            steps.append(Step(opening.compares, opening.ops))
            moved.append(new)
        await self.open(indexes)
        return all(await self._apply(steps, moved, indexes))

    def _entry(self, head: Head) -> tuple[str, str]:
        """The index that a ready queue stands in, and its place there."""
        kind, side, priority = self._keys.ready_parts(head.queue)
        time, _, id = head.start.partition("/")
        return self._keys.order(head.group, priority), f"{time:0<18}/{id or _NO_ID}/{kind}/{side}"

    def _moved(self, old: Head, new: Head | None) -> list[Op]:
        """How the index follows a head; None: the queue is forgotten."""
        ops: list[Op] = []
        if old.mod and old.group:
            ops.append(Delete("".join(self._entry(old))))
        if new is not None and new.group:
            entry = "".join(self._entry(new))
            ops = [Put(entry, b"")] if ops and ops[0].key == entry else [*ops, Put(entry, b"")]
        return ops

    # -- reading --------------------------------------------------------------------------------------------------

    def delayed_heads(self) -> Range:
        """The read of the heads of all queues of delayed instances."""
        prefix = self._keys.head(self._keys.due) + "/"
        return Range(prefix, prefix_end(prefix))

    def heads(self, found: Found) -> list[Head]:
        """The heads that such a read found, but for those of later releases."""
        heads = [
            self._head(self._keys.queue_of(key), entry)
            for key, entry in found.items
            if not key.startswith(self._reserved)
        ]
        for head in heads:
            self._note(head.queue, head.start)
        return heads

    def _head(self, queue: str, entry: Entry) -> Head:
        """A head as stored; one that cannot be read begins before everything."""
        start, _, group = entry.value.decode(errors="replace").partition(" ")
        return Head(queue, start, entry.mod, group) if start[:1].isdigit() else Head(queue, "", entry.mod)

    def ordered(self, index: Head, place: str, mod: int) -> Head:
        """The head that an entry of an index stands for."""
        group = index.queue[:-1].rsplit("/", 2)[1]
        time, id, _ = place.split("/", 2)
        start = time if id == _NO_ID else f"{time}/{id}"
        return Head(self._keys.ordered_queue(index.queue, place), start, mod, group)

    def scan(self, head: Head, *, now_us: int, until: str = AFTER_ALL, whole: bool = False) -> Scan:
        """Begin to read a queue; with `whole` all of it at once, unless it is known to be long."""
        if len(self._window_widths) > _MAX_KNOWN:
            self._window_widths.clear()
        return Scan(head, until, now_us, self._window_widths, whole=whole)

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
        key, new = self._keys.head(head.queue), msgspec.structs.replace(head, start=start)
        empty = Compare(head.queue + head.start, end=head.queue + start)
        return Step([Compare(key, mod=head.mod), empty], [Put(key, new.value), *self._moved(head, new)])

    def drop(self, head: Head) -> Step:
        """The step that forgets an empty queue."""
        key = self._keys.head(head.queue)
        empty = Compare(head.queue + head.start, end=prefix_end(head.queue))
        return Step([Compare(key, mod=head.mod), empty], [Delete(key), *self._moved(head, None)])

    async def move_on(self, steps: Iterable[Step | None]) -> None:
        """Apply such steps; what fails was overtaken, and costs a wider window later."""
        wanted = [step for step in steps if step is not None]
        for at in range(0, len(wanted), MAX_STEPS):
            await self._kv.txn(wanted[at : at + MAX_STEPS])
        self.forget(self._keys.queue_of(step.ops[0].key) for step in wanted)

    def _note(self, queue: str, start: str) -> None:
        if len(self._known) > _MAX_KNOWN:
            self._known.clear()
        self._known[queue] = start


class WindowWidth(msgspec.Struct):
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

    def __init__(
        self, head: Head, until: str, now_us: int, window_widths: dict[str, WindowWidth], *, whole: bool = False
    ) -> None:
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
        self._widths = window_widths.get(head.queue) or window_widths.setdefault(
            head.queue, WindowWidth(self._instant, short=whole)
        )
        self._width = self._widths.fine or self._widths.coarse
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
        whole = self._widths.short or end >= self._now
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
        widths, seen = self._widths, len(found.items)
        over_gap = self._width == widths.gap
        widths.short = found.count <= 4 * wanted and (widths.short or self.done)
        if seen == 0:
            # only this scan widens its windows further over a gap: the next one meets another
            if self._gap_from is None:
                self._gap_from = self._number(start)
            self._width = self._width * 2 if over_gap else max(self._width * _WIDEN, widths.gap)
            if widths.fine and (
                self.done or self._width >= self._instant or self._number(self.at) % self._instant == 0
            ):
                widths.fine, self._width = 0, max(widths.coarse, widths.gap)
            return
        first, last = self._number(self.places[-seen]), self._number(self.places[-1])
        if self._gap_from is not None:
            gap, most = first - self._gap_from, _MAX_GAP_MS * self._instant * (1000 if self._timed else 1)
            if gap >= self._instant:
                widths.gap = min(gap * 5 // 4, most)
            self._gap_from = None
        part = (last - first) * wanted // seen
        crowd = first // self._instant == last // self._instant
        if found.count > 4 * wanted:
            if crowd:
                widths.fine = max(1, part)
                widths.coarse = max(self._instant, min(widths.coarse, self._width * wanted // found.count))
            else:
                widths.coarse = max(self._instant, part)
        elif widths.fine and crowd and seen > 1:
            widths.fine = max(widths.fine, part)
        elif found.count * 4 < wanted and not over_gap:
            widths.coarse = max(widths.coarse, self._width) * 4
        self._width = widths.fine or widths.coarse

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
