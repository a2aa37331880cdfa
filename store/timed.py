"""Measures the calls of a store, of any engine, by verb."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence, Sized
from typing import Any, cast

from peerjob.model.clock import Clock
from peerjob.model.record import Enqueued, NewInstance, Record

from .base import Liveness, Store
from .direct import DirectCalls, direct_calls_of
from .durable import Durable
from .limits import Limits

_UNTIMED = ("open", "close", "next_hints", "claim_on_hint")
"""Calls that wait for hints are not measured, since their time says nothing about the server."""
RENEW = "renew"
VERBS = (
    *(
        name
        for part in (Store, Limits, Durable)
        for name, verb in vars(part).items()
        if inspect.iscoroutinefunction(verb) and name not in _UNTIMED
    ),
    RENEW,
)
"""The measured calls: the verbs of a store, and the renewal of the lease."""
Report = Callable[[str, float], None]
"""Gets a verb and the seconds of a call. Renewals are reported in the thread of the lease."""


def timed(store: Store, clock: Clock, report: Report, observers: Sized) -> Store:
    """The same store; each call reports its time, with its retries, whether it succeeds or not.

    While `observers` is empty, calls are not measured.
    """
    return cast("Store", _TimedStore(store, clock, report, observers))


class _Timed:
    """Has the attributes of an object, some of whose methods are measured."""

    def __init__(
        self, target: Store | Liveness, verbs: Sequence[str], clock: Clock, report: Report, observers: Sized
    ) -> None:
        self._target = target
        for verb in verbs:
            setattr(self, verb, _measured(target, verb, clock, report, observers))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)


class _TimedStore(_Timed):
    def __init__(self, store: Store, clock: Clock, report: Report, observers: Sized) -> None:
        super().__init__(store, [verb for verb in VERBS if verb != RENEW], clock, report, observers)
        self._store, self._clock, self._report, self._observers = store, clock, report, observers

    def liveness(self) -> Liveness:
        return cast("Liveness", _Timed(self._store.liveness(), [RENEW], self._clock, self._report, self._observers))

    def direct_calls(self) -> DirectCalls | None:
        direct = direct_calls_of(self._store)
        return None if direct is None else _TimedDirectCalls(direct, self._clock, self._report, self._observers)


class _TimedDirectCalls:
    def __init__(self, target: DirectCalls, clock: Clock, report: Report, observers: Sized) -> None:
        self._target, self._elapsed, self._report, self._observers = target, clock.elapsed, report, observers
        self.retry_for = target.retry_for

    def enqueue(self, instances: Sequence[NewInstance], *, node: str = "") -> list[Enqueued]:
        if not self._observers:
            return self._target.enqueue(instances, node=node)
        began = self._elapsed()
        try:
            return self._target.enqueue(instances, node=node)
        finally:
            self._report("enqueue", self._elapsed() - began)

    def get(self, ids: Sequence[str]) -> list[Record | None]:
        if not self._observers:
            return self._target.get(ids)
        began = self._elapsed()
        try:
            return self._target.get(ids)
        finally:
            self._report("get", self._elapsed() - began)


def _measured(
    target: Store | Liveness, verb: str, clock: Clock, report: Report, observers: Sized
) -> Callable[..., Awaitable[Any]]:
    elapsed = clock.elapsed

    async def measured(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        began = elapsed()
        try:
            return await getattr(target, verb)(*args, **kwargs)
        finally:
            report(verb, elapsed() - began)

    def call(*args: Any, **kwargs: Any) -> Awaitable[Any]:
        if observers:
            return measured(args, kwargs)
        answer: Awaitable[Any] = getattr(target, verb)(*args, **kwargs)
        return answer

    return call
