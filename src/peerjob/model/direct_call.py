"""Calls the function of a job directly, like an ordinary function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any

from .errors import NodeStateError
from .injected import CurrentRun, current_run, detached_value
from .policy import FinishedResult
from .signature import Parameter, analyse


def call_directly(executor: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call an executor like an ordinary function, and supply injected parameters from the running job.

    Outside of a job, a Context, Instance or Worker is detached. Raises NodeStateError for a node or a resource that was
    not passed and that cannot be None.
    """
    result = _call(executor, args, kwargs)
    return result if current_run.get() is None else _unwrap(result)


def _unwrap(result: Any) -> Any:
    """Unwrap a `Finished` result.

    The mark is for the node that runs the job, not for another job that calls the job.
    """
    if inspect.iscoroutine(result):
        return _unwrap_later(result)
    return result.result if isinstance(result, FinishedResult) else result


async def _unwrap_later(work: Coroutine[Any, Any, Any]) -> Any:
    return _unwrap(await work)


def _call(executor: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    signature = analyse(executor)
    if not signature.supplied:
        return executor(*args, **kwargs)
    alignments = [signature.align(args), signature.align(args, text_placeholders=False), list(args)]
    aligned = next((alignment for alignment in alignments if not signature.misfits(alignment, kwargs)), alignments[-1])

    def supply(parameter: Parameter) -> Any:
        return _detached(parameter, args, kwargs)

    filled_args, filled_kwargs = signature.fill(aligned, kwargs, supply)
    return executor(*filled_args, **filled_kwargs)


def _detached(parameter: Parameter, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if parameter.injected is None:
        raise NodeStateError(
            f"{parameter.name}: only a node makes {parameter.resource!r}; pass a value to a direct call"
        )
    run = current_run.get()
    value = None if run is None else injected_value(parameter, run)
    if value is not None or (parameter.optional and parameter.injected != "context"):
        return value
    value = detached_value(parameter.injected, args, kwargs)
    if value is None:
        raise NodeStateError(f"{parameter.name}: no node runs this direct call; pass a value")
    return value


def injected_value(parameter: Parameter, run: CurrentRun) -> Any:
    """The run's value for an injected parameter; None for the blocking kinds, which need the node's loop."""
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
