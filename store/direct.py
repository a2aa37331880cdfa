"""Commands that a thread without an event loop runs to their end by itself."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, Protocol, TypeVar, cast

from peerjob.model.record import Enqueued, NewInstance, Record

T = TypeVar("T")


class DirectCalls(Protocol):
    """Commands on connections of their own, for any number of threads; each blocks its thread.

    A call means what the command of the same name means in `Store`. It makes one attempt. After StoreUnavailableError,
    the caller repeats it on the event loop, which has the retries: an enqueue is idempotent by the ids. If the attempt
    took longer than `retry_for` seconds, the caller raises that error instead.
    """

    @property
    def retry_for(self) -> float: ...
    def enqueue(self, instances: Sequence[NewInstance], *, node: str = "") -> list[Enqueued]: ...
    def get(self, ids: Sequence[str]) -> list[Record | None]: ...


class HasDirectCalls(Protocol):
    """What a `Store` has besides, if threads without an event loop need not go through one."""

    def direct_calls(self) -> DirectCalls | None:
        """The calls, which work while the store is open; None if this URL has none."""
        ...


def direct_calls_of(store: object) -> DirectCalls | None:
    """The calls of a store; None if it has none, as many stores of third parties."""
    make = getattr(store, "direct_calls", None)
    return None if make is None else cast("HasDirectCalls", store).direct_calls()


def run_unsuspended(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that awaits nothing which suspends it; raises RuntimeError if it suspends."""
    try:
        work.send(None)
    except StopIteration as end:
        answer: T = end.value
        return answer
    work.close()
    raise RuntimeError("a call without an event loop was suspended")
