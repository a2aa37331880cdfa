"""Selected instances become Processing, each in one transaction: its record, its queue entry and its indexes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from peerjob.model.errors import DecodeError
from peerjob.model.record import MAX_BATCH_BYTES, Claim
from peerjob.model.state import State
from peerjob.store.kv.format.base import Compare, Delete, Entry, Put, Transaction
from peerjob.store.kv.format.keys import time_text
from peerjob.store.kv.format.limit_rows import limit_key_of, with_permits
from peerjob.store.kv.format.rows import NOTHING_EXTRA, Owned, Row, encode, extended
from peerjob.store.kv.format.views import to_claim
from peerjob.store.kv.index.counts import PROCESSING, READY, SCHEDULED
from peerjob.store.kv.index.scan import Head
from peerjob.store.kv.write.context import KVContext
from peerjob.store.kv.write.hints import Wakeups
from peerjob.store.kv.write.transaction_plan import Change

from .claim_call import ClaimCall
from .claim_idle import IdleNodes
from .claim_select import Pick, Selection
from .misplaced import MisplacedEntries

_CLAIMS_PER_HEAD_MOVE = 200
"""A claim moves the head of a queue after this number of claims from the queue: each move costs a request."""
_LARGE_READS = 32
"""A claim reads the large arguments of so many instances at a time, since it ends when they have MAX_BATCH_BYTES."""


class Taking:
    """Takes what a claim has selected."""

    def __init__(self, context: KVContext, idle: IdleNodes) -> None:
        self._context = context
        self._keys = context.keys
        self._idle = idle
        self._misplaced = MisplacedEntries(context)
        self._claims_since_move: dict[str, int] = {}
        """Queue → number of claims from the queue since the last move of the queue's head."""
        self._last_fence = 0

    async def take(self, call: ClaimCall, selection: Selection) -> bool:
        """Claim the picks; False if other nodes took some or some are unreadable, so that the caller selects again."""
        context = self._context
        readable = await self._claimable(selection.picks, call.claims, call.records)
        if len(readable) < len(selection.picks):
            left = (pick.kind for pick in selection.picks[len(readable) :])
            selection.keep(selection.picks[: len(readable)], left)
        picks = selection.picks
        if not picks:
            return True
        stale = [pick for pick, claimable in zip(picks, readable, strict=True) if claimable is None]
        changes: list[Change] = []
        planned: list[tuple[int, str, Row, bytes]] = []
        for pick, claimable in zip(picks, readable, strict=True):
            if claimable is not None:
                revision, row, spec = claimable
                taken, change = self._plan(call, pick, revision, row)
                changes.append(change)
                planned.append((call.picked, pick.id, taken, spec))
        if stale:
            await self._misplaced.remove(stale, call.now_us)
        guards = [Compare(self._keys.node + call.incarnation, mod=call.node.mod), call.stamp]
        if call.by_limits is not None:
            kinds = [row.kind for _, _, row, _ in planned]
            if not await call.by_limits.charge(kinds):
                return False
            guards += call.by_limits.still_open(changes, kinds)
        call.positions |= {pick.id: pick.position for pick in picks}
        extra_ops = self._idle.removal(call.incarnation)
        written = await context.writer.write(changes, answer_log=call.answer_log, extra_ops=extra_ops, guards=guards)
        if any(written.revisions):
            self._idle.forget(call.incarnation)
        if call.by_limits is not None and call.by_limits.limits:
            context.limit_rules.wrote(written.revisions)
        wakeups = Wakeups(any_of=selection.left_kinds, except_for=call.incarnation)
        context.uncache(id for (_, id, _, _), revision in zip(planned, written.revisions, strict=True) if not revision)
        for (number, id, taken, spec), revision in written.applied(planned):
            call.numbers.add(number)
            call.passed_over.pop(id, None)
            context.cache(id, revision, taken)
            call.add(to_claim(id, taken, spec))
            wakeups.changed.append(id)
        context.own_hints.claimed(call.incarnation, (claim.id for claim in call.claims))
        await context.hints.send(wakeups, written)
        if stale or not all(written.revisions):
            return False
        await self._move_heads(call, selection)
        return True

    def _plan(self, call: ClaimCall, pick: Pick, revision: int, row: Row) -> tuple[Row, Change]:
        """The record of a claimed instance, and the transaction that writes it."""
        keys, id = self._keys, pick.id
        call.picked += 1
        self._last_fence = max(self._last_fence, call.now_us - 1) + 1
        permits = () if call.by_limits is None else call.by_limits.permits(row.kind)
        taken = replace(
            row,
            state=State.PROCESSING,
            attempts=row.attempts + 1,
            # a damaged record with a far too large fence must not raise the fences of other instances
            fence=max(row.fence + 1, self._last_fence),
            owner=call.incarnation,
            started=False,
            # another node's clock found the instance due and can be ahead of this node's: no history shows a claim
            # before the due time
            history=extended(row, State.PROCESSING, max(call.now_us, row.due_us), call.name, ""),
            extra=row.extra if row.extra == NOTHING_EXTRA and not permits else with_permits(row.extra, permits),
        )
        names = [keys.permit(*permit) for permit in permits]
        # an instance with a limit key can leave its queue without a change of its record
        entry = [] if row.extra == NOTHING_EXTRA else [Compare(pick.key, mod=pick.mod)]
        return taken, Change(
            [Compare(keys.state + id, mod=revision), *entry, *map(Compare, names)],
            [
                *(Put(name, id.encode()) for name in names),
                Put(keys.state + id, encode(taken)),
                Delete(pick.key),
                Put(keys.owned(call.incarnation) + id, encode(Owned(taken.fence, taken.suspect, kind=row.kind))),
                Delete(keys.by(row.kind, State.SCHEDULED) + id),
            ],
            ((row.kind, SCHEDULED, -1), (row.kind, READY, -1), (row.kind, PROCESSING, 1)),
            answers=((call.picked, f"{taken.fence} {id}"),),
        )

    async def _claimable(
        self, picks: Sequence[Pick], claims: Sequence[Claim], records: dict[str, Entry | None]
    ) -> list[tuple[int, Row, bytes] | None]:
        """Revision, record and arguments of each pick; None if its queue entry does not match its record.

        `records` has the records that were read with the queues, and gets those that were not.

        The answer ends before the first pick whose large arguments would exceed MAX_BATCH_BYTES together with those of
        earlier picks and of `claims`; a claim of one instance has no limit.
        An instance that moves to another queue during the claim can be picked twice; only one of the entries matches.
        With a limit key, its place does not tell which one: then the newest entry counts.
        """
        context, kv, keys = self._context, self._context.kv, self._keys
        claimable: list[tuple[int, Row, bytes] | None] = []
        large: list[tuple[int, Entry, Row]] = []
        if (known := self._known(picks)) is not None:
            return known
        unread = [pick.id for pick in picks if not await self._is_read(pick, records)]
        records |= zip(unread, await kv.get([keys.state + id for id in unread]), strict=True)
        newest = {pick.id: pick.mod for pick in picks}
        if len(newest) < len(picks):
            newest = {pick.id: pick.mod for pick in sorted(picks, key=lambda pick: pick.mod)}
        for pick in picks:
            entry = records[pick.id]
            row = None if pick.mod < newest[pick.id] else await self._row_of(pick, entry)
            if entry is None or row is None:
                claimable.append(None)
                continue
            if row.spec is None:
                large.append((len(claimable), entry, row))
            claimable.append((entry.mod, row, row.spec or b""))
        size = sum(len(claim.spec) for claim in claims) if large else 0
        for first in range(0, len(large), _LARGE_READS):
            part = large[first : first + _LARGE_READS]
            stored = await kv.get([keys.args + picks[at].id for at, _, _ in part])
            for (at, entry, row), args in zip(part, stored, strict=True):
                if args is None:
                    await context.set_aside.put(picks[at].id, entry, DecodeError("it has no arguments"))
                    claimable[at] = None
                    continue
                size += len(args.value)
                if size > MAX_BATCH_BYTES and (at or claims):
                    return claimable[:at]
                claimable[at] = (entry.mod, row, args.value)
        return claimable

    async def _is_read(self, pick: Pick, records: Mapping[str, Entry | None]) -> bool:
        """Whether the record of a pick is among those that were read.

        One that does not match counts only if it is as new as the queue entry, which can come from a later read.
        """
        if pick.id not in records:
            return False
        record = records[pick.id]
        return (record is not None and record.mod >= pick.mod) or await self._row_of(pick, record) is not None

    async def _row_of(self, pick: Pick, record: Entry | None) -> Row | None:
        """The record of a pick; None if its queue entry does not match its record."""
        row = None if record is None else await self._context.row_of(pick.id, record)
        if (
            row is None
            or row.state is not State.SCHEDULED
            or pick.queue != self._keys.ready(row.kind, row.priority, suspect=row.suspect)
            or (pick.position[:18] != time_text(row.due_us) and limit_key_of(row) is None)
        ):
            return None
        return row

    def _known(self, picks: Sequence[Pick]) -> list[tuple[int, Row, bytes] | None] | None:
        """Revision, record and arguments of each pick, if this store knows them; None if one must be read.

        A record and a queue entry of one revision are of one transaction. So they match, unless the record was changed
        since then, which the transaction of the claim compares.
        """
        known: list[tuple[int, Row, bytes] | None] = []
        for pick in picks:
            cached = self._context.cached(pick.id)
            if cached is None:
                return None
            revision, row = cached
            if (
                row.state is not State.SCHEDULED
                or row.spec is None
                or row.extra != NOTHING_EXTRA
                or pick.mod != revision
                or pick.queue != self._keys.ready(row.kind, row.priority, suspect=row.suspect)
            ):
                return None
            known.append((revision, row, row.spec))
        return known

    async def _move_heads(self, call: ClaimCall, selection: Selection) -> None:
        """Move the heads of queues behind the picks: of many queues after each claim, else after a number of claims."""
        queues, claims, picks = self._context.queues, self._claims_since_move, selection.picks
        moves = [transaction for transaction in selection.head_moves(picks) if transaction is not None]
        await queues.move_on(moves)
        begins: dict[Head, str] = {}
        if call.feed is not None:
            begins.update(call.feed.begins())
            for index in begins:
                claims[index.queue] = claims.get(index.queue, 0) + len(moves)
        if not moves:
            last = {pick.queue: pick.position for pick in picks}
            for pick in picks:
                claims[pick.queue] = claims.get(pick.queue, 0) + 1
            begins.update((head, last.get(head.queue, head.start)) for head in selection.heads())
        transactions: list[Transaction | None] = []
        for head, position in begins.items():
            if claims.get(head.queue, 0) >= _CLAIMS_PER_HEAD_MOVE:
                claims[head.queue] = 0
                transactions.append(queues.advance(head, position))
        await queues.move_on(transactions)
