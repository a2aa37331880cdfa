"""A node that finds nothing to claim waits: it is registered as idle, so that new instances wake it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from msgspec.structs import replace

from peerjob.store.kv.format.base import Compare, Delete, Found, Op, Put, Range, Transaction
from peerjob.store.kv.format.keys import time_text
from peerjob.store.kv.format.rows import Idle
from peerjob.store.kv.index.scan import AFTER_ALL
from peerjob.store.kv.write.context import KVContext
from peerjob.store.kv.write.idle_signs import IdleSign

from .claim_call import ClaimCall
from .claim_due import DelayedQueue
from .claim_heads import ClaimHeads
from .claim_select import Selection
from .closed_kinds import ClosedKinds, rest_of

_MANY_QUEUES = 16
"""If one kind has more queues than this, a claim deletes the heads of empty queues, so that
later claims read fewer heads."""
_MAX_REQUEST_READS = 100
"""Most reads in the transaction that registers an idle node: etcd counts reads as operations, and
limits the operations of a transaction."""
_LAG_US = 5_000_000
"""The head of an empty queue stays this far behind the current time, so that a node with a
slow clock can add entries without lowering the head."""


class IdleNodes:
    """Registers idle nodes."""

    def __init__(self, context: KVContext, heads: ClaimHeads, delayed: DelayedQueue) -> None:
        self._context = context
        self._heads = heads
        self._delayed = delayed
        self._entries: dict[str, tuple[Idle | None, int]] = {}
        """Incarnation → its last registration and the revision; None if the registration is unknown."""

    def removal(self, incarnation: str) -> list[Op]:
        """The write that ends the registration of an incarnation, if this store may have written one."""
        return [Delete(self._context.keys.idle + incarnation)] if incarnation in self._entries else []

    def forget(self, incarnation: str) -> None:
        """Forget the registration of an incarnation."""
        self._entries.pop(incarnation, None)
        self._context.own_hints.is_woken(incarnation)

    def _in_doubt(self, incarnation: str) -> None:
        """Remember that the node may be registered as idle: the next claim deletes or rewrites the registration."""
        self._context.own_hints.is_woken(incarnation)
        self._entries[incarnation] = (None, -1)

    async def wait(self, call: ClaimCall, selection: Selection) -> bool:
        """Register the node as idle if the same transaction finds nothing to claim; False if an instance was added."""
        context, kv, log = self._context, self._context.kv, call.answer_log
        await self._tidy_empty_queues(call, selection)
        next_due_us = log.next_due_us = await self._delayed.next_due(call.delayed)
        closed = None if call.by_limits is None else ClosedKinds(context, call, selection, call.by_limits)
        registration = await self._registration(call, closed)
        waits = registration is not None
        alive = Compare(context.keys.node + call.incarnation, mod=call.node.mod)
        part = log.part()
        compares, ops, idle = [alive, part.guard()], list[Op](), context.keys.idle + call.incarnation
        known = self._entries.get(call.incarnation) if waits else None
        if known is not None and known[0] == registration and not context.own_hints.was_woken(call.incarnation):
            # an earlier claim wrote the same registration: the transaction only compares that no wakeup has deleted the
            # registration
            compares.append(Compare(idle, mod=known[1]))
            part.unused()
        else:
            ops.append(part.put((), await context.writer.short_lease()))
            ops += self._change(call, registration)
        context.idle_signs.set(None)
        reads = self._repeated_reads(call, selection, next_due_us)
        own = len(reads)
        if closed is not None:
            reads += closed.reads
        request_reads = reads if len(reads) <= _MAX_REQUEST_READS else ()
        try:
            revision, answer = await self._apply(Transaction(compares, ops, request_reads), call, reads)
        except BaseException:
            self._in_doubt(call.incarnation)
            raise
        if answer is None:
            if known is not None:
                self._in_doubt(call.incarnation)
            return False
        call.waited = True
        if ops:
            part.written(revision)
            self._changed(call, registration, revision)
        may_go = closed is not None and closed.may_go(answer[own:], waits=waits)
        if not may_go and not self._has_new(call, selection, answer[:own]):
            self._registered(call.incarnation, registration, closed)
            # while the clock of this node decides nothing, the reads do not find delayed instances
            if waits and call.wants_all and request_reads == reads and context.clock_skew.decides:
                _, revision = self._entries[call.incarnation]
                sign = IdleSign(call.incarnation, idle, revision, call.stamp.mod, reads[:own], answer[:own], closed)
                context.idle_signs.set(sign)
            return True
        if waits:
            await kv.txn([Transaction([], [Delete(idle)])])
            self.forget(call.incarnation)
        return False

    def _change(self, call: ClaimCall, registration: Idle | None) -> list[Op]:
        """The write of a registration, or the end of an earlier one whose kinds the claim has no room for."""
        if registration is not None:
            return [Put(self._context.keys.idle + call.incarnation, registration.value)]
        return self.removal(call.incarnation) if call.may_idle else []

    def _changed(self, call: ClaimCall, registration: Idle | None, revision: int) -> None:
        if registration is not None:
            self._entries[call.incarnation] = (registration, revision)
        elif call.may_idle:
            self.forget(call.incarnation)

    async def _apply(
        self, transaction: Transaction, call: ClaimCall, reads: Sequence[Range]
    ) -> tuple[int, Sequence[Found] | None]:
        """Apply a transaction; returns its revision, and the answers to the reads, or None if it was refused."""
        applied = await self._context.kv.txn([transaction], guards=[call.stamp])
        answer = applied.answers[0]
        if answer is not None and transaction.reads != reads:
            # read after the registration was written: the read finds earlier instances, and later instances find the
            # registration
            answer = await self._context.kv.read(reads)
        return applied.revision, answer

    def _registered(self, incarnation: str, registration: Idle | None, closed: ClosedKinds | None) -> None:
        if registration is not None:
            kinds = registration.kinds if closed is None else ()
            self._context.own_hints.is_idle(incarnation, kinds, self._entries[incarnation][1])

    async def _registration(self, call: ClaimCall, closed: ClosedKinds | None) -> Idle | None:
        """The registration of the node, which may learn when a limit opens; None if the node does not wait."""
        log = call.answer_log
        registration = Idle(call.kinds, ()) if call.groups is None else Idle((), tuple(call.groups.marks))
        if not (call.may_idle and call.limit > 0 and (registration.kinds or registration.groups)):
            return None
        if closed is not None and (opens := await closed.untold()):
            log.next_due_us = min(us for us in (log.next_due_us, *opens.values()) if us is not None)
            return replace(registration, opens=tuple(opens.items()))
        return registration

    async def _tidy_empty_queues(self, call: ClaimCall, selection: Selection) -> None:
        """Move the heads of empty queues forward. If a kind has many queues, delete the heads of the empty ones."""
        queues, lag = self._context.queues, time_text(call.now_us - _LAG_US)
        transactions = selection.head_moves(())
        empty = [] if transactions else [(head, len(call.heads.get(kind, ()))) for kind, head in selection.empty()]
        if call.feed is not None:
            unused = call.feed.unused()
            empty += [(head, len(unused)) for head in unused]
        for head, count in empty:
            if count > _MANY_QUEUES:
                transactions.append(queues.drop(head))
            elif head.start[:18] < time_text(call.now_us - 2 * _LAG_US):
                transactions.append(queues.advance(head, lag + "/"))
        await queues.move_on(transactions)

    def _repeated_reads(self, call: ClaimCall, selection: Selection, next_due_us: int | None) -> list[Range]:
        """The reads that find entries added to the queues after the claim has read the queues."""
        heads = self._heads
        return [
            *(heads.of_kinds(call.open_kinds) if call.groups is None else heads.of_groups(call.groups)),
            *(call.feed.repeated_reads() if call.feed is not None else ()),
            *map(rest_of, selection.heads(call.closed)),
            self._context.queues.delayed_heads(),
            *self._delayed.before(call.delayed, next_due_us),
        ]

    def _has_new(self, call: ClaimCall, selection: Selection, answer: Sequence[Found]) -> bool:
        """Whether `_repeated_reads` found something new."""
        queues, rest = self._context.queues, deque(answer)

        def take(count: int) -> list[Found]:
            return [rest.popleft() for _ in range(count)]

        if call.groups is None or call.feed is None:
            # a queue that was not read can have entries, and so can the part before the head that was read
            read = {head.queue: head.start for head in selection.heads()}
            new = any(
                head.start < read.get(head.queue, AFTER_ALL) and (call.want.suspects or "/s/" not in head.queue)
                for answer in take(len(call.open_kinds))
                for head in queues.heads(answer)
            )
        else:
            count = len(call.groups.marks)
            new = not call.groups.hold(take(count))
            indexes = {head.queue for head in call.feed.heads()}
            new = any(head.queue not in indexes for answer in take(count) for head in queues.heads(answer)) or new
            new = call.feed.has_new(take(len(indexes))) or new
        new = any(answer.count for answer in take(len(selection.heads(call.closed)))) or new
        (delayed,) = take(1)
        begins = {head.queue: head.start for head in call.delayed}
        new = any(head.start < begins.get(head.queue, AFTER_ALL) for head in queues.heads(delayed)) or new
        return new or any(answer.count for answer in rest)
