"""The durable verbs of `Context`: what a body keeps, and what it waits for without a worker."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar, cast, overload

from peerjob.model.durations import Duration, to_micros
from peerjob.model.errors import OptionError
from peerjob.model.signal import Signal, SignalSource

from .durable_run import DurableRun

P = ParamSpec("P")
T = TypeVar("T")


class DurableVerbs:
    """A body that uses these verbs runs again from its top after a crash or a wait; what it has kept answers at once.

    The names of steps, waits and signals identify them: a name can be used once in a run. Code between the steps runs
    again each time, so it must be quick and change nothing outside.
    """

    __slots__ = ()

    def durable_run(self, verb: str) -> DurableRun:
        """The part of the node behind these verbs; for peerjob's own jobs.

        Raises NodeStateError outside of a job, and OptionError for a body in a process.
        """
        raise NotImplementedError

    @overload
    async def step(
        self, name: str, function: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...
    @overload
    async def step(self, name: str, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    async def step(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call a function and keep its result: a later run of this instance gets the result without a call.

        Returns when the store has acknowledged the result. A coroutine function runs on the event loop, another one in
        a thread. An error of the function is not kept: it leaves the step, and a retry calls the function again. The
        result is kept as the result of a job is, and returned as it was kept. If it no longer fits the function, the
        step runs again, under its name with "@2". Raises StepNameError for a name that this run has used,
        StepLimitError, EncodeError for a result that cannot be stored, and OwnershipLost.
        """
        given: object = function
        if not callable(given):
            raise OptionError("function", given, "a function, and its arguments after it")
        return await self.durable_run("step").step(name, function, args, kwargs)

    async def suspend(self, name: str, duration: Duration) -> None:
        """Wait for a time without a worker: the run ends here, and the body runs again from its top after the time.

        The time counts from the first call under this name; a crash or a retry does not extend it. The wait is no
        attempt. It raises `Suspended`, which the body must not catch.
        """
        await self.durable_run("suspend").suspend(name, to_micros(duration, "duration"))

    async def wait_for(self, signal: SignalSource[T], *, timeout: Duration | None = None) -> T:
        """Return the value of a signal. Without it, wait without a worker until it comes, as `suspend` waits.

        Raises SignalTimeout after `timeout`, which counts from the first call; by default, there is none.
        """
        given: object = signal
        if not isinstance(given, Signal):
            raise OptionError("signal", given, "a Signal")
        timeout_us = None if timeout is None else to_micros(timeout, "timeout")
        return cast("T", await self.durable_run("wait_for").wait_for(signal, timeout_us))
