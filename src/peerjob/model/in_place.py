"""Calling a job's function here and now, as the ordinary function that it still is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any

from .errors import NodeStateError
from .injected import CurrentRun, current_run, detached_value
from .policy import FinishedResult
from .signature import Parameter, analyse


def call_in_place(executor: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call an executor as an ordinary function, with the running job's injected values in the open places.

    Outside a job a Context, Instance or Worker is a detached one. Raises NodeStateError for a node, or for a
    resource, that nobody passed and that cannot be None.
    """
    result = _call(executor, args, kwargs)
    return result if current_run.get() is None else _plain(result)


def _plain(result: Any) -> Any:
    """The result without its `Finished`, which is meant for a node and not for another job that calls this one."""
    if inspect.iscoroutine(result):
        return _plain_later(result)
    return result.result if isinstance(result, FinishedResult) else result


async def _plain_later(work: Coroutine[Any, Any, Any]) -> Any:
    return _plain(await work)


def _call(executor: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    signature = analyse(executor)
    if not signature.supplied:
        return executor(*args, **kwargs)
    readings = [signature.place(args), signature.place(args, text_placeholders=False), list(args)]
    placed = next((one for one in readings if not signature.misfits(one, kwargs)), readings[-1])

    def supply(parameter: Parameter) -> Any:
        return _in_place(parameter, args, kwargs)

    filled_args, filled_kwargs = signature.fill(placed, kwargs, supply)
    return executor(*filled_args, **filled_kwargs)


def _in_place(parameter: Parameter, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if parameter.injected is None:
        raise NodeStateError(f"{parameter.name} is made by {parameter.resource!r} for a job; pass it yourself here")
    run = current_run.get()
    value = None if run is None else injected_value(parameter, run)
    if value is not None or (parameter.optional and parameter.injected != "context"):
        return value
    value = detached_value(parameter.injected, args, kwargs)
    if value is None:
        raise NodeStateError(f"{parameter.name} is the node that runs the job, and none does; pass it yourself here")
    return value


def injected_value(parameter: Parameter, run: CurrentRun) -> Any:
    """The value that a run has for an injected parameter; None for the blocking kinds, which need the node's loop."""
    match parameter.injected:
        case "context":
            return run
        case "manager":
            return run.manager
        case "worker":
            return run.worker
        case "instance":
            return run.instance
        case _:
            return None
