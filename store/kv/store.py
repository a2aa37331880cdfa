"""The store on a key-value store: the groups of verbs, what opens and closes them, and the check of the layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from peerjob.model.clock import Clock
from peerjob.model.record import Ack, Capabilities, Claimed, Hint, Outcome, StoreLimits, Want
from peerjob.store.calls import both
from peerjob.store.rules import LAYOUT, check_layout
from peerjob.store.url import redact

from .cron.firing import FireCommands
from .cron.schedules import ScheduleCommands
from .cron.slot_repair import SlotRepair
from .direct_calls import KVDirectCalls
from .format.base import Applied, Compare, Delete, KeyValue, LeaseEndedError, Put, Transaction
from .format.keys import Keys, below
from .format.layout import mended_layout
from .kinds.descriptors import DescriptorCommands
from .nodes.activity import ActivityCommands
from .nodes.audit import AuditCommands
from .nodes.elections import KVElections
from .nodes.liveness import KVLiveness
from .nodes.nodes import NodeCommands
from .nodes.recovery import RecoveryCommands
from .queue.claim import ClaimCommands
from .queue.clearing import ClearCommands
from .queue.commit import CommitCommands
from .queue.enqueue import EnqueueCommands
from .queue.run_now import RunNowCommands
from .write.context import KVContext

_WIPE_BATCH = 1_000


class GuardedKeyValue:
    """A `KeyValue` that raises LayoutError instead of changing a namespace with another layout.

    This costs a request one compare, of the revision of the layout key. If the request is refused, the layout
    may have changed, so the key is read again.
    """

    def __init__(self, kv: KeyValue, *, key: str, namespace: str, url: str) -> None:
        self._kv = kv
        self._key = key
        self._namespace = namespace
        self._url = url
        self._guard: Compare | None = None
        self.open, self.close = kv.open, kv.close
        self.get, self.read, self.watch = kv.get, kv.read, kv.watch
        self.grant, self.keepalive, self.revoke, self.remaining = kv.grant, kv.keepalive, kv.revoke, kv.remaining
        self.extend = kv.extend
        self.on_lease_ended: Callable[[], None] = lambda: None
        """Called when the server does not know the lease of a put, for example after the
        server was wiped or restored."""

    @property
    def capabilities(self) -> Capabilities:
        return self._kv.capabilities

    @property
    def identity(self) -> str:
        return self._kv.identity

    @property
    def reports_ends(self) -> bool:
        return self._kv.reports_ends

    @property
    def full(self) -> bool:
        return self._kv.full

    def separate(self) -> GuardedKeyValue:
        return GuardedKeyValue(self._kv.separate(), key=self._key, namespace=self._namespace, url=self._url)

    async def txn(
        self, transactions: Sequence[Transaction], also: Transaction | None = None, guards: Sequence[Compare] = ()
    ) -> Applied:
        guard = self._guard or await self.read_layout()
        while True:
            try:
                applied = await self._kv.txn(transactions, also, (guard, *guards))
            except LeaseEndedError:
                self.on_lease_ended()
                raise
            if not applied.refused or guard == (now := await self.read_layout()):
                return applied
            guard = now

    async def read_layout(self) -> Compare:
        """A compare that holds while the namespace has this version's layout. A new namespace gets that layout."""
        while True:
            (entry,) = await self._kv.get([self._key])
            if entry is not None and await mended_layout(self._kv, self._key, entry):
                continue
            if entry is not None:
                check_layout(entry.value.decode(errors="replace"), namespace=self._namespace, url=self._url)
                self._guard = Compare(self._key, mod=entry.mod)
                return self._guard
            await self._kv.txn([Transaction([Compare(self._key)], [Put(self._key, str(LAYOUT).encode())])])

    async def wipe(self, root: str) -> int:
        """Delete every key of the namespace, with any layout; the answer is their number."""
        await self._kv.open()
        removed = 0
        while True:
            (answer,) = await self._kv.read([below(root, _WIPE_BATCH, keys_only=True)])
            if not answer.items:
                return removed
            last = answer.items[-1][0]
            await self._kv.txn([Transaction([], [Delete(answer.items[0][0], f"{last}\0")])])
            removed += len(answer.items)


class KVStore(
    EnqueueCommands,
    ClaimCommands,
    CommitCommands,
    AuditCommands,
    ActivityCommands,
    NodeCommands,
    DescriptorCommands,
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
            guarded = GuardedKeyValue(kv, key=Keys(namespace).layout, namespace=namespace, url=redact(url))
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

    async def claim_on_hint(
        self, incarnation: str, want: Want, *, request: str, timeout: float
    ) -> tuple[list[Hint], Claimed | None]:
        hints = await self.next_hints(incarnation, timeout)
        if timeout > 0 and not any(hint.what == "work" for hint in hints):
            return hints, None
        return hints, await self._retry(lambda: self._claim(incarnation, want, request, "hint-claim"))
