"""The store on a key-value store: every verb of the contract, each in the file of its idea."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peerjob.model.clock import Clock
from peerjob.model.firing import MAX_SCHEDULES, Fire, FireAnswer, FirePage, SchedulePage, SchedulePut, ScheduleRow, Term
from peerjob.model.query import Filter, Query
from peerjob.model.record import (
    Ack,
    Capabilities,
    Claimed,
    Enqueued,
    Health,
    Hint,
    LogLine,
    LogPage,
    NewInstance,
    NodeInfo,
    NodeView,
    Outcome,
    Page,
    Reaped,
    Record,
    StoreLimits,
    Want,
)
from peerjob.model.state import State
from peerjob.store.retry import CallRetry
from peerjob.store.timeouts import both
from peerjob.store.url import redact

from .base import Compare, KeyValue, Put, Step
from .cancel import CancelCommands
from .catalogue import Catalogue
from .claim import ClaimCommands
from .clearing import ClearCommands
from .commit import CommitCommands
from .context import KVContext
from .delayed import DelayedQueue
from .elections import KVElections
from .enqueue import EnqueueCommands, check_batch
from .firing import FireCommands
from .keys import Keys
from .layout_guard import GuardedKeyValue
from .ledger import FireLedger
from .liveness import KVLiveness, NodeCommands
from .logs import LogCommands
from .reading import ReadCommands
from .recovery import RecoveryCommands
from .retention import RetentionCommands
from .schedules import ScheduleReads


class KVStore:
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
        key = Keys(namespace).layout
        self._kv = kv = GuardedKeyValue(kv, key=key, namespace=namespace, url=redact(url))
        self._local = local
        self._retrying = CallRetry(clock=clock, retry_for=retry_for)
        self._context = KVContext(kv, url=redact(url), namespace=namespace, clock=clock, limits=limits)
        context = self._context
        kv.on_lease_ended = context.writer.forget_leases
        self._logs = LogCommands(context)
        self._retention = RetentionCommands(context)
        self._reading = ReadCommands(context)
        self._enqueue = EnqueueCommands(context)
        self._claims = ClaimCommands(context, DelayedQueue(context))
        self._commits = CommitCommands(context, self._logs, self._retention)
        self._cancels = CancelCommands(context)
        self._membership = NodeCommands(context)
        self._catalogue = Catalogue(context)
        self._recovery = RecoveryCommands(context, self._retention)
        self._ledger = FireLedger(context)
        self._schedules = ScheduleReads(context, self._ledger)
        self._firing = FireCommands(context, self._ledger, self._cancels)
        self._clearing = ClearCommands(context, self._reading, self._retention)

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
        counted, now_us = self._context.keys.counted, self._context.clock.time_us()
        try:
            await self._kv.learn()
            await self._kv.txn([Step([Compare(counted)], [Put(counted, str(now_us).encode())])])
        except BaseException:
            await self._kv.close()
            raise

    async def wipe(self) -> int:
        return await self._kv.wipe(self._context.keys.root)

    async def close(self) -> None:
        self._context.hints.close()
        await self._kv.close()

    def liveness(self) -> KVLiveness:
        context = self._context
        return KVLiveness(
            self._kv.separate(), url=self.url, keys=context.keys, clock=context.clock, clock_skew=context.clock_skew
        )

    def elections(self) -> KVElections:
        keys = self._context.keys
        return KVElections(self._kv.separate(), url=self.url, namespace=keys.root[:-1], clock=self._context.clock)

    # -- queue ----------------------------------------------------------------------------------------------------

    async def enqueue(self, instances: Sequence[NewInstance], *, node: str = "") -> list[Enqueued]:
        return await self._retrying(lambda: self._enqueue.enqueue(instances, node=node))

    async def claim(self, incarnation: str, want: Want, *, request: str) -> Claimed:
        return await self._retrying(lambda: self._claims.claim(incarnation, want, request=request))

    async def commit(self, incarnation: str, outcomes: Sequence[Outcome], *, request: str) -> list[Ack]:
        return await self._retrying(lambda: self._commits.commit(incarnation, outcomes, request=request))

    async def turn(
        self, incarnation: str, outcomes: Sequence[Outcome], want: Want | None, *, request: str
    ) -> tuple[list[Ack], Claimed]:
        async def commit() -> list[Ack]:
            return await self._retrying(
                lambda: self._commits.commit(incarnation, outcomes, request=request, verb="turn-commit")
            )

        async def claim(want: Want) -> Claimed:
            return await self._retrying(
                lambda: self._claims.claim(incarnation, want, request=request, verb="turn-claim")
            )

        if want is None:
            return await commit(), Claimed(now_us=self._context.clock.time_us())
        if not outcomes or self._commits.lets_in(outcomes):
            return await commit(), await claim(want)
        # the claim comes first: it waits for an answer from the start, while the commit is put together
        claimed, acks = await both(claim(want), commit())
        return acks, claimed

    async def cancel(self, ids: Sequence[str], *, node: str = "", request: str) -> list[State | None]:
        return await self._retrying(lambda: self._cancels.cancel(ids, node=node, request=request))

    async def add_lines(self, id: str, lines: Sequence[LogLine]) -> bool:
        check_batch(len(lines))
        return await self._commits.add_lines(id, tuple(lines))

    # -- hints and waiters ----------------------------------------------------------------------------------------

    async def next_hints(self, incarnation: str, timeout: float) -> list[Hint]:
        return await self._retrying(lambda: self._context.hints.fetch(incarnation, timeout))

    async def watch_final(self, incarnation: str, ids: Sequence[str]) -> list[Record | State | None]:
        return await self._retrying(lambda: self._reading.watch_final(incarnation, ids))

    async def watch_changes(self, incarnation: str, ttl: float) -> None:
        await self._retrying(lambda: self._reading.watch_changes(incarnation, ttl))

    # -- liveness -------------------------------------------------------------------------------------------------

    async def join(self, node: NodeInfo, *, ttl_us: int, previous: str | None = None) -> int:
        return await self._retrying(lambda: self._membership.join(node, ttl_us=ttl_us, previous=previous))

    async def leave(self, incarnation: str) -> int:
        return await self._retrying(lambda: self._recovery.leave(incarnation))

    async def reap(self, limit: int, *, reaper: str) -> list[Reaped]:
        # once: who may reap now may not when the server is back
        return await self._recovery.reap(limit, reaper=reaper)

    async def nodes(self) -> list[NodeView]:
        return await self._retrying(self._membership.nodes)

    async def publish_kinds(self, kinds: Sequence[str]) -> None:
        check_batch(len(kinds))
        await self._retrying(lambda: self._catalogue.publish(kinds))

    async def published_kinds(self, kinds: Sequence[str]) -> list[bool]:
        check_batch(len(kinds))
        return await self._retrying(lambda: self._catalogue.published(kinds))

    # -- schedules ------------------------------------------------------------------------------------------------

    async def put_schedule(self, put: SchedulePut) -> ScheduleRow | None:
        return await self._retrying(lambda: self._schedules.put(put))

    async def remove_schedule(self, name: str, *, expected: int | None = None, request: str) -> bool:
        return await self._retrying(lambda: self._schedules.remove(name, expected=expected, request=request))

    async def get_schedules(self, names: Sequence[str]) -> list[ScheduleRow | None]:
        return await self._retrying(lambda: self._schedules.get(names))

    async def changed_schedules(self, revision: int, *, limit: int = MAX_SCHEDULES) -> SchedulePage:
        return await self._retrying(lambda: self._schedules.changed(revision, limit=limit))

    async def fire(self, fires: Sequence[Fire], *, term: Term | None, node: str = "") -> list[FireAnswer]:
        return await self._retrying(lambda: self._firing.fire(fires, term=term, node=node))

    async def fires(
        self,
        name: str,
        *,
        after_us: int | None = None,
        before_us: int | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> FirePage:
        return await self._retrying(
            lambda: self._ledger.page(name, after_us=after_us, before_us=before_us, limit=limit, cursor=cursor)
        )

    # -- reading --------------------------------------------------------------------------------------------------

    async def get(self, ids: Sequence[str]) -> list[Record | None]:
        return await self._retrying(lambda: self._reading.get(ids))

    async def lookup(self, query: Query) -> Page:
        return await self._retrying(lambda: self._reading.lookup(query))

    async def logs(self, id: str, *, cursor: str | None = None, limit: int = 1000) -> LogPage:
        return await self._retrying(lambda: self._logs.page(id, cursor=cursor, limit=limit))

    async def due(self, kinds: Sequence[str] = ()) -> dict[str, int]:
        return await self._retrying(lambda: self._reading.due(kinds))

    async def health(self) -> Health:
        return await self._retrying(self._reading.health)

    # -- retention ------------------------------------------------------------------------------------------------

    async def expire(self, limit: int) -> int:
        return await self._retrying(lambda: self._retention.expire(limit))

    async def clear_instances(self, filter: Filter, *, limit: int = 500) -> int:
        return await self._retrying(lambda: self._clearing.clear_instances(filter, limit=limit))

    async def clear_history(self, filter: Filter, *, cursor: str | None = None) -> tuple[int, str | None]:
        return await self._retrying(lambda: self._clearing.clear_history(filter, cursor=cursor))

    async def clear_logs(self, filter: Filter, *, cursor: str | None = None) -> tuple[int, str | None]:
        return await self._retrying(lambda: self._clearing.clear_logs(filter, cursor=cursor))

    async def clear(self) -> None:
        await self._retrying(self._clearing.clear)
