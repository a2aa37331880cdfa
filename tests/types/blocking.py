"""The blocking twins, for Flask, Django and scripts."""

from datetime import datetime
from typing import Any, assert_type

from peerjob import (
    Backfill,
    BlockingInstance,
    BlockingManager,
    BlockingSchedule,
    Event,
    FireEntry,
    Instance,
    Job,
    Leader,
    Node,
    Query,
    ResultPage,
    State,
    job,
)


@job
def add(x: int, y: int) -> int:
    return x + y


@job
async def shout(text: str) -> str:
    return text.upper()


manager = Node("redis://localhost", jobs=[add, shout], workers=0).blocking()


def view() -> int:
    one = manager.schedule(add, 1, 2)
    assert_type(one, BlockingInstance[int])
    assert_type(one.result(timeout=5), int)
    assert_type(manager.schedule(shout, "hey").result(), str)
    assert_type(manager.schedule(add.call(1, 2)), BlockingInstance[int])
    assert_type(manager.schedule("sum", "1", "2"), BlockingInstance[Any])
    assert_type(manager.schedule_many([add.call(1, 2)]), list[BlockingInstance[int]])
    assert_type(one.wait("1s"), BlockingInstance[int])
    assert_type(one.refresh().state, State)
    assert_type(one.retry(), BlockingInstance[int])
    assert_type(one.run_now(), bool)
    assert_type(one.instance, Instance[int])
    assert_type(manager.lookup_instance(one.uuid), BlockingInstance[Any])
    assert_type(manager.lookup_instance(one.id, add).result(), int)
    assert_type(manager.lookup_instances(Query(kind="sum")), ResultPage[BlockingInstance[Any]])
    assert_type([found.id for found in manager.iter_instances()], list[str])
    assert_type(manager.cancel_instances(Query.all()), list[BlockingInstance[Any]])
    assert_type(next(manager.watch()), Event)
    assert_type(manager.jobs(), list[Job[..., Any, Any]])
    return one.result()


def script() -> None:
    with Node(jobs=[add]).blocking() as blocking:
        assert_type(blocking, BlockingManager)
        assert_type(blocking.schedule(add, 1, 2).result(), int)


def recurring(start: datetime, end: datetime) -> None:
    schedule = manager.add_schedule(add.with_options(cron="@daily"), 1, y=2)
    assert_type(schedule, BlockingSchedule)
    assert_type(manager.add_schedule(add.with_options(every=5).call(1, 2)), BlockingSchedule)
    assert_type(manager.schedules(), list[BlockingSchedule])
    assert_type(manager.lookup_schedule("add").pause("why").resume(), BlockingSchedule)
    assert_type(schedule.next_at, datetime | None)
    assert_type(schedule.trigger(), BlockingInstance[Any] | None)
    assert_type(schedule.backfill(start, end), Backfill)
    assert_type(schedule.fires(after=start), ResultPage[FireEntry])
    assert_type(manager.next_fires(schedule, 3), list[datetime])
    assert_type(manager.remove_schedule("add"), bool)
    assert_type(manager.leader(), Leader | None)


def mistakes() -> None:
    manager.schedule(add, "1", 2)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    manager.schedule(add, 1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    text: str = manager.schedule(add, 1, 2).result()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    print(text)
    manager.cancel_instances()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    manager.add_schedule(add.with_options(cron="@daily"), "1", 2)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    manager.pause_schedule(add)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
