"""Makes stored records of calls: finds the job, and checks arguments, options and sizes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from msgspec import Struct, structs
from typing_extensions import TypeIs

from peerjob.model.clock import Clock
from peerjob.model.codec import decode_value
from peerjob.model.definition import Definition
from peerjob.model.durations import to_micros
from peerjob.model.errors import ArgumentError, OptionError, PayloadTooLargeError, ScheduleError
from peerjob.model.hashed import hashed_up_to
from peerjob.model.ids import IdSource
from peerjob.model.job import Call, Job, refuse_flow_kind
from peerjob.model.limit import KeyLimit
from peerjob.model.limits import MAX_KEY, MAX_LIMIT_NAME, checked_text
from peerjob.model.policy import Policy, make_policy, store_overrides
from peerjob.model.record import NewInstance, Record, Transition
from peerjob.model.signature import analyse
from peerjob.model.spec import Spec, decode_spec, encode, encode_arguments
from peerjob.model.state import State
from peerjob.node.body.binding import Binding
from peerjob.node.body.call_parameters import CallParameters, check_count
from peerjob.node.body.registry import Registry

from .kind_rules import DescribedKind, KindRule
from .loop_pauses import list_with_pauses

_KEY_ELSEWHERE = (
    "a key of this call (key=), or a template such as 'user/{user}' in the job's definition: only nodes with the code "
    "of the job can call the function"
)
_LIMIT_KEY_ELSEWHERE = (
    "a key that this node can make: a template such as KeyLimit('tenant/{tenant}'), because only nodes with the code "
    "of the job can call a function"
)
# each call needs these members, and Python finds a name of a module in a small part of the time
_CREATED, _SCHEDULED = State.CREATED, State.SCHEDULED
_NO_OVERRIDES: dict[str, Any] = {}
MAX_UNREGISTERED = 1_000
"""Most bindings that are cached for jobs that are not registered; the oldest is dropped first."""
MAX_LOOKUPS = 1_000
"""Most definitions whose binding is kept; when there are more, all are looked up again."""


class Arguments(Mapping[str, Any]):
    """The arguments of a call, for a key function: by parameter name, by position, or as attributes."""

    def __init__(self, executor: Callable[..., Any] | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._positional = args
        self._named: dict[str, Any] = dict(kwargs)
        if executor is not None:
            try:
                bound = inspect.signature(executor).bind_partial(*args, **kwargs)
            except (TypeError, ValueError):
                return  # the callable has no signature, so positional arguments have no names
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


class _Lookup(Struct, frozen=True):
    """What the registry has of a definition, until the registry changes."""

    job: Job[..., Any, Any]
    changes: int
    """How often the registry had changed."""
    binding: Binding | None
    registered: Job[..., Any, Any] | None
    """The registered job of the kind."""
    plain: Binding | None
    """The binding, if only id and spec of an instance depend on the call: it is due now, and has no key of any kind.

    The definition then has an own function, whose binding is the same after a change of the registry.
    """
    version: int


class CallEncoder:
    """Makes new instances and definitions of schedules; does not use the store."""

    def __init__(
        self,
        *,
        clock: Clock,
        registry: Registry,
        max_payload: int,
        timezone: str,
        local_objects: Callable[[], dict[str, Any] | None],
    ) -> None:
        self._clock = clock
        self._registry = registry
        self.max_payload = max_payload
        """Most bytes of the arguments of a call. A store with a lower limit lowers this number when the node starts."""
        self._timezone = timezone
        self._local_objects = local_objects
        self.ids = IdSource(clock)
        """The ids of new instances."""
        self.carrier: Callable[[], dict[str, str]] = dict
        """Returns the trace context to store with a new instance; empty on a node that makes no traces."""
        self.rule_of: Callable[[str], KindRule | None] = lambda kind: None
        """Returns what is known of a kind whose code is elsewhere; None on a client, whose node knows."""
        self._unregistered: dict[tuple[str, int], Binding] = {}
        self._lookups: dict[int, _Lookup] = {}
        """By the id() of a definition: what `_find` returned."""

    def resolve(self, target: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call[Any]:
        """Make the call of `schedule(target, *args, **kwargs)`; raises OptionError, ArgumentError.

        A kind that is not registered here becomes a handle; the caller checks whether a node knows the kind.
        """
        if isinstance(target, Job):
            return Call(cast("Job[..., Any, Any]", target), args, kwargs)
        if _is_call(target):
            if args or kwargs:
                raise ArgumentError(target.job.kind, ["a call has its arguments already; pass it alone"])
            return target
        if isinstance(target, str):
            refuse_flow_kind(target)
            return Call(self._registry.find(target) or Job(target), args, kwargs)
        hint = (
            f"; make it one with Job({getattr(target, '__name__', 'kind')!r}, ...) or @job" if callable(target) else ""
        )
        raise OptionError("job", target, f"a Job, a call or a kind{hint}")

    def new(self, call: Call[Any], new_id: str = "") -> NewInstance:
        """Make the instance to store for one call; raises an error for a call that is not valid.

        `new_id` is the id of the instance; "" for the next one.
        """
        job = call.job
        known = self._lookups.get(id(job))
        if known is not None and known.job is job and known.plain is not None:
            spec = self._spec(
                job.kind,
                known.plain.encode(call.args, call.kwargs),
                _NO_OVERRIDES,
                self._clock.time_us(),
                known.version,
                self.carrier(),
            )
            return _plain_instance(job, new_id or self.ids.one(), spec)
        timing = job.timing
        if (
            job.overrides
            and timing.recurs
            and {"cron", "every"} & job.overrides.keys()
            and self._registry.find(job.kind) is not job
        ):
            raise ScheduleError(
                f"schedule() means one run, but this variant of job {job.kind!r} was given a recurrence (cron= or "
                "every=); add_schedule() takes it"
            )
        policy, spec, key, limit_key = self._encode(call, job.overrides, self._clock.time_us(), self.carrier())
        limit = policy.key_limit
        return NewInstance(
            id=new_id or self.ids.one(),
            kind=job.kind,
            spec=spec,
            priority=policy.priority,
            due_us=None if timing.at_us is None else timing.at_us + self._jitter_us(job),
            delay_us=None if timing.after_us is None else (timing.after_us + self._jitter_us(job)) or None,
            key=key,
            tags=policy.tags,
            retention_us=policy.retention_us,
            max_crashes=policy.max_crashes,
            limit_key=limit_key,
            key_concurrency=0 if limit is None else limit.concurrency,
        )

    async def plain(self, calls: Sequence[Call[Any]], ids: Iterable[str]) -> Iterator[NewInstance] | None:
        """Check calls of one definition, and return an iterator that makes their instances; raises as `new` does.

        None, without a check, if another part of the instances than id and spec depends on the call, or if the
        definition is new here.
        """
        job = calls[0].job
        known = self._lookups.get(id(job))
        if known is None or known.job is not job or known.plain is None:
            return None
        kind, version = job.kind, known.version
        given = [call.args for call in calls], [call.kwargs for call in calls]
        encoded = await list_with_pauses(map(known.plain.encode, *given))
        now_us, trace = self._clock.time_us(), self.carrier()
        self._spec(kind, max(encoded, key=len), _NO_OVERRIDES, now_us, version, trace)  # raises if it is too large
        return (
            _plain_instance(job, id, encode(Spec(args=arguments, created_us=now_us, version=version, trace=trace)))
            for arguments, id in zip(encoded, ids, strict=False)
        )

    def _jitter_us(self, job: Job[..., Any, Any]) -> int:
        """Draw the microseconds by which one run is due later than `at` or `after` says."""
        timing = job.timing
        if timing.draw_jitter is not None:
            return to_micros(timing.draw_jitter(), "jitter")
        if timing.hashed:
            return hashed_up_to(timing.jitter_us, job.schedule_name)
        return self._clock.random.randint(0, timing.jitter_us)

    def definition(self, call: Call[Any], *, registered: bool = False) -> tuple[str, Definition]:
        """Make the name and definition of the schedule of a call; raises an error for a call that is not valid.

        The options of a job that is `registered`, or about to be, are not stored: each node that runs the kind has
        them.
        """
        job, timing = call.job, call.job.timing
        if not timing.recurs:
            raise ScheduleError(f"job {job.kind!r} has no recurrence; give it one with with_options(cron=) or (every=)")
        if timing.draw_jitter is not None:
            raise ScheduleError(
                f"job {job.kind!r}: jitter= is a function, which a schedule cannot store; "
                "give it a duration, Jitter.random(...) or Jitter.hashed(...)"
            )
        known = registered or self._registry.find(job.kind) is job
        policy, spec, key, limit_key = self._encode(call, {} if known else job.overrides, 0, {})
        limit = policy.key_limit
        return job.schedule_name, Definition(
            kind=job.kind,
            spec=spec,
            cron=timing.cron,
            every_us=timing.every_us,
            timezone=timing.timezone or (self._timezone if timing.cron is not None else "UTC"),
            jitter_us=timing.jitter_us,
            hashed=timing.hashed,
            overlap=timing.overlap,
            queue_limit=timing.queue_limit,
            misfire=timing.misfire,
            misfire_limit=timing.misfire_limit,
            start_deadline_us=timing.start_deadline_us,
            priority=policy.priority,
            key=key,
            limit_key=limit_key,
            key_concurrency=0 if limit is None else limit.concurrency,
            tags=policy.tags,
            retention_us=policy.retention_us,
            max_crashes=policy.max_crashes,
            version=job.version,
            description=job.options.get("description", ""),
        )

    def defined(self, jobs: Iterable[Job[..., Any, Any]]) -> dict[str, Definition]:
        """The schedules, by name, of the jobs that have a recurrence and can run here."""
        return dict(
            self.definition(job.call(), registered=True)
            for job in jobs
            if job.timing.recurs and job.executor is not None
        )

    def again(self, record: Record) -> NewInstance:
        """Make an instance like an old one, due now, without its idempotency key."""
        old = decode_spec(record.spec)
        spec = structs.replace(old, retry_of=record.id, created_us=self._clock.time_us(), trace=self.carrier())
        definition, rule = self._registry.find(record.kind), self.rule_of(record.kind)
        options = dict(rule.described[0].options) if rule is not None and rule.described else {}
        if definition is not None:
            options |= definition.options
        # a store needs only these two options; the node that runs the instance reads the other options from the spec
        kept = {name: old.overrides[name] for name in old.overrides.keys() & {"retention", "max_crashes"}}
        policy = make_policy(options | kept)
        described = rule.described[0] if rule is not None and rule.described and definition is None else None
        limit = self._checked_limit(record.kind, policy, described, rule)
        limit_key = ""
        if limit is not None:
            job = definition or Job[..., Any, Any](record.kind)
            args, kwargs = decode_value(old.args)
            parameters = self._registry.binding(record.kind) if described is None else described.parameters
            limit_key = self._limit_key(limit, job.executor, Call(job, tuple(args), kwargs), parameters)
        return NewInstance(
            id=self.ids.one(),
            kind=record.kind,
            spec=encode(spec),
            priority=record.priority,
            tags=record.tags,
            retention_us=policy.retention_us,
            max_crashes=policy.max_crashes,
            limit_key=limit_key,
            key_concurrency=0 if limit is None else limit.concurrency,
        )

    def read_result(self, record: Record, job: Job[..., Any, Any] | None) -> Any:
        """See `Manager.read_result`."""
        binding = self._registry.binding(record.kind) if job is None else self._binding(job)
        if binding is None:
            return None if record.result is None else decode_value(record.result)
        return binding.result.read(record)

    def _binding(self, job: Job[..., Any, Any]) -> Binding | None:
        registered = self._registry.binding(job.kind)
        if job.executor is None:
            return registered
        known = self._registry.find(job.kind)
        if registered is not None and known is not None and known.executor is job.executor:
            return registered
        # Calls of an unregistered job are checked too, by one binding for all variants of the job. The binding keeps
        # the executor alive, so that no other object gets the same id().
        cached_by = job.kind, id(job.executor)
        binding = self._unregistered.get(cached_by)
        if binding is None:
            if len(self._unregistered) >= MAX_UNREGISTERED:
                del self._unregistered[next(iter(self._unregistered))]
            binding = self._unregistered[cached_by] = Binding(job)
        return binding

    def _find(self, job: Job[..., Any, Any]) -> tuple[Binding | None, Job[..., Any, Any] | None]:
        """The binding of a job, and the registered job of its kind; raises OptionError for a job that cannot run.

        Most calls are of a few definitions, so the answer is kept until the registry changes. A variant, as
        `with_options` makes for each call, is looked up each time.
        """
        known, changes = self._lookups.get(id(job)), self._registry.changes
        if known is not None and known.job is job and known.changes == changes:
            return known.binding, known.registered
        binding, registered = self._binding(job), self._registry.find(job.kind)
        if binding is not None:
            binding.mode(job.policy.run_in)  # raises OptionError for a job that cannot run as `run_in` says
        if job.base is None:
            if len(self._lookups) >= MAX_LOOKUPS:
                self._lookups.clear()
            timing, policy = job.timing, job.policy
            depends = timing.at_us is not None or timing.after_us is not None or policy.key_limit is not None
            plain = None if depends or policy.key is not None or job.overrides or job.executor is None else binding
            self._lookups[id(job)] = _Lookup(job, changes, binding, registered, plain, job.version)
        return binding, registered

    def _encode(
        self, call: Call[Any], overrides: dict[str, Any], created_us: int, trace: dict[str, str]
    ) -> tuple[Policy, bytes, str | None, str]:
        """Make the policy, the encoded spec, the idempotency key and the key of the key limit ("": none) of a call."""
        job = call.job
        binding, registered = self._find(job)
        rule: KindRule | None = None
        described: DescribedKind | None = None
        if binding is not None:
            arguments = binding.encode(call.args, call.kwargs)
        elif (rule := self.rule_of(job.kind)) is not None:
            arguments, described = rule.encode(call.args, call.kwargs)
        else:
            check_count(job.kind, call.args, call.kwargs)
            arguments = encode_arguments(call.args, call.kwargs)
        policy, executor = job.policy, job.executor
        if described is not None:
            # a kind whose code is elsewhere takes the options that are not set here from the nodes with the code
            here = job.options if registered is None or registered is job else registered.options | job.options
            policy = make_policy(described.options | here) if here else described.policy
        elif job.executor is None and registered is not None and registered is not job:
            # a handle, or a kind as text, takes the options that it does not set from the registered job
            policy, executor = make_policy(registered.options | job.options), registered.executor
        stored = store_overrides(overrides, self._local_objects(), self._registry.trusted(job)) if overrides else {}
        spec = self._spec(job.kind, arguments, stored, created_us, job.version, trace)
        key = policy.key
        if key is None:
            if described is not None and described.has_key_function and "key" not in job.options:
                raise OptionError("key", f"a function of job {job.kind!r}", _KEY_ELSEWHERE)
        elif isinstance(key, str) and ("{" in key or "}" in key) and "key" not in job.overrides:
            key = self._from_template(key, call, binding if described is None else described.parameters)
        limit_key = ""
        if policy.key_limit is not None or rule is not None:
            limit = self._checked_limit(job.kind, policy, described, rule)
            if limit is not None:
                parameters = binding if described is None else described.parameters
                limit_key = self._limit_key(limit, executor, call, parameters)
        return policy, spec, None if key is None else _key(key, executor, call), limit_key

    def _spec(
        self, kind: str, args: bytes, overrides: dict[str, Any], created_us: int, version: int, trace: dict[str, str]
    ) -> bytes:
        """Encode a spec; raises PayloadTooLargeError."""
        spec = encode(Spec(args=args, overrides=overrides, created_us=created_us, version=version, trace=trace))
        if len(spec) > self.max_payload:
            raise PayloadTooLargeError(f"arguments of {kind!r}", len(spec), self.max_payload)
        return spec

    def _from_template(
        self, template: str, call: Call[Any], parameters: CallParameters | None, most: int = MAX_KEY
    ) -> str:
        if parameters is None:  # the parameters are not known here, so only arguments by name have a name
            parameters = CallParameters(call.job.kind, analyse(_anything))
        return checked_text(f"key (from {template!r})", parameters.key(template, call.args, call.kwargs), most)

    @staticmethod
    def _checked_limit(
        kind: str, policy: Policy, described: DescribedKind | None, rule: KindRule | None
    ) -> KeyLimit | None:
        """The key limit of a kind; raises OptionError if the kind has one whose key cannot be made here."""
        if policy.key_limit is None and (
            (described is not None and described.has_limited_keys) or (rule is not None and rule.has_key_limit)
        ):
            raise OptionError("limits", f"the key limit of job {kind!r}", _LIMIT_KEY_ELSEWHERE)
        return policy.key_limit

    def _limit_key(
        self, limit: KeyLimit, executor: Callable[..., Any] | None, call: Call[Any], parameters: CallParameters | None
    ) -> str:
        """The key of a call for the key limit of its kind."""
        if isinstance(limit.key, str):
            return self._from_template(limit.key, call, parameters, MAX_LIMIT_NAME)
        try:
            made = limit.key(Arguments(executor, call.args, call.kwargs))
        except Exception as error:
            problem = f"the key function of its KeyLimit raised {type(error).__name__}: {error}"
            raise ArgumentError(call.job.kind, [problem]) from error
        return checked_text(_source(limit.key), made, MAX_LIMIT_NAME)


def _plain_instance(job: Job[..., Any, Any], id: str, spec: bytes) -> NewInstance:
    policy = job.policy
    return NewInstance(
        id=id,
        kind=job.kind,
        spec=spec,
        priority=policy.priority,
        tags=policy.tags,
        retention_us=policy.retention_us,
        max_crashes=policy.max_crashes,
    )


def _is_call(target: object) -> TypeIs[Call[Any]]:
    return isinstance(target, Call)


def _anything(*args: Any, **kwargs: Any) -> None:
    """Stand for a callable whose parameters are not known here."""


def _key(key: str | Callable[[Any], Any], executor: Callable[..., Any] | None, call: Call[Any]) -> str:
    if isinstance(key, str):
        return key
    made = key(Arguments(executor, call.args, call.kwargs))
    return checked_text(_source(key), made, MAX_KEY)


def _source(key: Callable[..., Any]) -> str:
    return f"key (from function {getattr(key, '__qualname__', key)})"


def fresh_history(at_us: int) -> tuple[Transition, ...]:
    """Make the history of instances that have just been stored."""
    return Transition(_CREATED, at_us), Transition(_SCHEDULED, at_us)


def fresh_record(new: NewInstance, at_us: int, history: tuple[Transition, ...] = ()) -> Record:
    """Make the record of an instance that has just been stored, without reading it.

    `history` is `fresh_history(at_us)`, for callers that make many records of the same time.
    """
    delay = new.delay_us or 0
    return Record(
        id=new.id,
        kind=new.kind,
        state=_SCHEDULED,
        spec=new.spec,
        priority=new.priority,
        due_us=at_us + delay if new.due_us is None else new.due_us,
        attempts=0,
        crashes=0,
        losses=0,
        fence=0,
        owner="",
        history=history or fresh_history(at_us),
        key=new.key,
        tags=new.tags,
    )
