"""Tells waiters, processors and observers of changes that peers, schedules and callers of this node made."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from peerjob.handles.instance import Instance
from peerjob.handles.manager import Manager
from peerjob.model.errors import StoreError
from peerjob.model.firing import Fire, FireRecord
from peerjob.model.record import NewInstance, Reaped
from peerjob.node.manager.waiting import Waiters
from peerjob.node.observe.listeners import call_listener
from peerjob.node.observe.observer import Observer
from peerjob.node.registry import Registry

from .outbox import Outbox
from .outcome_builder import OutcomeBuilder
from .pool import Pool
from .processor_calls import ProcessorCalls
from .run import HeldClaims


class ChangeListener:
    """Learns of cancelled, reaped and fired instances. `spawn` runs a read of the store in the background."""

    def __init__(
        self,
        *,
        manager: Manager,
        registry: Registry,
        held_claims: HeldClaims,
        pool: Pool,
        outbox: Outbox,
        outcome_builder: OutcomeBuilder,
        waiters: Waiters,
        processor_calls: ProcessorCalls,
        observers: Sequence[Observer],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._manager = manager
        self._registry = registry
        self._held_claims = held_claims
        self._pool = pool
        self._outbox = outbox
        self._outcome_builder = outcome_builder
        self._waiters = waiters
        self._processor_calls = processor_calls
        self._observers = observers
        self._spawn = spawn

    def cancelled(self, instance: Instance[Any]) -> None:
        """This node cancelled an instance: end its body if it runs here, and call its processors."""
        for observer in self._observers:
            call_listener("cancel", observer.cancelled, instance.kind)
        self.end_body(instance.id)
        self._waiters.ended(instance.id)
        call_listener(f"instance {instance.id}", self._processor_calls.changed, instance, instance.state)

    def end_body(self, id: str) -> None:
        """A user cancelled an instance: end its body, or drop its claim, if this node holds the claim."""
        run = self._held_claims.get(id)
        if run is None or run.ended:
            return
        if run.context is None and self._pool.drop(run):
            run.ended = True
            self._outbox.add(run, self._outcome_builder.released(run))
        else:
            run.cancel("user")

    def reaped(self, reaped: Sequence[Reaped]) -> None:
        """This node took claims back from a dead peer."""
        for observer in self._observers:
            call_listener("reaper", observer.reaped, reaped)
        self._outbox.hint()
        for one in reaped:
            if one.state.is_final:
                self._waiters.ended(one.id)
            job = self._registry.find(one.kind)
            if job is not None and job.policy.on_state_change is not None:
                self._read(one.id, self._processor_calls.changed, one.state)

    def fired(self, fire: Fire, record: FireRecord) -> None:
        """This node, as the leader, recorded a fire."""
        for observer in self._observers:
            call_listener(f"schedule {fire.schedule!r}", observer.fired, fire, record)
        if record.cancelled:
            self.replaced(record.cancelled)

    def made(self, new: NewInstance) -> None:
        """A fire or a trigger of this node made an instance."""
        call_listener(f"instance {new.id}", self._processor_calls.made, new)

    def replaced(self, id: str) -> None:
        """A fire of a schedule cancelled the instance of an earlier fire."""
        self._read(id, self.cancelled)

    def _read(self, id: str, listener: Callable[..., None], *more: object) -> None:
        async def read() -> None:
            with contextlib.suppress(StoreError, LookupError):
                call_listener(f"instance {id}", listener, await self._manager.lookup_instance(id), *more)

        self._spawn(read())
