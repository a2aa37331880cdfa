"""How a blocking verb waits for the coroutine behind it: the base of the generated verbs in `blocking`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, ClassVar, TypeVar, cast
from uuid import UUID

from peerjob.model.durations import Duration
from peerjob.model.injected import Injectable, Injection
from peerjob.model.job import Job
from peerjob.model.query import Query, ResultPage

from .instance import Instance
from .manager import Manager

T = TypeVar("T")


class BlockingCalls(Injectable, ABC):
    """Runs verbs of a `Manager` on its event loop, and waits for the answers."""

    injected_as: ClassVar[Injection] = "blocking manager"

    @abstractmethod
    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the manager to its end; raises RuntimeError on a thread that runs an event loop."""

    def call_long(self, work: Coroutine[Any, Any, T]) -> T:
        """Like `call`, for work that waits for other jobs; inside a job, a cancellation of that job ends it."""
        return self.call(work)

    def store(self, job: Any, args: tuple[Any, ...], kwargs: dict[str, Any], id: str | None = None) -> Instance[Any]:
        """Store one run of a job, under the id of the caller if there is one."""
        stored = self.direct_manager.schedule_directly(job, args, kwargs, id)
        return stored if isinstance(stored, Instance) else self.call(stored)

    def store_for_id(self, call: Any) -> str:
        """Store one run of a job, and return only its id, which takes less time."""
        stored = self.direct_manager.store_directly(call)
        return stored if isinstance(stored, str) else self.call(stored).id

    def find(self, uuid: str | UUID, job: Job[..., Any, Any] | None) -> Instance[Any]:
        """Read one instance."""
        manager = self.direct_manager
        instance = manager.lookup_directly(uuid, job)
        return self.call(cast("Any", manager).lookup_instance(uuid, job)) if instance is None else instance

    def refresh(self, instance: Instance[Any]) -> None:
        """Read an instance again."""
        _ = self.direct_manager
        if not instance.refresh_directly():
            self.call(instance.refresh())

    def wait_final(self, instance: Instance[Any], timeout: Duration | None) -> None:
        """Wait until an instance is final, and read it again. For one that is final, this is one read."""
        _ = self.direct_manager
        if not (instance.refresh_directly() and instance.state.is_final):
            self.call_long(instance.wait(timeout))

    def result(self, instance: Instance[T], timeout: Duration | None) -> T:
        """Wait until an instance is final, and return its result."""
        _ = self.direct_manager
        if not instance.state.is_final:
            self.wait_final(instance, timeout)
        return instance.outcome()

    def call_on_loop(self, act: Callable[[Manager], T]) -> T:
        """Call a function on the loop of the manager."""
        manager = self.manager

        async def run() -> T:
            return act(manager)

        return self.call(run())

    def read_pages(self, query: Query | None) -> Iterator[ResultPage[Instance[Any]]]:
        """Yield the pages of instances that match, one call each."""
        query = query or Query()
        while True:
            page = self.call(self.manager.lookup_instances(query))
            yield page
            if page.cursor is None:
                return
            query = query.at(page.cursor)

    def read_stream(self, open_stream: Callable[[Manager], AsyncIterator[T]]) -> Iterator[T]:
        """Yield the items of an asynchronous stream, one call each, and close the stream at the end."""
        stream: Any = open_stream(self.manager)
        try:
            while (item := self.call_long(_next(stream))) is not None:
                yield item
        finally:
            self.call(_close(stream))

    @property
    def direct_manager(self) -> Manager:
        """The manager, for a call of this thread; raises RuntimeError on a thread that runs an event loop."""
        return self.manager

    @property
    @abstractmethod
    def manager(self) -> Manager:
        """The manager behind this one, started."""


async def _next(stream: AsyncIterator[T]) -> T | None:
    """Return the next item, or None at the end: a coroutine cannot raise StopAsyncIteration to a blocking caller."""
    return await anext(stream, None)


async def _close(stream: Any) -> None:
    await stream.aclose()
