"""Values of wrong types, and whether an annotation allows them: for tests of what arguments a call refuses."""

import collections.abc
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar, Union

from typing_extensions import get_protocol_members

ODD: tuple[Any, ...] = (
    *(None, True, 5, -1, 10**30, 10**5_000, 0.5, -1.5, math.nan, math.inf, 1j),
    *("", "x", "\x00", "\ud800", "x" * 1_000_000, b"x"),
    *(object(), int, len, [], [5], [None], [object()], {}, {"x": 5}, (), ("x",)),
)


def allowed(value: Any, annotation: Any) -> bool:
    """Whether an annotation allows a value; what cannot be seen from outside, such as the type of a result, is."""
    if annotation is Any or annotation is object or isinstance(annotation, TypeVar):
        return True
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return allowed(value, args[0])
    if origin in (Union, types.UnionType):
        return any(allowed(value, one) for one in args)
    if origin is Literal:
        return any(value is one or (isinstance(value, str) and value == one) for one in args)
    if origin is collections.abc.Callable or annotation is Callable:
        return callable(value)
    if origin is tuple:
        return isinstance(value, tuple) and all(allowed(one, args[0]) for one in value)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(allowed(one, args[1]) for one in value.values())
    if origin is not None and isinstance(origin, type) and issubclass(origin, Iterable):
        # a text is a list of texts for a type checker, and a mistake of the caller
        is_list = isinstance(value, origin) and not isinstance(value, str | bytes | dict)
        return is_list and all(allowed(one, args[0]) for one in value)
    return _is_of(value, annotation if origin is None else origin)


def _is_of(value: Any, kind: Any) -> bool:
    if kind is None or kind is type(None):
        return value is None
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if getattr(kind, "_is_protocol", False):
        return all(hasattr(value, name) for name in get_protocol_members(kind)) if value is not None else False
    return not isinstance(kind, type) or isinstance(value, kind)


def out_of_bounds(value: Any, annotation: Any) -> bool:
    """Whether a number is beyond what any count, size or duration of the product allows."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and annotation is not Any and not abs(value) < 10**20


def parameters_of(call: Callable[..., Any], names: Mapping[str, Any]) -> dict[str, Any]:
    """The annotations of the parameters of a function or class, without `*args` and `**kwargs`."""
    of = call.__init__ if isinstance(call, type) and "__init__" in vars(call) else call  # type: ignore[misc]
    hints = typing.get_type_hints(of, localns=dict(names), include_extras=True)
    return {
        one.name: hints.get(one.name, Any)
        for one in inspect.signature(call).parameters.values()
        if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    }
