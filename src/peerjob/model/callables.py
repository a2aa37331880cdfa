"""Finds the function behind any callable, and its kind."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any, cast


class ExecutorHolder:
    """Base of `Job`: an object whose signature is that of its executor."""

    __slots__ = ()

    executor: Callable[..., Any] | None


def has_code(executor: Any, test: Callable[[Any], bool]) -> bool:
    """Whether a test of `inspect` is true for a callable, or for the `__call__` of an object."""
    executor = unpartial(executor)
    if test(executor):
        return True
    return not isinstance(executor, type) and test(call_of(executor))


def call_of(executor: object) -> Any:
    """The `__call__` method of an object."""
    return getattr(type(executor), "__call__", executor)  # noqa: B004  # callable() does not return the method


def unpartial(executor: Any) -> Any:
    """The callable below any partials."""
    while isinstance(executor, functools.partial):
        executor = cast(Any, executor).func
    return executor


def mark_coroutine_function(attributes: dict[str, Any], executor: Callable[..., Any]) -> None:
    """Mark an object, by its attributes, as a coroutine function if its executor is a coroutine function.

    Frameworks check with `inspect.iscoroutinefunction`, which knows the mark since Python 3.12, or with asyncio's.
    """
    if not has_code(executor, inspect.iscoroutinefunction):
        return
    if sys.version_info >= (3, 12):
        attributes.update(vars(inspect.markcoroutinefunction(lambda: None)))
    else:
        attributes["_is_coroutine"] = cast(Any, asyncio.coroutines)._is_coroutine
