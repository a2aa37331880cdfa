"""Parameters that the node supplies: the marker, resources, and the present run."""

from __future__ import annotations

import contextvars
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, ClassVar, Literal, Protocol, TypeVar, overload

from .errors import OptionError

T = TypeVar("T")
Injection = Literal[
    "context", "manager", "worker", "instance", "blocking manager", "blocking instance", "blocking context"
]
"""Kinds of values that a node can supply for an annotated parameter. The "manager" is the node itself."""


class Injectable:
    """Base of each class that a node supplies by annotation.

    Each direct subclass names its kind. So the analysis of signatures does not import these classes.
    """

    __slots__ = ()

    injected_as: ClassVar[Injection]

    @classmethod
    def detached_value(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make the value for a function that is called with these arguments outside of a job; None if there is none."""
        return None


def detached_value(injection: Injection, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`Injectable.detached_value` of the class that has this kind."""
    return next(
        injectable.detached_value(args, kwargs)
        for injectable in Injectable.__subclasses__()
        if injectable.injected_as == injection
    )


class _Injected:
    """The single marker for a parameter that the node supplies."""

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
"""Default of a parameter whose value the node supplies. The annotation of the parameter selects the value."""
PLACEHOLDER: Any = INJECTED
"""Argument that leaves its position to the node: `schedule(job, PLACEHOLDER, 5)`. The text "?" does the same."""


class Resource:
    """The default that `Depends` returns: the factory of a value, and the lifetime of the value."""

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
    """Declare a parameter whose value a factory makes: a function, coroutine function or (async) context manager.

    `scope="attempt"`: one value per run, closed after the run. `scope="node"`: one value per node, closed at its stop.
    Raises OptionError.
    """
    if not callable(factory):
        raise OptionError("Depends", factory, "a callable")
    if scope not in ("attempt", "node"):
        raise OptionError("scope", scope, "'attempt' or 'node'")
    return Resource(factory, scope)


class CurrentRun(Protocol):
    """The part of `Context` that modules below it use."""

    id: str
    kind: str
    attempt: int

    @property
    def detached(self) -> bool: ...
    @property
    def manager(self) -> Any: ...
    @property
    def worker(self) -> Any: ...
    @property
    def instance(self) -> Any: ...
    def serves(self, backend: Any, /) -> bool: ...
    def log_line(self, level: int, message: str, fields: dict[str, object] | None = None) -> bool: ...


current_run: contextvars.ContextVar[CurrentRun | None] = contextvars.ContextVar("peerjob_run", default=None)
"""The run to which the present code belongs. The executor sets this variable, also in the threads of sync bodies."""
