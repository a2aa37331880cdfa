"""Which due instances come first: a merge of the queues of several kinds and priorities.

Each queue is read window by window. What was read so far may be taken up to the *horizon*, the first place that some
queue has not shown yet; then the queues that hold the horizon back are read on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from zlib import crc32

import msgspec

from peerjob.clock import Clock

from .queues import Head, Queues, Scan

_MOST_SCANS = 100
"""Most queues that are read in one request."""


class Pick(msgspec.Struct, frozen=True, gc=False):
    """A due instance, as its queue shows it."""

    priority: int
    place: str
    kind: str
    queue: str
    suspect: bool
    mod: int

    @property
    def id(self) -> str:
        return self.place[19:]

    @property
    def key(self) -> str:
        return self.queue + self.place


class _Source:
    """One queue, and what of it was read."""

    def __init__(self, kind: str, head: Head, scan: Scan) -> None:
        side, priority = head.queue[:-1].rsplit("/", 2)[-2:]
        self.kind = kind
        self.priority = int(priority, 16)
        self.suspect = side == "s"
        self.head = head
        self.scan = scan
        self.picks: list[Pick] = []

    def update(self) -> None:
        """Turn what the scan has found since into picks."""
        for at in range(len(self.picks), len(self.scan.places)):
            self.picks.append(
                Pick(
                    self.priority,
                    self.scan.places[at],
                    self.kind,
                    self.head.queue,
                    self.suspect,
                    self.scan.entries[at].mod,
                )
            )

    @property
    def open(self) -> bool:
        """Whether there may be more in it that matters: of suspects, only the first does."""
        return not self.scan.done and not (self.suspect and self.picks)


class Selection:
    """The best due instances of some kinds."""

    def __init__(
        self,
        queues: Queues,
        clock: Clock,
        heads: Mapping[str, Sequence[Head]],
        *,
        suspects: bool,
    ) -> None:
        self._queues = queues
        now_us = clock.time_us()
        self._sources: list[_Source] = []
        for kind, its_heads in heads.items():
            for head in its_heads:
                source = _Source(kind, head, queues.scan(head, now_us=now_us))
                if suspects or not source.suspect:
                    self._sources.append(source)
        self._sources.sort(key=lambda source: (source.priority, source.suspect))
        self.left_kinds: tuple[str, ...] = ()
        """Kinds of due instances that were seen and not picked."""

    async def pick(self, limit: int, caps: Mapping[str, int]) -> list[Pick]:
        """The first `limit` in order, of each kind at most so many; a suspect only first and alone."""
        if not self._sources:
            return []
        await self._read(self._sources[:_MOST_SCANS], limit)
        while True:
            picks, rest, spent, horizon = self._merge(limit, caps)
            full = len(picks) == limit or (len(picks) == 1 and picks[0].suspect)
            open_ones = [source for source in self._sources if source.open]
            if full:
                waiting = [] if rest else open_ones
            else:
                waiting = [source for source in open_ones if source.kind not in spent]
                waiting = [one for one in waiting if (one.priority, one.scan.at) == horizon] or waiting
            if not waiting:
                self.left_kinds = tuple(dict.fromkeys(pick.kind for pick in rest))
                return picks
            await self._read(waiting[:_MOST_SCANS], limit)

    def _merge(
        self, limit: int, caps: Mapping[str, int]
    ) -> tuple[list[Pick], list[Pick], set[str], tuple[int, str] | None]:
        """What may be taken now, what else was seen, kinds that are used up, and the horizon."""
        pool = [pick for source in self._sources for pick in source.picks]
        if len(self._sources) > 1:
            pool.sort(key=lambda pick: (pick.priority, pick.place))
        spent: set[str] = set()
        while True:
            horizon = min(
                (
                    (source.priority, source.scan.at)
                    for source in self._sources
                    if source.open and source.kind not in spent
                ),
                default=None,
            )
            picks, rest = _taken(pool, limit, caps, horizon)
            used = Counter(pick.kind for pick in picks)
            more = {kind for kind, count in used.items() if count >= caps[kind]} - spent
            if not more:
                return picks, rest, spent, horizon
            spent |= more

    async def _read(self, sources: Sequence[_Source], limit: int) -> None:
        open_ones = [source for source in sources if source.open]
        await self._queues.read([source.scan for source in open_ones], limit + 1)
        for source in open_ones:
            source.update()

    def heads(self) -> list[Head]:
        """Every queue that was looked at."""
        return [source.head for source in self._sources]

    def begins(self) -> list[tuple[Head, str]]:
        """Queues and their first entries, where one was found."""
        return [(source.head, source.picks[0].place) for source in self._sources if source.picks]

    def empty(self) -> list[Head]:
        """Queues in which nothing is."""
        return [source.head for source in self._sources if source.scan.done and not source.picks]


def shared(
    picks: Sequence[Pick], limit: int, caps: Mapping[str, int], incarnation: str, live: Sequence[str]
) -> tuple[list[Pick], list[Pick]]:
    """The picks, in order, that are for one incarnation to take, and the others.

    Each of the live ones has a part of all picks to itself. Whoever finds its own part too small helps itself to the
    parts of others, from places that they most likely leave alone.
    """
    count = max(1, len(live))
    own = live.index(incarnation) if incarnation in live else 0
    ranked: list[tuple[int, int, Pick]] = []
    for at, pick in enumerate(picks):
        drawn, part = divmod(crc32(pick.id.encode()), count)
        ranked.append((0, at, pick) if part == own else ((part - own) % count, drawn, pick))
    ranked.sort(key=lambda one: one[:2])
    left, mine, others = dict(caps), list[Pick](), list[Pick]()
    for _, _, pick in ranked:
        if len(mine) < limit and left[pick.kind] > 0:
            left[pick.kind] -= 1
            mine.append(pick)
        else:
            others.append(pick)
    return sorted(mine, key=lambda pick: (pick.priority, pick.place)), others


def _taken(
    pool: Sequence[Pick], limit: int, caps: Mapping[str, int], horizon: tuple[int, str] | None
) -> tuple[list[Pick], list[Pick]]:
    left = dict(caps)
    picks: list[Pick] = []
    passed: list[Pick] = []
    for at, pick in enumerate(pool):
        if len(picks) == limit or (horizon is not None and (pick.priority, pick.place) >= horizon):
            return picks, passed + list(pool[at:])
        if pick.suspect:
            if at == 0:
                return [pick], list(pool[1:])
            passed.append(pick)
        elif left[pick.kind] > 0:
            left[pick.kind] -= 1
            picks.append(pick)
        else:
            passed.append(pick)
    return picks, passed
