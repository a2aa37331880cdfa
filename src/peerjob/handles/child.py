"""`Child`: an instance that a body has started, and waits for without a worker."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Generic, cast

from typing_extensions import TypeVar

from peerjob.model.durable_errors import ChildFailed
from peerjob.model.ended import Ended
from peerjob.model.job import Job
from peerjob.model.record import Record
from peerjob.model.spec import decode_error
from peerjob.model.state import State

from .durable_run import DurableRun

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True, default=Any)


class Child(Generic[R_co]):
    """An instance that `Context.start` made. Await it for its result, or its `ended()` for its end as a value.

    Until its end, each of both ends the run of the body, which runs again from its top. When the body ends, what is
    left of its children is cancelled.
    """

    __slots__ = ("_job", "_run", "id", "name")

    def __init__(self, run: DurableRun, name: str, id: str, job: Job[..., R_co, Any]) -> None:
        self._run = run
        self._job = job
        self.name = name
        """The name that the body gave it."""
        self.id = id
        """The id of the instance."""

    def __repr__(self) -> str:
        return f"<Child {self.name!r} {self.id}>"

    def __await__(self) -> Generator[Any, None, R_co]:
        return self.result().__await__()

    async def result(self) -> R_co:
        """Wait until the child is over, and return its result; raises ChildFailed if it did not complete."""
        (record,) = await self._run.over([self.id])
        return self.result_of(record)

    async def ended(self) -> Ended[R_co]:
        """Wait until the child is over, and return how it ended."""
        (record,) = await self._run.over([self.id])
        if record is None:
            return Ended(state=State.CANCELLED)
        if record.state is State.COMPLETED:
            return Ended(state=record.state, result=self.result_of(record))
        return Ended(state=record.state, error=None if record.error is None else decode_error(record.error))

    def result_of(self, record: Record | None) -> R_co:
        """The result in the record of this child, which is over; raises ChildFailed if it did not complete."""
        return result_of(self._run, self.name, self.id, self._job, record)


def result_of(run: DurableRun, name: str, id: str, job: Job[..., R, Any], record: Record | None) -> R:
    """See `Child.result_of`; for a child without an object."""
    if record is None:
        raise ChildFailed(id, name, "is gone")
    if record.state is not State.COMPLETED:
        error = None if record.error is None else decode_error(record.error)
        raise ChildFailed(id, name, f"ended {record.state}", error)
    return cast("R", run.read_result(record, job))
