"""From a call to what is stored: the job is found, arguments and options are checked, sizes are bounded."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from msgspec import structs
from typing_extensions import TypeIs

from peerjob.clock import Clock
from peerjob.errors import OptionError, PayloadTooLargeError, ScheduleError, UnknownKindError
from peerjob.ids import IdSource
from peerjob.job import Call, Job
from peerjob.policy import LABEL, is_label, make_policy, store_overrides
from peerjob.record import NewInstance, Record, Transition
from peerjob.spec import Spec, decode_spec, encode, encode_arguments
from peerjob.state import State

from .binding import Binding
from .registry import Registry

MAX_FOREIGN = 1_000
"""Bindings kept of jobs that are not registered here."""


class Arguments(Mapping[str, Any]):
    """What a key function is given: the call's arguments by parameter name, by position, or as attributes."""

    def __init__(self, executor: Callable[..., Any] | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._positional = args
        self._named: dict[str, Any] = dict(kwargs)
        if executor is not None:
            try:
                bound = inspect.signature(executor).bind_partial(*args, **kwargs)
            except (TypeError, ValueError):
                return  # a callable without a signature: by position only
            bound.apply_defaults()
            self._named = bound.arguments

    def __getitem__(self, name: str | int) -> Any:
        return self._positional[name] if isinstance(name, int) else self._named[name]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._named[name]
        except KeyError:
            raise AttributeError(f"no argument {name!r}; there are {', '.join(self._named)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._named)

    def __len__(self) -> int:
        return len(self._named)


class Scheduling:
    """Makes `NewInstance`s. Nothing here talks to the store."""

    def __init__(
        self,
        *,
        clock: Clock,
        registry: Registry,
        max_payload: int,
        local: Callable[[], dict[str, Any] | None],
    ) -> None:
        self._clock = clock
        self._registry = registry
        self._max_payload = max_payload
        self._local = local
        self._ids = IdSource(clock)
        self._foreign: dict[tuple[str, int], Binding] = {}

    def resolve(self, target: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call[Any]:
        """The call that `schedule(target, *args, **kwargs)` means; raises UnknownKindError or TypeError."""
        if isinstance(target, Job):
            return Call(cast("Job[..., Any, Any]", target), args, kwargs)
        if _is_call(target):
            if args or kwargs:
                raise TypeError("a call has its arguments already; pass it alone")
            return target
        if isinstance(target, str):
            allowed = kwargs.pop("allow_unknown", False)
            found = self._registry.find(target)
            if found is not None:
                return Call(found, args, kwargs)
            if allowed:
                return Call(Job(target), args, kwargs)
            raise UnknownKindError(target, [job.kind for job in self._registry.jobs()])
        hint = (
            f"; make it one with Job({getattr(target, '__name__', 'kind')!r}, ...) or @job" if callable(target) else ""
        )
        raise TypeError(f"schedule() takes a Job, a call or a kind, not {type(target).__name__}{hint}")

    def new(self, call: Call[Any]) -> NewInstance:
        """What to store for one call; raises for everything that is wrong with it."""
        job = call.job
        if job.timing.recurs:
            raise ScheduleError(
                f"schedule() means one run, but job {job.kind!r} was given a recurrence (cron= or every=)"
            )
        binding = self._binding(job)
        if binding is None:
            arguments = encode_arguments(call.args, call.kwargs)
        else:
            binding.mode(job.policy.run_in)  # refuses what cannot run there
            arguments = binding.encode(call.args, call.kwargs)
        return self._instance(call, arguments)

    def again(self, record: Record) -> NewInstance:
        """A new instance like an old one, due now; its idempotency key is not repeated."""
        old = decode_spec(record.spec)
        spec = structs.replace(old, retry_of=record.id, created_us=self._clock.time_us())
        definition = self._registry.find(record.kind)
        # the rest of the options is the business of who runs it, and need not be known here
        kept = {name: old.overrides[name] for name in old.overrides.keys() & {"retention", "max_crashes"}}
        policy = make_policy(kept if definition is None else definition.options | kept)
        return NewInstance(
            id=self._ids.one(),
            kind=record.kind,
            spec=encode(spec),
            priority=record.priority,
            tags=record.tags,
            retention_us=policy.retention_us,
            max_crashes=policy.max_crashes,
        )

    def _binding(self, job: Job[..., Any, Any]) -> Binding | None:
        registered = self._registry.binding(job.kind)
        if job.executor is None:
            return registered
        known = self._registry.find(job.kind)
        if registered is not None and known is not None and known.executor is job.executor:
            return registered
        # a job that is defined here and not registered is checked all the same; its variants share a binding, which
        # keeps the executor, so that its id stays its own
        known_by = job.kind, id(job.executor)
        binding = self._foreign.get(known_by)
        if binding is None:
            if len(self._foreign) >= MAX_FOREIGN:
                del self._foreign[next(iter(self._foreign))]
            binding = self._foreign[known_by] = Binding(job)
        return binding

    def _instance(self, call: Call[Any], arguments: bytes) -> NewInstance:
        job = call.job
        registered = self._registry.find(job.kind)
        policy, executor = job.policy, job.executor
        if job.executor is None and registered is not None and registered is not job:
            # a handle, or a kind: the definition that is known here gives what the handle leaves open
            policy, executor = make_policy(registered.options | job.options), registered.executor
        overrides = store_overrides(job.overrides, self._local()) if job.overrides else {}
        spec = encode(Spec(args=arguments, overrides=overrides, created_us=self._clock.time_us(), version=job.version))
        if len(spec) > self._max_payload:
            raise PayloadTooLargeError(f"arguments of {job.kind!r}", len(spec), self._max_payload)
        timing = job.timing
        return NewInstance(
            id=self._ids.one(),
            kind=job.kind,
            spec=spec,
            priority=policy.priority,
            due_us=timing.at_us,
            delay_us=timing.after_us or None,
            key=_key(policy.key, executor, call),
            tags=policy.tags,
            retention_us=policy.retention_us,
            max_crashes=policy.max_crashes,
        )


def _is_call(target: object) -> TypeIs[Call[Any]]:
    return isinstance(target, Call)


def _key(key: Any, executor: Callable[..., Any] | None, call: Call[Any]) -> str | None:
    if not callable(key):
        return cast("str | None", key)
    made = key(Arguments(executor, call.args, call.kwargs))
    if not is_label(made):
        raise OptionError("key", made, f"{LABEL}, from key function {getattr(key, '__qualname__', key)}")
    return cast(str, made)


def fresh_record(new: NewInstance, at_us: int) -> Record:
    """The record of an instance that has just been stored, without reading it back."""
    delay = new.delay_us or 0
    return Record(
        id=new.id,
        kind=new.kind,
        state=State.SCHEDULED,
        spec=new.spec,
        priority=new.priority,
        due_us=at_us + delay if new.due_us is None else new.due_us,
        attempts=0,
        crashes=0,
        losses=0,
        fence=0,
        owner="",
        history=(Transition(State.CREATED, at_us), Transition(State.SCHEDULED, at_us)),
        key=new.key,
        tags=new.tags,
    )
