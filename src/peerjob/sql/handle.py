"""The handle of an instance that an outbox will make."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Generic, TypeVar, overload
from uuid import UUID

from peerjob.handles.blocking_calls import BlockingCalls
from peerjob.handles.blocking_handles import BlockingInstance
from peerjob.handles.instance import Instance
from peerjob.handles.manager import Manager
from peerjob.model.durations import Duration, to_seconds
from peerjob.model.errors import RowRefusedError, UnknownInstanceError
from peerjob.model.job import Job

R = TypeVar("R")

ARRIVAL = 30.0
"""Default seconds that a handle waits until a relay has made the instance."""
_FIRST_LOOK, _LAST_LOOK = 0.01, 1.0


class ScheduledRow(Generic[R]):
    """A run that waits in an outbox. Its instance exists once the transaction has committed and a relay has sent it.

    If the store has another instance with the key of the row when a relay sends it, this id has no instance.
    """

    __slots__ = ("_job", "_key", "id")

    def __init__(self, id: str, job: Job[..., Any, Any], key: str | None = None) -> None:
        self._job = job
        self._key = key
        self.id = id
        """The UUIDv7 as text, which the instance will have."""

    def __repr__(self) -> str:
        return f"<ScheduledRow {self.id} of {self.kind!r}>"

    @property
    def uuid(self) -> UUID:
        """The UUIDv7."""
        return UUID(self.id)

    @property
    def kind(self) -> str:
        """The kind of the job."""
        return self._job.kind

    @overload
    def instance(self, manager: BlockingCalls, *, arrival: Duration = ...) -> BlockingInstance[R]: ...
    @overload
    def instance(self, manager: Manager, *, arrival: Duration = ...) -> Coroutine[Any, Any, Instance[R]]: ...
    def instance(
        self, manager: Manager | BlockingCalls, *, arrival: Duration = ARRIVAL
    ) -> BlockingInstance[R] | Coroutine[Any, Any, Instance[R]]:
        """The instance, once it exists: a coroutine for a Node or a Client, the instance for a BlockingManager.

        Raises UnknownInstanceError if it does not exist after `arrival`: the transaction was rolled back or is still
        open, no relay runs, or retention has removed the instance. RowRefusedError tells at once that the row cannot be
        sent, if this node has a relay of the table.
        """
        seconds = to_seconds(arrival, "arrival")
        if isinstance(manager, BlockingCalls):
            return BlockingInstance(manager, manager.call_long(self._instance(manager.manager, seconds)))
        return self._instance(manager, seconds)

    @overload
    def result(self, manager: BlockingCalls, timeout: Duration | None = None) -> R: ...
    @overload
    def result(self, manager: Manager, timeout: Duration | None = None) -> Coroutine[Any, Any, R]: ...
    def result(self, manager: Manager | BlockingCalls, timeout: Duration | None = None) -> R | Coroutine[Any, Any, R]:
        """Wait until the instance exists and is final, and return its result: `Instance.result` has the errors.

        Raises TimeoutError after `timeout`, and UnknownInstanceError if the instance does not exist after 30 s. See
        `instance` for RowRefusedError.
        """
        seconds = None if timeout is None else to_seconds(timeout, "timeout")
        if isinstance(manager, BlockingCalls):
            return manager.call_long(self._result(manager.manager, seconds))
        return self._result(manager, seconds)

    async def _result(self, manager: Manager, seconds: float | None) -> R:
        try:
            async with asyncio.timeout(seconds):
                instance = await self._instance(manager, ARRIVAL)
                return await instance.result()
        except TimeoutError as error:
            if type(error) is not TimeoutError:
                raise  # JobTimedOut
            raise TimeoutError(f"instance {self.id} is not final after {seconds:g} s") from None

    async def _instance(self, manager: Manager, arrival: float) -> Instance[R]:
        until = manager.clock.elapsed() + arrival
        pause = _FIRST_LOOK
        while True:
            try:
                stored = await manager.lookup_instance(self.id)
            except RowRefusedError:
                raise
            except UnknownInstanceError as error:
                if manager.clock.elapsed() >= until:
                    raise UnknownInstanceError(self.id, self._why_unknown()) from error
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LAST_LOOK)
            else:
                return Instance(manager, stored.record, job=self._job)

    def _why_unknown(self) -> str:
        reasons = ["rolled back or not committed", "not sent by a relay yet", "removed by retention"]
        if self._key is not None:
            reasons.append(f"another instance had the key {self._key!r}")
        return ", or ".join((", ".join(reasons[:-1]), reasons[-1]))
