"""Scheduled → Processing: a node claims the first due instances.

The verb reads from top to bottom: repeat an answer, move what fell due, select, take. Each part has a file of its own.
"""

from __future__ import annotations

from peerjob.model.latest import Latest
from peerjob.model.record import Claimed, Want, check_batch
from peerjob.store.kv.format.keys import LATEST_US
from peerjob.store.kv.write.context import KVCommands, KVContext, retried
from peerjob.store.kv.write.hints import Wakeups
from peerjob.store.kv.write.writer import ROUNDS

from .claim_call import ClaimCall, in_order, repeat_answer
from .claim_due import DelayedQueue
from .claim_heads import MAX_INCARNATIONS, ClaimHeads
from .claim_idle import IdleNodes
from .claim_select import Selection, select_due
from .claim_take import Taking

_AGAIN_US = 20_000
"""How soon a node claims again that other writers have kept from its registration as idle."""


class ClaimCommands(KVCommands):
    """The verb `claim`."""

    def __init__(self, context: KVContext) -> None:
        super().__init__(context)
        self._heads = ClaimHeads(context)
        self._delayed = DelayedQueue(context)
        self._idle = IdleNodes(context, self._heads, self._delayed)
        self._taking = Taking(context, self._idle)
        self._passed_over = Latest[str, dict[str, int]](MAX_INCARNATIONS)
        """Incarnation → `ClaimCall.passed_over`."""

    @retried
    async def claim(self, incarnation: str, want: Want, *, request: str) -> Claimed:
        return await self._claim(incarnation, want, request, "claim")

    async def _claim(self, incarnation: str, want: Want, request: str, verb: str) -> Claimed:
        context = self._context
        check_batch(want.limit)
        log = await context.answer_logs.open(incarnation, verb, request)
        passed_over = self._passed_over.setdefault(incarnation, {})
        call = ClaimCall(incarnation, want, log, passed_over, may_wait=verb == "hint-claim")
        log.now_us = self._clock.time_us()
        if left := context.own_hints.left(incarnation, want.kinds):
            await context.hints.wake(Wakeups(ready={left: 1}, except_for=incarnation))
            context.own_hints.is_passed_on(incarnation)
        expects_nothing = self._heads.expect_nothing(call)
        if expects_nothing and await self._idle.wait(call, Selection.unread(context, call)):
            return Claimed(now_us=log.now_us, next_due_us=log.next_due_us)
        was_refused = expects_nothing and not call.waited
        takes = known = 0
        for attempt in range(ROUNDS):
            if (attempt or was_refused) and len(call.claims) == known:
                # another run of the request may be the cause of a refusal, but not if this run has written its answers
                await context.answer_logs.refresh(log)
            known = len(call.claims)
            log.now_us = self._clock.time_us()
            if not await self._heads.read(call):
                self._passed_over.pop(incarnation, None)
                return Claimed(now_us=log.now_us, dead=True)
            if (repeated := await repeat_answer(context, call)) is not None:
                return repeated
            if await self._delayed.move_due(call) and not await self._heads.read(call):
                continue
            selection = await select_due(context, call)
            self._heads.expect(call)
            if selection.picks:
                takes += 1
                if await self._taking.take(call, selection) or call.limit == 0:
                    self._heads.took(call, selection)
                    break
            elif call.claims or await self._idle.wait(call, selection):
                break
        else:
            if call.may_idle:
                # other writers came first each time, so the node is not registered as idle: it claims again soon
                log.next_due_us = min(log.next_due_us or LATEST_US, log.now_us + _AGAIN_US)
        claims = in_order(call.claims, call.positions) if takes > 1 else tuple(call.claims)
        # an instance can come in the round after the one that found none
        next_due_us = None if claims else log.next_due_us
        return Claimed(claims=claims, now_us=log.now_us, next_due_us=next_due_us, limits_missing=call.limits_missing)
