"""The verbs of `Context` for children: instances that a body starts, and whose ends it waits for without a worker."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar, cast, overload

from peerjob.model.call_list import CallList
from peerjob.model.errors import OptionError
from peerjob.model.job import Call

from .child import Child, result_of
from .durable_run import DurableRun

R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")


class ChildVerbs:
    """Children have names, as steps do: a later run of the body finds the children of an earlier run by them."""

    __slots__ = ()

    def durable_run(self, verb: str) -> DurableRun:
        raise NotImplementedError

    async def start(self, name: str, call: Call[R]) -> Child[R]:
        """Start a child, such as `invoice.call(7)`, on any node. It runs while this body goes on; await it later.

        Returns when the store has the child. A later run of the body gets the same child. Raises OptionError for a call
        with a `key` or a time, StepNameError for a name that this run has used, and the errors of `schedule`.
        """
        run = self.durable_run("start")
        (id,) = await run.start([name], CallList([_checked(call)]))
        return Child(run, name, id, call.job)

    async def call(self, name: str, call: Call[R]) -> R:
        """Start a child, wait for it without a worker, and return its result; raises ChildFailed."""
        return await (await self.start(name, call))

    async def map(self, name: str, calls: Iterable[Call[R]]) -> list[R]:
        """Start a child for each call, under the names `name/0`, `name/1` and so on, and return all results.

        Raises ChildFailed for the first child that did not complete, when all are over.
        """
        if not isinstance(cast("object", calls), Iterable):
            raise OptionError("calls", calls, "calls, such as [pack.call(1), pack.call(2)]")
        run, made = self.durable_run("map"), CallList(map(_checked, calls))
        names = [f"{name}/{number}" for number in range(len(made))]
        ids = await run.start(names, made)
        records = await run.over(ids)
        # no tuple and no Child for each of many children: Python's collector would go through all objects again
        return [
            result_of(run, child, id, job, record)
            for child, id, job, record in zip(names, ids, made.jobs, records, strict=True)
        ]

    @overload
    async def gather(self, a: Child[A], /) -> tuple[A]: ...
    @overload
    async def gather(self, a: Child[A], b: Child[B], /) -> tuple[A, B]: ...
    @overload
    async def gather(self, a: Child[A], b: Child[B], c: Child[C], /) -> tuple[A, B, C]: ...
    @overload
    async def gather(self, a: Child[A], b: Child[B], c: Child[C], d: Child[D], /) -> tuple[A, B, C, D]: ...
    @overload
    async def gather(
        self, a: Child[A], b: Child[B], c: Child[C], d: Child[D], e: Child[E], /
    ) -> tuple[A, B, C, D, E]: ...
    @overload
    async def gather(self, *children: Child[R]) -> tuple[R, ...]: ...
    async def gather(self, *children: Child[Any]) -> tuple[Any, ...]:
        """Wait for several children at once, without a worker, and return their results.

        Raises ChildFailed for the first child that did not complete, when all are over.
        """
        for child in children:
            if not isinstance(cast("object", child), Child):
                raise OptionError("children", child, "a Child, which start() returns")
        records = await self.durable_run("gather").over([child.id for child in children])
        return tuple(child.result_of(record) for child, record in zip(children, records, strict=True))


def _checked(call: Call[R]) -> Call[R]:
    if not isinstance(cast("object", call), Call):
        raise OptionError("call", call, "a call, such as job.call(7)")
    return call
