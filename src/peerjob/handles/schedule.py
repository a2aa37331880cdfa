"""One recurrence of a job: a handle with a snapshot of the schedule, and verbs to act on it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, ClassVar, Protocol
from uuid import UUID

import msgspec

from peerjob.model.clock import to_datetime
from peerjob.model.definition import Definition, decode_definition
from peerjob.model.errors import DecodeError, NodeStateError, OptionError
from peerjob.model.firing import FireOutcome, FireRecord, Overlap, ScheduleRow
from peerjob.model.json_text import to_json
from peerjob.model.limits import encodable
from peerjob.model.query import ResultPage
from peerjob.model.spec import Spec, decode_spec

from .instance import Instance


class FireEntry:
    """The outcome of one nominal time, or of a stretch of nominal times with the same outcome."""

    __slots__ = ("_record", "ongoing", "schedule")

    def __init__(self, schedule: str, record: FireRecord, *, ongoing: bool = False) -> None:
        self.schedule = schedule
        """Name of the schedule."""
        self._record = record
        self.ongoing = ongoing
        """Whether the record stands for a pause that still lasts.

        The ledger gets the record of a pause when the pause ends.
        """

    @property
    def record(self) -> FireRecord:
        """The record as it is stored."""
        return self._record

    @property
    def nominal(self) -> datetime:
        """The nominal time without jitter, or the first of a stretch; for a trigger, the time of the trigger."""
        return to_datetime(self._record.nominal_us)

    @property
    def until(self) -> datetime | None:
        """The last nominal time of a stretch; None for a single time."""
        return to_datetime(self._record.until_us) if self._record.until_us else None

    @property
    def count(self) -> int:
        """Number of nominal times."""
        return self._record.count

    @property
    def outcome(self) -> FireOutcome:
        """The outcome of the nominal time or times."""
        return self._record.outcome

    @property
    def recorded_at(self) -> datetime | None:
        """Time of the record, by the store's clock; None for an ongoing pause."""
        return to_datetime(self._record.at_us) if self._record.at_us else None

    @property
    def late(self) -> timedelta:
        """Time from the (last) nominal time to the record; 0 for a trigger."""
        return timedelta(microseconds=self._record.late_us)

    @property
    def instance_id(self) -> str | None:
        """The instance that was made, or None."""
        return self._record.instance or None

    @property
    def parked(self) -> bool:
        """Whether the instance had to wait for an earlier one."""
        return self._record.parked

    @property
    def replaced(self) -> str | None:
        """The instance that was cancelled for this one, with `overlap="replace"`, or None."""
        return self._record.cancelled or None

    @property
    def reason(self) -> str:
        """Why no instance was made, or why late; "" for the normal case."""
        return self._record.reason

    @property
    def node(self) -> str:
        """Name of the node that recorded it."""
        return self._record.node

    @property
    def term(self) -> int | None:
        """The leader's term; None for triggers and backfills."""
        return self._record.term or None

    @property
    def coordinator(self) -> str | None:
        """The coordinator of the term (see `peerjob.model.firing.Term`); None without a term."""
        return self._record.coordinator or None

    def to_dict(self) -> dict[str, Any]:
        """The entry as plain values, for JSON: times as ISO 8601 text, `late` in seconds."""
        return {
            "schedule": self.schedule,
            "nominal": self.nominal.isoformat(),
            "until": None if self.until is None else self.until.isoformat(),
            "count": self.count,
            "outcome": str(self.outcome),
            "recorded_at": None if self.recorded_at is None else self.recorded_at.isoformat(),
            "late": self.late.total_seconds(),
            "instance": self.instance_id,
            "parked": self.parked,
            "replaced": self.replaced,
            "reason": self.reason,
            "node": self.node,
            "term": self.term,
            "coordinator": self.coordinator,
            "ongoing": self.ongoing,
        }

    def __repr__(self) -> str:
        times = f" to {self.until.isoformat()} ({self.count})" if self.until else ""
        return f"<{self.outcome} {self.nominal.isoformat()}{times}{': ' + self.reason if self.reason else ''}>"


class Backfill(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a backfill: counts of nominal times."""

    times: int = 0
    """Number of nominal times in the range."""
    made: int = 0
    """Number of times for which the backfill made an instance."""
    known: int = 0
    """Number of times that already had an instance."""
    trimmed: int = 0
    """Number of times older than the ledger.

    The backfill makes no instance for them, because each could have had one.
    """
    skipped: int = 0
    """Number of times without a new instance because an earlier instance or the job's key did not allow one."""

    @property
    def done(self) -> int:
        """Number of times that the backfill has handled."""
        return self.made + self.known + self.trimmed + self.skipped


class ScheduleView:
    """A schedule, as it was last read.

    If this release cannot read the definition, only name, kind, times and pause are known. The other properties raise
    DecodeError.
    """

    __slots__ = ("_definition", "_row", "_spec")

    named_in_errors: ClassVar[str] = "a Schedule"

    def __init__(self, row: ScheduleRow) -> None:
        self._row = row
        self._definition: Definition | None = None
        self._spec: Spec | None = None

    @property
    def row(self) -> ScheduleRow:
        """The stored schedule as last read."""
        return self._row

    @property
    def name(self) -> str:
        """The name, which is unique in the namespace."""
        return self._row.name

    @property
    def kind(self) -> str:
        """The kind of its job."""
        return self._row.kind

    @property
    def paused(self) -> bool:
        """Whether the schedule is paused: it makes no instances until it is resumed."""
        return self._row.paused

    @property
    def note(self) -> str:
        """The reason of the pause, as given to `pause`."""
        return self._row.note

    @property
    def next_at(self) -> datetime | None:
        """The first nominal time without an outcome: the next fire, unless paused. None: no further time."""
        return None if self._row.next_us is None else to_datetime(self._row.next_us)

    @property
    def last_at(self) -> datetime | None:
        """The latest nominal time with an outcome, of any kind."""
        return to_datetime(self._row.last_us) if self._row.last_us else None

    @property
    def created_at(self) -> datetime:
        """Time at which the schedule was added."""
        return to_datetime(self._row.created_us)

    @property
    def updated_at(self) -> datetime:
        """Time of the last change, pause or resume."""
        return to_datetime(self._row.updated_us)

    @property
    def running(self) -> str | None:
        """The instance that the next fire must not overlap, or None."""
        return self._row.holder or None

    @property
    def waiting(self) -> tuple[str, ...]:
        """Instances that wait for the end of the running one, with `overlap="queue"` or `"replace"`."""
        return self._row.parked

    @property
    def definition(self) -> Definition:
        """The definition; raises DecodeError."""
        if self._definition is None:
            self._definition = decode_definition(self._row.definition)
        return self._definition

    @property
    def cron(self) -> str | None:
        """The cron text; None for a schedule with an interval."""
        return self.definition.cron

    @property
    def every(self) -> timedelta | None:
        """The interval between nominal times; None for a schedule with a cron text."""
        return None if self.definition.every_us is None else timedelta(microseconds=self.definition.every_us)

    @property
    def timezone(self) -> str:
        """The name of the time zone of the cron text, such as "Europe/Berlin"."""
        return self.definition.timezone

    @property
    def jitter(self) -> timedelta:
        """The longest delay after a nominal time; 0 by default."""
        return timedelta(microseconds=self.definition.jitter_us)

    @property
    def overlap(self) -> Overlap:
        """The effect of a fire while the instance of an earlier fire is not final."""
        return self.definition.overlap

    @property
    def queue_limit(self) -> int:
        """The largest number of instances that wait with `overlap="queue"`."""
        return self.definition.queue_limit

    @property
    def misfire(self) -> str:
        """What the leader does about missed times: "skip", "run_once" or "run_all"."""
        return self.definition.misfire

    @property
    def misfire_limit(self) -> int:
        """The largest number of missed times that `misfire="run_all"` runs."""
        return self.definition.misfire_limit

    @property
    def start_deadline(self) -> timedelta | None:
        """How late an instance may be created after its nominal time; None: without a limit."""
        deadline = self.definition.start_deadline_us
        return None if deadline is None else timedelta(microseconds=deadline)

    @property
    def priority(self) -> int:
        """The priority of each instance: a lower number runs first."""
        return self.definition.priority

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags of each instance; () without tags."""
        return self.definition.tags

    @property
    def version(self) -> int:
        """Version of the job that wrote the definition."""
        return self.definition.version

    @property
    def description(self) -> str:
        """The description for people; "" by default."""
        return self.definition.description

    @property
    def args(self) -> tuple[Any, ...]:
        """Positional arguments of each instance; "***" for a secret."""
        return self._decoded().arguments()[0]

    @property
    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments of each instance; "***" for a secret."""
        return self._decoded().arguments()[1]

    def to_dict(self) -> dict[str, Any]:
        """The snapshot as plain values, with go-job's keys. If the definition cannot be read, `error` says why."""
        shown: dict[str, Any] = {
            "name": self.name,
            "kind": self.kind,
            "paused": self.paused,
            "note": self.note,
            "next_at": None if self.next_at is None else self.next_at.isoformat(),
            "last_at": None if self.last_at is None else self.last_at.isoformat(),
            "created_at": self.created_at.isoformat(),
            "updated_at": self.updated_at.isoformat(),
            "running": self.running,
            "waiting": list(self.waiting),
        }
        try:
            definition = self.definition
            args, kwargs = self._decoded().arguments()
        except DecodeError as error:
            return shown | {"error": str(error)}
        return shown | {
            "description": definition.description,
            "crontab": definition.cron,
            "every": None if self.every is None else self.every.total_seconds(),
            "timezone": definition.timezone,
            "jitter": self.jitter.total_seconds(),
            "overlap": str(definition.overlap),
            "queue_limit": definition.queue_limit,
            "misfire": definition.misfire,
            "misfire_limit": definition.misfire_limit,
            "start_deadline": None if self.start_deadline is None else self.start_deadline.total_seconds(),
            "arguments": [*args, *kwargs.values()],
            "priority": definition.priority,
            "tags": list(definition.tags),
            "version": definition.version,
        }

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return to_json(self.to_dict())

    def __repr__(self) -> str:
        when = "paused" if self.paused else "never" if self.next_at is None else self.next_at.isoformat()
        return f"<{type(self).__name__} {self.name!r} of {self.kind!r}, next {when}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ScheduleView) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    def _update(self, row: ScheduleRow) -> None:
        self._row, self._definition, self._spec = row, None, None

    def _decoded(self) -> Spec:
        if self._spec is None:
            self._spec = decode_spec(self.definition.spec)
        return self._spec


class ScheduleManager(Protocol):
    """The verbs of a `Manager` that a `Schedule` calls."""

    async def lookup_schedule(self, name: str, /) -> Schedule: ...
    async def pause_schedule(self, schedule: ScheduleView, note: str, /) -> Schedule: ...
    async def resume_schedule(self, schedule: ScheduleView, /) -> Schedule: ...
    async def trigger_schedule(self, schedule: ScheduleView, /, *, id: str | UUID | None) -> Instance[Any] | None: ...
    async def remove_schedule(self, schedule: ScheduleView, /) -> bool: ...
    async def backfill(self, schedule: ScheduleView, start: datetime, end: datetime, /) -> Backfill: ...
    async def fires(
        self,
        schedule: ScheduleView,
        /,
        *,
        after: datetime | None,
        before: datetime | None,
        limit: int,
        cursor: str | None,
    ) -> ResultPage[FireEntry]: ...
    async def next_fires(self, schedule: ScheduleView, n: int, /) -> list[datetime]: ...


class Schedule(ScheduleView):
    """One cluster-wide recurrence of a job.

    Its properties show the schedule as it was last read; `refresh()` reads it again. Its coroutines act on the schedule
    itself.
    """

    __slots__ = ("_manager",)

    def __init__(self, manager: ScheduleManager | None, row: ScheduleRow) -> None:
        super().__init__(row)
        self._manager = manager

    async def refresh(self) -> Schedule:
        """Read the schedule again; raises UnknownScheduleError if it was removed."""
        self._update((await self._need_manager().lookup_schedule(self.name)).row)
        return self

    async def pause(self, note: str = "") -> Schedule:
        """Like `Manager.pause_schedule`."""
        self._update((await self._need_manager().pause_schedule(self, note)).row)
        return self

    async def resume(self) -> Schedule:
        """Like `Manager.resume_schedule`."""
        self._update((await self._need_manager().resume_schedule(self)).row)
        return self

    async def trigger(self, *, id: str | UUID | None = None) -> Instance[Any] | None:
        """Like `Manager.trigger_schedule`."""
        return await self._need_manager().trigger_schedule(self, id=id)

    async def remove(self) -> bool:
        """Like `Manager.remove_schedule`."""
        return await self._need_manager().remove_schedule(self)

    async def backfill(self, start: datetime, end: datetime) -> Backfill:
        """Like `Manager.backfill`."""
        return await self._need_manager().backfill(self, start, end)

    async def fires(
        self,
        *,
        after: datetime | None = None,
        before: datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> ResultPage[FireEntry]:
        """Like `Manager.fires`."""
        return await self._need_manager().fires(self, after=after, before=before, limit=limit, cursor=cursor)

    async def next_fires(self, n: int = 5) -> list[datetime]:
        """Like `Manager.next_fires`."""
        return await self._need_manager().next_fires(self, n)

    def _need_manager(self) -> ScheduleManager:
        if self._manager is None:
            raise NodeStateError(f"schedule {self.name!r} is a bare snapshot, without a node to ask")
        return self._manager


def name_of(schedule: ScheduleView | str) -> str:
    """The name of a schedule; raises OptionError for text that no store can look up."""
    name = schedule if isinstance(schedule, str) else schedule.name
    if not encodable(name):
        raise OptionError("schedule", name, "text without half of a surrogate pair")
    return name
