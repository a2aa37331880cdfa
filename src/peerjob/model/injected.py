"""Parameters that the node supplies: the marker, resources, and the run that is going on."""

from __future__ import annotations

import contextvars
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

if TYPE_CHECKING:
    from peerjob.handles.context import Context

T = TypeVar("T")


class _Injected:
    """The one marker for a parameter that the node fills in."""

    _instance: _Injected | None = None

    def __new__(cls) -> _Injected:
        if cls._instance is None:
            cls._instance = super().__new__(cls)
        return cls._instance

    def __repr__(self) -> str:
        return "INJECTED"

    def __reduce__(self) -> str:
        return "INJECTED"

    def __bool__(self) -> Literal[False]:
        return False


INJECTED: Any = _Injected()
"""Default of a parameter that the node supplies by its annotation."""
PLACEHOLDER: Any = INJECTED
"""The same, in the place of an argument: `schedule(job, PLACEHOLDER, 5)`; "?" works too where text is not wanted."""


class Resource:
    """What `Depends` leaves as a default: how to make a value, and how long it lives."""

    __slots__ = ("factory", "scope")

    def __init__(self, factory: Callable[..., Any], scope: Literal["attempt", "node"]) -> None:
        self.factory = factory
        self.scope = scope

    def __repr__(self) -> str:
        return f"Depends({getattr(self.factory, '__qualname__', self.factory)!s}, scope={self.scope!r})"


@overload
def Depends(
    factory: Callable[..., AbstractAsyncContextManager[T] | AbstractContextManager[T]],
    *,
    scope: Literal["attempt", "node"] = ...,
) -> T: ...
@overload
def Depends(
    factory: Callable[..., AsyncGenerator[T, Any] | Generator[T, Any, Any]],
    *,
    scope: Literal["attempt", "node"] = ...,
) -> T: ...
@overload
def Depends(factory: Callable[..., Awaitable[T]], *, scope: Literal["attempt", "node"] = ...) -> T: ...
@overload
def Depends(factory: Callable[..., T], *, scope: Literal["attempt", "node"] = ...) -> T: ...
def Depends(factory: Callable[..., Any], *, scope: Literal["attempt", "node"] = "attempt") -> Any:  # noqa: N802
    """Default of a parameter that a factory makes: a function, coroutine function or (async) context manager.

    `scope="attempt"` makes one per run and closes it after, "node" one per node, closed when it stops.
    """
    from .errors import OptionError

    if not callable(factory):
        raise OptionError("Depends", factory, "a callable")
    if scope not in ("attempt", "node"):
        raise OptionError("scope", scope, "'attempt' or 'node'")
    return Resource(factory, scope)


current_run: contextvars.ContextVar[Context | None] = contextvars.ContextVar("peerjob_run", default=None)
"""The run that the present code belongs to; set by the executor, in threads too."""


def fill_in_place(executor: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call an executor here, with the running job's injected values, or detached ones, in the open places."""
    from peerjob.handles.in_place import call_in_place

    return call_in_place(executor, args, kwargs)
