"""The interface to schedule, look up, wait for and cancel instances, the same in process and over the network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Literal, ParamSpec, TypeVar, overload
from uuid import UUID

from peerjob.model.clock import Clock
from peerjob.model.codec import decode_value
from peerjob.model.durations import Duration
from peerjob.model.firing import Leader
from peerjob.model.injected import Injectable, Injection
from peerjob.model.job import Call, Job, JobGroup
from peerjob.model.query import Filter, Query, ResultPage
from peerjob.model.record import LogLine, NodeView, Record
from peerjob.model.state import State

from .instance import HistoryEntry, Instance, LogEntry
from .schedule import Backfill, FireEntry, Schedule, ScheduleView

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that `watch` saw: a state, a log line, or progress."""

    what: Literal["state", "log", "progress"]
    instance: Instance[Any]
    """As it was just read."""
    state: State
    log: LogEntry | None = None
    entry: HistoryEntry | None = None


@dataclass(frozen=True, kw_only=True)
class Stats:
    """Numbers of the whole namespace, without a scan."""

    counts: dict[str, dict[State, int]] = field(default_factory=dict[str, dict[State, int]])
    """Kind → state → instances."""
    delayed: int = 0
    nodes: int = 0
    undecodable: int = 0
    """Records that were set aside because they could not be read."""
    unserved: dict[str, int] = field(default_factory=dict[str, int])
    """Kinds with instances queued that no live node can run, and how many of them wait."""

    def total(self, state: State = State.ALL, kind: str | None = None) -> int:
        """Instances in a state (composites too), of one kind or of all."""
        kinds = self.counts.values() if kind is None else [self.counts.get(kind, {})]
        return sum(count for states in kinds for one, count in states.items() if one & state)


class Manager(Injectable, ABC):
    """Schedules, looks up, waits for and cancels instances. `Node` implements it."""

    injected_as: ClassVar[Injection] = "manager"

    clock: Clock

    # -- jobs ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def register(self, source: Job[..., Any, Any] | JobGroup | str | Iterable[Any] | object) -> None:
        """Add jobs; the same kind again replaces the job, and warns when its signature differs."""

    @abstractmethod
    def unregister(self, kind: str) -> Job[..., Any, Any]:
        """Remove a job; what is queued of it waits for a node that has it. Raises UnknownKindError."""

    @abstractmethod
    def jobs(self) -> list[Job[..., Any, Any]]:
        """The registered jobs, by kind."""

    @abstractmethod
    def job(self, kind: str) -> Job[..., Any, Any]:
        """The job of a kind or alias; raises UnknownKindError."""

    # -- scheduling --------------------------------------------------------------------------------------------------

    @overload
    async def schedule(self, job: Job[P, R, Any], /, *args: P.args, **kwargs: P.kwargs) -> Instance[R]: ...
    @overload
    async def schedule(self, job: Call[R], /) -> Instance[R]: ...
    @overload
    async def schedule(self, job: str, /, *args: Any, allow_unknown: bool = False, **kwargs: Any) -> Instance[Any]: ...
    async def schedule(self, job: Any, /, *args: Any, **kwargs: Any) -> Instance[Any]:
        """Store one run of a job and return its instance; when this returns, the run cannot be lost.

        Raises ArgumentError, UnknownKindError, PayloadTooLargeError, OptionError or ScheduleError before anything is
        stored, StoreUnavailableError or StoreFullError when the store cannot take it.
        """
        return await self._schedule(job, args, kwargs)

    @abstractmethod
    async def _schedule(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Instance[Any]: ...

    @abstractmethod
    async def schedule_many(self, calls: Iterable[Call[R]]) -> list[Instance[R]]:
        """Store many runs, in batches; every call is checked before the first is stored."""

    # -- reading -----------------------------------------------------------------------------------------------------

    @overload
    async def lookup_instance(self, uuid: str | UUID, job: None = None) -> Instance[Any]: ...
    @overload
    async def lookup_instance(self, uuid: str | UUID, job: Job[..., R, Any]) -> Instance[R]: ...
    async def lookup_instance(self, uuid: str | UUID, job: Job[..., Any, Any] | None = None) -> Instance[Any]:
        """One instance by id, and of this job if one is given; raises UnknownInstanceError."""
        return await self._lookup_instance(uuid, job)

    @abstractmethod
    async def _lookup_instance(self, uuid: str | UUID, job: Job[..., Any, Any] | None) -> Instance[Any]: ...

    @abstractmethod
    async def lookup_instances(self, query: Query | None = None) -> ResultPage[Instance[Any]]:
        """A page of instances, by time of creation; go on with `query.at(page.cursor)`."""

    async def iter_instances(self, query: Query | None = None) -> AsyncIterator[Instance[Any]]:
        """Every instance that matches, page by page."""
        query = query or Query()
        while True:
            page = await self.lookup_instances(query)
            for instance in page:
                yield instance
            if page.cursor is None:
                return
            query = query.at(page.cursor)

    @abstractmethod
    async def lookup_history(self, query: Query | None = None) -> ResultPage[HistoryEntry]:
        """State changes of a page of matching instances, each instance's oldest first; `state` picks entries."""

    @abstractmethod
    async def lookup_logs(self, query: Query | None = None) -> ResultPage[LogEntry]:
        """Log lines of a page of matching instances, each instance's oldest first; `level` picks lines."""

    @abstractmethod
    def iter_logs(self, uuid: str | UUID, *, follow: bool = False) -> AsyncIterator[LogLine]:
        """The log lines of one instance, oldest first: those that are stored.

        With `follow` those to come, too, until it is final; it then raises UnknownInstanceError.
        """

    def keep_line(self, id: str, level: int, message: str, fields: Mapping[str, object] | None = None) -> None:
        """Keep a log line of an instance that does not run here, in the background; `level` is a `logging` number.

        May be called from any thread. A manager that cannot do so drops the line.
        """

    @abstractmethod
    async def count(self, query: Query | None = None) -> int:
        """How many instances match; without a scan when only kind and state are given."""

    @abstractmethod
    async def stats(self) -> Stats:
        """Counts per kind and state."""

    # -- acting ------------------------------------------------------------------------------------------------------

    @abstractmethod
    async def cancel_instances(self, query: Query) -> list[Instance[Any]]:
        """Cancel what matches and is not final, queued or running, on whatever node; returns those cancelled."""

    @abstractmethod
    async def cancel_instance(self, uuid: str | UUID) -> bool:
        """Cancel one; False when it was final already. Raises UnknownInstanceError."""

    @abstractmethod
    async def retry_instances(self, query: Query) -> list[Instance[Any]]:
        """Schedule new instances for final ones that match; each has `retry_of`."""

    @abstractmethod
    async def retry_instance(self, uuid: str | UUID) -> Instance[Any]:
        """Schedule a new instance with the arguments and options of this one."""

    @abstractmethod
    async def clear_instances(self, filter: Filter | None = None) -> int:
        """Remove final instances that match, with all that belongs to them; how many."""

    @abstractmethod
    async def clear_history(self, filter: Filter | None = None) -> int:
        """Fold the history of final instances that match to its last entry; how many instances."""

    @abstractmethod
    async def clear_logs(self, filter: Filter | None = None) -> int:
        """Remove the logs of final instances that match; how many instances."""

    @abstractmethod
    async def clear(self) -> None:
        """Remove every instance of this namespace; registered jobs stay."""

    # -- schedules ---------------------------------------------------------------------------------------------------

    @overload
    async def add_schedule(self, job: Job[P, Any, Any], /, *args: P.args, **kwargs: P.kwargs) -> Schedule: ...
    @overload
    async def add_schedule(self, job: Call[Any], /) -> Schedule: ...
    @overload
    async def add_schedule(self, job: str, /, *args: Any, **kwargs: Any) -> Schedule: ...
    async def add_schedule(self, job: Any, /, *args: Any, **kwargs: Any) -> Schedule:
        """Make the schedule of a job with a recurrence, `job.with_options(cron=..., name=...)`, or change it.

        Its name is `name=`, else the kind; there is one of a name in the cluster. A change takes effect at once and
        keeps a pause; the same again changes nothing. Raises ScheduleError for a job without a recurrence, and
        otherwise what `schedule` raises.
        """
        return await self._add_schedule(job, args, kwargs)

    @abstractmethod
    async def _add_schedule(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Schedule: ...

    @abstractmethod
    async def schedules(self) -> list[Schedule]:
        """Every schedule, by name; also those whose definition cannot be read here."""

    @abstractmethod
    async def lookup_schedule(self, name: str) -> Schedule:
        """One schedule; raises UnknownScheduleError."""

    @abstractmethod
    async def pause_schedule(self, schedule: ScheduleView | str, note: str = "") -> Schedule:
        """Let it fire no more until `resume_schedule`, also across restarts and changes; `note` says why.

        On a paused one only the note changes. What runs goes on. Raises UnknownScheduleError.
        """

    @abstractmethod
    async def resume_schedule(self, schedule: ScheduleView | str) -> Schedule:
        """Let it fire again, from its next nominal time on; those of the pause are recorded as paused.

        Does nothing to one that is not paused. Raises UnknownScheduleError.
        """

    @abstractmethod
    async def trigger_schedule(self, schedule: ScheduleView | str) -> Instance[Any] | None:
        """Make one instance now, beside the nominal times, also while it is paused.

        `overlap` holds for it too: None when nothing was made because an instance of the schedule is not over, or has
        the job's key; `fires` says which. Raises UnknownScheduleError.
        """

    @abstractmethod
    async def remove_schedule(self, schedule: ScheduleView | str) -> bool:
        """Remove it with its ledger; False when there is none. Its instances stay.

        That of a job that is defined with a recurrence comes back with the next start of a node that registers it.
        """

    @abstractmethod
    async def backfill(self, schedule: ScheduleView | str, start: datetime, end: datetime) -> Backfill:
        """Make an instance for each nominal time from `start` on and before `end` that never had one.

        Goes by the present definition, in steps, also while it is paused; called again it goes on where it stopped.
        Raises UnknownScheduleError, and ScheduleError for naive times or too many of them.
        """

    @abstractmethod
    async def fires(
        self,
        schedule: ScheduleView | str,
        *,
        after: datetime | None = None,
        before: datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> ResultPage[FireEntry]:
        """A page of the ledger: what became of each nominal time, the latest first; go on with `cursor=page.cursor`.

        `after` is inclusive, `before` exclusive, `limit` at most 10,000. The pause that still goes on stands in the
        first page, beyond the limit. Raises UnknownScheduleError.
        """

    @abstractmethod
    async def next_fires(self, schedule: ScheduleView | str, n: int = 5) -> list[datetime]:
        """The next `n` nominal times (1 to 1,000), without jitter; of a paused one, as if it were resumed now.

        Raises UnknownScheduleError.
        """

    def read_result(self, record: Record, job: Job[..., Any, Any] | None = None) -> Any:
        """The result of a Completed instance, converted by the return annotation of its job where that is known.

        The job is `job`, else the one that is registered here. Raises DecodeError or ResultTypeError.
        """
        return None if record.result is None else decode_value(record.result)

    # -- cluster -----------------------------------------------------------------------------------------------------

    @abstractmethod
    async def nodes(self) -> list[NodeView]:
        """The live nodes: what each can run, how busy it is, and when it was last heard of."""

    @abstractmethod
    async def leader(self) -> Leader | None:
        """The node that fires the schedules, as far as is known here; None while nobody is known to."""

    # -- waiting -----------------------------------------------------------------------------------------------------

    @abstractmethod
    async def wait_final(self, uuid: str | UUID, timeout: Duration | None = None) -> Record:
        """The record of one instance, once it is final; raises TimeoutError, UnknownInstanceError."""

    @abstractmethod
    async def wait(self, query: Query | None = None, timeout: Duration | None = None) -> None:
        """Wait until nothing that matches is queued or running; raises TimeoutError."""

    @abstractmethod
    def watch(
        self, query: Query | None = None, *, on_begin: Callable[[], Awaitable[object]] | None = None
    ) -> AsyncIterator[Event]:
        """Yield state changes, log lines and progress of the instances that match, as they happen.

        The stream begins when the first event is awaited.
        `on_begin` is called as soon as no further event can be missed.
        """
