"""Which due instances come first: a merge of the queues of several kinds and priorities.

Each queue is read window by window. What was read so far may be taken up to the *horizon*, the first place that some
queue has not shown yet; then the queues that hold the horizon back are read on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from zlib import crc32

import msgspec

from peerjob.model.clock import Clock

from .base import Step
from .index_feed import IndexFeed
from .queues import Head, Queues, Scan

_MAX_SCANS = 100
"""Most queues that are read in one request."""
_FEW = 8
"""Fewest queues that are opened at a time, and fewest entries that are read of one."""
_CROWD = 32
"""Queues that one claim looks at, above which each begins behind what was taken."""
MAX_PASSED = 4
"""Claims in which a node takes later instances before one that belongs to the part of another node."""


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

    def settled(self, queues: Queues, taken: Container[str]) -> Step | None:
        """The step that lets the queue begin behind what was taken, or forgets it if nothing is left."""
        left = next((pick.place for pick in self.picks if pick.key not in taken), None)
        if left is None and self.scan.done:
            return queues.drop(self.head)
        return queues.advance(self.head, left or self.scan.at)

    @property
    def open(self) -> bool:
        """Whether there may be more in it that matters: of suspects, only the first does."""
        return not self.scan.done and not (self.suspect and self.picks)


class Room:
    """How many of each kind may be taken."""

    def __init__(self, caps: Mapping[str, int], taken: Mapping[str, int], spread: int = 1) -> None:
        self._caps = caps
        self._taken = taken
        self._spread = spread

    def of(self, kind: str) -> int:
        """How many of a kind."""
        return (self._caps.get(kind, 0) - self._taken.get(kind, 0)) * self._spread


class Selection:
    """The best due instances of some kinds."""

    def __init__(
        self,
        queues: Queues,
        clock: Clock,
        heads: Mapping[str, Sequence[Head]],
        feed: IndexFeed | None = None,
        *,
        suspects: bool,
    ) -> None:
        self._queues = queues
        self._suspects = suspects
        self._now_us = clock.time_us()
        self._feed = feed
        self._sources: list[_Source] = []
        self._add((kind, head) for kind, its_heads in heads.items() for head in its_heads)
        self.left_kinds: tuple[str, ...] = ()
        """Kinds of due instances that were seen and not picked."""

    def _add(self, heads: Iterable[tuple[str, Head]]) -> list[_Source]:
        added: list[_Source] = []
        for kind, head in heads:
            whole = self._feed is not None
            source = _Source(kind, head, self._queues.scan(head, now_us=self._now_us, whole=whole))
            if self._suspects or not source.suspect:
                added.append(source)
        self._sources += added
        self._sources.sort(key=lambda source: (source.priority, source.suspect))
        return added

    async def pick(self, limit: int, room: Room) -> list[Pick]:
        """The first `limit` in order, of each kind at most so many; a suspect only first and alone."""
        await self._open(limit + 1)
        await self._read(self._sources[:_MAX_SCANS], limit)
        while True:
            picks, rest, spent, horizon = self._merge(limit, room)
            full = len(picks) == limit or (len(picks) == 1 and picks[0].suspect)
            open_ones = [source for source in self._sources if source.open]
            if full:
                waiting = [] if rest else open_ones
            else:
                waiting = [source for source in open_ones if source.kind not in spent]
                # the first of them decide how far the picks go; a few at a time, as each read is a round trip
                waiting.sort(key=lambda one: (one.priority, one.scan.at))
                waiting = waiting[:_FEW]
                if self._bound is not None and self._bound == horizon:
                    waiting = await self._open(limit + 1 - len(picks))
                    if not waiting:
                        continue
            if not waiting:
                left = rest or (await self._open(1) if full else [])
                self.left_kinds = tuple(dict.fromkeys(one.kind for one in left))
                return picks
            await self._read(waiting[:_MAX_SCANS], limit)

    @property
    def _bound(self) -> tuple[int, str] | None:
        """Where the queues begin that were not looked at; None: there are no more."""
        return None if self._feed is None else self._feed.bound

    async def _open(self, most: int) -> list[_Source]:
        """Look at more queues."""
        if self._feed is None:
            return []
        return self._add(await self._feed.more(min(max(most, _FEW), _MAX_SCANS)))

    def _merge(self, limit: int, room: Room) -> tuple[list[Pick], list[Pick], set[str], tuple[int, str] | None]:
        """What may be taken now, what else was seen, kinds that are used up, and the horizon."""
        pool = [pick for source in self._sources for pick in source.picks]
        if len(self._sources) > 1:
            pool.sort(key=lambda pick: (pick.priority, pick.place))
        spent = {source.kind for source in self._sources if room.of(source.kind) <= 0}
        bounds = [] if self._bound is None else [self._bound]
        while True:
            horizon = min(
                (
                    *bounds,
                    *(
                        (source.priority, source.scan.at)
                        for source in self._sources
                        if source.open and source.kind not in spent
                    ),
                ),
                default=None,
            )
            picks, rest = _taken(pool, limit, room, horizon)
            used = Counter(pick.kind for pick in picks)
            more = {kind for kind, count in used.items() if count >= room.of(kind)} - spent
            if not more:
                return picks, rest, spent, horizon
            spent |= more

    async def _read(self, sources: Sequence[_Source], limit: int) -> None:
        open_ones = [source for source in sources if source.open]
        if not open_ones:
            return
        if self._feed is not None:
            # the more queues there are, the fewer of each are among the first
            limit = min(limit, max(2 * limit // len(open_ones), _FEW))
        await self._queues.read([source.scan for source in open_ones], limit + 1)
        for source in open_ones:
            source.update()

    def settled(self, picks: Sequence[Pick]) -> list[Step | None]:
        """The steps that let queues begin behind what was taken from them, once they are so many that it matters.

        Else each claim would look again at all queues that were the first once.
        """
        if self._feed is None or len(self._sources) <= _CROWD:
            return []
        taken = {pick.key for pick in picks}
        return [source.settled(self._queues, taken) for source in self._sources if source.scan.head.mod]

    def heads(self) -> list[Head]:
        """Every queue that was looked at."""
        return [source.head for source in self._sources]

    def empty(self) -> list[tuple[str, Head]]:
        """Kinds and queues in which nothing is."""
        return [(source.kind, source.head) for source in self._sources if source.scan.done and not source.picks]


def shared(
    picks: Sequence[Pick],
    limit: int,
    room: Room,
    incarnation: str,
    live: Sequence[str],
    passed: dict[str, int],
) -> tuple[list[Pick], list[Pick]]:
    """The picks, in order, that are for one incarnation to take, and the others.

    Each of the live ones has a part of all picks to itself. An incarnation whose part is too small takes from the parts
    of others, from places that they most likely leave alone. It counts in `passed` which instances it has passed over
    for later ones: after `MAX_PASSED` times an instance belongs to its part, as the other may be busy for long.
    """
    count = max(1, len(live))
    own = live.index(incarnation) if incarnation in live else 0
    ids = [pick.id for pick in picks]
    ranked: list[tuple[int, int, int]] = []
    for at, id in enumerate(ids):
        drawn, part = divmod(crc32(id.encode()), count)
        is_own = part == own or (id in passed and passed[id] >= MAX_PASSED)
        ranked.append((0, at, at) if is_own else ((part - own) % count, drawn, at))
    ranked.sort()
    used, mine, others = Counter[str](), list[int](), list[int]()
    for _, _, at in ranked:
        kind = picks[at].kind
        if len(mine) < limit and used[kind] < room.of(kind):
            used[kind] += 1
            mine.append(at)
        else:
            others.append(at)
    mine.sort()
    last = mine[-1] if mine else -1
    counted = {ids[at]: passed.get(ids[at], 0) + (at < last) for at in others if at < last or ids[at] in passed}
    passed.clear()
    passed.update(counted)
    return [picks[at] for at in mine], [picks[at] for at in others]


def _taken(
    pool: Sequence[Pick], limit: int, room: Room, horizon: tuple[int, str] | None
) -> tuple[list[Pick], list[Pick]]:
    left: dict[str, int] = {}
    picks: list[Pick] = []
    passed: list[Pick] = []
    for at, pick in enumerate(pool):
        if len(picks) == limit or (horizon is not None and (pick.priority, pick.place) >= horizon):
            return picks, passed + list(pool[at:])
        if pick.suspect:
            if at == 0:
                return [pick], list(pool[1:])
            passed.append(pick)
        elif (free := left.get(pick.kind) or (0 if pick.kind in left else room.of(pick.kind))) > 0:
            left[pick.kind] = free - 1
            picks.append(pick)
        else:
            passed.append(pick)
    return picks, passed
