"""The heads of the queues that a claim reads, and the reads that find what is added afterwards."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from peerjob.model.errors import StoreUnavailableError
from peerjob.model.record import Caps, Claim, Want

from .answers import AnswerLog
from .base import Entry, Found, Range
from .context import KVContext
from .delayed import DelayedQueue
from .hints import Wakeups
from .index_feed import IndexFeed
from .keys import below, prefix_end
from .kind_groups import Grouping, Groups
from .rows import live_of
from .scan import AFTER_ALL, Head
from .selection import Selection
from .writer import ROUNDS

FEW_KINDS = 32
"""A claim for at most this number of kinds reads the heads of all ready queues of each kind."""
_MAX_HEADS = 64
"""A claim for few kinds reads at most this number of heads. A claim with more heads or more
kinds reads the indexes of `kind_groups`."""


class ClaimCall:
    """The state of one call of `claim`."""

    def __init__(self, incarnation: str, want: Want, answer_log: AnswerLog) -> None:
        self.incarnation = incarnation
        self.want = want
        self.registered = want.kinds.kinds if isinstance(want.kinds, Caps) else tuple(want.kinds)
        self.answer_log = answer_log
        # for many kinds, the sum of the limits takes longer than the claim; the limit of each kind is checked in any
        # case
        few = len(want.kinds) <= FEW_KINDS
        self.limit = min(want.limit, sum(want.kinds.values())) if few else want.limit
        self.taken = Counter[str]()
        self.groups: Groups | None = None
        """The groups of the node's kinds; None while the claim reads the heads of all queues directly."""
        self.feed: IndexFeed | None = None
        self.node = Entry(b"", 0)
        self.name = ""
        self.live: list[str] = []
        """Incarnations that share the due instances; empty unless the store keeps the order within a window only."""
        self.heads: dict[str, list[Head]] = {}
        self.delayed: list[Head] = []
        self.claims: list[Claim] = []
        self.places: set[int] = set()
        """Numbers under which this call has stored its claims in the answer log."""
        self.picked = 0
        self.waited = False
        self.answer_log.guarded = True

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of which more instances may be claimed."""
        return tuple(kind for kind, limit in self.want.kinds.items() if limit > self.taken[kind])

    @property
    def answered(self) -> bool:
        """Whether the answer log has answers of an earlier run of the same request."""
        others = self.answer_log.answers.keys() - self.places
        return bool(others or (self.answer_log.parts and not self.places and not self.waited))

    def add(self, claim: Claim) -> None:
        """Add a claim to the answer."""
        self.claims.append(claim)
        self.taken[claim.kind] += 1
        self.limit = 0 if claim.suspect else self.limit - 1


class ClaimQueues:
    """Reads the queues for claims."""

    def __init__(self, context: KVContext) -> None:
        self._context = context
        self._delayed = DelayedQueue(context)
        self._grouping = Grouping(context)
        self._groups: dict[str, Groups] = {}
        """Incarnation → groups of the incarnation's kinds, for nodes with many kinds or queues."""

    async def find(self, call: ClaimCall, now_us: int) -> bool:
        """Move delayed instances that are due, and read the heads; False if the node is not alive."""
        context = self._context
        node, lives = Range(context.keys.node + call.incarnation), context.keys.live
        windowed = [below(lives)] if context.kv.capabilities.order == "windowed" else []
        known = self._groups.get(call.incarnation)
        if known is not None and (known.kinds is call.registered or known.kinds == call.registered):
            call.groups = known
        elif len(call.want.kinds) > FEW_KINDS:
            call.groups = await self._read_groups(call)
        for _ in range(ROUNDS):
            reads = [context.queues.delayed_heads(), *self._head_reads(call)]
            nodes, *found = await context.kv.read([node, *windowed, *reads])
            if windowed:
                call.live = [
                    incarnation
                    for incarnation, entry in ((key[len(lives) :], entry) for key, entry in found.pop(0).items)
                    if incarnation == call.incarnation or live_of(entry.value).claims
                ]
            delayed, *ready = found
            call.name, alive = context.name(call.incarnation, nodes.items[0][1] if nodes.items else None)
            if not alive:
                return False
            call.node = nodes.items[0][1]
            moved, written = await self._delayed.move(delayed)
            if written is not None:
                others = {kind: count for kind, count in moved.items() if kind not in call.want.kinds}
                await context.hints.send(Wakeups(ready=others, except_for=call.incarnation), written)
                delayed, *ready = await context.kv.read(reads)
            call.delayed = context.queues.heads(delayed)
            if await self._set_heads(call, ready, now_us):
                return True
        raise StoreUnavailableError(context.url, "too many nodes register kinds at once")

    def _head_reads(self, call: ClaimCall) -> list[Range]:
        """The reads that find the heads of the ready queues of all wanted kinds."""
        keys = self._context.keys
        if call.groups is None:
            return [below(keys.ready_heads(kind), _MAX_HEADS + 1) for kind in call.kinds]
        return [*self._grouping.marks(call.groups), *(below(keys.order_heads(group)) for group in call.groups.marks)]

    async def _set_heads(self, call: ClaimCall, ready: Sequence[Found], now_us: int) -> bool:
        """Store the heads that were read; False if heads are too many or groups changed, so the caller reads again."""
        queues = self._context.queues
        if call.groups is None:
            if sum(found.count for found in ready) > _MAX_HEADS:
                call.groups = await self._read_groups(call)
                return False
            call.heads = {kind: queues.heads(found) for kind, found in zip(call.kinds, ready, strict=True)}
            return True
        marks, heads = ready[: len(call.groups.marks)], ready[len(call.groups.marks) :]
        if not call.groups.hold(marks):
            call.groups = await self._read_groups(call)
            return False
        indexes = [head for found in heads for head in queues.heads(found)]
        # an earlier attempt of the claim may have read the same heads without indexes, and each queue must count once
        call.heads = {}
        call.feed = IndexFeed(queues, self._context.keys, indexes, call.groups.names, now_us)
        return True

    async def _read_groups(self, call: ClaimCall) -> Groups:
        groups = self._groups[call.incarnation] = await self._grouping.settled(call.registered)
        return groups

    async def next_due(self, call: ClaimCall) -> int | None:
        """The time at which the next delayed instance is due; None without one, or while other nodes' clocks decide."""
        return await self._delayed.next_due(call.delayed)

    def repeated_reads(self, call: ClaimCall, selection: Selection, next_due_us: int | None) -> list[Range]:
        """The reads that find entries added to the queues after the claim has read the queues."""
        return [
            *self._head_reads(call),
            *(call.feed.repeated_reads() if call.feed is not None else ()),
            *(Range(head.queue + head.start, prefix_end(head.queue), 1, True) for head in selection.heads()),
            self._context.queues.delayed_heads(),
            *self._delayed.before(call.delayed, next_due_us),
        ]

    def has_new(self, call: ClaimCall, selection: Selection, answer: Sequence[Found]) -> bool:
        """Whether `repeated_reads` found something new."""
        queues, rest = self._context.queues, deque(answer)

        def take(count: int) -> list[Found]:
            return [rest.popleft() for _ in range(count)]

        if call.groups is None or call.feed is None:
            read = {head.queue for head in selection.heads()}
            new = any(
                head.queue not in read and (call.want.suspects or "/s/" not in head.queue)
                for found in take(len(call.kinds))
                for head in queues.heads(found)
            )
        else:
            count = len(call.groups.marks)
            new = not call.groups.hold(take(count))
            indexes = {head.queue for head in call.feed.heads()}
            new = any(head.queue not in indexes for found in take(count) for head in queues.heads(found)) or new
            new = call.feed.has_new(take(len(indexes))) or new
        new = any(found.count for found in take(len(selection.heads()))) or new
        (delayed,) = take(1)
        begins = {head.queue: head.start for head in call.delayed}
        new = any(head.start < begins.get(head.queue, AFTER_ALL) for head in queues.heads(delayed)) or new
        return new or any(found.count for found in rest)
