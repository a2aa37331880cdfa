"""The verbs to schedule, look up, wait for and cancel instances, the same in process and over the network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from datetime import datetime
from typing import Any, ClassVar, ParamSpec, TypeVar, overload
from uuid import UUID

from peerjob.model.activity import Activity
from peerjob.model.arguments import type_verbs, typed
from peerjob.model.audit import AuditRecord
from peerjob.model.clock import Clock
from peerjob.model.codec import decode_value
from peerjob.model.durations import Duration
from peerjob.model.firing import Leader
from peerjob.model.injected import Injectable, Injection
from peerjob.model.job import Call, Job, JobGroup
from peerjob.model.pages import pages
from peerjob.model.query import Filter, Query, ResultPage
from peerjob.model.record import LogLine, NodeView, Record
from peerjob.model.stored_limit import InstanceLimits, KeyLimitPage, KeyLimitView, LimitPage, LimitView

from .direct_scheduling import DirectScheduling
from .entries import HistoryEntry, LogEntry
from .flow_verbs import FlowVerbs
from .instance import Event, Instance
from .registered_job import RegisteredJob
from .schedule import Backfill, FireEntry, Schedule, ScheduleView
from .signalling import Signalling
from .stats import Stats

P = ParamSpec("P")
R = TypeVar("R")


class Manager(DirectScheduling, FlowVerbs, Signalling, Injectable, ABC):
    """Schedules, looks up, waits for and cancels instances. `Node` implements it."""

    injected_as: ClassVar[Injection] = "manager"

    clock: Clock

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # each verb of peerjob's managers refuses arguments of wrong types; an override outside of peerjob can allow it
        for contract in (Manager, FlowVerbs) if cls.__module__.partition(".")[0] == __name__.partition(".")[0] else ():
            type_verbs(contract, cls)

    # -- jobs ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def register(self, source: Job[..., Any, Any] | JobGroup | str | Iterable[Any] | object) -> None:
        """Add jobs. A job of a known kind replaces the earlier one, with a warning if the signature differs."""

    @abstractmethod
    def unregister(self, kind: str) -> Job[..., Any, Any]:
        """Remove a job; its queued instances wait for a node that has it. Raises UnknownKindError."""

    @abstractmethod
    def jobs(self) -> list[Job[..., Any, Any]]:
        """Return the registered jobs by kind."""

    @abstractmethod
    def job(self, kind: str) -> Job[..., Any, Any]:
        """Return the job of a kind or alias; raises UnknownKindError."""

    @abstractmethod
    async def registered_jobs(self, kind: str | None = None, *, schemas: bool = False) -> list[RegisteredJob]:
        """Return the jobs of live nodes and of the node that answers, by kind, or only the job of one kind.

        `schemas` adds the JSON schemas of their arguments.
        """

    # -- scheduling --------------------------------------------------------------------------------------------------

    @overload
    async def schedule(self, job: Job[P, R, Any], /, *args: P.args, **kwargs: P.kwargs) -> Instance[R]: ...
    @overload
    async def schedule(self, job: Call[R], /) -> Instance[R]: ...
    @overload
    async def schedule(self, job: str, /, *args: Any, allow_unknown: bool = False, **kwargs: Any) -> Instance[Any]: ...
    async def schedule(self, job: Any, /, *args: Any, **kwargs: Any) -> Instance[Any]:
        """Store one run of a job and return its instance. After the return, only a loss of the store loses the run.

        Raises ArgumentError, UnknownKindError, PayloadTooLargeError, OptionError or ScheduleError for an invalid call,
        which stores nothing. Raises StoreUnavailableError or StoreFullError if the store cannot take the run.
        """
        return await self._schedule(job, args, kwargs)

    @abstractmethod
    def _schedule(
        self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Coroutine[Any, Any, Instance[Any]]: ...

    @abstractmethod
    async def schedule_as(self, id: str, call: Call[R]) -> Instance[R]:
        """Like `schedule(call)`, under a UUIDv7 of the caller, so that a repeated call stores no second instance.

        The time in the id must be less than a day from the clock of the node, or else OptionError is raised. A repeated
        call changes nothing, not even with other arguments: it returns the instance that is stored, and `is_new` is
        False. Raises OptionError if an instance of another kind has the id.
        """

    @abstractmethod
    async def schedule_many(self, calls: Iterable[Call[R]]) -> list[Instance[R]]:
        """Store many runs in batches. All calls are checked before the first is stored.

        After an error of one batch, no further one is sent. The attribute `is_unsure` of a StoreError tells whether a
        part may be stored.
        """

    # -- reading -----------------------------------------------------------------------------------------------------

    @overload
    async def lookup_instance(self, uuid: str | UUID, job: None = None) -> Instance[Any]: ...
    @overload
    async def lookup_instance(self, uuid: str | UUID, job: Job[..., R, Any]) -> Instance[R]: ...
    @typed
    async def lookup_instance(self, uuid: str | UUID, job: Job[..., Any, Any] | None = None) -> Instance[Any]:
        """Return one instance by id; raises UnknownInstanceError, also if it is not an instance of `job`."""
        return await self._lookup_instance(uuid, job)

    @abstractmethod
    async def _lookup_instance(self, uuid: str | UUID, job: Job[..., Any, Any] | None) -> Instance[Any]: ...

    @abstractmethod
    async def lookup_instances(self, query: Query | None = None) -> ResultPage[Instance[Any]]:
        """Return a page of instances by creation time. Continue with `query.at(page.cursor)`."""

    @typed
    async def iter_instances(self, query: Query | None = None) -> AsyncIterator[Instance[Any]]:
        """Yield every instance that matches; reads page by page."""
        wanted = query or Query()
        async for page in pages(lambda cursor: self.lookup_instances(wanted.at(cursor)), wanted.cursor):
            for instance in page:
                yield instance

    @abstractmethod
    async def lookup_history(self, query: Query | None = None) -> ResultPage[HistoryEntry]:
        """Return the state changes of a page of instances, each instance's oldest first. `state` selects entries."""

    @abstractmethod
    async def lookup_logs(self, query: Query | None = None) -> ResultPage[LogEntry]:
        """Return the log lines of a page of instances, each instance's oldest first. `level` selects lines."""

    @abstractmethod
    def iter_logs(self, uuid: str | UUID, *, follow: bool = False) -> AsyncIterator[LogLine]:
        """Yield the stored log lines of one instance, oldest first.

        With `follow`, yield new lines too until the instance is final, and raise UnknownInstanceError if there is none.
        """

    def keep_line(self, id: str, level: int, message: str, fields: Mapping[str, object] | None = None) -> None:
        """Store a log line of an instance that does not run here, in the background. `level` is a `logging` number.

        Any thread may call it. A manager that cannot store the line drops it.
        """

    @abstractmethod
    async def count(self, query: Query | None = None) -> int:
        """Count the instances that match. A query with only kind and state needs no scan."""

    @abstractmethod
    async def stats(self) -> Stats:
        """Return counts by kind and state."""

    @abstractmethod
    async def activity(self, minutes: int = 60) -> Activity:
        """Return the runs of the last minutes (1 to 60) on all nodes: per kind, in steps of 10 s, with durations.

        A step appears 5 s after its end. It has no counts of nodes that died before they wrote their sample.
        """

    # -- acting on instances -----------------------------------------------------------------------------------------

    @abstractmethod
    async def cancel_instances(self, query: Query) -> list[Instance[Any]]:
        """Cancel the instances that match and are not final, on any node; returns the cancelled ones."""

    @abstractmethod
    async def cancel_instance(self, uuid: str | UUID) -> bool:
        """Cancel one instance; False if it was already final. Raises UnknownInstanceError."""

    @abstractmethod
    async def run_now(self, uuid: str | UUID, *, id: str | UUID | None = None) -> bool:
        """Make one delayed instance due at once, also one that snoozed or waits for a retry; False if it was due.

        An instance that was due keeps its position. Attempts, priority, options and the history stay. `id` is the
        id of the request, a UUIDv7 of about now: a repeated call with it has the same answer and changes nothing.
        Raises UnknownInstanceError, NodeStateError if the instance runs, is final, is suspended or waits for an earlier
        instance of its schedule, and OptionError for another `id`.
        """

    @abstractmethod
    async def retry_instances(self, query: Query, *, id: str | UUID | None = None) -> list[Instance[Any]]:
        """Schedule a new instance for each final one that matches; `retry_of` names the old one.

        A repeated call with the same `id`, a UUIDv7 of about now, makes no second instance of an old one. It returns
        the first ones, and instances for those that ended meanwhile.
        """

    @abstractmethod
    async def retry_instance(self, uuid: str | UUID, *, id: str | UUID | None = None) -> Instance[Any]:
        """Schedule a new instance with the same arguments and options; its `retry_of` names the old one.

        `id` is the id of the new instance, a UUIDv7 of about now: a repeated call with it returns the same instance.
        Raises UnknownInstanceError, NodeStateError if the old instance is not final, and OptionError for an `id` of
        another instance.
        """

    @abstractmethod
    async def clear_instances(self, filter: Filter | None = None) -> int:
        """Remove the final instances that match, with history and logs; returns how many."""

    @abstractmethod
    async def clear_history(self, filter: Filter | None = None) -> int:
        """Reduce the history of final instances that match to its last entry; returns how many instances."""

    @abstractmethod
    async def clear_logs(self, filter: Filter | None = None) -> int:
        """Remove the logs of final instances that match; returns how many instances."""

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
        """Create or change the schedule of a job with a recurrence, such as `job.with_options(cron=..., name=...)`.

        The name is `name=`, by default the kind; it is unique in the cluster. A change takes effect at once and keeps a
        pause. The same definition again changes nothing. Raises ScheduleError for a job without a recurrence, and the
        errors of `schedule`.
        """
        return await self._add_schedule(job, args, kwargs)

    @abstractmethod
    async def _add_schedule(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Schedule: ...

    @abstractmethod
    async def schedules(self) -> list[Schedule]:
        """Return all schedules by name, even if this release cannot read their definition."""

    @abstractmethod
    async def lookup_schedule(self, name: str) -> Schedule:
        """Return one schedule; raises UnknownScheduleError."""

    @abstractmethod
    async def pause_schedule(self, schedule: ScheduleView | str, note: str = "") -> Schedule:
        """Pause a schedule until `resume_schedule`; `note` says why. The pause outlives restarts and changes.

        Running instances continue. On a paused schedule only the note changes. Raises UnknownScheduleError.
        """

    @abstractmethod
    async def resume_schedule(self, schedule: ScheduleView | str) -> Schedule:
        """Let a paused schedule fire again, from its next nominal time on.

        Nominal times within the pause are recorded as paused. A schedule that is not paused does not change. Raises
        UnknownScheduleError.
        """

    @abstractmethod
    async def trigger_schedule(
        self, schedule: ScheduleView | str, *, id: str | UUID | None = None
    ) -> Instance[Any] | None:
        """Make one instance now, in addition to the nominal times, even while the schedule is paused.

        Returns None if the `overlap` policy or the job's key does not allow an instance now; `fires` shows the reason.
        `id` is the id of the new instance, a UUIDv7 of about now: a repeated call with it has the same answer. The
        time in the id is then the time of the fire. Raises UnknownScheduleError, and OptionError for an `id` of another
        instance.
        """

    @abstractmethod
    async def remove_schedule(self, schedule: ScheduleView | str) -> bool:
        """Remove a schedule with its ledger; False if it does not exist. Its instances stay.

        If a job is defined with a recurrence, the next start of a node with this job creates the schedule again.
        """

    @abstractmethod
    async def backfill(self, schedule: ScheduleView | str, start: datetime, end: datetime) -> Backfill:
        """Make an instance for each nominal time in [start, end) that never had one.

        The present definition counts, even while the schedule is paused. Backfill works in steps: after an error, call
        it again to continue. Raises UnknownScheduleError, and ScheduleError for naive times or too many of them.
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
        """Return a page of the ledger: the outcome of each nominal time, latest first.

        Continue with `cursor=page.cursor`. `after` is inclusive, `before` exclusive, `limit` at most 10,000. The first
        page also has an ongoing pause, beyond the limit. Raises UnknownScheduleError.
        """

    @abstractmethod
    async def next_fires(self, schedule: ScheduleView | str, n: int = 5) -> list[datetime]:
        """Return the next `n` nominal times (1 to 1,000), without jitter; raises UnknownScheduleError.

        Those of a paused schedule are as if it were resumed now.
        """

    def read_result(self, record: Record, job: Job[..., Any, Any] | None = None) -> Any:
        """Return the result of a Completed instance, converted by the job's return annotation if the job is known.

        The job is `job`, by default the registered one. Raises DecodeError or ResultTypeError.
        """
        return None if record.result is None else decode_value(record.result)

    # -- cluster -----------------------------------------------------------------------------------------------------

    @abstractmethod
    async def nodes(self) -> list[NodeView]:
        """Return the live nodes: their kinds, load and last renewal."""

    @abstractmethod
    async def leader(self) -> Leader | None:
        """Return the node that fires the schedules, as far as known here, or None."""

    @abstractmethod
    async def audit(self, limit: int = 100) -> list[AuditRecord]:
        """Return the latest acting calls over gRPC and of the dashboard, latest first; `limit` is at most 1,000.

        A call appears about a second after its end. Calls of this process's own code are not recorded.
        """

    def keep_audit(
        self,
        verb: str,
        *,
        principal: str,
        address: str = "",
        criteria: str = "",
        count: int | None = None,
        result: str = "ok",
    ) -> None:
        """Add an acting call of a user to the audit log, in the background. `verb` is the name of the RPC.

        `result` is "ok", "denied" or the class of the error. A Client adds nothing: its node records each call.
        """

    @abstractmethod
    async def drain(self, timeout: Duration | None = None, *, node: str | None = None) -> str:
        """Let a node claim nothing more and hand back claims that have not started; wait until its bodies have ended.

        Returns the name of the node, or "" if the node that answers runs a release that does not tell it.

        `node` is the name or incarnation of a live node. By default, it is this node, or the one that answers. The node
        stays in the cluster, and takes work again after `undrain`. Raises TimeoutError after `timeout`: the node still
        drains. Raises UnknownNodeError, also if the node leaves or dies meanwhile, OptionError for a name of several
        nodes, and NodeStateError if the node takes work again meanwhile.
        """

    @abstractmethod
    async def undrain(self, *, node: str | None = None) -> str:
        """Let a node take work again that drains or is drained; `node`, result and errors as in `drain`."""

    @abstractmethod
    async def resize_workers(self, n: int, *, node: str | None = None) -> str:
        """Change the number of workers of a node to 1 or more. Running bodies continue.

        `node`, result and errors as in `drain`. The most for another node is 10,000.
        """

    # -- limits ------------------------------------------------------------------------------------------------------

    @abstractmethod
    async def set_limit(
        self,
        name: str,
        *,
        concurrency: int | None = None,
        rate: str | None = None,
        burst: int | None = None,
        note: str = "",
    ) -> None:
        """Set numbers of a shared limit. The store keeps them, and they are stronger than those of the code.

        What is None is as in the code, so without numbers the limit returns to the code. A rate has a burst of at most
        10 unless one is given. Claimed instances go on. Raises OptionError for a bad number, or if no kind has a limit
        of this name.
        """

    @abstractmethod
    async def set_key_limit(self, kind: str, *, concurrency: int | None = None, note: str = "") -> None:
        """Set the concurrency of each key of a kind; as in `set_limit`. Raises OptionError for a kind without one."""

    @abstractmethod
    async def pause_kind(self, kind: str, note: str = "") -> None:
        """Let nodes claim no instances of a kind until `resume_kind`; `note` says why. The pause outlives restarts.

        Claimed instances go on, and schedules fire as before. On a paused kind only the note changes. An alias is a
        kind of its own. Raises UnknownKindError.
        """

    @abstractmethod
    async def resume_kind(self, kind: str) -> None:
        """Let nodes claim a kind again; a kind that is not paused does not change. Raises UnknownKindError."""

    @typed
    async def limits(self) -> AsyncIterator[LimitView]:
        """Yield the shared limits by name, then the kinds that are paused or have a key limit; reads page by page."""
        async for page in pages(self._limit_page):
            for view in page.views:
                yield view

    @typed
    async def key_limits(
        self, kind: str, *, prefix: str = "", waiting_only: bool = False
    ) -> AsyncIterator[KeyLimitView]:
        """Yield the keys of a kind that have instances in the queue, claimed or waiting; reads page by page.

        A view with the key "" counts the unfinished instances without a key, which no limit of a key counts.
        """
        async for page in pages(lambda cursor: self._key_limit_page(kind, prefix, waiting_only, cursor)):
            for view in page.views:
                yield view

    @abstractmethod
    async def _limit_page(self, cursor: str | None = None) -> LimitPage: ...
    @abstractmethod
    async def _key_limit_page(
        self, kind: str, prefix: str, waiting_only: bool, cursor: str | None = None
    ) -> KeyLimitPage: ...
    @abstractmethod
    async def _limits_of(self, uuid: str | UUID) -> InstanceLimits: ...

    # -- waiting -----------------------------------------------------------------------------------------------------

    @abstractmethod
    async def wait_final(self, uuid: str | UUID, timeout: Duration | None = None) -> Record:
        """Wait until an instance is final and return its record; raises TimeoutError, UnknownInstanceError."""

    @abstractmethod
    async def wait(self, query: Query | None = None, timeout: Duration | None = None) -> None:
        """Wait until no instance that matches is queued or running; raises TimeoutError.

        A query for final states alone waits for queued and running instances that match its other criteria.
        """

    @abstractmethod
    def watch(
        self, query: Query | None = None, *, on_begin: Callable[[], Awaitable[object]] | None = None
    ) -> AsyncIterator[Event]:
        """Yield state changes, log lines and progress of the instances that match, as they happen.

        The stream begins when the first event is awaited.
        `on_begin` is called as soon as no further event can be missed.
        """

    @abstractmethod
    def watch_instance(self, uuid: str | UUID) -> AsyncIterator[Event]:
        """Like `Instance.watch`, by id."""
