"""Scheduled → Processing: a node takes the best due instances."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from peerjob.model.errors import DecodeError, StoreUnavailableError
from peerjob.model.record import Caps, Claim, Claimed, Want
from peerjob.model.state import State

from .answers import AnswerLog
from .base import Compare, Delete, Entry, Found, Op, Put, Range, Step
from .context import KVContext
from .counts import PROCESSING, READY, SCHEDULED
from .delayed import DelayedQueue
from .enqueue import check_batch
from .hints import Wakeups
from .index_feed import IndexFeed
from .keys import prefix_end, time_text
from .kind_groups import Grouping, Groups
from .queues import AFTER_ALL, Head
from .rows import Idle, Owned, Row, encode, extended, live_of, to_claim
from .selection import Pick, Room, Selection, shared
from .writer import ROUNDS, Change

_MOVE_ON_AFTER = 200
"""ClaimCommands from a queue after which its head follows."""
_CROWD = 16
"""Queues of one kind, above which empty ones are forgotten."""
_MAX_WINDOW = 1000
"""Most instances among which a node picks its share."""
FEW_KINDS = 32
"""Most kinds of which a claim reads the head of each queue."""
_MAX_HEADS = 64
"""Most heads that such a claim reads; above, and for more kinds, it uses the indexes of `groups`."""
_MAX_ALONG = 100
"""Most reads in the step that registers; etcd counts them with all else that the step does."""
_LAG_US = 5_000_000
"""How far the head of an empty queue stays behind, for nodes whose clocks are late."""


class _Registered(NamedTuple):
    """An idle incarnation, as it was registered last."""

    kinds: tuple[str, ...]
    groups: tuple[str, ...]
    revision: int


class _Call:
    """One claim, while it is at work."""

    def __init__(self, incarnation: str, want: Want, answer_log: AnswerLog) -> None:
        self.incarnation = incarnation
        self.want = want
        self.registered = want.kinds.kinds if isinstance(want.kinds, Caps) else tuple(want.kinds)
        self.answer_log = answer_log
        # adding up what many kinds allow would take longer than the claim, and what is taken is held to it anyway
        few = len(want.kinds) <= FEW_KINDS
        self.limit = min(want.limit, sum(want.kinds.values())) if few else want.limit
        self.taken = Counter[str]()
        self.groups: Groups | None = None
        """The groups of its kinds, where it has many."""
        self.feed: IndexFeed | None = None
        self.node = Entry(b"", 0)
        self.name = ""
        self.live: list[str] = []
        """Which incarnations claim, where that matters."""
        self.heads: dict[str, list[Head]] = {}
        self.delayed: list[Head] = []
        self.claims: list[Claim] = []
        self.places: set[int] = set()
        """Under which the claims stand in the journal."""
        self.picked = 0
        self.waited = False
        self.answer_log.guarded = True

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of which it takes more."""
        return tuple(kind for kind, most in self.want.kinds.items() if most > self.taken[kind])

    @property
    def answered(self) -> bool:
        """Whether the journal has answers that this run did not give."""
        others = self.answer_log.answers.keys() - self.places
        return bool(others or (self.answer_log.parts and not self.places and not self.waited))

    def add(self, claim: Claim) -> None:
        self.claims.append(claim)
        self.taken[claim.kind] += 1
        self.limit = 0 if claim.suspect else self.limit - 1


class ClaimCommands:
    """The verb `claim`."""

    def __init__(self, context: KVContext, delayed: DelayedQueue) -> None:
        self._context = context
        self._delayed = delayed
        self._grouping = Grouping(context.kv, context.keys, context.queues, context.kind_sets)
        self._groups: dict[str, Groups] = {}
        """The groups of the kinds that an incarnation claims, if these are many or their queues are."""
        self._passed: dict[str, dict[str, int]] = {}
        """Incarnation → instance → how often it took later ones."""
        self._idle: dict[str, _Registered] = {}
        self._consumed: dict[str, int] = {}
        self._last_fence = 0

    async def claim(self, incarnation: str, want: Want, *, request: str, verb: str = "claim") -> Claimed:
        context = self._context
        check_batch(want.limit)
        call = _Call(incarnation, want, await context.answer_logs.open(incarnation, verb, request))
        for attempt in range(ROUNDS):
            if attempt:
                await context.answer_logs.refresh(call.answer_log)
            now_us = call.answer_log.now_us = context.clock.time_us()
            if not await self._look(call, now_us):
                self._passed.pop(incarnation, None)
                return Claimed(now_us=now_us, dead=True)
            if call.answered:
                return await self._again(call)
            suspects = want.suspects and not call.claims
            selection = Selection(context.queues, context.clock, call.heads, call.feed, suspects=suspects)
            picks = await self._picked(call, selection)
            if picks:
                if await self._take(call, selection, picks, now_us) or call.limit == 0:
                    break
            elif call.claims or await self._wait(call, selection, now_us):
                break
        return Claimed(
            claims=tuple(call.claims), now_us=call.answer_log.now_us, next_due_us=call.answer_log.next_due_us
        )

    async def _picked(self, call: _Call, selection: Selection) -> list[Pick]:
        """The first due instances; or, where order is kept in a window only, this node's share of more of them."""
        spread = 2 * len(call.live) if len(call.live) > 1 else 1
        window = min(call.limit * spread, max(call.limit, _MAX_WINDOW))
        picks = await selection.pick(window, Room(call.want.kinds, call.taken, spread)) if window else []
        if spread == 1:
            return picks
        room = Room(call.want.kinds, call.taken)
        passed = self._passed.setdefault(call.incarnation, {})
        mine, left = shared(picks, call.limit, room, call.incarnation, call.live, passed)
        selection.left_kinds = tuple(dict.fromkeys((*(pick.kind for pick in left), *selection.left_kinds)))
        return mine

    async def _look(self, call: _Call, now_us: int) -> bool:
        """Read where the queues begin, after letting in what fell due; False: the node is not alive."""
        context = self._context
        node, lives = Range(context.keys.node + call.incarnation), context.keys.live
        windowed = [Range(lives, prefix_end(lives))] if context.kv.capabilities.order == "windowed" else []
        known = self._groups.get(call.incarnation)
        if known is not None and (known.kinds is call.registered or known.kinds == call.registered):
            call.groups = known
        elif len(call.want.kinds) > FEW_KINDS:
            call.groups = await self._grouped(call)
        for _ in range(ROUNDS):
            reads = [self._delayed.heads(), *self._heads(call)]
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
                await context.hints.send(Wakeups(ready=others, but=call.incarnation), written)
                delayed, *ready = await context.kv.read(reads)
            call.delayed = context.queues.heads(delayed)
            if await self._found(call, ready, now_us):
                return True
        raise StoreUnavailableError(context.url, "too many nodes register kinds at once")

    def _heads(self, call: _Call) -> list[Range]:
        """The reads of where the queues of the wanted kinds begin."""
        keys = self._context.keys
        if call.groups is None:
            prefixes = [keys.ready_heads(kind) for kind in call.kinds]
            return [Range(prefix, prefix_end(prefix), _MAX_HEADS + 1) for prefix in prefixes]
        prefixes = [keys.order_heads(group) for group in call.groups.marks]
        return [*self._grouping.marks(call.groups), *(Range(prefix, prefix_end(prefix)) for prefix in prefixes)]

    async def _found(self, call: _Call, ready: Sequence[Found], now_us: int) -> bool:
        """Take in what `_heads` read; False when it must be read another way."""
        queues = self._context.queues
        if call.groups is None:
            if sum(found.count for found in ready) > _MAX_HEADS:
                call.groups = await self._grouped(call)
                return False
            call.heads = {kind: queues.heads(found) for kind, found in zip(call.kinds, ready, strict=True)}
            return True
        marks, heads = ready[: len(call.groups.marks)], ready[len(call.groups.marks) :]
        if not call.groups.hold(marks):
            call.groups = await self._grouped(call)
            return False
        indexes = [head for found in heads for head in queues.heads(found)]
        # an earlier look may have read the same queues one by one
        call.heads = {}
        call.feed = IndexFeed(queues, self._context.keys, indexes, call.groups.names, now_us)
        return True

    async def _grouped(self, call: _Call) -> Groups:
        """The groups of the wanted kinds, looked up anew."""
        groups = await self._grouping.settled(call.registered)
        self._groups[call.incarnation] = groups
        return groups

    async def _take(self, call: _Call, selection: Selection, picks: Sequence[Pick], now_us: int) -> bool:
        """Claim these; False when some were taken by others or could not be read, and more may be picked."""
        context, keys = self._context, self._context.keys
        rows, specs = await self._claimable(picks)
        alive = Compare(keys.node + call.incarnation, mod=call.node.mod)
        owned = keys.owned(call.incarnation)
        changes: list[Change] = []
        planned: list[tuple[int, str, Row, bytes]] = []
        stale: list[Change] = []
        for pick in picks:
            id = pick.id
            if id not in specs:
                compares = [Compare(pick.key, mod=pick.mod)]
                stale.append(Change(compares, [Delete(pick.key)], ((pick.kind, READY, -1),)))
                continue
            revision, row = rows[id]
            call.picked += 1
            self._last_fence = max(row.fence, self._last_fence, now_us - 1) + 1
            # it was due by the clock of whoever let it in, and that may be ahead, or have been read after this one
            at_us = max(now_us, row.due_us)
            taken = msgspec.structs.replace(
                row,
                state=State.PROCESSING,
                attempts=row.attempts + 1,
                fence=self._last_fence,
                owner=call.incarnation,
                started=False,
                history=extended(row, State.PROCESSING, at_us, call.name, ""),
            )
            ops: list[Op] = [
                Put(keys.state + id, encode(taken)),
                Delete(pick.key),
                Put(owned + id, encode(Owned(taken.fence, taken.suspect, kind=row.kind))),
                Delete(keys.by(row.kind, State.SCHEDULED) + id),
            ]
            changes.append(
                Change(
                    [Compare(keys.state + id, mod=revision)],
                    ops,
                    ((row.kind, SCHEDULED, -1), (row.kind, READY, -1), (row.kind, PROCESSING, 1)),
                    answers=((call.picked, f"{taken.fence} {id}"),),
                )
            )
            planned.append((call.picked, id, taken, specs[id]))
        await context.writer.write(stale, now_us=now_us)
        extra_ops = [Delete(keys.idle + call.incarnation)] if call.incarnation in self._idle else []
        written = await context.writer.write(
            changes, now_us=now_us, answer_log=call.answer_log, extra_ops=extra_ops, guards=[alive]
        )
        if any(written.revisions):
            self._idle.pop(call.incarnation, None)
        wakeups = Wakeups(any_of=selection.left_kinds, but=call.incarnation)
        for (place, id, taken, spec), revision in zip(planned, written.revisions, strict=True):
            if revision:
                call.places.add(place)
                context.remember(id, revision, taken)
                call.add(to_claim(id, taken, spec))
                wakeups.changed.append(id)
        await context.hints.send(wakeups, written)
        if stale or not all(written.revisions):
            return False
        await self._move_on(call, selection, picks)
        return True

    async def _claimable(self, picks: Sequence[Pick]) -> tuple[dict[str, tuple[int, Row]], dict[str, bytes]]:
        """The records behind entries of queues, with their revisions; and the arguments of those that belong there."""
        context, keys = self._context, self._context.keys
        rows: dict[str, tuple[int, Row]] = {}
        specs: dict[str, bytes] = {}
        large: list[tuple[str, Entry]] = []
        entries = await context.kv.get([keys.state + pick.id for pick in picks])
        for pick, entry in zip(picks, entries, strict=True):
            row = None if entry is None else await context.decoded(pick.id, entry)
            if entry is None or row is None or row.state is not State.SCHEDULED:
                continue
            queue = keys.ready(row.kind, row.priority, suspect=row.suspect)
            if queue != pick.queue or row.due_us != int(pick.place[:18]):
                continue
            rows[pick.id] = entry.mod, row
            if row.spec is None:
                large.append((pick.id, entry))
            else:
                specs[pick.id] = row.spec
        if large:
            for (id, entry), args in zip(large, await context.kv.get([keys.args + id for id, _ in large]), strict=True):
                if args is None:
                    await context.set_aside(id, entry, DecodeError("it has no arguments"))
                else:
                    specs[id] = args.value
        return rows, specs

    async def _move_on(self, call: _Call, selection: Selection, picks: Sequence[Pick]) -> None:
        """Let queues begin later, now and then, or at once where they are many."""
        queues = self._context.queues
        settled = [step for step in selection.settled(picks) if step is not None]
        await queues.move_on(settled)
        begins: dict[Head, str] = {}
        if call.feed is not None:
            begins.update(call.feed.begins())
            for index in begins:
                self._consumed[index.queue] = self._consumed.get(index.queue, 0) + len(settled)
        if not settled:
            last = {pick.queue: pick.place for pick in picks}
            for pick in picks:
                self._consumed[pick.queue] = self._consumed.get(pick.queue, 0) + 1
            begins.update((head, last.get(head.queue, head.start)) for head in selection.heads())
        steps: list[Step | None] = []
        for head, place in begins.items():
            if self._consumed.get(head.queue, 0) >= _MOVE_ON_AFTER:
                self._consumed[head.queue] = 0
                steps.append(queues.advance(head, place))
        await queues.move_on(steps)

    async def _wait(self, call: _Call, selection: Selection, now_us: int) -> bool:
        """Register as idle in the step that finds nothing; False when something came in meanwhile."""
        context, keys = self._context, self._context.keys
        await self._tidy(call, selection, now_us)
        next_due_us = call.answer_log.next_due_us = await self._delayed.next_due(call.delayed)
        kinds, groups = (call.kinds, ()) if call.groups is None else ((), tuple(call.groups.marks))
        waits = call.want.idle and call.limit > 0 and bool(kinds or groups)
        alive = Compare(keys.node + call.incarnation, mod=call.node.mod)
        part = call.answer_log.part()
        compares, ops, idle = [alive, part.guard()], list[Op](), keys.idle + call.incarnation
        known = self._idle.get(call.incarnation) if waits else None
        if known is not None and (known.kinds, known.groups) == (kinds, groups):
            # still registered, unless somebody has woken it meanwhile: there is nothing to write
            compares.append(Compare(idle, mod=known.revision))
            part.unused()
        else:
            ops.append(part.put((), await context.writer.short_lease(now_us)))
            if waits:
                ops.append(Put(idle, encode(Idle(kinds, groups))))
        reads = self._again_reads(call, selection, next_due_us)
        along = reads if len(reads) <= _MAX_ALONG else ()
        applied = await context.kv.txn([Step(compares, ops, along)])
        answer = applied.steps[0]
        if answer is not None and along != reads:
            # after the registration: an instance that comes later finds it, and one that came earlier is found here
            answer = await context.kv.read(reads)
        if answer is None:
            if known is not None:
                # it may stand there all the same
                self._idle[call.incarnation] = known._replace(revision=-1, kinds=(), groups=())
            return False
        call.waited = True
        if ops:
            part.written(applied.revision)
            if waits:
                self._idle[call.incarnation] = _Registered(kinds, groups, applied.revision)
        if not self._is_new(call, selection, answer):
            return True
        if waits:
            await context.kv.txn([Step([], [Delete(idle)])])
            self._idle.pop(call.incarnation, None)
        return False

    def _again_reads(self, call: _Call, selection: Selection, next_due_us: int | None) -> list[Range]:
        """The reads that find what came in since the queues were looked at."""
        heads = selection.heads()
        return [
            *self._heads(call),
            *(call.feed.again() if call.feed is not None else ()),
            *(Range(head.queue + head.start, prefix_end(head.queue), 1, True) for head in heads),
            self._delayed.heads(),
            *self._delayed.before(call.delayed, next_due_us),
        ]

    def _is_new(self, call: _Call, selection: Selection, answer: Sequence[Found]) -> bool:
        """Whether these reads found something."""
        queues, rest = self._context.queues, deque(answer)

        def take(count: int) -> list[Found]:
            return [rest.popleft() for _ in range(count)]

        if call.groups is None or call.feed is None:
            looked = {head.queue for head in selection.heads()}
            new = any(
                head.queue not in looked and (call.want.suspects or "/s/" not in head.queue)
                for found in take(len(call.kinds))
                for head in queues.heads(found)
            )
        else:
            count = len(call.groups.marks)
            new = not call.groups.hold(take(count))
            indexes = {head.queue for head in call.feed.heads()}
            new = any(head.queue not in indexes for found in take(count) for head in queues.heads(found)) or new
            new = call.feed.is_new(take(len(indexes))) or new
        new = any(found.count for found in take(len(selection.heads()))) or new
        (delayed,) = take(1)
        begins = {head.queue: head.start for head in call.delayed}
        new = any(head.start < begins.get(head.queue, AFTER_ALL) for head in queues.heads(delayed)) or new
        return new or any(found.count for found in rest)

    async def _tidy(self, call: _Call, selection: Selection, now_us: int) -> None:
        """Let the heads of empty queues follow, and forget such queues where there are many."""
        context = self._context
        lag = time_text(now_us - _LAG_US)
        steps = selection.settled(())
        empty = [] if steps else [(head, len(call.heads.get(kind, ()))) for kind, head in selection.empty()]
        if call.feed is not None:
            unused = call.feed.unused()
            empty += [(head, len(unused)) for head in unused]
        for head, count in empty:
            if count > _CROWD:
                steps.append(context.queues.drop(head))
            elif head.start[:18] < time_text(now_us - 2 * _LAG_US):
                steps.append(context.queues.advance(head, lag + "/"))
        await context.queues.move_on(steps)

    async def _again(self, call: _Call) -> Claimed:
        """The first answer to a request that was sent twice, without what was taken back since."""
        context, keys, answer_log = self._context, self._context.keys, call.answer_log
        answers = [answer.split(" ") for _, answer in sorted(answer_log.answers.items())]
        rows = await context.rows([id for _, id in answers])
        specs = await context.kv.get([keys.args + id for _, id in answers])
        claims: list[Claim] = []
        for (fence, id), entry in zip(answers, specs, strict=True):
            if id in rows:
                row = rows[id][1]
                spec = row.spec if entry is None else entry.value
                held = row.state is State.PROCESSING and row.owner == call.incarnation
                if held and row.fence == int(fence) and spec is not None:
                    claims.append(to_claim(id, row, spec))
        first = answer_log.parts[0]
        return Claimed(claims=tuple(claims), now_us=first.now_us, next_due_us=first.next_due_us)
