"""The due instances that a claim takes: a merge of the queues of several kinds and priorities.

Each queue is read window by window. Entries may be picked up to the *horizon*: the first position that some queue has
not been read up to. To move the horizon, the queues that determine it are read further.

If the store keeps the order within a window only, each live incarnation takes a share of the first instances, so that
their claims seldom conflict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Container, Iterable, Mapping, Sequence, Set
from zlib import crc32

import msgspec

from peerjob.model.clock import Clock
from peerjob.store.kv.format.base import Transaction
from peerjob.store.kv.index.index_feed import IndexFeed
from peerjob.store.kv.index.queues import Queues
from peerjob.store.kv.index.scan import Head, Scan
from peerjob.store.kv.write.context import KVContext

from .claim_call import ClaimCall
from .claim_limits import Budget, ClaimLimits

_MAX_SCANS = 100
"""One request reads at most this number of queues; a claim reads further queues with further requests."""
_MIN_READ = 8
"""A claim opens at least this number of queues at a time, and reads at least this number of entries of each queue."""
_MANY_QUEUES = 20
"""If one claim reads more queues than this, the claim moves the head of each queue behind the picked instances."""
MAX_PASSED = 6
"""After a node has passed over an instance of another node's share this often, the node takes the instance itself."""
_FEW_PICKS = 16
"""After a claim of at most so many instances, the next one reads the records that it expects without a request."""
_MAX_COUNTED = 2000
"""For at most this number of instances, a node counts how often it has passed them over."""


class Pick(msgspec.Struct, frozen=True, gc=False):
    """A due instance, as an entry of its queue."""

    priority: int
    position: str
    kind: str
    queue: str
    suspect: bool
    mod: int

    @property
    def id(self) -> str:
        return self.position[19:]

    @property
    def key(self) -> str:
        return self.queue + self.position


class _Source:
    """One queue, and the entries that were read."""

    def __init__(self, kind: str, head: Head, scan: Scan) -> None:
        side, priority = head.queue[:-1].rsplit("/", 2)[-2:]
        self.kind = kind
        self.priority = int(priority, 16)
        self.suspect = side == "s"
        self.head = head
        self.scan = scan
        self.picks: list[Pick] = []

    def update(self) -> None:
        """Make picks of new entries of the scan."""
        for at in range(len(self.picks), len(self.scan.positions)):
            self.picks.append(
                Pick(
                    self.priority,
                    self.scan.positions[at],
                    self.kind,
                    self.head.queue,
                    self.suspect,
                    self.scan.entries[at].mod,
                )
            )

    def head_moves(self, queues: Queues, taken: Container[str]) -> Transaction | None:
        """The transaction that moves the head behind the taken entries, or deletes the head if no entry is left."""
        left = next((pick.position for pick in self.picks if pick.key not in taken), None)
        if left is None and self.scan.done:
            return queues.drop(self.head)
        return queues.advance(self.head, left or self.scan.at)

    @property
    def open(self) -> bool:
        """Whether the selection can need further entries of the queue. Of suspects, only the first one is needed."""
        return not self.scan.done and not (self.suspect and self.picks)


class Remaining:
    """How many instances of each kind may be picked. A kind is held back here: a claim passes over a kind with 0."""

    def __init__(
        self, caps: Mapping[str, int], taken: Mapping[str, int], spread: int = 1, by_limits: ClaimLimits | None = None
    ) -> None:
        self._caps = caps
        self._taken = taken
        self._spread = spread
        self._by_limits = by_limits
        self.closed: Set[str] = frozenset() if by_limits is None else by_limits.closed
        """Kinds of which a limit allows none."""

    def of(self, kind: str) -> int:
        """The number of instances of this kind that can be picked."""
        if kind in self.closed:
            return 0
        return (self._caps.get(kind, 0) - self._taken.get(kind, 0)) * self._spread

    def budget(self) -> Budget | None:
        """What the shared limits leave to all kinds together; None without limits."""
        return None if self._by_limits is None else self._by_limits.budget(self._spread)

    def share(self) -> Budget | None:
        """The share of the node of the budget; None without limits."""
        return None if self._by_limits is None else self._by_limits.share()

    def spent(self, kinds: Iterable[str], used: Mapping[str, int]) -> set[str]:
        """Those of these kinds of which no more can be picked, if so many of each kind are."""
        budget = self.budget()
        if budget is None:
            return {kind for kind in used or kinds if used.get(kind, 0) >= self.of(kind)}
        for kind, count in used.items():
            budget.use(kind, count)
        return {kind for kind in kinds if used.get(kind, 0) >= self.of(kind) or not budget.allows(kind)}


class Selection:
    """The best due instances of some kinds."""

    def __init__(
        self,
        queues: Queues,
        clock: Clock,
        heads: Mapping[str, Sequence[Head]],
        feed: IndexFeed | None = None,
        scans: Mapping[Head, Scan] | None = None,
        *,
        suspects: bool,
    ) -> None:
        self._queues = queues
        self._suspects = suspects
        self._now_us = clock.time_us()
        self._feed = feed
        self._scans = scans or {}
        """The reads of queues that have begun."""
        self._sources: list[_Source] = []
        self._add((kind, head) for kind, its_heads in heads.items() for head in its_heads)
        self.picks: list[Pick] = []
        self.left_kinds: tuple[str, ...] = ()
        """Kinds of due instances that were read and not picked: the claim wakes one other node for these kinds."""

    @classmethod
    def unread(cls, context: KVContext, call: ClaimCall) -> Selection:
        """A selection of nothing: the queues are known, and were not read."""
        return cls(context.queues, context.clock, call.heads, suspects=call.want.suspects)

    def _add(self, heads: Iterable[tuple[str, Head]]) -> list[_Source]:
        added: list[_Source] = []
        for kind, head in heads:
            whole = self._feed is not None
            scan = self._scans.get(head) or self._queues.scan(head, now_us=self._now_us, whole=whole)
            source = _Source(kind, head, scan)
            source.update()
            if self._suspects or not source.suspect:
                added.append(source)
        self._sources += added
        self._sources.sort(key=lambda source: (source.priority, source.suspect))
        return added

    async def pick(self, limit: int, remaining: Remaining) -> None:
        """Pick the first `limit` instances, within what remains. A suspect is picked only if first, and alone."""
        await self._open(limit + 1)
        await self._read([source for source in self._sources if source.head not in self._scans][:_MAX_SCANS], limit)
        while True:
            self.picks, rest, spent, horizon = self._merge(limit, remaining)
            picks = self.picks
            full = len(picks) == limit or (len(picks) == 1 and picks[0].suspect)
            unfinished = [source for source in self._sources if source.open and source.kind not in remaining.closed]
            if full:
                waiting = [] if rest else unfinished
            else:
                waiting = [source for source in unfinished if source.kind not in spent]
                # the queues with the earliest unread positions determine the horizon; a few are read together, since
                # each read is a round trip
                waiting.sort(key=lambda source: (source.priority, source.scan.at))
                waiting = waiting[:_MIN_READ]
                if self._bound is not None and self._bound == horizon:
                    waiting = await self._open(limit + 1 - len(picks))
                    if not waiting:
                        continue
            if not waiting:
                left = rest or (await self._open(1) if full else [])
                self.keep(picks, (pick.kind for pick in left))
                return
            await self._read(waiting[:_MAX_SCANS], limit)

    def keep(self, picks: list[Pick], left_kinds: Iterable[str]) -> None:
        """Keep these picks, and leave others, of the given kinds, to other nodes."""
        self.picks = picks
        self.left_kinds = tuple(dict.fromkeys((*left_kinds, *self.left_kinds)))

    @property
    def _bound(self) -> tuple[int, str] | None:
        """A lower bound of the positions in queues that were not opened; None if all queues were opened."""
        return None if self._feed is None else self._feed.bound

    async def _open(self, count: int) -> list[_Source]:
        """Open about `count` further queues from the feed; the answer is the opened ones."""
        if self._feed is None:
            return []
        return self._add(await self._feed.more(min(max(count, _MIN_READ), _MAX_SCANS)))

    def _merge(
        self, limit: int, remaining: Remaining
    ) -> tuple[list[Pick], list[Pick], set[str], tuple[int, str] | None]:
        """The picks, the other entries that were read, the kinds at their limit, and the horizon."""
        pool = [pick for source in self._sources if source.kind not in remaining.closed for pick in source.picks]
        if len(self._sources) > 1:
            pool.sort(key=lambda pick: (pick.priority, pick.position))
        kinds = {source.kind for source in self._sources}
        spent = remaining.spent(kinds, {})
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
            picks, rest = _taken(pool, limit, remaining, horizon)
            used = Counter(pick.kind for pick in picks)
            more = remaining.spent(kinds, used) - spent
            if not more:
                return picks, rest, spent, horizon
            spent |= more

    async def _read(self, sources: Sequence[_Source], limit: int) -> None:
        unfinished = [source for source in sources if source.open]
        if not unfinished:
            return
        if self._feed is not None:
            # with many queues, few entries of each queue are among the first instances, so each read gets fewer entries
            limit = min(limit, max(2 * limit // len(unfinished), _MIN_READ))
        await self._queues.read([source.scan for source in unfinished], limit + 1)
        for source in unfinished:
            source.update()

    def head_moves(self, picks: Sequence[Pick]) -> list[Transaction | None]:
        """With many queues, the transactions that move their heads behind the picks.

        Without the moves, each claim would open all queues again that once had the first instance.
        """
        if self._feed is None or len(self._sources) <= _MANY_QUEUES:
            return []
        taken = {pick.key for pick in picks}
        return [source.head_moves(self._queues, taken) for source in self._sources if source.scan.head.mod]

    def heads(self, closed: Set[str] = frozenset()) -> list[Head]:
        """The heads of all opened queues, except those of some kinds."""
        return [source.head for source in self._sources if source.kind not in closed]

    def queued(self, kinds: Collection[str]) -> list[str]:
        """Those of these kinds of which instances were read."""
        return [source.kind for source in self._sources if source.picks and source.kind in kinds]

    def heads_by_kind(self) -> list[tuple[str, Head]]:
        """Kind and head of all opened queues."""
        return [(source.kind, source.head) for source in self._sources]

    def empty(self) -> list[tuple[str, Head]]:
        """Kind and head of each empty queue."""
        return [(source.kind, source.head) for source in self._sources if source.scan.done and not source.picks]


async def select_due(context: KVContext, call: ClaimCall) -> Selection:
    """Select the first due instances, or this node's share of them."""
    suspects = call.want.suspects and not call.claims
    selection = Selection(context.queues, context.clock, call.heads, call.feed, call.scans, suspects=suspects)
    if call.window:
        await selection.pick(call.window, Remaining(call.want.kinds, call.taken, call.spread, call.by_limits))
    if call.spread > 1:
        remaining = Remaining(call.want.kinds, call.taken, by_limits=call.by_limits)
        # only the first attempt of a call counts: what a retry passes over was not left by another node
        passed_over = dict(call.passed_over) if call.picked else call.passed_over
        share, left = share_of(selection.picks, call.limit, remaining, call.incarnation, call.live, passed_over)
        selection.keep(share, (pick.kind for pick in left))
        call.expected = [pick.id for pick in left[: len(share)]] if len(share) <= _FEW_PICKS else []
    if call.by_limits is not None and len(selection.picks) == call.limit:
        # if no node waits for the moment at which these kinds open, the woken node will
        selection.keep(selection.picks, selection.queued(call.by_limits.timed))
    return selection


def share_of(
    picks: Sequence[Pick],
    limit: int,
    remaining: Remaining,
    incarnation: str,
    live: Sequence[str],
    passed_over: dict[str, int],
) -> tuple[list[Pick], list[Pick]]:
    """The picks, in order, that one incarnation takes, and the others.

    Each live incarnation has a share of all picks. If its share is too small, it also takes from the shares of others,
    of the best priority the last picks. `passed_over` counts how often the incarnation has taken later instances first.
    After `MAX_PASSED` times at most, an instance belongs to its share, since the other node may be
    busy. The count stays until the caller removes it, because the claim of a share can fail, and other claims want
    other kinds.
    """
    count = max(1, len(live))
    own = live.index(incarnation) if incarnation in live else 0
    ids = [pick.id for pick in picks]
    ranked: list[tuple[int, int, int, int]] = []
    for at, id in enumerate(ids):
        part = index_of(id) % count
        distance = (part - own) % count
        # an instance belongs to more and more shares, so few nodes try to take it at a time
        is_own = not distance or passed_over.get(id, 0) >= min(distance + 3, MAX_PASSED)
        # the others take the first ones of their shares next
        ranked.append((0, 0, at, at) if is_own else (1, picks[at].priority, -at, at))
    ranked.sort()
    used, own_picks, others = Counter[str](), list[int](), list[int]()
    budget, share = remaining.budget(), remaining.share()
    for tried, (*_, at) in enumerate(ranked):
        if len(own_picks) == limit:
            others += [at for *_, at in ranked[tried:]]
            break
        kind = picks[at].kind
        is_ours = share is None or share.allows(kind) or passed_over.get(ids[at], 0) >= MAX_PASSED
        may_take = used[kind] < remaining.of(kind) and is_ours
        if may_take and (budget is None or budget.take(kind)):
            used[kind] += 1
            own_picks.append(at)
            if share is not None:
                share.use(kind, 1)
        else:
            others.append(at)
    own_picks.sort()
    last = own_picks[-1] if own_picks else -1
    for at in others:
        if at < last:
            passed_over[ids[at]] = passed_over.pop(ids[at], 0) + 1
    for id in list(passed_over)[: max(0, len(passed_over) - _MAX_COUNTED)]:
        del passed_over[id]
    return [picks[at] for at in own_picks], [picks[at] for at in others]


def index_of(id: str) -> int:
    """A number whose remainder chooses the node of an instance.

    The ids of one process have a counter, so the nodes have equal shares of a batch, and no node gets ahead.
    """
    try:
        return int(id[14:18] + id[19:23], 16)
    except ValueError:
        return crc32(id.encode())


def _taken(
    pool: Sequence[Pick], limit: int, remaining: Remaining, horizon: tuple[int, str] | None
) -> tuple[list[Pick], list[Pick]]:
    left: dict[str, int] = {}
    budget = remaining.budget()
    picks: list[Pick] = []
    passed: list[Pick] = []
    for at, pick in enumerate(pool):
        if len(picks) == limit or (horizon is not None and (pick.priority, pick.position) >= horizon):
            return picks, passed + list(pool[at:])
        if pick.suspect:
            if at == 0:
                return [pick], list(pool[1:])
            passed.append(pick)
        elif (free := left.get(pick.kind) or (0 if pick.kind in left else remaining.of(pick.kind))) > 0 and (
            budget is None or budget.take(pick.kind)
        ):
            left[pick.kind] = free - 1
            picks.append(pick)
        else:
            passed.append(pick)
    return picks, passed
