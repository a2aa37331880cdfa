"""Checks calls of a job before they are stored, and makes the arguments of the call from what was stored."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal, cast

from peerjob.handles.blocking import BlockingInstance
from peerjob.handles.context import Context
from peerjob.model.codec import decode_value, encode_value, has_secret
from peerjob.model.errors import ArgumentError, DecodeError, EncodeError, OptionError, path_text
from peerjob.model.in_place import injected_value
from peerjob.model.injected import INJECTED, Resource
from peerjob.model.job import Job
from peerjob.model.limits import MAX_ARGUMENTS
from peerjob.model.references import import_path, misnamed_script
from peerjob.model.secret import Secret
from peerjob.model.signature import TEXT_PLACEHOLDER, Parameter, analyse, is_placeholder
from peerjob.model.spec import encode_arguments

from .blocking import BlockingBodyManager
from .injection import check_resource
from .lost_parts import first_lost_part
from .typed_places import ANYTHING, ResultType, TypedPlace

Mode = Literal["async", "thread", "process"]

_TOO_MANY = f"{{:,}} arguments, over the limit of {MAX_ARGUMENTS:,}"
_WRONG_SHAPE = "stored arguments have the wrong shape: not a list and a dict"
_NO_RESOURCES: Mapping[str, Any] = MappingProxyType({})


class StoredArgumentError(ArgumentError):
    """Arguments of a stored instance do not fit the job that is registered here; the body did not run."""


def check_count(kind: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise ArgumentError for a call with too many arguments."""
    if (count := len(args) + len(kwargs)) > MAX_ARGUMENTS:
        raise ArgumentError(kind, [_TOO_MANY.format(count)])


class Binding:
    """The signature of a job's callable, compiled once; raises OptionError for a callable that cannot run."""

    def __init__(self, job: Job[..., Any, Any]) -> None:
        if job.executor is None:
            raise OptionError("executor", None, f"a callable, to run job {job.kind!r} here")
        self.job = job
        self.kind = job.kind
        self.executor: Callable[..., Any] = job.executor
        self.signature = analyse(job.executor)
        self.resources: Mapping[str, Resource] = {
            one.name: one.resource for one in self.signature.parameters if one.resource is not None
        }
        self.result = ResultType(self.signature.returns)
        self._places = [_place_of(one) for one in self.signature.positional]
        self._named = {name: _place_of(one) for name, one in self.signature.by_name.items()}
        self._rest = None if self.signature.var_positional is None else _place_of(self.signature.var_positional)
        self._more = None if self.signature.var_keyword is None else _place_of(self.signature.var_keyword)
        self._min_args, self._max_args = self._simple_calls()
        self._check()
        self.mode(job.policy.run_in)

    @property
    def signature_hash(self) -> str:
        """A hash that is equal for callables that take the same arguments."""
        return self.signature.hash

    @functools.cached_property
    def import_path(self) -> str:
        """`module:qualname` of the callable; raises OptionError if another process cannot import it."""
        path = import_path(self.executor)
        if path is None or path.startswith("__main__:"):
            raise OptionError("run_in", "process", f"another for {self.executor}, which cannot be imported by name")
        if getattr(self.executor, "__module__", None) == "__main__" and (script := misnamed_script()) is not None:
            raise OptionError(
                "run_in",
                "process",
                f"another for {self.executor}: a process cannot import the script {script!r} by its name, "
                "which must end in .py, have no other dot, and not be that of another module",
            )
        return path

    def mode(self, run_in: str) -> Mode:
        """Where the body runs for a `run_in` option; raises OptionError if it cannot run there."""
        match run_in:
            case "process":
                self._check_process()
                return "process"
            case "thread" if self.signature.is_async:
                raise OptionError("run_in", run_in, "'async' or 'process' for an async function")
            case "auto":
                return "async" if self.signature.is_async else "thread"
            case _:
                return cast(Mode, run_in)

    # -- before a call is stored -------------------------------------------------------------------------------

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """Encode the given arguments as they are stored; raises ArgumentError with every reason why they do not fit."""
        if self._fits(args, kwargs):
            try:
                return encode_arguments(args, kwargs)
            except EncodeError:
                pass  # _encode_checked raises an error that names this value and every other bad one
        return self._encode_checked(args, kwargs)

    def _encode_checked(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        check_count(self.kind, args, kwargs)
        placed, problems = self._placed(args, kwargs)
        for name, value, place in self._given(placed, kwargs, problems):
            stored = b""
            try:
                # convert the stored form and not `value`, because the body gets what the store returns
                stored = encode_value(value)
                lost = first_lost_part(value, place.convert(decode_value(stored)))
                if lost is not None:
                    hidden = place.secret or has_secret(stored)
                    problems.append(f"{name}{'' if hidden else path_text(lost[0])}: {lost[1]}")
            except EncodeError as error:
                problems.append(f"{name}{'' if place.secret else path_text(error.path)}: {error.reason}")
            except Exception as error:  # noqa: BLE001  # conversion runs code of users, which can raise anything
                problems += place.explain(error, hidden=place.secret or has_secret(stored), name=name)
        if problems:
            raise ArgumentError(self.kind, problems)
        kept = {
            name: _hidden(value, self._named.get(name, self._more))
            for name, value in kwargs.items()
            if not self._supplies(name)
        }
        given = [_hidden(value, self._place_at(index)) for index, value in enumerate(placed)]
        if TEXT_PLACEHOLDER in [one for one in placed if type(one) is str]:
            # keep the placeholders of supplied parameters, so that the node does not read the text "?" as a placeholder
            return self._encode_all(given, kept)
        return self._encode_all([one for one in given if one is not INJECTED], kept)

    def _encode_all(self, args: list[Any], kwargs: dict[str, Any]) -> bytes:
        try:
            return encode_arguments(tuple(args), kwargs)
        except EncodeError as error:
            raise ArgumentError(self.kind, [error.reason]) from error

    # -- before a body runs ------------------------------------------------------------------------------------

    def arguments(
        self, data: bytes, context: Context, resources: Mapping[str, Any] = _NO_RESOURCES
    ) -> tuple[list[Any], dict[str, Any]]:
        """Make positional and keyword arguments for the call: decode, convert, and add what the node supplies.

        Raises DecodeError for bytes that are no arguments, StoredArgumentError for arguments that do not fit.
        """
        placed, converted = self.converted(data)
        return self.filled(placed, converted, context, resources) if self.signature.supplied else (placed, converted)

    def filled(
        self,
        placed: list[Any],
        kwargs: dict[str, Any],
        context: Context,
        resources: Mapping[str, Any] = _NO_RESOURCES,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> tuple[list[Any], dict[str, Any]]:
        """Add what the node supplies to converted arguments; `loop` is the node's (default: the running loop)."""
        return self.signature.fill(placed, kwargs, lambda one: _supply(one, context, resources, loop))

    def converted(self, data: bytes) -> tuple[list[Any], dict[str, Any]]:
        """Decode and convert arguments; those that the node supplies are still missing."""
        stored = decode_value(data)
        try:
            args, kwargs = stored
        except (TypeError, ValueError):
            raise DecodeError(_WRONG_SHAPE) from None
        if args.__class__ is not list or kwargs.__class__ is not dict:
            raise DecodeError(_WRONG_SHAPE)
        if self._fits(args, kwargs):
            return args, kwargs
        if (count := len(args) + len(kwargs)) > MAX_ARGUMENTS:
            raise StoredArgumentError(self.kind, [_TOO_MANY.format(count)])
        placed, problems = self._placed(args, kwargs)
        values: list[Any] = []
        for name, value, place in self._given(placed, kwargs, problems):
            try:
                values.append(place.convert(value))
            except Exception as error:  # noqa: BLE001  # conversion runs code of users, which can raise anything
                problems += place.explain(error, hidden=place.secret or has_secret(data), name=name)
        if problems:
            raise StoredArgumentError(self.kind, problems)
        found = iter(values)
        filled = [one if self._is_open(index, one) else next(found) for index, one in enumerate(placed)]
        return filled, {name: next(found) for name in kwargs if not self._supplies(name)}

    # -- matching arguments and parameters ---------------------------------------------------------------------

    def _simple_calls(self) -> tuple[int, int]:
        """Return the least and the most positional arguments that `_fits` can accept; (1, 0) if it accepts no call."""
        signature = self.signature
        if any(one.required and not one.supplied for one in signature.parameters if one not in signature.positional):
            return 1, 0
        leading = next((index for index, one in enumerate(signature.positional) if one.supplied), len(self._places))
        needed = [index + 1 for index, one in enumerate(signature.positional) if one.required and not one.supplied]
        return max(needed, default=0), leading

    def _fits(self, args: tuple[Any, ...] | list[Any], kwargs: dict[str, Any]) -> bool:
        """Whether the arguments fit without conversion. The check must be fast, because each call and run needs it."""
        if kwargs or not self._min_args <= len(args) <= self._max_args:
            return False
        for value, place in zip(args, self._places):  # noqa: B905  # a call can omit parameters with defaults
            if type(value) is not place.exact and (place.exact is not ANYTHING or value is INJECTED):
                return False
        return True

    def _placed(self, args: tuple[Any, ...] | list[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], list[str]]:
        """Match positional arguments to parameters. A "?" is a placeholder if the call is valid with it, else text."""
        placed = self.signature.place(args)
        problems = self.signature.misfits(placed, kwargs)
        if problems and TEXT_PLACEHOLDER in [one for one in args if type(one) is str]:
            as_text = self.signature.place(args, text_placeholders=False)
            if not self.signature.misfits(as_text, kwargs):
                return as_text, []
        return placed, problems

    def _given(
        self, placed: list[Any], kwargs: Mapping[str, Any], problems: list[str]
    ) -> Iterator[tuple[str, Any, TypedPlace]]:
        """Yield name, value and place of each argument with a parameter; add misplaced placeholders to `problems`."""
        for index, value in enumerate(placed):
            place = self._place_at(index)
            if place is None:
                break  # `problems` already says that the call has too many arguments
            name = place.name if place is not self._rest else f"{place.name}[{index - len(self._places)}]"
            if not self._is_open(index, value):
                yield from _checked(name, place, value, problems)
        for name, value in kwargs.items():
            found = self._named.get(name, self._more)
            if found is not None and not (found.supplied and is_placeholder(value)):
                yield from _checked(name, found, value, problems)

    def _place_at(self, index: int) -> TypedPlace | None:
        return self._places[index] if index < len(self._places) else self._rest

    def _is_open(self, index: int, value: Any) -> bool:
        return value is INJECTED and index < len(self._places) and self._places[index].supplied

    def _supplies(self, name: str) -> bool:
        return name in self._named and self._named[name].supplied

    # -- callables that cannot run -----------------------------------------------------------------------------

    def _check(self) -> None:
        signature = self.signature
        if signature.is_generator or signature.is_async_generator:
            raise OptionError("executor", self.executor, "a function that returns; a generator's body never runs")
        places = {
            one.name: one for one in (*self._named.values(), *self._places, self._rest, self._more) if one is not None
        }
        for place in (*places.values(), self.result.place):
            if not place.supplied and (reason := place.confusion()) is not None:
                expected = f"classes that can be told apart once stored, for job {self.kind!r}: {reason}"
                raise OptionError(place.name, place.annotation, expected)
        for one in signature.parameters:
            if one.default is INJECTED and not one.supplied:
                raise OptionError(one.name, one.annotation, "Context, Instance, Node, Worker or a blocking twin")
            if signature.is_async and one.injected in ("blocking manager", "blocking instance"):
                raise OptionError(one.name, one.annotation, "Node or Instance: an async function must not block")
            if one.resource is not None:
                check_resource(one.resource)

    def _check_process(self) -> None:
        self.import_path  # noqa: B018  # the property raises OptionError if a process cannot import the callable
        for one in self.signature.supplied:
            if one.injected not in ("context", "worker"):
                raise OptionError(one.name, one.resource or one.annotation, "Context alone: the body runs in a process")


def _place_of(parameter: Parameter) -> TypedPlace:
    return TypedPlace(parameter.name, parameter.annotation, supplied=parameter.supplied)


def _hidden(value: Any, place: TypedPlace | None) -> Any:
    return Secret(value) if place is not None and place.secret and value is not INJECTED else value


def _checked(name: str, place: TypedPlace, value: Any, problems: list[str]) -> Iterator[tuple[str, Any, TypedPlace]]:
    if place.supplied:
        problems.append(f"{name}: supplied by the node; leave it out")
    elif value is INJECTED:
        problems.append(f"{name}: a placeholder, where an argument is needed")
    else:
        yield name, value, place


def _supply(
    parameter: Parameter, context: Context, resources: Mapping[str, Any], loop: asyncio.AbstractEventLoop | None
) -> Any:
    match parameter.injected:
        case "context":
            return context
        case None:
            return resources[parameter.name]
        case "blocking manager" | "blocking instance" as what:
            if context.manager is None:
                return None
            manager = BlockingBodyManager(context.manager, loop or asyncio.get_running_loop(), context)
            if what == "blocking manager":
                return manager
            return None if context.instance is None else BlockingInstance(manager, context.instance)
        case _:
            return injected_value(parameter, context)
