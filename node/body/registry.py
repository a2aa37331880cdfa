"""The jobs of a node, by kind and alias, with their bindings."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence, Set
from types import FunctionType
from typing import Any

from peerjob.model.errors import JobConflictError, OptionError, ScheduleError, UnknownKindError
from peerjob.model.job import Job, collect_jobs
from peerjob.model.limit import Limit, limit_numbers
from peerjob.model.limits import MAX_NODE_KINDS
from peerjob.model.published import DIGEST_BYTES, KindDescriptor
from peerjob.model.references import Trusted, module_name
from peerjob.model.stored_limit import MAX_LIMIT_KINDS, KindLimits, LimitNumbers, SharedLimit

from .binding import Binding

logger = logging.getLogger("peerjob.node")

_COMPARED = frozenset({FunctionType, str, bytes, int, float, bool})
"""Types of the outer variables of a function that are compared. Objects of other types are equal only to themselves."""


class Registry:
    """Kind → job and its binding."""

    def __init__(self, allow_references: Iterable[str] = ()) -> None:
        self._prefixes = tuple(allow_references)
        self._jobs: dict[str, Job[..., Any, Any]] = {}
        self._bindings: dict[str, Binding] = {}
        self._aliases: dict[str, str] = {}
        self._own: dict[str, tuple[Job[..., Any, Any], Binding]] = {}
        """Jobs of peerjob, which each node runs without being told. No list of the user's jobs has them."""
        self._removed: set[str] = set()
        self._kinds: tuple[str, ...] | None = None
        self.changes = 0
        """How often jobs were added or removed, for caches of what this registry answers."""
        self._rated: tuple[tuple[str, ...], Set[str]] = ((), frozenset())

    def add(self, source: Any) -> list[Job[..., Any, Any]]:
        """Register the jobs of a source. All of them are checked before the first is added.

        A later source may replace a job, as `register` does. Raises JobConflictError for two functions of one kind in
        the same source.
        """
        jobs = collect_jobs(source)
        _check_conflicts(jobs)
        compiled = [(job, Binding(job)) for job in jobs if job.executor is not None]
        self._check_names(job for job, _ in compiled)
        self._check_count(job for job, _ in compiled)
        self._check_limits(job for job, _ in compiled)
        for job, binding in compiled:
            self._warn_on_clash(job, binding)
            self._removed.discard(job.kind)
            self._jobs[job.kind] = job
            self._bindings[job.kind] = binding
            for alias in job.aliases:
                self._aliases[alias] = job.kind
        for job in jobs:
            if job.executor is None:  # a handle has no function, so this node only schedules the job
                self._jobs.setdefault(job.kind, job)
        self._changed()
        return jobs

    def add_own(self, job: Job[..., Any, Any]) -> None:
        """Register a job of peerjob itself."""
        self._own[job.kind] = job, Binding(job)
        self._changed()

    def adopt(self, jobs: Iterable[Job[..., Any, Any]]) -> list[Job[..., Any, Any]]:
        """Register jobs that this node schedules and does not run yet, without their schedules; returns them.

        A kind that `remove` took out stays out until `add` brings it back. Raises JobConflictError, with nothing
        registered, if a kind has another function.
        """
        missing: dict[str, Job[..., Any, Any]] = {}
        for job in jobs:
            executor = job.executor
            known = self.find(job.kind) or missing.get(job.kind)
            if executor is None or (known is not None and known.executor is executor):
                continue
            if job.kind in self._removed:
                continue
            if known is None or known.executor is None:
                missing[job.kind] = job.untimed()
            elif not _is_same(known.executor, executor):
                raise JobConflictError(job.kind, _described(known.executor), _described(executor))
        return self.add(list(missing.values())) if missing else []

    def remove(self, kind: str) -> Job[..., Any, Any]:
        job = self.job(kind)
        del self._jobs[job.kind]
        self._removed.add(job.kind)
        self._bindings.pop(job.kind, None)
        self._aliases = {alias: target for alias, target in self._aliases.items() if target != job.kind}
        self._changed()
        return job

    def _changed(self) -> None:
        self._kinds = None
        self.changes += 1

    def job(self, kind: str) -> Job[..., Any, Any]:
        """Return the job of a kind or alias; raises UnknownKindError."""
        job = self._jobs.get(kind) or self._jobs.get(self._aliases.get(kind, ""))
        if job is None:
            raise UnknownKindError(kind, list(self._jobs))
        return job

    def find(self, kind: str) -> Job[..., Any, Any] | None:
        """The job of a kind or alias, one of peerjob included; None if there is none."""
        job = self._jobs.get(kind) or self._jobs.get(self._aliases.get(kind, ""))
        return self._own[kind][0] if job is None and kind in self._own else job

    def runs(self, job: Job[..., Any, Any]) -> bool:
        """Whether this node runs this job; for a handle, whether it runs a job of the kind."""
        known = self.find(job.kind)
        return known is not None and known.executor is not None and job.executor in (None, known.executor)

    def binding(self, kind: str) -> Binding | None:
        """The binding of a kind or alias; None if this node does not run the kind."""
        binding = self._bindings.get(kind) or self._bindings.get(self._aliases.get(kind, ""))
        return self._own[kind][1] if binding is None and kind in self._own else binding

    def jobs(self) -> list[Job[..., Any, Any]]:
        return [self._jobs[kind] for kind in sorted(self._jobs)]

    def trusted(self, job: Job[..., Any, Any] | None = None) -> Trusted:
        """The modules whose functions stored options may name: those of `job` and of all jobs that run here."""
        known = [job for job in self._jobs.values() if job.executor is not None]
        if job is not None and job.executor is not None:
            known.append(job)
        modules = {str(getattr(job.executor, "__module__", "")) for job in known} - {""}
        return Trusted(modules=frozenset(map(module_name, modules)), prefixes=self._prefixes)

    def kinds(self) -> tuple[str, ...]:
        """Every kind that this node can claim, aliases included; the same object until the kinds change."""
        if self._kinds is None:
            aliases = sorted(alias for alias in self._aliases if alias not in self._bindings)
            self._kinds = (*sorted(self._bindings), *aliases, *self._own)
        return self._kinds

    def published(self) -> tuple[str, ...]:
        """The kinds that this node publishes: all but those of peerjob, which each release has."""
        return self.kinds()[: -len(self._own)] if self._own else self.kinds()

    def signatures(self) -> dict[str, str]:
        """Kind → hash of the signature, for kinds that run here."""
        return {kind: binding.signature_hash for kind, binding in self._bindings.items()}

    def descriptors(self) -> dict[str, KindDescriptor]:
        """What this node publishes about its kinds and aliases, without schemas; kinds with too much to say are out."""
        descriptors: dict[str, KindDescriptor] = {}
        for kind in self.published():
            binding = self.binding(kind)
            described = None if binding is None else binding.descriptor
            if described is not None:
                descriptors[kind] = KindDescriptor(kind=kind, digest=described[0], body=described[1])
        return descriptors

    def limits(self) -> list[KindLimits]:
        """The limits of each kind and alias, as this node publishes them; an alias has those of its job."""
        return [self._limits_of(kind) for kind in self.published()]

    def rated(self) -> Set[str]:
        """The kinds and aliases with a limit that has a rate."""
        if self._rated[0] is not self.kinds():
            self._rated = self.kinds(), {row.kind for row in self.limits() if any(map(_has_rate, row.shared))}
        return self._rated[1]

    def _limits_of(self, kind: str) -> KindLimits:
        policy = self.job(kind).policy
        shared = tuple(
            SharedLimit(name=limit.name, numbers=_numbers(limit)) for limit in policy.limits if isinstance(limit, Limit)
        )
        concurrency = 0 if policy.key_limit is None else policy.key_limit.concurrency
        return KindLimits(kind=kind, shared=shared, key_concurrency=concurrency)

    def digests(self) -> bytes:
        """The digests of the descriptors, as in `NodeInfo.descriptors`."""
        bindings = [None if kind in self._own else self.binding(kind) for kind in self.kinds()]
        described = [None if binding is None else binding.descriptor for binding in bindings]
        return b"".join(bytes(DIGEST_BYTES) if encoded is None else encoded[0] for encoded in described)

    def _check_names(self, added: Iterable[Job[..., Any, Any]]) -> None:
        """Refuse two jobs that define the same schedule: each would overwrite the other."""
        jobs = {kind: self._jobs[kind] for kind in self._bindings} | {job.kind: job for job in added}
        taken: dict[str, str] = {}
        for kind, job in jobs.items():
            if job.timing.recurs and taken.setdefault(job.schedule_name, kind) != kind:
                raise ScheduleError(
                    f"jobs {taken[job.schedule_name]!r} and {kind!r} both define the schedule {job.schedule_name!r}; "
                    "give one of them another name="
                )

    def _check_count(self, added: Iterable[Job[..., Any, Any]]) -> None:
        """Refuse more kinds than MAX_NODE_KINDS."""
        kinds = {*self._bindings, *self._aliases}
        for job in added:
            kinds |= {job.kind, *job.aliases}
        if len(kinds) > MAX_NODE_KINDS:
            raise OptionError("jobs", f"{len(kinds):,} kinds and aliases", f"at most {MAX_NODE_KINDS:,} on one node")

    def _check_limits(self, added: Iterable[Job[..., Any, Any]]) -> None:
        """Refuse two limits of one name with different numbers, and a limit of more kinds than MAX_LIMIT_KINDS."""
        jobs = {kind: self._jobs[kind] for kind in self._bindings} | {job.kind: job for job in added}
        known: dict[str, Limit] = {}
        kinds = Counter[str]()
        for job in jobs.values():
            for limit in job.policy.limits:
                if not isinstance(limit, Limit):
                    continue
                if _numbers(known.setdefault(limit.name, limit)) != _numbers(limit):
                    raise OptionError("limits", limit, f"the numbers of {known[limit.name]}, which has the same name")
                kinds[limit.name] += 1 + len(job.aliases)
                if kinds[limit.name] > MAX_LIMIT_KINDS:
                    raise OptionError("limits", limit.name, f"a limit that at most {MAX_LIMIT_KINDS} kinds share")

    def _warn_on_clash(self, job: Job[..., Any, Any], binding: Binding) -> None:
        old = self._bindings.get(job.kind)
        if old is not None and old.signature_hash != binding.signature_hash:
            logger.warning("job %r is registered again with another signature; it replaces the old job", job.kind)


def _is_same(value: Any, other: Any, compared: Set[tuple[int, int]] = frozenset()) -> bool:
    """Whether two executors are the same function, or come from the same `def`, which ran twice.

    A function runs its inner `def` at each call. A script that another module imports by its name runs twice, too.
    """
    if value == other or (id(value), id(other)) in compared:
        return True
    if not isinstance(value, FunctionType) or not isinstance(other, FunctionType):
        return False
    return (
        value.__code__ == other.__code__
        and value.__defaults__ == other.__defaults__
        and value.__kwdefaults__ == other.__kwdefaults__
        and (value.__globals__ is other.__globals__ or _source(value) == _source(other))
        and _are_same_cells(value, other, compared | {(id(value), id(other))})
    )


def _are_same_cells(function: FunctionType, other: FunctionType, compared: Set[tuple[int, int]]) -> bool:
    """Whether the functions use the same variables of the functions around them, as decorated ones do."""
    try:
        pairs = [
            (cell.cell_contents, its.cell_contents)
            for cell, its in zip(function.__closure__ or (), other.__closure__ or (), strict=True)
        ]
    except ValueError:  # a variable without a value
        return False
    return all(
        value is its or (type(value) is type(its) and type(value) in _COMPARED and _is_same(value, its, compared))
        for value, its in pairs
    )


def _numbers(limit: Limit) -> LimitNumbers:
    return limit_numbers(limit.concurrency, limit.rate, limit.burst)


def _has_rate(limit: SharedLimit) -> bool:
    return limit.numbers.period_us > 0


def _source(function: FunctionType) -> tuple[str, str] | object:
    """The file and module of a function; an object that equals nothing else for code without a file."""
    file = function.__code__.co_filename
    return object() if file.startswith("<") else (file, module_name(str(function.__globals__.get("__name__"))))


def _check_conflicts(jobs: Iterable[Job[..., Any, Any]]) -> None:
    """Raise JobConflictError for jobs of one kind with different functions: only one of them would run."""
    functions: dict[str, Callable[..., Any]] = {}
    for job in jobs:
        if job.executor is not None:
            first = functions.setdefault(job.kind, job.executor)
            if first is not job.executor and not _is_same(first, job.executor):
                raise JobConflictError(job.kind, _described(first), _described(job.executor))


def _described(executor: Callable[..., Any]) -> str:
    code = getattr(executor, "__code__", None)
    name = getattr(executor, "__qualname__", None) or type(executor).__qualname__
    module = getattr(executor, "__module__", None)
    where = "" if code is None else f" (line {code.co_firstlineno})"
    return f"{module}:{name}{where}" if module else f"{name}{where}"


def checked_modules(given: Sequence[str]) -> tuple[str, ...]:
    """Return the names of modules and packages; raises OptionError."""
    if isinstance(given, str) or not all(part.isidentifier() for name in given for part in name.split(".")):
        raise OptionError("allow_references", given, "a list of names of modules")
    return tuple(given)
