"""Calling a job's function here and now, as the ordinary function that it still is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any

from peerjob.model.errors import EncodeError, NodeStateError
from peerjob.model.injected import current_run
from peerjob.model.policy import FinishedResult
from peerjob.model.record import Record
from peerjob.model.spec import Spec, encode, encode_arguments
from peerjob.model.state import State
from peerjob.model.worker import Worker

from .context import Context
from .instance import Instance
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
    run = current_run.get()
    if parameter.resource is not None:
        raise NodeStateError(f"{parameter.name} is made by {parameter.resource!r} for a job; pass it yourself here")
    if parameter.injected == "context":
        return run or Context()
    value = injected_value(parameter, run) if run is not None else None
    if value is not None or parameter.optional:
        return value
    if parameter.injected == "worker":
        return Worker(number=0, node="")
    if parameter.injected == "instance":
        return _detached_instance(args, kwargs)
    raise NodeStateError(f"{parameter.name} is the node that runs the job, and none does; pass it yourself here")


def injected_value(parameter: Parameter, context: Context) -> Any:
    """What a run has for an injected parameter; None for the blocking twins, which belong to a node's loop."""
    match parameter.injected:
        case "context":
            return context
        case "manager":
            return context.manager
        case "worker":
            return context.worker
        case "instance":
            return context.instance
        case _:
            return None


def _detached_instance(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Instance[Any]:
    try:
        stored = encode_arguments(args, kwargs)
    except EncodeError:  # an ordinary call may pass anything
        stored = encode_arguments((), {})
    record = Record(
        id="00000000-0000-7000-8000-000000000000",
        kind="",
        state=State.PROCESSING,
        spec=encode(Spec(args=stored)),
        priority=0,
        due_us=0,
        attempts=1,
        crashes=0,
        losses=0,
        fence=0,
        owner="",
        history=(),
    )
    return Instance(None, record)
