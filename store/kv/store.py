"""The store on a key-value store: the groups of verbs, and what opens and closes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peerjob.model.clock import Clock
from peerjob.model.record import Ack, Capabilities, Claimed, Outcome, StoreLimits, Want
from peerjob.store.retry import CallRetry
from peerjob.store.timeouts import both
from peerjob.store.url import redact

from .base import Compare, KeyValue, Put, Step
from .claim import ClaimCommands
from .clearing import ClearCommands
from .commit import CommitCommands
from .context import KVContext
from .elections import KVElections
from .enqueue import EnqueueCommands
from .firing import FireCommands
from .keys import Keys
from .layout_guard import GuardedKeyValue
from .liveness import KVLiveness
from .nodes import NodeCommands
from .recovery import RecoveryCommands
from .schedules import ScheduleCommands


class KVStore(
    EnqueueCommands,
    ClaimCommands,
    CommitCommands,
    NodeCommands,
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
    ) -> None:
        guarded = GuardedKeyValue(kv, key=Keys(namespace).layout, namespace=namespace, url=redact(url))
        context = KVContext(guarded, url=redact(url), namespace=namespace, clock=clock, limits=limits)
        guarded.on_lease_ended = context.writer.forget_leases
        super().__init__(context, CallRetry(clock=clock, retry_for=retry_for))
        self._guarded = guarded
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

    async def open(self) -> None:
        await self._kv.open()
        counted, now_us = self._keys.counted, self._clock.time_us()
        try:
            await self._guarded.read_layout()
            await self._kv.txn([Step([Compare(counted)], [Put(counted, str(now_us).encode())])])
        except BaseException:
            await self._kv.close()
            raise

    async def wipe(self) -> int:
        return await self._guarded.wipe(self._keys.root)

    async def close(self) -> None:
        self._stop_watches()
        await self._kv.close()

    def liveness(self) -> KVLiveness:
        skew = self._context.clock_skew
        return KVLiveness(self._kv.separate(), url=self.url, keys=self._keys, clock=self._clock, clock_skew=skew)

    def elections(self) -> KVElections:
        return KVElections(self._kv.separate(), url=self.url, namespace=self._keys.root[:-1], clock=self._clock)

    async def turn(
        self, incarnation: str, outcomes: Sequence[Outcome], want: Want | None, *, request: str
    ) -> tuple[list[Ack], Claimed]:
        async def commit() -> list[Ack]:
            return await self._retry(lambda: self._commit(incarnation, outcomes, request, "turn-commit"))

        async def claim(want: Want) -> Claimed:
            return await self._retry(lambda: self._claim(incarnation, want, request, "turn-claim"))

        if want is None:
            return await commit(), Claimed(now_us=self._clock.time_us())
        if not outcomes or self._may_add_to_queue(outcomes):
            return await commit(), await claim(want)
        # the claim is sent first, so that the server handles the claim while this process builds the commit
        claimed, acks = await both(claim(want), commit())
        return acks, claimed
