"""The callable of a job: whether it can run, and the arguments of its call, made from what was stored."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, cast

from peerjob.handles.blocking_context import BlockingContext
from peerjob.handles.blocking_handles import BlockingInstance
from peerjob.handles.context import Context
from peerjob.model.codec import decode_value, has_secret
from peerjob.model.descriptor import described
from peerjob.model.direct_call import injected_value
from peerjob.model.errors import ArgumentError, DecodeError, OptionError
from peerjob.model.injected import INJECTED, Resource
from peerjob.model.job import Job
from peerjob.model.references import import_path, misnamed_script
from peerjob.model.signature import Parameter, analyse

from .blocking import BlockingBodyManager
from .call_parameters import CallParameters, too_many
from .injection import check_resource
from .typed_positions import ResultType

Mode = Literal["async", "thread", "process"]

_WRONG_SHAPE = "stored arguments have the wrong shape: not a list and a dict"
_BLOCKING = ("blocking manager", "blocking instance", "blocking context")
_NO_RESOURCES: Mapping[str, Any] = MappingProxyType({})


class StoredArgumentError(ArgumentError):
    """Arguments of a stored instance do not fit the job that is registered here; the body did not run."""


class Binding(CallParameters):
    """The signature of a job's callable, compiled once; raises OptionError for a callable that cannot run."""

    def __init__(self, job: Job[..., Any, Any]) -> None:
        if job.executor is None:
            raise OptionError("executor", None, f"a callable, to run job {job.kind!r} here")
        super().__init__(job.kind, analyse(job.executor))
        self.job = job
        self.executor: Callable[..., Any] = job.executor
        self.resources: Mapping[str, Resource] = {
            parameter.name: parameter.resource
            for parameter in self.signature.parameters
            if parameter.resource is not None
        }
        self.result = ResultType(self.signature.returns)
        self._check()
        self.mode(job.policy.run_in)

    @functools.cached_property
    def descriptor(self) -> tuple[bytes, bytes] | None:
        """The digest and the body of what nodes publish about the kind; None if the body is over the limit."""
        return described(self.job, self.signature, self.default_text, self.hides)

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

    # -- before a body runs ------------------------------------------------------------------------------------

    def arguments(
        self, data: bytes, context: Context, resources: Mapping[str, Any] = _NO_RESOURCES
    ) -> tuple[list[Any], dict[str, Any]]:
        """Make positional and keyword arguments for the call: decode, convert, and add what the node supplies.

        Raises DecodeError for bytes that are no arguments, StoredArgumentError for arguments that do not fit.
        """
        aligned, converted = self.converted(data)
        return self.filled(aligned, converted, context, resources) if self.signature.supplied else (aligned, converted)

    def filled(
        self,
        aligned: list[Any],
        kwargs: dict[str, Any],
        context: Context,
        resources: Mapping[str, Any] = _NO_RESOURCES,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> tuple[list[Any], dict[str, Any]]:
        """Add what the node supplies to converted arguments; `loop` is the node's (default: the running loop)."""
        return self.signature.fill(aligned, kwargs, lambda parameter: _supply(parameter, context, resources, loop))

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
        if (excess := too_many(args, kwargs)) is not None:
            raise StoredArgumentError(self.kind, [excess])
        aligned, problems = self._aligned(args, kwargs)
        values: list[Any] = []
        for name, value, position in self._given(aligned, kwargs, problems):
            try:
                values.append(position.convert(value))
            except Exception as error:  # noqa: BLE001  # conversion runs code of users, which can raise anything
                problems += position.explain(error, hidden=position.secret or has_secret(data), name=name)
        if problems:
            raise StoredArgumentError(self.kind, problems)
        supplied = iter(values)
        filled = [value if self._is_open(index, value) else next(supplied) for index, value in enumerate(aligned)]
        return filled, {name: next(supplied) for name in kwargs if not self._supplies(name)}

    # -- callables that cannot run -----------------------------------------------------------------------------

    def _check(self) -> None:
        self.check_template(self.job.policy.key)
        self.check_template(None if (limit := self.job.policy.key_limit) is None else limit.key)
        signature = self.signature
        if signature.is_generator or signature.is_async_generator:
            raise OptionError("executor", self.executor, "a function that returns; a generator's body never runs")
        positions = {
            typed.name: typed
            for typed in (*self._named.values(), *self._positions, self._rest, self._more)
            if typed is not None
        }
        for position in (*positions.values(), self.result.position):
            if not position.supplied and (reason := position.confusion()) is not None:
                expected = f"classes that can be told apart once stored, for job {self.kind!r}: {reason}"
                raise OptionError(position.name, position.annotation, expected)
        for parameter in signature.parameters:
            if parameter.default is INJECTED and not parameter.supplied:
                raise OptionError(
                    parameter.name, parameter.annotation, "Context, Instance, Node, Worker or a blocking twin"
                )
            if signature.is_async and parameter.injected in _BLOCKING:
                raise OptionError(
                    parameter.name, parameter.annotation, "Node, Instance or Context: an async function must not block"
                )
            if parameter.resource is not None:
                check_resource(parameter.resource)

    def _check_process(self) -> None:
        self.import_path  # noqa: B018  # the property raises OptionError if a process cannot import the callable
        for parameter in self.signature.supplied:
            if parameter.injected not in ("context", "worker"):
                raise OptionError(
                    parameter.name,
                    parameter.resource or parameter.annotation,
                    "Context alone: the body runs in a process",
                )


def _supply(
    parameter: Parameter, context: Context, resources: Mapping[str, Any], loop: asyncio.AbstractEventLoop | None
) -> Any:
    match parameter.injected:
        case "context":
            return context
        case None:
            return resources[parameter.name]
        case "blocking manager" | "blocking instance" | "blocking context" as what:
            if context.manager is None:
                return None
            manager = BlockingBodyManager(context.manager, loop or asyncio.get_running_loop(), context)
            if what == "blocking context":
                return BlockingContext(manager, context)
            if what == "blocking manager":
                return manager
            return None if context.instance is None else BlockingInstance(manager, context.instance)
        case _:
            return injected_value(parameter, context)
