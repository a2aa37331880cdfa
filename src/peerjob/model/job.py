"""Job definitions: a kind, a function and options."""

from __future__ import annotations

import functools
import importlib
import re
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator
from types import FunctionType, ModuleType
from typing import Any, Generic, Protocol, Self, cast, overload

import msgspec
from typing_extensions import ParamSpec, TypeVar, Unpack

from .callables import ExecutorHolder, mark_coroutine_function
from .direct_call import call_directly
from .durable import FLOW_KIND
from .errors import OptionError
from .json_text import to_json
from .key_template import names_in
from .limits import MAX_KIND, checked_text
from .policy import Options, Policy, checked, make_policy
from .references import found_by_name, import_path, module_name, resolve
from .timing import TIMING_OPTIONS, Timing

_MODULE = re.compile(r"[\w-]+(\.[\w-]+)*")
_OF_THE_CLASS = ("__module__", "__annotations__", "__annotate__", "__type_params__")
"""What a job has from its class, and not from its callable."""
"""The name of a module. `importlib` also takes names that a statement cannot have, such as `nightly-jobs`."""

P = ParamSpec("P", default=...)
Q = ParamSpec("Q")
R = TypeVar("R")
T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True, default=Any)
C_co = TypeVar("C_co", covariant=True, default=Any)


class Job(ExecutorHolder, Generic[P, R_co, C_co]):
    """An immutable definition: a kind, a callable (the executor), and options.

    `P` are the parameters of the callable, `R_co` is the type of an instance's result, and `C_co` is the type that a
    direct call returns. A job without a callable is a handle for work that other nodes run.
    """

    __slots__ = (
        "__dict__",
        "_frozen",
        "base",
        "executor",
        "kind",
        "options",
        "overrides",
        "policy",
        "timing",
    )

    kind: str
    executor: Callable[..., Any] | None
    options: dict[str, Any]
    """The checked options of the definition, replaced by the overrides where given."""
    overrides: dict[str, Any]
    """The options that `with_options` received, which are stored with each instance."""
    policy: Policy
    timing: Timing
    base: Job[..., Any, Any] | None
    """The definition from which `with_options` made this variant; None if this job is the definition."""

    @overload
    def __init__(
        self: Job[Q, T, Coroutine[Any, Any, T]],
        kind: str,
        executor: Callable[Q, Coroutine[Any, Any, T]],
        /,
        **options: Unpack[Options],
    ) -> None: ...
    @overload
    def __init__(self: Job[Q, T, T], kind: str, executor: Callable[Q, T], /, **options: Unpack[Options]) -> None: ...
    @overload
    def __init__(self: Job[..., Any, Any], kind: str, /, **options: Unpack[Options]) -> None: ...
    def __init__(self, kind: str, executor: Callable[..., Any] | None = None, /, **options: Unpack[Options]) -> None:
        checked_text("kind", kind, MAX_KIND)
        refuse_flow_kind(kind)
        if executor is not None and not callable(executor):
            raise OptionError("executor", executor, "a callable")
        if isinstance(key := options.get("key"), str):
            names_in(key)  # raises OptionError for a text that is no template
        _fill(self, kind, executor, checked(cast(dict[str, Any], options)), {}, None)

    def __setattr__(self, name: str, value: object) -> None:
        if getattr(self, "_frozen", False):
            raise AttributeError(f"Job is immutable; use with_options() for a variant (tried to set {name})")
        object.__setattr__(self, name, value)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> C_co:
        """Call the function directly, like an ordinary function. peerjob supplies the injected parameters."""
        if self.executor is None:
            raise TypeError(f"job {self.kind!r} is a handle for work that runs elsewhere; it cannot be called here")
        return cast(C_co, call_directly(self.executor, args, kwargs))

    def __repr__(self) -> str:
        return f"<Job {self.kind!r}>"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the job by its importable name, or by the name of its function; raises TypeError if neither exists."""
        executor = self.executor
        path = None if executor is None else import_path(executor)
        if path is not None and found_by_name(path) is self:
            return found_by_name, (path,)
        if isinstance(executor, FunctionType) and path is None:
            raise TypeError(f"job {self.kind!r} cannot be pickled: its {executor!r} cannot be imported by name")
        return _restored, (self.kind, path or executor, self.options, self.overrides, self.base)

    def with_options(self, **options: Unpack[Options]) -> Job[P, R_co, C_co]:
        """Return a variant of the same kind. Its options win, and are stored with its instances.

        Raises OptionError for `limits`: they belong to the kind, and so to the definition of the job.
        """
        if "limits" in options:
            raise OptionError("limits", options["limits"], "none in with_options(): they belong to the definition")
        overrides = self.overrides | checked(cast(dict[str, Any], options))
        merged = self.options | checked(cast(dict[str, Any], options))
        if {"at", "after", "cron", "every"} & options.keys():
            # the variant's time replaces the definition's time: `at`, `after`, `cron` and `every` exclude each other
            for name in ("at", "after", "cron", "every"):
                if name not in options:
                    merged.pop(name, None)
                    overrides.pop(name, None)
        variant: Job[P, R_co, C_co] = object.__new__(type(self))
        _fill(variant, self.kind, self.executor, merged, overrides, self.base or self)
        return variant

    def untimed(self) -> Job[P, R_co, C_co]:
        """Return the definition without time and recurrence: the part that a node needs to run the kind."""
        base = self.base or self
        kept = {name: value for name, value in base.options.items() if name not in TIMING_OPTIONS and name != "name"}
        made: Job[P, R_co, C_co] = object.__new__(type(self))
        _fill(made, self.kind, self.executor, kept, {}, None)
        return made

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call[R_co]:
        """Return this job with arguments, for `schedule_many`."""
        return Call(self, args, kwargs)

    @property
    def description(self) -> str:
        """The option `description`, by default the first line of the callable's docstring."""
        given = self.options.get("description")
        if given is not None:
            return cast(str, given)
        doc = getattr(self.executor, "__doc__", None) if self.executor is not None else None
        return (doc or "").strip().partition("\n")[0]

    @property
    def aliases(self) -> tuple[str, ...]:
        """Old kinds that this job also runs."""
        return cast(tuple[str, ...], self.options.get("aliases", ()))

    @property
    def version(self) -> int:
        """Version of the definition, for rolling deploys; 0 by default."""
        version: int = self.options.get("version", 0)
        return version

    @property
    def schedule_name(self) -> str:
        """Name of the job's schedule: `name=`, by default the kind."""
        return cast(str, self.options.get("name") or self.kind)

    def to_dict(self) -> dict[str, Any]:
        """The definition as plain values, with go-job's keys."""
        options = self.options
        return {
            "kind": self.kind,
            "description": self.description,
            "priority": self.policy.priority,
            "max_retries": self.policy.max_retries,
            "timeout": self.policy.timeout,
            "crontab": options.get("cron"),
            "schedule_at": options["at"].isoformat() if hasattr(options.get("at"), "isoformat") else options.get("at"),
            "tags": list(self.policy.tags),
            "version": self.version,
        }

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return to_json(self.to_dict())


def refuse_flow_kind(kind: str) -> None:
    """Raise OptionError for the kind of the instances that run flows."""
    if kind == FLOW_KIND:
        raise OptionError("kind", kind, "another kind: this one runs flows, and schedule_flow() schedules it")


def flow_job(executor: Callable[..., Any], **options: Unpack[Options]) -> Job[..., Any, Any]:
    """Make the job of the kind FLOW_KIND."""
    job: Job[..., Any, Any] = object.__new__(Job)
    _fill(job, FLOW_KIND, executor, checked(cast(dict[str, Any], options)), {}, None)
    return job


def _restored(
    kind: str,
    executor: str | Callable[..., Any] | None,
    options: dict[str, Any],
    overrides: dict[str, Any],
    base: Job[..., Any, Any] | None,
) -> Job[..., Any, Any]:
    job: Job[..., Any, Any] = object.__new__(Job)
    _fill(job, kind, resolve(executor) if isinstance(executor, str) else executor, options, overrides, base)
    return job


def _fill(
    job: Job[..., Any, Any],
    kind: str,
    executor: Callable[..., Any] | None,
    options: dict[str, Any],
    overrides: dict[str, Any],
    base: Job[..., Any, Any] | None,
) -> None:
    job.base = base
    job.kind = kind
    job.executor = executor
    job.options = options
    job.overrides = overrides
    job.policy = make_policy(options)
    job.timing = Timing.of(options)
    if executor is not None:
        for name in functools.WRAPPER_ASSIGNMENTS:
            if name not in _OF_THE_CLASS and hasattr(executor, name):
                job.__dict__[name] = getattr(executor, name)
        job.__dict__["__wrapped__"] = executor
        mark_coroutine_function(job.__dict__, executor)
    object.__setattr__(job, "_frozen", True)


class Call(msgspec.Struct, Generic[R_co], frozen=True):
    """A job with its arguments, ready to schedule."""

    job: Job[..., R_co, Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class _Decorator(Protocol):
    @overload
    def __call__(self, executor: Callable[Q, Coroutine[Any, Any, T]], /) -> Job[Q, T, Coroutine[Any, Any, T]]: ...
    @overload
    def __call__(self, executor: Callable[Q, T], /) -> Job[Q, T, T]: ...


@overload
def job(executor: Callable[Q, Coroutine[Any, Any, T]], /) -> Job[Q, T, Coroutine[Any, Any, T]]: ...
@overload
def job(executor: Callable[Q, T], /) -> Job[Q, T, T]: ...
@overload
def job(*, kind: str = ..., **options: Unpack[Options]) -> _Decorator: ...
def job(executor: Any = None, /, *, kind: str | None = None, **options: Any) -> Any:
    """Turn a function into a job: `@job`, or `@job(kind="sum", max_retries=3)`.

    The kind is `module:qualname` by default. Raises TypeError for a method, since a node cannot supply `self`.
    """
    if kind is not None:
        checked_text("kind", kind, MAX_KIND)

    def decorate(function: Callable[..., Any]) -> Job[..., Any, Any]:
        _refuse_method(function)
        return Job(default_kind(function) if kind is None else kind, function, **options)

    return decorate if executor is None else decorate(executor)


def default_kind(function: Callable[..., Any]) -> str:
    """Return `module:qualname`, with the name of the script for `__main__`; raises OptionError without such a name."""
    if not callable(function):
        raise OptionError("executor", function, 'a callable; the kind has a name: @job(kind="sum")')
    qualname = getattr(function, "__qualname__", None)
    module = module_name(getattr(function, "__module__", "__main__"))
    if qualname is None or "<lambda>" in qualname or module == "__main__":
        raise OptionError("kind", _name_of(function), "kind=, for a callable that has no importable name of its own")
    return f"{module}:{qualname}"


def _name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", None) or type(function).__name__


def _refuse_method(function: Callable[..., Any]) -> None:
    owner = getattr(function, "__qualname__", "").rpartition(".")[0]
    within = sys._getframe(2).f_locals.get("__qualname__")  # pyright: ignore[reportPrivateUsage]
    if owner and not owner.endswith("<locals>") and within == owner:
        raise TypeError(
            f"@job on the method {function.__qualname__}: a node could not supply self; "
            'decorate a function, or use Job("kind", instance.method)'
        )


class JobGroup:
    """A group of jobs with a common prefix of their kinds and common options."""

    def __init__(self, prefix: str = "", **defaults: Unpack[Options]) -> None:
        self.prefix = checked_text("prefix", prefix, MAX_KIND, least=0)
        self._defaults = checked(cast(dict[str, Any], defaults)) and defaults
        self._jobs: dict[str, Job[..., Any, Any]] = {}

    @overload
    def job(self, executor: Callable[Q, Coroutine[Any, Any, T]], /) -> Job[Q, T, Coroutine[Any, Any, T]]: ...
    @overload
    def job(self, executor: Callable[Q, T], /) -> Job[Q, T, T]: ...
    @overload
    def job(self, /, *, kind: str = ..., **options: Unpack[Options]) -> _Decorator: ...
    def job(self, executor: Any = None, /, *, kind: str | None = None, **options: Any) -> Any:
        """Like `@peerjob.job`, with the group's prefix and defaults; adds the job to the group."""
        if kind is not None:
            checked_text("kind", kind, MAX_KIND)

        def decorate(function: Callable[..., Any]) -> Job[..., Any, Any]:
            _refuse_method(function)
            name = self.prefix + (default_kind(function) if kind is None else kind)
            merged = cast(Options, {**self._defaults, **options})
            return self.add(Job(name, function, **merged))

        return decorate if executor is None else decorate(executor)

    def add(self, job: Job[P, R_co, C_co]) -> Job[P, R_co, C_co]:
        """Add a job that was defined elsewhere. A job of the same kind replaces the earlier one."""
        self._jobs[job.kind] = job
        return job

    def __iter__(self) -> Iterator[Job[..., Any, Any]]:
        return iter(self._jobs.values())

    def __len__(self) -> int:
        return len(self._jobs)


def collect_jobs(source: Job[..., Any, Any] | JobGroup | Iterable[Any] | object) -> list[Job[..., Any, Any]]:
    """Return the jobs in a job, a group, a module, `"package.module"`, or an iterable of these.

    In a module, all attributes that are jobs or groups count, imported ones included. Of several jobs of one kind with
    the same function, the first counts, and a handle counts only without a job that has a function.
    """
    if isinstance(source, Job):
        return [cast("Job[..., Any, Any]", source)]
    if isinstance(source, JobGroup):
        return list(source)
    if isinstance(source, str):
        if not _MODULE.fullmatch(source):
            raise OptionError("jobs", source, "the name of a module")
        try:
            source = importlib.import_module(source)
        except ImportError as error:
            raise OptionError("jobs", source, f"an importable module ({error})") from error
    if isinstance(source, ModuleType):
        # the executor is part of the key, so that the caller sees two functions of one kind
        jobs: dict[tuple[str, int], Job[..., Any, Any]] = {}
        for value in vars(source).values():
            if isinstance(value, Job | JobGroup):
                for job in collect_jobs(cast(Any, value)):
                    jobs.setdefault((job.kind, id(job.executor)), job)
        defined = {job.kind for job in jobs.values() if job.executor is not None}
        return [job for job in jobs.values() if job.executor is not None or job.kind not in defined]
    if isinstance(source, Iterable):
        return [job for part in cast(Iterable[Any], source) for job in collect_jobs(part)]
    raise OptionError("jobs", source, "a Job, a JobGroup, a module, or the name of a module")
