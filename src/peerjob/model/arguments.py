"""Checks the arguments of public constructors by their annotations.

A check that is written for each parameter by hand is forgotten for some, and the value then fails deep inside, or much
later. Types come from the annotations here; bounds of numbers are still written where the number is used.
"""

from __future__ import annotations

import builtins
import functools
import inspect
import math
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, cast

import msgspec
from typing_extensions import get_protocol_members, is_protocol

from .durations import Duration
from .errors import OptionError
from .limits import MAX_NUMBER
from .printable import with_article

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_WORDS: dict[Any, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    bytes: "bytes",
    type(None): "None",
    datetime: "a datetime",
    timedelta: "a timedelta",
    Path: "a Path",
    Sequence: "a list",
}


class _Check(NamedTuple):
    fits: Callable[[Any], bool]
    expected: str
    methods: Sequence[str] = ()
    """The methods of a protocol, which an error names if a value has only some of them."""


def typed(call: F, /) -> F:
    """Refuse arguments of other types than the annotations of a function name, with OptionError.

    A `Duration` and `Any` are not checked: a Duration has its own check, `to_seconds`.
    """
    return cast(F, _typed(call, frozenset()))


def typed_except_secrets(*names: str) -> Callable[[F], F]:
    """Like `typed`, for a function with parameters whose value no error may show."""

    def decorate(call: F, /) -> F:
        return cast(F, _typed(call, frozenset(names)))

    return decorate


def _typed(call: Callable[..., Any], secrets: frozenset[str], contract: Any = None) -> Callable[..., Any]:
    positional = [
        parameter.name
        for parameter in inspect.signature(call).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]

    def check(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # not earlier: an annotation can name a class that is defined later
        checks = _checks(call) if contract is None else _checks(contract, numbers=False)
        for name, value in (*zip(positional, args, strict=False), *kwargs.items()):
            _check(checks, name, value, secrets)

    @functools.wraps(call)
    async def checked_coroutine(*args: Any, **kwargs: Any) -> Any:
        check(args, kwargs)
        return await call(*args, **kwargs)

    @functools.wraps(call)
    def checked(*args: Any, **kwargs: Any) -> Any:
        check(args, kwargs)
        return call(*args, **kwargs)

    return checked_coroutine if inspect.iscoroutinefunction(call) else checked


def type_verbs(contract: type[Any], kind: type[Any]) -> None:
    """Wrap the methods of a class that implement public methods of its contract: as if each were `typed`.

    The annotations are those of the contract. Numbers are not checked here: each has its bounds, in the method.
    """
    for name, declared in vars(contract).items():
        call = vars(kind).get(name)
        if inspect.isfunction(declared) and inspect.isfunction(call) and not name.startswith("_"):
            setattr(kind, name, _typed(call, frozenset(), contract=declared))


def check_fields(instance: object, kind: type[Any], *, secrets: Iterable[str] = ()) -> None:
    """Refuse wrong types in the fields of a dataclass, with OptionError; call it in `__post_init__`.

    Only the fields of `kind` are checked. A subclass can set its own fields later, and its module can give the names in
    the annotations another meaning.
    """
    checks = _checks(cast(Any, kind))
    for name in checks:
        _check(checks, name, getattr(instance, name), frozenset(secrets))


def whole_number(option: str, value: object, least: int, most: int) -> int:
    """Return a whole number within bounds; raises OptionError."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise OptionError(option, value, f"a whole number from {least:,} to {most:,}")
    return value


def finite_number(option: str, value: object, expected: str, least: float, most: float = math.inf) -> float:
    """Return a finite number within bounds; raises OptionError, which says what is `expected`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most or value == math.inf:
        raise OptionError(option, value, expected)
    return value


class Numbers(msgspec.Struct, frozen=True):
    """A struct whose fields are whole numbers from 0; raises OptionError for another value."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            whole_number(name, getattr(self, name), 0, MAX_NUMBER)


def several(option: str, value: Iterable[T], kind: type[T], expected: str) -> tuple[T, ...]:
    """Return the items of an iterable that is not a text; raises OptionError unless each is of a kind."""
    if not _is_list(value):
        raise OptionError(option, value, expected)
    items = tuple(value)
    for item in items:
        if not isinstance(item, kind):
            raise OptionError(option, item, expected)
    return items


def _check(checks: Mapping[str, _Check], name: str, value: object, secrets: frozenset[str]) -> None:
    check = checks.get(name)
    if check is not None and not check.fits(value):
        hidden = f"… ({with_article(type(value).__name__)})"
        missing = [method for method in sorted(check.methods) if not hasattr(value, method)]
        # a value with none of the methods is something else
        also = f" with {', '.join(missing)}" if 0 < len(missing) < len(check.methods) else ""
        raise OptionError(name, hidden if name in secrets else value, check.expected + also)


class _Later(dict[str, Any]):
    """The names of a module, and `Any` for each that it imports only for type checkers."""

    def __missing__(self, name: str) -> Any:
        if hasattr(builtins, name):
            raise KeyError(name)
        return Any


@functools.cache
def _checks(owner: Any, *, numbers: bool = True) -> dict[str, _Check]:
    module = vars(sys.modules[owner.__module__])
    hints = typing.get_type_hints(owner, localns=_Later(module), include_extras=True)
    checks = {
        name: _check_of(hint) for name, hint in hints.items() if name != "return" and (numbers or hint is not int)
    }
    return {name: check for name, check in checks.items() if check is not None}


def _check_of(annotation: Any) -> _Check | None:
    """The check of an annotation; None if it allows each value, or if its values are checked elsewhere."""
    if annotation is Any or annotation is object or isinstance(annotation, TypeVar):
        return None
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _check_of(args[0])
    if origin in (Union, types.UnionType):
        return _check_of_union(args)
    if origin is Literal:
        return _Check(functools.partial(_is_one_of, args), " or ".join(map(repr, args)))
    kind: Any = annotation if origin is None else origin
    if kind is typing.get_origin(Callable[[], None]):
        return _Check(callable, "a function")
    if not isinstance(kind, type):
        return None
    if is_protocol(kind):
        methods = [name for name in get_protocol_members(kind) if callable(getattr(kind, name, None))]
        return _Check(functools.partial(_has_all, methods), _words_of(kind), methods)
    if kind is Iterable:
        return _Check(_is_list, "a list")
    if issubclass(kind, Mapping):
        return _check_of_items(cast(Any, kind), args[1:2], "a mapping")
    if kind in (tuple, Sequence):
        return _check_of_items(kind, args[:1], _words_of(kind))
    kinds: Any = (int, float) if kind is float else (kind,)
    return _Check(functools.partial(_is_of, kinds), _words_of(cast(Any, kind)))


def _is_of(kinds: tuple[type[Any], ...], value: object) -> bool:
    return isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))


def _has_all(methods: Sequence[str], value: object) -> bool:
    return all(hasattr(value, name) for name in methods)


def _words_of(kind: type[Any]) -> str:
    named: str | None = getattr(kind, "named_in_errors", None)
    return named or _WORDS.get(kind) or with_article(kind.__name__)


_DURATIONS = frozenset(typing.get_args(Duration))


def _check_of_union(args: Sequence[Any]) -> _Check | None:
    if set(args) >= _DURATIONS:
        return None
    checks = [_check_of(argument) for argument in args]
    if None in checks:
        return None
    known = cast(list[_Check], checks)
    words = [check.expected for check in known]
    expected = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
    methods = [method for check in known for method in check.methods]
    return _Check(functools.partial(_fits_any, known), expected, methods)


def _fits_any(checks: Sequence[_Check], value: object) -> bool:
    return any(check.fits(value) for check in checks)


def _check_of_items(kind: type[Any], args: Sequence[Any], words: str) -> _Check:
    item = _check_of(args[0]) if args else None
    kind_has_values = issubclass(kind, Mapping)

    def fits(value: Any) -> bool:
        if not isinstance(value, kind) or isinstance(value, str | bytes):
            return False
        items: Any = value
        return item is None or all(item.fits(element) for element in (items.values() if kind_has_values else items))

    return _Check(fits, words if item is None else f"{words} with {item.expected} as each item")


def _is_one_of(allowed: Sequence[object], value: object) -> bool:
    return any(type(value) is type(choice) and value == choice for choice in allowed)


def _is_list(value: object) -> bool:
    """Whether a value is an iterable of items; a text is one for a type checker, and a mistake of the caller."""
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)
