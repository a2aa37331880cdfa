"""The queues that a claim reads: it moves delayed instances that are due, and finds instances that are added later.

A move changes queue entries only and no record, so any store can move any instance at any time. The clock of the
moving node decides what is due. A node whose clock is off therefore moves an instance only a while after the instance
was due by the median of the clocks: that node may be the only one with free workers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from peerjob.model.caps import Caps
from peerjob.model.errors import StoreUnavailableError
from peerjob.model.record import Claim, Want
from peerjob.store.kv.format.base import Compare, Delete, Entry, Found, Range
from peerjob.store.kv.format.keys import below, prefix_end, time_text
from peerjob.store.kv.format.rows import Delayed, decode_delayed, live_of
from peerjob.store.kv.index.counts import DELAYED
from peerjob.store.kv.index.index_feed import IndexFeed
from peerjob.store.kv.index.queues import AFTER_ALL, Head
from peerjob.store.kv.index.selection import Selection
from peerjob.store.kv.kinds.kind_groups import Grouping, Groups
from peerjob.store.kv.write.answers import AnswerLog
from peerjob.store.kv.write.context import KVContext
from peerjob.store.kv.write.hints import Wakeups
from peerjob.store.kv.write.step_plan import Change, StepPlan
from peerjob.store.kv.write.writer import ROUNDS, Written

MAX_MOVED = 500
"""Most instances that one claim moves to ready queues. A move of a thousand, of 10,000 kinds,
blocked a Redis server for 20 ms."""
LEFT_TO_OTHERS_US = 2_000_000
"""A node whose clock is off leaves due instances to other nodes for this long, and then moves the instances itself."""
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
        self.taken: dict[str, int] = {}
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
        return tuple(kind for kind, limit in self.want.kinds.items() if limit > self.taken.get(kind, 0))

    @property
    def wants_all(self) -> bool:
        """Whether the claim takes instances of each registered kind, and also suspects."""
        caps = self.want.kinds
        limits = (caps.default, *caps.others.values()) if isinstance(caps, Caps) else caps.values()
        return self.want.suspects and all(limit > 0 for limit in limits)

    @property
    def answered(self) -> bool:
        """Whether the answer log has answers of an earlier run of the same request."""
        others = self.answer_log.answers.keys() - self.places
        return bool(others or (self.answer_log.parts and not self.places and not self.waited))

    def add(self, claim: Claim) -> None:
        """Add a claim to the answer."""
        self.claims.append(claim)
        self.taken[claim.kind] = self.taken.get(claim.kind, 0) + 1
        self.limit = 0 if claim.suspect else self.limit - 1


class DelayedQueue:
    """The sixteen queues of delayed instances, as one."""

    def __init__(self, context: KVContext) -> None:
        self._context = context

    async def move(self, found: Found) -> tuple[dict[str, int], Written | None]:
        """Move what is due to the ready queues, earliest first. `found` has the heads; the answer counts by kind."""
        context = self._context
        if not context.clock_skew.judgement.known:
            return {}, None
        # the median clock decides: this node's wall clock may have been set since the last comparison with other clocks
        now_us = context.clock_skew.median_us() - (LEFT_TO_OTHERS_US if context.clock_skew.is_off else 0)
        until = time_text(now_us + 1)
        begun = [head for head in context.queues.heads(found) if head.start < until]
        if not begun:
            return {}, None
        scans = [context.queues.scan(head, now_us=now_us, until=until) for head in begun]
        while unfinished := [scan for scan in scans if not scan.done and len(scan.places) < MAX_MOVED]:
            await context.queues.read(unfinished, MAX_MOVED)
        due = [
            (place, scan.head.queue, entry)
            for scan in scans
            for place, entry in zip(scan.places, scan.entries, strict=True)
        ]
        due.sort(key=lambda item: item[0])
        changes: list[Change] = []
        kinds: list[str] = []
        for place, queue, entry in due[:MAX_MOVED]:
            id = place[19:]
            plan = StepPlan(context.keys, now_us)
            plan.ops.append(Delete(queue + place))
            delayed = await self._delayed(id, queue + place, entry)
            if delayed is None:
                # the kind of an unreadable entry is unknown, so only a recount can correct the counter that included
                # the entry
                context.counts.in_doubt = True
                kinds.append("")
            else:
                plan.shifts.append((delayed.kind, DELAYED, -1))
                plan.add_to_queue(id, delayed.kind, delayed.priority, int(place[:18]), suspect=delayed.suspect)
                kinds.append(delayed.kind)
            changes.append(plan.change([Compare(queue + place, mod=entry.mod)]))
        written = await context.writer.write(changes)
        moved: dict[str, int] = {}
        for kind, _ in written.applied(kinds):
            if kind:
                moved[kind] = moved.get(kind, 0) + 1
        if len(due) <= MAX_MOVED:
            await context.queues.move_on(context.queues.advance(head, until) for head in begun)
        return moved, written

    async def _delayed(self, id: str, key: str, entry: Entry) -> Delayed | None:
        """Decode an entry of a delayed queue. If the entry is unreadable, the instance's record is used, if any."""
        delayed = self._context.unreadable.read(key, entry, decode_delayed, "the record of the instance replaces it")
        if delayed is not None:
            return delayed
        # the move deletes the entry, so it counts no more
        self._context.unreadable.replaced(key)
        found = (await self._context.rows([id])).get(id)
        return None if found is None else Delayed(found[1].kind, found[1].priority, found[1].suspect)

    async def next_due(self, heads: Sequence[Head]) -> int | None:
        """The time at which the earliest instance is due; None without one, or if other nodes decide. Moves heads."""
        if not self._context.clock_skew.decides:
            return None
        place = await self._context.queues.earliest(heads)
        return None if place == AFTER_ALL else int(place[:18])

    def before(self, heads: Sequence[Head], next_due_us: int | None) -> list[Range]:
        """Reads that find nothing while no delayed instance is due before `next_due_us`."""
        if not self._context.clock_skew.decides:
            return []
        stop = None if next_due_us is None else time_text(next_due_us)
        return [
            Range(
                head.queue + head.start,
                prefix_end(head.queue) if stop is None else head.queue + stop,
                limit=1,
                keys_only=True,
            )
            for head in heads
            if stop is None or head.start < stop
        ]


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
                    if incarnation == call.incarnation or live_of(entry).claims
                ]
            delayed, *ready = found
            call.name, alive = context.name(call.incarnation, nodes.items[0][1] if nodes.items else None)
            if not alive:
                return False
            call.node = nodes.items[0][1]
            moved, written = await self._delayed.move(delayed)
            if written is not None:
                own: Mapping[str, int] = call.want.kinds if call.want.limit else {}
                others = {kind: count for kind, count in moved.items() if kind not in own}
                except_for = call.incarnation if own else ""
                await context.hints.send(Wakeups(ready=others, except_for=except_for), written)
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
