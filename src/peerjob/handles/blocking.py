"""The manager's verbs for code that has no event loop of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterable, Iterator
from datetime import datetime
from typing import Any, ClassVar, Generic, ParamSpec, overload
from uuid import UUID

from typing_extensions import TypeVar

from peerjob.model.durations import Duration
from peerjob.model.firing import Leader
from peerjob.model.injected import Injectable, Injection
from peerjob.model.job import Call, Job
from peerjob.model.query import Filter, Query, ResultPage
from peerjob.model.record import NodeView
from peerjob.model.spec import ErrorInfo, Progress
from peerjob.model.state import Level, State

from .instance import HistoryEntry, Instance, LogEntry
from .manager import Event, Manager, Stats
from .schedule import Backfill, FireEntry, Schedule, ScheduleView

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True, default=Any)


class BlockingInstance(Injectable, Generic[R_co]):
    """An instance whose verbs block; made by a BlockingManager."""

    injected_as: ClassVar[Injection] = "blocking instance"

    __slots__ = ("_instance", "_manager")

    def __init__(self, manager: BlockingVerbs, instance: Instance[R_co]) -> None:
        self._manager = manager
        self._instance = instance

    @property
    def instance(self) -> Instance[R_co]:
        """The instance with the asynchronous verbs."""
        return self._instance

    @property
    def id(self) -> str:
        return self._instance.id

    @property
    def uuid(self) -> UUID:
        return self._instance.uuid

    @property
    def kind(self) -> str:
        return self._instance.kind

    @property
    def state(self) -> State:
        return self._instance.state

    @property
    def is_new(self) -> bool:
        return self._instance.is_new

    @property
    def args(self) -> tuple[Any, ...]:
        return self._instance.args

    @property
    def kwargs(self) -> dict[str, Any]:
        return self._instance.kwargs

    @property
    def attempts(self) -> int:
        return self._instance.attempts

    @property
    def priority(self) -> int:
        return self._instance.priority

    @property
    def node(self) -> str | None:
        return self._instance.node

    @property
    def error(self) -> ErrorInfo | None:
        return self._instance.error

    @property
    def progress(self) -> Progress | None:
        return self._instance.progress

    @property
    def created_at(self) -> datetime:
        return self._instance.created_at

    @property
    def schedule(self) -> str | None:
        return self._instance.schedule

    @property
    def nominal_at(self) -> datetime | None:
        return self._instance.nominal_at

    def to_dict(self) -> dict[str, Any]:
        return self._instance.to_dict()

    def __repr__(self) -> str:
        return f"<BlockingInstance {self.id} {self.kind!r} {self.state!s}>"

    def result(self, timeout: Duration | None = None) -> R_co:
        """Like `Instance.result`."""
        return self._manager.call_long(self._instance.result(timeout))

    def wait(self, timeout: Duration | None = None) -> BlockingInstance[R_co]:
        """Like `Instance.wait`."""
        self._manager.call_long(self._instance.wait(timeout))
        return self

    def refresh(self) -> BlockingInstance[R_co]:
        """Like `Instance.refresh`."""
        self._manager.call(self._instance.refresh())
        return self

    def cancel(self) -> bool:
        """Like `Instance.cancel`."""
        return self._manager.call(self._instance.cancel())

    def retry(self) -> BlockingInstance[R_co]:
        """Like `Instance.retry`."""
        return BlockingInstance(self._manager, self._manager.call(self._instance.retry()))

    def history(self) -> list[HistoryEntry]:
        """Like `Instance.history`."""
        return self._manager.call(self._instance.history())

    def logs(self, *, level: Level | int | None = None) -> list[LogEntry]:
        """Like `Instance.logs`."""
        return self._manager.call(self._instance.logs(level=level))


class BlockingSchedule(ScheduleView):
    """A schedule whose verbs block; made by a BlockingManager."""

    __slots__ = ("_manager",)

    def __init__(self, manager: BlockingVerbs, schedule: Schedule) -> None:
        super().__init__(schedule.row)
        self._manager = manager

    def refresh(self) -> BlockingSchedule:
        """Like `Schedule.refresh`."""
        self._took(self._manager.lookup_schedule(self.name).row)
        return self

    def pause(self, note: str = "") -> BlockingSchedule:
        """Like `Schedule.pause`."""
        self._took(self._manager.pause_schedule(self, note).row)
        return self

    def resume(self) -> BlockingSchedule:
        """Like `Schedule.resume`."""
        self._took(self._manager.resume_schedule(self).row)
        return self

    def trigger(self) -> BlockingInstance[Any] | None:
        """Like `Schedule.trigger`."""
        return self._manager.trigger_schedule(self)

    def remove(self) -> bool:
        """Like `Schedule.remove`."""
        return self._manager.remove_schedule(self)

    def backfill(self, start: datetime, end: datetime) -> Backfill:
        """Like `Schedule.backfill`."""
        return self._manager.backfill(self, start, end)

    def fires(
        self,
        *,
        after: datetime | None = None,
        before: datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> ResultPage[FireEntry]:
        """Like `Schedule.fires`."""
        return self._manager.fires(self, after=after, before=before, limit=limit, cursor=cursor)

    def next_fires(self, n: int = 5) -> list[datetime]:
        """Like `Schedule.next_fires`."""
        return self._manager.next_fires(self, n)


class BlockingVerbs(Injectable, ABC):
    """The verbs of `Manager`, each waiting for its answer."""

    injected_as: ClassVar[Injection] = "blocking manager"

    @abstractmethod
    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the manager to its end; raises RuntimeError where blocking would stop a running loop."""

    def call_long(self, work: Coroutine[Any, Any, T]) -> T:
        """Like `call`, for work that lasts as long as other jobs; inside a job, a cancellation of that job ends it."""
        return self.call(work)

    @property
    @abstractmethod
    def manager(self) -> Manager:
        """The manager behind this one, started."""

    # -- scheduling --------------------------------------------------------------------------------------------------

    @overload
    def schedule(self, job: Job[P, R, Any], /, *args: P.args, **kwargs: P.kwargs) -> BlockingInstance[R]: ...
    @overload
    def schedule(self, job: Call[R], /) -> BlockingInstance[R]: ...
    @overload
    def schedule(
        self, job: str, /, *args: Any, allow_unknown: bool = False, **kwargs: Any
    ) -> BlockingInstance[Any]: ...
    def schedule(self, job: Any, /, *args: Any, **kwargs: Any) -> BlockingInstance[Any]:
        """Like `Manager.schedule`."""
        return BlockingInstance(self, self.call(self.manager.schedule(job, *args, **kwargs)))

    def schedule_many(self, calls: Iterable[Call[R]]) -> list[BlockingInstance[R]]:
        """Like `Manager.schedule_many`."""
        return [BlockingInstance(self, one) for one in self.call(self.manager.schedule_many(calls))]

    # -- reading -----------------------------------------------------------------------------------------------------

    @overload
    def lookup_instance(self, uuid: str | UUID, job: None = None) -> BlockingInstance[Any]: ...
    @overload
    def lookup_instance(self, uuid: str | UUID, job: Job[..., R, Any]) -> BlockingInstance[R]: ...
    def lookup_instance(self, uuid: str | UUID, job: Job[..., Any, Any] | None = None) -> BlockingInstance[Any]:
        """Like `Manager.lookup_instance`."""
        return BlockingInstance(self, self.call(self.manager.lookup_instance(uuid, job)))

    def lookup_instances(self, query: Query | None = None) -> ResultPage[BlockingInstance[Any]]:
        """Like `Manager.lookup_instances`."""
        page = self.call(self.manager.lookup_instances(query))
        return ResultPage([BlockingInstance(self, one) for one in page], page.cursor)

    def iter_instances(self, query: Query | None = None) -> Iterator[BlockingInstance[Any]]:
        """Like `Manager.iter_instances`."""
        query = query or Query()
        while True:
            page = self.lookup_instances(query)
            yield from page
            if page.cursor is None:
                return
            query = query.at(page.cursor)

    def lookup_history(self, query: Query | None = None) -> ResultPage[HistoryEntry]:
        """Like `Manager.lookup_history`."""
        return self.call(self.manager.lookup_history(query))

    def lookup_logs(self, query: Query | None = None) -> ResultPage[LogEntry]:
        """Like `Manager.lookup_logs`."""
        return self.call(self.manager.lookup_logs(query))

    def count(self, query: Query | None = None) -> int:
        """Like `Manager.count`."""
        return self.call(self.manager.count(query))

    def stats(self) -> Stats:
        """Like `Manager.stats`."""
        return self.call(self.manager.stats())

    def nodes(self) -> list[NodeView]:
        """Like `Manager.nodes`."""
        return self.call(self.manager.nodes())

    def leader(self) -> Leader | None:
        """Like `Manager.leader`."""
        return self.call(self.manager.leader())

    # -- schedules ---------------------------------------------------------------------------------------------------

    @overload
    def add_schedule(self, job: Job[P, Any, Any], /, *args: P.args, **kwargs: P.kwargs) -> BlockingSchedule: ...
    @overload
    def add_schedule(self, job: Call[Any], /) -> BlockingSchedule: ...
    @overload
    def add_schedule(self, job: str, /, *args: Any, **kwargs: Any) -> BlockingSchedule: ...
    def add_schedule(self, job: Any, /, *args: Any, **kwargs: Any) -> BlockingSchedule:
        """Like `Manager.add_schedule`."""
        return BlockingSchedule(self, self.call(self.manager.add_schedule(job, *args, **kwargs)))

    def schedules(self) -> list[BlockingSchedule]:
        """Like `Manager.schedules`."""
        return [BlockingSchedule(self, one) for one in self.call(self.manager.schedules())]

    def lookup_schedule(self, name: str) -> BlockingSchedule:
        """Like `Manager.lookup_schedule`."""
        return BlockingSchedule(self, self.call(self.manager.lookup_schedule(name)))

    def pause_schedule(self, schedule: ScheduleView | str, note: str = "") -> BlockingSchedule:
        """Like `Manager.pause_schedule`."""
        return BlockingSchedule(self, self.call(self.manager.pause_schedule(schedule, note)))

    def resume_schedule(self, schedule: ScheduleView | str) -> BlockingSchedule:
        """Like `Manager.resume_schedule`."""
        return BlockingSchedule(self, self.call(self.manager.resume_schedule(schedule)))

    def trigger_schedule(self, schedule: ScheduleView | str) -> BlockingInstance[Any] | None:
        """Like `Manager.trigger_schedule`."""
        made = self.call(self.manager.trigger_schedule(schedule))
        return None if made is None else BlockingInstance(self, made)

    def remove_schedule(self, schedule: ScheduleView | str) -> bool:
        """Like `Manager.remove_schedule`."""
        return self.call(self.manager.remove_schedule(schedule))

    def backfill(self, schedule: ScheduleView | str, start: datetime, end: datetime) -> Backfill:
        """Like `Manager.backfill`."""
        return self.call(self.manager.backfill(schedule, start, end))

    def fires(
        self,
        schedule: ScheduleView | str,
        *,
        after: datetime | None = None,
        before: datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> ResultPage[FireEntry]:
        """Like `Manager.fires`."""
        return self.call(self.manager.fires(schedule, after=after, before=before, limit=limit, cursor=cursor))

    def next_fires(self, schedule: ScheduleView | str, n: int = 5) -> list[datetime]:
        """Like `Manager.next_fires`."""
        return self.call(self.manager.next_fires(schedule, n))

    # -- acting ------------------------------------------------------------------------------------------------------

    def register(self, source: Any) -> None:
        """Like `Manager.register`."""
        manager = self.manager
        self.call(_soon(lambda: manager.register(source)))

    def unregister(self, kind: str) -> Job[..., Any, Any]:
        """Like `Manager.unregister`."""
        manager = self.manager
        return self.call(_soon(lambda: manager.unregister(kind)))

    def jobs(self) -> list[Job[..., Any, Any]]:
        """Like `Manager.jobs`."""
        return self.manager.jobs()

    def job(self, kind: str) -> Job[..., Any, Any]:
        """Like `Manager.job`."""
        return self.manager.job(kind)

    def cancel_instances(self, query: Query) -> list[BlockingInstance[Any]]:
        """Like `Manager.cancel_instances`."""
        return [BlockingInstance(self, one) for one in self.call(self.manager.cancel_instances(query))]

    def cancel_instance(self, uuid: str | UUID) -> bool:
        """Like `Manager.cancel_instance`."""
        return self.call(self.manager.cancel_instance(uuid))

    def retry_instances(self, query: Query) -> list[BlockingInstance[Any]]:
        """Like `Manager.retry_instances`."""
        return [BlockingInstance(self, one) for one in self.call(self.manager.retry_instances(query))]

    def retry_instance(self, uuid: str | UUID) -> BlockingInstance[Any]:
        """Like `Manager.retry_instance`."""
        return BlockingInstance(self, self.call(self.manager.retry_instance(uuid)))

    def clear_instances(self, filter: Filter | None = None) -> int:
        """Like `Manager.clear_instances`."""
        return self.call(self.manager.clear_instances(filter))

    def clear_history(self, filter: Filter | None = None) -> int:
        """Like `Manager.clear_history`."""
        return self.call(self.manager.clear_history(filter))

    def clear_logs(self, filter: Filter | None = None) -> int:
        """Like `Manager.clear_logs`."""
        return self.call(self.manager.clear_logs(filter))

    def clear(self) -> None:
        """Like `Manager.clear`."""
        self.call(self.manager.clear())

    # -- waiting -----------------------------------------------------------------------------------------------------

    def wait(self, query: Query | None = None, timeout: Duration | None = None) -> None:
        """Like `Manager.wait`."""
        self.call_long(self.manager.wait(query, timeout))

    def watch(self, query: Query | None = None) -> Iterator[Event]:
        """Like `Manager.watch`; the events of one stream, one by one."""
        stream = self.manager.watch(query)
        try:
            while True:
                yield self.call_long(_next(stream))
        finally:
            self.call(_close(stream))


async def _soon(act: Any) -> Any:
    return act()


async def _next(stream: Any) -> Event:
    event: Event = await anext(stream)
    return event


async def _close(stream: Any) -> None:
    await stream.aclose()
