"""`CallList`: the calls of many children, held in few objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

from .job import Call, Job

R = TypeVar("R")


class CallList(Generic[R]):
    """Calls whose arguments stand in one list; each iteration makes the calls anew.

    Three objects for each of 10,000 calls would let Python's collector go through all objects of the process.
    """

    __slots__ = ("_args", "_ends", "_kwargs", "jobs")

    def __init__(self, calls: Iterable[Call[R]]) -> None:
        self.jobs: list[Job[..., R, Any]] = []
        """The job of each call."""
        self._args: list[Any] = []
        self._ends: list[int] = []
        """Where the arguments of each call end."""
        self._kwargs: dict[int, dict[str, Any]] = {}
        """By the number of a call: its named arguments, if it has any."""
        for call in calls:
            if call.kwargs:
                self._kwargs[len(self.jobs)] = call.kwargs
            self.jobs.append(call.job)
            self._args += call.args
            self._ends.append(len(self._args))

    def __len__(self) -> int:
        return len(self.jobs)

    def __iter__(self) -> Iterator[Call[R]]:
        begin = 0
        for number, (job, end) in enumerate(zip(self.jobs, self._ends, strict=True)):
            yield Call(job, tuple(self._args[begin:end]), self._kwargs.get(number, {}))
            begin = end
