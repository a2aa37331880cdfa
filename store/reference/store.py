"""`peerjob.store.base.Store` over the commands of this package: each runs in one transaction, under one lock."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any

from peerjob.model.activity_sample import ActivitySample
from peerjob.model.audit import MAX_AUDIT, AuditRecord
from peerjob.model.capabilities import Capabilities, Health
from peerjob.model.clock import Clock
from peerjob.model.durable import MAX_SETTLED, SignalAnswer, StepPage
from peerjob.model.firing import (
    MAX_SCHEDULES,
    Candidate,
    Fire,
    FireAnswer,
    FirePage,
    Leader,
    SchedulePage,
    SchedulePut,
    ScheduleRow,
    Term,
)
from peerjob.model.published import KindDescriptor
from peerjob.model.query import Filter, Query
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
    StoreLimits,
    Want,
)
from peerjob.model.restored import Restored
from peerjob.model.run_now import RunNowAnswer
from peerjob.model.state import State
from peerjob.model.stored_limit import KeyLimitPage, KindLimits, LimitKey, LimitPage, LimitSetting

from . import (
    catalogue,
    durable,
    edges,
    elections,
    firing,
    gates,
    hints,
    journals,
    ledger,
    liveness,
    reading,
    recovery,
    restoring,
    retention,
    schedules,
    shared_limits,
)
from .cancel import cancel
from .choices import Choices
from .claim import claim
from .commit import add_lines, commit
from .edges import settle
from .enqueue import enqueue
from .layout import raise_layout
from .run_now import run_now
from .state import Namespace
from .transaction import ReferenceTransaction

_CAPABILITIES = Capabilities(
    engine="memory",
    durability="none",
    order="strict",
    clock="server",
    shared=False,
    warnings=("Everything is lost when the process ends.",),
)


class ReferenceData:
    """The namespaces that stores of one process share, in any thread and event loop."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.namespaces: dict[str, Namespace] = {}
        self.objects: dict[str, Any] = {}
        self.waiters = hints.WaitingCalls()

    @contextlib.contextmanager
    def transaction(
        self, namespace: str, clock: Clock, limits: StoreLimits, choices: Choices
    ) -> Generator[ReferenceTransaction]:
        """One command. Calls that wait for what it leaves look again afterwards."""
        with self.lock:
            state = self.namespaces.setdefault(namespace, Namespace())
            transaction = ReferenceTransaction(state, clock.time_us(), limits, choices, namespace=namespace)
            yield transaction
            settle(transaction)
            gates.finish(transaction)
        if transaction.rings:
            self.waiters.ring()


class _Commands:
    """What the store and its separate clients share."""

    def __init__(
        self,
        data: ReferenceData,
        *,
        clock: Clock,
        limits: StoreLimits,
        namespace: str,
        choices: Choices | None = None,
    ) -> None:
        self._data = data
        self._clock = clock
        self._limits = limits
        self._namespace = namespace
        self._choices = choices or Choices()

    def _transaction(self) -> contextlib.AbstractContextManager[ReferenceTransaction]:
        return self._data.transaction(self._namespace, self._clock, self._limits, self._choices)

    async def open(self) -> None:
        """Do nothing: there is no server."""

    async def close(self) -> None:
        """Do nothing: there is no connection."""


class ReferenceLiveness(_Commands):
    """See `peerjob.store.coordination.Liveness`."""

    async def open(self, wake: Callable[[], None] | None = None) -> None:
        await super().open()

    async def renew(self, incarnation: str, *, ttl_us: int, running: int, count: int, fences_digest: int) -> Renewed:
        with self._transaction() as transaction:
            return liveness.renew(
                transaction, incarnation, ttl_us=ttl_us, running=running, count=count, fences_digest=fences_digest
            )

    async def withdraw(self, incarnation: str, request: str, *, timeout: float) -> None:
        """Do nothing: no claim waits in the store, since the event loop of the node itself sends it."""


class ReferenceElections(_Commands):
    """See `peerjob.store.coordination.Elections`."""

    def __init__(self, data: ReferenceData, *, clock: Clock, limits: StoreLimits, namespace: str) -> None:
        super().__init__(data, clock=clock, limits=limits, namespace=namespace)
        self._seen: Leader | None = None
        self._ends_us: int | None = None
        """When the leadership of another candidate ends, if the last question was a campaign."""

    async def campaign(self, candidate: Candidate, *, ttl_us: int) -> Leader:
        with self._transaction() as transaction:
            self._seen = elections.campaign(transaction, candidate, ttl_us=ttl_us)
            leads = self._seen.incarnation == candidate.incarnation
            self._ends_us = None if leads else transaction.state.leads_until_us
            return self._seen

    async def resign(self, incarnation: str, *, refused: Term | None = None) -> None:
        with self._transaction() as transaction:
            elections.resign(transaction, incarnation)

    async def leader(self) -> Leader | None:
        with self._transaction() as transaction:
            self._seen, self._ends_us = elections.leader(transaction), None
            return self._seen

    async def changed(self, timeout: float) -> bool:
        def other_leader() -> bool:
            with self._transaction() as transaction:
                before, self._seen = self._seen, elections.leader(transaction)
                return before != self._seen

        with self._transaction() as transaction:
            left = math.inf if self._ends_us is None else max(0, self._ends_us - transaction.now_us) / 1_000_000
        return await self._data.waiters.until(other_leader, min(left, timeout)) or left <= timeout


class ReferenceStore(_Commands):
    """See `peerjob.store.base.Store`, and for each command the function that it calls."""

    url = "memory://"
    capabilities = _CAPABILITIES

    @property
    def local_objects(self) -> dict[str, Any] | None:
        return self._data.objects

    async def wipe(self) -> int:
        with self._transaction() as transaction:
            count = len(transaction.state.instances)
            self._data.namespaces[self._namespace] = Namespace()
            return count

    def liveness(self) -> ReferenceLiveness:
        return ReferenceLiveness(self._data, clock=self._clock, limits=self._limits, namespace=self._namespace)

    def elections(self) -> ReferenceElections:
        return ReferenceElections(self._data, clock=self._clock, limits=self._limits, namespace=self._namespace)

    # -- queue ----------------------------------------------------------------------------------------------------

    async def enqueue(self, instances: Sequence[NewInstance], *, node: str = "") -> list[Enqueued]:
        with self._transaction() as transaction:
            return enqueue(transaction, instances, node=node)

    async def claim(self, incarnation: str, want: Want, *, request: str) -> Claimed:
        with self._transaction() as transaction:
            return claim(transaction, incarnation, want, request=request)

    async def commit(self, incarnation: str, outcomes: Sequence[Outcome], *, request: str) -> list[Ack]:
        with self._transaction() as transaction:
            return commit(transaction, incarnation, outcomes, request=request)

    async def turn(
        self, incarnation: str, outcomes: Sequence[Outcome], want: Want | None, *, request: str
    ) -> tuple[list[Ack], Claimed]:
        with self._transaction() as transaction:
            acks = commit(transaction, incarnation, outcomes, request=request, command="turn-commit")
            settle(transaction)
            gates.pass_gates(transaction)
            if want is None:
                return acks, Claimed(now_us=transaction.now_us)
            return acks, claim(transaction, incarnation, want, request=request, command="turn-claim")

    async def cancel(self, ids: Sequence[str], *, node: str = "", request: str) -> list[State | None]:
        with self._transaction() as transaction:
            return cancel(transaction, ids, node=node, request=request)

    async def run_now(self, ids: Sequence[str], *, request: str) -> list[RunNowAnswer]:
        with self._transaction() as transaction:
            return run_now(transaction, ids, request=request)

    async def add_lines(self, id: str, lines: Sequence[LogLine]) -> bool:
        with self._transaction() as transaction:
            return add_lines(transaction, id, lines)

    # -- hints and waiters ----------------------------------------------------------------------------------------

    async def next_hints(self, incarnation: str, timeout: float) -> list[Hint]:
        def take() -> list[Hint]:
            with self._transaction() as transaction:
                return hints.take_hints(transaction, incarnation)

        return await self._data.waiters.until(take, timeout)

    async def claim_on_hint(
        self, incarnation: str, want: Want, *, request: str, timeout: float
    ) -> tuple[list[Hint], Claimed | None]:
        hints = await self.next_hints(incarnation, timeout)
        if timeout > 0 and not any(hint.what == "work" for hint in hints):
            return hints, None
        with self._transaction() as transaction:
            return hints, claim(transaction, incarnation, want, request=request, command="hint-claim")

    async def watch_final(self, incarnation: str, ids: Sequence[str]) -> list[Record | State | None]:
        with self._transaction() as transaction:
            return hints.watch_final(transaction, incarnation, ids)

    async def watch_changes(self, incarnation: str, ttl: float) -> None:
        with self._transaction() as transaction:
            hints.watch_changes(transaction, incarnation, ttl)

    # -- liveness -------------------------------------------------------------------------------------------------

    async def join(self, node: NodeInfo, *, ttl_us: int, previous: str | None = None) -> int:
        with self._transaction() as transaction:
            return liveness.join(transaction, node, ttl_us=ttl_us, previous=previous)

    async def leave(self, incarnation: str) -> int:
        with self._transaction() as transaction:
            return recovery.leave(transaction, incarnation)

    async def reap(self, limit: int, *, reaper: str) -> list[Reaped]:
        with self._transaction() as transaction:
            return recovery.reap(transaction, limit, reaper=reaper)

    async def nodes(self) -> list[NodeView]:
        with self._transaction() as transaction:
            return liveness.nodes(transaction)

    async def instruct(self, incarnation: str, instruction: Instruction) -> bool:
        with self._transaction() as transaction:
            return liveness.instruct(transaction, incarnation, instruction)

    async def publish_kinds(self, kinds: Sequence[str]) -> None:
        with self._transaction() as transaction:
            catalogue.publish_kinds(transaction, kinds)

    async def published_kinds(self, kinds: Sequence[str]) -> list[bool]:
        with self._transaction() as transaction:
            return catalogue.published_kinds(transaction, kinds)

    async def publish_descriptors(self, descriptors: Sequence[KindDescriptor]) -> list[bool]:
        with self._transaction() as transaction:
            return catalogue.publish_descriptors(transaction, descriptors)

    async def descriptors(self, kinds: Sequence[str]) -> list[tuple[KindDescriptor, ...]]:
        with self._transaction() as transaction:
            return catalogue.descriptors(transaction, kinds)

    async def add_audit(self, records: Sequence[AuditRecord]) -> None:
        with self._transaction() as transaction:
            journals.add_audit(transaction, records)

    async def audit(self, limit: int = MAX_AUDIT) -> list[AuditRecord]:
        with self._transaction() as transaction:
            return journals.audit(transaction, limit)

    async def add_activity(self, sample: ActivitySample) -> None:
        with self._transaction() as transaction:
            journals.add_activity(transaction, sample)

    async def activity(self, first: int, last: int) -> list[ActivitySample]:
        with self._transaction() as transaction:
            return journals.activity(transaction, first, last)

    # -- limits ---------------------------------------------------------------------------------------------------

    async def publish_limits(self, limits: Sequence[KindLimits]) -> None:
        with self._transaction() as transaction:
            shared_limits.publish_limits(transaction, limits, self.capabilities.limits)

    async def set_limit(self, setting: LimitSetting) -> bool:
        with self._transaction() as transaction:
            return shared_limits.set_limit(transaction, setting, self.capabilities.limits)

    async def pause_kind(self, kind: str, paused: bool, note: str = "") -> None:
        with self._transaction() as transaction:
            shared_limits.pause_kind(transaction, kind, paused=paused, note=note)

    async def throttle(self, name: str, delay_us: int, *, shorten: bool = False) -> bool:
        with self._transaction() as transaction:
            return shared_limits.throttle(transaction, name, delay_us, shorten=shorten)

    async def limits(self, *, kind: str | None = None, cursor: str | None = None, limit: int = 100) -> LimitPage:
        with self._transaction() as transaction:
            return shared_limits.limits(transaction, kind=kind, cursor=cursor, limit=limit)

    async def key_limits(
        self,
        kind: str,
        *,
        prefix: str = "",
        waiting_only: bool = False,
        cursor: str | None = None,
        limit: int = 500,
    ) -> KeyLimitPage:
        with self._transaction() as transaction:
            return gates.key_limits(
                transaction, kind, prefix=prefix, waiting_only=waiting_only, cursor=cursor, limit=limit
            )

    async def limit_keys(self, ids: Sequence[str]) -> list[LimitKey | None]:
        with self._transaction() as transaction:
            return gates.limit_keys(transaction, ids)

    async def key_holders(self, kind: str, key: str) -> list[str]:
        with self._transaction() as transaction:
            return gates.key_holders(transaction, kind, key)

    async def check_limits(self, cursor: str | None = None) -> tuple[int, str | None]:
        with self._transaction() as transaction:
            return gates.check_limits(transaction, cursor)

    # -- durable bodies -------------------------------------------------------------------------------------------

    async def require_layout(self, layout: int, what: str) -> None:
        with self._transaction() as transaction:
            raise_layout(transaction, layout, what)

    async def spawn(self, incarnation: str, parent: Held, children: Sequence[NewChild]) -> list[Enqueued] | None:
        with self._transaction() as transaction:
            return edges.spawn(transaction, incarnation, parent, children)

    async def restore(self, instances: Sequence[Restored], *, node: str = "") -> list[Enqueued]:
        with self._transaction() as transaction:
            return restoring.restore(transaction, instances, node=node)

    async def signal(self, id: str, name: str, value: bytes) -> SignalAnswer:
        with self._transaction() as transaction:
            return durable.signal(transaction, id, name, value)

    async def steps(self, id: str, *, cursor: str | None = None) -> StepPage:
        with self._transaction() as transaction:
            return durable.steps(transaction, id, cursor)

    async def open_needs(self, ids: Sequence[str]) -> list[int]:
        with self._transaction() as transaction:
            return durable.open_needs(transaction, ids)

    async def settle(self, limit: int = MAX_SETTLED) -> bool:
        """Nothing is left: the command that ends an instance settles it."""
        return False

    async def check_needs(self, cursor: str | None = None) -> tuple[int, str | None]:
        """Nothing is damaged: the data are objects of this process."""
        return 0, None

    # -- schedules ------------------------------------------------------------------------------------------------

    async def put_schedule(self, put: SchedulePut) -> ScheduleRow | None:
        with self._transaction() as transaction:
            return schedules.put_schedule(transaction, put)

    async def remove_schedule(self, name: str, *, expected: int | None = None, request: str) -> bool:
        with self._transaction() as transaction:
            return schedules.remove_schedule(transaction, name, expected=expected, request=request)

    async def get_schedules(self, names: Sequence[str]) -> list[ScheduleRow | None]:
        with self._transaction() as transaction:
            return schedules.get_schedules(transaction, names)

    async def changed_schedules(self, revision: int, *, limit: int = MAX_SCHEDULES) -> SchedulePage:
        with self._transaction() as transaction:
            return schedules.changed_schedules(transaction, revision, limit=limit)

    async def fire(self, fires: Sequence[Fire], *, term: Term | None, node: str = "") -> list[FireAnswer]:
        with self._transaction() as transaction:
            return firing.fire(transaction, fires, term=term, node=node)

    async def fires(
        self,
        name: str,
        *,
        after_us: int | None = None,
        before_us: int | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> FirePage:
        with self._transaction() as transaction:
            return ledger.fires(transaction, name, after_us=after_us, before_us=before_us, limit=limit, cursor=cursor)

    # -- reading --------------------------------------------------------------------------------------------------

    async def get(self, ids: Sequence[str]) -> list[Record | None]:
        with self._transaction() as transaction:
            return reading.get(transaction, ids)

    async def get_ended(self, ids: Sequence[str]) -> list[Record | None]:
        return await self.get(ids)

    async def lookup(self, query: Query) -> Page:
        with self._transaction() as transaction:
            return reading.lookup(transaction, query)

    async def logs(self, id: str, *, cursor: str | None = None, limit: int = 1000) -> LogPage:
        with self._transaction() as transaction:
            return reading.logs(transaction, id, cursor=cursor, limit=limit)

    async def due(self, kinds: Sequence[str] = ()) -> dict[str, int]:
        with self._transaction() as transaction:
            return reading.due(transaction, kinds)

    async def health(self) -> Health:
        with self._transaction() as transaction:
            return reading.health(transaction)

    # -- retention ------------------------------------------------------------------------------------------------

    async def expire(self, limit: int) -> int:
        with self._transaction() as transaction:
            return retention.expire(transaction, limit)

    async def clear_instances(self, filter: Filter, *, limit: int = 500) -> int:
        with self._transaction() as transaction:
            return retention.clear_instances(transaction, filter, limit=limit)

    async def clear_history(self, filter: Filter, *, cursor: str | None = None) -> tuple[int, str | None]:
        with self._transaction() as transaction:
            return retention.clear_history(transaction, filter, cursor=cursor)

    async def clear_logs(self, filter: Filter, *, cursor: str | None = None) -> tuple[int, str | None]:
        with self._transaction() as transaction:
            return retention.clear_logs(transaction, filter, cursor=cursor)

    async def clear(self) -> None:
        with self._transaction() as transaction:
            retention.clear(transaction)
