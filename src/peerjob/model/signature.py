"""The parameters of any callable: those of the caller, and those that the node supplies."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import inspect
import re
import sys
import types
import typing
from collections import abc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Union, cast

import typing_extensions

from .callables import ExecutorHolder, call_of, has_code, unpartial
from .injected import INJECTED, Injectable, Injection, Resource
from .printable import counted
from .references import module_name

EMPTY: Any = inspect.Parameter.empty
"""Stands for "no annotation" and for "no default"."""
TEXT_PLACEHOLDER = "?"

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Parameter:
    """One parameter of a callable; `*args` and `**kwargs` are parameters too."""

    name: str
    kind: inspect._ParameterKind  # pyright: ignore[reportPrivateUsage]
    """The kind of the parameter, as in `inspect.Parameter.kind`."""
    annotation: Any = EMPTY
    """The resolved annotation. EMPTY if there is none, or if its names do not exist at run time."""
    default: Any = EMPTY
    required: bool = True
    """Whether each call must pass the parameter."""
    injected: Injection | None = None
    optional: bool = False
    """Whether the node may supply None for the parameter."""
    resource: Resource | None = None

    @property
    def supplied(self) -> bool:
        """Whether the node supplies the value, so that callers leave it out."""
        return self.injected is not None or self.resource is not None


class Signature:
    """The parameters of a callable, and the assignment of arguments to them."""

    def __init__(self, executor: Callable[..., Any], parameters: Sequence[Parameter], returns: Any = EMPTY) -> None:
        self.parameters = tuple(parameters)
        self.positional = tuple(parameter for parameter in parameters if parameter.kind in _POSITIONAL)
        self.by_name = {parameter.name: parameter for parameter in parameters if parameter.kind in _BY_NAME}
        self.var_positional = _first(parameters, inspect.Parameter.VAR_POSITIONAL)
        self.var_keyword = _first(parameters, inspect.Parameter.VAR_KEYWORD)
        self.supplied = tuple(parameter for parameter in parameters if parameter.supplied)
        self.is_async = has_code(executor, inspect.iscoroutinefunction)
        self.returns = returns if self.is_async else _awaited(returns)
        """The annotation of the result. EMPTY if there is none, and for `-> None`, which describes no value."""
        self.is_generator = has_code(executor, inspect.isgeneratorfunction)
        self.is_async_generator = has_code(executor, inspect.isasyncgenfunction)
        self._supplies_positional = any(parameter.supplied for parameter in self.positional)
        # a supplied positional-only parameter forces all parameters before that parameter to be passed by position too
        self._reach = max(
            (
                index + 1
                for index, parameter in enumerate(self.positional)
                if parameter.supplied and parameter.kind is inspect.Parameter.POSITIONAL_ONLY
            ),
            default=0,
        )
        self._positions: dict[int, tuple[list[tuple[int, Parameter]], list[Parameter]]] = {}

    @functools.cached_property
    def hash(self) -> str:
        """A hash of the caller's parameters, the same in every process."""
        parts = [
            f"{parameter.name}:{int(parameter.kind)}:{annotation_text(parameter.annotation)}:{parameter.required:d}"
            for parameter in self.parameters
            if not parameter.supplied
        ]
        return hashlib.blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()

    def align(self, args: Sequence[Any], *, text_placeholders: bool = True) -> list[Any]:
        """Assign positional arguments to the parameters, with INJECTED for parameters that the node supplies.

        For such a parameter the caller may pass a placeholder ("?" too with `text_placeholders`), a value of its class,
        or nothing.
        """
        if not self._supplies_positional:
            return list(args)
        aligned: list[Any] = []
        taken = 0
        for parameter in self.positional:
            if taken == len(args):
                break
            value = args[taken]
            if not parameter.supplied:
                aligned.append(value)
                taken += 1
            elif is_placeholder(value, text=text_placeholders):
                aligned.append(INJECTED)
                taken += 1
            elif parameter.injected is not None and injectable_of(type(value)) == (parameter.injected, False):
                aligned.append(value)
                taken += 1
            else:
                aligned.append(INJECTED)
        aligned.extend(args[taken:])
        return aligned

    def misfits(self, aligned: Sequence[Any], kwargs: Mapping[str, Any]) -> list[str]:
        """Describe the superfluous and the missing arguments, one sentence each."""
        problems: list[str] = []
        if self.var_positional is None and len(aligned) > len(self.positional):
            takes = sum(not parameter.supplied for parameter in self.positional)
            given = takes + len(aligned) - len(self.positional)
            problems.append(f"takes at most {counted(takes, 'positional argument')}, {given} given")
        given_by_position = {parameter.name for parameter in self.positional[: len(aligned)]}
        for name in kwargs:
            if name not in self.by_name:
                if self.var_keyword is None:
                    problems.append(f"has no parameter {name!r}")
            elif name in given_by_position and not self.by_name[name].supplied:
                problems.append(f"{name}: given by position and by name")
        problems += [
            f"{parameter.name}: missing"
            for parameter in self.parameters
            if parameter.required
            and not parameter.supplied
            and parameter.name not in given_by_position
            and not (parameter.name in kwargs and parameter.kind in _BY_NAME)
        ]
        return problems

    def fill(
        self, aligned: list[Any], kwargs: dict[str, Any], supply: Callable[[Parameter], Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments of the call; `supply` gives the value of each parameter that is still open."""
        if not self.supplied:
            return aligned, kwargs
        by_position, by_name = self._open_positions(len(aligned))
        args = [*aligned, *(EMPTY for _ in range(len(aligned), self._reach))]
        filled = dict(kwargs)
        for index, parameter in by_position:
            if index >= len(aligned) or args[index] is INJECTED:
                value = filled.pop(parameter.name, INJECTED if parameter.supplied else parameter.default)
                args[index] = supply(parameter) if parameter.supplied and is_placeholder(value) else value
        for parameter in by_name:
            if is_placeholder(filled.get(parameter.name, INJECTED)):
                filled[parameter.name] = supply(parameter)
        return args, filled

    def _open_positions(self, count: int) -> tuple[list[tuple[int, Parameter]], list[Parameter]]:
        """Return the parameters to fill by position and by name, for a call that has aligned `count` arguments."""
        if count not in self._positions:
            reached = self.positional[: max(count, self._reach)]
            self._positions[count] = (
                [(index, parameter) for index, parameter in enumerate(reached) if parameter.supplied or index >= count],
                [parameter for parameter in self.supplied if parameter not in reached],
            )
        return self._positions[count]


def is_placeholder(value: Any, *, text: bool = True) -> bool:
    """Whether an argument means "supplied by the node"."""
    return value is INJECTED or (text and type(value) is str and value == TEXT_PLACEHOLDER)


# -- analysis --------------------------------------------------------------------------------------------------


def analyse(executor: Callable[..., Any]) -> Signature:
    """Return the signature of a callable. A callable without a known signature takes any arguments."""
    try:
        return _analysed(executor)
    # a callable without a hash cannot be a key of the cache: analyse the callable at each call
    except TypeError:
        return _analyse(executor)


def _analyse(executor: Callable[..., Any]) -> Signature:
    executor = _function_of(executor)
    try:
        inspected = _inspect(executor)
    # a callable written in C can lack a signature: accept any arguments
    except (ValueError, TypeError):
        return Signature(executor, _ANYTHING)
    namespace = _namespace(_code_of(executor))
    parameters: list[Parameter] = []
    for parameter in inspected.parameters.values():
        parameters += _parameters(parameter, namespace)
    made = unpartial(executor)
    returns = made if isinstance(made, type) else resolve(inspected.return_annotation, namespace)
    return Signature(executor, parameters, EMPTY if any(returns is no_value for no_value in _NO_VALUE) else returns)


_analysed = functools.lru_cache(maxsize=1024)(_analyse)

_ANYTHING = (
    Parameter(name="args", kind=inspect.Parameter.VAR_POSITIONAL, required=False),
    Parameter(name="kwargs", kind=inspect.Parameter.VAR_KEYWORD, required=False),
)


_NO_VALUE: tuple[Any, ...] = (None, type(None), typing.NoReturn, typing.Never, typing_extensions.Never)
_AWAITABLES: tuple[Any, ...] = (abc.Awaitable, abc.Coroutine, asyncio.Future, asyncio.Task)


def _awaited(annotation: Any) -> Any:
    """Return the result type of an awaitable that a sync function returns. Other annotations stay as they are."""
    parts = typing.get_args(annotation)
    return parts[-1] if parts and typing.get_origin(annotation) in _AWAITABLES else annotation


def _parameters(parameter: inspect.Parameter, namespace: Mapping[str, Any]) -> Iterator[Parameter]:
    variadic = parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    annotation = resolve(parameter.annotation, namespace)
    made = Parameter(
        name=parameter.name,
        kind=parameter.kind,
        annotation=annotation,
        default=parameter.default,
        required=parameter.default is EMPTY and not variadic,
        resource=parameter.default if isinstance(parameter.default, Resource) else None,
    )
    if parameter.kind is inspect.Parameter.VAR_KEYWORD and _is_unpack(annotation):
        yield from _unpacked(annotation, namespace)
    elif parameter.kind is inspect.Parameter.VAR_POSITIONAL and _is_unpack(annotation):
        yield replace(made, annotation=EMPTY)
    elif variadic or made.resource is not None:
        yield made
    else:
        injectable = injectable_of(annotation)
        if injectable is None and annotation is EMPTY and parameter.default is INJECTED:
            injectable = _injectable_by_text(parameter.annotation)
        if injectable is not None:
            made = replace(made, injected=injectable[0], optional=injectable[1])
        yield made


def injectable_of(annotation: Any) -> tuple[Injection, bool] | None:
    """The injected kind that an annotation means, and whether None is allowed; None for other annotations."""
    if isinstance(annotation, TYPE_ALIAS):
        return injectable_of(annotation.__value__)
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return injectable_of(typing.get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        parts = typing.get_args(annotation)
        injections = [asked for part in parts if (asked := injectable_of(part)) is not None]
        if not injections or len(injections) + (type(None) in parts) < len(parts):
            return None
        return injections[0][0], type(None) in parts
    base = origin or annotation
    return (base.injected_as, False) if isinstance(base, type) and issubclass(base, Injectable) else None


_NAMES: dict[str, Injection] = {
    "Context": "context",
    "Manager": "manager",
    "Node": "manager",
    "Worker": "worker",
    "Instance": "instance",
    "BlockingManager": "blocking manager",
    "BlockingInstance": "blocking instance",
    "BlockingContext": "blocking context",
}


def _injectable_by_text(annotation: Any) -> tuple[Injection, bool] | None:
    """Do the work of `injectable_of` for an annotation whose name is imported only for type checkers."""
    words = re.findall(r"\w+", getattr(annotation, "__forward_arg__", str(annotation)))
    injections: list[Injection] = [_NAMES[word] for word in words if word in _NAMES]
    return (injections[0], "None" in words or "Optional" in words) if injections else None


def resolve(annotation: Any, namespace: Mapping[str, Any]) -> Any:
    """Resolve an annotation, text included; EMPTY if it names something that does not exist."""
    if annotation is EMPTY:
        return EMPTY
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        return typing.get_type_hints(holder, dict(namespace), {}, include_extras=True)["it"]
    except Exception:  # noqa: BLE001  # an annotation is the user's code, which can raise any error
        return EMPTY


def _is_unpack(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Unpack, typing_extensions.Unpack) or getattr(
        annotation, "__unpacked__", False
    )


def _unpacked(annotation: Any, namespace: Mapping[str, Any]) -> Iterator[Parameter]:
    """Yield the keys of the TypedDict in `**kwargs: Unpack[...]` as keyword parameters."""
    (keys,) = typing.get_args(annotation)
    for name, hint in typing_extensions.get_type_hints(keys, dict(namespace), include_extras=True).items():
        required = is_required(keys, name, hint)
        while typing.get_origin(hint) in QUALIFIERS:
            (hint,) = typing.get_args(hint)  # noqa: PLW2901
        yield Parameter(name=name, kind=inspect.Parameter.KEYWORD_ONLY, annotation=hint, required=required)


def is_required(keys: Any, name: str, hint: Any) -> bool:
    """Whether a key of a TypedDict is required, by its resolved hint.

    With postponed annotations, the class itself counts NotRequired keys as required.
    """
    while (origin := typing.get_origin(hint)) is Annotated or origin in QUALIFIERS:
        if origin in (typing.Required, typing.NotRequired):
            return origin is typing.Required
        hint = hint.__origin__ if origin is Annotated else typing.get_args(hint)[0]
    return name in keys.__required_keys__


TYPE_ALIAS: tuple[Any, ...] = (typing_extensions.TypeAliasType, getattr(typing, "TypeAliasType", ()))
"""The classes of `type X = ...`: one in the standard library, one in typing_extensions."""
QUALIFIERS: tuple[Any, ...] = (typing.Required, typing.NotRequired, typing_extensions.ReadOnly)


def _inspect(executor: Callable[..., Any]) -> inspect.Signature:
    if sys.version_info >= (3, 14):
        from annotationlib import Format

        return inspect.signature(executor, annotation_format=Format.FORWARDREF)
    return inspect.signature(executor)


def _code_of(executor: Any) -> Any:
    """Return the function that the user wrote, from inside partials, decorators, methods, classes and instances."""
    executor = unpartial(executor)
    if isinstance(executor, type):
        made = cast(Any, executor)
        executor = made.__init__ if made.__init__ is not object.__init__ else made.__new__
    elif not isinstance(executor, types.FunctionType | types.MethodType) and not hasattr(executor, "__wrapped__"):
        executor = call_of(executor)
    return inspect.unwrap(getattr(executor, "__func__", executor))


def _namespace(function: Any) -> dict[str, Any]:
    """Return the names that an annotation of this function can use, with their values."""
    names = dict(getattr(function, "__globals__", {}))
    for type_parameter in getattr(function, "__type_params__", ()):
        names[type_parameter.__name__] = type_parameter
    cells = getattr(function, "__closure__", None) or ()
    for name, cell in zip(function.__code__.co_freevars if cells else (), cells, strict=True):
        try:
            names[name] = cell.cell_contents
        # the enclosing function has not assigned this variable yet: leave the name out
        except ValueError:
            continue
    return names


def _function_of(executor: Any) -> Any:
    """Return the function of a job, or any other callable itself."""
    return (executor.executor or executor) if isinstance(executor, ExecutorHolder) else executor


def _first(parameters: Iterable[Parameter], kind: Any) -> Parameter | None:
    return next((parameter for parameter in parameters if parameter.kind is kind), None)


def annotation_text(annotation: Any) -> str:
    """Convert an annotation to text that is the same in every process."""
    if annotation is EMPTY:
        return ""
    # the parameters of a `Callable[[...], ...]` are a plain list
    if annotation.__class__ is list:
        return f"[{', '.join(map(annotation_text, annotation))}]"
    if isinstance(annotation, type) and typing.get_origin(annotation) is None:
        return f"{module_name(annotation.__module__)}.{annotation.__qualname__}".removeprefix("builtins.")
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is None or origin is Literal:
        return re.sub(r" at 0x[0-9a-f]+", "", repr(annotation))
    name = "Union" if origin in (Union, types.UnionType) else annotation_text(origin)
    return f"{name.removeprefix('typing.')}[{', '.join(map(annotation_text, parts))}]"
