"""The store on a key-value store: the groups of verbs, what opens and closes them, and the check of the layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from peerjob.model.capabilities import Capabilities
from peerjob.model.clock import Clock
from peerjob.model.record import Ack, Claimed, Hint, Outcome, StoreLimits, Want
from peerjob.store.calls import both
from peerjob.store.url import redact

from .cron.firing import FireCommands
from .cron.schedules import ScheduleCommands
from .cron.slot_repair import SlotRepair
from .direct_calls import KVDirectCalls
from .durable.need_checks import NeedCheckCommands
from .durable.restoring import RestoreCommands
from .durable.settling import SettlingCommands
from .durable.spawning import SpawnCommands
from .durable.steps import StepCommands
from .format.base import Compare, KeyValue, Put, Transaction
from .format.keys import Keys
from .kinds.limits import LimitCommands
from .nodes.activity import ActivityCommands
from .nodes.audit import AuditCommands
from .nodes.elections import KVElections
from .nodes.liveness import KVLiveness
from .nodes.nodes import NodeCommands
from .nodes.recovery import RecoveryCommands
from .queue.claim import ClaimCommands
from .queue.clearing import ClearCommands
from .queue.commit import CommitCommands
from .queue.run_now import RunNowCommands
from .write.context import KVContext
from .write.guarded import GuardedKeyValue
from .write.hints import Wakeups


class KVStore(
    StepCommands,
    SpawnCommands,
    SettlingCommands,
    NeedCheckCommands,
    RestoreCommands,
    ClaimCommands,
    CommitCommands,
    AuditCommands,
    ActivityCommands,
    NodeCommands,
    LimitCommands,
    RunNowCommands,
    RecoveryCommands,
    ScheduleCommands,
    FireCommands,
    ClearCommands,
):
    """`peerjob.store.base.Store` over any `KeyValue`."""

    def __init__(
        self,
        kv: KeyValue,
        *,
        url: str,
        namespace: str,
        clock: Clock,
        limits: StoreLimits,
        local: dict[str, Any] | None = None,
        retry_for: float = 0,
        blocking: KeyValue | None = None,
    ) -> None:
        """Take a `KeyValue`; `blocking` leads to the same data, and blocks its thread instead of suspending."""

        def guard(kv: KeyValue, retry_for: float) -> tuple[GuardedKeyValue, KVContext]:
            guarded = GuardedKeyValue(kv, keys=Keys(namespace), url=redact(url))
            context = KVContext(
                guarded, url=redact(url), namespace=namespace, clock=clock, limits=limits, retry_for=retry_for
            )
            guarded.on_lease_ended = context.writer.forget_leases
            return guarded, context

        guarded, context = guard(kv, retry_for)
        context.slots.repair = SlotRepair(context).write
        super().__init__(context)
        self._guarded = guarded
        self._direct = None if blocking is None else KVDirectCalls(lambda: guard(blocking, 0)[1], context, retry_for)
        self._local = local

    @property
    def url(self) -> str:
        return self._context.url

    @property
    def capabilities(self) -> Capabilities:
        return self._kv.capabilities

    @property
    def local_objects(self) -> dict[str, Any] | None:
        return self._local

    def direct_calls(self) -> KVDirectCalls | None:
        return self._direct

    async def open(self) -> None:
        await self._kv.open()
        counted, now_us = self._keys.counted, self._clock.time_us()
        try:
            await self._guarded.read_layout()
            await self._kv.txn([Transaction([Compare(counted)], [Put(counted, str(now_us).encode())])])
        except GeneratorExit:
            raise  # Python destroys this coroutine because its event loop was closed
        except BaseException:
            await self._kv.close()
            raise

    async def wipe(self) -> int:
        return await self._guarded.wipe(self._keys.root)

    async def close(self) -> None:
        self._stop_watches()
        await self._kv.close()

    def liveness(self) -> KVLiveness:
        return KVLiveness(
            self._kv.separate(),
            url=self.url,
            keys=self._keys,
            clock=self._clock,
            clock_skew=self._context.clock_skew,
            idle_signs=self._context.idle_signs,
            unreadable=self._context.unreadable,
        )

    def elections(self) -> KVElections:
        return KVElections(
            self._kv.separate(),
            url=self.url,
            namespace=self._keys.root[:-1],
            clock=self._clock,
            unreadable=self._context.unreadable,
        )

    async def turn(
        self, incarnation: str, outcomes: Sequence[Outcome], want: Want | None, *, request: str
    ) -> tuple[list[Ack], Claimed]:
        wakeups = Wakeups(except_for=incarnation)

        async def commit() -> list[Ack]:
            later = None if want is None else wakeups
            return await self._retry(lambda: self._commit(incarnation, outcomes, request, "turn-commit", later=later))

        async def claim(want: Want) -> Claimed:
            return await self._retry(lambda: self._claim(incarnation, want, request, "turn-claim"))

        if want is None:
            return await commit(), Claimed(now_us=self._clock.time_us())
        if not outcomes or self._may_let_go(outcomes):
            acks, claimed = await commit(), await claim(want)
            taken = Counter(claim.kind for claim in claimed.claims)
            wakeups.ready = {kind: left for kind, count in wakeups.ready.items() if (left := count - taken[kind]) > 0}
            if wakeups.full or wakeups.ready:
                await self._context.hints.wake(wakeups)
            return acks, claimed
        # the claim is sent first, so that the server handles the claim while this process builds the commit
        claimed, acks = await both(claim(want), commit())
        return acks, claimed

    async def claim_on_hint(
        self, incarnation: str, want: Want, *, request: str, timeout: float
    ) -> tuple[list[Hint], Claimed | None]:
        hints = await self.next_hints(incarnation, timeout)
        if timeout > 0 and not any(hint.what == "work" for hint in hints):
            return hints, None
        return hints, await self._retry(lambda: self._claim(incarnation, want, request, "hint-claim"))
