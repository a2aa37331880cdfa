"""Steps of a body in a thread, and the verbs of a context that no node serves."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from peerjob.model.errors import NodeStateError
from peerjob.model.signature import analyse

from .blocking_calls import BlockingCalls
from .context import Context
from .durable_run import StepSlot, inside_step
from .manager import Manager

T = TypeVar("T")


def run_step(
    calls: BlockingCalls,
    context: Context,
    name: str,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """`Context.step` for a body in a thread: another function than a coroutine function runs in the same thread.

    A thread of its own could wait for ever: the threads of a node are as many as its workers.
    """
    given: object = function
    if not callable(given) or analyse(function).is_async:
        return calls.call_long(context.step(name, function, *args, **kwargs))
    slot = calls.call_long(_entered(context, name, function))
    if slot.is_stored:
        return slot.value
    token = inside_step.set(name)
    try:
        value = function(*args, **kwargs)
        if inspect.isawaitable(value):
            value = calls.call_long(_awaited(value))
    except BaseException:
        calls.call(_left(context, slot))
        raise
    finally:
        inside_step.reset(token)
    return calls.call_long(_kept(context, slot, value))


def gather_children(calls: BlockingCalls, context: Context, children: tuple[Any, ...]) -> tuple[Any, ...]:
    """`Context.gather` for the children of a body in a thread."""
    inner: list[Any] = [getattr(child, "child", child) for child in children]
    gathered: tuple[Any, ...] = calls.call_long(context.gather(*inner))
    return gathered


async def _entered(context: Context, name: str, function: Callable[..., Any]) -> StepSlot:
    return await context.durable_run("step").enter_step(name, function)


async def _kept(context: Context, slot: StepSlot, value: Any) -> Any:
    return await context.durable_run("step").keep_step(slot, value)


async def _left(context: Context, slot: StepSlot) -> None:
    context.durable_run("step").leave_step(slot)


async def _awaited(work: Any) -> Any:
    return await work


class DetachedCalls(BlockingCalls):
    """The calls of a context that no node serves: its verbs end at once."""

    @property
    def manager(self) -> Manager:
        raise NodeStateError("no node runs this direct call")

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            work.send(None)
        except StopIteration as ended:
            result: T = ended.value
            return result
        finally:
            work.close()
        raise NodeStateError("no node runs this direct call")
