"""Scheduled → Processing: a node claims the first due instances."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from peerjob.model.errors import DecodeError
from peerjob.model.record import MAX_BATCH_BYTES, Claim, Claimed, Want, check_batch
from peerjob.model.state import State
from peerjob.store.kv.format.base import Compare, Delete, Entry, Op, Put, Step
from peerjob.store.kv.format.keys import time_text
from peerjob.store.kv.format.rows import Idle, Owned, Row, encode, extended, to_claim
from peerjob.store.kv.index.counts import PROCESSING, READY, SCHEDULED
from peerjob.store.kv.index.queues import Head
from peerjob.store.kv.index.selection import Pick, Room, Selection, share_of
from peerjob.store.kv.write.context import KVCommands, KVContext, retried
from peerjob.store.kv.write.hints import Wakeups
from peerjob.store.kv.write.idle_signs import IdleSign
from peerjob.store.kv.write.step_plan import Change
from peerjob.store.kv.write.writer import ROUNDS

from .claim_queues import ClaimCall, ClaimQueues
from .misplaced import MisplacedEntries

_CLAIMS_PER_HEAD_MOVE = 200
"""A claim moves the head of a queue after this number of claims from the queue: each move costs a request."""
_MANY_QUEUES = 16
"""If one kind has more queues than this, a claim deletes the heads of empty queues, so that
later claims read fewer heads."""
_MAX_WINDOW = 1000
"""A claim reads at most this number of due instances to pick the share of the node, unless the claim wants more."""
_LARGE_READS = 32
"""A claim reads the large arguments of so many instances at a time, since it ends when they have MAX_BATCH_BYTES."""
_MAX_STEP_READS = 100
"""Most reads in the step that registers an idle node: etcd counts reads as operations, and
limits the operations of a step."""
_LAG_US = 5_000_000
"""The head of an empty queue stays this far behind the current time, so that a node with a
slow clock can add entries without lowering the head."""


class _IdleEntry(msgspec.Struct, frozen=True):
    """The last registration of an idle incarnation."""

    kinds: tuple[str, ...]
    groups: tuple[str, ...]
    revision: int


class ClaimCommands(KVCommands):
    """The verb `claim`."""

    def __init__(self, context: KVContext) -> None:
        super().__init__(context)
        self._claim_queues = ClaimQueues(context)
        self._misplaced = MisplacedEntries(context)
        self._passed_over: dict[str, dict[str, int]] = {}
        """Incarnation → instance → number of claims in which the incarnation left that instance and took later ones."""
        self._idle_entries: dict[str, _IdleEntry] = {}
        self._claims_since_move: dict[str, int] = {}
        """Queue → number of claims from the queue since the last move of the queue's head."""
        self._last_fence = 0

    @retried
    async def claim(self, incarnation: str, want: Want, *, request: str) -> Claimed:
        return await self._claim(incarnation, want, request, "claim")

    async def _claim(self, incarnation: str, want: Want, request: str, verb: str) -> Claimed:
        context = self._context
        check_batch(want.limit)
        call = ClaimCall(incarnation, want, await context.answer_logs.open(incarnation, verb, request))
        log, takes = call.answer_log, 0
        for attempt in range(ROUNDS):
            if attempt:
                await context.answer_logs.refresh(log)
            now_us = log.now_us = self._clock.time_us()
            if not await self._claim_queues.find(call, now_us):
                self._passed_over.pop(incarnation, None)
                return Claimed(now_us=now_us, dead=True)
            if call.answered:
                return await self._repeat_answer(call)
            suspects = want.suspects and not call.claims
            selection = Selection(context.queues, self._clock, call.heads, call.feed, suspects=suspects)
            picks = await self._pick(call, selection)
            if picks:
                takes += 1
                if await self._take(call, selection, picks, now_us) or call.limit == 0:
                    break
            elif call.claims or await self._register_idle(call, selection, now_us):
                break
        if takes > 1:
            call.claims.sort(key=_place_of)
        # an instance can come in the round after the one that found none
        next_due_us = None if call.claims else log.next_due_us
        return Claimed(claims=tuple(call.claims), now_us=log.now_us, next_due_us=next_due_us)

    async def _pick(self, call: ClaimCall, selection: Selection) -> list[Pick]:
        """The first due instances; only this node's share of them if the store keeps the order within a window only."""
        spread = 2 * len(call.live) if len(call.live) > 1 else 1
        window = min(call.limit * spread, max(call.limit, _MAX_WINDOW))
        picks = await selection.pick(window, Room(call.want.kinds, call.taken, spread)) if window else []
        if spread == 1:
            return picks
        room = Room(call.want.kinds, call.taken)
        passed_over = self._passed_over.setdefault(call.incarnation, {})
        share, left = share_of(picks, call.limit, room, call.incarnation, call.live, passed_over)
        selection.left_kinds = tuple(dict.fromkeys((*(pick.kind for pick in left), *selection.left_kinds)))
        return share

    async def _take(self, call: ClaimCall, selection: Selection, picks: Sequence[Pick], now_us: int) -> bool:
        """Claim the picks; False if other nodes took some or some are unreadable, so that the caller picks again."""
        context, keys = self._context, self._keys
        found = await self._claimable(picks, call.claims)
        if left := picks[len(found) :]:
            picks = picks[: len(found)]
            selection.left_kinds = tuple(dict.fromkeys((*(pick.kind for pick in left), *selection.left_kinds)))
            if not picks:
                return True
        alive = Compare(keys.node + call.incarnation, mod=call.node.mod)
        owned = keys.owned(call.incarnation)
        changes: list[Change] = []
        planned: list[tuple[int, str, Row, bytes]] = []
        stale: list[Pick] = []
        for pick, claimable in zip(picks, found, strict=True):
            id = pick.id
            if claimable is None:
                stale.append(pick)
                continue
            revision, row, spec = claimable
            call.picked += 1
            self._last_fence = max(self._last_fence, now_us - 1) + 1
            # a damaged record with a far too large fence must not raise the fences of other instances
            fence = max(row.fence + 1, self._last_fence)
            # another node's clock found the instance due and can be ahead of this node's: no history shows a claim
            # before the due time
            at_us = max(now_us, row.due_us)
            taken = replace(
                row,
                state=State.PROCESSING,
                attempts=row.attempts + 1,
                fence=fence,
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
            planned.append((call.picked, id, taken, spec))
        if stale:
            await self._misplaced.remove(stale, now_us)
        extra_ops = [Delete(keys.idle + call.incarnation)] if call.incarnation in self._idle_entries else []
        written = await self._writer.write(changes, answer_log=call.answer_log, extra_ops=extra_ops, guards=[alive])
        if any(written.revisions):
            self._idle_entries.pop(call.incarnation, None)
        wakeups = Wakeups(any_of=selection.left_kinds, except_for=call.incarnation)
        passed_over = self._passed_over.get(call.incarnation, {})
        for (place, id, taken, spec), revision in written.applied(planned):
            call.places.add(place)
            passed_over.pop(id, None)
            context.cache(id, revision, taken)
            call.add(to_claim(id, taken, spec))
            wakeups.changed.append(id)
        await context.hints.send(wakeups, written)
        if stale or not all(written.revisions):
            return False
        await self._move_heads(call, selection, picks)
        return True

    async def _claimable(self, picks: Sequence[Pick], claims: Sequence[Claim]) -> list[tuple[int, Row, bytes] | None]:
        """Revision, record and arguments of each pick; None if its queue entry does not match its record.

        The answer ends before the first pick whose large arguments would exceed MAX_BATCH_BYTES together with those of
        earlier picks and of `claims`; a claim of one instance has no limit.
        An instance that moves to another queue during the claim can be picked twice; only one of the entries matches.
        """
        context, keys = self._context, self._keys
        found: list[tuple[int, Row, bytes] | None] = []
        large: list[tuple[int, Entry, Row]] = []
        entries = await self._kv.get([keys.state + pick.id for pick in picks])
        for pick, entry in zip(picks, entries, strict=True):
            row = None if entry is None else await context.row_of(pick.id, entry)
            if (
                entry is None
                or row is None
                or row.state is not State.SCHEDULED
                or pick.queue != keys.ready(row.kind, row.priority, suspect=row.suspect)
                or pick.place[:18] != time_text(row.due_us)
            ):
                found.append(None)
                continue
            if row.spec is None:
                large.append((len(found), entry, row))
            found.append((entry.mod, row, row.spec or b""))
        size = sum(len(claim.spec) for claim in claims) if large else 0
        for first in range(0, len(large), _LARGE_READS):
            part = large[first : first + _LARGE_READS]
            stored = await self._kv.get([keys.args + picks[at].id for at, _, _ in part])
            for (at, entry, row), args in zip(part, stored, strict=True):
                if args is None:
                    await context.set_aside.put(picks[at].id, entry, DecodeError("it has no arguments"))
                    found[at] = None
                    continue
                size += len(args.value)
                if size > MAX_BATCH_BYTES and (at or claims):
                    return found[:at]
                found[at] = (entry.mod, row, args.value)
        return found

    async def _move_heads(self, call: ClaimCall, selection: Selection, picks: Sequence[Pick]) -> None:
        """Move the heads of queues behind the picks: of many queues after each claim, else after a number of claims."""
        queues, claims = self._context.queues, self._claims_since_move
        settled = [step for step in selection.settled(picks) if step is not None]
        await queues.move_on(settled)
        begins: dict[Head, str] = {}
        if call.feed is not None:
            begins.update(call.feed.begins())
            for index in begins:
                claims[index.queue] = claims.get(index.queue, 0) + len(settled)
        if not settled:
            last = {pick.queue: pick.place for pick in picks}
            for pick in picks:
                claims[pick.queue] = claims.get(pick.queue, 0) + 1
            begins.update((head, last.get(head.queue, head.start)) for head in selection.heads())
        steps: list[Step | None] = []
        for head, place in begins.items():
            if claims.get(head.queue, 0) >= _CLAIMS_PER_HEAD_MOVE:
                claims[head.queue] = 0
                steps.append(queues.advance(head, place))
        await queues.move_on(steps)

    async def _register_idle(self, call: ClaimCall, selection: Selection, now_us: int) -> bool:
        """Register the node as idle if the same step finds nothing to claim; False if an instance was added."""
        log, reader = call.answer_log, self._claim_queues
        await self._tidy_empty_queues(call, selection, now_us)
        next_due_us = log.next_due_us = await reader.next_due(call)
        kinds, groups = (call.kinds, ()) if call.groups is None else ((), tuple(call.groups.marks))
        waits = call.want.idle and call.limit > 0 and bool(kinds or groups)
        alive = Compare(self._keys.node + call.incarnation, mod=call.node.mod)
        part = log.part()
        compares, ops, idle = [alive, part.guard()], list[Op](), self._keys.idle + call.incarnation
        known = self._idle_entries.get(call.incarnation) if waits else None
        if known is not None and (known.kinds, known.groups) == (kinds, groups):
            # an earlier claim wrote the same registration: the step only compares that no wakeup has deleted the
            # registration
            compares.append(Compare(idle, mod=known.revision))
            part.unused()
        else:
            ops.append(part.put((), await self._writer.short_lease()))
            if waits:
                ops.append(Put(idle, encode(Idle(kinds, groups))))
        self._context.idle_signs.set(None)
        reads = reader.repeated_reads(call, selection, next_due_us)
        step_reads = reads if len(reads) <= _MAX_STEP_READS else ()
        applied = await self._kv.txn([Step(compares, ops, step_reads)])
        answer = applied.steps[0]
        if answer is not None and step_reads != reads:
            # read after the registration was written: the read finds earlier instances, and later instances find the
            # registration
            answer = await self._kv.read(reads)
        if answer is None:
            if known is not None:
                # the transaction failed, so this node may or may not be registered as idle: remember that, so that the
                # next claim deletes or rewrites the registration
                self._idle_entries[call.incarnation] = replace(known, revision=-1, kinds=(), groups=())
            return False
        call.waited = True
        if ops:
            part.written(applied.revision)
            if waits:
                self._idle_entries[call.incarnation] = _IdleEntry(kinds, groups, applied.revision)
        if not reader.has_new(call, selection, answer):
            # while the clock of this node decides nothing, the reads do not find delayed instances
            if waits and call.wants_all and step_reads == reads and self._context.clock_skew.decides:
                revision = self._idle_entries[call.incarnation].revision
                self._context.idle_signs.set(IdleSign(call.incarnation, idle, revision, reads, answer))
            return True
        if waits:
            await self._kv.txn([Step([], [Delete(idle)])])
            self._idle_entries.pop(call.incarnation, None)
        return False

    async def _tidy_empty_queues(self, call: ClaimCall, selection: Selection, now_us: int) -> None:
        """Move the heads of empty queues forward. If a kind has many queues, delete the heads of the empty ones."""
        queues, lag = self._context.queues, time_text(now_us - _LAG_US)
        steps = selection.settled(())
        empty = [] if steps else [(head, len(call.heads.get(kind, ()))) for kind, head in selection.empty()]
        if call.feed is not None:
            unused = call.feed.unused()
            empty += [(head, len(unused)) for head in unused]
        for head, count in empty:
            if count > _MANY_QUEUES:
                steps.append(queues.drop(head))
            elif head.start[:18] < time_text(now_us - 2 * _LAG_US):
                steps.append(queues.advance(head, lag + "/"))
        await queues.move_on(steps)

    async def _repeat_answer(self, call: ClaimCall) -> Claimed:
        """The answer of the first run of a repeated request, without claims that were taken back after that run."""
        keys, log = self._keys, call.answer_log
        answers = [answer.split(" ") for _, answer in sorted(log.answers.items())]
        rows = await self._context.rows([id for _, id in answers])
        specs = await self._kv.get([keys.args + id for _, id in answers])
        claims: list[Claim] = []
        for (fence, id), entry in zip(answers, specs, strict=True):
            if id in rows:
                row = rows[id][1]
                spec = row.spec if entry is None else entry.value
                held = row.state is State.PROCESSING and row.owner == call.incarnation
                if held and row.fence == int(fence) and spec is not None:
                    claims.append(to_claim(id, row, spec))
        claims.sort(key=_place_of)
        first = log.parts[0]
        return Claimed(claims=tuple(claims), now_us=first.now_us, next_due_us=first.next_due_us)


def _place_of(claim: Claim) -> tuple[int, int, str]:
    """The place in the order of the queue: a later round of a claim can find an earlier instance."""
    return claim.priority, claim.due_us, claim.id
