"""A store by a third party: one that counts the calls to the store it wraps."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from peerjob import Filter, Node, Query, State, Store
from peerjob.model.activity_sample import ActivitySample
from peerjob.model.audit import AuditRecord
from peerjob.model.capabilities import Capabilities, Health
from peerjob.model.durable import SignalAnswer, StepPage
from peerjob.model.firing import Fire, FireAnswer, FirePage, SchedulePage, SchedulePut, ScheduleRow, Term
from peerjob.model.published import KindDescriptor
from peerjob.model.record import (
    Ack,
    Claimed,
    Enqueued,
    Held,
    Hint,
    Instruction,
    LogLine,
    LogPage,
    NewChild,
    NewInstance,
    NodeInfo,
    NodeView,
    Outcome,
    Page,
    Reaped,
    Record,
    Renewed,
    Want,
)
from peerjob.model.restored import Restored
from peerjob.model.run_now import RunNowAnswer
from peerjob.model.stored_limit import KeyLimitPage, KindLimits, LimitKey, LimitPage, LimitSetting
from peerjob.store.base import Elections, Liveness


class CountingLiveness:
    def __init__(self, inner: Liveness, calls: Counter[str]) -> None:
        self._inner = inner
        self._calls = calls

    async def open(self, wake: Callable[[], None] | None = None) -> None:
        await self._inner.open(wake)

    async def renew(self, incarnation: str, *, ttl_us: int, running: int, count: int, fences_digest: int) -> Renewed:
        self._calls["renew"] += 1
        return await self._inner.renew(
            incarnation, ttl_us=ttl_us, running=running, count=count, fences_digest=fences_digest
        )

    async def withdraw(self, incarnation: str, request: str, *, timeout: float) -> None:
        await self._inner.withdraw(incarnation, request, timeout=timeout)

    async def close(self) -> None:
        await self._inner.close()


class CountingStore:
    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self.calls: Counter[str] = Counter()

    @property
    def url(self) -> str:
        return f"counting+{self._inner.url}"

    @property
    def capabilities(self) -> Capabilities:
        return self._inner.capabilities

    @property
    def local_objects(self) -> dict[str, Any] | None:
        return self._inner.local_objects

    async def open(self) -> None:
        await self._inner.open()

    async def close(self) -> None:
        await self._inner.close()

    def liveness(self) -> CountingLiveness:
        return CountingLiveness(self._inner.liveness(), self.calls)

    def elections(self) -> Elections:
        return self._inner.elections()

    async def enqueue(self, instances: Sequence[NewInstance], *, node: str = "") -> list[Enqueued]:
        self.calls["enqueue"] += 1
        return await self._inner.enqueue(instances, node=node)

    async def claim(self, incarnation: str, want: Want, *, request: str) -> Claimed:
        self.calls["claim"] += 1
        return await self._inner.claim(incarnation, want, request=request)

    async def commit(self, incarnation: str, outcomes: Sequence[Outcome], *, request: str) -> list[Ack]:
        self.calls["commit"] += 1
        return await self._inner.commit(incarnation, outcomes, request=request)

    async def turn(
        self, incarnation: str, outcomes: Sequence[Outcome], want: Want | None, *, request: str
    ) -> tuple[list[Ack], Claimed]:
        self.calls["turn"] += 1
        return await self._inner.turn(incarnation, outcomes, want, request=request)

    async def cancel(self, ids: Sequence[str], *, node: str = "", request: str) -> list[State | None]:
        return await self._inner.cancel(ids, node=node, request=request)

    async def next_hints(self, incarnation: str, timeout: float) -> list[Hint]:
        return await self._inner.next_hints(incarnation, timeout)

    async def claim_on_hint(
        self, incarnation: str, want: Want, *, request: str, timeout: float
    ) -> tuple[list[Hint], Claimed | None]:
        return await self._inner.claim_on_hint(incarnation, want, request=request, timeout=timeout)

    async def watch_final(self, incarnation: str, ids: Sequence[str]) -> list[Record | State | None]:
        return await self._inner.watch_final(incarnation, ids)

    async def watch_changes(self, incarnation: str, ttl: float) -> None:
        await self._inner.watch_changes(incarnation, ttl)

    async def join(self, node: NodeInfo, *, ttl_us: int, previous: str | None = None) -> int:
        return await self._inner.join(node, ttl_us=ttl_us, previous=previous)

    async def leave(self, incarnation: str) -> int:
        return await self._inner.leave(incarnation)

    async def reap(self, limit: int, *, reaper: str) -> list[Reaped]:
        return await self._inner.reap(limit, reaper=reaper)

    async def nodes(self) -> list[NodeView]:
        return await self._inner.nodes()

    async def run_now(self, ids: Sequence[str], *, request: str) -> list[RunNowAnswer]:
        return await self._inner.run_now(ids, request=request)

    async def add_lines(self, id: str, lines: Sequence[LogLine]) -> bool:
        return await self._inner.add_lines(id, lines)

    async def instruct(self, incarnation: str, instruction: Instruction) -> bool:
        return await self._inner.instruct(incarnation, instruction)

    async def publish_kinds(self, kinds: Sequence[str]) -> None:
        await self._inner.publish_kinds(kinds)

    async def add_activity(self, sample: ActivitySample) -> None:
        await self._inner.add_activity(sample)

    async def activity(self, first: int, last: int) -> list[ActivitySample]:
        return await self._inner.activity(first, last)

    async def add_audit(self, records: Sequence[AuditRecord]) -> None:
        await self._inner.add_audit(records)

    async def audit(self, limit: int = 1000) -> list[AuditRecord]:
        return await self._inner.audit(limit)

    async def publish_descriptors(self, descriptors: Sequence[KindDescriptor]) -> list[bool]:
        return await self._inner.publish_descriptors(descriptors)

    async def descriptors(self, kinds: Sequence[str]) -> list[tuple[KindDescriptor, ...]]:
        return await self._inner.descriptors(kinds)

    async def published_kinds(self, kinds: Sequence[str]) -> list[bool]:
        return await self._inner.published_kinds(kinds)

    async def publish_limits(self, limits: Sequence[KindLimits]) -> None:
        await self._inner.publish_limits(limits)

    async def set_limit(self, setting: LimitSetting) -> bool:
        return await self._inner.set_limit(setting)

    async def pause_kind(self, kind: str, paused: bool, note: str = "") -> None:
        await self._inner.pause_kind(kind, paused, note)

    async def throttle(self, name: str, delay_us: int, *, shorten: bool = False) -> bool:
        return await self._inner.throttle(name, delay_us, shorten=shorten)

    async def limits(self, *, kind: str | None = None, cursor: str | None = None, limit: int = 100) -> LimitPage:
        return await self._inner.limits(kind=kind, cursor=cursor, limit=limit)

    async def key_limits(
        self,
        kind: str,
        *,
        prefix: str = "",
        waiting_only: bool = False,
        cursor: str | None = None,
        limit: int = 500,
    ) -> KeyLimitPage:
        return await self._inner.key_limits(kind, prefix=prefix, waiting_only=waiting_only, cursor=cursor, limit=limit)

    async def limit_keys(self, ids: Sequence[str]) -> list[LimitKey | None]:
        return await self._inner.limit_keys(ids)

    async def key_holders(self, kind: str, key: str) -> list[str]:
        return await self._inner.key_holders(kind, key)

    async def check_limits(self, cursor: str | None = None) -> tuple[int, str | None]:
        return await self._inner.check_limits(cursor)

    async def put_schedule(self, put: SchedulePut) -> ScheduleRow | None:
        return await self._inner.put_schedule(put)

    async def remove_schedule(self, name: str, *, expected: int | None = None, request: str) -> bool:
        return await self._inner.remove_schedule(name, expected=expected, request=request)

    async def get_schedules(self, names: Sequence[str]) -> list[ScheduleRow | None]:
        return await self._inner.get_schedules(names)

    async def changed_schedules(self, revision: int, *, limit: int = 500) -> SchedulePage:
        return await self._inner.changed_schedules(revision, limit=limit)

    async def fire(self, fires: Sequence[Fire], *, term: Term | None, node: str = "") -> list[FireAnswer]:
        self.calls["fire"] += len(fires)
        return await self._inner.fire(fires, term=term, node=node)

    async def fires(
        self,
        name: str,
        *,
        after_us: int | None = None,
        before_us: int | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> FirePage:
        return await self._inner.fires(name, after_us=after_us, before_us=before_us, limit=limit, cursor=cursor)

    async def get(self, ids: Sequence[str]) -> list[Record | None]:
        return await self._inner.get(ids)

    async def get_ended(self, ids: Sequence[str]) -> list[Record | None]:
        return await self._inner.get_ended(ids)

    async def lookup(self, query: Query) -> Page:
        return await self._inner.lookup(query)

    async def logs(self, id: str, *, cursor: str | None = None, limit: int = 1000) -> LogPage:
        return await self._inner.logs(id, cursor=cursor, limit=limit)

    async def due(self, kinds: Sequence[str] = ()) -> dict[str, int]:
        return await self._inner.due(kinds)

    async def health(self) -> Health:
        return await self._inner.health()

    async def require_layout(self, layout: int, what: str) -> None:
        await self._inner.require_layout(layout, what)

    async def spawn(self, incarnation: str, parent: Held, children: Sequence[NewChild]) -> list[Enqueued] | None:
        return await self._inner.spawn(incarnation, parent, children)

    async def restore(self, instances: Sequence[Restored], *, node: str = "") -> list[Enqueued]:
        return await self._inner.restore(instances, node=node)

    async def signal(self, id: str, name: str, value: bytes) -> SignalAnswer:
        return await self._inner.signal(id, name, value)

    async def steps(self, id: str, *, cursor: str | None = None) -> StepPage:
        return await self._inner.steps(id, cursor=cursor)

    async def open_needs(self, ids: Sequence[str]) -> list[int]:
        return await self._inner.open_needs(ids)

    async def settle(self, limit: int = 100) -> bool:
        return await self._inner.settle(limit)

    async def check_needs(self, cursor: str | None = None) -> tuple[int, str | None]:
        return await self._inner.check_needs(cursor)

    async def expire(self, limit: int) -> int:
        return await self._inner.expire(limit)

    async def clear_instances(self, filter: Filter, *, limit: int = 500) -> int:
        return await self._inner.clear_instances(filter, limit=limit)

    async def clear_history(self, filter: Filter, *, cursor: str | None = None) -> tuple[int, str | None]:
        return await self._inner.clear_history(filter, cursor=cursor)

    async def clear_logs(self, filter: Filter, *, cursor: str | None = None) -> tuple[int, str | None]:
        return await self._inner.clear_logs(filter, cursor=cursor)

    async def clear(self) -> None:
        await self._inner.clear()


def node_on(inner: Store) -> Node:
    satisfied: Store = CountingStore(inner)
    return Node(satisfied)


class Unfinished:
    async def open(self) -> None: ...


Node(Unfinished())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
